package matrixtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix"
	"matrix/cluster"
)

// Workers checks that a durable queue, as it is opened in dir and after a Close again,
// keeps its promises where its messages are acted on by workers over a network whose frames are lost,
// doubled and late. dial makes the network of a test, and then a connection to it for
// each process; nil is a Network. The seed of what is random is logged;
// MATRIX_TEST_SEED sets it.
func Workers(t *testing.T, open func(dir string) (Store, error), dial func(t *testing.T) func(worker string) cluster.Net) {
	if dial == nil {
		dial = func(*testing.T) func(string) cluster.Net {
			n := NewNetwork(64 << 10)
			return func(string) cluster.Net { return n }
		}
	}
	for _, c := range []struct {
		name string
		f    func(t *testing.T, s *clusterSuite)
	}{
		{"tasks go through workers", workersAct},
		{"frames are lost, doubled and late", workersStorm},
		{"a result is lost", resultLost},
		{"an acknowledgement is lost", ackLost},
		{"every frame is doubled", workersDoubled},
		{"a result comes after the task waits again", lateResult},
		{"a result comes to the owner's successor", claimAfterRestart},
		{"the owner begins again while workers hold tasks", restartHolding},
		{"the owner begins again and again", restartStorm},
		{"a thousand hellos", helloStorm},
		{"no more on its way than a worker can take", creditBytes},
		{"a worker is drained", workerDrained},
		{"who is to stop lets workers land", ownerStops},
		{"who must end takes back what is not done", ownerEnds},
		{"a worker comes back under its name", sameName},
		{"a worker dies and its tasks wait again", workerDies},
		{"shards share a worker", workersShards},
		{"workers hear of tasks that have ended", workersSettled},
		{"what a handler returns", workersConsume},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if x, err := strconv.ParseUint(os.Getenv("MATRIX_TEST_SEED"), 10, 64); err == nil {
				seed = x
			}
			t.Logf("MATRIX_TEST_SEED=%d", seed)
			s := &clusterSuite{T: t, open: open, seed: seed, network: dial, dial: dial(t), faults: newFaults(seed)}
			t.Cleanup(s.faults.wait)
			c.f(t, s)
		})
	}
}

var suiteRoles = []string{"r0", "r1", "r2"}

const calmSilence = 20 * time.Second // nothing is lost: who is slow is not dead

func workersAct(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(300, 100)
	var all []*worker
	for i := range 3 {
		w := s.worker(fmt.Sprint("w", i), 1, 20, suiteRoles...)
		w.consume(w.w, matrix.Slots(20), w.steps(7, 100), suiteRoles...)
		all = append(all, w)
	}
	h.settled(300, 7)
	acted, missed := int64(0), int64(0)
	for _, w := range all {
		if err := w.w.Close(within(time.Minute)); err != nil {
			t.Errorf("close: %v", err)
		}
		acted, missed = acted+w.acted.Load(), missed+w.missed.Load()
	}
	if acted != 300*7 {
		t.Errorf("%d steps were made, want %d: each once", acted, 300*7)
	}
	t.Logf("%d of %d steps read the whole log", missed, acted)
	h.stop()
	if err := <-h.ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	h.ended <- nil
}

