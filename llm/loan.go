package llm

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Amount is dollars, in billionths, and tokens.
type Amount = sum

// Debt is how a process stands with the one that keeps the account of a budget. All
// of it only grows, so that what is told late, or twice, does no harm.
type Debt struct {
	Want     Amount `json:"want"`     // what it is to be lent in all, so that its next call fits; no more than it was lent where none waits
	Line     Amount `json:"line"`     // of all its calls that wait
	Spent    Amount `json:"spent"`    // so far
	Returned Amount `json:"returned"` // so far, of what it was lent and does not need
}

// Debt is how this process stands, for budgets that ask.
func (b *Budget) Debt() Debt {
	b.shared.Lock()
	defer b.shared.Unlock()
	d := Debt{Want: b.lent, Returned: b.returned}
	for i := range d.Spent {
		d.Spent[i] = max(0, b.spent[i]-b.before[i])
	}
	if el := b.queue.Front(); el != nil {
		all := b.spent.add(b.reserved).add(el.Value.(*reservationWaiter).worst)
		for i := range all {
			d.Want[i] = max(b.lent[i], all[i]-b.before[i]+b.returned[i])
		}
	}
	for el := b.queue.Front(); el != nil; el = el.Next() {
		w := el.Value.(*reservationWaiter).worst
		d.Line = sum{min(most, d.Line[0]+w[0]), min(most, d.Line[1]+w[1])}
	}
	return d
}

// Lend takes in what this process was lent in all, and lets in who fits then.
func (b *Budget) Lend(lent Amount) {
	b.shared.Lock()
	for i := range lent {
		if more := lent[i] - b.lent[i]; more > 0 {
			b.lent[i] += more
			b.granted[i] += more
		}
	}
	t := b.settled()
	b.shared.Unlock()
	t.call()
}

// ErrSpent says that a call would need more than is left of a budget whose account
// another process keeps. The call was not made; it may be once the limit is raised.
var ErrSpent = errors.New("the budget is spent")

// Out reports whether no call fits any more, into b or a parent of it.
func (b *Budget) Out() bool {
	b.shared.Lock()
	defer b.shared.Unlock()
	return slices.ContainsFunc(b.chain, func(x *Budget) bool { return x.why != "" })
}

// Refuse ends the calls that wait now for more to be lent, with ErrSpent: there is no more.
func (b *Budget) Refuse() {
	b.shared.Lock()
	defer b.shared.Unlock()
	for el := b.queue.Front(); el != nil; el = el.Next() {
		w := el.Value.(*reservationWaiter)
		w.refused = true
		w.wake()
	}
}

// GiveBack returns what no call under way may need.
func (b *Budget) GiveBack() {
	b.shared.Lock()
	defer b.shared.Unlock()
	for i := range b.granted {
		if spare := b.granted[i] - b.spent[i] - b.reserved[i]; spare > 0 {
			b.granted[i] -= spare
			b.returned[i] += spare
		}
	}
}

// Orphan notes that another process keeps the account from now on, which counts
// all as spent that this one has been lent until now. It may be spent.
func (b *Budget) Orphan() {
	b.shared.Lock()
	defer b.shared.Unlock()
	b.before, b.lent, b.returned = b.granted, sum{}, sum{}
}

// Idle reports whether no call is under way or waits.
func (b *Budget) Idle() bool {
	b.shared.Lock()
	defer b.shared.Unlock()
	return b.open == 0 && b.queue.Len() == 0
}

// Short reports whether a call waits for room that others have: what was lent and is
// not needed should be returned.
func (b *Budget) Short() bool {
	b.shared.Lock()
	defer b.shared.Unlock()
	el := b.queue.Front()
	return el != nil && b.why == "" && b.open > 0 && !b.fits(el.Value.(*reservationWaiter).worst)
}

// Loan is what one other process may spend of a budget: reserved until it says that it
// has spent it or returns it. What neither is said of when it dies counts as spent, so
// a limit is never passed.
type Loan struct {
	b *Budget

	raising               sync.Mutex
	lent, spent, returned sum // guarded by the budget's lock
	open, closed          bool
}

