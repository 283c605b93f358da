package matrixtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
)

// Store is what the engine asks of a queue.
type Store interface {
	matrix.Queue
	matrix.Ledger
	Close() error
}

// Queue checks that an implementation keeps the promises of matrix.Queue and
// matrix.Ledger. open opens the queue in dir; it is called again on the same
// dir, after a Close and before one, when durable is true.
func Queue(t *testing.T, durable bool, open func(dir string) (Store, error)) {
	for _, c := range []struct {
		name    string
		durable bool // needs to be opened again
		f       func(t *testing.T, s *suite)
	}{
		{"seeding what is known changes nothing", false, seedTwice},
		{"seeds and checkpoints go together", true, seedCheckpoints},
		{"one consumer gets a task", false, oneConsumer},
		{"a hop appends and moves", false, appends},
		{"an error brings the message back", false, comesBack},
		{"attempts are counted", false, attempts},
		{"attempts survive", true, attemptsSurvive},
		{"a retry waits its delay", false, delay},
		{"a stop ends the consume and spends nothing", false, stops},
		{"priority, then arrival", false, priority},
		{"no more handlers than asked for", false, bounded},
		{"cancel returns nil and loses nothing", false, cancelled},
		{"who is to stop lets handlers land", false, lands},
		{"steps are committed when consume returns", false, committed},
		{"close while consuming", true, closing},
		{"two open one queue", true, twoOpen},
		{"what is taken nobody else gets", false, takes},
		{"a queue calls when there is more to take", false, calls},
		{"a step is committed once", true, commits},
		{"a claim takes what waits at that hop", true, claims},
		{"what is taken and never returned", false, neverReturned},
		{"a room is shared", false, shares},
		{"sizes", true, sizes},
		{"collect settles for good", true, collects},
		{"a failed collect settles nothing", false, collectFails},
		{"who is to stop collects what waits", false, collectDrains},
		{"what has failed comes back", true, revives},
		{"what has failed comes back, again and again", true, revivesMany},
		{"children begin with a step, or neither", true, begets},
		{"a parent waits and is made ready", true, waits},
		{"a parent that comes back finds its children", true, begetsAgain},
		{"a parent ends as its child does", true, endsMeanwhile},
		{"a forest", true, forest},
		{"peek takes nothing", false, peeks},
		{"a bad step stops the consume", false, badStep},
		{"a slow handler holds up nobody", false, slowHandler},
		{"a storm", true, storm},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.durable && !durable {
				t.Skip("nothing survives Close in this queue")
			}
			s := &suite{T: t, dir: t.TempDir(), opener: open}
			s.reopen()
			t.Cleanup(func() { s.q.Close() })
			c.f(t, s)
		})
	}
}

type suite struct {
	*testing.T
	dir    string
	opener func(dir string) (Store, error)
	q      Store
	mu     sync.Mutex // for the test
}

func (s *suite) reopen() {
	s.Helper()
	if s.q != nil {
		if err := s.q.Close(); err != nil {
			s.Fatalf("close: %v", err)
		}
	}
	q, err := s.opener(s.dir)
	if err != nil {
		s.Fatalf("open: %v", err)
	}
	s.q = q
}

func (s *suite) seed(role string, ids ...string) {
	s.Helper()
	seeds := make([]matrix.Seed, len(ids))
	for i, id := range ids {
		seeds[i] = matrix.Seed{Task: id, Row: int64(i), Role: role, Record: []byte(id + "/0")}
	}
	n, err := s.q.Seed(context.Background(), seeds, nil)
	if err != nil || n != len(ids) {
		s.Fatalf("seed %v: added %d, %v; want %d, no error", ids, n, err, len(ids))
	}
}

