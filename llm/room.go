package llm

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"matrix/llm/internal/limit"
)

// room is where the calls of a model wait until an endpoint can take them. It
// is the one place that admits calls: it keeps to what each endpoint can hold,
// to the requests and tokens a minute, and to a fixed number of calls at once
// where there is one. Calls of a higher priority go first. Of one priority roles are
// served in turn, each in the order of arrival, but that a call whose try has failed
// comes before those that wait for their first, and that a call may be passed over by
// later ones whose session is at the endpoint that has become free.
type room struct {
	pace    backoff // between trials of an endpoint that is out
	fixed   int     // calls at once over all endpoints; 0 for what they can hold
	reading *Reading

	mu       sync.Mutex
	quota    *quota
	reply    float64 // tokens of one, smoothed; 0 unknown
	at       balance
	inFlight int
	oks      int64     // calls that succeeded so far
	stir     int       // calls that came so far
	note     string    // why there are no endpoints, where discovery has said so
	first    time.Time // when the first call was sent
	failing  time.Time // when the first try failed since the last success; zero for none
	why      string    // the newest of these failures
	kind     Kind      // of it

	classes []*class // of those who wait, highest priority first; none is empty
	waiting int
	alarm   *time.Timer
	wake    time.Time // when the alarm rings; zero for never
}

// class is the lines of calls of one priority.
type class struct {
	priority int
	lines    map[string]*list.List // of *caller, by role; none is empty
	turns    []string              // roles with a line, served from turn on
	turn     int
}

// caller is a call that waits.
type caller struct {
	role     string
	priority int // larger goes first

	session uint64
	prompt  int // tokens, as estimated
	reply   int // tokens at most; 0 unknown
	avoid   *endpoint
	again   bool      // it had a place before
	home    *endpoint // of the session, as of epoch
	epoch   int
	el      *list.Element // in its line
	passed  int           // how often it was passed over
	given   chan *place   // has room for one, and is empty while it does not wait
}

// place is a call's leave to be sent to an endpoint.
type place struct {
	*endpoint
	trial  bool
	within time.Duration // of a trial: how long it may take
	tokens int
	ticket limit.Ticket
	sent   bool // something was
}

func newRoom(fixed int, q *quota, pace backoff) *room {
	return &room{fixed: fixed, quota: q, pace: pace}
}

func sessionHash(s string) uint64 {
	if s == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64() | 1
}

// enter waits for a place. An error is the cause of ctx's end.
func (r *room) enter(ctx context.Context, w *caller) (*place, error) {
	if p := r.join(w); p != nil {
		return p, nil
	}
	select {
	case p := <-w.given:
		return p, nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	select {
	case p := <-w.given: // too late: it goes to another
		r.mu.Unlock()
		r.leave(p, nil, nil)
	default:
		r.remove(w)
		r.mu.Unlock()
	}
	return nil, context.Cause(ctx)
}

// join takes a place, or one in the line of w's role: nil.
func (r *room) join(w *caller) *place {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stir++
	if r.waiting == 0 {
		r.at.refresh(now, false)
		if e := r.find(now, w); e != nil && r.admit(now, w) {
			return r.place(now, w, e)
		}
	}
	if w.given == nil {
		w.given = make(chan *place, 1)
	}
	c := r.class(w.priority)
	line := c.lines[w.role]
	if line == nil {
		line = list.New()
		c.lines[w.role] = line
		c.turns = append(c.turns, w.role)
	}
	if w.again {
		w.el = line.PushFront(w)
	} else {
		w.el = line.PushBack(w)
	}
	r.waiting++
	if r.waiting == 1 {
		r.dispatch(now)
	}
	return nil
}

// poke admits who waited for room in memory.
func (r *room) poke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dispatch(time.Now())
}

// stirred reports whether any call is under way or waits, and how many have come.
func (r *room) stirred() (busy bool, stir int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inFlight > 0 || r.waiting > 0, r.stir
}

// strange reports whether e has answered nothing yet, and is one of several.
func (r *room) strange(e *endpoint) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.calls == 0 && len(r.at.all) > 1
}

