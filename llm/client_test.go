package llm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"matrix/internal/stopping"
)

// script is a driver whose service is a function.
type script func(ctx context.Context, r *Request) (*Reply, error)

func (s script) Send(ctx context.Context, r *Request) (*Reply, error) { return s(ctx, r) }
func (s script) Probe(context.Context) ([]Served, error)              { return []Served{{Name: "m-1"}}, nil }
func (s script) Close() error                                         { return nil }

// server is a service in virtual time: each call takes a while, and faults come
// first.
type server struct {
	took  func() time.Duration
	fault func(ctx context.Context) error // nil for none
	slots int                             // calls at work at once; more wait in the server. 0 for no limit

	open             sync.Once
	places           chan struct{} // made where time is virtual
	now, most, calls atomic.Int64
	busy             atomic.Int64 // nanoseconds of calls that succeeded
}

func (s *server) Send(ctx context.Context, r *Request) (*Reply, error) {
	if s.fault != nil {
		if err := s.fault(ctx); err != nil {
			return nil, err
		}
	}
	n := s.now.Add(1)
	defer s.now.Add(-1)
	if s.slots > 0 {
		s.open.Do(func() { s.places = make(chan struct{}, s.slots) })
		select {
		case s.places <- struct{}{}:
			defer func() { <-s.places }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for {
		m := s.most.Load()
		if n <= m || s.most.CompareAndSwap(m, n) {
			break
		}
	}
	d := 2 * time.Second
	if s.took != nil {
		d = s.took()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.calls.Add(1)
	s.busy.Add(int64(d))
	return &Reply{Choices: []Choice{{Text: "hello", Finish: "stop"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 7, CompletionTokens: 100}}}, nil
}
func (s *server) Probe(context.Context) ([]Served, error) { return []Served{{Name: "m-1"}}, nil }
func (s *server) Close() error                            { return nil }

func failure(k Kind) *Failure {
	return &Failure{Kind: k, Endpoint: "http://x/v1", Msg: k.String(), Sent: k != Unreachable && k != Capacity}
}

// virtual runs a test with a client of drivers, in virtual time.
func virtual(t *testing.T, s Service, drivers []Driver, f func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var at Endpoints
		for i := range drivers {
			at = append(at, Endpoint{URL: fmt.Sprintf("http://x%d/v1", i)})
		}
		c, err := New("teacher", s, at, func(url string) (Driver, error) {
			var i int
			fmt.Sscanf(url, "http://x%d/", &i)
			return drivers[i], nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func question(text string) *Request {
	return &Request{Messages: []Message{{Role: "user", Content: text}}, Key: "key-" + text}
}

// storm lets callers make calls, each so many, and says how long that took.
func storm(t *testing.T, c *Client, callers, each int) time.Duration {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				r := question(fmt.Sprint(i, " ", j))
				r.Session = fmt.Sprint(i)
				if _, err := c.Do(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// A fixed number of places is given in the order of arrival, and waiting for
// one is measured.
func TestFixedConcurrency(t *testing.T) {
	s := &server{took: func() time.Duration { return time.Second }}
	virtual(t, Service{Concurrency: 2}, []Driver{s}, func(t *testing.T, c *Client) {
		waits := make([]time.Duration, 5)
		var wg sync.WaitGroup
		for i := range waits {
			wg.Go(func() {
				rep, err := c.Do(t.Context(), question("x"))
				if err != nil {
					t.Error(err)
					return
				}
				waits[i] = rep.Wait
			})
			synctest.Wait()
		}
		if got := c.Stats(); got.InFlight != 2 || got.Waiting != 3 || got.Limit != 2 {
			t.Errorf("got %+v, want 2 in flight and 3 waiting", got)
		}
		wg.Wait()
		if want := []time.Duration{0, 0, time.Second, time.Second, 2 * time.Second}; !slices.Equal(waits, want) {
			t.Errorf("waits: got %v, want %v", waits, want)
		}
		if got := s.most.Load(); got != 2 {
			t.Errorf("at once: got %d, want 2", got)
		}
	})
}

// A role that asks seldom does not wait behind all the calls of one that asks
// much.
func TestRolesInTurn(t *testing.T) {
	s := &server{took: func() time.Duration { return time.Second }}
	virtual(t, Service{Concurrency: 1}, []Driver{s}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		call := func(role string) *Reply {
			r := question("x")
			r.Ask.Role = role
			rep, err := c.Do(t.Context(), r)
			if err != nil {
				t.Error(err)
				return &Reply{}
			}
			return rep
		}
		for range 50 {
			wg.Go(func() { call("teacher") })
		}
		synctest.Wait()
		for range 3 {
			if w := call("judge").Wait; w > 2*time.Second {
				t.Errorf("the judge waited %v behind the teacher's calls", w)
			}
		}
		wg.Wait()
	})
}

// Of the calls that wait, those of the highest priority go first, whoever asks, and
// none of them is lost where it leaves the line.
func TestUrgentCallsFirst(t *testing.T) {
	var order []string
	s := &server{took: func() time.Duration { return time.Second }}
	wire := script(func(ctx context.Context, r *Request) (*Reply, error) {
		order = append(order, r.Key)
		return s.Send(ctx, r)
	})
	virtual(t, Service{Concurrency: 1}, []Driver{wire}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		left, leave := context.WithCancel(t.Context())
		for i, x := range []struct {
			role     string
			priority int
			leaves   bool
		}{{"a", 0, false}, {"a", -2, false}, {"a", 0, false}, {"b", 0, false}, {"b", -2, true}, {"a", 1, false}, {"b", 2, true}, {"b", 2, false}, {"a", 2, false}} {
			wg.Go(func() {
				r, ctx := question(fmt.Sprint(i)), t.Context()
				if r.Ask.Role, r.Ask.Priority = x.role, x.priority; x.leaves {
					ctx = left
				}
				if _, err := c.Do(ctx, r); (err != nil) != x.leaves {
					t.Error(i, err)
				}
			})
			synctest.Wait()
		}
		leave()
		wg.Wait()
		if n := len(c.scheduler.classes); n != 0 {
			t.Errorf("%d classes are left, and nobody waits", n)
		}
	})
	if want := []string{"key-0", "key-7", "key-8", "key-5", "key-2", "key-3", "key-1"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

// A call whose try has failed comes before those that wait for their first.
func TestFailedCallsFirst(t *testing.T) {
	var tries int
	var order []string
	s := &server{took: func() time.Duration { return time.Second }}
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		if tries++; tries == 1 {
			time.Sleep(10 * time.Second)
			return nil, failure(Transport)
		}
		order = append(order, r.Key)
		return s.Send(ctx, r)
	})
	virtual(t, Service{Concurrency: 1}, []Driver{driver}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := c.Do(t.Context(), question(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
	if want := []string{"key-1", "key-0", "key-2", "key-3", "key-4"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

// A model that brings nothing says why, also while it is not out, until it
// brings something.
func TestNote(t *testing.T) {
	for name, c := range map[string]struct {
		driver script
		want   string
	}{
		"asks to wait": {func(context.Context, *Request) (*Reply, error) {
			f := failure(Capacity)
			f.After = time.Hour
			return nil, f
		}, "capacity; tried again after 2m0s, 30 s"},
		"fails": {func(context.Context, *Request) (*Reply, error) {
			time.Sleep(time.Second)
			return nil, failure(Fault)
		}, "fault, 29 s"},
		"hangs": {func(ctx context.Context, _ *Request) (*Reply, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "no reply yet, 30 s"},
	} {
		t.Run(name, func(t *testing.T) {
			up := false
			driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
				if up {
					return (&server{}).Send(ctx, r)
				}
				return c.driver(ctx, r)
			})
			virtual(t, Service{}, []Driver{driver}, func(t *testing.T, m *Client) {
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _, _ = m.Do(ctx, question("x")) })
				time.Sleep(time.Second)
				synctest.Wait()
				if s := m.Stats(); s.Note.String()+s.Paused.String() != "" {
					t.Errorf("at once: got %q %q", s.Note, s.Paused)
				}
				time.Sleep(29 * time.Second)
				synctest.Wait()
				if s := m.Stats(); !strings.HasSuffix(s.Note.String()+s.Paused.String(), c.want) {
					t.Errorf("got %q %q, want %q", s.Note, s.Paused, c.want)
				}
				cancel()
				wg.Wait()
				up = true
				if _, err := m.Do(t.Context(), question("y")); err != nil {
					t.Error(err)
				}
				if s := m.Stats(); s.Note.String()+s.Paused.String() != "" {
					t.Errorf("when it is back: got %q %q", s.Note, s.Paused)
				}
			})
		})
	}
}

// A model that has answered and is at work on long calls is not in trouble because
// it takes no more of them just now.
func TestNoteOfAFullModel(t *testing.T) {
	var calls atomic.Int32
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		switch calls.Add(1) {
		case 1:
			return (&server{}).Send(ctx, r)
		case 2:
			time.Sleep(15 * time.Second)
			return (&server{}).Send(ctx, r)
		}
		f := failure(Capacity)
		f.After = 2 * time.Second
		return nil, f
	})
	virtual(t, Service{}, []Driver{driver}, func(t *testing.T, m *Client) {
		if _, err := m.Do(t.Context(), question("x")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = m.Do(ctx, question("x")) })
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := m.Stats(); s.Note != nil || calls.Load() < 3 {
			t.Errorf("while a call is under way: got %q after %d calls", s.Note, calls.Load())
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if s := m.Stats(); !strings.Contains(s.Note.String(), "nothing but failures; ") {
			t.Errorf("when none is: got %q", s.Note)
		}
		cancel()
		wg.Wait()
	})
}

// A call that is to give up, or whose ctx ends, leaves the line, and nobody else is
// kept from it.
func TestLeavesTheLine(t *testing.T) {
	s := &server{took: func() time.Duration { return time.Second }}
	virtual(t, Service{Concurrency: 1}, []Driver{s}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		wg.Go(func() { c.Do(t.Context(), question("first")) })
		synctest.Wait()
		soft, cancel := context.WithCancel(t.Context())
		derived, cancelDerived := context.WithCancel(stopping.With(t.Context(), t.Context()))
		for _, ctx := range []context.Context{stopping.With(t.Context(), soft), derived} {
			wg.Go(func() {
				if _, err := c.Do(ctx, question("leaves")); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want that it gave up", err)
				}
			})
		}
		synctest.Wait()
		wg.Go(func() {
			rep, err := c.Do(t.Context(), question("stays"))
			if err != nil || rep.Wait != time.Second {
				t.Errorf("got %+v, %v, want to be next", rep, err)
			}
		})
		synctest.Wait()
		cancel()
		cancelDerived()
		wg.Wait()
		if s := c.Stats(); s.Waiting != 0 || s.InFlight != 0 || s.Calls != 2 {
			t.Errorf("got %+v", s)
		}
	})
}

// A service that is out is tried by one call at a time; meanwhile the model says
// why, and when it is back, all calls get through.
func TestServiceOut(t *testing.T) {
	for _, kind := range []Kind{Unreachable, Transport, Fault} {
		t.Run(kind.String(), func(t *testing.T) {
			var up atomic.Bool
			var trying, most, tries atomic.Int64
			s := &server{fault: func(ctx context.Context) error {
				if up.Load() {
					return nil
				}
				most.Store(max(most.Load(), trying.Add(1)))
				defer trying.Add(-1)
				tries.Add(1)
				time.Sleep(10 * time.Millisecond)
				return failure(kind)
			}}
			virtual(t, Service{Concurrency: 64}, []Driver{s}, func(t *testing.T, c *Client) {
				var wg sync.WaitGroup
				wg.Go(func() { storm(t, c, 100, 2) })
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if p := c.Stats().Paused.String(); p != "http://x/v1: "+kind.String()+", 9 s" || c.Stats().Paused.Kind != kind {
					t.Errorf("paused: got %q", p)
				}
				most.Store(0)
				before := tries.Load()
				time.Sleep(50 * time.Second)
				if n := tries.Load() - before; most.Load() > 1 || n < 8 || n > 200 {
					t.Errorf("tries in 50 s: got %d, %d at once; want some, one at a time", n, most.Load())
				}
				up.Store(true)
				back := time.Now()
				wg.Wait()
				if d := time.Since(back); d > 15*time.Second {
					t.Errorf("after the outage the calls took %v", d)
				}
				if s := c.Stats(); s.Paused != nil || s.Calls != 200 {
					t.Errorf("got %+v", s)
				}
			})
		})
	}
}

// The storms, in virtual time: every call succeeds, and the wall time is
// near what the faults leave possible. What becomes of a try is drawn by its call
// and its number, so that it is the same in every run of the test, whatever the
// order of the calls.
func TestStorms(t *testing.T) {
	const slots, callers, each = 200, 1000, 3
	const timeout = 20 * time.Second
	for _, x := range []struct {
		name  string
		fault func(r *rand.Rand, since time.Duration) (f *Failure, hangs bool)
		lost  time.Duration // that nothing can be done in
	}{
		{"none", nil, 0},
		{"60% 429 for 20 s", func(r *rand.Rand, since time.Duration) (*Failure, bool) {
			if since < 20*time.Second && r.Float64() < 0.6 {
				f := failure(Capacity)
				f.After = time.Second
				return f, false
			}
			return nil, false
		}, 0},
		{"5 s of resets and 503", func(r *rand.Rand, since time.Duration) (*Failure, bool) {
			switch {
			case since <= 10*time.Second || since >= 15*time.Second:
				return nil, false
			case r.Float64() < 0.5:
				return failure(Transport), false
			}
			return failure(Capacity), false
		}, 5 * time.Second},
		{"hangs, truncated, 500", func(r *rand.Rand, _ time.Duration) (*Failure, bool) {
			switch p := r.Float64(); {
			case p < 0.01:
				return nil, true
			case p < 0.03:
				return failure(Transport), false
			case p < 0.06:
				return failure(Fault), false
			}
			return nil, false
		}, 0},
		{"a minute out", func(_ *rand.Rand, since time.Duration) (*Failure, bool) {
			if since > 10*time.Second && since < 70*time.Second {
				return failure(Unreachable), false
			}
			return nil, false
		}, time.Minute},
	} {
		t.Run(x.name, func(t *testing.T) {
			var mu sync.Mutex
			tries := map[string]int{}
			alone := map[string]time.Duration{} // that a caller's calls take at least
			var ends []time.Duration
			var start time.Time
			places := &server{slots: slots}
			driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
				mu.Lock()
				tries[r.Key]++
				draw := rand.New(rand.NewPCG(sessionHash(r.Key), uint64(tries[r.Key])))
				mu.Unlock()
				spend := func(d time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					alone[r.Session] += d
				}
				if x.fault != nil {
					f, hangs := x.fault(draw, time.Since(start))
					if hangs {
						spend(timeout)
						<-ctx.Done()
						return nil, ctx.Err()
					} else if f != nil {
						return nil, f
					}
				}
				took := time.Duration(float64(2*time.Second) * min(6, 0.9*math.Exp(0.5*draw.NormFloat64())))
				spend(took)
				s := &server{took: func() time.Duration { return took }, slots: slots}
				s.open.Do(func() { s.places = places.places })
				rep, err := s.Send(ctx, r)
				mu.Lock()
				defer mu.Unlock()
				places.calls.Add(1)
				places.busy.Add(int64(took))
				ends = append(ends, time.Since(start))
				return rep, err
			})
			virtual(t, Service{Timeout: timeout}, []Driver{driver}, func(t *testing.T, c *Client) {
				start = time.Now()
				places.places = make(chan struct{}, slots)
				took := storm(t, c, callers, each)
				work := time.Duration(places.busy.Load()) / slots // of all places
				longest := slices.Max(slices.Collect(maps.Values(alone)))
				st := c.Stats()
				if st.Calls != callers*each || places.calls.Load() != callers*each {
					t.Fatalf("got %d calls, %d at the server; want %d", st.Calls, places.calls.Load(), callers*each)
				}
				most := ends[len(ends)*9/10]
				t.Logf("took %v, nine tenths %v; %v is possible, the longest caller %v; %d retries, limit %d", took, most, work+x.lost, longest, st.Retries, st.Limit)
				// The last tenth is the tail: fewer calls than places. 9 s are for the
				// places to be found, at the start and after an outage.
				if limit := work*9/10*115/100 + x.lost + 9*time.Second; most > limit {
					t.Errorf("nine tenths took %v, want at most %v", most, limit)
				}
				// A caller has its turn again within 15% of the time, so what is left of
				// its calls at the end is less than all of them, with their pauses.
				if limit := work*115/100 + x.lost + longest; took > limit {
					t.Errorf("took %v, want at most %v", took, limit)
				}
			})
		})
	}
}

// A request that always fails while others succeed is given up, and keeps
// nobody waiting; one that alone fails is given up later; a service that is full
// or out is waited for.
func TestGivenUp(t *testing.T) {
	for kind, want := range map[Kind][2]int{Timeout: {6, 60}, Fault: {6, 60}, Transport: {30, 300}} {
		t.Run(kind.String(), func(t *testing.T) {
			tries := 0
			driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
				if r.Messages[0].Content == "poison" {
					tries++
					time.Sleep(20 * time.Millisecond) // others succeed meanwhile
					return nil, failure(kind)
				}
				time.Sleep(10 * time.Millisecond)
				return &Reply{Choices: []Choice{{Text: "x"}}}, nil
			})
			given := func(others bool) int {
				tries = 0
				virtual(t, Service{Concurrency: 8}, []Driver{driver}, func(t *testing.T, c *Client) {
					ctx, stop := context.WithCancel(t.Context())
					var wg sync.WaitGroup
					for range 4 {
						if !others {
							break
						}
						wg.Go(func() {
							for ctx.Err() == nil {
								if _, err := c.Do(ctx, question("x")); err != nil && ctx.Err() == nil {
									t.Error(err)
								}
							}
						})
					}
					_, err := c.Do(t.Context(), question("poison"))
					stop()
					wg.Wait()
					var e *Error
					if !errors.As(err, &e) || e.Kind != Transient || e.Retries != tries-1 {
						t.Errorf("got %v", err)
					}
				})
				return tries
			}
			if got := given(true); got != want[0] {
				t.Errorf("given up after %d tries while others succeed, want %d", got, want[0])
			}
			if got := given(false); got != want[1] {
				t.Errorf("given up after %d tries alone, want %d", got, want[1])
			}
		})
	}
}