// consume runs h on role until it has returned true, and waits for the end.
func (s *suite) consume(role string, n int, h func(m *matrix.Message) (step matrix.Step, last bool, err error)) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var ended atomic.Bool
	err := matrix.Consume(ctx, s.q, role, matrix.Slots(n), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
		step, last, err := h(m)
		if last {
			ended.Store(true)
			cancel()
		}
		return step, err
	})
	if err != nil {
		s.Fatalf("consume %s: %v", role, err)
	}
	if !ended.Load() {
		s.Fatalf("consume %s: nothing came for a minute", role)
	}
}

func (s *suite) log(m *matrix.Message) string {
	s.Helper()
	rs, err := m.Log(context.Background(), 0)
	if err != nil {
		s.Errorf("log of %s: %v", m.Task, err)
	}
	if n := len(rs) - 1; m.Hop != n || m.Sum != matrix.Sum(rs[n]) {
		s.Errorf("%s is at hop %d with the sum %x; want %d and %x, those of the newest of %q", m.Task, m.Hop, m.Sum, n, matrix.Sum(rs[n]), rs)
	}
	for from := range len(rs) + 1 {
		rest, err := m.Log(context.Background(), from)
		if err != nil || len(rest) != len(rs)-from || len(rest) > 0 && !bytes.Equal(rest[0], rs[from]) {
			s.Errorf("log of %s from record %d on: got %q, %v; want the end of %q", m.Task, from, rest, err, rs)
		}
	}
	return string(bytes.Join(rs, []byte(" ")))
}

func seedTwice(t *testing.T, s *suite) {
	ctx := context.Background()
	s.seed("a", "x", "y")
	for _, seeds := range [][]matrix.Seed{
		{{Task: "x", Role: "b", Record: []byte("other")}},
		{{Task: "y", Role: "b"}, {Task: "z", Role: "b", Record: []byte("z/0")}, {Task: "z", Role: "b", Record: []byte("again")}},
	} {
		if _, err := s.q.Seed(ctx, seeds, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.q.Counts().Live; got != 3 {
		t.Errorf("live: got %d, want 3", got)
	}
	if a, b := s.q.Counts().Waiting["a"], s.q.Counts().Waiting["b"]; a != 2 || b != 1 {
		t.Errorf("waiting: got %d for a and %d for b, want 2 and 1", a, b)
	}
	m, ok, err := s.q.Peek(context.Background(), "z")
	if err != nil || !ok || s.log(m) != "z/0" {
		t.Errorf("peek z: got %v, %v, %v; want the first seed's record", m, ok, err)
	}
	// A settled task is known too.
	s.settle("a", matrix.Done)
	if n, err := s.q.Seed(ctx, []matrix.Seed{{Task: "x", Role: "a"}}, nil); n != 0 || err != nil {
		t.Errorf("seed of a settled task: added %d, %v; want 0", n, err)
	}
}

// settle ends all that waits for role.
func (s *suite) settle(role string, status matrix.Status) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	left := s.q.Counts().Waiting[role]
	err := s.q.Collect(ctx, role, 100, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		fates := make([]matrix.Fate, len(ms))
		for i := range ms {
			fates[i] = matrix.Fate{Status: status, Line: i}
		}
		if left -= len(ms); left <= 0 {
			cancel()
		}
		return matrix.Settlement{Fates: fates}, nil
	})
	if err != nil {
		s.Fatalf("collect %s: %v", role, err)
	}
}

func seedCheckpoints(t *testing.T, s *suite) {
	checkpoints := map[string][]byte{"feed": []byte("17"), "empty": {}}
	if _, err := s.q.Seed(context.Background(), []matrix.Seed{{Task: "x", Row: 7, Role: "a"}}, checkpoints); err != nil {
		t.Fatal(err)
	}
	if n, err := s.q.Seed(context.Background(), nil, map[string][]byte{"alone": []byte("2")}); n != 0 || err != nil {
		t.Errorf("a checkpoint without seeds: got %d, %v", n, err)
	}
	s.reopen()
	for name, want := range map[string]string{"feed": "17", "empty": "", "never": "", "alone": "2"} {
		got, err := s.q.Checkpoint(context.Background(), name)
		if err != nil || string(got) != want {
			t.Errorf("checkpoint %s: got %q, %v; want %q", name, got, err, want)
		}
	}
	fates, err := s.q.Lookup(context.Background(), "y", "x", "", "x")
	x := matrix.Fate{Status: matrix.Pending, Row: 7, Part: -1}
	if want := []matrix.Fate{{}, x, {}, x}; err != nil || !slices.Equal(fates, want) {
		t.Errorf("lookup: got %+v, %v; want %+v", fates, err, want)
	}
	if fates, err := s.q.Lookup(context.Background()); len(fates) != 0 || err != nil {
		t.Errorf("lookup of nothing: got %+v, %v", fates, err)
	}
}