// workersStorm: whatever becomes of frames, and of workers that are cut off or killed,
// each task goes its way once.
func workersStorm(t *testing.T, s *clusterSuite) {
	s.faults.set(0.08, 0.08, 0.15, 120*time.Millisecond)
	h := s.head(0, 400*time.Millisecond)
	const n, hops, slots = 150, 7, 8
	h.seed(n, 200)
	r := rand.New(rand.NewPCG(s.seed, 2))
	var mu sync.Mutex
	draw := func() (p float64, bytes int, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		bytes = 200
		if r.IntN(100) == 0 {
			bytes = 150 << 10 // in pieces
		}
		return r.Float64(), bytes, time.Duration(r.IntN(20)) * time.Millisecond
	}
	begin := func(id string) *worker {
		w := s.worker(id, 1, slots, suiteRoles...)
		w.consume(w.w, matrix.Slots(slots), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
			p, bytes, took := draw()
			select {
			case <-time.After(took):
			case <-ctx.Done():
				return matrix.Step{}, ctx.Err()
			}
			switch {
			case p < 0.05:
				return matrix.Step{}, &matrix.RetryError{Err: errors.New("later"), After: 10 * time.Millisecond, Free: p < 0.03}
			case p < 0.06:
				return matrix.Step{}, errors.New("a fault")
			}
			return w.step(ctx, m, hops, bytes)
		}, suiteRoles...)
		return w
	}
	var workers []*worker
	for i := range 4 {
		workers = append(workers, begin(fmt.Sprint("w", i)))
	}
	here := s.worker("here", 1, 1, "none") // the head acts beside them
	here.consume(h.q, matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		_, bytes, took := draw()
		time.Sleep(took)
		return here.step(ctx, m, hops, bytes)
	}, suiteRoles...)
	over := make(chan struct{})
	var disturb sync.WaitGroup
	cuts, kills := 0, 0
	disturb.Go(func() {
		r := rand.New(rand.NewPCG(s.seed, 3))
		for {
			i := r.IntN(len(workers))
			select {
			case <-over:
				return
			case <-time.After(time.Duration(50+r.IntN(150)) * time.Millisecond):
			}
			if r.IntN(3) > 0 {
				cuts++
				workers[i].line.cut(true)
				line := workers[i].line
				time.AfterFunc(time.Duration(r.IntN(900))*time.Millisecond, func() { line.cut(false) })
				continue
			}
			kills++
			workers[i].kill()
			workers[i] = begin(fmt.Sprint("w", i))
		}
	})
	h.settled(n, hops)
	close(over)
	disturb.Wait()
	here.stop()
	here.ended.Wait()
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	t.Logf("%d frames, of which %d were lost, %d doubled and %d late; workers were cut off %d times and killed %d times", s.faults.frames, s.faults.n[0], s.faults.n[1], s.faults.n[2], cuts, kills)
}

func resultLost(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(1, 100)
	w := s.worker("w", 1, 2, suiteRoles...)
	w.consume(w.w, matrix.Slots(2), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		w.line.mute.Store(true)
		return w.step(ctx, m, 1, 100)
	}, suiteRoles...)
	s.until("the worker has acted", func() bool { return w.acted.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 4*suiteBeat)
	defer cancel()
	if err := w.w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush of a result that is lost: got %v, want the deadline's error", err)
	}
	w.line.mute.Store(false)
	if err := w.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
	h.settled(1, 1)
	if n := w.acted.Load(); n != 1 {
		t.Errorf("the worker acted %d times, want once", n)
	}
}

func ackLost(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(1, 100)
	w := s.worker("w", 1, 2, "r0")
	w.consume(w.w, matrix.Slots(2), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		w.line.deaf.Store(true)
		return w.step(ctx, m, 3, 100)
	}, "r0")
	s.until("the step is committed", func() bool { return h.q.Counts().Waiting["r1"] == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 4*suiteBeat)
	defer cancel()
	if err := w.w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush of a result whose acknowledgement is lost: got %v, want the deadline's error", err)
	}
	w.line.deaf.Store(false)
	if err := w.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
	if n := w.acted.Load(); n != 1 {
		t.Errorf("the worker acted %d times, want once", n)
	}
}

func workersDoubled(t *testing.T, s *clusterSuite) {
	s.faults.set(0, 1, 0.5, 20*time.Millisecond)
	h := s.head(0, calmSilence)
	const n, hops = 60, 5
	h.seed(n, 100)
	w := s.worker("w", 1, 20, suiteRoles...)
	w.consume(w.w, matrix.Slots(20), w.steps(hops, 100), suiteRoles...)
	h.settled(n, hops)
	if got := w.acted.Load(); got != n*hops {
		t.Errorf("%d steps were made, want %d: a frame that comes twice is one", got, n*hops)
	}
}

