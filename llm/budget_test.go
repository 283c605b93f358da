package llm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// reserve is a Reserve that must be let in at once.
func reserve(t *testing.T, b *Budget, c Cost) Reservation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := b.Reserve(ctx, c)
	if err != nil {
		t.Fatalf("reserve %v: %v; %+v", c, err, b.State())
	}
	return r
}

func TestBudgetCounts(t *testing.T) {
	b := NewBudget(Cost{USD: 1, Tokens: 1000}, BudgetOptions{Spent: Cost{0.25, 100}})
	r := reserve(t, b, Cost{0.5, 500})
	if s := b.State(); s.Reserved != (Cost{0.5, 500}) || s.Spent != (Cost{0.25, 100}) {
		t.Errorf("reserved: got %+v", s)
	}
	r.Settle(Cost{0.125, 50})
	reserve(t, b, Cost{0.1, 10}).Worst()
	if s := b.State(); s.Reserved != (Cost{}) || s.Spent != (Cost{0.475, 160}) || s.Out != "" {
		t.Errorf("settled: got %+v", s)
	}
	var none *Budget
	reserve(t, none, Cost{1e9, 1e9}).Settle(Cost{1e9, 1e9})
}

func TestBudgetWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(Cost{USD: 1}, BudgetOptions{OnSpent: func(why string) { t.Errorf("out: %s", why) }})
		first := reserve(t, b, Cost{USD: 0.9})
		var mu sync.Mutex
		var order []int
		for i := range 5 {
			go func() {
				r := reserve(t, b, Cost{USD: 0.7 - float64(i)/30}) // the small ones do not overtake
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				r.Settle(Cost{USD: 0.01})
			}()
			synctest.Wait()
		}
		seen := func() string {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(order)
		}
		if got := seen(); got != "[]" {
			t.Errorf("let in beside a reservation of 0.9: %s", got)
		}
		first.Settle(Cost{USD: 0.1})
		time.Sleep(9 * time.Second)
		if got := seen(); got != "[0 1 2 3 4]" {
			t.Errorf("order: got %s", got)
		}
	})
}

func TestBudgetIsSpent(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit Cost
		worst Cost
		want  string
	}{
		{"dollars", Cost{USD: 1}, Cost{USD: 0.3}, "the budget of the run is spent: 0.90 USD of 1.00 USD, and the next call may cost up to 0.30 USD"},
		{"tokens", Cost{Tokens: 1000}, Cost{Tokens: 300}, "the budget of the run is spent: 900 tokens of 1000 tokens, and the next call may cost up to 300 tokens"},
		{"both", Cost{USD: 100, Tokens: 1000}, Cost{USD: 1, Tokens: 300}, "900 tokens of 1000 tokens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var why []string
			b := NewBudget(tt.limit, BudgetOptions{Name: "the run", OnSpent: func(s string) { why = append(why, s) }})
			for range 3 {
				reserve(t, b, tt.worst).Worst()
			}
			stop := errors.New("the run is to end")
			ctx, cancel := context.WithCancelCause(t.Context())
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if _, err := b.Reserve(ctx, tt.worst); err != stop {
						t.Errorf("got %v, want the cause of the context's end", err)
					}
				})
			}
			for b.State().Out == "" {
				time.Sleep(time.Millisecond)
			}
			cancel(stop)
			wg.Wait()
			if len(why) != 1 || !strings.Contains(why[0], tt.want) {
				t.Errorf("why: got %q, want %q once", why, tt.want)
			}
			if s := b.State(); s.Need != tt.worst || s.Reserved != (Cost{}) {
				t.Errorf("state: got %+v", s)
			}
		})
	}
}

