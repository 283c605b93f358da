package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"matrix/run"
)

func TestShareOf(t *testing.T) {
	for _, c := range []struct {
		name           string
		waiting, there int // tasks that wait, and that are acted on
		others         int
		want           int
	}{
		{"nobody else", 0, 0, 0, 100},
		{"one that can do as much, nothing to do", 0, 0, 100, 1},
		{"one that can do as much", 10, 50, 100, 30},
		{"three that can do as much", 100, 0, 300, 25},
		{"one that can do little", 96, 0, 20, 80},
		{"more than all can do", 1000, 300, 100, 100},
	} {
		s := &share{most: 100}
		if got := s.of(run.RoleProgress{Waiting: c.waiting, Acting: c.there}, c.others); got != c.want {
			t.Errorf("%s: got %d slots, want %d", c.name, got, c.want)
		}
	}
}

// No more slots are held than there are, whoever comes, goes and changes their number,
// and nobody waits for one that is free.
func TestShare(t *testing.T) {
	s := &share{most: 10}
	var held, most atomic.Int64
	most.Store(10)
	s.Resize(10)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			for range 500 {
				if _, err := s.Acquire(t.Context(), 1); err != nil {
					t.Error(err)
					return
				}
				if n := held.Add(1); n > most.Load() {
					t.Errorf("%d slots are held of %d", n, most.Load())
				}
				held.Add(-1)
				s.Release(1)
			}
		})
		all.Go(func() {
			n, err := s.Acquire(ctx, 3)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			s.Release(n)
		})
	}
	all.Go(func() {
		for n := range 100 {
			s.Resize(n % 11)
		}
		s.Resize(10)
		cancel()
	})
	all.Wait()
	if n, err := s.Acquire(t.Context(), 20); n != 10 || err != nil {
		t.Errorf("at the end: got %d slots, %v, want all 10", n, err)
	}
}
