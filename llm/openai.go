package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// OpenAI says how to reach a server that speaks the OpenAI chat API.
type OpenAI struct {
	BaseURL     string            `yaml:"base_url" required:"true" free:"true" doc:"Address of an OpenAI-compatible server, with or without /v1."`
	Model       string            `yaml:"model" doc:"The model's name at the server. May be left out where the server has only one."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Sent as bearer token. Take it from the environment: ${env:NAME}."`
	Timeout     time.Duration     `yaml:"timeout" free:"true" doc:"Longest wait for one reply; then the call is tried again." default:"10m"`
	Concurrency int               `yaml:"concurrency" free:"true" doc:"Calls at the server at once. Further calls wait in order." default:"256"`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	Sampling    `yaml:",inline"`
}

// Defaults of OpenAI.
const (
	DefaultTimeout     = 10 * time.Minute
	DefaultConcurrency = 256
)

// tune holds what users need not choose and tests do.
type tune struct {
	retry    backoff       // between the tries of one call
	probe    backoff       // between the probes of a model that is out
	maxAfter time.Duration // longest Retry-After that is honoured
	maxBody  int64         // bytes of a reply
}

var tuned = tune{
	retry:    backoff{500 * time.Millisecond, 8 * time.Second},
	probe:    backoff{500 * time.Millisecond, 5 * time.Second},
	maxAfter: 2 * time.Minute,
	maxBody:  64 << 20,
}

type openAI struct {
	name   string
	config OpenAI
	tune   tune

	targets  []target     // what base_url may mean, the likeliest first
	target   atomic.Int32 // the one that answered, +1; 0 while none has
	header   http.Header  // of every request; never changed
	secrets  []string     // never shown
	http     *http.Transport
	slots    *semaphore.Weighted // first come, first served
	gate     gate
	served   func() []string // models that the server lists, asked once
	inFlight atomic.Int64
	count    counters
}

var _ Model = (*openAI)(nil)

// NewOpenAI returns a client of an OpenAI-compatible server. It does not call
// the server. name is the model's name in the config, for messages. The error
// is a *FieldError.
func NewOpenAI(name string, c OpenAI) (Model, error) { return newOpenAI(name, c, tuned) }

