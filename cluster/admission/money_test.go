package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"matrix/llm"
)

// purse is what calls really cost, in all processes.
type purse struct {
	mu    sync.Mutex
	spent llm.Cost
	most  llm.Cost // that may be spent
	over  string
}

func (p *purse) pay(c llm.Cost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent.USD += c.USD
	p.spent.Tokens += c.Tokens
	if p.spent.USD > p.most.USD+1e-9 || p.most.Tokens > 0 && p.spent.Tokens > p.most.Tokens {
		p.over = fmt.Sprintf("%v of %v", p.spent, p.most)
	}
}

// The calls of a purse: they cost a part of their worst case, which is paid as soon as they
// are sent.
var worst = llm.Cost{USD: 0.01, Tokens: 1000}

func (p *purse) call(ctx context.Context, b *llm.Budget, r *rand.Rand) {
	for {
		room, err := b.Reserve(ctx, worst)
		if err != nil {
			return
		}
		part := r.Float64()
		real := llm.Cost{USD: worst.USD * part, Tokens: int64(float64(worst.Tokens) * part)}
		p.pay(real)
		time.Sleep(time.Duration(50+r.IntN(200)) * time.Millisecond)
		room.Settle(real)
	}
}

// spender is a process whose calls cost money.
type spender struct {
	id     string
	budget *llm.Budget
	calls  chan struct{} // closed when all have ended
	stop   context.CancelFunc
	over   sync.WaitGroup
}

// bank is the process that has the account.
type bank struct {
	net     *weather
	noted   llm.Cost // durably, of the run
	mu      sync.Mutex
	run, m  *llm.Budget
	why     chan string
	leader  *Leader
	end     context.CancelFunc
	serving sync.WaitGroup
}

func openBank(net *weather, limit, spent llm.Cost) *bank {
	x := &bank{net: net, why: make(chan string, 2), noted: spent}
	note := func(c llm.Cost) error {
		time.Sleep(5 * time.Millisecond) // as a disk takes
		x.mu.Lock()
		defer x.mu.Unlock()
		x.noted = llm.Cost{USD: max(x.noted.USD, c.USD), Tokens: max(x.noted.Tokens, c.Tokens)}
		return nil
	}
	x.run = llm.NewBudget(limit, llm.BudgetOptions{Name: "the run", Spent: spent, Grant: note, OnSpent: func(why string) { x.why <- why }})
	x.m = llm.NewBudget(llm.Cost{}, llm.BudgetOptions{Name: "model m", Spent: spent, Grant: func(llm.Cost) error { return nil }, Parent: x.run})
	x.leader = NewLeader(LeaderOptions{Net: net, Budgets: map[string]*llm.Budget{"": x.run, "m": x.m}})
	ctx, cancel := context.WithCancel(context.Background())
	x.end = cancel
	x.serving.Go(func() { _ = x.leader.Serve(ctx) })
	return x
}

func (x *bank) close() {
	x.end()
	x.serving.Wait()
}

