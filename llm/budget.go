package llm

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Cost is money and tokens.
type Cost struct {
	USD    float64 `json:"usd"`
	Tokens int64   `json:"tokens"` // of prompts and replies
}

// sum is a Cost as it is counted: in billionths of a dollar, and tokens.
type sum [2]int64

const (
	inUSD    = 0
	inTokens = 1
)

// most is more than anybody has.
const most = math.MaxInt64 / 4

// sum rounds up, so that what is counted is never less than what is paid.
func (c Cost) sum() sum {
	return sum{int64(min(most, max(0, math.Ceil(c.USD*1e9-1e-4)))), max(0, min(most, c.Tokens))}
}

func (a sum) cost() Cost { return Cost{float64(a[inUSD]) / 1e9, a[inTokens]} }

func (a sum) add(b sum) sum { return sum{a[0] + b[0], a[1] + b[1]} }
func (a sum) sub(b sum) sum { return sum{a[0] - b[0], a[1] - b[1]} }

// Budget keeps what calls cost within a limit. Before a call its worst case is
// reserved, and after it the real cost takes the place of that, so that spent
// and reserved together never pass the limit.
//
// A nil Budget has no limit and counts nothing.
type Budget struct {
	o      BudgetOptions
	limit  sum // 0 for none
	chain  []*Budget
	shared *sync.Mutex // of all budgets with the same root: guards what follows

	spent    sum
	reserved sum
	granted  sum       // what may be spent and reserved by now: durable, where there is a Grant
	granting bool      // somebody raises granted, or is told to
	open     int       // reservations not settled
	queue    list.List // of *reservationWaiter, by ticket: the first one does not fit here
	tickets  *int64
	why      string // nothing more fits; empty while something may
	need     sum    // the call that did not

	lent, returned sum // by whom it asks: so far
	before         sum // of granted: lent by one who keeps the account no more
}

// BudgetOptions say where a Budget stands.
type BudgetOptions struct {
	Name   string  // for messages: what it is the budget of
	Parent *Budget // what is spent here counts there too; nil for none
	Spent  Cost    // before now

	// Grant is told what may be spent in all from now on, before it is: once it
	// has returned nil, a process that comes after this one, whatever became of
	// it, must find that total as spent. It is called for a part of the limit
	// at a time, by one goroutine at a time. Where there is no limit, the part
	// is one of what has been spent: a limit may come later, with the next
	// process. nil where nobody comes after.
	Grant func(total Cost) error

	// Ask is called, and must not block, when a call needs more than this process was
	// lent so far by another one, which keeps the account and the limit: see Debt. It
	// stands in the place of Grant. The limit given here says no more than what no
	// call may cost. nil where the account is kept here.
	Ask func()

	// OnSpent is called once, when nothing is reserved any more and the next
	// call does not fit. why says so in a line. nil asks the parent's.
	OnSpent func(why string)
}

// NewBudget returns a budget that ends at limit; 0 of either is no limit of it.
func NewBudget(limit Cost, o BudgetOptions) *Budget {
	b := &Budget{o: o, limit: sum{int64(min(most, math.Floor(limit.USD*1e9+1e-4))), min(most, limit.Tokens)}, spent: o.Spent.sum()}
	b.granted = b.spent
	if o.Parent == nil {
		b.shared, b.tickets = new(sync.Mutex), new(int64)
	} else {
		b.shared, b.tickets = o.Parent.shared, o.Parent.tickets
	}
	for x := b; x != nil; x = x.o.Parent {
		b.chain = append(b.chain, x)
	}
	return b
}

// Limited reports whether b, or a parent of it, has a limit.
func (b *Budget) Limited() bool {
	return b != nil && slices.ContainsFunc(b.chain, func(x *Budget) bool { return x.limit != sum{} })
}

// Reservation is room in a budget for one call. The zero value is none.
type Reservation struct {
	b     *Budget
	worst sum
}

// reservationWaiter is a Reserve that does not fit yet.
type reservationWaiter struct {
	b      *Budget
	worst  sum
	ticket int64
	at     *Budget       // in whose queue it waits; nil once it is admitted
	el     *list.Element // there
	grant  *Budget       // at, where w is to raise the grant of it and has not begun to
	signal chan struct{} // buffered: it was admitted or refused, or grant was set

	refused bool // where another process keeps the account
}