func lateResult(t *testing.T, s *clusterSuite) {
	h := s.head(0, 300*time.Millisecond)
	h.seed(1, 100)
	a := s.worker("a", 1, 1, "r0")
	acting, act := make(chan struct{}), make(chan struct{})
	a.consume(a.w, matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		close(acting)
		<-act
		return a.step(ctx, m, 1, 100)
	}, "r0")
	<-acting
	a.line.cut(true)
	lost := make(chan error, 1)
	second := make(chan struct{})
	b := s.worker("b", 1, 1, "r0")
	b.consume(b.w, matrix.Slots(1), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		close(second)
		<-ctx.Done()
		lost <- context.Cause(ctx)
		return matrix.Step{}, ctx.Err()
	}, "r0")
	<-second // a's task was given to b
	a.line.cut(false)
	close(act)
	h.settled(1, 1)
	select {
	case err := <-lost:
		if !errors.Is(err, matrix.ErrLost) {
			t.Errorf("b's context ended with %v, want ErrLost", err)
		}
	case <-time.After(time.Minute):
		t.Error("b did not hear that a was first")
	}
	if err := a.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
}

func claimAfterRestart(t *testing.T, s *clusterSuite) {
	h := s.head(0, 300*time.Millisecond)
	const n = 20
	h.seed(n, 100)
	w := s.worker("w", 1, n, "r0")
	var acting sync.WaitGroup
	acting.Add(n)
	act := make(chan struct{})
	w.consume(w.w, matrix.Slots(n), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		acting.Done()
		<-act
		return w.step(ctx, m, 1, 100)
	}, "r0")
	acting.Wait()
	h.kill()
	close(act) // results are made while nobody is there
	s.until("the worker has acted", func() bool { return w.acted.Load() == n })
	h.begin()
	h.settled(n, 1)
	if err := w.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
	if got := w.acted.Load(); got != n {
		t.Errorf("the worker acted %d times, want %d: what was paid is not done again", got, n)
	}
}

func restartHolding(t *testing.T, s *clusterSuite) {
	h := s.head(0, 2*time.Second)
	const n = 20
	h.seed(n, 100)
	w := s.worker("w", 1, n, "r0")
	var acting sync.WaitGroup
	acting.Add(n)
	act := make(chan struct{})
	w.consume(w.w, matrix.Slots(n), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		acting.Done()
		select {
		case <-act:
			return w.step(ctx, m, 1, 100)
		case <-ctx.Done():
			return matrix.Step{}, ctx.Err()
		}
	}, "r0")
	acting.Wait()
	h.again()
	s.until("the owner knows what the worker holds", func() bool {
		all := h.owner.Workers()
		return len(all) == 1 && all[0].Roles["r0"] == n
	})
	close(act)
	h.settled(n, 1)
	if got := w.acted.Load(); got != n {
		t.Errorf("the worker acted %d times, want %d", got, n)
	}
}

func restartStorm(t *testing.T, s *clusterSuite) {
	s.faults.set(0.03, 0.03, 0.1, 50*time.Millisecond)
	h := s.head(0, 300*time.Millisecond)
	const n, hops = 100, 6
	h.seed(n, 100)
	for i := range 3 {
		w := s.worker(fmt.Sprint("w", i), 1, 10, suiteRoles...)
		w.consume(w.w, matrix.Slots(10), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
			return w.step(ctx, m, hops, 100)
		}, suiteRoles...)
	}
	for range 3 {
		half := make(chan struct{})
		timer := time.AfterFunc(500*time.Millisecond, func() { close(half) })
		if h.settledUntil(n, hops, half) == n {
			timer.Stop()
			break
		}
		h.again()
	}
	h.settled(n, hops)
}

