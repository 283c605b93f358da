package sim

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"matrix/llm/openai/api"
)

const (
	clockFirst = "first"
	clockStart = "start"
)

// service is the engines of one Config, with what they share.
type service struct {
	c       Config
	engines []*Engine
	ledger  *ledger
	log     *callLog // nil for none
	born    time.Time

	zero atomic.Int64 // when the schedule began, in ns from 1 after born; 0 before that

	mu     sync.Mutex
	begun  time.Time // of the stats
	cpu    time.Duration
	timers []*time.Timer
	closed bool
}

// Engine is one simulated server, without a network: NewDriver calls it.
type Engine struct {
	of    *service
	index int
	url   string

	work    engine
	replies *replier
	model   string
	down    atomic.Bool
	listen  func(up bool) // opens and closes what it listens on; may be nil

	schemas schemaCache

	arrivals              atomic.Uint64
	calls, done           atomic.Int64
	givenUp, cut          atomic.Int64
	full, refused, tokens atomic.Int64
	faults                [8]atomic.Int64
}

// New returns the engines of a config, one for each replica. Close ends them
// all. An error is a *llm.FieldError.
func New(c Config) ([]*Engine, error) {
	s, err := newService(c)
	if err != nil {
		return nil, err
	}
	s.start()
	return s.engines, nil
}

// Close ends the engine, and all that were made with it. No call may be under
// way.
func (e *Engine) Close() { e.of.close() }

// Stats tells what all engines that were made with this one have done.
func (e *Engine) Stats() Stats { return e.of.stats() }

func newService(c Config) (*service, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	r, err := newReplier(c.Replies, c.Seed)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	s := &service{c: c, ledger: &ledger{}, born: now, begun: now, cpu: cpu()}
	if c.Log != nil {
		s.log = &callLog{w: c.Log}
	}
	for i := range c.Replicas {
		e := &Engine{of: s, index: i, url: address(i), replies: r, model: c.Model}
		if c.Preset == presetSlots {
			e.work = newSlots(&s.c, now)
		} else {
			e.work = newBatch(&s.c, now)
		}
		s.engines = append(s.engines, e)
	}
	return s, nil
}

// start begins the schedule where it does not wait for a call.
func (s *service) start() {
	if s.c.Clock == clockStart {
		s.first()
	}
}

// first begins the schedule, once.
func (s *service) first() {
	if s.zero.Load() > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.zero.Load() > 0 {
		return
	}
	s.zero.Store(int64(time.Since(s.born)) + 1)
	at := func(d time.Duration, f func()) {
		if d == 0 {
			f()
			return
		}
		s.timers = append(s.timers, time.AfterFunc(d, f))
	}
	for _, step := range s.c.Steps {
		at(step.At, func() {
			for _, e := range s.engines {
				e.work.resize(step.Slots)
			}
		})
	}
	for i := range s.c.Faults {
		f := &s.c.Faults[i]
		if f.Kind != Down && (f.Kind != Slow || f.Share < 1) {
			continue
		}
		at(f.From, s.settle)
		if f.Until > 0 {
			at(f.Until, s.settle)
		}
	}
}

// elapsed is the time on the clock of the schedule.
func (s *service) elapsed() time.Duration {
	zero := s.zero.Load()
	if zero == 0 {
		return 0
	}
	return time.Since(s.born) - time.Duration(zero-1)
}

// settle makes engines as down and as slow as the schedule says.
func (s *service) settle() {
	now := s.elapsed() + time.Microsecond // the timer may be early by its grain
	for _, e := range s.engines {
		down, factor := false, 1.0
		for i := range s.c.Faults {
			f := &s.c.Faults[i]
			switch {
			case !f.Hits(e.index, now):
			case f.Kind == Down:
				down = true
			case f.Kind == Slow && f.Share == 1:
				factor *= f.Factor
			}
		}
		e.work.slow(factor)
		if down == e.down.Load() {
			continue
		}
		e.down.Store(down)
		if down {
			e.faults[slices.Index(faultKinds, Down)].Add(1)
			if e.listen != nil {
				e.listen(false)
			}
			e.work.fall()
		} else {
			e.work.rise()
			if e.listen != nil {
				e.listen(true)
			}
		}
	}
}

func (s *service) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, t := range s.timers {
		t.Stop()
	}
	for _, e := range s.engines {
		e.work.close()
	}
}

// reset forgets what has been counted.
func (s *service) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.timers {
		t.Stop()
	}
	s.timers = nil
	s.zero.Store(0)
	s.begun, s.cpu = time.Now(), cpu()
	s.ledger.clear()
	for _, e := range s.engines {
		e.work.renew(s.begun)
		for _, n := range []*atomic.Int64{&e.calls, &e.done, &e.givenUp, &e.cut, &e.full, &e.refused, &e.tokens} {
			n.Store(0)
		}
		for i := range e.faults {
			e.faults[i].Store(0)
		}
		e.arrivals.Store(0)
		if e.down.Swap(false) && e.listen != nil {
			e.listen(true)
		}
	}
}

