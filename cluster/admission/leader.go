package admission

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"matrix/cluster"
	"matrix/llm"
)

// Leader decides what each process may have. It is used concurrently.
type Leader struct {
	net  cluster.Net
	name string
	own  *Member

	budgets map[string]*llm.Budget

	mu      sync.Mutex
	shared  map[string]*llm.Shared
	members map[string]*debtor // by process
	ended   map[string]bool    // processes that are not known any more
	ctx     context.Context    // of Serve: while loans are raised; nil before
	raising sync.WaitGroup
}

// LeaderOptions say what a Leader decides on.
type LeaderOptions struct {
	Net cluster.Net

	// Models are those of the run that have a service. This process makes calls to
	// them, too, as one of those that share.
	Models map[string]*llm.Client

	// Budgets are what the calls of other processes to a model are charged to, by
	// model; "" is that of the run, for calls of no model.
	Budgets map[string]*llm.Budget
}

// debtor is a member, and what it was lent.
type debtor struct {
	id    string
	heard time.Time
	seen  map[[2]string]uint64 // newest report on each endpoint of each model
	loans map[string]*loan
}

// loan raises what a member was lent of one budget.
type loan struct {
	*llm.Loan
	mu         sync.Mutex
	want, line llm.Amount
	running    bool
	cancel     context.CancelFunc // of the Raise under way
}

// NewLeader returns a leader. From now on the models of this process wait for what
// it gives them, so Serve is to be called soon.
func NewLeader(o LeaderOptions) *Leader {
	l := &Leader{
		net: o.Net, name: name(), budgets: o.Budgets,
		shared: map[string]*llm.Shared{}, members: map[string]*debtor{}, ended: map[string]bool{},
	}
	for name, c := range o.Models {
		l.shared[name] = llm.NewShared(c.Service())
	}
	l.own = newMember(MemberOptions{Models: o.Models}, func(r report) {
		if a, ok := l.take(&r); ok {
			l.own.take(&a)
		}
	})
	return l
}

// Serve decides until ctx ends. Then what was lent is recalled, and what is not
// returned soon counts as spent: it ends after the run has, and before its account is closed.
func (l *Leader) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	stop, err := l.net.Receive(head, l.receive)
	if err != nil {
		return err
	}
	var own sync.WaitGroup
	own.Go(func() { l.own.serve(ctx) })
	t := time.NewTicker(lookAfter)
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case <-t.C:
			l.look(time.Now())
		case <-ctx.Done():
		}
	}
	l.raising.Wait()
	l.recall()
	stop()
	own.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for process := range l.members {
		l.end(process)
	}
	return nil
}

// recall has what was lent returned, and waits for it a little.
func (l *Leader) recall() {
	for range recalls {
		l.mu.Lock()
		open := false
		for process, m := range l.members {
			for _, x := range m.loans {
				if x.Open() {
					open = true
					l.send(m.id, answer{Head: l.name, Process: process, Recall: true})
					break
				}
			}
		}
		l.mu.Unlock()
		if !open {
			return
		}
		time.Sleep(recallAgain)
	}
}

// Left notes that a worker is gone for good. One that says nothing for long is taken to
// be, too.
func (l *Leader) Left(worker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for process, m := range l.members {
		if m.id == worker && time.Since(m.heard) > every { // else a later process of that name
			l.end(process)
		}
	}
}

// Room is Member.Room, of this process.
func (l *Leader) Room(asks map[string]string, role string) int { return l.own.room(asks, role) }

// receive takes a frame in.
func (l *Leader) receive(frame []byte) {
	var r report
	if json.Unmarshal(frame, &r) != nil || r.ID == "" || r.Process == "" {
		return // from another version, or from nobody of ours
	}
	if a, ok := l.take(&r); ok {
		l.send(r.ID, a)
	}
}

func (l *Leader) send(id string, a answer) { send(l.net, addressOf(id), a, halveAnswer) }

