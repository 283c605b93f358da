package local

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"matrix"
)

// role is where tasks wait for one role.
type role struct {
	name string
	q    *Queue

	mu      sync.Mutex
	queue   levels
	waiting int           // in queue
	delayed int           // in timers
	ready   []waiter      // to be called when a message waits
	wake    chan struct{} // of Collect; holds one signal
	enough  int           // that wait, to wake it
	paced   int64         // until when a settlement waits for company, by the queue's clock
}

// waiter is to be called unless ctx has ended.
type waiter struct {
	ctx  context.Context
	call func()
}

func (q *Queue) role(name string) *role {
	q.mu.RLock()
	r := q.roles[name]
	q.mu.RUnlock()
	if r != nil {
		return r
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r = q.roles[name]; r == nil {
		r = &role{name: name, q: q, wake: make(chan struct{}, 1), paced: now()}
		q.roles[name] = r
	}
	return r
}

// push makes e wait to be taken for its role.
func (r *role) push(e *entry) { r.wait(e, false, 0) }

// wait makes e wait at the end of its level, or before all others. delayed is 1 for
// one that was delayed.
func (r *role) wait(e *entry, first bool, delayed int) {
	e.since = now()
	r.mu.Lock()
	r.delayed -= delayed
	r.queue.push(e, first)
	e.queue.Store(r)
	r.waiting++
	ready := r.ready
	r.ready = nil
	wake := r.waiting >= r.enough || r.q.handling.Load() == 0
	r.mu.Unlock()
	for _, c := range ready {
		if c.ctx.Err() == nil {
			c.call()
		}
	}
	if wake {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// pop takes the next message, at a time of the queue's clock. r.mu is held.
func (r *role) pop(now int64) *entry {
	e := r.queue.first()
	if e != nil {
		r.remove(e, now)
	}
	return e
}

// remove takes e out of its queue. r.mu is held.
func (r *role) remove(e *entry, now int64) {
	r.queue.remove(e)
	e.queue.Store(nil)
	r.waiting--
	e.queued += now - e.since
}

const anyHop = -1

// withdraw takes e from where it waits, at that hop, also where it is delayed.
func (q *Queue) withdraw(e *entry, hop int) bool {
	for {
		r := e.queue.Load()
		if r == nil {
			if q.delays.end(e, hop) {
				return true
			}
			if e.queue.Load() == nil {
				return false
			}
			continue
		}
		r.mu.Lock()
		if e.queue.Load() != r {
			r.mu.Unlock()
			continue
		}
		ok := e.isAt(hop)
		if ok {
			r.remove(e, now())
		}
		r.mu.Unlock()
		return ok
	}
}

// taken is a message in somebody's hands.
type taken struct {
	m     matrix.Message
	q     *Queue
	e     *entry
	at    int64           // when it was taken, by the queue's clock
	alone [1]matrix.Taken // room for what Take returns
	ended atomic.Bool     // committed or returned
}

// Take implements matrix.Queue. Where the store fails it may end the goroutine.
func (q *Queue) Take(ctx context.Context, name string, n int, ready func()) ([]matrix.Taken, error) {
	q.mu.RLock()
	r := q.roles[name]
	err := q.over()
	if err == nil {
		q.active.Add(1)
	}
	q.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	defer q.active.Done()
	if r == nil {
		r = q.role(name)
	}
	var es, one = []*entry(nil), [1]*entry{}
	if n == 1 {
		es = one[:0]
	}
	r.mu.Lock()
	at := now() // of nothing that waits later than that
	for len(es) < n {
		e := r.pop(at)
		if e == nil {
			break
		}
		es = append(es, e)
	}
	more := r.waiting > 0
	if ready != nil && !more {
		r.ready = slices.DeleteFunc(r.ready, func(c waiter) bool { return c.ctx.Err() != nil })
		r.ready = append(r.ready, waiter{ctx, ready})
	}
	r.mu.Unlock()
	if len(es) == 0 && q.handling.Load() == 0 {
		q.commit.flush() // nothing is about to join what is pending
	}
	var ts []matrix.Taken
	for _, e := range es {
		t, err := q.take(e, at)
		if err != nil {
			for _, e := range slices.Backward(es) {
				r.wait(e, true, 0)
			}
			return nil, err
		}
		if len(es) == 1 {
			t.alone[0] = t
			ts = t.alone[:]
		} else {
			ts = append(ts, t)
		}
	}
	q.hold(len(es))
	if ready != nil && more {
		ready()
	}
	return ts, nil
}

// over is why nothing is taken any more. q.mu is held.
func (q *Queue) over() error {
	if isClosed(q.closed) {
		return matrix.ErrClosed
	}
	if isClosed(q.failed) {
		return q.fault
	}
	return nil
}

// take makes a message of e, which is out of its queue.
func (q *Queue) take(e *entry, now int64) (*taken, error) {
	t := &taken{q: q, e: e, at: now}
	return t, q.message(&t.m, e)
}

// hold notes that n messages are in somebody's hands, within a call that is active
// itself.
func (q *Queue) hold(n int) {
	q.active.Add(n)
	q.handling.Add(int64(n))
}

// Claim implements matrix.Queue.
func (q *Queue) Claim(task string, hop int) (matrix.Taken, bool, error) {
	if err := q.enter(); err != nil {
		return nil, false, err
	}
	defer q.active.Done()
	e, err := q.entry(task)
	if err != nil || e == nil || hop < 0 || !q.withdraw(e, hop) {
		return nil, false, err
	}
	t, err := q.take(e, now())
	if err != nil {
		e.role.wait(e, true, 0)
		return nil, false, err
	}
	q.hold(1)
	return t, true, nil
}

// Flush implements matrix.Queue.
func (q *Queue) Flush(ctx context.Context) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.active.Done()
	return q.commit.barrier(ctx)
}

// Done implements matrix.Queue.
func (q *Queue) Done() <-chan struct{} { return q.done }

func (q *Queue) down() bool { return isClosed(q.done) }

// Message implements matrix.Taken.
func (t *taken) Message() *matrix.Message { return &t.m }

// Lost implements matrix.Taken: a claim ends with the queue alone.
func (t *taken) Lost() <-chan struct{} { return nil }

// end ends the claim, once.
func (t *taken) end() bool {
	if t.ended.Swap(true) {
		return false
	}
	t.q.handling.Add(-1)
	return true
}

// Commit implements matrix.Taken. Where the store fails it may end the goroutine.
func (t *taken) Commit(s matrix.Step, durable func()) error {
	if err := s.Check(); err != nil {
		t.Return(nil)
		return err
	}
	if len(s.Children) > 0 {
		return t.multiply(s, durable)
	}
	at := now()
	if !t.end() {
		return matrix.ErrLost
	}
	defer t.q.active.Done()
	t.q.commit.hop(t.e, s, durable, at, at-t.at)
	return nil
}

// multiply is a Commit with children.
func (t *taken) multiply(s matrix.Step, durable func()) error {
	q := t.q
	q.seedMu.Lock()
	fresh, from, err := q.fresh(s.Children)
	if err != nil {
		q.seedMu.Unlock()
		t.Return(nil)
		return err
	}
	if !t.end() {
		q.seedMu.Unlock()
		return matrix.ErrLost
	}
	defer q.active.Done()
	s.Sum = sum(s.Sum, s.Record)
	next := q.nextSeq
	q.coming.add(fresh)
	landed := q.commit.begin(op{
		e: t.e, step: s,
		put:  func(b *pebble.Batch) error { return q.putSeeds(b, fresh, from, next, nil) },
		done: durable,
		then: func() {
			q.coming.remove(fresh)
			q.admit(fresh)
		},
	})
	q.seedMu.Unlock() // others may join the group
	return q.commit.until(context.Background(), landed)
}

// Return implements matrix.Taken.
func (t *taken) Return(err error) {
	if !t.end() {
		return
	}
	defer t.q.active.Done()
	var retry *matrix.RetryError
	switch {
	case err == nil || errors.As(err, new(*matrix.StopError)):
		t.e.role.push(t.e)
	case errors.As(err, &retry):
		t.q.requeue(t.e, retry.After, retry.Free)
	default:
		t.q.requeue(t.e, Backoff(int(t.e.attempt)), false)
	}
}

// Backoff is how long a message waits after an error that names no time: 0.2 s
// after the first attempt, doubling up to 30 s.
func Backoff(attempt int) time.Duration {
	return min(200*time.Millisecond<<min(attempt, 10), 30*time.Second)
}

// requeue brings e back after a delay. A spent attempt is stored.
func (q *Queue) requeue(e *entry, after time.Duration, free bool) {
	if !free {
		if e.attempt < math.MaxUint16 {
			e.attempt++
		}
		q.commit.attempt(e.seq, e.attempt)
	}
	if after <= 0 && free {
		after = matrix.FreeRetry
	}
	if after <= 0 {
		e.role.push(e)
		return
	}
	e.since = now() + int64(after)
	e.delayed += int64(after)
	r := e.role
	r.mu.Lock()
	r.delayed++
	r.mu.Unlock()
	q.delays.begin(e, after)
}

// delays are the tasks that come back later.
type delays struct {
	mu      sync.Mutex
	timers  map[*entry]*time.Timer
	stopped bool
}

// begin makes e wait for its role in a while.
func (d *delays) begin(e *entry, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	if d.timers == nil {
		d.timers = map[*entry]*time.Timer{}
	}
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timers[e] == timer { // else it was claimed
			delete(d.timers, e)
			e.role.wait(e, false, 1)
		}
	})
	d.timers[e] = timer
}

// end ends the delay of e at that hop, and reports whether it was delayed.
func (d *delays) end(e *entry, hop int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	timer := d.timers[e]
	if timer == nil || !e.isAt(hop) {
		return false
	}
	timer.Stop()
	delete(d.timers, e)
	e.delayed -= max(0, e.since-now())
	r := e.role
	r.mu.Lock()
	r.delayed--
	r.mu.Unlock()
	return true
}

// over ends the delays of a role's tasks: they wait for it from now on.
func (d *delays) over(r *role) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for e, timer := range d.timers {
		if e.role == r {
			timer.Stop()
			delete(d.timers, e)
			e.delayed -= max(0, e.since-now())
			e.role.wait(e, false, 1)
		}
	}
}

func (d *delays) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, t := range d.timers {
		t.Stop()
	}
}
