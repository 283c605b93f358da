package llm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDbg(t *testing.T) {
	var start time.Time
	s := &server{slots: 200}
	tries := 0
	wire := script(func(ctx context.Context, r *Request) (*Reply, error) {
		tries++
		if time.Since(start) < 20*time.Second && rand.Float64() < 0.6 {
			f := failure(Capacity)
			f.After = time.Second
			return nil, f
		}
		return s.Send(ctx, r)
	})
	virtual(t, Service{}, []Wire{wire}, func(t *testing.T, c *Client) {
		start = time.Now()
		go func() {
			for i := 0; i < 120; i++ {
				time.Sleep(500 * time.Millisecond)
				c.room.mu.Lock()
				e := c.room.endpoints[0]
				fmt.Println(time.Since(start), "tries", tries, "n", e.limiter.n, "limit", e.limiter.limit(), "waiting", c.room.waiting, "credit", e.limiter.pace.credit, "on", e.limiter.pace.on, "mult", e.limiter.pace.multiple, "after", e.limiter.pace.after, "young", e.limiter.pace.young, "out", e.out, "wake", c.room.wake.Sub(start))
				c.room.mu.Unlock()
			}
		}()
		storm(t, c, 1000, 3)
	})
}