// Reserve takes room for a call that costs worst at most, from b and its
// parents or from none. What does not fit beside other reservations waits, in
// order of arrival, until these are settled. What still does not fit then is
// too much: OnSpent is called, and Reserve blocks until ctx ends, whose cause it
// returns; where another process keeps the account, it may end with ErrSpent. A call that would not fit into the empty budget either is an *Error
// of Kind Fatal at once.
func (b *Budget) Reserve(ctx context.Context, worst Cost) (Reservation, error) {
	if b == nil {
		return Reservation{}, nil
	}
	need := worst.sum()
	if err := b.possible(need); err != nil {
		return Reservation{}, err
	}
	b.shared.Lock()
	*b.tickets++
	if b.queueOf() == nil && b.tooSmall(need) == nil {
		b.take(need)
		b.shared.Unlock()
		return Reservation{b, need}, nil
	}
	w := &reservationWaiter{b: b, worst: need, ticket: *b.tickets, signal: make(chan struct{}, 1)}
	at := b.queueOf()
	if at == nil {
		at = b.tooSmall(need)
	}
	at.enqueue(w)
	told := b.settled()
	b.shared.Unlock()
	told.call()
	return w.wait(ctx)
}

// possible refuses what no state of the budget would let in.
func (b *Budget) possible(need sum) error {
	for _, x := range b.chain {
		for i := range need {
			if x.limit[i] > 0 && need[i] > x.limit[i] {
				return &Error{
					Kind: Fatal, Msg: fmt.Sprintf("one call may cost %s, and %s is %s in all", show(i, need[i]), x.name(), show(i, x.limit[i])),
					Hint: "lower max_tokens, shorten the prompt, or raise the budget",
				}
			}
		}
	}
	return nil
}

func (b *Budget) name() string {
	if b.o.Name == "" {
		return "the budget"
	}
	return "the budget of " + b.o.Name
}

// show is a limit for people: of dollars or of tokens.
func show(i int, n int64) string {
	if i == inUSD {
		return ShowUSD(float64(n)/1e9) + " USD"
	}
	return strconv.FormatInt(n, 10) + " tokens"
}

// ShowUSD writes dollars with cents, or with as many digits as tell something.
func ShowUSD(usd float64) string {
	digits := 2
	if a := math.Abs(usd); a > 0 {
		digits = max(2, 2-int(math.Floor(math.Log10(a))))
		if a >= 1 && a < 10 {
			digits = 3
		}
	}
	s := strconv.FormatFloat(usd, 'f', digits, 64)
	for strings.HasSuffix(s, "0") && len(s)-strings.IndexByte(s, '.') > 3 {
		s = s[:len(s)-1]
	}
	return s
}

// What follows is called with the lock held.

// queueOf is the budget, of b and its parents, where others wait already.
func (b *Budget) queueOf() *Budget {
	for i := len(b.chain) - 1; i >= 0; i-- {
		if x := b.chain[i]; x.queue.Len() > 0 {
			return x
		}
	}
	return nil
}

// tooSmall is the budget, of b and its parents, that is too small for it now; nil for none.
func (b *Budget) tooSmall(need sum) *Budget {
	for i := len(b.chain) - 1; i >= 0; i-- {
		x := b.chain[i]
		if x.why != "" || !x.fits(need) || x.ungranted(need) {
			return x
		}
	}
	return nil
}

func (b *Budget) fits(need sum) bool {
	if b.o.Ask != nil {
		return true // or not: whoever keeps the account says so
	}
	all := b.spent.add(b.reserved).add(need)
	return (b.limit[0] == 0 || all[0] <= b.limit[0]) && (b.limit[1] == 0 || all[1] <= b.limit[1])
}

// ungranted reports whether the grant does not reach so far.
func (b *Budget) ungranted(need sum) bool {
	if b.o.Grant == nil && b.o.Ask == nil {
		return false
	}
	all := b.spent.add(b.reserved).add(need)
	return all[0] > b.granted[0] || all[1] > b.granted[1]
}

