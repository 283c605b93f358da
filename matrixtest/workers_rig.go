package matrixtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
	"matrix/cluster"
)

type clusterSuite struct {
	*testing.T
	open    func(dir string) (Store, error)
	seed    uint64
	network func(t *testing.T) func(worker string) cluster.Net
	dial    func(worker string) cluster.Net
	faults  *faults
}

// faults are those of a network.
type faults struct {
	mu                  sync.Mutex
	r                   *rand.Rand
	lost, doubled, late float64
	frames              int
	n                   [3]int // lost, doubled, late
	delay               time.Duration
	under               sync.WaitGroup
}

func newFaults(seed uint64) *faults {
	return &faults{r: rand.New(rand.NewPCG(seed, 1))}
}

func (x *faults) set(lost, doubled, late float64, delay time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lost, x.doubled, x.late, x.delay = lost, doubled, late, delay
}

func (x *faults) wait() { x.under.Wait() }

func (x *faults) send(net cluster.Net, address string, frame []byte) error {
	x.mu.Lock()
	n := 1
	x.frames++
	switch p := x.r.Float64(); {
	case p < x.lost:
		n = 0
		x.n[0]++
	case p < x.lost+x.doubled:
		n = 2
		x.n[1]++
	}
	var late []time.Duration
	for range n {
		d := time.Duration(0)
		if x.r.Float64() < x.late {
			d = time.Duration(x.r.Int64N(int64(x.delay)))
			x.n[2]++
		}
		late = append(late, d)
	}
	x.mu.Unlock()
	for _, d := range late {
		if d == 0 {
			_ = net.Send(address, frame)
			continue
		}
		b := append([]byte(nil), frame...)
		x.under.Add(1)
		time.AfterFunc(d, func() {
			defer x.under.Done()
			_ = net.Send(address, b)
		})
	}
	return nil
}

// head is the process with the queue of a shard.
type head struct {
	s     *clusterSuite
	dir   string
	shard int
	fresh bool

	q      Store
	line   *line
	owner  *cluster.Owner
	silent time.Duration
	cancel context.CancelFunc
	stop   context.CancelFunc
	ended  chan error
}

func (s *clusterSuite) head(shard int, silent time.Duration) *head {
	h := &head{s: s, dir: s.TempDir(), shard: shard, fresh: true, silent: silent}
	h.begin()
	s.Cleanup(h.kill)
	return h
}

func (h *head) begin() {
	h.s.Helper()
	var err error
	if h.q, err = h.s.open(h.dir); err != nil {
		h.s.Fatalf("open: %v", err)
	}
	h.line = &line{Net: h.s.dial(""), faults: h.s.faults}
	if h.owner, err = cluster.NewOwner(h.q, cluster.OwnerOptions{Shard: h.shard, Net: h.line, Silent: h.silent, Fresh: h.fresh}); err != nil {
		h.s.Fatal(err)
	}
	h.fresh = false
	ctx, cancel := context.WithCancel(context.Background())
	soft, stop := context.WithCancel(ctx)
	h.cancel, h.stop, h.ended = cancel, stop, make(chan error, 1)
	owner, ended := h.owner, h.ended
	go func() { ended <- owner.Serve(matrix.WithStopping(ctx, soft)) }()
}

// kill ends the process so that nobody hears of it.
func (h *head) kill() {
	if h.q == nil {
		return
	}
	h.line.cut(true)
	h.cancel()
	if err := <-h.ended; err != nil {
		h.s.Errorf("serve: %v", err)
	}
	if err := h.q.Close(); err != nil {
		h.s.Errorf("close: %v", err)
	}
	h.q = nil
}

func (h *head) again() {
	h.s.Helper()
	h.kill()
	h.begin()
}

// seed seeds n tasks for the role r0.
func (h *head) seed(n, bytes int) {
	h.s.Helper()
	seeds := make([]matrix.Seed, n)
	for i := range seeds {
		id := fmt.Sprintf("t%d.%05d", h.shard, i)
		seeds[i] = matrix.Seed{Task: id, Row: int64(i), Role: "r0", Record: chain(nil, id, bytes)}
	}
	if got, err := h.q.Seed(context.Background(), seeds, nil); got != n || err != nil {
		h.s.Fatalf("seed: %d, %v; want %d", got, err, n)
	}
}

// chain makes a record that holds the sum of the one before it.
func chain(before []byte, text string, bytes int) []byte {
	b := binary.BigEndian.AppendUint32(nil, matrix.Sum(before))
	b = append(b, text...)
	if n := bytes - len(b); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	return b
}

// chained says what is wrong with a log.
func chained(log [][]byte, hops int) error {
	if len(log) != hops+1 {
		return fmt.Errorf("a log of %d records, want %d", len(log), hops+1)
	}
	var before []byte
	for i, b := range log {
		if len(b) < 4 || binary.BigEndian.Uint32(b) != matrix.Sum(before) {
			return fmt.Errorf("record %d does not follow the one before it", i)
		}
		before = b
	}
	return nil
}

// worker is a process that acts.
type worker struct {
	s      *clusterSuite
	w      *cluster.Worker
	line   *line
	stop   context.CancelFunc
	cancel context.CancelFunc
	ended  sync.WaitGroup
	acted  atomic.Int64
	missed atomic.Int64 // logs that were not in the cache

	mu    sync.Mutex
	cache map[string]cached
	told  map[string]int // tasks that it was told have ended
}

type cached struct {
	hop int
	sum uint32
	log [][]byte
}

