package llm

import (
	"context"
	"time"
)

// Loader is a wire whose service tells how busy it is. Load reports the calls
// that the service works on and those that wait inside it, whoever sent them.
// ok is false where the service does not tell; it is not asked again then.
type Loader interface {
	Load(ctx context.Context) (running, waiting int, ok bool, err error)
}

const (
	gaugeEvery = time.Second     // between two looks
	gaugeHolds = 3 * time.Second // how long a look counts
	gaugeGrow  = 1.5             // a look, where nothing waits at the service and callers do
	gaugeOver  = 1.05            // of what the service works on: the next ones wait there, so that no place is empty
	gaugeMore  = 4               // calls above that
)

// gauge is the limit of an endpoint by what the service says of itself: a few
// calls more than it works on. It is guarded as a limiter is.
type gauge struct {
	limit float64
	at    time.Duration // of the last look, on the limiter's clock
	set   bool
}

// read takes a look in, with n of the client's own calls in flight and limit as
// it was. demand says that callers wait for room.
func (g *gauge) read(at time.Duration, running, waiting, n int, limit float64, demand bool) {
	if !g.set {
		g.limit, g.set = limit, true
	}
	g.at = at
	switch {
	case waiting > 0 && running > 0:
		// Of a service that others use too, the client keeps its share.
		g.limit = float64(n) * (gaugeOver*float64(running) + gaugeMore) / float64(running+waiting)
	case demand && float64(n) >= 0.9*g.limit:
		g.limit *= gaugeGrow
	}
	g.limit = max(g.limit, 1)
}

// fresh says whether what was read still counts.
func (g *gauge) fresh(at time.Duration) bool { return g.set && at-g.at < gaugeHolds }
