// Package spend is the money and the tokens of a run: what it has spent in all its
// sessions, kept in its store so that a process that was killed has never passed a
// budget, what it is going to spend, and why it stops.
package spend

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"matrix"
	"matrix/internal/config"
	"matrix/internal/human"
	"matrix/llm"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// account is what a run has spent, in all its sessions. While calls are under
// way it is what they may have spent at most.
type account struct {
	Run     llm.Cost            `json:"run"`
	Models  map[string]llm.Cost `json:"models"`
	Seconds float64             `json:"seconds"` // of work
	Stopped *shortfall          `json:"stopped,omitempty"`
	Exact   bool                `json:"exact,omitempty"` // no call was under way when it was written
}

// shortfall is what a run stopped for.
type shortfall struct {
	Model string   `json:"model,omitempty"` // whose budget it was; empty for the run's
	Need  llm.Cost `json:"need"`            // of the call that did not fit
}

// Tracker pays for the calls of a run.
type Tracker struct {
	store  run.Store
	limits spec.Budget
	hourly map[string]float64 // what models cost an hour, whatever they do
	run    *llm.Budget
	models map[string]*llm.Budget
	Spent  chan string // why nothing more can be paid

	mu    sync.Mutex
	now   account // as it is in the store, or will be
	wall  float64 // seconds of earlier sessions
	ticks time.Duration
}

// Open reads what a run has spent, and charges the models that have bills from
// now on. What was spent is what the account says, which is in store, the run's
// first shard, and at least what the ledger of all shards knows of.
func Open(ctx context.Context, store run.Store, ledger matrix.Ledger, limits spec.Budget, bills map[string]*registry.Bill, before run.Progress) (*Tracker, error) {
	x := &Tracker{
		store: store, limits: limits, hourly: map[string]float64{}, models: map[string]*llm.Budget{},
		Spent: make(chan string, 2+len(bills)), // the run's, each model's, and the time
	}
	if err := x.read(ctx, ledger, before); err != nil {
		return nil, err
	}
	x.run = llm.NewBudget(costIn(x.limits.USD, x.limits.Tokens), x.options("", "the run", x.now.Run, nil))
	for name, bill := range bills {
		l := x.limits.PerModel[name]
		x.models[name] = llm.NewBudget(costIn(l.USD, l.Tokens), x.options(name, "model "+name, x.now.Models[name], x.run))
		bill.Charge(x.models[name], bill.Price)
		if h := bill.Price.Hourly(); h > 0 {
			x.hourly[name] = h
		}
	}
	return x, nil
}

// Budgets are those that calls of other processes are charged to, by model; "" is
// the run's, for calls of no model.
func (x *Tracker) Budgets() map[string]*llm.Budget {
	all := maps.Clone(x.models)
	all[""] = x.run
	return all
}

func costIn(usd float64, tokens spec.Count) llm.Cost {
	return llm.Cost{USD: usd, Tokens: int64(tokens)}
}

func (x *Tracker) read(ctx context.Context, ledger matrix.Ledger, before run.Progress) error {
	b, err := x.store.Checkpoint(ctx, run.CheckpointBudget)
	if err != nil {
		return err
	}
	if b != nil {
		if err := json.Unmarshal(b, &x.now); err != nil {
			return fmt.Errorf("checkpoint %s: %w: %w", run.CheckpointBudget, run.ErrDamaged, err)
		}
	}
	if x.now.Models == nil {
		x.now.Models = map[string]llm.Cost{}
	}
	if !x.now.Exact {
		if err := x.atLeast(ctx, ledger, before); err != nil {
			return err
		}
	}
	x.now.Seconds = max(x.now.Seconds, before.Seconds)
	x.wall = x.now.Seconds
	return nil
}

// maxWalked is the most tasks that are looked through for what those that are
// live have cost.
const maxWalked = 200_000

