package sim

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
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
	begun   time.Time
	cpu     time.Duration

	mu     sync.Mutex
	zero   time.Time // when the schedule began; zero before that
	timers []*time.Timer
	closed bool

	started atomic.Bool
}

// Engine is one simulated server, without a network: NewWire calls it.
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
	calls, done, givenUp  atomic.Int64
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
	s := &service{c: c, ledger: &ledger{}}
	for i := range c.Replicas {
		s.engines = append(s.engines, &Engine{of: s, index: i, url: fmt.Sprintf("sim://%d", i), replies: r, model: c.Model})
	}
	s.renew()
	return s, nil
}

// renew gives every engine a new beginning.
func (s *service) renew() {
	s.begun, s.cpu = time.Now(), cpu()
	for _, e := range s.engines {
		if e.work != nil {
			e.work.close()
		}
		if s.c.Preset == presetSlots {
			e.work = newSlots(&s.c, s.begun)
		} else {
			e.work = newBatch(&s.c, s.begun)
		}
	}
}

// start begins the schedule where it does not wait for a call.
func (s *service) start() {
	if s.c.Clock == clockStart {
		s.first()
	}
}

// first begins the schedule, once.
func (s *service) first() {
	if s.started.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.zero.IsZero() {
		return
	}
	s.zero = time.Now()
	s.started.Store(true)
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
	if !s.started.Load() {
		return 0
	}
	return time.Since(s.zero)
}

// settle makes engines as down and as slow as the schedule says.
func (s *service) settle() {
	now := time.Since(s.zero) + time.Microsecond // the timer may be early by its grain
	for _, e := range s.engines {
		down, factor := false, 1.0
		for i := range s.c.Faults {
			f := &s.c.Faults[i]
			switch {
			case !f.hits(e.index, now):
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
			e.faults[kindIndex(Down)].Add(1)
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
	s.timers, s.zero = nil, time.Time{}
	s.started.Store(false)
	s.renew()
	*s.ledger = ledger{}
	for _, e := range s.engines {
		for _, n := range []*atomic.Int64{&e.calls, &e.done, &e.givenUp, &e.full, &e.refused, &e.tokens} {
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
	st := Stats{Seconds: time.Since(s.begun).Seconds(), CPU: (cpu() - s.cpu).Seconds()}
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
		URL: e.url, Calls: e.calls.Load(), Done: e.done.Load(), GivenUp: e.givenUp.Load(), Full: e.full.Load(),
		Refused: e.refused.Load(), Completed: e.tokens.Load(), Faults: map[string]int{},
	}
	for i, k := range faultKinds {
		if n := e.faults[i].Load(); n > 0 {
			r.Faults[k] = int(n)
		}
	}
	r.gauges = e.work.gauges()
	r.Timeline = r.gauges.timeline
	return r
}

func kindIndex(kind string) int {
	for i, k := range faultKinds {
		if k == kind {
			return i
		}
	}
	return 0
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

// arrive counts a call, and says which fault hits it.
func (e *Engine) arrive() *Fault {
	e.of.first()
	e.calls.Add(1)
	n := e.arrivals.Add(1)
	if len(e.of.c.Faults) == 0 {
		return nil
	}
	now := e.of.elapsed()
	for i := range e.of.c.Faults {
		f := &e.of.c.Faults[i]
		if f.Kind == Down || f.Kind == Slow && f.Share == 1 || !f.hits(e.index, now) {
			continue
		}
		r := random(blend(blend(uint64(e.of.c.Seed), uint64(e.index)<<16|uint64(i)), n))
		if r.float() < f.Share {
			e.faults[kindIndex(f.Kind)].Add(1)
			return f
		}
	}
	return nil
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

// running is a call at work.
type running struct {
	e     *Engine
	job   job
	ds    []draft
	key   string
	p     prefix // behind the prompt
	since time.Time
}

// wait waits until the reply is whole. An error is that ctx ended, or errDown.
func (r *running) wait(ctx context.Context) error {
	for {
		if r.job.done.Load() {
			r.settle()
			return nil
		}
		if r.job.lost.Load() {
			return errDown
		}
		select {
		case <-r.job.woken:
		case <-ctx.Done():
			r.e.work.cancel(&r.job)
			if r.job.done.Load() {
				r.settle()
			} else {
				r.e.givenUp.Add(1)
			}
			return ctx.Err()
		}
	}
}

// settle writes the texts, and the books.
func (r *running) settle() {
	r.e.done.Add(1)
	r.e.of.ledger.finished(r.key)
	for i := range r.ds {
		d := &r.ds[i]
		d.write()
		r.e.tokens.Add(int64(d.tokens))
		if r.p.keep {
			p := r.p
			p.text(d.text)
			p.close()
			r.e.work.remember(&r.job, p.blocks)
		}
	}
}

// slowed waits for as long as a slow fault adds.
func (r *running) slowed(ctx context.Context, f *Fault) error {
	if f == nil || f.Kind != Slow || f.Factor <= 1 {
		return nil
	}
	t := time.NewTimer(time.Duration(float64(time.Since(r.since)) * (f.Factor - 1)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usage is what the reply costs.
func (r *running) usage() (prompt, completion, cached int) {
	for i := range r.ds {
		completion += r.ds[i].tokens
	}
	return r.job.prompt, completion, r.job.cached
}

type errorText string

func (e errorText) Error() string { return string(e) }

// errDown is that the engine went down.
const errDown errorText = "the simulated server is down"

// read reads the prompt of a, and returns a hash of what it says.
func (p *prefix) read(a *ask) uint64 {
	h := uint64(17)
	if !a.chat {
		p.text(a.prompt)
		h = blend(h, hashOf(a.prompt))
		p.least()
		return h
	}
	if a.about != "" {
		p.open("tools")
		p.text(a.about)
		p.close()
		h = blend(h, hashOf(a.about))
	}
	for i := range a.messages {
		m := &a.messages[i]
		p.open(m.Role)
		p.text(m.Content)
		h = blend(blend(h, hashOf(m.Role)), hashOf(m.Content))
		for _, c := range m.ToolCalls {
			p.text(c.name)
			p.text(c.args)
			h = blend(h, hashOf(c.args))
		}
		for range m.images { // about what a picture of 512 by 512 costs
			for t := range uint64(256) {
				p.token(t)
			}
		}
		p.close()
	}
	p.open("assistant")
	return h
}

// least makes the prompt at least one token long.
func (p *prefix) least() {
	if p.tokens == 0 {
		p.token(0)
	}
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