func oneConsumer(t *testing.T, s *suite) {
	const n = 500
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("t%03d", i)
	}
	s.seed("a", ids...)
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			err := matrix.Consume(ctx, s.q, "a", matrix.Slots(5), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
				mu.Lock()
				defer mu.Unlock()
				if seen[m.Task]++; len(seen) == n {
					cancel()
				}
				return matrix.Step{Role: "b"}, nil
			})
			if err != nil {
				t.Errorf("consume: %v", err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if seen[id] != 1 {
			t.Errorf("%s was delivered %d times, want once", id, seen[id])
		}
	}
}

func appends(t *testing.T, s *suite) {
	s.seed("a", "x")
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if got := s.log(m); got != "x/0" || m.Task != "x" || m.Hop != 0 || m.Role != "a" {
			t.Errorf("first delivery: got %+v with log %q", m, got)
		}
		return matrix.Step{Role: "b", Record: []byte("x/1")}, true, nil
	})
	s.consume("b", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if got := s.log(m); got != "x/0 x/1" || m.Hop != 1 || m.Role != "b" {
			t.Errorf("second delivery: got %+v with log %q", m, got)
		}
		return matrix.Step{Role: "b", Record: []byte("x/2")}, true, nil
	})
	s.consume("b", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if got := s.log(m); got != "x/0 x/1 x/2" {
			t.Errorf("third delivery: got log %q", got)
		}
		return matrix.Step{Role: "c"}, true, nil
	})
}

func comesBack(t *testing.T, s *suite) {
	s.seed("a", "x")
	n := 0
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if n++; n <= 2 {
			return matrix.Step{Role: "b", Record: []byte("not committed")}, false, &matrix.RetryError{Err: errors.New("later")}
		}
		if got := s.log(m); got != "x/0" || m.Hop != 0 {
			t.Errorf("after an error: got log %q at hop %d; want the seed alone", got, m.Hop)
		}
		return matrix.Step{Role: "b"}, true, nil
	})
}

func attempts(t *testing.T, s *suite) {
	s.seed("a", "x")
	var got []int
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		got = append(got, m.Attempt)
		switch len(got) {
		case 1:
			return matrix.Step{}, false, errors.New("any other error spends one")
		case 2:
			return matrix.Step{}, false, &matrix.RetryError{Err: errors.New("so does this")}
		case 3:
			return matrix.Step{}, false, &matrix.RetryError{Err: errors.New("this does not"), Free: true}
		}
		return matrix.Step{Role: "b"}, true, nil
	})
	s.consume("b", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		got = append(got, m.Attempt) // a hop begins anew
		return matrix.Step{Role: "c"}, true, nil
	})
	if want := "[0 1 2 2 0]"; fmt.Sprint(got) != want {
		t.Errorf("attempts: got %v, want %v", got, want)
	}
}

