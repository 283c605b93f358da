package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"matrix"
)

// WorkerOptions are the options of NewWorker.
type WorkerOptions struct {
	ID     string // [A-Za-z0-9_-], at most 64; no two workers that live have the same
	Net    Net
	Shards int
	Roles  map[string]int // that it acts for, and how many tasks of each at once

	// Room says for how many more tasks of a role, beyond those that have begun, there
	// is room now; nil: as many as are free of Roles. It must not block.
	Room func(role string) int

	// Settled is told of tasks that have ended, this worker's and others': not of all, where
	// frames are lost. nil for nobody. It must not block.
	Settled func(tasks []string)

	Beat   time.Duration // between two signs of life; 1 s where it is 0
	Resend time.Duration // after how long an unanswered result is sent again; 2 s where it is 0
}

// Worker takes the tasks that the owners of all shards hand out to it: Consume runs on
// it as on a queue. What was done with a task is kept, and sent again, until its owner has
// it; an owner that is gone is waited for.
//
// durable, of a Commit, is called when the owner's answer has come: others may have
// taken by then what the step led to.
type Worker struct {
	o           WorkerOptions
	incarnation uint64
	size        int // of a frame

	wake    chan struct{} // holds one signal
	done    chan struct{}
	stopped chan struct{} // closed when every owner has said that it is stopping
	quit    chan struct{} // ends the goroutine
	gone    chan struct{} // it has ended
	stops   []func()

	mu       sync.Mutex
	err      error // why done is closed
	draining bool
	leaving  bool
	placing  bool // places are to be told
	links    []*link
	roles    map[string]*workerRole
	held     map[string]*task
	changed  chan struct{} // closed, and made anew, as held shrinks; nil while nobody waits

	// Of the goroutine.
	out     framer
	to      *link
	seq     uint64
	frames  []frame
	ticked  time.Time
	beaten  time.Time
	pieceID uint64
}

var _ matrix.Taker = (*Worker)(nil)

type frame struct {
	address string
	b       []byte
}

// link is what a worker knows of the owner of a shard.
type link struct {
	shard    int
	address  string
	epoch    uint64 // 0 until it was heard of
	heard    time.Time
	newest   uint64 // seq that came of it
	seen     window
	seq      uint64 // of the newest frame to it
	stopping bool
	waiting  map[string]bool // roles that more waits for than was handed out
	pieces   pieces

	count  int // held
	hash   uint64
	placed []places // as told last

	hello   bool
	beat    bool
	tell    bool // places
	unseen  int  // bytes that came since the last frame to it
	results []*task
	fetches []*task
}

type workerRole struct {
	name    string
	slots   int
	queue   []*task // highest priority first, in order of arrival within one
	begun   int
	took    time.Duration // a step, about
	waiters []waiter
}

// waiter is to be called unless ctx has ended.
type waiter struct {
	ctx  context.Context
	call func()
}

// States of a task at a worker.
const (
	queued = iota // it waits for a slot
	begun         // it is in a handler's hands
	ended         // its result is on its way
	over          // nothing is known of it any more
)

// task is a task at a worker, at one hop. It is a matrix.Taken.
type task struct {
	w       *Worker
	l       *link
	r       *workerRole
	m       matrix.Message
	epoch   uint64 // that it was delivered in
	serial  uint64
	came    time.Time
	lost    chan struct{}
	alone   [1]matrix.Taken
	state   int
	first   int      // record in records
	records [][]byte // of the log, from first on

	asked   time.Time     // for records that are not there
	answer  chan struct{} // closed as they come; nil while nobody waits for them
	wanted  int           // from there on
	failed  bool
	step    matrix.Step
	err     error
	durable func()
	piece   uint64
	since   time.Time // when its result was sent
	sending bool      // it is in l.results
}

