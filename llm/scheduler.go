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

// scheduler is where the calls of a model wait until an endpoint can take them. It
// is the one place that admits calls: it keeps to what each endpoint can hold,
// to the requests and tokens a minute, and to a fixed number of calls at once
// where there is one. Calls of a higher priority go first. Within a priority roles
// are served round-robin, and each role's queue is first in, first out, with two
// exceptions: a call whose try has failed goes before those that wait for their
// first, and a call may be passed over by later ones whose session is at the
// endpoint that has become free.
type scheduler struct {
	pace    backoff // between trials of an endpoint that is out
	fixed   int     // calls at once over all endpoints; 0 for what they can hold
	reading *ReplyMemory

	news  func()       // told that there is something to tell a leader; nil where there is none
	whole limit.Holder // what the leader gives of the model as a whole

	mu          sync.Mutex
	quota       *quota
	replyTokens float64 // tokens of one, smoothed; 0 unknown
	at          balance
	inFlight    int
	successes   int64     // calls that succeeded so far
	arrivals    int       // calls that came so far
	note        string    // why there are no endpoints, where discovery has said so
	first       time.Time // when the first call was sent
	failing     time.Time // when the first try failed since the last success; zero for none
	why         string    // the newest of these failures
	kind        Kind      // of it

	classes []*class // of those who wait, highest priority first; none is empty
	waiting int
	alarm   *time.Timer
	wake    time.Time // when the alarm rings; zero for never
}

// class is the queues of calls of one priority.
type class struct {
	priority int
	queues   map[string]*list.List // of *waiter, by role; none is empty
	roles    []string              // that have a queue, served round-robin from next on
	next     int
}

// waiter is a call that waits.
type waiter struct {
	role     string
	priority int // larger goes first

	session uint64
	prompt  int // tokens, as estimated
	reply   int // tokens at most; 0 unknown
	avoid   *endpoint
	retry   bool      // it had a slot before
	home    *endpoint // of the session, as of epoch
	epoch   int
	el      *list.Element // in its queue
	passes  int           // how often it was passed over
	granted chan *slot    // has room for one, and is empty while it does not wait
}

// slot is the right of one call to be sent to an endpoint.
type slot struct {
	*endpoint
	trial  bool
	within time.Duration // of a trial: how long it may take
	tokens int
	ticket limit.Ticket
	sent   bool // something was
}

func newScheduler(fixed int, q *quota, pace backoff) *scheduler {
	return &scheduler{fixed: fixed, quota: q, pace: pace}
}

func sessionHash(s string) uint64 {
	if s == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64() | 1
}

// acquire waits for a slot. An error is the cause of ctx's end.
func (s *scheduler) acquire(ctx context.Context, w *waiter) (*slot, error) {
	if sl := s.enqueue(w); sl != nil {
		return sl, nil
	}
	select {
	case sl := <-w.granted:
		return sl, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case sl := <-w.granted: // too late: it goes to another
		s.mu.Unlock()
		s.release(sl, nil, nil)
	default:
		s.remove(w)
		s.mu.Unlock()
	}
	return nil, context.Cause(ctx)
}

// enqueue returns a slot where one is free; else w waits in its role's queue, and
// enqueue returns nil.
func (s *scheduler) enqueue(w *waiter) *slot {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals++
	if s.waiting == 0 {
		s.at.refresh(now, false)
		if e := s.choose(now, w); e != nil && s.admit(now, w) {
			return s.slotAt(now, w, e)
		}
	}
	if w.granted == nil {
		w.granted = make(chan *slot, 1)
	}
	c := s.classOf(w.priority)
	queue := c.queues[w.role]
	if queue == nil {
		queue = list.New()
		c.queues[w.role] = queue
		c.roles = append(c.roles, w.role)
	}
	if w.retry {
		w.el = queue.PushFront(w)
	} else {
		w.el = queue.PushBack(w)
	}
	s.waiting++
	if s.waiting == 1 {
		if s.dispatch(now); s.waiting == 1 {
			s.tell()
		}
	}
	return nil
}

// recheck admits calls that waited for memory.
func (s *scheduler) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dispatch(time.Now())
}

