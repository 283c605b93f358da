package llm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A driver that panics takes neither a slot nor money with it.
func TestPanicGivesBack(t *testing.T) {
	driver := script(func(context.Context, *Request) (*Reply, error) { panic("oh") })
	virtual(t, Service{Sampling: Sampling{MaxTokens: 10}}, []Driver{driver}, func(t *testing.T, c *Client) {
		b := NewBudget(Cost{USD: 1}, BudgetOptions{})
		c.Charge(b, Price{Output: 1})
		func() {
			defer func() { _ = recover() }()
			c.Do(t.Context(), question("x"))
			t.Error("got no panic")
		}()
		if s, b := c.Stats(), b.State(); s.InFlight != 0 || b.Reserved != (Cost{}) || b.Spent.USD == 0 {
			t.Errorf("got %+v, %+v; want no slot, nothing reserved, and the worst spent", s, b)
		}
	})
}

// A service that is back is found, also where its replies take longer than they
// did, or than anybody knows.
func TestSlowAfterOutage(t *testing.T) {
	for name, before := range map[string]int{"never answered": 0, "was fast": 20} {
		t.Run(name, func(t *testing.T) {
			n := 0
			var start time.Time
			driver := script(func(ctx context.Context, _ *Request) (*Reply, error) {
				n++
				took := time.Second
				if n > before {
					if start.IsZero() {
						start = time.Now()
					}
					if time.Since(start) < 20*time.Second {
						return nil, failure(Unreachable)
					}
					took = 90 * time.Second
				}
				select {
				case <-time.After(took):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return &Reply{Choices: []Choice{{Text: "x"}}}, nil
			})
			virtual(t, Service{}, []Driver{driver}, func(t *testing.T, c *Client) {
				for range before {
					c.Do(t.Context(), question("x"))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
				defer cancel()
				from := time.Now()
				if _, err := c.Do(ctx, question("x")); err != nil || time.Since(from) > 10*time.Minute {
					t.Errorf("got %v after %v, want a reply within minutes", err, time.Since(from))
				}
			})
		})
	}
}

// What nobody has counted is charged at its worst: a reply of which only the
// length is known, and one that was drawn and cannot be used.
func TestChargedWhereNobodyCounts(t *testing.T) {
	p := Price{Input: 1, Output: 2}
	for name, driver := range map[string]script{
		"reply": func(context.Context, *Request) (*Reply, error) {
			return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{CompletionTokens: 3}}}, nil
		},
		"unusable": func(context.Context, *Request) (*Reply, error) {
			return nil, &Failure{Kind: Refused, Status: 200, Sent: true, Msg: "the reply is too large"}
		},
	} {
		virtual(t, Service{Sampling: Sampling{MaxTokens: 1000}}, []Driver{driver}, func(t *testing.T, c *Client) {
			b := NewBudget(Cost{USD: 10}, BudgetOptions{})
			c.Charge(b, p)
			r := question("hello")
			c.Do(t.Context(), r)
			worst, _ := Worst(&Request{Messages: r.Messages, Sampling: Sampling{MaxTokens: 1000}}, &p, 0)
			if got := b.State().Spent.USD; got < worst.USD-1e-8 {
				t.Errorf("%s: spent %v, want the worst, %v", name, got, worst.USD)
			}
		})
	}
}

// Where a service turns out to have no such model, what is under way there was
// never taken, and is not paid when the run stops.
func TestNotTakenIsNotPaid(t *testing.T) {
	for _, answers := range []int{0, 1} { // before
		var n atomic.Int64
		driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
			switch {
			case int(n.Add(1)) <= answers:
				return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 1, CompletionTokens: 1}}}, nil
			case r.Key == "key-first":
				return nil, &Failure{Kind: Fatal, Endpoint: "http://x", Status: 404, Code: "model_not_found", Msg: "no"}
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		virtual(t, Service{Sampling: Sampling{MaxTokens: 1000}}, []Driver{driver}, func(t *testing.T, c *Client) {
			b := NewBudget(Cost{USD: 10}, BudgetOptions{})
			c.Charge(b, Price{Input: 1, Output: 2})
			for range answers {
				c.Do(t.Context(), question("x"))
			}
			before := b.State().Spent.USD
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() { c.Do(ctx, question(fmt.Sprint(i))) })
			}
			synctest.Wait()
			c.Do(ctx, question("first"))
			stop()
			wg.Wait()
			if paid := b.State().Spent.USD > before; paid != (answers > 0) {
				t.Errorf("after %d answers: spent %v USD, %v before", answers, b.State().Spent.USD, before)
			}
		})
	}
}