// NewWorker makes a worker, and says hello to the owners of all shards.
func NewWorker(o WorkerOptions) (*Worker, error) {
	switch {
	case !validWorker(o.ID):
		return nil, fmt.Errorf("cluster.NewWorker: %q cannot be the name of a worker: want 1 to %d of A-Z, a-z, 0-9, _ and -, and not \"all\"", o.ID, maxWorker)
	case o.Net == nil || o.Shards < 1:
		return nil, errors.New("cluster.NewWorker: it needs a Net, and one shard or more")
	}
	if o.Beat <= 0 {
		o.Beat = time.Second
	}
	if o.Resend <= 0 {
		o.Resend = 2 * time.Second
	}
	size, err := frameSize(o.Net)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		o: o, incarnation: life(), size: size,
		wake: make(chan struct{}, 1), done: make(chan struct{}), stopped: make(chan struct{}), quit: make(chan struct{}), gone: make(chan struct{}),
		roles: map[string]*workerRole{}, held: map[string]*task{},
	}
	for name, slots := range o.Roles {
		if name == "" || len(name) > 255 || slots < 1 {
			return nil, fmt.Errorf("cluster.NewWorker: role %q with %d slots: want a name of 1 to 255 bytes, and at least one slot", name, slots)
		}
		w.roles[name] = &workerRole{name: name, slots: slots}
	}
	for k := range o.Shards {
		w.links = append(w.links, &link{shard: k, address: ownerAddress(k), hello: true})
	}
	w.out = framer{size: size, begin: w.begin, send: w.keep}
	for _, address := range []string{workerAddress(o.ID), workerAddress("all")} {
		stop, err := o.Net.Receive(address, w.receive)
		if err != nil {
			for _, stop := range w.stops {
				stop()
			}
			return nil, fmt.Errorf("worker %s: %w", o.ID, err)
		}
		w.stops = append(w.stops, stop)
	}
	go w.run()
	return w, nil
}

// Stopped is closed when the owners of all shards have said that they hand out nothing
// any more: the run stops.
func (w *Worker) Stopped() <-chan struct{} { return w.stopped }

// Done implements matrix.Taker.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Take implements matrix.Taker.
func (w *Worker) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	w.mu.Lock()
	if w.err != nil {
		defer w.mu.Unlock()
		return nil, w.err
	}
	r := w.roles[role]
	if r == nil { // nothing will ever come
		w.mu.Unlock()
		return nil, nil
	}
	now := time.Now()
	n = min(n, len(r.queue))
	var ts []matrix.Taken
	for _, t := range r.queue[:n] {
		t.state = begun
		t.lost = make(chan struct{})
		t.m.Queued += now.Sub(t.came)
		t.came = now
		if n == 1 {
			t.alone[0] = t
			ts = t.alone[:]
		} else {
			ts = append(ts, t)
		}
	}
	r.begun += n
	r.queue = append(r.queue[:0], r.queue[n:]...)
	more := len(r.queue) > 0
	if ready != nil && !more {
		kept := r.waiters[:0]
		for _, x := range r.waiters {
			if x.ctx.Err() == nil {
				kept = append(kept, x)
			}
		}
		r.waiters = append(kept, waiter{ctx, ready})
	}
	w.mu.Unlock()
	if ready != nil && more {
		ready()
	}
	return ts, nil
}

// Flush implements matrix.Taker: it waits until all that was committed or returned
// before it has come to its owner.
func (w *Worker) Flush(ctx context.Context) error {
	w.mu.Lock()
	var before []*task
	for _, t := range w.held {
		if t.state == ended {
			before = append(before, t)
		}
	}
	w.mu.Unlock()
	return w.until(ctx, func() bool {
		for len(before) > 0 && before[len(before)-1].state == over {
			before = before[:len(before)-1]
		}
		return len(before) == 0
	})
}

