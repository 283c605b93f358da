package matrix

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
)

// Taken is a message in somebody's hands, who need not be in this process. It is
// ended once, by Commit or by Return; until then nobody else can take it.
type Taken interface {
	Message() *Message

	// Commit puts what a step led to in the place of the message. durable, unless
	// it is nil, is called once that is so, and before anybody can take what it led
	// to; it must not block. A step that no queue can take is refused with a
	// *StopError, and the message is returned. Where a step has children Commit may
	// wait until it is durable. A second Commit, or one that comes
	// when the claim is lost, changes nothing and returns ErrLost.
	Commit(s Step, durable func()) error

	// Return brings the message back, as errors.go says of err; at once and
	// as it was where err is nil or a *StopError.
	Return(err error)

	// Lost is closed when the claim on this message alone is lost: somebody else
	// may have taken it. It is nil where that cannot be.
	Lost() <-chan struct{}
}

// Semaphore bounds how many handlers run at once. Several consumers may share one.
type Semaphore interface {
	// Acquire waits for at least one slot, takes at most so many, and returns how
	// many. Those who wait are served in the order in which they came. An error
	// is that of ctx's end.
	Acquire(ctx context.Context, most int) (n int, err error)

	// Release gives slots back.
	Release(n int)
}

// SlotSemaphore is a Semaphore of so many slots. The zero value has none.
type SlotSemaphore struct {
	mu      sync.Mutex
	slots   int
	held    int             // may be more than there are, after a Resize
	waiters []chan struct{} // of those who wait for one; each is buffered for its signal
}

// Slots is a semaphore of so many slots, at least one.
func Slots(n int) *SlotSemaphore {
	if n < 1 {
		panic(fmt.Sprintf("matrix.Slots(%d): want at least 1", n))
	}
	return &SlotSemaphore{slots: n}
}

// Acquire is Semaphore's.
func (s *SlotSemaphore) Acquire(ctx context.Context, most int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	if n := min(s.slots-s.held, most); n > 0 { // then nobody waits
		s.held += n
		s.mu.Unlock()
		return n, nil
	}
	slot := make(chan struct{}, 1)
	s.waiters = append(s.waiters, slot)
	s.mu.Unlock()
	select {
	case <-slot:
		return 1, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiters, slot); i >= 0 {
		s.waiters = slices.Delete(s.waiters, i, i+1)
	} else { // it was given meanwhile
		s.held--
		s.serve()
	}
	return 0, ctx.Err()
}

// Release is Semaphore's.
func (s *SlotSemaphore) Release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	s.serve()
}

// Resize changes how many slots there are. Those that are held stay so.
func (s *SlotSemaphore) Resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = n
	s.serve()
}

// serve gives free slots to those who wait.
func (s *SlotSemaphore) serve() {
	for s.held < s.slots && len(s.waiters) > 0 {
		s.held++
		s.waiters[0] <- struct{}{}
		s.waiters = s.waiters[1:]
	}
}

// Consume hands messages for role to handlers, each of which holds a slot of sem:
// highest priority first, in order of arrival within one. It takes messages until
// Stopping(ctx) ends (and returns nil), the queue fails, or a handler stops it, and
// returns only after its handlers have and what they did is durable. Where a
// handler stops it, Stopping ends for the others.
//
// Goroutines live while messages wait: an idle role costs none.
func Consume(ctx context.Context, q Taker, role string, sem Semaphore, h Handler) error {
	claims, lose := context.WithCancelCause(ctx)
	stopping, stop := context.WithCancel(Stopping(ctx))
	c := &consumer{q: q, role: role, sem: sem, h: h, ctx: WithStopping(claims, stopping), stopping: stopping, stop: stop}
	c.ready = c.more
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-q.Done():
			lose(ErrLost)
			stop()
		case <-claims.Done():
		}
	})
	c.more()
	<-stopping.Done()
	stop()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	lose(nil)
	watch.Wait()
	if err := q.Flush(context.WithoutCancel(ctx)); c.err == nil {
		c.err = err
	}
	return c.err
}