// A service that refuses one call after the other stops the run, unless it
// answers between, or says that it has read them.
func TestRefusalsInARow(t *testing.T) {
	refuse := func(status int, code string) *Failure {
		return &Failure{Kind: Refused, Status: status, Code: code, Msg: "no"}
	}
	for _, x := range []struct {
		name    string
		limit   int
		refusal *Failure
		answers int // one of so many calls; 0 for none
		stops   int // at which call; 0 for never
	}{
		{"an unknown code", 100, refuse(400, "credit_exhausted"), 0, 100},
		{"never sent", 100, refuse(0, ""), 0, 100},
		{"another limit", 7, refuse(400, ""), 0, 7},
		{"never", 0, refuse(400, ""), 0, 0},
		{"answers between", 100, refuse(400, ""), 50, 0},
		{"forbidden", 100, refuse(403, ""), 0, 100},
		{"the filter", 100, refuse(400, "content_filter"), 0, 0},
		{"the model declines", 100, refuse(200, ""), 0, 0},
		{"too long", 100, &Failure{Kind: Context, Status: 400}, 0, 0},
	} {
		n := 0
		driver := script(func(_ context.Context, r *Request) (*Reply, error) {
			if n++; x.answers > 0 && (n%x.answers == 0 || strings.HasSuffix(r.Key, "-again")) {
				return &Reply{Choices: []Choice{{Text: "x"}}}, nil
			}
			f := *x.refusal
			return nil, &f
		})
		virtual(t, Service{Refusals: x.limit}, []Driver{driver}, func(t *testing.T, c *Client) {
			stopped := 0
			for i := 1; i <= 300 && stopped == 0; i++ {
				_, err := c.Do(t.Context(), question("x"))
				var e *Error
				if errors.As(err, &e) && e.Kind == Fatal {
					stopped = i
					if !strings.Contains(e.Hint, "refusals") || e.Msg != "no" {
						t.Errorf("%s: got %v, want the service's words and what to do", x.name, err)
					}
				}
			}
			if stopped != x.stops {
				t.Errorf("%s: stopped at call %d, want %d", x.name, stopped, x.stops)
			}
		})
	}
	if err := (&Service{Refusals: -1}).check(); err == nil {
		t.Error("refusals of -1: got no error")
	}
}

// Tokens a minute are reserved by what replies really took, so that a generous
// max_tokens leaves none of them unused; and what was not sent takes none.
func TestTokensAMinute(t *testing.T) {
	const tpm, real = 60_000, 100
	driver := script(func(context.Context, *Request) (*Reply, error) {
		time.Sleep(2 * time.Second)
		return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 10, CompletionTokens: real - 10}}}, nil
	})
	virtual(t, Service{TPM: tpm, Sampling: Sampling{MaxTokens: 8000}}, []Driver{driver}, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				for ctx.Err() == nil {
					c.Do(ctx, question("x"))
				}
			})
		}
		time.Sleep(time.Minute)
		before := c.Stats().Calls
		time.Sleep(time.Minute)
		if n := (c.Stats().Calls - before) * real; n < tpm*9/10 || n > tpm*11/10 {
			t.Errorf("got %d tokens in the second minute, want some %d", n, tpm)
		}
		cancel()
		wg.Wait()
	})
	n := 0
	later := script(func(context.Context, *Request) (*Reply, error) {
		if n++; n < 5 {
			return nil, failure(Unreachable)
		}
		return &Reply{Choices: []Choice{{Text: "x"}}}, nil
	})
	virtual(t, Service{TPM: 600, Sampling: Sampling{MaxTokens: 200}}, []Driver{later}, func(t *testing.T, c *Client) {
		start := time.Now()
		// Four pauses take 15 s at most, and four times the tokens would take 80.
		if _, err := c.Do(t.Context(), question("x")); err != nil || time.Since(start) > 20*time.Second {
			t.Errorf("got %v after %v, want no tokens to be spent on tries that nothing was sent in", err, time.Since(start))
		}
	})
}

// A password in a base URL, or a key in its query, is shown nowhere.
func TestBareURL(t *testing.T) {
	hang := script(func(ctx context.Context, _ *Request) (*Reply, error) { <-ctx.Done(); return nil, ctx.Err() })
	synctest.Test(t, func(t *testing.T) {
		c, err := New("m", Service{Timeout: time.Second}, Endpoints{{URL: "http://me:sesame@x/v1?key=sesame"}}, func(string) (Driver, error) { return hang, nil })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = c.Do(ctx, question("x"))
		for _, said := range []string{fmt.Sprint(err), fmt.Sprint(c.Stats()), fmt.Sprint(c.Probe(t.Context()))} {
			if strings.Contains(said, "sesame") || !strings.Contains(said, "http://x/v1") {
				t.Errorf("got %s, want http://x/v1 and no secret", said)
			}
		}
	})
}

