package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"matrix"
	"matrix/local"
)

// wire is a network whose other end is the test.
type wire struct {
	sent chan []byte
	mu   sync.Mutex
	to   map[string]func([]byte)
}

func newWire() *wire { return &wire{sent: make(chan []byte, 10_000), to: map[string]func([]byte){}} }

func (w *wire) MaxFrame() int { return 64 << 10 }

func (w *wire) Send(address string, frame []byte) error {
	select {
	case w.sent <- bytes.Clone(frame):
	default: // nobody reads
	}
	return nil
}

func (w *wire) Receive(address string, f func([]byte)) (func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to[address] = f
	return func() {}, nil
}

func (w *wire) come(address string, frame []byte) {
	w.mu.Lock()
	f := w.to[address]
	w.mu.Unlock()
	f(frame)
}

// scripted is a worker whose owner is the test.
type scripted struct {
	*testing.T
	net  *wire
	w    *Worker
	head ownerFrame
}

func script(t *testing.T, o WorkerOptions) *scripted {
	t.Helper()
	s := &scripted{T: t, net: newWire()}
	o.ID, o.Net, o.Shards, o.Roles = "w", s.net, 1, map[string]int{"a": 4}
	var err error
	if s.w, err = NewWorker(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.w.Close(ctx)
	})
	s.head = ownerFrame{version: Version, epoch: 1, incarnation: s.w.incarnation}
	return s
}

// says has the owner send a frame with these items.
func (s *scripted) says(fill func(f *ownerFrame)) []byte {
	s.head.seq++
	f := s.head
	fill(&f)
	b := f.bytes()
	s.net.come("d.w", bytes.Clone(b))
	return b
}

func (s *scripted) take(n int) []matrix.Taken {
	s.Helper()
	ts, err := s.w.Take(s.Context(), "a", 10, nil)
	if err != nil || len(ts) != n {
		s.Fatalf("take: %d tasks, %v; want %d", len(ts), err, n)
	}
	return ts
}

// hears waits for a frame of the worker with what is looked for.
func (s *scripted) hears(what string, is func(f *workerFrame) bool) {
	s.Helper()
	end := time.After(time.Minute)
	for {
		select {
		case b := <-s.net.sent:
			f, err := readWorker(b)
			if err != nil {
				s.Fatalf("a worker says %q: %v", b, err)
			}
			if is(f) {
				return
			}
		case <-end:
			s.Fatalf("after a minute still not: %s", what)
		}
	}
}

func aTask(task string, hop int, serial uint64) delivery {
	m := matrix.Message{Task: task, Role: "a", Hop: hop}
	d := delivery{serial: serial, m: m}
	for i := range hop + 1 {
		d.records = append(d.records, fmt.Append(nil, task, i))
	}
	d.m.Sum = matrix.Sum(d.records[hop])
	return d
}

// aRef names a delivery of aTask("t").
func aRef(hop int, serial uint64) ref {
	return ref{"t", hop, matrix.Sum(fmt.Append(nil, "t", hop)), serial}
}

// The delivery of a task's next hop may come before the acknowledgement of the one
// that led to it, which must not end it then.
func TestNextHopOvertakes(t *testing.T) {
	s := script(t, WorkerOptions{Beat: time.Hour})
	s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 0, 1)} })
	durable := make(chan bool, 2)
	if err := s.take(1)[0].Commit(matrix.Step{Role: "a", Record: []byte("t1")}, func() { durable <- true }); err != nil {
		t.Fatal(err)
	}
	s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 1, 2)} })
	<-durable
	next := s.take(1)[0]
	s.says(func(f *ownerFrame) { f.acks = []ref{aRef(0, 1)} })
	s.says(func(f *ownerFrame) { f.stales = []ref{aRef(0, 1)} })
	select {
	case <-next.Lost():
		t.Error("the claim on hop 1 is lost by what was said of hop 0")
	default:
	}
	if log, err := next.Message().Log(t.Context(), 0); err != nil || len(log) != 2 || string(log[1]) != "t1" || next.Message().Hop != 1 {
		t.Errorf("log at hop 1: %q, %v", log, err)
	}
	if err := next.Commit(matrix.Step{Role: "a", Record: []byte("t2")}, func() { durable <- true }); err != nil {
		t.Errorf("commit of hop 1: %v", err)
	}
	s.says(func(f *ownerFrame) { f.acks = []ref{aRef(1, 2)} })
	<-durable
	if err := s.w.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// A frame that comes twice is one, also when what it brought has ended.
