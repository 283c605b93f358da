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
		asked, n := c.scheduler.loaders()
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
				c.scheduler.reportLoad(e, running, waiting, tells, err, every)
			})
		}
		looks.Wait()
	}
}

// loaders are the endpoints to be asked, while calls wait for them, and how many
// endpoints there are.
func (s *scheduler) loaders() (ask []*endpoint, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.at.all {
		if _, ok := e.driver.(Loader); ok && s.waiting > 0 && e.limiter.Looks() && !e.mute && !e.out && !e.gone {
			ask = append(ask, e)
		}
	}
	return ask, len(s.at.all)
}

// reportLoad takes in what an endpoint says of itself.
func (s *scheduler) reportLoad(e *endpoint, running, waiting int, tells bool, err error, every time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !tells:
		e.mute = true
	case err == nil:
		e.limiter.ReportLoad(now, every, running, waiting)
		s.at.check(e, now, s.waiting > 0)
		s.dispatch(now)
		s.tell()
	}
}