func newOpenAI(name string, c OpenAI, t tune) (*openAI, error) {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	switch {
	case c.Timeout < 0:
		return nil, &FieldError{"timeout", fmt.Errorf("got %v, want more than 0", c.Timeout)}
	case c.Concurrency < 0:
		return nil, &FieldError{"concurrency", fmt.Errorf("got %d, want 1 or more", c.Concurrency)}
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	m := &openAI{name: name, config: c, tune: t, slots: semaphore.NewWeighted(int64(c.Concurrency))}
	m.gate.pace = t.probe
	if err := m.address(); err != nil {
		return nil, err
	}
	m.http = newTransport(c.Concurrency)
	m.served = sync.OnceValue(m.listModels)
	return m, nil
}

// Stats implements Model.
func (m *openAI) Stats() Stats {
	s := m.count.stats()
	s.InFlight = int(m.inFlight.Load())
	s.Paused = m.gate.paused()
	return s
}

// Close implements Model.
func (m *openAI) Close() error {
	m.http.CloseIdleConnections()
	return nil
}

// Chat implements Model.
func (m *openAI) Chat(ctx context.Context, r *Request) (*Reply, error) {
	s := Merge(m.config.Sampling, r.Sampling)
	if len(r.Sampling.Extra) > 0 || r.Sampling.ResponseFormat != nil {
		if err := s.Check(); err != nil {
			return nil, &Error{Kind: Fatal, Model: m.name, Msg: err.Error()}
		}
	}
	params, err := s.appendParams(nil)
	if err != nil {
		return nil, &Error{Kind: Fatal, Model: m.name, Msg: err.Error()}
	}
	size := 256 + len(m.config.Model) + len(params)
	for i := range r.Messages {
		size += 64 + len(r.Messages[i].Content) + len(r.Messages[i].Content)/16
	}
	call := &call{m: m, key: r.Key, params: params, body: appendRequest(make([]byte, 0, size), m.config.Model, r.Messages, params)}
	for {
		rep, err := call.try(ctx)
		if err != nil {
			return nil, err
		}
		if rep == nil {
			continue
		}
		rep.Params = params
		m.count.add(rep)
		return rep, nil
	}
}

// call is a Chat under way.
type call struct {
	m      *openAI
	key    string
	params []byte
	body   []byte

	tries    int // that failed
	patience int // sum of the weights of the failures
	oks      int64
	wait     time.Duration
	lost     time.Duration
	last     *failure
}

// try waits for a slot and for the gate, and makes one try. It returns a
// reply, or an error that ends the call, or neither: then the call is to be
// tried again, and try has waited for as long as that needs.
func (c *call) try(ctx context.Context) (*Reply, error) {
	m := c.m
	start := time.Now()
	patience := patience(ctx)
	if err := m.slots.Acquire(patience, 1); err != nil {
		return nil, c.ended(patience)
	}
	slot := time.Now()
	c.wait += slot.Sub(start)
	rep, err := c.send(ctx)
	m.slots.Release(1)
	if err == nil {
		c.lost += time.Since(slot) - rep.Took
		rep.Retries, rep.Wait, rep.Retry = c.tries, c.wait, c.lost
		return rep, nil
	}

	var f *failure
	if !errors.As(err, &f) {
		return nil, c.ended(patience)
	}
	c.last = f
	if f.class >= refused || c.patience >= patienceLimit {
		c.lost += time.Since(slot)
		return nil, m.verdict(ctx, c)
	}
	c.tries++
	m.count.retries.Add(1)
	if f.pause > 0 {
		t := time.NewTimer(f.pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-patience.Done():
			return nil, c.ended(patience)
		}
	}
	c.lost += time.Since(slot)
	return nil, nil
}

// send passes the gate and makes one HTTP exchange. The error is a *failure,
// or stands for the end of ctx.
func (c *call) send(ctx context.Context) (*Reply, error) {
	m := c.m
	p, err := m.gate.enter(patience(ctx))
	if err != nil {
		return nil, err
	}
	defer m.gate.quit(p)
	sent := time.Now()
	m.inFlight.Add(1)
	rep, f := m.exchange(ctx, c.key, c.body)
	m.inFlight.Add(-1)
	switch {
	case f == nil:
		m.gate.ok()
		rep.Took = time.Since(sent)
		return rep, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case f.class >= refused: // the service is there
		m.gate.ok()
		return nil, f
	}
	closed, oks := m.gate.fail(p, f.class, f.Error(), f.after)
	w := weights[f.class]
	if c.tries > 0 && oks > c.oks || f.hollow && m.target.Load() != 0 {
		c.patience += w.vouched
	} else {
		c.patience += w.alone
	}
	c.oks = oks
	if !closed { // else the gate sets the pace
		f.pause = f.after + m.tune.retry.wait(c.tries)
	}
	return nil, f
}

// ended is the error of a call whose context ended.
func (c *call) ended(ctx context.Context) error {
	if c.last != nil {
		return fmt.Errorf("model %q: %w; before that, %d tries failed, the last one with: %w", c.m.name, context.Cause(ctx), c.tries, c.last)
	}
	return fmt.Errorf("model %q: %w", c.m.name, context.Cause(ctx))
}

// verdict makes the error of a call that nothing will come of.
func (m *openAI) verdict(ctx context.Context, c *call) *Error {
	f := c.last
	e := &Error{
		Kind: Transient, Model: m.name, Endpoint: f.where, Status: f.status, Code: f.code, Msg: f.msg, Hint: f.hint,
		Params: c.params, Retries: c.tries, Wait: c.wait, Retry: c.lost,
	}
	switch f.class {
	case refused:
		e.Kind = Refused
	case tooLong:
		e.Kind = Context
	case fatal:
		e.Kind = Fatal
	default:
		e.Hint = fmt.Sprintf("given up after %d tries", c.tries+1)
	}
	if f.status == http.StatusNotFound && e.Kind == Fatal && ctx.Err() == nil {
		if names := m.served(); len(names) > 0 {
			e.Hint = fmt.Sprintf("model is %q, and the server has %q", m.config.Model, names)
		}
	}
	return e
}

// counters are the sums of Stats.
type counters struct{ calls, retries, prompt, completion atomic.Int64 }

func (c *counters) add(r *Reply) {
	c.calls.Add(1)
	c.prompt.Add(int64(r.Usage.PromptTokens))
	c.completion.Add(int64(r.Usage.CompletionTokens))
}

func (c *counters) stats() Stats {
	return Stats{
		Calls: c.calls.Load(), Retries: c.retries.Load(),
		PromptTokens: c.prompt.Load(), CompletionTokens: c.completion.Load(),
	}
}

// listModels asks the server which models it has; nil where it does not say.
func (m *openAI) listModels() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, t := range m.targets {
		req := m.request(ctx, http.MethodGet, t.models, "", nil)
		body, status, f := m.roundTrip(req, t.base)
		var list struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		if f != nil || status.code != http.StatusOK || json.Unmarshal(body.Bytes(), &list) != nil {
			body.free()
			continue
		}
		body.free()
		var names []string
		for _, d := range list.Data {
			if names = append(names, shorten(d.ID, 80)); len(names) == 12 {
				break
			}
		}
		return names
	}
	return nil
}