// take takes a report in, and answers it.
func (l *Leader) take(r *report) (a answer, ok bool) {
	now := time.Now()
	a = answer{Head: l.name, Process: r.Process, N: r.N}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended[r.Process] {
		a.Gone = true
		return a, true
	}
	m := l.members[r.Process]
	if m == nil {
		m = &debtor{id: r.ID, seen: map[[2]string]uint64{}, loans: map[string]*loan{}}
		l.members[r.Process] = m
	}
	m.heard = now
	knows := r.Head == l.name // else what it holds it has of another leader
	for model, uses := range r.Models {
		shared := l.shared[model]
		if shared == nil {
			continue
		}
		fresh := make(map[string]llm.Use, len(uses))
		for key, u := range uses {
			if at := [2]string{model, key}; r.N > m.seen[at] {
				m.seen[at] = r.N
				if !knows {
					u.Ack = 0
				}
				fresh[key] = u
			}
		}
		if len(fresh) == 0 {
			continue
		}
		if a.Models == nil {
			a.Models = map[string]map[string]llm.Slice{}
		}
		a.Models[model] = shared.Report(now, r.Process, fresh)
	}
	if knows {
		for key, d := range r.Money {
			l.owe(r.Process, m, key, d)
		}
	}
	if r.Bye {
		l.end(r.Process)
		a.Gone = true
		return a, true
	}
	a.Money, a.Out = m.lent(), l.out()
	return a, true
}

// out are the budgets into which no call fits any more.
func (l *Leader) out() (names []string) {
	for name, b := range l.budgets {
		if b.Out() {
			names = append(names, name)
		}
	}
	return names
}

// lent is what a member was lent so far.
func (m *debtor) lent() map[string]llm.Amount {
	all := make(map[string]llm.Amount, len(m.loans))
	for key, x := range m.loans {
		all[key] = x.Lent()
	}
	return all
}

// owe takes in how a member stands with a budget. The lock is held.
func (l *Leader) owe(process string, m *debtor, key string, d llm.Debt) {
	x := m.loans[key]
	if x == nil {
		b := l.budgets[key]
		if b == nil {
			return
		}
		x = &loan{Loan: b.Loan()}
		m.loans[key] = x
	}
	x.mu.Lock()
	if x.line = d.Line; d.Want != x.want {
		if x.want = d.Want; x.running {
			x.cancel() // it asked for less, or for more
		}
	}
	start := !x.running && x.lacks() && l.ctx != nil && l.ctx.Err() == nil
	if start {
		x.running, x.cancel = true, func() {}
	}
	x.mu.Unlock()
	x.Told(d.Spent, d.Returned)
	if start {
		ctx := l.ctx
		l.raising.Go(func() {
			l.raise(ctx, x, func() {
				l.mu.Lock()
				a := answer{Head: l.name, Process: process, Money: m.lent()}
				l.mu.Unlock()
				l.send(m.id, a)
			})
		})
	}
}

// lacks reports whether a member wants more than it was lent. x.mu is held.
func (x *loan) lacks() bool {
	lent := x.Lent()
	return x.want[0] > lent[0] || x.want[1] > lent[1]
}

// raise lends until a member has what it wants, and says so.
func (l *Leader) raise(ctx context.Context, x *loan, tell func()) {
	for {
		x.mu.Lock()
		if !x.lacks() || ctx.Err() != nil {
			x.running = false
			x.mu.Unlock()
			return
		}
		want, line := x.want, x.line
		try, cancel := context.WithCancel(ctx)
		x.cancel = cancel
		x.mu.Unlock()
		l.mu.Lock()
		n := len(l.members)
		l.mu.Unlock()
		err := x.Raise(try, want, line, n)
		changed := try.Err() != nil
		cancel()
		switch {
		case err == nil:
			tell()
		case !changed: // the account cannot be kept, which ends the run by itself
			x.mu.Lock()
			x.running = false
			x.mu.Unlock()
			return
		}
	}
}

// end closes the account of a process. The lock is held.
func (l *Leader) end(process string) {
	m := l.members[process]
	delete(l.members, process)
	l.ended[process] = true
	for _, s := range l.shared {
		s.Forget(process)
	}
	for _, x := range m.loans {
		x.mu.Lock()
		x.want = llm.Amount{}
		if x.running {
			x.cancel()
		}
		x.mu.Unlock()
		x.Close()
	}
}

// look ends those who say nothing, and has money returned that others wait for.
func (l *Leader) look(now time.Time) {
	short := false
	for _, b := range l.budgets {
		short = short || b.Short()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for process, m := range maps.Clone(l.members) {
		if now.Sub(m.heard) > silent {
			l.end(process)
		} else if short && len(m.loans) > 0 {
			l.send(m.id, answer{Head: l.name, Process: process, Recall: true})
		}
	}
}
