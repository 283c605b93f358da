package run

import (
	"context"
	"sync"
	"time"
)

// suspensions are the times in which this process did not run: it was stopped by a
// signal (Ctrl-Z), or its machine stood still. They count as no time of any task.
type suspensions struct {
	mu    sync.Mutex
	alive time.Time // when it was last seen to run; zero while nobody watches
	spans []span    // the newest ones
}

type span struct{ from, to time.Time }

const (
	suspensionTick  = 250 * time.Millisecond // between two looks at the clock
	suspensionAfter = time.Second            // a look that comes so late was kept from coming
	maxSuspensions  = 32
)

// watch looks for suspensions until ctx ends.
func (s *suspensions) watch(ctx context.Context) {
	tick := time.NewTicker(suspensionTick)
	defer tick.Stop()
	s.check(time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.check(time.Now())
		}
	}
}

func (s *suspensions) check(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := (span{s.alive.Add(suspensionTick), now}); !s.alive.IsZero() && now.Sub(x.from) > suspensionAfter {
		if len(s.spans) == maxSuspensions {
			s.spans = s.spans[:copy(s.spans, s.spans[1:])]
		}
		s.spans = append(s.spans, x)
	}
	s.alive = now
}

// running is how long this process ran of the time d that ended at to.
func (s *suspensions) running(d time.Duration, to time.Time) time.Duration {
	s.check(time.Now()) // the clock may be looked at before the ticker is
	s.mu.Lock()
	defer s.mu.Unlock()
	from := to.Add(-d)
	for _, x := range s.spans {
		if x.from.Before(from) {
			x.from = from
		}
		if x.to.After(to) {
			x.to = to
		}
		d -= max(0, x.to.Sub(x.from))
	}
	return d
}