// activity reports whether any call is under way or waits, and how many have come.
func (s *scheduler) activity() (busy bool, arrivals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight > 0 || s.waiting > 0, s.arrivals
}

// unseen reports whether e has answered nothing yet, and is one of several.
func (s *scheduler) unseen(e *endpoint) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.calls == 0 && len(s.at.all) > 1
}

// classOf finds the class of a priority, or makes it.
func (s *scheduler) classOf(priority int) *class {
	i, ok := s.classIndex(priority)
	if !ok {
		s.classes = slices.Insert(s.classes, i, &class{priority: priority, queues: map[string]*list.List{}})
	}
	return s.classes[i]
}

// classIndex is where the class of a priority is, or would be.
func (s *scheduler) classIndex(priority int) (int, bool) {
	return slices.BinarySearchFunc(s.classes, priority, func(c *class, p int) int { return cmp.Compare(p, c.priority) })
}

func (s *scheduler) remove(w *waiter) {
	at, _ := s.classIndex(w.priority)
	c := s.classes[at]
	queue := c.queues[w.role]
	queue.Remove(w.el)
	s.waiting--
	if queue.Len() > 0 {
		return
	}
	delete(c.queues, w.role)
	i := slices.Index(c.roles, w.role)
	c.roles = slices.Delete(c.roles, i, i+1)
	if c.next > i {
		c.next--
	}
	if len(c.roles) == 0 {
		s.classes = slices.Delete(s.classes, at, at+1)
	}
}

// choose returns an endpoint for w that is ready, or nil.
func (s *scheduler) choose(now time.Time, w *waiter) *endpoint {
	if s.full(now) {
		return nil
	}
	return s.at.choose(now, w, s.waiting > 0)
}

// admit reports whether the limits a minute allow the call.
func (s *scheduler) admit(now time.Time, w *waiter) bool {
	ok, wake := s.quota.take(now, s.tokens(w))
	if !ok {
		s.setAlarm(now, wake)
	}
	return ok
}

// tokens estimates the tokens of a call: its reply may be as long as those
// before it were.
func (s *scheduler) tokens(w *waiter) int {
	switch {
	case s.replyTokens == 0:
		return w.prompt + w.reply
	case w.reply == 0:
		return w.prompt + int(s.replyTokens)
	}
	return w.prompt + min(w.reply, int(s.replyTokens))
}

// setAlarm sets the alarm at a time, where it is not to ring earlier anyway.
func (s *scheduler) setAlarm(now, at time.Time) {
	if at.IsZero() || !s.wake.IsZero() && !at.Before(s.wake) {
		return
	}
	s.wake = at
	if s.alarm == nil {
		s.alarm = time.AfterFunc(at.Sub(now), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wake = time.Time{}
			s.dispatch(time.Now())
		})
		return
	}
	s.alarm.Reset(max(0, at.Sub(now)))
}

// maxScan is how far a queue is searched for a call whose session is at a free
// endpoint, and maxPasses how many times a call is passed over at most.
const maxScan, maxPasses = 64, 64

// dispatch gives slots to those who wait, as long as there are any. Where some go
// on waiting, a slot will be released, or the alarm will ring.
func (s *scheduler) dispatch(now time.Time) {
	s.at.refresh(now, s.waiting > 0)
	for s.waiting > 0 {
		if s.full(now) {
			return
		}
		c := s.classes[0]
		if c.next >= len(c.roles) {
			c.next = 0
		}
		w, e := s.match(now, c.queues[c.roles[c.next]])
		if e == nil {
			s.setAlarm(now, s.at.nextWake)
			return
		}
		if !s.admit(now, w) {
			return
		}
		c.next++
		s.remove(w)
		w.granted <- s.slotAt(now, w, e)
	}
}

// match finds the next of a queue, and an endpoint that is ready for it, or nil.
func (s *scheduler) match(now time.Time, queue *list.List) (*waiter, *endpoint) {
	n := 0
	for el := queue.Front(); el != nil && n < maxScan && len(s.at.all) > 1 && len(s.at.ready) > 0; el = el.Next() {
		w := el.Value.(*waiter)
		if w.session == 0 || w.passes >= maxPasses {
			break
		}
		if e := s.at.home(w); e != nil && e.index > 0 && s.at.mayTake(e) && s.at.check(e, now, true) {
			for ahead := queue.Front(); ahead != el; ahead = ahead.Next() {
				ahead.Value.(*waiter).passes++
			}
			return w, e
		}
		n++
	}
	w := queue.Front().Value.(*waiter)
	return w, s.choose(now, w)
}

