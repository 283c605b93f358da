package session

import (
	"context"
	"math"
	"slices"
	"sync"

	"matrix"
)

// slots are steps at once that the runs of a process share. A free one goes to a run that
// has none, or else to the highest class, and in it to the run that has the fewest for its
// weight. So a run that waits for nothing takes none, and one that waits is never without
// one, or its turn, however much the others want.
type slots struct {
	most int // 0 for no limit

	mu    sync.Mutex
	held  int
	lanes []*lane
}

func newSlots(most int) *slots { return &slots{most: most} }

// lane is the place of one run among those that share slots: a matrix.Semaphore.
type lane struct {
	of *slots

	// Held by of.mu.
	weight  int
	class   matrix.Priority
	held    int
	turns   float64 // that it had, by weight
	waiting []chan struct{}
}

// lane adds a run.
func (s *slots) lane(weight int, class matrix.Priority) *lane {
	l := &lane{of: s, weight: max(1, weight), class: class}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lanes = append(s.lanes, l)
	return l
}

// set changes what a run has a right to, from now on.
func (l *lane) set(weight int, class matrix.Priority) {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.weight, l.class = max(1, weight), class
}

// close takes the run away, once it holds nothing and waits for nothing.
func (l *lane) close() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.of.lanes = slices.DeleteFunc(l.of.lanes, func(x *lane) bool { return x == l })
}

// Acquire is matrix.Semaphore's: it takes one slot.
func (l *lane) Acquire(ctx context.Context, _ int) (int, error) {
	s := l.of
	if err := ctx.Err(); err != nil || s.most == 0 {
		return 1, err
	}
	slot := make(chan struct{}, 1)
	s.mu.Lock()
	if l.held == 0 && len(l.waiting) == 0 { // what it had no use for is not kept for it
		l.turns = max(l.turns, s.least(l))
	}
	l.waiting = append(l.waiting, slot)
	s.serve()
	s.mu.Unlock()
	select {
	case <-slot:
		return 1, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(l.waiting, slot); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else { // it was given meanwhile
		l.release(1)
	}
	return 0, ctx.Err()
}

// Release is matrix.Semaphore's.
func (l *lane) Release(n int) {
	if l.of.most == 0 {
		return
	}
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.release(n)
}

func (l *lane) release(n int) {
	l.held -= n
	l.of.held -= n
	l.of.serve()
}

// least is the fewest turns that a run other than l has had which wants some; 0 where none
// does.
func (s *slots) least(l *lane) float64 {
	least := math.Inf(1)
	for _, x := range s.lanes {
		if x != l && x.held+len(x.waiting) > 0 {
			least = min(least, x.turns)
		}
	}
	if math.IsInf(least, 1) {
		return 0
	}
	return least
}

// serve gives free slots to those who wait.
func (s *slots) serve() {
	for s.held < s.most {
		var next *lane
		for _, l := range s.lanes {
			if len(l.waiting) > 0 && (next == nil || l.before(next)) {
				next = l
			}
		}
		if next == nil {
			return
		}
		s.held++
		next.held++
		next.turns += 1 / float64(next.weight)
		next.waiting[0] <- struct{}{}
		next.waiting = next.waiting[1:]
	}
}

// before reports whether a run gets the next slot before another one.
func (l *lane) before(x *lane) bool {
	a, b := l.held*x.weight, x.held*l.weight
	switch {
	case (l.held == 0) != (x.held == 0):
		return l.held == 0
	case l.held > 0 && l.class != x.class:
		return l.class > x.class
	case a != b:
		return a < b
	}
	return l.turns < x.turns
}

// room is for how many tasks there is room, beyond those that have begun: a run that shares
// slots has one that waits for them.
func (l *lane) room() int {
	s := l.of
	if s.most == 0 {
		return math.MaxInt32
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free := s.most - s.held
	if len(s.lanes) > 1 {
		free = max(free, 1)
	}
	return max(0, free-len(l.waiting))
}