// consumer is one call of Consume. A worker holds a slot and takes one
// message after the other. Of those that have no slot yet there is at most one,
// the starter, and only while a message waits: so there are as many workers as can
// be busy and no more.
type consumer struct {
	q        Taker
	role     string
	sem      Semaphore
	h        Handler
	ctx      context.Context // of handlers
	stopping context.Context // while it goes on messages are taken
	stop     context.CancelFunc
	ready    func() // more, made once

	mu      sync.Mutex
	closed  bool  // nobody starts any more
	armed   bool  // the queue will call ready
	starter uint8 // none, spawned, entering
	err     error // the first

	wg sync.WaitGroup
}

const (
	none     = iota
	spawned  // it will ask for a slot
	entering // it waits for one
)

// more is called when a message waits.
func (c *consumer) more() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if c.starter == none && !c.closed {
		c.starter = spawned
		c.wg.Add(1)
		go c.work()
	}
}

func (c *consumer) work() {
	defer c.wg.Done()
	c.become(entering)
	_, err := c.sem.Acquire(c.stopping, 1)
	c.become(none)
	if err != nil {
		if c.stopping.Err() == nil {
			c.fail(err)
		}
		return
	}
	defer c.sem.Release(1) // also where a store that fails ends the goroutine
	for c.stopping.Err() == nil {
		t, over := c.take()
		if t != nil {
			c.handle(t)
			over = c.crowded()
		}
		if over {
			return
		}
	}
}

func (c *consumer) become(starter uint8) {
	c.mu.Lock()
	c.starter = starter
	c.mu.Unlock()
}

// crowded reports whether the starter waits for a slot: then a worker gives its
// own up, to whoever waits first.
func (c *consumer) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starter == entering
}

// take takes a message. Where there is none over says that the worker has to end:
// the queue will call when there is.
func (c *consumer) take() (t Taken, over bool) {
	var ready func()
	c.mu.Lock()
	if !c.armed {
		c.armed, ready = true, c.ready
	}
	c.mu.Unlock()
	ts, err := c.q.Take(c.stopping, c.role, 1, ready)
	if err != nil {
		c.fail(err)
		return nil, true
	}
	if len(ts) > 0 {
		return ts[0], false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return nil, c.armed
}

// fail ends the Consume with an error.
func (c *consumer) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.stop()
}

// handle runs the handler on a message and commits what it did.
func (c *consumer) handle(t Taken) {
	held := true // a handler that ends the goroutine gives its message back
	defer func() {
		if held {
			t.Return(nil)
		}
	}()
	ctx := c.ctx
	if lost := t.Lost(); lost != nil {
		claim, lose := context.WithCancelCause(ctx)
		defer lose(nil)
		go func() {
			select {
			case <-lost:
				lose(ErrLost)
			case <-claim.Done():
			}
		}()
		ctx = claim
	}
	step, err := c.h(ctx, t.Message())
	held = false
	if err == nil {
		if err = t.Commit(step, nil); err != nil && !errors.Is(err, ErrLost) {
			c.fail(err)
		}
		return
	}
	var stop *StopError
	switch {
	case errors.As(err, &stop):
		t.Return(nil)
		c.fail(err)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		if c.ctx.Err() != nil { // not of this claim alone; Stopping may end a moment later
			c.stop()
		}
		t.Return(nil)
	default:
		t.Return(err)
	}
}

// Check returns a *StopError where no queue can take the step.
func (s *Step) Check() error {
	switch {
	case s.Role == "" || len(s.Role) > 255:
		return &StopError{Err: fmt.Errorf("a step names the role %q; a role has 1 to 255 bytes", s.Role)}
	case s.Priority < math.MinInt16 || s.Priority > math.MaxInt16:
		return &StopError{Err: fmt.Errorf("a step has the priority %d; it must fit 16 bits", s.Priority)}
	}
	for i := range s.Children {
		if err := s.Children[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// Check returns a *StopError where no queue can take the seed.
func (s *Seed) Check() error {
	if s.Task == "" {
		return &StopError{Err: errors.New("a seed is of a task without an id")}
	}
	return (&Step{Role: s.Role, Priority: s.Priority}).Check()
}