func (s *service) stats() Stats {
	s.mu.Lock()
	st := Stats{Seconds: time.Since(s.begun).Seconds(), CPU: (cpu() - s.cpu).Seconds()}
	s.mu.Unlock()
	for _, e := range s.engines {
		st.Replicas = append(st.Replicas, e.replica())
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	st.Distinct, st.Paid, st.Twice = len(s.ledger.done), s.ledger.paid, s.ledger.twice
	return st
}

func (e *Engine) replica() Replica {
	r := Replica{
		URL: e.url, Calls: e.calls.Load(), Done: e.done.Load(), GivenUp: e.givenUp.Load(), Cut: e.cut.Load(), Full: e.full.Load(),
		Refused: e.refused.Load(), Completed: e.tokens.Load(), Faults: map[string]int{},
	}
	for i, k := range faultKinds {
		if n := e.faults[i].Load(); n > 0 {
			r.Faults[k] = int(n)
		}
	}
	r.Gauges = e.work.gauges()
	r.Timeline = r.Gauges.timeline
	return r
}

// refusal is an answer that is an error.
type refusal struct {
	status int
	typ    string
	code   string
	param  string
	msg    string
	after  time.Duration
}

func wrong(param, format string, a ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, typ: "invalid_request_error", param: param, msg: fmt.Sprintf(format, a...)}
}

// arrive counts a call, and says which fault hits it, and the how many-th it is.
func (e *Engine) arrive() (*Fault, uint64) {
	e.of.first()
	e.calls.Add(1)
	n := e.arrivals.Add(1)
	if len(e.of.c.Faults) == 0 {
		return nil, n
	}
	now := e.of.elapsed()
	for i := range e.of.c.Faults {
		f := &e.of.c.Faults[i]
		if f.Kind == Down || f.Kind == Slow && f.Share == 1 || !f.Hits(e.index, now) {
			continue
		}
		r := random(blend(blend(uint64(e.of.c.Seed), uint64(e.index)<<16|uint64(i)), n))
		if r.float() < f.Share {
			e.faults[slices.Index(faultKinds, f.Kind)].Add(1)
			return f, n
		}
	}
	return nil, n
}

// refuses is the answer of a fault that comes before any work.
func (f *Fault) refuses() *refusal {
	if f == nil || f.Kind != Reject && f.Kind != Error {
		return nil
	}
	r := &refusal{status: f.Status, after: f.RetryAfter, typ: "server_error", msg: "simulated error"}
	switch f.Status {
	case 429:
		r.typ, r.code, r.msg = "rate_limit_error", "rate_limit_exceeded", "simulated: too many requests"
	case 503:
		r.typ, r.msg = "service_unavailable", "simulated: the service is unavailable"
	case 529:
		r.typ, r.msg = "overloaded_error", "simulated: overloaded"
	}
	return r
}

// admit has a call arrive, and gives it to the engine as soon as more has completed
// what was read of it. Without a running call it is refused, or where there is no
// refusal, its connection is to be reset.
func (e *Engine) admit(q *api.Request, v *callRecord, more func(*ask) *refusal) (run *running, a *ask, f *Fault, no *refusal) {
	f, n := e.arrive()
	v.arrived(n, q, f)
	if no = f.refuses(); no == nil {
		if f != nil && f.Kind == Reset {
			return nil, nil, f, nil
		}
		if a, no = e.ask(q); no == nil {
			no = more(a)
		}
		if no != nil {
			e.refuse(no)
		} else {
			run, no = e.begin(a)
		}
	}
	v.admitted(run, no)
	return run, a, f, no
}

// begin checks a, drafts its reply and gives it to the engine.
func (e *Engine) begin(a *ask) (*running, *refusal) {
	if a.n < 1 {
		a.n = 1
	}
	if a.n > 128 {
		return nil, e.refuse(wrong("n", "n is %d, want 1 to 128", a.n))
	}
	e.of.ledger.seen(a.key)
	p := prefix{keep: e.of.c.Preset != presetSlots}
	content := p.read(a)
	if context := e.of.c.Engine.Context; p.tokens+max(a.max, 1) > context {
		r := wrong("messages", "This model's maximum context length is %d tokens. However, you requested %d tokens (%d in the messages, %d in the completion).", context, p.tokens+a.max, p.tokens, a.max)
		r.code = "context_length_exceeded"
		return nil, e.refuse(r)
	}
	ds, err := e.replies.drafts(a, content)
	if err != nil {
		return nil, e.refuse(wrong("", "%v", err))
	}
	out, room := 1, e.of.c.Engine.Context-p.tokens
	for i := range ds {
		if d := &ds[i]; d.tokens > room {
			d.tokens, d.finish = room, "length"
			if d.ready {
				d.text = d.text[:min(len(d.text), upTo(d.text, room))]
			}
		}
		out = max(out, ds[i].tokens)
	}
	blocks := p.blocks
	p.blocks = nil
	r := &running{e: e, ds: ds, key: a.key, p: p, since: time.Now()}
	r.job = job{prompt: p.tokens, blocks: blocks, out: out, width: a.n, stream: a.stream, seed: blend(content, uint64(e.of.c.Seed)+1), woken: make(chan struct{}, 1)}
	if !e.work.submit(&r.job) {
		e.full.Add(1)
		return nil, &refusal{status: http.StatusTooManyRequests, typ: "rate_limit_error", code: "rate_limit_exceeded", msg: "the queue is full", after: time.Second}
	}
	return r, nil
}

func (e *Engine) refuse(r *refusal) *refusal {
	e.refused.Add(1)
	return r
}

// schemaCache keeps what was read of schemas, since calls bring the same ones
// again and again.
type schemaCache struct {
	mu    sync.Mutex
	known map[uint64]*schema
}

func (c *schemaCache) get(raw []byte) (*schema, error) {
	h := hashOf(string(raw))
	c.mu.Lock()
	s := c.known[h]
	c.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := newSchema(raw)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= 1000 {
		c.known = map[uint64]*schema{}
	}
	c.known[h] = s
	return s, nil
}