// A call is charged for what the service counted, and for the worst where it may
// have worked and nobody counted.
func TestChargedForTries(t *testing.T) {
	n := 0
	cut := script(func(context.Context, *Request) (*Reply, error) {
		n++
		switch n {
		case 1:
			return nil, failure(Transport) // may have worked
		case 2:
			return nil, failure(Unreachable)
		case 3:
			f := failure(Fault)
			f.Status = 500
			return nil, f
		}
		return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 100, CompletionTokens: 50}}}, nil
	})
	virtual(t, Service{Sampling: Sampling{MaxTokens: 1000}}, []Driver{cut}, func(t *testing.T, c *Client) {
		b := NewBudget(Cost{USD: 10}, BudgetOptions{})
		p := Price{Input: 1, Output: 2}
		c.Charge(b, p)
		r := question("hello")
		rep, err := c.Do(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		worst, _ := Worst(&Request{Messages: r.Messages, Sampling: Sampling{MaxTokens: 1000}}, &p, 0)
		want := worst.USD + 200e-6
		if got := b.State().Spent.USD; got < want-1e-8 || got > want+1e-8 {
			t.Errorf("spent %v, want %v: one try that nobody counted, and a reply", got, want)
		}
		if rep.Usage.USD != 200e-6 {
			t.Errorf("the reply cost %v, want 0.0002", rep.Usage.USD)
		}
	})
}