func attemptsSurvive(t *testing.T, s *suite) {
	s.seed("a", "x")
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		return matrix.Step{}, true, &matrix.RetryError{Err: errors.New("once")}
	})
	s.reopen()
	if m, ok, err := s.q.Peek(context.Background(), "x"); err != nil || !ok || m.Attempt != 1 {
		t.Errorf("peek after a reopen: got %+v, %v, %v; want 1 attempt", m, ok, err)
	}
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if m.Attempt != 1 {
			t.Errorf("attempts after a reopen: got %d, want 1", m.Attempt)
		}
		return matrix.Step{Role: "b"}, true, nil
	})
	s.reopen()
	s.consume("b", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if m.Attempt != 0 {
			t.Errorf("attempts at the next hop: got %d, want 0", m.Attempt)
		}
		return matrix.Step{Role: "c"}, true, nil
	})
}

func delay(t *testing.T, s *suite) {
	s.seed("a", "slow", "quick")
	const wait = 50 * time.Millisecond
	var since time.Time
	var order []string
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if m.Task == "slow" && since.IsZero() {
			since = time.Now()
			return matrix.Step{}, false, &matrix.RetryError{Err: errors.New("later"), After: wait}
		}
		order = append(order, m.Task)
		if m.Task == "slow" {
			if d := time.Since(since); d < wait || m.Delayed < wait {
				t.Errorf("came back after %v, delayed %v; want at least %v", d, m.Delayed, wait)
			}
		}
		return matrix.Step{Role: "b"}, len(order) == 2, nil
	})
	if fmt.Sprint(order) != "[quick slow]" {
		t.Errorf("order: got %v; a delayed message must not hold up others", order)
	}
}

func stops(t *testing.T, s *suite) {
	s.seed("a", "x")
	want := &matrix.StopError{Err: errors.New("wrong key")}
	err := matrix.Consume(context.Background(), s.q, "a", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
		return matrix.Step{}, fmt.Errorf("teacher: %w", want)
	})
	if !errors.Is(err, want) {
		t.Errorf("consume: got %v, want the stop", err)
	}
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if m.Attempt != 0 {
			t.Errorf("attempts after a stop: got %d, want 0", m.Attempt)
		}
		return matrix.Step{Role: "b"}, true, nil
	})
}

func priority(t *testing.T, s *suite) {
	var seeds []matrix.Seed
	for _, x := range []struct {
		id string
		p  int
	}{{"low", -3}, {"mid1", 0}, {"high1", 9}, {"mid2", 0}, {"high2", 9}} {
		seeds = append(seeds, matrix.Seed{Task: x.id, Role: "a", Priority: x.p})
	}
	if _, err := s.q.Seed(context.Background(), seeds, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		got = append(got, m.Task)
		return matrix.Step{Role: "b"}, len(got) == 5, nil
	})
	if want := "[high1 high2 mid1 mid2 low]"; fmt.Sprint(got) != want {
		t.Errorf("order: got %v, want %v", got, want)
	}
}

func bounded(t *testing.T, s *suite) {
	for i := range 60 {
		s.seed("a", fmt.Sprint("t", i))
	}
	const n = 7
	var now, most, all atomic.Int64
	full := make(chan struct{})
	s.consume("a", n, func(m *matrix.Message) (matrix.Step, bool, error) {
		k := now.Add(1)
		defer now.Add(-1)
		for {
			old := most.Load()
			if k <= old || most.CompareAndSwap(old, k) {
				break
			}
		}
		if all.Add(1) == n {
			close(full)
		}
		<-full // the first n stand here together
		return matrix.Step{Role: "b"}, all.Load() == 60, nil
	})
	if got := most.Load(); got != n {
		t.Errorf("handlers at once: got %d, want %d", got, n)
	}
}

func cancelled(t *testing.T, s *suite) {
	s.seed("a", "x", "y")
	ctx, cancel := context.WithCancel(context.Background())
	err := matrix.Consume(ctx, s.q, "a", matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		cancel()
		<-ctx.Done()
		return matrix.Step{}, ctx.Err()
	})
	if err != nil {
		t.Errorf("consume: got %v, want nil", err)
	}
	if got := s.q.Counts().Waiting["a"]; got != 2 {
		t.Errorf("waiting after a cancel: got %d, want 2", got)
	}
	if err := matrix.Consume(ctx, s.q, "a", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
		t.Error("a handler ran under a context that was done")
		return matrix.Step{Role: "b"}, nil
	}); err != nil {
		t.Errorf("consume: got %v, want nil", err)
	}
}