func (s *scheduler) slotAt(now time.Time, w *waiter, e *endpoint) *slot {
	sl := &slot{endpoint: e, trial: e.out, tokens: s.tokens(w)}
	if sl.trial {
		e.trial, sl.within = now, e.trialTimeout()
	}
	if e.limiter.InFlight() == 0 {
		e.lastReply = now
	}
	sl.ticket = e.limiter.Sent(now)
	if s.inFlight++; s.first.IsZero() {
		s.first = now
	}
	s.at.count(e, 1)
	s.at.check(e, now, s.waiting > 0)
	return sl
}

// release gives a slot back. Exactly one of rep, f and neither is set: a reply, a
// failure, or a call that was ended from outside. It returns how many calls had
// succeeded by then, and whether a further try of the call may be made at once:
// elsewhere, or because the scheduler sets its pace.
func (s *scheduler) release(sl *slot, rep *Reply, f *Failure) (successes int64, retryNow bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := sl.endpoint
	s.inFlight--
	s.at.count(e, -1)
	began := e.trial
	if sl.trial {
		e.trial = time.Time{}
	}
	e.limiter.Demand(s.waiting > 0)
	wasOut := e.out
	s.observe(now, rep, f)
	switch {
	case rep != nil:
		e.limiter.Done(now, sl.ticket, limit.Result{PromptTokens: rep.Usage.PromptTokens - rep.Usage.CachedTokens, CompletionTokens: rep.Usage.CompletionTokens})
		e.replied(rep, now)
		e.succeeded()
		s.successes++
		if n := rep.Usage.PromptTokens + rep.Usage.CompletionTokens; n > 0 { // else nobody has counted
			s.observeReply(float64(rep.Usage.CompletionTokens))
			s.quota.settle(now, sl.tokens, n)
		}
		s.quota.learn(now, rep.Quota)
	case f == nil:
		e.limiter.Done(now, sl.ticket, limit.Result{Outcome: limit.Dropped})
	case f.Kind == Capacity:
		e.limiter.Done(now, sl.ticket, limit.Result{Outcome: limit.Full})
		e.failedBy(f, now, began, sl.trial, s.pace)
		s.quota.learn(now, f.Quota)
		s.tell()
	case f.Kind == Refused || f.Kind == Context:
		e.limiter.Done(now, sl.ticket, limit.Result{Outcome: limit.Dropped})
		e.succeeded()
	default:
		e.limiter.Done(now, sl.ticket, limit.Result{Outcome: limit.Faulty})
		e.failedBy(f, now, began, sl.trial, s.pace)
	}
	if !sl.sent || f != nil && (f.Kind == Capacity || !f.Sent) {
		s.quota.settle(now, sl.tokens, 0)
	}
	if wasOut != e.out {
		s.at.survey()
	}
	if e.gone && e.limiter.InFlight() == 0 {
		_ = e.driver.Close()
		s.at.use(slices.DeleteFunc(slices.Clone(s.at.all), func(x *endpoint) bool { return x == e }), now, s.waiting > 0)
	} else {
		s.at.check(e, now, s.waiting > 0)
	}
	retryNow = e.out
	if f != nil && f.Kind != Capacity && f.Kind != Fault && !retryNow {
		retryNow = slices.ContainsFunc(s.at.all, func(x *endpoint) bool { return x != e && !x.out && !x.gone })
	}
	if s.waiting > 0 {
		s.dispatch(now)
	}
	return s.successes, retryNow
}

// observe notes whether tries fail, and why.
func (s *scheduler) observe(now time.Time, rep *Reply, f *Failure) {
	switch {
	case rep != nil || f != nil && f.Kind.final():
		s.failing, s.why = time.Time{}, ""
	case f == nil:
	default:
		if s.failing.IsZero() {
			s.failing = now
		}
		s.kind = f.Kind
		if s.why = f.Error(); f.After >= quiet {
			s.why += fmt.Sprintf("; tried again after %v", f.After.Round(time.Second))
		}
	}
}

