package llm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// servers are several endpoints alike.
func servers(n int) (all []*server, drivers []Driver) {
	for range n {
		s := &server{}
		all, drivers = append(all, s), append(drivers, s)
	}
	return all, drivers
}

// Sessions stay at one endpoint, and no endpoint has much more than the others.
func TestSessionsStay(t *testing.T) {
	const sessions, turns = 400, 10
	all, plain := servers(4)
	var mu sync.Mutex
	at := map[string][]int{} // endpoint of each turn
	drivers := make([]Driver, len(plain))
	var worst float64
	for i := range plain {
		drivers[i] = script(func(ctx context.Context, r *Request) (*Reply, error) {
			mu.Lock()
			at[r.Session] = append(at[r.Session], i)
			mu.Unlock()
			var sum, most int64
			for _, s := range all {
				sum += s.now.Load()
				most = max(most, s.now.Load())
			}
			if sum > 300 {
				worst = max(worst, float64(most)*4/float64(sum))
			}
			return all[i].Send(ctx, r)
		})
	}
	for _, s := range all {
		s.took = func() time.Duration { return time.Duration(float64(time.Second) * (0.5 + rand.Float64())) }
	}
	virtual(t, Service{Concurrency: 320}, drivers, func(t *testing.T, c *Client) {
		storm(t, c, sessions, turns)
	})
	stayed := 0
	for _, places := range at {
		for i := 1; i < len(places); i++ {
			if places[i] == places[i-1] {
				stayed++
			}
		}
	}
	share := float64(stayed) / (sessions * (turns - 1))
	t.Logf("%.3f of the turns stayed, most loaded endpoint %.2f of the mean", share, worst)
	if share < 0.85 {
		t.Errorf("%.3f of the turns stayed at the session's endpoint, want most", share)
	}
	if worst > 1.26 {
		t.Errorf("an endpoint had %.2f of the mean load, want at most 1.25", worst)
	}
}

// An endpoint that dies or turns slow costs at most its share.
func TestBadEndpoint(t *testing.T) {
	const callers, each = 400, 15
	for _, x := range []struct {
		name string
		make func(start *time.Time, s *server)
	}{
		{"dead", func(start *time.Time, s *server) {
			s.fault = func(context.Context) error {
				if time.Since(*start) > 5*time.Second {
					return failure(Unreachable)
				}
				return nil
			}
		}},
		{"hangs", func(start *time.Time, s *server) {
			s.fault = func(ctx context.Context) error {
				if time.Since(*start) > 5*time.Second {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
		}},
		{"slow", func(start *time.Time, s *server) {
			s.took = func() time.Duration {
				if time.Since(*start) > 5*time.Second {
					return 20 * time.Second
				}
				return 2 * time.Second
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			const slots = 100
			var start time.Time
			all, drivers := servers(4)
			x.make(&start, all[0])
			for _, s := range all {
				s.slots = slots
			}
			virtual(t, Service{Timeout: 30 * time.Second}, drivers, func(t *testing.T, c *Client) {
				start = time.Now()
				took := storm(t, c, callers, each)
				// Three endpoints do 150 calls a second.
				ideal := time.Duration(callers*each-4*slots*2) * time.Second / (3 * slots / 2)
				st := c.Stats()
				t.Logf("took %v, %v is possible; calls %d %d %d %d", took, ideal+5*time.Second, all[0].calls.Load(), all[1].calls.Load(), all[2].calls.Load(), all[3].calls.Load())
				if st.Calls != callers*each {
					t.Errorf("got %d calls, want %d", st.Calls, callers*each)
				}
				if limit := (ideal+5*time.Second)*13/10 + 30*time.Second; took > limit {
					t.Errorf("took %v, want at most %v", took, limit)
				}
			})
		})
	}
}

// An endpoint that refuses everybody is left out while another answers; when all
// do, the call ends with what to do.
func TestFatalEndpoint(t *testing.T) {
	wrong := script(func(context.Context, *Request) (*Reply, error) {
		f := failure(Fatal)
		f.Status, f.Code, f.Hint = 404, "model_not_found", "check model"
		return nil, f
	})
	good := &server{}
	virtual(t, Service{}, []Driver{wrong, good}, func(t *testing.T, c *Client) {
		storm(t, c, 20, 3)
		if s := c.Stats(); s.Calls != 60 || s.Endpoints[0].Fault == nil || s.Endpoints[1].Fault != nil {
			t.Errorf("got %+v", s)
		}
	})
	virtual(t, Service{}, []Driver{wrong, wrong}, func(t *testing.T, c *Client) {
		_, err := c.Do(t.Context(), question("x"))
		var e *Error
		if !errors.As(err, &e) || e.Kind != Fatal || !strings.Contains(e.Hint, "m-1") {
			t.Errorf("got %v, want a fatal error that says which models there are", err)
		}
	})
}

// Endpoints that are listed later get calls, and those that are not any more get
// none, but the calls that they have.
func TestEndpointsComeAndGo(t *testing.T) {
	all, drivers := servers(3)
	virtual(t, Service{Concurrency: 30}, drivers[:1], func(t *testing.T, c *Client) {
		use := func(which ...int) {
			var urls []string
			for _, i := range which {
				urls = append(urls, fmt.Sprint(i))
			}
			c.scheduler.use(urls, func(url string) *endpoint {
				var i int
				fmt.Sscan(url, &i)
				return newEndpoint(url, drivers[i], 0)
			})
		}
		use(0, 1)
		storm(t, c, 60, 2)
		a, b := all[0].calls.Load(), all[1].calls.Load()
		if a+b != 120 || a < 20 || b < 20 {
			t.Errorf("got %d and %d calls, want 120 shared out", a, b)
		}
		var wg sync.WaitGroup
		wg.Go(func() { storm(t, c, 60, 2) })
		time.Sleep(time.Second)
		use(2)
		wg.Wait()
		if n := all[2].calls.Load(); n < 80 {
			t.Errorf("the new endpoint got %d calls, want most", n)
		}
		if s := c.Stats(); len(s.Endpoints) != 1 || s.Calls != 240 {
			t.Errorf("got %+v", s)
		}
	})
}