func (b *Budget) take(need sum) {
	for _, x := range b.chain {
		x.reserved = x.reserved.add(need)
		x.open++
	}
}

func (b *Budget) enqueue(w *reservationWaiter) {
	w.at = b
	for el := b.queue.Back(); el != nil; el = el.Prev() {
		if el.Value.(*reservationWaiter).ticket < w.ticket {
			w.el = b.queue.InsertAfter(w, el)
			return
		}
	}
	w.el = b.queue.PushFront(w)
}

// dequeue takes w out of the queue of b, and the duty from it to raise the grant.
func (b *Budget) dequeue(w *reservationWaiter) {
	b.queue.Remove(w.el)
	w.at = nil
	if w.grant != nil {
		w.grant, b.granting = nil, false
	}
}

// callbacks are the calls of OnSpent and Ask that are due once the lock is free.
type callbacks []func()

func (t callbacks) call() {
	for _, f := range t {
		f()
	}
}

// settled lets in who fits now, of those who wait at b and its parents.
func (b *Budget) settled() (t callbacks) {
	for i := len(b.chain) - 1; i >= 0; i-- {
		t = append(t, b.chain[i].admitNext()...)
	}
	return t
}

// admitNext admits those who wait in the queue of b, until the first who does not fit.
func (b *Budget) admitNext() (t callbacks) {
	for el := b.queue.Front(); el != nil; el = b.queue.Front() {
		w := el.Value.(*reservationWaiter)
		at := w.b.tooSmall(w.worst)
		switch {
		case at == nil:
			b.dequeue(w)
			w.b.take(w.worst)
			w.wake()
		case at != b:
			b.dequeue(w)
			at.enqueue(w)
			if at.queue.Front() == w.el { // it may lack no more than a grant, or be the one that is too much
				t = append(t, at.admitNext()...)
			}
		case b.why != "":
			return t
		case !b.fits(w.worst):
			if b.open == 0 {
				t = append(t, b.end(w.worst)...)
			}
			return t
		case b.o.Ask != nil:
			return append(t, b.o.Ask)
		default:
			if !b.granting {
				b.granting, w.grant = true, b
				w.wake()
			}
			return t
		}
	}
	return t
}

// end says that no call fits any more.
func (b *Budget) end(need sum) callbacks {
	i := inUSD
	if left := b.limit.sub(b.spent).sub(need); b.limit[inUSD] == 0 || b.limit[inTokens] > 0 && left[inTokens] < 0 && left[inUSD] >= 0 {
		i = inTokens
	}
	why := fmt.Sprintf("%s is spent: %s of %s", b.name(), show(i, b.spent[i]), show(i, b.limit[i]))
	if need[i] > 0 {
		why += fmt.Sprintf(", and the next call may cost up to %s", show(i, need[i]))
	}
	b.why, b.need = why, need
	for _, x := range b.chain {
		if x.o.OnSpent != nil {
			return callbacks{func() { x.o.OnSpent(why) }}
		}
	}
	return nil
}

func (w *reservationWaiter) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// wait blocks until w is let in or ctx ends. No lock is held.
func (w *reservationWaiter) wait(ctx context.Context) (Reservation, error) {
	b := w.b
	for {
		select {
		case <-w.signal:
		case <-ctx.Done():
			return Reservation{}, w.leave(context.Cause(ctx))
		}
		b.shared.Lock()
		in, grant, refused := w.at == nil, w.grant, w.refused
		w.grant = nil
		b.shared.Unlock()
		if in {
			return Reservation{b, w.worst}, nil
		}
		if refused {
			return Reservation{}, w.leave(ErrSpent)
		}
		if grant == nil {
			continue
		}
		if err := grant.raise(w.worst); err != nil {
			return Reservation{}, w.leave(&Error{Kind: Fatal, Msg: fmt.Sprintf("note what %s may spend: %v", grant.name(), err), Err: err})
		}
	}
}

// leave takes w out of its queue, or gives back what it was admitted with.
func (w *reservationWaiter) leave(err error) error {
	w.b.shared.Lock()
	at := w.at
	var t callbacks
	if at != nil {
		at.dequeue(w)
		t = at.admitNext()
	}
	w.b.shared.Unlock()
	t.call()
	if at == nil {
		Reservation{w.b, w.worst}.Settle(Cost{})
	}
	return err
}