func TestBudgetRefusesWhatNeverFits(t *testing.T) {
	run := NewBudget(Cost{USD: 1}, BudgetOptions{Name: "the run"})
	b := NewBudget(Cost{Tokens: 100}, BudgetOptions{Name: "model a", Parent: run})
	for _, tt := range []struct {
		worst Cost
		want  string
	}{
		{Cost{USD: 1.5}, "one call may cost 1.50 USD, and the budget of the run is 1.00 USD in all"},
		{Cost{Tokens: 101}, "one call may cost 101 tokens, and the budget of model a is 100 tokens in all"},
	} {
		_, err := b.Reserve(t.Context(), tt.worst)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Fatal || e.Msg != tt.want || !strings.Contains(e.Hint, "max_tokens") {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestBudgetOfModels(t *testing.T) {
	var out []string
	run := NewBudget(Cost{USD: 1}, BudgetOptions{Name: "the run", OnSpent: func(why string) { out = append(out, why) }})
	a := NewBudget(Cost{USD: 0.3}, BudgetOptions{Name: "model a", Parent: run})
	c := NewBudget(Cost{}, BudgetOptions{Name: "model c", Parent: run})
	reserve(t, a, Cost{USD: 0.2}).Worst()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := a.Reserve(ctx, Cost{USD: 0.2})
		done <- err
	}()
	for a.State().Out == "" {
		time.Sleep(time.Millisecond)
	}
	reserve(t, c, Cost{USD: 0.5}).Worst() // another model goes on
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(out) != 1 || !strings.Contains(out[0], "of model a is spent") {
		t.Errorf("why: got %q", out)
	}
	if s := run.State(); s.Spent.USD != 0.7 || s.Out != "" {
		t.Errorf("the run's: got %+v", s)
	}
}

func TestBudgetSpend(t *testing.T) {
	var out atomic.Int32
	b := NewBudget(Cost{USD: 1}, BudgetOptions{Grant: func(Cost) error { return nil }, OnSpent: func(string) { out.Add(1) }})
	for range 3 {
		if err := b.Spend(Cost{USD: 0.4}); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.State(); out.Load() != 1 || s.Out == "" || s.Granted.USD < 1.2 {
		t.Errorf("told %d times, %+v", out.Load(), s)
	}
}

// TestBudgetGrants: what is granted is durable before it is used, and it is
// asked for in parts.
func TestBudgetGrants(t *testing.T) {
	var durable atomic.Int64 // thousandths of a dollar
	var grants int
	b := NewBudget(Cost{USD: 10}, BudgetOptions{Grant: func(c Cost) error {
		grants++
		time.Sleep(100 * time.Microsecond)
		durable.Store(int64(c.USD*1000 + 0.5))
		return nil
	}})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 100 {
				r := reserve(t, b, Cost{USD: 0.004})
				if s := b.State(); float64(durable.Load())/1000+1e-9 < s.Spent.USD+s.Reserved.USD-0.004*0.5 {
					t.Errorf("%v is used, and %v is durable", s, durable.Load())
				}
				r.Settle(Cost{USD: 0.001})
			}
		})
	}
	wg.Wait()
	if s := b.State(); s.Spent.USD != 5 || grants > 110 {
		t.Errorf("got %+v after %d grants", s, grants)
	}
}

// TestBudgetGrantsWithoutLimit: a limit may come with the next process, so that
// what is spent without one is durable too, at few grants.
func TestBudgetGrantsWithoutLimit(t *testing.T) {
	var durable atomic.Int64 // thousandths of a dollar
	grants := 0
	grant := func(c Cost) error {
		grants++
		durable.Store(int64(c.USD*1000 + 0.5))
		return nil
	}
	b := NewBudget(Cost{}, BudgetOptions{Grant: grant, Parent: NewBudget(Cost{USD: 1e6}, BudgetOptions{})})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 1000 {
				r := reserve(t, b, Cost{USD: 0.004})
				if s := b.State(); s.Granted.USD+1e-9 < s.Spent.USD+s.Reserved.USD {
					t.Errorf("more is used than granted: %+v", s)
				}
				r.Settle(Cost{USD: 0.001})
			}
		})
	}
	wg.Wait()
	t.Logf("%d grants for 100,000 calls", grants)
	if s := b.State(); math.Abs(s.Spent.USD-100) > 1e-6 || durable.Load() < 100_000 || durable.Load() > 108_000 || grants > 300 {
		t.Errorf("100,000 calls: %+v, %d are durable after %d grants; want 100,000 to 108,000 after 300 or fewer", s, durable.Load(), grants)
	}
}