// atLeast raises the account to what the ledger knows of: what settled tasks
// have cost, and the turns of live ones.
func (x *Tracker) atLeast(ctx context.Context, ledger matrix.Ledger, before run.Progress) error {
	known := map[string]llm.Cost{}
	pay := func(model string, usd float64, tokens int64) {
		c := known[model]
		known[model] = llm.Cost{USD: c.USD + usd, Tokens: c.Tokens + tokens}
	}
	for name, u := range before.Usage {
		pay(name, u.USD, int64(u.PromptTokens+u.CompletionTokens))
	}
	if before.Live > 0 && before.Live <= maxWalked {
		err := ledger.Live(ctx, func(id string) error {
			m, ok, err := ledger.Peek(ctx, id)
			if err != nil || !ok {
				return err
			}
			log, err := m.Log(ctx, 0)
			if err != nil {
				return err
			}
			t, err := run.Decode(id, log)
			if err != nil {
				return err
			}
			for c := range t.Calls() {
				pay(c.Name, c.USD, int64(c.PromptTokens+c.CompletionTokens))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	var all llm.Cost
	for name, c := range known {
		x.now.Models[name] = larger(x.now.Models[name], c)
		all.USD += c.USD
		all.Tokens += c.Tokens
	}
	x.now.Run = larger(x.now.Run, all)
	x.addUp(known)
	return nil
}

// addUp makes the account of a process that was killed add up. The most that it
// may have spent is noted for the run and for each model in parts of their own;
// what the models may have spent together bounds the run, and what the run may
// have, the models. One with a budget of its own is taken to have spent all that
// was noted for it.
func (x *Tracker) addUp(known map[string]llm.Cost) {
	if len(x.now.Models) == 0 {
		return
	}
	var sum, free llm.Cost // of models; of those without a budget, above what is known
	above := func(name string) llm.Cost {
		c, k, l := x.now.Models[name], known[name], x.limits.PerModel[name]
		var over llm.Cost
		if l.USD == 0 {
			over.USD = c.USD - k.USD
		}
		if l.Tokens == 0 {
			over.Tokens = c.Tokens - k.Tokens
		}
		return over
	}
	for name, c := range x.now.Models {
		over := above(name)
		sum = llm.Cost{USD: sum.USD + c.USD, Tokens: sum.Tokens + c.Tokens}
		free = llm.Cost{USD: free.USD + over.USD, Tokens: free.Tokens + over.Tokens}
	}
	x.now.Run = llm.Cost{USD: min(x.now.Run.USD, sum.USD), Tokens: min(x.now.Run.Tokens, sum.Tokens)}
	usd, tokens := share(sum.USD-x.now.Run.USD, free.USD), share(float64(sum.Tokens-x.now.Run.Tokens), float64(free.Tokens))
	for name, c := range x.now.Models {
		over := above(name)
		x.now.Models[name] = llm.Cost{USD: c.USD - usd*over.USD, Tokens: c.Tokens - int64(math.Round(tokens*float64(over.Tokens)))}
	}
}

// share is which part of whole is too much, where part is.
func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, part/whole)
}

func (x *Tracker) options(model, name string, spent llm.Cost, parent *llm.Budget) llm.BudgetOptions {
	return llm.BudgetOptions{
		Name: name, Parent: parent, Spent: spent,
		Grant: func(total llm.Cost) error {
			return x.note(func(a *account) {
				if model == "" {
					a.Run = larger(a.Run, total)
				} else {
					a.Models[model] = larger(a.Models[model], total)
				}
			})
		},
		OnSpent: func(why string) { x.out(model, why) },
	}
}

func larger(a, b llm.Cost) llm.Cost {
	return llm.Cost{USD: max(a.USD, b.USD), Tokens: max(a.Tokens, b.Tokens)}
}

// note changes the account and makes it durable.
func (x *Tracker) note(change func(*account)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now.Exact = false
	change(&x.now)
	b, err := json.Marshal(x.now)
	if err != nil {
		return err
	}
	_, err = x.store.Seed(context.Background(), nil, map[string][]byte{run.CheckpointBudget: b})
	return err
}

// out notes that a budget is spent, and says so.
func (x *Tracker) out(model, why string) {
	b := x.run
	if model != "" {
		b = x.models[model]
	}
	_ = x.note(func(a *account) { a.Stopped = &shortfall{Model: model, Need: b.State().Need} }) // the next session finds out by itself
	x.Spent <- why
}

// Exhausted says why there is nothing left to spend; empty when there is. With
// again, the call that did not fit in the session before is not thought of.
func (x *Tracker) Exhausted(again bool) string {
	if w := x.limits.Wall; w > 0 && x.wall >= w.Seconds() {
		return fmt.Sprintf("the budget of %v of work is spent: %s", w, human.Clock(time.Duration(x.wall*float64(time.Second))))
	}
	over := func(name string, s llm.BudgetState, need llm.Cost) string {
		switch {
		case s.Limit.USD > 0 && (s.Spent.USD >= s.Limit.USD || s.Spent.USD+need.USD > s.Limit.USD+1e-9):
			return fmt.Sprintf("the budget of %s is spent: %s USD of %s USD%s", name, llm.ShowUSD(s.Spent.USD), llm.ShowUSD(s.Limit.USD), upTo(need.USD, llm.ShowUSD(need.USD)+" USD"))
		case s.Limit.Tokens > 0 && (s.Spent.Tokens >= s.Limit.Tokens || s.Spent.Tokens+need.Tokens > s.Limit.Tokens):
			return fmt.Sprintf("the budget of %s is spent: %s of %s tokens%s", name, human.Commas(s.Spent.Tokens), human.Commas(s.Limit.Tokens), upTo(float64(need.Tokens), human.Commas(need.Tokens)+" tokens"))
		}
		return ""
	}
	need := func(model string) llm.Cost {
		if s := x.now.Stopped; s != nil && s.Model == model && !again {
			return s.Need
		}
		return llm.Cost{}
	}
	if why := over("the run", x.run.State(), need("")); why != "" {
		return why
	}
	for _, name := range slices.Sorted(maps.Keys(x.models)) {
		if why := over("model "+name, x.models[name].State(), need(name)); why != "" {
			return why
		}
	}
	return ""
}

func upTo(need float64, text string) string {
	if need == 0 {
		return ""
	}
	return ", and the next call may cost up to " + text
}

// Left is how long the run may still work; ok is false without a limit.
func (x *Tracker) Left() (d time.Duration, ok bool) {
	if x.limits.Wall == 0 {
		return 0, false
	}
	return x.limits.Wall - time.Duration(x.wall*float64(time.Second)), true
}

// Reported charges a call that an agent has made by itself, as it says: the model of
// that name, where the run has one, or the run alone.
func (x *Tracker) Reported(c *matrix.Call) {
	b := cmp.Or(x.models[c.Name], x.run)
	_ = b.Spend(llm.Cost{USD: c.USD, Tokens: int64(c.PromptTokens + c.CompletionTokens)}) // a state that cannot be written ends the run by itself
}

// Tick counts the hours of machines until a time since the session began, and
// notes how the account stands.
func (x *Tracker) Tick(elapsed time.Duration) error {
	dt := (elapsed - x.ticks).Hours()
	x.ticks = elapsed
	for name, usd := range x.hourly {
		if dt > 0 {
			if err := x.models[name].Spend(llm.Cost{USD: usd * dt}); err != nil {
				return err
			}
		}
	}
	runs, models := x.run.State(), map[string]llm.Cost{}
	for name, b := range x.models {
		models[name] = b.State().Granted
	}
	return x.note(func(a *account) {
		a.Run = larger(a.Run, runs.Granted)
		for name, c := range models {
			a.Models[name] = larger(a.Models[name], c)
		}
		a.Seconds = x.wall + elapsed.Seconds()
	})
}

// Close notes the exact account, once no call is under way.
func (x *Tracker) Close(elapsed time.Duration) error {
	if err := x.Tick(elapsed); err != nil {
		return err
	}
	return x.note(func(a *account) {
		a.Run = x.run.State().Spent
		for name, b := range x.models {
			a.Models[name] = b.State().Spent
		}
		if x.run.State().Out == "" && !slices.ContainsFunc(slices.Collect(maps.Values(x.models)), func(b *llm.Budget) bool { return b.State().Out != "" }) {
			a.Stopped = nil
		}
		a.Exact = true
	})
}

// Raised is a larger budget for the one that is spent, as an override; empty where
// none is.
func (x *Tracker) Raised() string {
	double := func(key string, s llm.BudgetState) string {
		switch {
		case s.Limit.USD > 0 && s.Spent.USD+s.Need.USD >= s.Limit.USD:
			return fmt.Sprintf("%s.usd=%s", key, strconv.FormatFloat(2*max(s.Limit.USD, math.Ceil(s.Spent.USD*100)/100), 'g', -1, 64))
		case s.Limit.Tokens > 0 && s.Spent.Tokens+s.Need.Tokens >= s.Limit.Tokens:
			return fmt.Sprintf("%s.tokens=%d", key, 2*max(s.Limit.Tokens, s.Spent.Tokens))
		}
		return ""
	}
	x.mu.Lock()
	stopped, seconds := x.now.Stopped, x.now.Seconds
	x.mu.Unlock()
	state := func(model string, b *llm.Budget) llm.BudgetState {
		s := b.State()
		if stopped != nil && stopped.Model == model {
			s.Need = stopped.Need
		}
		return s
	}
	if s := double("budget", state("", x.run)); s != "" {
		return s
	}
	for _, name := range slices.Sorted(maps.Keys(x.models)) {
		if s := double(config.Join("budget.per_model", name), state(name, x.models[name])); s != "" {
			return s
		}
	}
	if x.limits.Wall > 0 {
		d := 2 * x.limits.Wall
		for d.Seconds() <= seconds { // calls that landed took long
			d *= 2
		}
		return fmt.Sprintf("budget.wall=%v", d)
	}
	return ""
}

// Spending is what a run has spent and is going to.
type Spending struct {
	USD       float64              `json:"usd"`
	Tokens    int64                `json:"tokens"`
	Projected *llm.Cost            `json:"projected"` // for all tasks; null until it can be told
	Limit     *llm.Cost            `json:"limit,omitempty"`
	Models    map[string]*Spending `json:"models,omitempty"`
}

// Spending tells how things stand. What all tasks will cost is what settled
// ones have, times all: those under way have cost a part already, so that what
// is spent would tell too much. Machines that are paid by the hour are projected
// by what is spent.
func (x *Tracker) Spending(p run.Progress) *Spending {
	settled := p.Settled()
	one := func(s llm.BudgetState, of llm.Cost) *Spending {
		out := &Spending{USD: max(s.Spent.USD, of.USD), Tokens: max(s.Spent.Tokens, of.Tokens)} // never less than usage says beside it
		if s.Limit != (llm.Cost{}) {
			out.Limit = &s.Limit
		}
		if p.Finished {
			c := s.Spent
			out.Projected = &c
		} else if p.Total >= 0 && settled > 0 {
			f := float64(p.Total) / float64(settled)
			out.Projected = &llm.Cost{USD: max(s.Spent.USD, of.USD*f), Tokens: max(s.Spent.Tokens, int64(float64(of.Tokens)*f))}
		}
		return out
	}
	var all llm.Cost
	models := map[string]*Spending{}
	for name, b := range x.models {
		u, s := p.Usage[name], b.State()
		of := llm.Cost{USD: u.USD, Tokens: int64(u.PromptTokens + u.CompletionTokens)}
		if x.hourly[name] > 0 {
			of.USD = s.Spent.USD
		}
		all.USD += of.USD
		all.Tokens += of.Tokens
		models[name] = one(s, of)
	}
	for name, u := range p.Usage {
		if x.models[name] == nil { // what agents have reported
			all.USD += u.USD
			all.Tokens += int64(u.PromptTokens + u.CompletionTokens)
		}
	}
	out := one(x.run.State(), all)
	out.Models = models
	return out
}

// Salvage gives the checkpoints with the account of a run as far as it can be read. That
// it is exact is not known any more: what the ledger knows of counts, too.
func Salvage(ctx context.Context, old run.Checkpoints) (map[string][]byte, error) {
	b, err := old.Checkpoint(ctx, run.CheckpointBudget)
	var a account
	if err != nil || b == nil || json.Unmarshal(b, &a) != nil {
		return nil, nil
	}
	a.Exact = false
	b, err = json.Marshal(a)
	return map[string][]byte{run.CheckpointBudget: b}, err
}