// unlimitedPart is the part of what has been spent that is granted at a time
// where there is no limit: a million calls take some 300 grants.
const unlimitedPart = 16

// raise has a larger part of the limit granted. No lock is held.
func (b *Budget) raise(need sum) error {
	b.shared.Lock()
	total := b.spent.add(b.reserved).add(need)
	var line sum // of those who wait for the same grant
	for el := b.queue.Front(); el != nil; el = el.Next() {
		w := el.Value.(*reservationWaiter).worst
		line = sum{min(most, line[0]+w[0]), min(most, line[1]+w[1])}
	}
	for i := range total {
		switch {
		case total[i] <= b.granted[i]: // it lacks the other one
			total[i] = b.granted[i]
		case b.limit[i] > 0:
			total[i] = max(total[i], min(b.limit[i], b.granted[i]+b.limit[i]/100))
		default:
			total[i] = min(most, total[i]+line[i]+total[i]/unlimitedPart)
		}
	}
	wanted := need == (sum{}) || b.fits(need) // else money was spent meanwhile without asking
	var err error
	if wanted {
		b.shared.Unlock()
		err = b.o.Grant(total.cost())
		b.shared.Lock()
	}
	b.granting = false
	if wanted && err == nil {
		b.granted = sum{max(b.granted[0], total[0]), max(b.granted[1], total[1])}
	}
	t := b.admitNext()
	b.shared.Unlock()
	t.call()
	return err
}

// Settle puts the real cost in the place of the reservation: once. A call that
// may have been paid for, and of which nobody knows the cost, is settled at its
// worst case. A cost above the worst case counts in full, and is the one way in
// which more than the limit can be spent.
func (r Reservation) Settle(real Cost) { r.settle(real.sum()) }

// Worst settles at the worst case.
func (r Reservation) Worst() { r.settle(r.worst) }

func (r Reservation) settle(real sum) {
	if r.b == nil {
		return
	}
	r.b.shared.Lock()
	for _, x := range r.b.chain {
		x.reserved = x.reserved.sub(r.worst)
		x.spent = x.spent.add(real)
		x.open--
	}
	t := r.b.settled()
	r.b.shared.Unlock()
	t.call()
}

// Spend counts a cost that was not reserved, because it comes whether or not
// there is a budget for it: the hours of a machine. It is an error of Grant.
func (b *Budget) Spend(real Cost) error {
	if b == nil {
		return nil
	}
	n := real.sum()
	var t callbacks
	var raise []*Budget
	b.shared.Lock()
	for _, x := range b.chain {
		x.spent = x.spent.add(n)
		if x.o.Ask != nil {
			continue
		}
		if x.why == "" && (x.limit[0] > 0 && x.spent[0] >= x.limit[0] || x.limit[1] > 0 && x.spent[1] >= x.limit[1]) {
			t = append(t, x.end(sum{})...)
		}
		if !x.granting && x.ungranted(sum{}) {
			x.granting = true
			raise = append(raise, x)
		}
	}
	b.shared.Unlock()
	t.call()
	var errs []error
	for _, x := range raise { // each, or nobody raises it any more
		errs = append(errs, x.raise(sum{}))
	}
	return errors.Join(errs...)
}

// BudgetState is how a Budget stands.
type BudgetState struct {
	Limit    Cost // 0 for none
	Spent    Cost
	Reserved Cost   // by calls under way
	Granted  Cost   // what a process that comes after this one counts as spent
	Out      string // why nothing more fits; empty while something may
	Need     Cost   // the call that did not fit, where one has
}

// State may be called at any time.
func (b *Budget) State() BudgetState {
	if b == nil {
		return BudgetState{}
	}
	b.shared.Lock()
	defer b.shared.Unlock()
	granted := sum{max(b.granted[0], b.spent[0]), max(b.granted[1], b.spent[1])}
	return BudgetState{Limit: b.limit.cost(), Spent: b.spent.cost(), Reserved: b.reserved.cost(), Granted: granted.cost(), Out: b.why, Need: b.need.cost()}
}
