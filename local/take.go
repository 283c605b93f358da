package local

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
)

// role is where tasks wait for one role.
type role struct {
	name string
	q    *Queue

	mu      sync.Mutex
	lines   levels
	waiting int           // in lines
	delayed int           // in timers
	ready   []func()      // to be called when a message waits
	wake    chan struct{} // of Collect; holds one signal
	enough  int           // that wait, to wake it
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
		r = &role{name: name, q: q, wake: make(chan struct{}, 1)}
		q.roles[name] = r
	}
	return r
}

// push makes e wait to be taken for its role.
func (r *role) push(e *entry) { r.wait(e, 0) }

// pushDelayed does so for one that was delayed.
func (r *role) pushDelayed(e *entry) { r.wait(e, 1) }

func (r *role) wait(e *entry, delayed int) {
	e.since = now()
	r.mu.Lock()
	r.delayed -= delayed
	r.lines.push(e)
	r.waiting++
	ready := r.ready
	r.ready = nil
	wake := r.waiting >= r.enough || r.q.handling.Load() == 0
	r.mu.Unlock()
	for _, f := range ready {
		f()
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
	e := r.lines.pop()
	if e != nil {
		r.waiting--
		e.queued += now - e.since
	}
	return e
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
func (q *Queue) Take(name string, n int, ready func()) ([]matrix.Taken, error) {
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
	var first *entry
	last, got := &first, 0
	r.mu.Lock()
	now := now() // of nothing that waits later than that
	for got < n {
		e := r.pop(now)
		if e == nil {
			break
		}
		*last, last = e, &e.next
		got++
	}
	more := r.waiting > 0
	if ready != nil && !more {
		r.ready = append(r.ready, ready)
	}
	r.mu.Unlock()
	if got == 0 && q.handling.Load() == 0 {
		q.commit.flush() // nothing is about to join what is pending
	}
	var ts []matrix.Taken
	for e := first; e != nil; {
		next := e.next
		e.next = nil
		t, fault := q.take(e, now)
		if fault != nil {
			err = fault
			r.push(e)
		} else if got == 1 {
			t.alone[0] = t
			ts = t.alone[:]
		} else {
			ts = append(ts, t)
		}
		e = next
	}
	if err != nil {
		for _, t := range ts {
			t.Return(nil)
		}
		return nil, err
	}
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

// take puts e into somebody's hands.
func (q *Queue) take(e *entry, now int64) (*taken, error) {
	t := &taken{q: q, e: e, at: now}
	if err := q.message(&t.m, e); err != nil {
		return nil, err
	}
	q.active.Add(1) // within a call that is active itself
	q.handling.Add(1)
	return t, nil
}

// Claim implements matrix.Queue. It looks through all that wait for the role.
func (q *Queue) Claim(task string, hop int) (matrix.Taken, bool, error) {
	if err := q.enter(); err != nil {
		return nil, false, err
	}
	defer q.active.Done()
	seq, f, _, err := q.find(task)
	if err != nil || f.Status != matrix.Owed {
		return nil, false, err
	}
	q.mu.RLock()
	roles := make([]*role, 0, len(q.roles))
	for _, r := range q.roles {
		roles = append(roles, r)
	}
	q.mu.RUnlock()
	for _, r := range roles {
		r.mu.Lock()
		now := now()
		e := r.lines.remove(seq, uint32(hop))
		if e != nil {
			r.waiting--
			e.queued += now - e.since
		}
		r.mu.Unlock()
		if e == nil {
			continue
		}
		t, err := q.take(e, now)
		if err != nil {
			r.push(e)
			return nil, false, err
		}
		return t, true, nil
	}
	return nil, false, nil
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
	now := now()
	if !t.end() {
		return matrix.ErrLost
	}
	defer t.q.active.Done()
	t.q.commit.hop(t.e, s, durable, now, now-t.at)
	return nil
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
		t.q.again(t.e, retry.After, retry.Free)
	default:
		t.q.again(t.e, Backoff(int(t.e.attempt)), false)
	}
}

// Backoff is how long a message waits after an error that names no time: 0.2 s
// after the first attempt, doubling up to 30 s.
func Backoff(attempt int) time.Duration {
	return min(200*time.Millisecond<<min(attempt, 10), 30*time.Second)
}

// again brings e back after a delay. A spent attempt is stored.
func (q *Queue) again(e *entry, after time.Duration, free bool) {
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
	r := e.role
	e.delayed += int64(after)
	r.mu.Lock()
	r.delayed++
	r.mu.Unlock()
	q.delays.after(after, func() { r.pushDelayed(e) })
}

// delays are calls that are due later.
type delays struct {
	mu      sync.Mutex
	timers  map[*time.Timer]struct{}
	stopped bool
}

func (d *delays) after(t time.Duration, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	if d.timers == nil {
		d.timers = map[*time.Timer]struct{}{}
	}
	var timer *time.Timer
	timer = time.AfterFunc(t, func() {
		d.mu.Lock()
		delete(d.timers, timer)
		d.mu.Unlock()
		f()
	})
	d.timers[timer] = struct{}{}
}

func (d *delays) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for t := range d.timers {
		t.Stop()
	}
}