// Of a thousand calls that learn that their model is not there, one asks which
// are.
func TestServedAskedOnce(t *testing.T) {
	w := &probed{script: func(context.Context, *Request) (*Reply, error) {
		time.Sleep(time.Second)
		return nil, &Failure{Kind: Fatal, Status: 404, Msg: "no such model"}
	}}
	virtual(t, Service{Concurrency: 1000}, []Driver{w}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := c.Do(t.Context(), question("x")); kindOf(t, err).Hint == "" {
					t.Errorf("got %v, want a hint", err)
				}
			})
		}
		wg.Wait()
		if w.n > 1 {
			t.Errorf("asked %d times, want once", w.n)
		}
	})
}

type probed struct {
	script
	n int
}

func (p *probed) Probe(context.Context) ([]Served, error) {
	p.n++
	time.Sleep(time.Second)
	return []Served{{Name: "m-1"}}, nil
}

// An endpoint that is not listed any more is closed with its last call, also
// where that had left the queue when it got its slot.
func TestGoneIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			w := &closed{}
			s := newScheduler(1, newQuota(0, 0), tuned.probe)
			s.use([]string{"a"}, func(url string) *endpoint { return newEndpoint(url, w, 1) })
			sl, _ := s.acquire(t.Context(), &waiter{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if sl, _ := s.acquire(ctx, &waiter{}); sl != nil {
					s.release(sl, nil, nil)
				}
			}()
			synctest.Wait()
			cancel()
			s.release(sl, nil, nil)
			s.use(nil, nil)
			synctest.Wait()
			if w.n != 1 || len(s.at.all) != 0 {
				t.Fatalf("closed %d times, %d endpoints left; want once, and none", w.n, len(s.at.all))
			}
			s.close()
		}
	})
}

type closed struct {
	script
	n int
}

func (c *closed) Close() error { c.n++; return nil }

// Sessions do not leave an endpoint whose speed is about where it counts as slow,
// again and again.
func TestSlowStaysSlow(t *testing.T) {
	now := time.Now()
	var all []*endpoint
	for range 3 {
		e := newEndpoint("x", nil, 0)
		e.speed, e.took = 100, time.Second
		all = append(all, e)
	}
	for _, x := range []struct {
		speed float64
		slow  bool
	}{{62, false}, {58, true}, {62, true}, {70, true}, {80, false}, {62, false}} {
		all[0].speed = x.speed
		weigh(all, now)
		if got := all[0].weight < 1; got != x.slow {
			t.Errorf("at %v%% of the others' speed: got slow %v, want %v", x.speed, got, x.slow)
		}
	}
}

// Whatever happens to calls and endpoints, every call ends, and the scheduler has
// counted right. Where one was forgotten, the test ends in a deadlock.
func TestNobodyIsForgotten(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			draw, start := rand.New(rand.NewPCG(seed, 1)), time.Now()
			s := Service{Timeout: 15 * time.Second, Sampling: Sampling{MaxTokens: 500}}
			if draw.IntN(3) == 0 {
				s.Concurrency = Concurrency(1 + draw.IntN(40))
			}
			if draw.IntN(3) == 0 {
				s.RPM, s.TPM = 3000, 600_000
			}
			driver := script(func(ctx context.Context, _ *Request) (*Reply, error) {
				select {
				case <-time.After(rand.N(3 * time.Second)):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				switch k := Kind(rand.IntN(12)); {
				case time.Since(start)%(40*time.Second) < 10*time.Second:
					return nil, failure(Unreachable)
				case k <= Fault && k != Timeout:
					f := failure(k)
					f.After = rand.N(3 * time.Second)
					return nil, f
				case k == Timeout:
					<-ctx.Done()
					return nil, ctx.Err()
				case k == 5:
					return nil, failure(Refused)
				}
				return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 20, CompletionTokens: 100}}}, nil
			})
			c, err := New("m", s, Endpoints{{URL: "http://0/v1"}, {URL: "http://1/v1"}}[:1+seed/2%2], func(string) (Driver, error) { return driver, nil })
			if err != nil {
				t.Fatal(err)
			}
			b := NewBudget(Cost{Tokens: 1e9}, BudgetOptions{})
			c.Charge(b, Price{})
			var wg sync.WaitGroup
			for i := range 150 {
				wg.Go(func() {
					for j := range 8 {
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if rand.IntN(4) == 0 {
							ctx, cancel = context.WithTimeout(ctx, rand.N(20*time.Second))
						}
						r := question("x")
						r.Ask.Role = fmt.Sprint(j % 3)
						if i%2 == 0 {
							r.Session = fmt.Sprint(i)
						}
						c.Do(ctx, r)
						cancel()
					}
				})
			}
			ended := make(chan struct{})
			go func() { wg.Wait(); close(ended) }()
			for over := false; !over; {
				select {
				case <-ended:
					over = true
				case <-time.After(rand.N(5 * time.Second)):
					if seed%2 == 0 { // a new list wakes whoever was forgotten
						break
					}
					var urls []string
					for i := range 6 {
						if i == 0 || rand.IntN(2) == 0 {
							urls = append(urls, fmt.Sprintf("http://%d/v1", i))
						}
					}
					c.scheduler.use(urls, func(url string) *endpoint { return newEndpoint(url, driver, int(s.Concurrency)) })
				}
				counted(t, c.scheduler)
			}
			if st, bs := c.Stats(), b.State(); st.InFlight != 0 || st.Waiting != 0 || bs.Reserved != (Cost{}) {
				t.Errorf("seed %d: got %+v, %+v; want nothing left", seed, st, bs)
			}
			c.Close()
		})
	}
}