// lands: the end of Stopping ends the taking, and not the handlers.
func lands(t *testing.T, s *suite) {
	s.seed("a", "x", "y")
	soft, stop := context.WithCancel(context.Background())
	err := matrix.Consume(matrix.WithStopping(context.Background(), soft), s.q, "a", matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		stop()
		<-matrix.Stopping(ctx).Done()
		if err := ctx.Err(); err != nil {
			t.Errorf("the handler's context: %v; want it to go on", err)
		}
		return matrix.Step{Role: "b", Record: []byte("landed")}, nil
	})
	if err != nil {
		t.Errorf("consume: got %v, want nil", err)
	}
	if a, b := s.q.Counts().Waiting["a"], s.q.Counts().Waiting["b"]; a != 1 || b != 1 {
		t.Errorf("waiting: got %d for a and %d for b, want 1 of each", a, b)
	}
}

func committed(t *testing.T, s *suite) {
	for i := range 100 {
		s.seed("a", fmt.Sprint("t", i))
	}
	var done atomic.Int64
	s.consume("a", 3, func(*matrix.Message) (matrix.Step, bool, error) {
		return matrix.Step{Role: "b", Record: []byte("x")}, done.Add(1) == 50, nil
	})
	if a, b := s.q.Counts().Waiting["a"], s.q.Counts().Waiting["b"]; a+b != 100 || b != int(done.Load()) {
		t.Errorf("waiting: got %d for a and %d for b after %d steps", a, b, done.Load())
	}
}

func closing(t *testing.T, s *suite) {
	s.seed("a", "x", "y")
	ended := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		ended <- matrix.Consume(context.Background(), s.q, "a", matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
			close(entered)
			<-ctx.Done() // what lands during the close still counts
			return matrix.Step{Role: "b", Record: []byte("late")}, nil
		})
	}()
	<-entered
	peeked, _, err := s.q.Peek(context.Background(), "y")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("consume: got %v, want %v", err, matrix.ErrClosed)
	}
	for what, read := range map[string]func(ctx context.Context) error{
		"lookup":     func(ctx context.Context) error { _, err := s.q.Lookup(ctx, "y"); return err },
		"peek":       func(ctx context.Context) error { _, _, err := s.q.Peek(ctx, "y"); return err },
		"log":        func(ctx context.Context) error { _, err := peeked.Log(ctx, 0); return err },
		"checkpoint": func(ctx context.Context) error { _, err := s.q.Checkpoint(ctx, "feed"); return err },
		"walk": func(ctx context.Context) error {
			return s.q.Walk(ctx, func(string, matrix.Fate) error { return nil })
		},
	} {
		if err := read(context.Background()); !errors.Is(err, matrix.ErrClosed) {
			t.Errorf("%s: got %v, want %v", what, err, matrix.ErrClosed)
		}
	}
	if _, err := s.q.Seed(context.Background(), []matrix.Seed{{Task: "z", Role: "a"}}, nil); !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("seed: got %v, want %v", err, matrix.ErrClosed)
	}
	if err := matrix.Consume(context.Background(), s.q, "a", matrix.Slots(1), nil); !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("consume: got %v, want %v", err, matrix.ErrClosed)
	}
	s.reopen()
	m, ok, err := s.q.Peek(context.Background(), "x")
	if err != nil || !ok || m.Role != "b" || s.log(m) != "x/0 late" {
		t.Errorf("x after the close: got %+v, %v, %v; want it at b", m, ok, err)
	}
	if m, ok, err := s.q.Peek(context.Background(), "y"); err != nil || !ok || m.Role != "a" {
		t.Errorf("y after the close: got %+v, %v, %v; want it at a", m, ok, err)
	}
}