// A reply says what was asked for: by the call, by the model's config, in either
// way, or by the driver where nobody says.
func TestAsked(t *testing.T) {
	driver := script(func(context.Context, *Request) (*Reply, error) {
		return &Reply{Choices: []Choice{{Text: "x"}}, Asked: Asked{MaxTokens: 4096}}, nil
	})
	for _, c := range []struct {
		name        string
		model, call Sampling
		want        Asked
	}{
		{"nobody", Sampling{}, Sampling{}, Asked{1, 4096}},
		{"the model", Sampling{MaxTokens: 7, N: 2}, Sampling{}, Asked{2, 7}},
		{"the call", Sampling{MaxTokens: 7, N: 2}, Sampling{MaxTokens: 9, N: 3}, Asked{3, 9}},
		{"extra_body", Sampling{}, Sampling{Extra: map[string]any{"max_completion_tokens": 5, "n": 4}}, Asked{4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			virtual(t, Service{Sampling: c.model}, []Driver{driver}, func(t *testing.T, client *Client) {
				r := question("hello")
				r.Sampling = c.call
				if rep, err := client.Do(t.Context(), r); err != nil || rep.Asked != c.want {
					t.Errorf("got %+v, %v, want %+v", rep, err, c.want)
				}
			})
		})
	}
}
