package local

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"matrix"
)

// role is where tasks wait for one role.
type role struct {
	name string
	q    *Queue

	mu        sync.Mutex
	ready     levels
	waiting   int // in ready
	delayed   int // in timers
	consumers []*consumer
	wake      chan struct{} // of Collect; holds one signal
	enough    int           // that wait, to wake it
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

// push makes e wait for a consumer of its role.
func (r *role) push(e *entry) { r.wait(e, 0) }

// pushDelayed does so for one that was delayed.
func (r *role) pushDelayed(e *entry) { r.wait(e, 1) }

func (r *role) wait(e *entry, delayed int) {
	e.since = now()
	r.mu.Lock()
	r.delayed -= delayed
	r.ready.push(e)
	r.waiting++
	r.start()
	wake := r.waiting >= r.enough || r.q.handling.Load() == 0
	r.mu.Unlock()
	if wake {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// start starts one more worker if a consumer has room and none is starting
// already: a worker that finds more waiting than itself starts the next, so
// that there are as many as can be busy and no more. r.mu is held.
func (r *role) start() {
	for _, c := range r.consumers {
		if c.starting {
			return
		}
		if c.running < c.n && c.stopping.Err() == nil {
			c.starting = true
			c.running++
			c.wg.Add(1)
			go c.work()
			return
		}
	}
}

// pop takes the next message. r.mu is held.
func (r *role) pop() *entry {
	e := r.ready.pop()
	if e != nil {
		r.waiting--
		e.queued += now() - e.since
	}
	return e
}

// consumer is one call of Consume.
type consumer struct {
	ctx      context.Context // of handlers
	stopping context.Context // while it goes on messages are taken
	stop     context.CancelFunc
	q        *Queue
	r        *role
	h        matrix.Handler
	n        int

	running  int  // guarded by r.mu
	starting bool // guarded by r.mu: a worker was started and has not taken its first message
	wg       sync.WaitGroup

	once sync.Once
	err  error // that a handler stopped it with
}

// Consume implements matrix.Queue. Workers live while messages wait: an idle
// role costs no goroutine.
func (q *Queue) Consume(ctx context.Context, name string, n int, h matrix.Handler) error {
	if n < 1 {
		return fmt.Errorf("consume %s: room for %d handlers, want at least 1", name, n)
	}
	if err := q.enter(); err != nil {
		return err
	}
	defer q.active.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopping, stop := context.WithCancel(matrix.Stopping(ctx))
	defer stop()
	r := q.role(name)
	c := &consumer{ctx: matrix.WithStopping(ctx, stopping), stopping: stopping, stop: stop, q: q, r: r, h: h, n: n}
	r.mu.Lock()
	r.consumers = append(r.consumers, c)
	if r.waiting > 0 {
		r.start()
	}
	r.mu.Unlock()

	lost := make(chan error, 1)
	go func() {
		var err error
		select {
		case <-ctx.Done():
		case <-q.failed:
			err = q.fault
		case <-q.closed:
			err = matrix.ErrClosed
		}
		cancel(err) // nobody's claim holds any more
		stop()
		lost <- err
	}()
	<-stopping.Done()
	r.mu.Lock()
	for i, x := range r.consumers {
		if x == c {
			r.consumers = append(r.consumers[:i], r.consumers[i+1:]...)
			break
		}
	}
	if r.waiting > 0 {
		r.start() // of another consumer: one of ours may have been about to
	}
	r.mu.Unlock()
	c.wg.Wait()
	cancel(nil)
	err := <-lost
	if c.err != nil {
		err = c.err
	}
	if fault := q.commit.barrier(); fault != nil && err == nil {
		err = fault
	}
	return err
}

func (c *consumer) work() {
	defer c.wg.Done()
	for first := true; ; first = false {
		e := c.take(first)
		if e == nil {
			if c.q.handling.Load() == 0 {
				c.q.commit.flush()
			}
			return
		}
		if err := c.handle(e); err != nil {
			c.once.Do(func() {
				c.err = err
				c.stop()
			})
		}
	}
}

// take gives the worker a message, or ends it.
func (c *consumer) take(first bool) *entry {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if first {
		c.starting = false
	}
	if c.stopping.Err() == nil && !c.q.down() {
		if e := r.pop(); e != nil {
			if r.waiting > 0 {
				r.start()
			}
			return e
		}
	}
	c.running--
	return nil
}

func (q *Queue) down() bool { return isClosed(q.failed) || isClosed(q.closed) }

// handle runs the handler on e and commits what it did. An error ends the
// Consume.
func (c *consumer) handle(e *entry) error {
	m, err := c.q.message(e)
	if err != nil {
		c.r.push(e)
		return err
	}
	c.q.handling.Add(1)
	began := now()
	step, err := c.h(c.ctx, m)
	ended := now()
	c.q.handling.Add(-1)
	if err == nil {
		err = checkStep(step)
	}
	if err == nil {
		c.q.commit.hop(e, step, ended, ended-began)
		return nil
	}
	var stop *matrix.StopError
	var retry *matrix.RetryError
	switch {
	case errors.As(err, &stop):
		c.r.push(e)
		return err
	case errors.As(err, &retry):
		c.q.again(e, retry.After, retry.Free)
	case c.ctx.Err() != nil && errors.Is(err, c.ctx.Err()):
		c.r.push(e)
	default:
		c.q.again(e, Backoff(int(e.attempt)), false)
	}
	return nil
}

// Backoff is how long a message waits after an error that names no time: 0.2 s
// after the first attempt, doubling up to 30 s.
func Backoff(attempt int) time.Duration {
	return min(200*time.Millisecond<<min(attempt, 10), 30*time.Second)
}

func checkStep(s matrix.Step) error {
	switch {
	case s.Role == "" || len(s.Role) > 255:
		return &matrix.StopError{Err: fmt.Errorf("a step names the role %q; a role has 1 to 255 bytes", s.Role)}
	case s.Priority < math.MinInt16 || s.Priority > math.MaxInt16:
		return &matrix.StopError{Err: fmt.Errorf("a step has the priority %d; it must fit 16 bits", s.Priority)}
	}
	return nil
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

// Collect implements matrix.Queue.
func (q *Queue) Collect(ctx context.Context, name string, most int, c matrix.Collector) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.active.Done()
	r := q.role(name)
	pacing := false // the last settlement was less than settlePace ago
	timer := time.NewTimer(settlePace)
	timer.Stop()
	defer timer.Stop()
	for {
		var batch []*entry
		if ctx.Err() == nil && !q.down() {
			r.mu.Lock()
			r.enough = 1
			if pacing && !q.opts.Memory {
				r.enough = max(1, min(most, int(q.live.Load()/withheld)))
			}
			ready := r.waiting >= r.enough || q.handling.Load() == 0
			for ready && len(batch) < most {
				e := r.pop()
				if e == nil {
					break
				}
				batch = append(batch, e)
			}
			r.mu.Unlock()
		}
		if len(batch) > 0 {
			if err := q.settle(ctx, batch, c); err != nil {
				for _, e := range batch {
					r.push(e)
				}
				return err
			}
			pacing = true
			timer.Reset(settlePace)
			continue
		}
		select {
		case <-timer.C:
			pacing = false
		case <-ctx.Done():
			return nil
		case <-q.failed:
			return q.fault
		case <-q.closed:
			return matrix.ErrClosed
		case <-r.wake:
		}
	}
}

// Pace of settling. A settlement syncs the output and the store; what it gives
// back is credit for new tasks.
const (
	settlePace = 100 * time.Millisecond // between two settlements, while handlers run
	withheld   = 64                     // but no more than this part of the live tasks waits
)

func (q *Queue) settle(ctx context.Context, batch []*entry, c matrix.Collector) error {
	ms := make([]*matrix.Message, len(batch))
	for i, e := range batch {
		m, err := q.message(e)
		if err != nil {
			return err
		}
		ms[i] = m
	}
	s, err := c(ctx, ms)
	if err != nil {
		return err
	}
	if len(s.Fates) != len(batch) {
		return fmt.Errorf("collect %s: %d fates for %d messages", batch[0].role.name, len(s.Fates), len(batch))
	}
	return q.commit.settle(batch, s)
}