// How long a model that is not paused brings nothing before it says so: while
// tries fail, and while calls that are under way may yet bring something.
const quiet, late = 3 * time.Second, 20 * time.Second

// trouble is what is wrong with a model that is not paused.
func (s *scheduler) trouble(now time.Time) *Trouble {
	wait := quiet
	if s.successes > 0 && s.inFlight > 0 {
		wait = late
	}
	switch {
	case s.note != "":
		return s.discoveryTrouble()
	case !s.failing.IsZero() && now.Sub(s.failing) >= wait:
		return &Trouble{s.failing, s.kind, "nothing but failures; " + s.why}
	case s.successes == 0 && s.failing.IsZero() && s.inFlight > 0 && now.Sub(s.first) >= late:
		return &Trouble{s.first, Timeout, "no reply yet"}
	}
	return nil
}

// discoveryTrouble is what is wrong with where endpoints are learnt from; nil where nothing is.
func (s *scheduler) discoveryTrouble() *Trouble {
	if s.note == "" {
		return nil
	}
	return &Trouble{Kind: Unreachable, Msg: s.note}
}

// observeReply notes the length of a reply.
func (s *scheduler) observeReply(tokens float64) {
	if s.replyTokens == 0 {
		s.replyTokens = tokens
	}
	s.replyTokens += (tokens - s.replyTokens) / 64
}

// dead reports whether the model has answered nothing, and will answer nothing: each
// endpoint said so.
func (s *scheduler) dead() bool {
	f := s.fatal()
	s.mu.Lock()
	defer s.mu.Unlock()
	return f != nil && s.successes == 0
}

// fatal is the failure that ends every call: set where each endpoint has one.
func (s *scheduler) fatal() *Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	var f *Failure
	for _, e := range s.at.all {
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
func (s *scheduler) use(urls []string, add func(url string) *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := make(map[string]bool, len(urls))
	for _, u := range urls {
		listed[u] = true
	}
	have := map[string]bool{}
	var keep []*endpoint
	for _, e := range s.at.all {
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
	for _, e := range keep {
		if !have[e.url] {
			s.lead(now, e)
		}
	}
	s.at.use(keep, now, s.waiting > 0)
	s.dispatch(now)
}

// setNote notes why endpoints are missing.
func (s *scheduler) setNote(note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note = note
}

// current returns the endpoints that are in use, in order.
func (s *scheduler) current() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*endpoint
	for _, e := range s.at.all {
		if !e.gone {
			all = append(all, e)
		}
	}
	return all
}

// stats fills in what a scheduler knows.
func (s *scheduler) stats(st *Stats) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.InFlight, st.Waiting, st.Limit = s.inFlight, s.waiting, s.most(now)
	out, fatal, limit := 0, 0, 0
	var first *endpoint
	for _, e := range s.at.all {
		if e.gone {
			continue
		}
		x := e.stats()
		st.Endpoints = append(st.Endpoints, x)
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
	if st.Limit == 0 {
		st.Limit = limit
	}
	if len(st.Endpoints) > 0 {
		st.Note = s.trouble(now)
	}
	switch {
	case len(st.Endpoints) == 0:
		if st.Paused = s.discoveryTrouble(); st.Paused == nil {
			st.Paused = &Trouble{Kind: Unreachable, Msg: "waiting for an endpoint"}
		}
	case fatal == len(st.Endpoints): // nobody waits: calls end with the cause
	case out == len(st.Endpoints):
		st.Note, st.Paused = s.discoveryTrouble(), first.trouble()
		if out > 1 {
			st.Paused.Msg = fmt.Sprintf("all %d endpoints are out; %s", out, st.Paused.Msg)
		}
	}
}

// close stops the alarm and ends the connections.
func (s *scheduler) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alarm != nil {
		s.alarm.Stop()
	}
	for _, e := range s.at.all {
		_ = e.driver.Close()
	}
	s.at.use(nil, time.Time{}, false)
}
