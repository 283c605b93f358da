package session

import (
	"context"
	"slices"
	"sync"

	"matrix/run"
)

// share is a semaphore whose slots may become more or fewer while it is used: what
// this process takes of a role, which workers act for, too.
type share struct {
	most int // steps of the role at once, by its config

	mu      sync.Mutex
	slots   int
	held    int             // may be more than there are slots
	waiters []chan struct{} // of those who wait for one; each is buffered for its signal
	load    int             // tasks of the role, lately
}

// Acquire is matrix.Semaphore's.
func (s *share) Acquire(ctx context.Context, most int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	if n := min(s.slots-s.held, most); n > 0 && len(s.waiters) == 0 {
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

// Release is matrix.Semaphore's.
func (s *share) Release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	s.serve()
}

// resize changes how many slots there are. Those that are held stay so.
func (s *share) resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = n
	s.serve()
}

// serve gives free slots to those who wait.
func (s *share) serve() {
	for s.held < s.slots && len(s.waiters) > 0 {
		s.held++
		s.waiters[0] <- struct{}{}
		s.waiters = s.waiters[1:]
	}
}

// of is how many slots this process has of a role that is doing p, where workers have
// room for others steps of it: as many as there may be without any, and else its
// part of the tasks that there are. So a role that has little to do leaves some of it to
// them, and what they have no room for is done here.
func (s *share) of(p run.RoleProgress, others int) int {
	if others == 0 {
		return s.most
	}
	s.load = max(p.Waiting+p.Acting, s.load*3/4)
	return min(s.most, max(1, (s.load*s.most+s.most+others-1)/(s.most+others)))
}