// class finds the class of a priority, or makes it.
func (r *room) class(priority int) *class {
	i, ok := r.ranked(priority)
	if !ok {
		r.classes = slices.Insert(r.classes, i, &class{priority: priority, lines: map[string]*list.List{}})
	}
	return r.classes[i]
}

// ranked is where the class of a priority is, or would be.
func (r *room) ranked(priority int) (int, bool) {
	return slices.BinarySearchFunc(r.classes, priority, func(c *class, p int) int { return cmp.Compare(p, c.priority) })
}

func (r *room) remove(w *caller) {
	at, _ := r.ranked(w.priority)
	c := r.classes[at]
	line := c.lines[w.role]
	line.Remove(w.el)
	r.waiting--
	if line.Len() > 0 {
		return
	}
	delete(c.lines, w.role)
	i := slices.Index(c.turns, w.role)
	c.turns = slices.Delete(c.turns, i, i+1)
	if c.turn > i {
		c.turn--
	}
	if len(c.turns) == 0 {
		r.classes = slices.Delete(r.classes, at, at+1)
	}
}

// find returns an endpoint for w that is ready, or nil.
func (r *room) find(now time.Time, w *caller) *endpoint {
	if r.fixed > 0 && r.inFlight >= r.fixed || r.reading.tight() {
		return nil
	}
	return r.at.choose(now, w, r.waiting > 0)
}

// admit reports whether the limits a minute allow the call.
func (r *room) admit(now time.Time, w *caller) bool {
	ok, wake := r.quota.take(now, r.expect(w))
	if !ok {
		r.ring(now, wake)
	}
	return ok
}

// expect estimates the tokens of a call: its reply may be as long as those
// before it were.
func (r *room) expect(w *caller) int {
	switch {
	case r.reply == 0:
		return w.prompt + w.reply
	case w.reply == 0:
		return w.prompt + int(r.reply)
	}
	return w.prompt + min(w.reply, int(r.reply))
}

// ring sets the alarm at a time, where it is not to ring earlier anyway.
func (r *room) ring(now, at time.Time) {
	if at.IsZero() || !r.wake.IsZero() && !at.Before(r.wake) {
		return
	}
	r.wake = at
	if r.alarm == nil {
		r.alarm = time.AfterFunc(at.Sub(now), func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wake = time.Time{}
			r.dispatch(time.Now())
		})
		return
	}
	r.alarm.Reset(max(0, at.Sub(now)))
}

// deep is how far a line is searched for a call whose session is at a free
// endpoint, and often how many times a call is passed over at most.
const deep, often = 64, 64

// dispatch gives places to those who wait, as long as there are any. Where some
// go on waiting, a place will be given back, or the alarm will ring.
func (r *room) dispatch(now time.Time) {
	r.at.refresh(now, r.waiting > 0)
	for r.waiting > 0 {
		if r.fixed > 0 && r.inFlight >= r.fixed || r.reading.tight() {
			return
		}
		c := r.classes[0]
		if c.turn >= len(c.turns) {
			c.turn = 0
		}
		w, e := r.match(now, c.lines[c.turns[c.turn]])
		if e == nil {
			r.ring(now, r.at.rise)
			return
		}
		if !r.admit(now, w) {
			return
		}
		c.turn++
		r.remove(w)
		w.given <- r.place(now, w, e)
	}
}

// match finds the next of a line, and an endpoint that is ready for it, or nil.
func (r *room) match(now time.Time, line *list.List) (*caller, *endpoint) {
	n := 0
	for el := line.Front(); el != nil && n < deep && len(r.at.all) > 1 && len(r.at.ready) > 0; el = el.Next() {
		w := el.Value.(*caller)
		if w.session == 0 || w.passed >= often {
			break
		}
		if e := r.at.home(w); e != nil && e.slot > 0 && r.at.bears(e) && r.at.ask(e, now, true) {
			for ahead := line.Front(); ahead != el; ahead = ahead.Next() {
				ahead.Value.(*caller).passed++
			}
			return w, e
		}
		n++
	}
	w := line.Front().Value.(*caller)
	return w, r.find(now, w)
}

