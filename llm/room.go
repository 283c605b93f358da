package llm

import (
	"container/list"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"
)

// room is where the calls of a model wait until an endpoint can take them. It
// is the one place that admits calls: it keeps to what each endpoint can hold,
// to the requests and tokens a minute, and to a fixed number of calls at once
// where there is one. Roles are served in turn, each in the order of arrival,
// but that a call may be passed over by later ones whose session is at the
// endpoint that has become free.
type room struct {
	pace  backoff // between trials of an endpoint that is out
	fixed int     // calls at once over all endpoints; 0 for what they can hold

	mu        sync.Mutex
	quota     *quota
	endpoints []*endpoint
	epoch     int // counts changes of who is a session's endpoint
	ready     []*endpoint
	weighed   time.Time
	inFlight  int
	oks       int64  // calls that succeeded so far
	note      string // why there are no endpoints, where discovery has said so

	lines   map[string]*list.List // of *caller, by role
	turns   []string              // roles with a line, served from turn on
	turn    int
	waiting int
	alarm   *time.Timer
	wake    time.Time // when the alarm rings; zero for never
}

// caller is a call that waits.
type caller struct {
	session uint64
	tokens  int // estimate
	avoid   *endpoint
	home    *endpoint // of the session, as of epoch
	epoch   int
	passed  int         // how often it was passed over
	given   chan *place // has room for one
}

// place is a call's leave to be sent to an endpoint.
type place struct {
	*endpoint
	trial  bool
	tokens int
	ticket ticket
}

