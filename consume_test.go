package matrix_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"matrix"
)

// script is a queue of one role in memory, whose claims the test takes away.
type script struct {
	matrix.Queue
	mu    sync.Mutex
	tasks []string
	ready func()
	lost  map[string]chan struct{}
	ended []string // how each was ended
	done  chan struct{}
}

type scripted struct {
	q *script
	m matrix.Message
}

func (q *script) Take(_ context.Context, _ string, n int, ready func()) ([]matrix.Taken, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ts []matrix.Taken
	for ; n > 0 && len(q.tasks) > 0; n-- {
		ts = append(ts, &scripted{q, matrix.Message{Task: q.tasks[0]}})
		q.tasks = q.tasks[1:]
	}
	if ready != nil && len(q.tasks) > 0 {
		go ready()
	} else if ready != nil {
		q.ready = ready
	}
	return ts, nil
}

func (q *script) add(tasks ...string) {
	q.mu.Lock()
	q.tasks = append(q.tasks, tasks...)
	ready := q.ready
	q.ready = nil
	q.mu.Unlock()
	if ready != nil {
		ready()
	}
}

func (q *script) end(how string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = append(q.ended, how)
}

func (q *script) Flush(context.Context) error { return nil }
func (q *script) Done() <-chan struct{}       { return q.done }

func (t *scripted) Message() *matrix.Message { return &t.m }
func (t *scripted) Lost() <-chan struct{}    { return t.q.lost[t.m.Task] }
func (t *scripted) Return(err error)         { t.q.end(fmt.Sprint(t.m.Task, " returned ", err)) }
func (t *scripted) Commit(matrix.Step, func()) error {
	select {
	case <-t.Lost():
		t.q.end(t.m.Task + " too late")
		return matrix.ErrLost
	default:
		t.q.end(t.m.Task + " committed")
		return nil
	}
}

// A claim that is lost ends its handler alone, and its step is dropped.
func TestConsumeLosesAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &script{done: make(chan struct{}), lost: map[string]chan struct{}{"x": make(chan struct{}), "y": make(chan struct{})}}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() {
			over <- matrix.Consume(ctx, q, "a", matrix.Slots(2), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
				<-ctx.Done()
				q.end(fmt.Sprint(m.Task, " ", errors.Is(context.Cause(ctx), matrix.ErrLost)))
				if m.Task == "y" {
					return matrix.Step{}, ctx.Err()
				}
				return matrix.Step{Role: "b"}, nil
			})
		}()
		q.add("x", "y")
		synctest.Wait()
		close(q.lost["x"])
		synctest.Wait()
		if want := []string{"x true", "x too late"}; !slices.Equal(q.ended, want) {
			t.Errorf("x is lost: got %q, want %q", q.ended, want)
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		if want := []string{"x true", "x too late", "y false", "y returned <nil>"}; !slices.Equal(q.ended, want) {
			t.Errorf("at the end: got %q, want %q", q.ended, want)
		}
	})
}

// With a ctx that has ended nothing is begun again, also where Stopping ends later.
func TestConsumeEndsWithItsContext(t *testing.T) {
	q := &script{done: make(chan struct{}), tasks: []string{"x", "y"}}
	soft, late := context.WithCancel(context.Background())
	defer late()
	ctx, cancel := context.WithCancel(context.Background())
	err := matrix.Consume(matrix.WithStopping(ctx, soft), q, "a", matrix.Slots(1), func(ctx context.Context, _ *matrix.Message) (matrix.Step, error) {
		cancel()
		return matrix.Step{}, ctx.Err()
	})
	if want := []string{"x returned <nil>"}; err != nil || !slices.Equal(q.ended, want) {
		t.Errorf("got %v and %q, want %q", err, q.ended, want)
	}
}

// Goroutines live while messages wait, and of those that wait for a slot there
// is one a consumer.
func TestConsumeWaitsWithOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sem := &gate{Semaphore: matrix.Slots(3)}
		ctx, cancel := context.WithCancel(t.Context())
		next := make(chan struct{})
		var over sync.WaitGroup
		var qs []*script
		for range 2 {
			q := &script{done: make(chan struct{})}
			qs = append(qs, q)
			over.Go(func() {
				if err := matrix.Consume(ctx, q, "a", sem, func(context.Context, *matrix.Message) (matrix.Step, error) {
					<-next
					return matrix.Step{Role: "b"}, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if sem.inside != 0 || sem.waiting != 0 {
			t.Errorf("idle: %d inside and %d waiting, want none", sem.inside, sem.waiting)
		}
		for _, q := range qs {
			q.add(make([]string, 50)...)
		}
		for n := range 100 {
			synctest.Wait()
			if left := 100 - n; sem.inside != min(3, left) || sem.waiting > 2 {
				t.Fatalf("after %d: %d inside and %d waiting, want %d and at most 2", n, sem.inside, sem.waiting, min(3, left))
			}
			if a, b := len(qs[0].ended), len(qs[1].ended); n > 5 && n < 90 && (a < n/2-3 || b < n/2-3) {
				t.Fatalf("after %d: %d and %d, want about as many of each", n, a, b)
			}
			next <- struct{}{}
		}
		synctest.Wait()
		if sem.inside != 0 || sem.waiting != 0 {
			t.Errorf("at the end: %d inside and %d waiting, want none", sem.inside, sem.waiting)
		}
		cancel()
		over.Wait()
	})
}

// gate counts who is in a room.
type gate struct {
	matrix.Semaphore
	mu              sync.Mutex
	inside, waiting int
}

func (g *gate) Acquire(ctx context.Context, most int) (int, error) {
	g.count(0, 1)
	n, err := g.Semaphore.Acquire(ctx, most)
	g.count(n, -1)
	return n, err
}

func (g *gate) Release(n int) {
	g.count(-n, 0)
	g.Semaphore.Release(n)
}

func (g *gate) count(inside, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside += inside
	g.waiting += waiting
}

// Places go to those who wait, in their order, and none is lost to one who gave up.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := matrix.Slots(2)
		if n, err := s.Acquire(t.Context(), 5); n != 2 || err != nil {
			t.Fatalf("enter: got %d, %v; want both places", n, err)
		}
		var mu sync.Mutex
		var order []int
		gone, giveUp := context.WithCancel(t.Context())
		for i := range 4 {
			ctx := t.Context()
			if i == 1 {
				ctx = gone
			}
			go func() {
				n, err := s.Acquire(ctx, 3)
				mu.Lock()
				defer mu.Unlock()
				if i == 1 {
					if n != 0 || !errors.Is(err, context.Canceled) {
						t.Errorf("who gave up: got %d, %v", n, err)
					}
					return
				}
				order = append(order, i)
				if n != 1 || err != nil {
					t.Errorf("%d: got %d, %v; want one place", i, n, err)
				}
			}()
			synctest.Wait()
		}
		giveUp()
		synctest.Wait()
		for range 3 {
			s.Release(1)
			synctest.Wait()
		}
		if want := []int{0, 2, 3}; !slices.Equal(order, want) {
			t.Errorf("order: got %v, want %v", order, want)
		}
		s.Release(2)
		if n, err := s.Acquire(t.Context(), 5); n != 2 || err != nil {
			t.Errorf("at the end: got %d, %v; want both places", n, err)
		}
	})
}