func (r *room) place(now time.Time, w *caller, e *endpoint) *place {
	p := &place{endpoint: e, trial: e.out, tokens: r.expect(w)}
	if p.trial {
		e.trial, p.within = now, e.patience()
	}
	if e.limiter.InFlight() == 0 {
		e.heard = now
	}
	p.ticket = e.limiter.Sent(now)
	if r.inFlight++; r.first.IsZero() {
		r.first = now
	}
	r.at.count(e, 1)
	r.at.ask(e, now, r.waiting > 0)
	return p
}

// leave gives a place back. Exactly one of rep, f and neither is set: a reply, a
// failure, or a call that was ended from outside. It returns how many calls had
// succeeded by then, and whether a further try of the call may be made at once:
// elsewhere, or because the room sets its pace.
func (r *room) leave(p *place, rep *Reply, f *Failure) (oks int64, atOnce bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := p.endpoint
	r.inFlight--
	r.at.count(e, -1)
	began := e.trial
	if p.trial {
		e.trial = time.Time{}
	}
	e.limiter.Demand(r.waiting > 0)
	was := e.out
	r.hear(now, rep, f)
	switch {
	case rep != nil:
		e.limiter.Done(now, p.ticket, limit.Result{PromptTokens: rep.Usage.PromptTokens - rep.Usage.CachedTokens, CompletionTokens: rep.Usage.CompletionTokens})
		e.replied(rep, now)
		e.succeeded()
		r.oks++
		if n := rep.Usage.PromptTokens + rep.Usage.CompletionTokens; n > 0 { // else nobody has counted
			r.learn(float64(rep.Usage.CompletionTokens))
			r.quota.settle(now, p.tokens, n)
		}
		r.quota.learn(now, rep.Quota)
	case f == nil:
		e.limiter.Done(now, p.ticket, limit.Result{Outcome: limit.Dropped})
	case f.Kind == Capacity:
		e.limiter.Done(now, p.ticket, limit.Result{Outcome: limit.Full})
		e.failedBy(f, now, began, p.trial, r.pace)
		r.quota.learn(now, f.Quota)
	case f.Kind == Refused || f.Kind == Context:
		e.limiter.Done(now, p.ticket, limit.Result{Outcome: limit.Dropped})
		e.succeeded()
	default:
		e.limiter.Done(now, p.ticket, limit.Result{Outcome: limit.Faulty})
		e.failedBy(f, now, began, p.trial, r.pace)
	}
	if !p.sent || f != nil && (f.Kind == Capacity || !f.Sent) {
		r.quota.settle(now, p.tokens, 0)
	}
	if was != e.out {
		r.at.survey()
	}
	if e.gone && e.limiter.InFlight() == 0 {
		_ = e.driver.Close()
		r.at.use(slices.DeleteFunc(slices.Clone(r.at.all), func(x *endpoint) bool { return x == e }), now, r.waiting > 0)
	} else {
		r.at.ask(e, now, r.waiting > 0)
	}
	atOnce = e.out
	if f != nil && f.Kind != Capacity && f.Kind != Fault && !atOnce {
		atOnce = slices.ContainsFunc(r.at.all, func(x *endpoint) bool { return x != e && !x.out && !x.gone })
	}
	if r.waiting > 0 {
		r.dispatch(now)
	}
	return r.oks, atOnce
}

// hear notes whether tries fail, and why.
func (r *room) hear(now time.Time, rep *Reply, f *Failure) {
	switch {
	case rep != nil || f != nil && f.Kind.final():
		r.failing, r.why = time.Time{}, ""
	case f == nil:
	default:
		if r.failing.IsZero() {
			r.failing = now
		}
		r.kind = f.Kind
		if r.why = f.Error(); f.After >= quiet {
			r.why += fmt.Sprintf("; tried again after %v", f.After.Round(time.Second))
		}
	}
}

// How long a model that is not paused brings nothing before it says so: while
// tries fail, and while calls that are under way may yet bring something.
const quiet, late = 3 * time.Second, 20 * time.Second

