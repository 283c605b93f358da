package admission

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"matrix/cluster"
	"matrix/llm"
)

// Member keeps the calls of this process to what a Leader gives. It is used
// concurrently.
type Member struct {
	id     string
	net    cluster.Net
	send   func(report)
	models map[string]*llm.Client
	asks   map[string]string

	wake  chan struct{} // holds one
	calls atomic.Bool   // there is news of calls
	money atomic.Bool   // and of money

	mu       sync.Mutex
	budgets  map[string]*llm.Budget
	used     map[string]time.Time // when a budget was not idle last
	process  string
	leader   string          // that it knows
	heard    time.Time       // when it answered last
	former   map[string]bool // leaders before
	n        uint64
	asked    map[uint64]time.Time // when the newest reports were sent
	leaving  bool
	told     time.Time // last report on calls
	paid     time.Time // last report
	released chan struct{}
}

// MemberOptions say who a Member is.
type MemberOptions struct {
	ID  string // of the worker: [A-Za-z0-9_-]{1,64}
	Net cluster.Net

	// Models are those of the run that have a service.
	Models map[string]*llm.Client

	// Asks is the model that a role asks, by role.
	Asks map[string]string
}

// NewMember returns a member. From now on its models wait for what the leader gives
// them, so Serve is to be called soon, and once.
func NewMember(o MemberOptions) *Member {
	m := newMember(o, nil)
	m.send = func(r report) { send(o.Net, head, r, halveReport) }
	return m
}

func newMember(o MemberOptions, to func(report)) *Member {
	m := &Member{
		id: o.ID, net: o.Net, models: o.Models, asks: o.Asks, send: to, wake: make(chan struct{}, 1),
		process: name(), former: map[string]bool{}, asked: map[uint64]time.Time{}, used: map[string]time.Time{},
		released: make(chan struct{}),
	}
	m.follow()
	return m
}

// follow has all models wait for a leader that is new.
func (m *Member) follow() {
	for _, c := range m.models {
		c.Follow(m.news)
	}
}

// news notes that there is something to tell of calls.
func (m *Member) news() {
	m.calls.Store(true)
	m.wakeUp()
}

// Ask notes that a budget needs more than this process was lent: it is the Ask of
// the budgets that Owe is told of.
func (m *Member) Ask() {
	m.money.Store(true)
	m.wakeUp()
}

func (m *Member) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Owe has the calls of this process paid from budgets, by model, that are lent by the
// leader; "" is for calls of no model. It is called once, and before Serve.
func (m *Member) Owe(budgets map[string]*llm.Budget) { m.budgets = budgets }

