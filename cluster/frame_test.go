package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"matrix"
)

// bytes writes the frame anew.
func (f *workerFrame) bytes() []byte {
	b := f.header(nil)
	switch {
	case f.hello:
		b = putHello(b, f.places, f.holds)
	case f.placed:
		b = putPlaces(b, f.places)
	}
	for i := range f.results {
		if r := &f.results[i]; r.failed {
			b = putFailure(b, r.ref, r.attempt, r.err)
		} else {
			b = putStep(b, r.ref, &r.step)
		}
	}
	if f.beat {
		b = putBeat(b, f.count, f.hash)
	}
	for _, x := range f.fetches {
		b = putFetch(b, x)
	}
	if f.leave {
		b = append(b, kindLeave)
	}
	return putPieces(b, f.pieces)
}

func (f *ownerFrame) bytes() []byte {
	b := f.header(nil)
	for i := range f.tasks {
		d := &f.tasks[i]
		b = putTask(b, d.serial, &d.m, d.from, d.records)
	}
	for _, x := range f.acks {
		b = putRef(append(b, kindAck), x)
	}
	for _, x := range f.stales {
		b = putRef(append(b, kindStale), x)
	}
	for _, x := range f.fetched {
		b = putFetched(b, x.fetch, x.records)
	}
	if f.who {
		b = append(b, kindWho)
	}
	if f.alive {
		b = putAlive(b, f.stopping, f.waiting)
	}
	if len(f.settled) > 0 {
		b = putSettled(b, f.settled)
	}
	return putPieces(b, f.pieces)
}

func putPieces(b []byte, list []piece) []byte {
	for _, x := range list {
		b = putText(putInt(putInt(putUint(append(b, kindPiece), x.id), x.index), x.count), x.content)
	}
	return b
}

func aWorkerFrame() *workerFrame {
	return &workerFrame{
		version: Version, worker: "w-1", incarnation: 1 << 60, seq: 300, epoch: 1<<60 + 1, seen: 7,
		hello: true, placed: true, places: []places{{"teacher", 12, 3}, {"judge", 1, 0}}, holds: []hold{{ref{"t1", 0, 1 << 31, 0}, false}, {ref{"t2", 300, 1 << 31, 1 << 40}, true}},
		beat: true, count: 2, hash: 1<<63 + 5, leave: true,
		results: []result{
			{ref: ref{"t1", 3, 1 << 31, 9}, step: matrix.Step{Role: "judge", Priority: -3, Record: []byte("record"), Sum: 1 << 31, Children: []matrix.Seed{{Task: "c", Row: -1, Role: "x", Priority: 4, Record: []byte("seed"), Sum: 3}}}},
			{ref: ref{"t2", 0, 1 << 31, 0}, failed: true, attempt: 2},
			{ref: ref{"t3", 1, 1 << 31, 1}, failed: true, err: &matrix.RetryError{Err: errors.New("later"), After: time.Second}},
			{ref: ref{"t4", 1, 1 << 31, 1}, failed: true, err: &matrix.RetryError{Err: errors.New("later"), Free: true}},
			{ref: ref{"t5", 1, 1 << 31, 1}, failed: true, err: &matrix.StopError{Err: errors.New("no key")}},
			{ref: ref{"t6", 1, 1 << 31, 1}, failed: true, err: errors.New("a fault")},
		},
		fetches: []fetch{{ref{"t1", 4, 1 << 31, 5}, 2}},
		pieces:  []piece{{id: 4, index: 1, count: 2, content: []byte("half")}},
	}
}

func anOwnerFrame() *ownerFrame {
	return &ownerFrame{
		version: Version, shard: 3, epoch: 1 << 60, incarnation: 1<<60 + 1, seq: 9,
		tasks: []delivery{
			{serial: 4, m: matrix.Message{Task: "t1", Role: "judge", Priority: -2, Hop: 1, Attempt: 3, Queued: time.Second, Delayed: time.Hour, Sum: 1 << 31}, records: [][]byte{[]byte("seed"), []byte("one")}},
			{serial: 5, m: matrix.Message{Task: "t2", Role: "judge", Hop: 1}, from: 2, records: [][]byte{}},
		},
		acks: []ref{{"t1", 1, 0, 4}}, stales: []ref{{"t2", 0, 7, 0}},
		fetched: []fetched{{fetch: fetch{ref{"t3", 2, 1 << 31, 1}, 1}, records: [][]byte{[]byte("a"), []byte("b")}}},
		who:     true, alive: true, stopping: true, waiting: []string{"judge"}, settled: []string{"t4", "t5/1"},
		pieces: []piece{{id: 4, index: 1, count: 2, content: []byte("half")}},
	}
}