// trouble is what is wrong with a model that is not paused.
func (r *room) trouble(now time.Time) *Trouble {
	patience := quiet
	if r.oks > 0 && r.inFlight > 0 {
		patience = late
	}
	switch {
	case r.note != "":
		return r.noted()
	case !r.failing.IsZero() && now.Sub(r.failing) >= patience:
		return &Trouble{r.failing, r.kind, "nothing but failures; " + r.why}
	case r.oks == 0 && r.failing.IsZero() && r.inFlight > 0 && now.Sub(r.first) >= late:
		return &Trouble{r.first, Timeout, "no reply yet"}
	}
	return nil
}

// noted is what is wrong with where endpoints are learnt from; nil where nothing is.
func (r *room) noted() *Trouble {
	if r.note == "" {
		return nil
	}
	return &Trouble{Kind: Unreachable, Msg: r.note}
}

// learn notes the length of a reply.
func (r *room) learn(tokens float64) {
	if r.reply == 0 {
		r.reply = tokens
	}
	r.reply += (tokens - r.reply) / 64
}

// dead reports whether the model has answered nothing, and will answer nothing: each
// endpoint said so.
func (r *room) dead() bool {
	f := r.fatal()
	r.mu.Lock()
	defer r.mu.Unlock()
	return f != nil && r.oks == 0
}

// fatal is the failure that ends every call: set where each endpoint has one.
func (r *room) fatal() *Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	var f *Failure
	for _, e := range r.at.all {
		if e.gone {
			continue
		}
		if e.fatal == nil {
			return nil
		}
		f = e.fatal
	}
	return f
}

// use replaces the list of endpoints: add makes those that are new, or nil.
func (r *room) use(urls []string, add func(url string) *endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	listed := make(map[string]bool, len(urls))
	for _, u := range urls {
		listed[u] = true
	}
	have := map[string]bool{}
	var keep []*endpoint
	for _, e := range r.at.all {
		if e.gone = !listed[e.url]; e.gone && e.limiter.InFlight() == 0 {
			_ = e.driver.Close()
			continue
		}
		have[e.url] = true
		keep = append(keep, e)
	}
	for _, u := range urls {
		if have[u] {
			continue
		}
		have[u] = true
		if e := add(u); e != nil {
			keep = append(keep, e)
		}
	}
	now := time.Now()
	r.at.use(keep, now, r.waiting > 0)
	r.dispatch(now)
}

// say notes why endpoints are missing.
func (r *room) say(note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note = note
}

// current returns the endpoints that are in use, in order.
func (r *room) current() []*endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*endpoint
	for _, e := range r.at.all {
		if !e.gone {
			all = append(all, e)
		}
	}
	return all
}

// stats fills in what a room knows.
func (r *room) stats(s *Stats) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.InFlight, s.Waiting, s.Limit = r.inFlight, r.waiting, r.fixed
	out, fatal, limit := 0, 0, 0
	var first *endpoint
	for _, e := range r.at.all {
		if e.gone {
			continue
		}
		x := e.stats()
		s.Endpoints = append(s.Endpoints, x)
		limit += x.Limit
		if e.out {
			out++
			if e.fatal != nil {
				fatal++
			}
			if first == nil || e.failed.Before(first.failed) {
				first = e
			}
		}
	}
	if s.Limit == 0 {
		s.Limit = limit
	}
	if len(s.Endpoints) > 0 {
		s.Note = r.trouble(now)
	}
	switch {
	case len(s.Endpoints) == 0:
		if s.Paused = r.noted(); s.Paused == nil {
			s.Paused = &Trouble{Kind: Unreachable, Msg: "waiting for an endpoint"}
		}
	case fatal == len(s.Endpoints): // nobody waits: calls end with the cause
	case out == len(s.Endpoints):
		s.Note, s.Paused = r.noted(), first.trouble()
		if out > 1 {
			s.Paused.Msg = fmt.Sprintf("all %d endpoints are out; %s", out, s.Paused.Msg)
		}
	}
}

// close stops the alarm and ends the connections.
func (r *room) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alarm != nil {
		r.alarm.Stop()
	}
	for _, e := range r.at.all {
		_ = e.driver.Close()
	}
	r.at.use(nil, time.Time{}, false)
}