func TestFrameTwice(t *testing.T) {
	s := script(t, WorkerOptions{Beat: time.Hour})
	b := s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 0, 1)} })
	x := s.take(1)[0]
	s.net.come("d.w", bytes.Clone(b))
	s.take(0)
	if err := x.Commit(matrix.Step{Role: "b"}, nil); err != nil {
		t.Fatal(err)
	}
	s.says(func(f *ownerFrame) { f.acks = []ref{aRef(0, 1)} })
	s.net.come("d.w", bytes.Clone(b))
	s.take(0)
	if err := x.Commit(matrix.Step{Role: "b"}, nil); !errors.Is(err, matrix.ErrLost) {
		t.Errorf("a second commit: %v, want ErrLost", err)
	}
}

// What is acknowledged of one delivery of a task is not said of the next one.
func TestDeliveredAgain(t *testing.T) {
	s := script(t, WorkerOptions{Beat: time.Hour})
	s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 0, 1)} })
	s.take(1)[0].Return(errors.New("a fault"))
	s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 0, 2)} }) // its owner took it back, or has heard
	x := s.take(1)[0]
	s.says(func(f *ownerFrame) { f.acks, f.stales = []ref{aRef(0, 1)}, []ref{aRef(0, 1)} })
	select {
	case <-x.Lost():
		t.Error("the claim is lost by what was said of the delivery before")
	default:
	}
	s.says(func(f *ownerFrame) { f.stales = []ref{aRef(0, 2)} })
	select {
	case <-x.Lost():
	default:
		t.Error("the claim is not lost, though the owner says so")
	}
	if _, err := x.Message().Log(t.Context(), 0); !errors.Is(err, matrix.ErrLost) {
		t.Errorf("log of a task that is lost: %v, want ErrLost", err)
	}
}