// until waits for something that is so as held shrinks.
func (w *Worker) until(ctx context.Context, so func() bool) error {
	for {
		w.mu.Lock()
		if so() {
			w.mu.Unlock()
			return nil
		}
		if w.err != nil {
			defer w.mu.Unlock()
			return w.err
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Drain ends the taking: nothing new comes, and what has not begun goes back. What has
// begun may be committed.
func (w *Worker) Drain() {
	w.mu.Lock()
	w.drain()
	w.mu.Unlock()
	signal(w.wake)
}

func (w *Worker) drain() {
	if w.draining {
		return
	}
	w.draining, w.placing = true, true
	for _, r := range w.roles {
		for _, t := range r.queue {
			t.end(nil, true)
		}
		r.queue = nil
	}
}

// Close drains the worker, waits until all that it holds has come to its owner or ctx
// ends, and takes its leave: what it still holds then waits again at once. It
// returns ctx's error where that was so.
func (w *Worker) Close(ctx context.Context) error {
	w.Drain()
	err := w.until(ctx, func() bool { return len(w.held) == 0 })
	w.mu.Lock()
	first := !w.leaving
	w.leaving = true
	w.mu.Unlock()
	if first {
		close(w.quit)
	}
	<-w.gone
	if first {
		for _, stop := range w.stops {
			stop()
		}
		w.fail(matrix.ErrClosed)
	}
	if version := (*VersionError)(nil); errors.As(err, &version) || errors.Is(err, matrix.ErrClosed) {
		return nil // it was told before
	}
	return err
}

// fail ends the worker for those who take from it.
func (w *Worker) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.done)
	}
}

// Message implements matrix.Taken.
func (t *task) Message() *matrix.Message { return &t.m }

// Lost implements matrix.Taken.
func (t *task) Lost() <-chan struct{} { return t.lost }

// Commit implements matrix.Taken.
func (t *task) Commit(s matrix.Step, durable func()) error {
	err := s.Check()
	if size := stepSize(&s); err == nil && size > maxItem {
		err = &matrix.StopError{Err: fmt.Errorf("a step has %d bytes; want at most %d", size, maxItem)}
	}
	if err != nil {
		t.Return(nil)
		return err
	}
	if s.Sum == 0 {
		s.Sum = matrix.Sum(s.Record)
	}
	t.w.mu.Lock()
	if t.state != begun {
		t.w.mu.Unlock()
		return matrix.ErrLost
	}
	t.step, t.durable = s, durable
	t.end(nil, false)
	t.w.mu.Unlock()
	signal(t.w.wake)
	return nil
}

func stepSize(s *matrix.Step) int {
	n := 1<<10 + len(s.Role) + len(s.Record)
	for i := range s.Children {
		c := &s.Children[i]
		n += 64 + len(c.Task) + len(c.Role) + len(c.Record)
	}
	return n
}

// Return implements matrix.Taken.
func (t *task) Return(err error) {
	t.w.mu.Lock()
	if t.state == begun {
		t.end(err, true)
	}
	t.w.mu.Unlock()
	signal(t.w.wake)
}

// end notes how a task ended, and has that sent. w.mu is held.
func (t *task) end(err error, failed bool) {
	if t.state == begun {
		t.r.begun--
		t.r.took += (time.Since(t.came) - t.r.took) / 8
	}
	t.state, t.err, t.failed = ended, err, failed
	t.records, t.first = nil, t.m.Hop+1
	t.answered()
	t.send()
}

func (t *task) send() {
	if !t.sending {
		t.sending = true
		t.l.results = append(t.l.results, t)
	}
}

// answered wakes who waits for records. w.mu is held.
func (t *task) answered() {
	if t.answer != nil {
		close(t.answer)
		t.answer = nil
	}
}