func helloStorm(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	const n = 1000
	h.seed(n, 100)
	net := s.dial("") // one connection: it is the owner that is stormed
	var workers []*cluster.Worker
	for i := range n {
		w, err := cluster.NewWorker(cluster.WorkerOptions{ID: fmt.Sprint("w", i), Net: net, Shards: 1, Roles: map[string]int{"r0": 1}, Beat: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
	}
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for _, w := range workers {
			_ = w.Close(ctx)
		}
	}()
	taken := make([]matrix.Taken, n)
	s.until("each worker has one task", func() bool {
		k := 0
		time.Sleep(50 * time.Millisecond) // a look costs something
		for i, w := range workers {
			if taken[i] == nil {
				ts, err := w.Take(t.Context(), "r0", 2, nil)
				if err != nil || len(ts) > 1 {
					t.Fatalf("take: %d tasks, %v; want one", len(ts), err)
				}
				if len(ts) == 1 {
					taken[i] = ts[0]
				}
			}
			if taken[i] != nil {
				k++
			}
		}
		return k == n
	})
	h.again() // all of them say hello at once
	commit := func(x matrix.Taken) {
		log, err := x.Message().Log(t.Context(), 0)
		if err == nil {
			err = x.Commit(matrix.Step{Role: "_sink", Record: chain(log[0], "1", 0)}, nil)
		}
		if err != nil && !errors.Is(err, matrix.ErrLost) {
			t.Errorf("%s: %v", x.Message().Task, err)
		}
	}
	for _, x := range taken {
		commit(x)
	}
	over := make(chan struct{})
	var act sync.WaitGroup
	act.Go(func() { // what was handed out anew, because a hello was late
		for {
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond):
			}
			for _, w := range workers {
				ts, _ := w.Take(t.Context(), "r0", 1, nil)
				for _, x := range ts {
					commit(x)
				}
			}
		}
	})
	defer act.Wait()
	defer close(over)
	h.settled(n, 1)
}

func creditBytes(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	const n, size = 24, 1 << 20
	w := s.worker("w", 1, n, "r0")
	s.until("the owner knows the worker", func() bool { return w.line.came.Load() > 0 && len(h.owner.Workers()) == 1 })
	before := w.line.came.Load()
	w.line.mute.Store(true) // it does not say what has come
	h.seed(n, size)
	var mu sync.Mutex
	var ts []matrix.Taken
	take := func() {
		got, err := w.w.Take(t.Context(), "r0", n, nil)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		ts = append(ts, got...)
		mu.Unlock()
	}
	s.until("the first come", func() bool { take(); return len(ts) >= 15 })
	time.Sleep(4 * suiteBeat) // for those that must not
	take()
	if got := w.line.came.Load() - before; got > 18<<20 {
		t.Errorf("%d MiB came to a worker that is not heard of, want at most 17", got>>20)
	}
	w.line.mute.Store(false)
	s.until("all come", func() bool { take(); return len(ts) == n })
	for _, x := range ts {
		log, err := x.Message().Log(t.Context(), 0)
		if err != nil || len(log) != 1 || len(log[0]) != size {
			t.Fatalf("log: %d records, %v; want one of %d bytes", len(log), err, size)
		}
		if err := x.Commit(matrix.Step{Role: "_sink", Record: chain(log[0], "1", 0)}, nil); err != nil {
			t.Error(err)
		}
	}
	h.settled(n, 1)
}

func workerDrained(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(10, 100)
	w := s.worker("w", 1, 10, "r0")
	var ts []matrix.Taken
	s.until("two are taken", func() bool {
		got, err := w.w.Take(t.Context(), "r0", 2-len(ts), nil)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, got...)
		return len(ts) == 2
	})
	w.w.Drain()
	s.until("what has not begun waits again", func() bool { return h.q.Counts().Waiting["r0"] == 8 && holds(h, "w") == 2 })
	if got, err := w.w.Take(t.Context(), "r0", 5, nil); len(got) != 0 || err != nil {
		t.Errorf("take of a worker that is drained: %d, %v; want nothing", len(got), err)
	}
	log, err := ts[0].Message().Log(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := ts[0].Commit(matrix.Step{Role: "_sink", Record: chain(log[0], "1", 0)}, nil); err != nil {
		t.Error(err)
	}
	ts[1].Return(errors.New("spent"))
	if err := w.w.Close(within(time.Minute)); err != nil {
		t.Errorf("close: %v", err)
	}
	<-w.w.Done()
	if _, err := w.w.Take(t.Context(), "r0", 5, nil); !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("take of a worker that is closed: %v, want ErrClosed", err)
	}
	s.until("the worker has left", func() bool { return len(h.owner.Workers()) == 0 })
	m, ok, err := h.q.Peek(t.Context(), ts[1].Message().Task)
	if err != nil || !ok || m.Attempt != 1 {
		t.Errorf("peek: %+v, %v, %v; want one attempt spent", m, ok, err)
	}
	if n := h.q.Counts().Waiting["r0"]; n != 9 {
		t.Errorf("%d wait, want 9", n)
	}
}