func (x *bank) spender(p *purse, id string, callers int, seed uint64) *spender {
	s := &spender{id: id, calls: make(chan struct{})}
	m := NewMember(MemberOptions{ID: id, Net: x.net.from(id)})
	s.budget = llm.NewBudget(llm.Cost{}, llm.BudgetOptions{Name: "model m", Ask: m.Ask})
	m.Owe(map[string]*llm.Budget{"m": s.budget})
	ctx, cancel := context.WithCancel(context.Background())
	serving, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = m.Serve(serving)
	}()
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() { p.call(ctx, s.budget, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	go func() {
		defer close(s.calls)
		calls.Wait()
	}()
	s.stop = func() {
		cancel()
		<-s.calls
		stop()
	}
	s.over.Go(func() { <-served })
	return s
}

// TestMoney kills 20 workers while they spend, over a network that is not a good one. What all
// have spent never passes the limit, and little of it is lost.
func TestMoney(t *testing.T) {
	const deaths, callers = 20, 4
	for _, limit := range []llm.Cost{{USD: 20}, {USD: 1e6, Tokens: 2_000_000}} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				net := newWeather(7, 0.02)
				p := &purse{most: limit}
				x := openBank(net, limit, llm.Cost{})
				own, stop := context.WithCancel(t.Context())
				var calls sync.WaitGroup
				calls.Go(func() { p.call(own, x.m, rand.New(rand.NewPCG(1, 1))) })
				var all []*spender
				for i := range 4 {
					all = append(all, x.spender(p, fmt.Sprint("w", i), callers, uint64(i)))
				}
				for i := range deaths {
					time.Sleep(2 * time.Second)
					net.cutOff(all[i].id) // killed: nothing is heard of it any more
					all[i].stop()
					all = append(all, x.spender(p, fmt.Sprint("w", 4+i), callers, uint64(4+i)))
				}
				why := <-x.why
				s := x.run.State()
				t.Logf("%s; really %v; the account has %v", why, p.spent, s.Spent)
				stop()
				calls.Wait()
				for _, w := range all {
					w.stop()
					w.over.Wait()
				}
				x.close()
				net.late.Wait()
				if p.over != "" {
					t.Errorf("spent %s", p.over)
				}
				of, spent, block := limit.USD, p.spent.USD, max(limit.USD/100, callers*worst.USD)
				call := worst.USD
				if limit.Tokens > 0 {
					of, spent, block = float64(limit.Tokens), float64(p.spent.Tokens), max(float64(limit.Tokens)/100, callers*float64(worst.Tokens))
					call = float64(worst.Tokens)
				}
				if lost := of - spent; lost > deaths*(block+callers*call)+call {
					t.Errorf("%v of %v was lost through %d deaths, want a block of %v and %d calls of %v each at most", lost, of, deaths, block, callers, call)
				}
			})
		})
	}
}

// TestLastDollar has workers hold what only one of them needs: it is returned before the
// budget is said to be spent. Then calls that wait end by themselves.
func TestLastDollar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newWeather(3, 0)
		p := &purse{most: llm.Cost{USD: 1}}
		x := openBank(net, p.most, llm.Cost{})
		var all []*spender
		for i := range 8 {
			all = append(all, x.spender(p, fmt.Sprint("w", i), 3, uint64(i)))
		}
		why := <-x.why
		for _, w := range all {
			select {
			case <-w.calls:
			case <-time.After(10 * time.Second):
				t.Errorf("%s: calls of %s wait for what nobody has", why, w.id)
			}
			w.stop()
			w.over.Wait()
		}
		x.close()
		t.Logf("%s; really %v", why, p.spent)
		if p.over != "" || p.spent.USD < 1-worst.USD {
			t.Errorf("got %v spent %s, want all of 1 USD that is enough for a call", p.spent, p.over)
		}
	})
}

// TestLeaderDies has the process die that has the account, twice. What it had lent counts as spent by
// what it had noted, and may be spent: the workers go on with the next one.
func TestLeaderDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := llm.Cost{USD: 20}
		net := newWeather(9, 0.02)
		p := &purse{most: limit}
		x := openBank(net, limit, llm.Cost{})
		var all []*spender
		for i := range 4 {
			all = append(all, x.spender(p, fmt.Sprint("w", i), 4, uint64(i)))
		}
		for range 2 {
			time.Sleep(10 * time.Second)
			x.close()
			time.Sleep(3 * time.Second)
			x = openBank(net, limit, x.noted)
		}
		why := <-x.why
		for _, w := range all {
			w.stop()
			w.over.Wait()
		}
		x.close()
		net.late.Wait()
		t.Logf("%s; really %v", why, p.spent)
		if p.over != "" {
			t.Errorf("spent %s", p.over)
		}
		if p.spent.USD < 0.9*limit.USD {
			t.Errorf("got %v spent of %v", p.spent, limit)
		}
	})
}
