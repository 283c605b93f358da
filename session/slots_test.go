package session

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"matrix"
)

// A free slot goes to a run that has none, then by class, then by what each has for
// its weight; what nobody else wants anybody has.
func TestSlots(t *testing.T) {
	type want struct {
		weight int
		class  matrix.Priority
		wants  int
		has    int
	}
	for name, runs := range map[string][]want{
		"alone":                  {{1, matrix.Normal, 100, 12}},
		"weights":                {{1, matrix.Normal, 100, 3}, {3, matrix.Normal, 100, 9}},
		"little is wanted":       {{5, matrix.Normal, 2, 2}, {1, matrix.Normal, 100, 10}},
		"nothing is wanted":      {{100, matrix.Urgent, 0, 0}, {1, matrix.Bulk, 100, 12}},
		"classes":                {{1, matrix.Bulk, 100, 1}, {1, matrix.Normal, 100, 1}, {1, matrix.Urgent, 100, 10}},
		"a class wants little":   {{1, matrix.Normal, 100, 6}, {1, matrix.Normal, 100, 6}, {1, matrix.Urgent, 0, 0}},
		"more runs than weights": {{1, matrix.Normal, 100, 4}, {1, matrix.Normal, 100, 4}, {1, matrix.Normal, 100, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSlots(12)
			flood := s.lane(1, matrix.Normal) // has all, before the others come
			for range 12 {
				if _, err := flood.Acquire(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var lanes []*lane
			for _, r := range runs {
				l := s.lane(r.weight, r.class)
				lanes = append(lanes, l)
				for range r.wants {
					wg.Go(func() { _, _ = l.Acquire(ctx, 1) })
				}
			}
			until(t, func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				for i, l := range lanes {
					if len(l.waiting) != runs[i].wants {
						return false
					}
				}
				return true
			})
			flood.Release(12)
			flood.close()
			var got, has []int
			s.mu.Lock()
			for i, l := range lanes {
				got, has = append(got, l.held), append(has, runs[i].has)
			}
			s.mu.Unlock()
			if !slices.Equal(got, has) {
				t.Errorf("got %v slots, want %v", got, has)
			}
			cancel()
			wg.Wait()
		})
	}
}

// Where there are fewer slots than runs each has its turn, by its weight; one that wanted
// nothing for a while has nothing to catch up.
func TestSlotsTurns(t *testing.T) {
	s := newSlots(1)
	a, b, c := s.lane(1, matrix.Normal), s.lane(2, matrix.Urgent), s.lane(1, matrix.Bulk)
	if _, err := a.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	turns := make(chan *lane)
	wait := func(l *lane, n int) {
		for range n {
			wg.Go(func() {
				if _, err := l.Acquire(ctx, 1); err == nil {
					turns <- l
				}
			})
		}
		until(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(l.waiting) == n
		})
	}
	wait(a, 50)
	wait(b, 50)
	a.Release(1)
	count := map[*lane]int{}
	take := func(n int) {
		for range n {
			l := <-turns
			count[l]++
			l.Release(1)
		}
	}
	take(30)
	if count[a] < 9 || count[a] > 11 {
		t.Errorf("of 30 turns got %d for weight 1 and %d for weight 2", count[a], count[b])
	}
	wait(c, 50)
	clear(count)
	take(20)
	if count[c] < 4 || count[c] > 6 {
		t.Errorf("of 20 turns got %d for the one that came late, want about 5", count[c])
	}
	cancel()
	for {
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case l := <-turns:
			l.Release(1)
		case <-done:
			return
		}
	}
}

// Who gives up waiting holds nothing.
func TestSlotsGivenUp(t *testing.T) {
	s := newSlots(1)
	a, b := s.lane(1, matrix.Normal), s.lane(1, matrix.Normal)
	for range 200 {
		if _, err := a.Acquire(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			_, err := b.Acquire(ctx, 1)
			over <- err
		}()
		go cancel()
		a.Release(1)
		if err := <-over; err == nil {
			b.Release(1)
		}
		cancel()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != 0 || a.held != 0 || b.held != 0 || len(b.waiting) != 0 {
		t.Errorf("held %d, %d by one and %d by the other, %d waiting: want none", s.held, a.held, b.held, len(b.waiting))
	}
}

func until(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for 10 s")
		}
	}
}
