package limit

import "time"

const (
	gaugeHolds = 3    // looks that may fail before the last one does not count any more
	gaugeGrow  = 1.5  // a look, where nothing waits at the service and callers do
	gaugeOver  = 1.05 // of what the service works on: the next ones wait there, so that no place is empty
	gaugeMore  = 4    // calls above that
)

// gauge is the limit of an endpoint by what the service says of itself: a few
// calls more than it works on. A limiter follows it as long as it is fresh.
type gauge struct {
	limit float64 // 0 while nothing was read
	ran   [3]int  // calls that the service worked on, at the last looks
	room  bool    // nothing waited at the service
	until time.Duration
}

// read takes a look in: n of the client's own calls are in flight, and limit is
// as it was without the look. demand says that callers wait for room.
func (g *gauge) read(at, every time.Duration, running, waiting, n int, limit float64, demand bool) {
	if g.limit == 0 || at > g.until {
		g.limit, g.ran = limit, [3]int{}
	}
	g.until = at + gaugeHolds*every
	g.room = waiting == 0
	g.ran[2], g.ran[1], g.ran[0] = g.ran[1], g.ran[0], running
	places := float64(max(g.ran[0], g.ran[1], g.ran[2])) // a look may fall between one call and the next
	switch {
	case waiting > 0 && running > 0: // of a service that others use too, the client keeps its share
		g.limit = float64(n) * (gaugeOver*places + gaugeMore) / max(places, float64(running+waiting))
	case demand && float64(n) >= 0.9*g.limit:
		g.limit = max(g.limit, limit) * gaugeGrow
	}
	g.limit = max(g.limit, 1)
}

// fresh reports whether the service has told of itself lately.
func (g *gauge) fresh(at time.Duration) bool { return g.limit != 0 && at <= g.until }

// level is the limit, where otherwise says what it is without the gauge.
func (g *gauge) level(at time.Duration, otherwise float64) float64 {
	switch {
	case !g.fresh(at):
		return otherwise
	case g.room:
		return max(g.limit, otherwise)
	}
	return g.limit
}
