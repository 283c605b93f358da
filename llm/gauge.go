package llm

import (
	"context"
	"sync"
	"time"
)

// Loader is a driver whose service tells how busy it is. Load reports the calls
// that the service works on and those that wait inside it, whoever sent them.
// ok is false where the service does not tell; it is not asked again then.
type Loader interface {
	Load(ctx context.Context) (running, waiting int, ok bool, err error)
}

const (
	gaugeEvery  = time.Second // between two looks, and as much more for every gaugeEnough endpoints
	gaugeEnough = 50
	gaugeWait   = 900 * time.Millisecond // for an answer
)

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
				running, waiting, tells, err := e.driver.(Loader).Load(look)
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
		if _, ok := e.driver.(Loader); ok && r.waiting > 0 && !e.mute && !e.out && !e.gone {
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
		e.limiter.Told(now, every, running, waiting)
		r.at.ask(e, now, r.waiting > 0)
		r.dispatch(now)
	}
}
