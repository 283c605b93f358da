package llm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener on connections in memory, so that client and server run
// on a clock that the test controls.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	down  atomic.Bool // refuse connections
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if p.down.Load() {
		return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("down")}
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inMemory runs a test with a client, tuned as users have it, and a server.
func inMemory(t *testing.T, c OpenAI, h http.HandlerFunc, f func(t *testing.T, m *openAI, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := &http.Server{Handler: h, ErrorLog: silent}
		served := make(chan error)
		go func() { served <- s.Serve(p) }()
		c.BaseURL = "http://server/v1"
		m, err := newOpenAI("teacher", c, tuned)
		if err != nil {
			t.Fatal(err)
		}
		m.http.DialContext = p.dial
		f(t, m, p)
		m.Close()
		s.Close()
		<-served
	})
}

// Slots are given in the order of arrival, and waiting for one is measured.
func TestConcurrency(t *testing.T) {
	var now, most atomic.Int32
	order := new(log)
	inMemory(t, OpenAI{Concurrency: 2}, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		order.add(said(t, r))
		time.Sleep(time.Second)
		reply(w, good)
	}, func(t *testing.T, m *openAI, _ *pipes) {
		waits := make([]time.Duration, 5)
		var wg sync.WaitGroup
		for i := range waits {
			wg.Go(func() {
				rep, err := m.Chat(t.Context(), ask(string(rune('a'+i))))
				if err != nil {
					t.Error(err)
					return
				}
				waits[i] = rep.Wait
			})
			synctest.Wait()
		}
		if got := m.Stats().InFlight; got != 2 {
			t.Errorf("in flight: got %d, want 2", got)
		}
		wg.Wait()
		if want := []time.Duration{0, 0, time.Second, time.Second, 2 * time.Second}; !slices.Equal(waits, want) {
			t.Errorf("waits: got %v, want %v", waits, want)
		}
		slices.Sort(order.list[0:2]) // two at a time, in any order among themselves
		slices.Sort(order.list[2:4])
		if want := []string{"a", "b", "c", "d", "e"}; !slices.Equal(order.list, want) {
			t.Errorf("order: got %q, want %q", order.list, want)
		}
		if most.Load() != 2 {
			t.Errorf("at once: got %d, want 2", most.Load())
		}
	})
}

// Every call of a storm succeeds, and the service is full again soon after it.
// Without faults the calls take 60 s.
func TestStorms(t *testing.T) {
	const callers, each, took = 40, 30, 2 * time.Second
	for _, c := range []struct {
		name  string
		until time.Duration // the storm's end
		limit time.Duration // for all calls
		fault func(p *pipes, w http.ResponseWriter, r *http.Request) bool
	}{
		{"429", 20 * time.Second, 90 * time.Second, func(_ *pipes, w http.ResponseWriter, r *http.Request) bool {
			if rand.Float64() < 0.6 {
				w.WriteHeader(429)
				return true
			}
			return false
		}},
		{"a minute of 500", time.Minute, 135 * time.Second, func(_ *pipes, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(500)
			return true
		}},
		{"a minute of nobody there", time.Minute, 135 * time.Second, func(p *pipes, w http.ResponseWriter, r *http.Request) bool {
			p.down.Store(true)
			panic(http.ErrAbortHandler)
		}},
		{"a bit of everything", time.Hour, 5 * time.Minute, func(_ *pipes, w http.ResponseWriter, r *http.Request) bool {
			switch x := rand.Float64(); {
			case x < 0.01:
				<-r.Context().Done()
			case x < 0.03:
				w.Header().Set("Content-Length", "5000")
				reply(w, good)
			case x < 0.06:
				w.WriteHeader(500)
			default:
				return false
			}
			return true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var start time.Time
			var p *pipes
			inMemory(t, OpenAI{Concurrency: callers, Timeout: 20 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
				said(t, r)
				if time.Since(start) < c.until && c.fault(p, w, r) {
					return
				}
				time.Sleep(took)
				reply(w, good)
			}, func(t *testing.T, m *openAI, pp *pipes) {
				start, p = time.Now(), pp
				up := time.AfterFunc(c.until, func() { p.down.Store(false) })
				defer up.Stop()
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() {
						for j := range each {
							if _, err := m.Chat(t.Context(), ask(fmt.Sprint(i, j))); err != nil {
								t.Error(err)
							}
						}
					})
				}
				wg.Wait()
				all := time.Since(start)
				t.Logf("took %v, %d retries", all, m.Stats().Retries)
				if all > c.limit || m.Stats().Calls != callers*each {
					t.Errorf("took %v for %d calls, want at most %v", all, m.Stats().Calls, c.limit)
				}
			})
		})
	}
}