// holding says who holds something.
func holding(h *head) (all []string) {
	for _, x := range h.owner.Workers() {
		if len(x.Roles) > 0 {
			all = append(all, fmt.Sprint(x.Worker, x.Roles))
		}
	}
	return all
}

func holds(h *head, worker string) int {
	for _, x := range h.owner.Workers() {
		if x.Worker == worker {
			n := 0
			for _, k := range x.Roles {
				n += k
			}
			return n
		}
	}
	return 0
}

func ownerStops(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(10, 100)
	w := s.worker("w", 1, 10, "r0")
	var ts []matrix.Taken
	s.until("two are taken", func() bool {
		got, err := w.w.Take(t.Context(), "r0", 2-len(ts), nil)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, got...)
		return len(ts) == 2
	})
	h.stop()
	<-w.w.Stopped()
	for _, x := range ts {
		log, err := x.Message().Log(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Commit(matrix.Step{Role: "_sink", Record: chain(log[0], "1", 0)}, nil); err != nil {
			t.Error(err)
		}
	}
	if err := w.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
	if err := <-h.ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	h.ended <- nil
	if c := h.q.Counts(); c.Waiting["r0"] != 8 || c.Waiting["_sink"] != 2 {
		t.Errorf("got %+v, want 8 that wait and 2 in the sink", c)
	}
}

func ownerEnds(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(10, 100)
	w := s.worker("w", 1, 10, "r0")
	var ts []matrix.Taken
	s.until("two are taken", func() bool {
		got, err := w.w.Take(t.Context(), "r0", 2-len(ts), nil)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, got...)
		return len(ts) == 2
	})
	h.stop()
	<-w.w.Stopped()
	h.cancel()
	if err := <-h.ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if n := h.q.Counts().Waiting["r0"]; n != 10 {
		t.Errorf("%d wait, want all 10", n)
	}
	h.ended <- nil
	h.again() // what the worker does still counts
	for _, x := range ts {
		log, err := x.Message().Log(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Commit(matrix.Step{Role: "_sink", Record: chain(log[0], "1", 0)}, nil); err != nil {
			t.Error(err)
		}
	}
	if err := w.w.Flush(within(time.Minute)); err != nil {
		t.Errorf("flush: %v", err)
	}
	s.until("its steps are committed", func() bool { return h.q.Counts().Waiting["_sink"] == 2 })
}

func sameName(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	const n = 5
	h.seed(n, 100)
	w := s.worker("w", 1, n, "r0")
	s.until("all are handed out", func() bool { return holds(h, "w") == n })
	w.kill()
	again := s.worker("w", 1, n, "r0") // what the other one had it is given at once
	again.consume(again.w, matrix.Slots(n), again.steps(1, 100), "r0")
	h.settled(n, 1)
	if got := again.acted.Load(); got != n {
		t.Errorf("%d steps, want %d", got, n)
	}
}

func workerDies(t *testing.T, s *clusterSuite) {
	h := s.head(0, 300*time.Millisecond)
	const n = 5
	h.seed(n, 100)
	w := s.worker("w", 1, n, "r0")
	s.until("all are handed out", func() bool { return holds(h, "w") == n })
	w.kill()
	s.until("they wait again", func() bool { return holds(h, "w") == 0 && h.q.Counts().Waiting["r0"] == n })
	for _, id := range []string{"t0.00000", "t0.00004"} {
		if m, ok, err := h.q.Peek(t.Context(), id); err != nil || !ok || m.Attempt != 0 {
			t.Errorf("peek %s: %+v, %v, %v; want no attempt spent", id, m, ok, err)
		}
	}
}