// forget ends all that is known of a task. w.mu is held.
func (t *task) forget() {
	w := t.w
	switch t.state {
	case queued:
		for i, x := range t.r.queue {
			if x == t {
				t.r.queue = append(t.r.queue[:i], t.r.queue[i+1:]...)
				break
			}
		}
	case begun:
		t.r.begun--
		close(t.lost)
	}
	t.state = over
	t.records, t.step = nil, matrix.Step{}
	t.answered()
	delete(w.held, t.m.Task)
	t.l.count--
	t.l.hash ^= mark(t.m.Task, t.m.Hop)
	if t.l.stopping && t.l.count == 0 {
		t.l.beat = true // it is waited for
		signal(w.wake)
	}
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// log reads records from one on: those that came with the delivery, or the owner's.
func (t *task) log(ctx context.Context, from int) ([][]byte, error) {
	w := t.w
	for {
		w.mu.Lock()
		switch {
		case t.state == queued || t.state == begun:
		case w.err != nil:
			defer w.mu.Unlock()
			return nil, w.err
		default:
			w.mu.Unlock()
			return nil, matrix.ErrLost
		}
		if w.err != nil {
			defer w.mu.Unlock()
			return nil, w.err
		}
		if from >= t.first {
			defer w.mu.Unlock()
			k := min(from-t.first, len(t.records))
			return t.records[k:len(t.records):len(t.records)], nil
		}
		if t.answer == nil {
			t.answer = make(chan struct{})
			t.wanted = from
			t.asked = time.Now()
			t.l.fetches = append(t.l.fetches, t)
			signal(w.wake)
		}
		answer := t.answer
		w.mu.Unlock()
		select {
		case <-answer:
		case <-w.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *Worker) offset() int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(w.o.ID))
	return int(h.Sum32() % uint32(len(w.links)))
}

// share splits places of a role over the shards: evenly, but a shard that nothing waits
// in keeps no more than it uses, and one more, where something waits in another.
// used says how many tasks of the role there are by shard. w.mu is held.
func (w *Worker) share(r *workerRole, slots int, used, list []int) {
	n, off := len(w.links), w.offset()
	waits := 0
	for k, l := range w.links {
		list[k] = slots / n
		if (k+off)%n < slots%n {
			list[k]++
		}
		if l.waiting[r.name] {
			waits++
		}
	}
	if waits == 0 || waits == n {
		return
	}
	left := 0
	for k, l := range w.links {
		if !l.waiting[r.name] && used[k]+1 < list[k] {
			left += list[k] - used[k] - 1
			list[k] = used[k] + 1
		}
	}
	for k, l := range w.links {
		if l.waiting[r.name] {
			n := (left + waits - 1) / waits
			list[k] += n
			left, waits = left-n, waits-1
		}
	}
}

// brief is how long a step takes at most whose worker has the next one at hand.
const brief = 200 * time.Millisecond

// place says anew how many tasks each owner may hand out. room is what Room said.
// w.mu is held.
func (w *Worker) place(room map[string]int) {
	w.placing = false
	lists := make([][]places, len(w.links))
	shares := make([]int, len(w.links))
	if !w.draining {
		used := map[*workerRole][]int{}
		for _, r := range w.roles {
			used[r] = make([]int, len(w.links))
		}
		for _, t := range w.held {
			if t.state != ended && len(w.links) > 1 {
				used[t.r][t.l.shard]++
			}
		}
		for _, r := range w.roles {
			slots := r.slots
			if n, ok := room[r.name]; ok {
				slots = min(slots, r.begun+max(0, n))
			}
			w.share(r, slots, used[r], shares)
			for k, n := range shares {
				more := 0
				if r.took > 0 && r.took < brief {
					more = (n + 3) / 4
				}
				if n == 0 && slots > 0 {
					more = 1 // or nothing would come of that shard
				}
				if w.links[k].stopping {
					n, more = 0, 0
				}
				lists[k] = append(lists[k], places{r.name, n, more})
			}
		}
	}
	for k, l := range w.links {
		if !samePlaces(l.placed, lists[k]) {
			l.placed, l.tell = lists[k], true
		}
	}
}

// samePlaces reports whether a and b, in any order, are the same.
func samePlaces(a, b []places) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		found := false
		for _, y := range b {
			found = found || x == y
		}
		if !found {
			return false
		}
	}
	return true
}
