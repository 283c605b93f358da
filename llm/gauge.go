package llm

import (
	"context"
	"sync"
	"time"
)

// Loader is a wire whose service tells how busy it is. Load reports the calls
// that the service works on and those that wait inside it, whoever sent them.
// ok is false where the service does not tell; it is not asked again then.
type Loader interface {
	Load(ctx context.Context) (running, waiting int, ok bool, err error)
}

const (
	gaugeEvery  = time.Second // between two looks, and as much more for every gaugeEnough endpoints
	gaugeEnough = 50
	gaugeWait   = 900 * time.Millisecond // for an answer
	gaugeHolds  = 3                      // looks that may fail before the last one does not count any more
	gaugeGrow   = 1.5                    // a look, where nothing waits at the service and callers do
	gaugeOver   = 1.05                   // of what the service works on: the next ones wait there, so that no place is empty
	gaugeMore   = 4                      // calls above that
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

// level is the limit, where otherwise says what it is without the gauge.
func (g *gauge) level(at time.Duration, otherwise float64) float64 {
	switch {
	case g.limit == 0 || at > g.until:
		return otherwise
	case g.room:
		return max(g.limit, otherwise)
	}
	return g.limit
}

// gauges looks how busy the endpoints are, as long as calls wait, until ctx
// ends. Those that do not tell are not asked again.
func (c *Client) gauges(ctx context.Context) {
	for {
		asked, n := c.room.loaders()
		every := gaugeEvery * time.Duration(1+n/gaugeEnough)
		t := time.NewTimer(every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		var looks sync.WaitGroup
		for _, e := range asked {
			looks.Go(func() {
				look, cancel := context.WithTimeout(ctx, gaugeWait)
				defer cancel()
				running, waiting, tells, err := e.wire.(Loader).Load(look)
				c.room.told(e, running, waiting, tells, err, every)
			})
		}
		looks.Wait()
	}
}

// loaders are the endpoints to be asked, while calls wait for them, and how many
// endpoints there are.
func (r *room) loaders() (ask []*endpoint, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.at.all {
		if _, ok := e.wire.(Loader); ok && r.waiting > 0 && !e.mute && !e.out && !e.gone {
			ask = append(ask, e)
		}
	}
	return ask, len(r.at.all)
}

// told takes in what an endpoint says of itself.
func (r *room) told(e *endpoint, running, waiting int, tells bool, err error, every time.Duration) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !tells:
		e.mute = true
	case err == nil:
		e.limiter.told(now, every, running, waiting)
		r.at.ask(e, now, r.waiting > 0)
		r.dispatch(now)
	}
}