// workersSettled: who is there hears of each task that has ended, where no frame is lost,
// once; who comes later does not.
func workersSettled(t *testing.T, s *clusterSuite) {
	h := s.head(0, calmSilence)
	h.seed(1, 100)
	here := []*worker{s.worker("one", 1, 1, "r0"), s.worker("two", 1, 1, "none")}
	s.until("both are known", func() bool { return len(h.owner.Workers()) == 2 })
	want := map[string]int{strings.Repeat("x", 60_000): 1} // in pieces
	for i := range 500 {
		want[fmt.Sprint("t", i)] = 1
	}
	for task := range want {
		h.owner.Settled(task)
	}
	for _, w := range here {
		s.until("all are heard of", func() bool { return len(w.heard()) == len(want) })
		if got := w.heard(); !maps.Equal(got, want) {
			t.Errorf("heard of %d tasks, want each of %d once", len(got), len(want))
		}
	}
	late := s.worker("late", 1, 1, "none")
	s.until("it is known", func() bool { return len(h.owner.Workers()) == 3 })
	h.owner.Settled("last")
	s.until("the last is heard of", func() bool { return late.heard()["last"] == 1 })
	if got := late.heard(); len(got) != 1 {
		t.Errorf("who came late heard of %d tasks, want the last one", len(got))
	}
}

func workersShards(t *testing.T, s *clusterSuite) {
	const shards, n, hops = 4, 40, 5
	var heads []*head
	for k := range shards {
		h := s.head(k, calmSilence)
		heads = append(heads, h)
	}
	heads[1].seed(n, 100) // all of it is in two
	heads[3].seed(n, 100)
	w := s.worker("w", shards, 2, suiteRoles...)
	w.consume(w.w, matrix.Slots(6), w.steps(hops, 100), suiteRoles...)
	one := s.worker("one", shards, 1, suiteRoles...) // fewer slots than shards
	one.consume(one.w, matrix.Slots(1), one.steps(hops, 100), suiteRoles...)
	heads[1].settled(n, hops)
	heads[3].settled(n, hops)
	if got := w.acted.Load() + one.acted.Load(); got != 2*n*hops {
		t.Errorf("%d steps, want %d", got, 2*n*hops)
	}
}

// workersConsume holds a worker against what Consume promises over a queue.
func workersConsume(t *testing.T, s *clusterSuite) {
	for _, c := range []struct {
		name string
		f    func(t *testing.T, s *suite)
	}{
		{"one consumer gets a task", oneConsumer},
		{"a hop appends and moves", appends},
		{"an error brings the message back", comesBack},
		{"attempts are counted", attempts},
		{"a retry waits its delay", delay},
		{"a stop ends the consume and spends nothing", stops},
		{"no more handlers than asked for", bounded},
		{"a room is shared", shares},
		{"a slow handler holds up nobody", slowHandler},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dial := s.network(t) // one for each: all have the same addresses
			x := &suite{T: t, dir: t.TempDir(), opener: func(dir string) (Store, error) { return openRemote(s.open, dir, dial) }}
			x.reopen()
			t.Cleanup(func() { x.q.Close() })
			c.f(t, x)
		})
	}
}

// remote is a queue whose messages are taken by way of a worker.
type remote struct {
	Store
	w     *cluster.Worker
	end   context.CancelFunc
	ended chan error
}

func openRemote(open func(dir string) (Store, error), dir string, dial func(worker string) cluster.Net) (Store, error) {
	q, err := open(dir)
	if err != nil {
		return nil, err
	}
	o, err := cluster.NewOwner(q, cluster.OwnerOptions{Net: dial(""), Fresh: true, Silent: calmSilence})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &remote{Store: q, end: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- o.Serve(ctx) }()
	r.w, err = cluster.NewWorker(cluster.WorkerOptions{ID: "w", Net: dial("w"), Shards: 1, Beat: suiteBeat, Roles: map[string]int{"a": 100, "b": 100, "c": 100}})
	return r, err
}

func (r *remote) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	return r.w.Take(ctx, role, n, ready)
}

func (r *remote) Flush(ctx context.Context) error { return r.w.Flush(ctx) }

func (r *remote) Done() <-chan struct{} { return r.w.Done() }

func (r *remote) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := r.w.Close(ctx)
	r.end()
	return errors.Join(err, <-r.ended, r.Store.Close())
}