// Serve tells the leader, and takes in what it gives, until ctx ends. Then it returns what
// this process was lent, for which it waits a little: it ends after the last call has.
func (m *Member) Serve(ctx context.Context) error {
	stop, err := m.net.Receive(addressOf(m.id), func(frame []byte) {
		var a answer
		if json.Unmarshal(frame, &a) == nil {
			m.take(&a)
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	m.serve(ctx)
	m.leave()
	return nil
}

// serve tells the leader until ctx ends.
func (m *Member) serve(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-m.wake:
		case <-ctx.Done():
			return
		}
		t.Reset(m.tell(time.Now()))
	}
}

// tell tells what is due, and returns when to ask again.
func (m *Member) tell(now time.Time) time.Duration {
	m.mu.Lock()
	calls, money := m.told.Add(every), m.paid.Add(every)
	if m.calls.Load() || m.leader == "" { // else nobody has heard of this process
		calls = m.told.Add(soon)
	}
	if m.money.Load() {
		money = m.paid.Add(atOnce)
	}
	m.mu.Unlock()
	if !now.Before(calls) {
		m.report(now, true)
		return soon
	} else if !now.Before(money) {
		m.report(now, false)
		return atOnce
	}
	return max(min(calls.Sub(now), money.Sub(now)), time.Millisecond)
}

// report tells how things stand with money, and with calls where asked for.
func (m *Member) report(now time.Time, calls bool) {
	r := report{ID: m.id}
	m.money.Store(false)
	if calls {
		m.calls.Store(false)
	}
	m.mu.Lock()
	if calls {
		m.told = now
	}
	m.paid = now
	m.n++
	r.N, r.Head, r.Process, r.Bye = m.n, m.leader, m.process, m.leaving
	m.asked[m.n] = now
	delete(m.asked, m.n-64)
	m.mu.Unlock()
	if calls {
		r.Models = make(map[string]map[string]llm.Use, len(m.models))
		for name, c := range m.models {
			r.Models[name] = c.Uses()
		}
	}
	if len(m.budgets) > 0 {
		r.Money = make(map[string]llm.Debt, len(m.budgets))
	}
	m.mu.Lock()
	for key, b := range m.budgets {
		if !b.Idle() {
			m.used[key] = now
		} else if m.leaving || now.Sub(m.used[key]) > idle {
			b.GiveBack()
		}
		r.Money[key] = b.Debt()
	}
	current := m.process == r.Process && m.leader == r.Head // else the debts are of another
	m.mu.Unlock()
	if current {
		m.send(r)
	}
}

// take takes in what a leader gives.
func (m *Member) take(a *answer) {
	now := time.Now()
	m.mu.Lock()
	// One that led before leads again where the one since is silent: its answer was late, and
	// it was gone already. What the former lent is spent there, so it gets to know another process.
	back := m.former[a.Head]
	if a.Process != m.process || back && now.Sub(m.heard) < patience {
		m.mu.Unlock()
		return
	}
	m.heard = now
	again := a.Recall
	switch {
	case m.leaving && a.Gone:
		select {
		case <-m.released:
		default:
			close(m.released)
		}
		m.mu.Unlock()
		return
	case a.Gone || a.Head != m.leader:
		if m.leader != "" {
			m.former[m.leader] = true
			m.follow()
		}
		delete(m.former, a.Head)
		if m.leader = a.Head; a.Gone || back {
			m.process = name()
		}
		for _, b := range m.budgets {
			b.Orphan() // what it was lent counts as spent over there
		}
		m.money.Store(true)
		if back {
			m.mu.Unlock()
			m.wakeUp()
			return
		}
		again = true
	}
	asked, known := m.asked[a.N]
	for key, b := range m.budgets {
		if lent, ok := a.Money[key]; ok {
			b.Lend(lent)
		}
		if slices.Contains(a.Out, key) {
			b.Refuse()
		}
		if a.Recall {
			b.GiveBack()
			m.money.Store(true)
		}
	}
	m.mu.Unlock()
	if known && !a.Gone {
		for name, given := range a.Models {
			if c := m.models[name]; c != nil && c.Take(given, asked) {
				m.calls.Store(true)
				again = true
			}
		}
	}
	if again {
		m.wakeUp()
	}
}

// leave returns what is left of loans, and waits until that is known, for a while.
func (m *Member) leave() {
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	for range byes {
		m.report(time.Now(), false)
		select {
		case <-m.released:
			return
		case <-time.After(byeAgain):
		}
	}
}

// Room is how many tasks more this process wants for a role now: as many as keep
// the slots busy that its model has here, and a few that wait.
func (m *Member) Room(role string) int { return m.room(m.asks, role) }

// waitLeast is how many calls of a role may wait for a slot here at least, and waitPart
// the part of those under way that may.
const waitLeast, waitPart = 8, 4

func (m *Member) room(asks map[string]string, role string) int {
	c := m.models[asks[role]]
	if c == nil {
		return math.MaxInt32
	}
	waiting, inFlight, limit := c.Backlog(role)
	return max(0, max(limit-inFlight, 0)+max(waitLeast, inFlight/waitPart)-waiting)
}