// twoOpen: who opens a queue that another has open is refused, or from then on the
// other commits nothing.
func twoOpen(t *testing.T, s *suite) {
	s.seed("a", "x", "y")
	x := s.take("a", 1, nil, "x")[0]
	second, err := s.opener(s.dir)
	if err != nil {
		s.commit(x, matrix.Step{Role: "b", Record: []byte("x/1")})
		s.seed("a", "z")
		s.reopen()
		s.at("x", "b", "x/0 x/1")
		s.at("z", "a", "z/0")
		return
	}
	first := s.q
	s.q = second
	ts := s.take("a", 2, nil, "x", "y") // what the first has in hand is nobody's
	if err := errors.Join(x.Commit(matrix.Step{Role: "c", Record: []byte("late")}, func() { t.Error("the first says that its step is durable") }), first.Flush(t.Context())); err == nil {
		t.Error("the first goes on beside the second")
	}
	if n, err := first.Seed(t.Context(), []matrix.Seed{{Task: "z", Role: "c"}}, nil); err == nil {
		t.Errorf("the first seeds %d tasks beside the second", n)
	}
	<-first.Done()
	if err := first.Close(); err == nil {
		t.Error("the first closes as if nothing were")
	}
	ts[0].Return(nil)
	s.commit(ts[1], matrix.Step{Role: "b", Record: []byte("y/1")})
	s.reopen()
	s.at("x", "a", "x/0")
	s.at("y", "b", "y/0 y/1")
	s.fates("z", "")
}

func sizes(t *testing.T, s *suite) {
	records := map[string][]byte{}
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 255, 256, 257, 64 << 10, 8 << 20} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		id := fmt.Sprint("size", n)
		records[id] = b
		if _, err := s.q.Seed(context.Background(), []matrix.Seed{{Task: id, Role: "a", Record: bytes.Clone(b)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var k atomic.Int64
	s.consume("a", 3, func(m *matrix.Message) (matrix.Step, bool, error) {
		return matrix.Step{Role: "b", Record: bytes.Clone(records[m.Task])}, int(k.Add(1)) == len(records), nil
	})
	s.reopen()
	for id, b := range records {
		m, ok, err := s.q.Peek(context.Background(), id)
		if err != nil || !ok {
			t.Fatalf("peek %s: %v, %v", id, ok, err)
		}
		rs, err := m.Log(context.Background(), 0)
		if err != nil || len(rs) != 2 || !bytes.Equal(rs[0], b) || !bytes.Equal(rs[1], b) {
			t.Errorf("%s: log of %d records, %v; want the same record twice", id, len(rs), err)
		}
	}
}

func badStep(t *testing.T, s *suite) {
	s.seed("a", "x")
	err := matrix.Consume(context.Background(), s.q, "a", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
		return matrix.Step{}, nil
	})
	if err == nil {
		t.Error("a step to no role was taken")
	}
	if n := s.q.Counts().Waiting["a"]; n != 1 {
		t.Errorf("waiting: got %d, want 1", n)
	}
}

// slowHandler: what one handler did is let go while another is still busy.
func slowHandler(t *testing.T, s *suite) {
	s.seed("a", "quick", "slow")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	arrived := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := matrix.Consume(ctx, s.q, "a", matrix.Slots(1), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
			if m.Task == "slow" {
				select {
				case <-arrived:
				case <-ctx.Done():
					t.Error("the first step was held up by the second handler")
				}
				cancel()
			}
			return matrix.Step{Role: "b"}, nil
		})
		if err != nil {
			t.Errorf("consume: %v", err)
		}
	})
	wg.Go(func() {
		err := matrix.Consume(ctx, s.q, "b", matrix.Slots(1), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
			if m.Task == "quick" {
				close(arrived)
			}
			return matrix.Step{Role: "c"}, nil
		})
		if err != nil {
			t.Errorf("consume: %v", err)
		}
	})
	wg.Wait()
}