func TestBudgetGrantFails(t *testing.T) {
	full := errors.New("disk full")
	b := NewBudget(Cost{USD: 10}, BudgetOptions{Grant: func(Cost) error { return full }})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := b.Reserve(t.Context(), Cost{USD: 1})
			var e *Error
			if !errors.As(err, &e) || e.Kind != Fatal || !strings.Contains(e.Msg, "disk full") {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

// TestBudgetNeverPasses lets random calls at several models run together, some
// of which give up, and checks at every moment that nothing passes its limit
// and nothing is used that is not granted; in the end no one hangs and the sums
// agree.
func TestBudgetNeverPasses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := Cost{USD: float64(rapid.IntRange(1, 100).Draw(rt, "usd")), Tokens: rapid.Int64Range(0, 50).Draw(rt, "tokens") * 100}
		models := rapid.IntRange(1, 3).Draw(rt, "models")
		calls := rapid.IntRange(1, 200).Draw(rt, "calls")
		workers := rapid.IntRange(1, 40).Draw(rt, "workers")
		seed := rapid.Uint64().Draw(rt, "seed")

		stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		grant := func(high *sum) func(Cost) error {
			return func(c Cost) error {
				s := c.sum()
				for i := range s {
					high[i] = max(high[i], s[i])
				}
				return nil
			}
		}
		durable := make([]sum, models+1)
		run := NewBudget(limit, BudgetOptions{Grant: grant(&durable[0]), OnSpent: func(string) { cancel() }})
		budgets := []*Budget{run}
		for i := range models {
			var l Cost
			if i > 0 {
				l = Cost{USD: limit.USD / 2, Tokens: limit.Tokens / 2}
			}
			budgets = append(budgets, NewBudget(l, BudgetOptions{Grant: grant(&durable[i+1]), Parent: run}))
		}
		check := func() {
			run.shared.Lock()
			defer run.shared.Unlock()
			for _, b := range budgets {
				all := b.spent.add(b.reserved)
				for i := range all {
					if b.limit[i] > 0 && all[i] > min(b.limit[i], b.granted[i]) {
						t.Errorf("%d spent and reserved, the limit is %d, %d are granted", all[i], b.limit[i], b.granted[i])
					}
					if b.reserved[i] < 0 || b.open < 0 {
						t.Errorf("%d reserved by %d", b.reserved[i], b.open)
					}
				}
			}
		}
		var left atomic.Int64
		left.Store(int64(calls))
		var mu sync.Mutex
		var paid sum
		var wg sync.WaitGroup
		for w := range workers {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					worst := Cost{USD: float64(rng.IntN(1000)) / 100, Tokens: rng.Int64N(300)}
					real := Cost{USD: worst.USD * rng.Float64(), Tokens: worst.Tokens / 2}
					ctx, quit := stop, context.CancelFunc(func() {})
					if rng.IntN(4) == 0 {
						ctx, quit = context.WithTimeout(stop, time.Duration(rng.IntN(300))*time.Microsecond)
					}
					r, err := budgets[1+rng.IntN(models)].Reserve(ctx, worst)
					quit()
					check()
					if err != nil {
						continue
					}
					if rng.IntN(3) == 0 {
						time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
					}
					mu.Lock()
					paid = paid.add(real.sum())
					mu.Unlock()
					r.Settle(real)
					check()
				}
			})
		}
		wg.Wait()
		if stop.Err() == context.DeadlineExceeded {
			t.Errorf("calls hang: %+v", run.State())
		}
		if run.spent != paid || run.reserved != (sum{}) || run.open != 0 || run.queue.Len() != 0 {
			t.Errorf("in the end: spent %v, want %v; reserved %v by %d, %d wait", run.spent, paid, run.reserved, run.open, run.queue.Len())
		}
	})
}

func TestShowUSD(t *testing.T) {
	for usd, want := range map[float64]string{
		0: "0.00", 50: "50.00", 1234.5678: "1234.57", 0.5: "0.50", 0.061: "0.061", 0.00012345: "0.000123", 0.1: "0.10", 9.998: "9.998", 1.5: "1.50",
	} {
		if got := ShowUSD(usd); got != want {
			t.Errorf("%v: got %s, want %s", usd, got, want)
		}
	}
}

// BenchmarkReserve is what a call pays for the budget: two levels, many callers
// at once.
func BenchmarkReserve(b *testing.B) {
	run := NewBudget(Cost{USD: 1e6, Tokens: 1e15}, BudgetOptions{Grant: func(Cost) error { return nil }})
	m := NewBudget(Cost{USD: 1e6}, BudgetOptions{Parent: run, Grant: func(Cost) error { return nil }})
	b.ReportAllocs()
	b.SetParallelism(1000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := m.Reserve(b.Context(), Cost{USD: 0.01, Tokens: 1000})
			if err != nil {
				b.Fatal(err)
			}
			r.Settle(Cost{USD: 0.00001, Tokens: 100})
		}
	})
}

// BenchmarkReserveTight is the same where no more than a few calls fit at once.
func BenchmarkReserveTight(b *testing.B) {
	run := NewBudget(Cost{USD: 1e6}, BudgetOptions{Spent: Cost{USD: 1e6 - 1}})
	b.ReportAllocs()
	b.SetParallelism(1000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := run.Reserve(b.Context(), Cost{USD: 0.1})
			if err != nil {
				b.Fatal(err)
			}
			runtime.Gosched() // others come meanwhile, and wait
			r.Settle(Cost{})
		}
	})
}

// A budget that nothing limits counts what calls cost, and bounds no reply.
func TestUnlimited(t *testing.T) {
	all := NewBudget(Cost{}, BudgetOptions{Name: "the run"})
	for _, tt := range []struct {
		b    *Budget
		want bool
	}{
		{nil, false}, {all, false}, {NewBudget(Cost{}, BudgetOptions{Parent: all}), false},
		{NewBudget(Cost{Tokens: 1}, BudgetOptions{Parent: all}), true},
		{NewBudget(Cost{}, BudgetOptions{Parent: NewBudget(Cost{USD: 1}, BudgetOptions{})}), true},
	} {
		if got := tt.b.Limited(); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.b, got, tt.want)
		}
	}
}

// What the disk says of a grant stays known, and so what to do about it.
func TestGrantFault(t *testing.T) {
	full := errors.New("the disk is full")
	b := NewBudget(Cost{USD: 1}, BudgetOptions{Grant: func(Cost) error { return full }})
	_, err := b.Reserve(t.Context(), Cost{USD: 0.1})
	var e *Error
	if err = AsError("m", err); !errors.Is(err, full) || !errors.As(err, &e) || e.Kind != Fatal || e.Model != "m" {
		t.Errorf("got %v, want a fatal error of m for %v", err, full)
	}
}
