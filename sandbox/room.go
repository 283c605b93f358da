package sandbox

import (
	"context"
	"slices"
	"sync"
	"time"
)

// room admits so many boxes at once. Who waits is served in order.
type room struct {
	mu      sync.Mutex
	size    int
	held    int
	waiting []chan struct{}
	waited  time.Duration
}

// acquire waits for room. full is called where there is none at once: somebody may
// have to give up what it does not use.
func (r *room) acquire(ctx context.Context, full func()) (time.Duration, error) {
	r.mu.Lock()
	if r.held < r.size && len(r.waiting) == 0 {
		r.held++
		r.mu.Unlock()
		return 0, nil
	}
	begin, mine := time.Now(), make(chan struct{})
	r.waiting = append(r.waiting, mine)
	r.mu.Unlock()
	full()
	var err error
	select {
	case <-mine:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	took := time.Since(begin)
	r.waited += took
	if i := slices.Index(r.waiting, mine); i >= 0 { // it was not given any
		r.waiting = slices.Delete(r.waiting, i, i+1)
		r.mu.Unlock()
		return took, err
	}
	r.mu.Unlock()
	if err != nil {
		r.release()
	}
	return took, err
}

func (r *room) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) > 0 {
		close(r.waiting[0])
		r.waiting = r.waiting[1:]
		return
	}
	r.held--
}

func (r *room) waits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}