func TestFrames(t *testing.T) {
	w := aWorkerFrame()
	if got, err := readWorker(w.bytes()); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("a worker's frame: got %+v, %v; want %+v", got, err, w)
	}
	o := anOwnerFrame()
	if got, err := readOwner(o.bytes()); err != nil || !reflect.DeepEqual(got, o) {
		t.Errorf("an owner's frame: got %+v, %v; want %+v", got, err, o)
	}
	// What stands before version-specific fields can be read whatever the version.
	w.version, o.version = 9, 9
	if got, err := readWorker(append(w.header(nil), 200)); err != nil || got.version != 9 || got.worker != "w-1" || got.incarnation != w.incarnation || got.results != nil {
		t.Errorf("a worker's frame of another version: got %+v, %v", got, err)
	}
	if got, err := readOwner(append(o.header(nil), 200)); err != nil || got.version != 9 || got.incarnation != o.incarnation {
		t.Errorf("an owner's frame of another version: got %+v, %v", got, err)
	}
}

// An item that is cut short, or has something behind it, is none.
func TestFramesCut(t *testing.T) {
	head := &workerFrame{version: Version, worker: "w"}
	w, o := aWorkerFrame(), anOwnerFrame()
	one := *head
	for name, item := range map[string][]byte{
		"hello":   putHello(nil, w.places, w.holds),
		"places":  putPlaces(nil, w.places),
		"step":    putStep(nil, w.results[0].ref, &w.results[0].step),
		"failure": putFailure(nil, w.results[2].ref, 1, w.results[2].err),
		"beat":    putBeat(nil, w.count, w.hash),
		"fetch":   putFetch(nil, w.fetches[0]),
		"piece":   putPieces(nil, w.pieces),
	} {
		b := append(one.header(nil), item...)
		if _, err := readWorker(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := len(b) - len(item) + 1; n < len(b); n++ {
			if f, err := readWorker(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were read as %+v", name, n, len(b), f)
			}
		}
		if f, err := readWorker(append(b, 99)); err == nil {
			t.Errorf("%s: it was read as %+v with something behind it", name, f)
		}
	}
	top := ownerFrame{version: Version}
	for name, item := range map[string][]byte{
		"task":    putTask(nil, 1, &o.tasks[0].m, 0, o.tasks[0].records),
		"ack":     putRef([]byte{kindAck}, o.acks[0]),
		"records": putFetched(nil, o.fetched[0].fetch, o.fetched[0].records),
		"alive":   putAlive(nil, true, o.waiting),
		"piece":   putPieces(nil, o.pieces),
	} {
		b := append(top.header(nil), item...)
		if _, err := readOwner(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := len(b) - len(item) + 1; n < len(b); n++ {
			if f, err := readOwner(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were read as %+v", name, n, len(b), f)
			}
		}
		if f, err := readOwner(append(b, 99)); err == nil {
			t.Errorf("%s: it was read as %+v with something behind it", name, f)
		}
	}
	for n := range len(head.header(nil)) {
		if _, err := readWorker(head.header(nil)[:n]); err == nil {
			t.Errorf("%d bytes of a header were read", n)
		}
	}
}

// What no queue can take, and what could not have been written, is refused.
func TestFramesRefused(t *testing.T) {
	for name, change := range map[string]func(w *workerFrame){
		"a worker's id":           func(w *workerFrame) { w.worker = "a.b" },
		"the id of all":           func(w *workerFrame) { w.worker = "all" },
		"an empty id":             func(w *workerFrame) { w.worker = "" },
		"a role without a name":   func(w *workerFrame) { w.places[0].role = "" },
		"a role with a long name": func(w *workerFrame) { w.places[0].role = strings.Repeat("x", 256) },
		"a step to no role":       func(w *workerFrame) { w.results[0].step.Role = "" },
		"a priority":              func(w *workerFrame) { w.results[0].step.Priority = 1 << 20 },
		"a child without an id":   func(w *workerFrame) { w.results[0].step.Children[0].Task = "" },
		"a child's role":          func(w *workerFrame) { w.results[0].step.Children[0].Role = "" },
		"a task without an id":    func(w *workerFrame) { w.holds[0].task = "" },
		"a hop":                   func(w *workerFrame) { w.holds[0].hop = 1 << 40 },
		"a hop below 0":           func(w *workerFrame) { w.holds[0].hop = -1 },
		"a piece behind the last": func(w *workerFrame) { w.pieces[0].index = 2 },
		"an empty piece":          func(w *workerFrame) { w.pieces[0].content = nil },
	} {
		w := aWorkerFrame()
		change(w)
		if _, err := readWorker(w.bytes()); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	for name, change := range map[string]func(o *ownerFrame){
		"a record too few":    func(o *ownerFrame) { o.tasks[0].records = o.tasks[0].records[1:] },
		"a record too many":   func(o *ownerFrame) { o.tasks[1].from = 1; o.tasks[1].records = [][]byte{nil, nil} },
		"records of too much": func(o *ownerFrame) { o.fetched[0].from = 9 },
		"a role":              func(o *ownerFrame) { o.waiting[0] = "" },
	} {
		o := anOwnerFrame()
		change(o)
		if _, err := readOwner(o.bytes()); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// An error comes as what it makes of a task.
func TestFailureText(t *testing.T) {
	for _, text := range []string{"", "a fault", strings.Repeat("é", 2000), strings.Repeat("x", maxText-1) + "é", "\xff\xfe"} {
		f := &workerFrame{version: Version, worker: "w", results: []result{{ref: ref{task: "t"}, failed: true, err: fmt.Errorf("role a: %w", &matrix.RetryError{Err: errors.New(text), After: -5})}}}
		got, err := readWorker(f.bytes())
		if err != nil || len(got.results) != 1 {
			t.Errorf("%.20q: %v", text, err)
			continue
		}
		var retry *matrix.RetryError
		if !errors.As(got.results[0].err, &retry) || retry.After != 0 || retry.Free || len(retry.Error()) > maxText {
			t.Errorf("%.20q: got %#v, want a retry without a delay", text, got.results[0].err)
		}
	}
}

func FuzzWorkerFrame(f *testing.F) {
	f.Add(aWorkerFrame().bytes())
	f.Add((&workerFrame{version: Version, worker: "w", placed: true}).bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := readWorker(bytes.Clone(b))
		if err != nil || x.version != Version {
			return
		}
		again, err := readWorker(x.bytes())
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%q written anew is %+v, want %+v", b, again, x)
		}
	})
}

func FuzzOwnerFrame(f *testing.F) {
	f.Add(anOwnerFrame().bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := readOwner(bytes.Clone(b))
		if err != nil || x.version != Version {
			return
		}
		again, err := readOwner(x.bytes())
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%q written anew is %+v, want %+v", b, again, x)
		}
	})
}

// Items of any size come through frames of any size, and what was lost of one when it was
// sent comes when it is sent again.
func TestPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var want [][]byte
	for _, size := range []int{0, 1, 100, 150, 170, 175, 180, 185, 190, 200, 1000, 10_000} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		want = append(want, b)
	}
	var frames [][]byte
	head := &workerFrame{version: Version, worker: "w"}
	out := framer{size: 200, begin: head.header, send: func(b []byte) { frames = append(frames, bytes.Clone(b)) }}
	out.start()
	for i, b := range want {
		out.id = uint64(i)
		start := len(out.b)
		out.b = putStep(out.b, ref{task: "t", hop: i}, &matrix.Step{Role: "a", Record: b})
		out.end(start)
	}
	out.flush()

	var all pieces
	got := map[int][]byte{}
	var take func(f *workerFrame)
	take = func(f *workerFrame) {
		for _, x := range f.results {
			got[x.hop] = x.step.Record
		}
		for _, x := range f.pieces {
			if item := all.add(x, time.Now()); item != nil {
				f, r := &workerFrame{}, &reader{b: item}
				if f.items(r); r.err() != nil {
					t.Fatal(r.err())
				}
				take(f)
			}
		}
	}
	for round := range 2 {
		for i := range frames {
			if round == 1 {
				i = len(frames) - 1 - i // in any order
			}
			if len(frames[i]) > out.size {
				t.Fatalf("a frame of %d bytes, want at most %d", len(frames[i]), out.size)
			}
			if i%2 == round {
				continue // lost
			}
			f, err := readWorker(frames[i])
			if err != nil {
				t.Fatal(err)
			}
			take(f)
		}
	}
	for i, b := range want {
		if !bytes.Equal(got[i], b) {
			t.Errorf("%d bytes: got %d, want them as they were", len(b), len(got[i]))
		}
	}
	all.add(piece{id: 99, count: 2, content: []byte("half")}, time.Now())
	if all.expire(time.Now().Add(time.Hour)); all.bytes != 0 || len(all.items) != 0 {
		t.Errorf("%d bytes of %d items are left", all.bytes, len(all.items))
	}
}