func newRoom(fixed int, q *quota, pace backoff) *room {
	return &room{fixed: fixed, quota: q, pace: pace, lines: map[string]*list.List{}}
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
func (r *room) enter(ctx context.Context, role string, w *caller) (*place, error) {
	now := time.Now()
	r.mu.Lock()
	if r.waiting == 0 {
		if e := r.find(now, w); e != nil && r.admit(now, w) {
			p := r.place(now, w, e)
			r.mu.Unlock()
			return p, nil
		}
	}
	w.given = make(chan *place, 1)
	line := r.lines[role]
	if line == nil {
		line = list.New()
		r.lines[role] = line
		r.turns = append(r.turns, role)
	}
	el := line.PushBack(w)
	r.waiting++
	if r.waiting == 1 {
		r.demand(true)
		r.dispatch(now)
	}
	r.mu.Unlock()
	select {
	case p := <-w.given:
		return p, nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case p := <-w.given: // too late: it goes to another
		r.free(p)
		p.limiter.done(time.Now(), p.ticket, result{outcome: dropped})
		r.dispatch(time.Now())
	default:
		r.remove(role, line, el)
	}
	return nil, context.Cause(ctx)
}

func (r *room) remove(role string, line *list.List, el *list.Element) {
	line.Remove(el)
	r.waiting--
	if r.waiting == 0 {
		r.demand(false)
	}
	if line.Len() > 0 {
		return
	}
	delete(r.lines, role)
	for i, name := range r.turns {
		if name == role {
			r.turns = append(r.turns[:i], r.turns[i+1:]...)
			if r.turn > i {
				r.turn--
			}
			break
		}
	}
}

func (r *room) demand(waiting bool) {
	for _, e := range r.endpoints {
		e.limiter.demand(waiting)
	}
}

// weighEvery is how often the endpoints' shares are looked at again.
const weighEvery = 200 * time.Millisecond

// look finds the endpoints that are ready, and sets the alarm for when more may
// be.
func (r *room) look(now time.Time) {
	if len(r.endpoints) > 1 && now.Sub(r.weighed) > weighEvery {
		if r.weighed = now; weigh(r.endpoints, now) {
			r.epoch++
		}
	}
	r.ready = r.ready[:0]
	if r.fixed > 0 && r.inFlight >= r.fixed {
		return
	}
	var wake time.Time
	for _, e := range r.endpoints {
		ok, at := e.ready(now)
		if ok {
			r.ready = append(r.ready, e)
		} else if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	if len(r.ready) == 0 {
		r.ring(now, wake)
	}
}

// find returns an endpoint for w that is ready, or nil.
func (r *room) find(now time.Time, w *caller) *endpoint {
	r.look(now)
	return choose(r.ready, r.endpoints, w.session, w.avoid)
}

// admit says whether the limits a minute allow the call.
func (r *room) admit(now time.Time, w *caller) bool {
	ok, wake := r.quota.take(now, w.tokens)
	if !ok {
		r.ring(now, wake)
	}
	return ok
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

// dispatch gives places to those who wait, as long as there are any.
func (r *room) dispatch(now time.Time) {
	for r.waiting > 0 {
		if r.look(now); len(r.ready) == 0 {
			return
		}
		if r.turn >= len(r.turns) {
			r.turn = 0
		}
		role := r.turns[r.turn]
		line := r.lines[role]
		el, e := r.match(line)
		w := el.Value.(*caller)
		if !r.admit(now, w) {
			return
		}
		r.turn++
		r.remove(role, line, el)
		w.given <- r.place(now, w, e)
	}
}

// match finds the next of a line, and an endpoint that is ready for it.
func (r *room) match(line *list.List) (*list.Element, *endpoint) {
	n := 0
	for el := line.Front(); el != nil && n < deep && len(r.endpoints) > 1; el = el.Next() {
		w := el.Value.(*caller)
		if w.session == 0 || w.passed >= often {
			break
		}
		if w.epoch != r.epoch || w.home == nil {
			w.home, w.epoch = home(r.endpoints, w.session, w.avoid), r.epoch
		}
		for _, e := range r.ready {
			if e == w.home && e.load(1) <= bound(r.endpoints) {
				for ahead := line.Front(); ahead != el; ahead = ahead.Next() {
					ahead.Value.(*caller).passed++
				}
				return el, e
			}
		}
		n++
	}
	el := line.Front()
	w := el.Value.(*caller)
	return el, choose(r.ready, r.endpoints, w.session, w.avoid)
}

func (r *room) place(now time.Time, w *caller, e *endpoint) *place {
	p := &place{endpoint: e, trial: e.out, tokens: w.tokens}
	if p.trial {
		e.trial = now
	}
	if e.limiter.inFlight() == 0 {
		e.heard = now
	}
	p.ticket = e.limiter.sent(now)
	r.inFlight++
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
	was := e.out
	switch {
	case rep != nil:
		e.limiter.done(now, p.ticket, result{answered, rep.Usage.PromptTokens - rep.Usage.CachedTokens, rep.Usage.CompletionTokens})
		e.replied(rep, now)
		e.succeeded()
		r.oks++
		r.quota.settle(now, p.tokens, rep.Usage.PromptTokens+rep.Usage.CompletionTokens)
		r.quota.learn(now, rep.Quota)
	case f == nil:
		e.limiter.done(now, p.ticket, result{outcome: dropped})
	case f.Kind == Capacity:
		e.limiter.done(now, p.ticket, result{outcome: full})
		e.failedBy(f, now, p.trial, r.pace)
		r.quota.settle(now, p.tokens, 0)
		r.quota.learn(now, f.Quota)
	case f.Kind == Refused || f.Kind == Context:
		e.limiter.done(now, p.ticket, result{outcome: dropped})
		e.succeeded()
	default:
		e.limiter.done(now, p.ticket, result{outcome: faulty})
		e.failedBy(f, now, p.trial, r.pace)
	}
	r.free(p)
	if was != e.out {
		r.epoch++
	}
	if e.gone && e.limiter.inFlight() == 0 {
		r.drop(e)
	}
	atOnce = e.out
	if f != nil && f.Kind != Capacity && f.Kind != Fault && !atOnce {
		for _, other := range r.endpoints {
			if other != e && !other.out && !other.gone {
				atOnce = true
				break
			}
		}
	}
	if r.waiting > 0 {
		r.dispatch(now)
	}
	return r.oks, atOnce
}

// drop forgets an endpoint that is gone and has no calls any more.
func (r *room) drop(e *endpoint) {
	_ = e.wire.Close()
	r.endpoints = slices.DeleteFunc(slices.Clone(r.endpoints), func(x *endpoint) bool { return x == e })
}

func (r *room) free(p *place) {
	r.inFlight--
	if p.trial {
		p.endpoint.trial = time.Time{}
	}
}

// fatal is the failure that ends every call: set where each endpoint has one.
func (r *room) fatal() *Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	var f *Failure
	for _, e := range r.endpoints {
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

// use replaces the list of endpoints: add makes those that are new. It returns
// those that may be closed now.
func (r *room) use(urls []string, add func(url string) *endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	listed := make(map[string]bool, len(urls))
	for _, u := range urls {
		listed[u] = true
	}
	have := map[string]bool{}
	var keep []*endpoint
	for _, e := range r.endpoints {
		if e.gone = !listed[e.url]; e.gone && e.limiter.inFlight() == 0 {
			_ = e.wire.Close()
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
			e.limiter.demand(r.waiting > 0)
			keep = append(keep, e)
		}
	}
	r.endpoints = keep
	r.epoch++
	r.dispatch(time.Now())
}

// say notes why endpoints are missing.
func (r *room) say(note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note = note
}

// wires are the endpoints' urls and wires, in order.
func (r *room) wires() []*endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*endpoint
	for _, e := range r.endpoints {
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
	out, limit := 0, 0
	var first *endpoint
	for _, e := range r.endpoints {
		if e.gone {
			continue
		}
		x := e.stats(now)
		s.Endpoints = append(s.Endpoints, x)
		limit += x.Limit
		if e.out {
			out++
			if first == nil || e.failed.Before(first.failed) {
				first = e
			}
		}
	}
	if s.Limit == 0 {
		s.Limit = limit
	}
	switch {
	case len(s.Endpoints) == 0:
		if s.Paused = "waiting for an endpoint"; r.note != "" {
			s.Paused = r.note
		}
	case out == len(s.Endpoints):
		s.Paused = fmt.Sprintf("%s, %d s", first.why, int(now.Sub(first.failed).Seconds()))
		if out > 1 {
			s.Paused = fmt.Sprintf("all %d endpoints are out; %s", out, s.Paused)
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
	for _, e := range r.endpoints {
		_ = e.wire.Close()
	}
	r.endpoints = nil
}