// counted checks what a scheduler keeps against its endpoints.
func counted(t *testing.T, s *scheduler) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	calls, all, ready, due := 0, 0, 0, 0
	weight := 0.
	for _, e := range s.at.all {
		all += e.limiter.InFlight()
		if !e.out && !e.gone {
			calls += e.limiter.InFlight()
			weight += e.weight
		}
		if e.index > 0 {
			ready++
			if s.at.ready[e.index-1] != e {
				t.Errorf("an endpoint is not where it says, at %d", e.index)
			}
			if e.out {
				due++
			}
		}
	}
	if calls != s.at.calls || all != s.inFlight || ready != len(s.at.ready) || due != s.at.due || weight != s.at.weight {
		t.Errorf("got %d calls, %d in flight, %d ready, %d due, weight %v; want %d, %d, %d, %d, %v",
			s.at.calls, s.inFlight, len(s.at.ready), s.at.due, s.at.weight, calls, all, ready, due, weight)
	}
	if s.waiting > 0 && s.inFlight == 0 && s.wake.IsZero() && len(s.at.all) > 0 {
		t.Errorf("%d wait, and nothing will wake them", s.waiting)
	}
}

// A budget whose grant cannot be noted keeps nobody from those of its parents.
func TestSpendRaisesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := NewBudget(Cost{USD: 10}, BudgetOptions{Grant: func(Cost) error { return nil }})
		model := NewBudget(Cost{USD: 10}, BudgetOptions{Parent: run, Grant: func(Cost) error { return errors.New("disk full") }})
		if err := model.Spend(Cost{USD: 1}); err == nil {
			t.Error("got no error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := run.Reserve(ctx, Cost{USD: 1}); err != nil {
			t.Errorf("got %v, want room in the run's budget", err)
		}
	})
}

// A service that says that its limit is whole again in days is asked before.
func TestQuotaAsksAgain(t *testing.T) {
	q, now := newQuota(0, 0), time.Now()
	q.learn(now, []Quota{{Limit: 100, Reset: 11 * 24 * time.Hour}})
	if ok, wake := q.take(now, 1); ok || wake.Sub(now) > tuned.maxAfter {
		t.Errorf("got %v, and to wait %v; want at most %v", ok, wake.Sub(now), tuned.maxAfter)
	}
}

// The wait before a further try counts from the beginning of the one that
// failed: after one that has hung for longer there is none.
func TestPauseCountsFromTheTry(t *testing.T) {
	for _, c := range []struct {
		kind       Kind
		took       time.Duration
		least, end time.Duration // of four tries that fail
	}{
		{Timeout, 10 * time.Second, 40 * time.Second, 40 * time.Second},
		{Fault, 10 * time.Second, 40 * time.Second, 40 * time.Second},
		{Fault, 0, time.Microsecond, 15 * time.Second},
		{Fault, 3 * time.Second, 12 * time.Second, 18 * time.Second}, // waits of up to 1, 2, 4 and 8 s
	} {
		tries := 0
		driver := script(func(ctx context.Context, _ *Request) (*Reply, error) {
			if tries++; tries > 4 {
				return &Reply{Choices: []Choice{{Text: "x"}}}, nil
			}
			time.Sleep(c.took)
			return nil, failure(c.kind)
		})
		virtual(t, Service{Concurrency: 1}, []Driver{driver}, func(t *testing.T, client *Client) {
			start := time.Now()
			rep, err := client.Do(t.Context(), question("x"))
			got := time.Since(start)
			if err != nil || got < c.least || got > c.end || rep.Retry != got {
				t.Errorf("%v after %v: got %v (%v), want a reply after %v to %v", c.kind, c.took, got, err, c.least, c.end)
			}
		})
	}
}