// An owner of another version refuses a worker, which knows both versions.
func TestVersions(t *testing.T) {
	s := script(t, WorkerOptions{Beat: time.Hour})
	h := ownerFrame{version: Version + 1, epoch: 1, incarnation: s.w.incarnation + 1}
	s.net.come("d.w", append(h.header(nil), "what this version has"...)) // to another one of that name
	h.incarnation = 0
	s.net.come("d.all", append(h.header(nil), "what this version has"...))
	s.take(0)
	ready := make(chan struct{})
	go func() {
		_ = matrix.Consume(t.Context(), s.w, "a", matrix.Slots(1), nil)
		close(ready)
	}()
	h.incarnation = s.w.incarnation
	s.net.come("d.w", append(h.header(nil), "what this version has"...))
	<-ready
	var version *VersionError
	if _, err := s.w.Take(t.Context(), "a", 1, nil); !errors.As(err, &version) || version.Owner != Version+1 || version.Worker != Version {
		t.Errorf("take: %v, want a *VersionError with both versions", err)
	}
	if err := s.w.Flush(t.Context()); err != nil {
		t.Errorf("flush of nothing: %v", err)
	}
	if err := s.w.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// A message asks its owner for records that did not come with it.
func TestFetch(t *testing.T) {
	s := script(t, WorkerOptions{Beat: 40 * time.Millisecond, Resend: 20 * time.Millisecond})
	d := aTask("t", 2, 1)
	all := d.records
	d.from, d.records = 3, nil
	s.says(func(f *ownerFrame) { f.tasks = []delivery{d} })
	m := s.take(1)[0].Message()
	got := make(chan [][]byte, 2)
	for range 2 {
		go func() {
			log, err := m.Log(context.Background(), 1)
			if err != nil {
				t.Error(err)
			}
			got <- log
		}()
	}
	asks := func(f *workerFrame) bool {
		return len(f.fetches) == 1 && f.fetches[0] == fetch{aRef(2, 1), 1}
	}
	s.hears("it asks", asks)
	s.hears("it asks again", asks)
	s.says(func(f *ownerFrame) { f.fetched = []fetched{{fetch{aRef(2, 1), 1}, all[1:]}} })
	for range 2 {
		if log := <-got; len(log) != 2 || !bytes.Equal(log[1], all[2]) {
			t.Errorf("log from 1 on: %q, want %q", log, all[1:])
		}
	}
	if log, err := m.Log(t.Context(), 3); err != nil || len(log) != 0 {
		t.Errorf("log from 3 on: %q, %v; want nothing", log, err)
	}
}

// Whatever comes from outside changes nothing, unless it is a frame.
func TestOwnerDamagedFrames(t *testing.T) {
	q, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	const n = 20
	seeds := make([]matrix.Seed, n)
	for i := range seeds {
		seeds[i] = matrix.Seed{Task: fmt.Sprint("t", i), Role: "a", Record: []byte("seed")}
	}
	if _, err := q.Seed(t.Context(), seeds, nil); err != nil {
		t.Fatal(err)
	}
	net := newWire()
	o, err := NewOwner(q, OwnerOptions{Net: net, Fresh: true, Silent: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	o.ctx, o.ticked = t.Context(), time.Now()
	turn := func() {
		if err := o.turn(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	w := workerFrame{version: Version, worker: "w", incarnation: 1}
	says := func(fill func(f *workerFrame)) []byte {
		w.seq++
		f := w
		fill(&f)
		return f.bytes()
	}
	o.receive(says(func(f *workerFrame) { f.hello, f.places = true, []places{{"a", n, 0}} }))
	turn()
	if len(o.hands) != n {
		t.Fatalf("%d tasks were handed out, want %d", len(o.hands), n)
	}
	w.epoch = o.epoch
	results := says(func(f *workerFrame) {
		for i := range n {
			f.results = append(f.results, result{ref: ref{task: fmt.Sprint("t", i), base: matrix.Sum([]byte("seed"))}, step: matrix.Step{Role: "b", Record: []byte("one")}})
		}
	})
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 2000 {
		b := bytes.Clone(results)
		switch i % 3 {
		case 0:
			b = append(b, kindStep)
		case 1: // within the last item
			b = b[:len(b)-1-r.IntN(8)]
		default:
			b = append(b[:len(b)/2:len(b)/2], 99)
		}
		o.receive(b)
	}
	for range 2000 { // whatever it is
		b := bytes.Clone(results[:len(results)/8])
		for range 1 + r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		_, _ = readWorker(b)
		_, _ = readOwner(b)
	}
	turn()
	if len(o.hands) != n || len(o.landing) != 0 {
		t.Fatalf("%d tasks are in hands and %d steps on their way, want %d and none", len(o.hands), len(o.landing), n)
	}
	o.receive(results)
	turn()
	if len(o.hands) != 0 {
		t.Errorf("%d tasks are in hands, want none", len(o.hands))
	}
	if err := o.end(); err != nil {
		t.Error(err)
	}
	if c := q.Counts(); c.Waiting["b"] != n {
		t.Errorf("%+v, want %d that wait for b", c, n)
	}
}

// What a worker has given back is not claimed for it by a hello that still names it: it
// waits out its delay.
func TestOwnerReturned(t *testing.T) {
	q, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "t", Role: "a", Record: []byte("seed")}}, nil); err != nil {
		t.Fatal(err)
	}
	o, err := NewOwner(q, OwnerOptions{Net: newWire(), Fresh: true, Silent: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	o.ctx, o.ticked = t.Context(), time.Now()
	w := workerFrame{version: Version, worker: "w", incarnation: 1, epoch: o.epoch}
	says := func(fill func(f *workerFrame)) {
		w.seq++
		f := w
		fill(&f)
		o.receive(f.bytes())
		if err := o.turn(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	list := []places{{"a", 1, 0}}
	says(func(f *workerFrame) { f.hello, f.places = true, list })
	if len(o.hands) != 1 {
		t.Fatalf("%d tasks were handed out, want 1", len(o.hands))
	}
	x := ref{"t", 0, matrix.Sum([]byte("seed")), o.hands["t"].serial}
	says(func(f *workerFrame) {
		f.results = []result{{ref: x, failed: true, err: &matrix.RetryError{Err: errors.New("later"), After: time.Hour}}}
	})
	says(func(f *workerFrame) { f.hello, f.places, f.holds = true, list, []hold{{x, true}} })
	if len(o.hands) != 0 || q.Counts().Waiting["a"] != 1 {
		t.Errorf("%d tasks are in hands, and %+v; want none, and one that is delayed", len(o.hands), q.Counts())
	}
	m, ok, err := q.Peek(t.Context(), "t")
	if err != nil || !ok || m.Attempt != 1 {
		t.Errorf("peek: %+v, %v, %v; want one attempt spent", m, ok, err)
	}
	// The same task as one that is acted on, after its owner has lost it, is.
	says(func(f *workerFrame) { f.hello, f.places, f.holds = true, list, []hold{{x, false}} })
	if h := o.hands["t"]; h == nil || h.p != o.peers["w"] {
		t.Errorf("what a worker holds is not its own: %+v", h)
	}
	if err := o.end(); err != nil {
		t.Error(err)
	}
}

// A new owner waits for what workers hold, and not longer than until all that may hold
// something have said hello.
func TestOwnerAwaits(t *testing.T) {
	for _, x := range []struct {
		holders []string
		says    []string // who says hello
		begins  bool
	}{
		{nil, nil, false},
		{nil, []string{"v", "w"}, false},
		{[]string{}, nil, true},
		{[]string{"v", "w"}, []string{"w"}, false},
		{[]string{"v", "w"}, []string{"w", "x"}, false},
		{[]string{"v", "w"}, []string{"w", "x", "v"}, true},
	} {
		t.Run(fmt.Sprint(x.holders, x.says), func(t *testing.T) {
			q, err := local.Open(t.TempDir(), local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "t", Role: "a", Record: []byte("seed")}}, nil); err != nil {
				t.Fatal(err)
			}
			o, err := NewOwner(q, OwnerOptions{Net: newWire(), Silent: time.Hour, Holders: x.holders})
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			o.ctx, o.ticked, o.from = t.Context(), now, now.Add(time.Hour)
			for _, id := range x.says {
				f := workerFrame{version: Version, worker: id, incarnation: 1, seq: 1, hello: true, places: []places{{"a", 1, 0}}}
				o.receive(f.bytes())
			}
			if err := o.turn(now); err != nil {
				t.Fatal(err)
			}
			ready := false
			select {
			case <-o.Ready():
				ready = true
			default:
			}
			if want := x.begins && len(x.says) > 0; ready != x.begins || len(o.hands) == 1 != want {
				t.Errorf("ready: %v, want %v; %d tasks were handed out", ready, x.begins, len(o.hands))
			}
			if err := o.turn(now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			select {
			case <-o.Ready():
			default:
				t.Error("it waits for longer than a worker may be silent")
			}
			if err := o.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A task that failed and is tried again begins at hop 0 once more, upon another record:
// what a worker still has of its first life is not taken for a step of the second.
func TestOwnerTriedAgain(t *testing.T) {
	q, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	seed := func(record string) []matrix.Seed {
		return []matrix.Seed{{Task: "t", Role: "a", Record: []byte(record)}}
	}
	if _, err := q.Seed(t.Context(), seed("first life"), nil); err != nil {
		t.Fatal(err)
	}
	ts, err := q.Take(t.Context(), "a", 1, nil)
	if err != nil || len(ts) != 1 {
		t.Fatalf("take: %d, %v", len(ts), err)
	}
	first := ref{"t", 0, ts[0].Message().Sum, 0}
	if err := ts[0].Commit(matrix.Step{Role: "_sink", Record: []byte("it fails")}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = q.Collect(matrix.WithStopping(t.Context(), ctx), "_sink", 1, func(context.Context, []*matrix.Message) (matrix.Settlement, error) {
		return matrix.Settlement{Fates: []matrix.Fate{{Status: matrix.Failed}}, Then: cancel}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := q.Revive(t.Context(), seed("second life"), nil, nil); err != nil || n != 1 {
		t.Fatalf("revive: %d, %v", n, err)
	}
	o, err := NewOwner(q, OwnerOptions{Net: newWire(), Silent: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	o.ctx, o.ticked = t.Context(), time.Now()
	w := workerFrame{version: Version, worker: "w", incarnation: 1, seq: 1, hello: true, holds: []hold{{first, false}}}
	o.receive(w.bytes())
	if err := o.turn(time.Now()); err != nil || len(o.hands) != 0 {
		t.Errorf("what was held of the first life is held of the second: %v, %v", o.hands, err)
	}
	for _, r := range []result{
		{ref: first, step: matrix.Step{Role: "b", Record: []byte("of the first life")}},
		{ref: first, failed: true, err: errors.New("of the first life")},
	} {
		w = workerFrame{version: Version, worker: "w", incarnation: 1, seq: w.seq + 1, results: []result{r}}
		o.receive(w.bytes())
		if err := o.turn(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.end(); err != nil {
		t.Fatal(err)
	}
	m, ok, err := q.Peek(t.Context(), "t")
	if err != nil || !ok || m.Hop != 0 || m.Role != "a" || m.Attempt != 0 {
		t.Errorf("peek: %+v, %v, %v; want the task as it was when it was tried again", m, ok, err)
	}
}

// A worker that held a task of its first life acts on the second.
func TestTriedAgainAtWorker(t *testing.T) {
	s := script(t, WorkerOptions{})
	s.says(func(f *ownerFrame) { f.tasks = []delivery{aTask("t", 0, 1)} })
	old := s.take(1)[0]
	again := aTask("t", 0, 2)
	again.records[0] = []byte("second life")
	again.m.Sum = matrix.Sum(again.records[0])
	s.says(func(f *ownerFrame) { f.tasks = []delivery{again} })
	if err := old.Commit(matrix.Step{Role: "b", Record: []byte("x")}, nil); err != matrix.ErrLost {
		t.Errorf("a step of the first life: got %v, want ErrLost", err)
	}
	m := s.take(1)[0].Message()
	if log, err := m.Log(t.Context(), 0); err != nil || len(log) != 1 || string(log[0]) != "second life" {
		t.Errorf("the second life: %q, %v", log, err)
	}
}

// A worker of another version is told of the owner's, and changes nothing.
func TestOwnerVersion(t *testing.T) {
	net := newWire()
	o, err := NewOwner(nil, OwnerOptions{Net: net, Shard: 3})
	if err != nil {
		t.Fatal(err)
	}
	f := workerFrame{version: Version + 1, worker: "w", incarnation: 7}
	o.receive(append(f.header(nil), "what this version has"...))
	o.read()
	got, err := readOwner(<-net.sent)
	if err != nil || got.version != Version || got.shard != 3 || got.incarnation != 7 || len(o.peers) != 0 {
		t.Errorf("got %+v, %v; want a frame for w that says the version", got, err)
	}
}

func TestWindow(t *testing.T) {
	var w window
	come := map[uint64]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	top := uint64(0)
	for range 50_000 {
		seq := max(1, top+uint64(r.IntN(40))) - min(top, uint64(r.IntN(60)))
		if r.IntN(5000) == 0 {
			seq += uint64(r.IntN(3 * windowBits))
		}
		seq = max(seq, 1)
		old := seq <= top && top-seq >= windowBits
		if got, want := w.add(seq), !come[seq] && !old; got != want {
			t.Fatalf("frame %d after %d: new is %v, want %v", seq, top, got, want)
		}
		come[seq] = true
		top = max(top, seq)
	}
}

func TestNewWorkerRefuses(t *testing.T) {
	good := WorkerOptions{ID: "w", Net: newWire(), Shards: 1, Roles: map[string]int{"a": 1}}
	for name, change := range map[string]func(o *WorkerOptions){
		"no id":     func(o *WorkerOptions) { o.ID = "" },
		"a bad id":  func(o *WorkerOptions) { o.ID = "a.b" },
		"all":       func(o *WorkerOptions) { o.ID = "all" },
		"no net":    func(o *WorkerOptions) { o.Net = nil },
		"no shards": func(o *WorkerOptions) { o.Shards = 0 },
		"no slots":  func(o *WorkerOptions) { o.Roles = map[string]int{"a": 0} },
		"no name":   func(o *WorkerOptions) { o.Roles = map[string]int{"": 1} },
	} {
		o := good
		change(&o)
		if w, err := NewWorker(o); err == nil {
			t.Errorf("%s: it was made", name)
			_ = w.Close(t.Context())
		}
	}
}