const suiteBeat = 50 * time.Millisecond

func (s *clusterSuite) worker(id string, shards int, slots int, roles ...string) *worker {
	s.Helper()
	w := &worker{s: s, line: &line{Net: s.dial(id), faults: s.faults}, cache: map[string]cached{}, told: map[string]int{}}
	all := map[string]int{}
	for _, role := range roles {
		all[role] = slots
	}
	var err error
	if w.w, err = cluster.NewWorker(cluster.WorkerOptions{ID: id, Net: w.line, Shards: shards, Roles: all, Beat: suiteBeat, Resend: 2 * suiteBeat, Settled: w.settled}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(w.kill)
	return w
}

// settled is told of tasks that have ended.
func (w *worker) settled(tasks []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, task := range tasks {
		w.told[task]++
	}
}

// heard is how often it was told of each task.
func (w *worker) heard() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.told)
}

// consume acts for roles, on q, until it is stopped.
func (w *worker) consume(q matrix.Taker, sem matrix.Semaphore, h matrix.Handler, roles ...string) {
	hard, cancel := context.WithCancel(context.Background())
	ctx, stop := context.WithCancel(hard)
	w.stop, w.cancel = stop, cancel
	for _, role := range roles {
		w.ended.Go(func() {
			err := matrix.Consume(matrix.WithStopping(hard, ctx), q, role, sem, h)
			if err != nil && !errors.Is(err, matrix.ErrClosed) {
				w.s.Errorf("consume %s: %v", role, err)
			}
		})
	}
}

// kill ends the process so that nobody hears of it.
func (w *worker) kill() {
	if w.w == nil {
		return
	}
	w.line.cut(true)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if w.cancel != nil {
		w.cancel()
	}
	_ = w.w.Close(ctx)
	w.ended.Wait()
	if c, ok := w.line.Net.(interface{ Close() }); ok {
		c.Close()
	}
}

// log is a task's log, out of the cache where that has it.
func (w *worker) log(ctx context.Context, m *matrix.Message) ([][]byte, error) {
	w.mu.Lock()
	c, ok := w.cache[m.Task]
	delete(w.cache, m.Task)
	w.mu.Unlock()
	if ok && c.hop == m.Hop && c.sum == m.Sum {
		return c.log, nil
	}
	w.missed.Add(1)
	log, err := m.Log(ctx, 0)
	if err != nil {
		return nil, err
	}
	if err := chained(log, m.Hop); err != nil || matrix.Sum(log[m.Hop]) != m.Sum {
		w.s.Errorf("%s at hop %d with the sum %x: %v", m.Task, m.Hop, m.Sum, err)
	}
	return log, nil
}

// step makes the next record, and sends the task round hops roles of n, and then to
// the sink.
func (w *worker) step(ctx context.Context, m *matrix.Message, hops, bytes int) (matrix.Step, error) {
	log, err := w.log(ctx, m)
	if err != nil {
		return matrix.Step{}, err
	}
	s := matrix.Step{Role: "_sink", Record: chain(log[m.Hop], fmt.Sprint(m.Task, m.Hop+1), bytes)}
	if m.Hop+1 < hops {
		s.Role = fmt.Sprint("r", (m.Hop+1)%3)
	}
	s.Sum = matrix.Sum(s.Record)
	log = append(log[:len(log):len(log)], s.Record)
	w.mu.Lock()
	w.cache[m.Task] = cached{m.Hop + 1, s.Sum, log}
	w.mu.Unlock()
	w.acted.Add(1)
	return s, nil
}

// steps is a handler that makes steps.
func (w *worker) steps(hops, bytes int) matrix.Handler {
	return func(ctx context.Context, m *matrix.Message) (matrix.Step, error) { return w.step(ctx, m, hops, bytes) }
}

// settled waits until n tasks of h have ended, each with so many hops.
func (h *head) settled(n, hops int) {
	h.s.Helper()
	h.settledUntil(n, hops, nil)
}

// settledUntil also ends when that ends, and says how many have settled so far.
func (h *head) settledUntil(n, hops int, until <-chan struct{}) int {
	h.s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if until != nil {
		go func() {
			select {
			case <-until:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	done := func() (k int) {
		_ = h.q.Walk(context.Background(), func(_ string, f matrix.Fate) error {
			if f.Status == matrix.Done {
				k++
			}
			return nil
		})
		return k
	}
	if done() == n {
		return n
	}
	err := h.q.Collect(ctx, "_sink", 100, func(ctx context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		st := matrix.Settlement{Fates: make([]matrix.Fate, len(ms))}
		for i, m := range ms {
			st.Fates[i] = matrix.Fate{Status: matrix.Done, Line: i}
			log, err := m.Log(context.Background(), 0)
			if err != nil {
				return st, err
			}
			if err := chained(log, hops); err != nil {
				h.s.Errorf("%s: %v", m.Task, err)
			}
		}
		st.Then = func() {
			if done() == n {
				cancel()
			}
		}
		return st, nil
	})
	if err != nil {
		h.s.Fatalf("collect: %v", err)
	}
	k := done()
	if k != n && until == nil {
		h.s.Fatalf("after a minute %d of %d tasks have ended; %+v is under way, workers hold %v", k, n, h.q.Counts(), holding(h))
	}
	return k
}

// until waits for something to be so.
func (s *clusterSuite) until(what string, so func() bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("after a minute still not: %s", what)
		}
	}
}

func within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(d, cancel)
	return ctx
}