// Loan returns an empty loan.
func (b *Budget) Loan() *Loan { return &Loan{b: b} }

// Lent is what has been lent in all.
func (l *Loan) Lent() Amount {
	l.b.shared.Lock()
	defer l.b.shared.Unlock()
	return l.lent
}

// Raise lends more, so that want is lent in all: as Reserve does, it waits until
// that fits, or until ctx ends. What it lends is durable, where the budget is. It lends more
// than that where there is enough: for line, or a hundredth of the limit, but no more than a
// fourth of what is left, for each of so many processes.
func (l *Loan) Raise(ctx context.Context, want, line Amount, processes int) error {
	l.raising.Lock()
	defer l.raising.Unlock()
	b := l.b
	b.shared.Lock()
	var need sum
	for i := range need {
		need[i] = max(0, want[i]-l.lent[i])
	}
	b.shared.Unlock()
	if need == (sum{}) {
		return nil
	}
	r, err := b.Reserve(ctx, need.cost())
	if err != nil {
		return err
	}
	b.shared.Lock()
	if l.closed {
		b.shared.Unlock()
		r.Settle(Cost{})
		return errors.New("the loan is closed")
	}
	defer b.shared.Unlock()
	need = r.worst
	more := b.block(need, line, processes)
	for _, x := range b.chain {
		x.reserved = x.reserved.add(more)
		x.open-- // of the reservation
	}
	l.lent = l.lent.add(need).add(more)
	l.count()
	return nil
}

// block is how much more than need is lent at a time. The lock is held.
func (b *Budget) block(need, line sum, processes int) (more sum) {
	if b.queueOf() != nil {
		return sum{}
	}
	for i := range more {
		more[i] = int64(most)
		for _, x := range b.chain {
			left := int64(most)
			if x.o.Grant != nil {
				left = max(0, x.granted[i]-x.spent[i]-x.reserved[i])
			}
			if x.limit[i] == 0 {
				more[i] = min(more[i], left, max(line[i]-need[i], x.spent[i]/unlimitedPart/int64(max(1, processes))))
				continue
			}
			rest := x.limit[i] - x.spent[i] - x.reserved[i] + need[i]
			part := min(max(x.limit[i]/100, line[i]), rest/int64(4*max(1, processes)))
			more[i] = min(more[i], left, max(0, part-need[i]))
		}
	}
	return more
}

// Open reports whether something is lent that was neither spent nor returned.
func (l *Loan) Open() bool {
	l.b.shared.Lock()
	defer l.b.shared.Unlock()
	return l.open
}

// rest is what was lent and neither spent nor returned.
func (l *Loan) rest() sum { return l.lent.sub(l.spent).sub(l.returned) }

// count notes whether something is lent. The lock is held.
func (l *Loan) count() {
	if open := l.rest() != (sum{}); open != l.open {
		l.open = open
		for _, x := range l.b.chain {
			if open {
				x.open++
			} else {
				x.open--
			}
		}
	}
}

// Told takes in what the other process says that it has spent and returned so far. What
// it says late is left out.
func (l *Loan) Told(spent, returned Amount) {
	b := l.b
	b.shared.Lock()
	for i := range spent {
		back := min(max(0, returned[i]-l.returned[i]), l.rest()[i])
		paid := max(0, spent[i]-l.spent[i])
		over := max(0, paid-(l.rest()[i]-back)) // calls that cost more than their worst case
		l.returned[i] += back
		l.spent[i] += paid
		l.lent[i] += over
		for _, x := range b.chain {
			x.reserved[i] -= back + paid - over
			x.spent[i] += paid
		}
	}
	l.count()
	t := b.settled()
	b.shared.Unlock()
	t.call()
}

// Close ends the loan: what was lent, and not returned, is spent. Nothing more is lent.
func (l *Loan) Close() {
	l.b.shared.Lock()
	l.closed = true
	rest, spent, returned := l.rest(), l.spent, l.returned
	l.b.shared.Unlock()
	l.Told(spent.add(rest), returned)
}
