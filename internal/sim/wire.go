package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"matrix/llm"
)

// wire calls an engine in process. A call that waits costs no goroutine but its
// caller's.
type wire struct{ e *Engine }

var (
	_ llm.Wire   = (*wire)(nil)
	_ llm.Loader = (*wire)(nil)
)

// NewWire returns a wire to e. Its Close leaves e open.
func NewWire(e *Engine) llm.Wire { return &wire{e} }

// Dial returns the function that llm.New wants, for addresses sim://0, sim://1
// and so on of engines; Addresses returns these.
func Dial(engines []*Engine) func(url string) (llm.Wire, error) {
	return func(url string) (llm.Wire, error) {
		for _, e := range engines {
			if url == address(e.index) {
				return NewWire(e), nil
			}
		}
		return nil, fmt.Errorf("there is no engine at %q: want sim://0 to sim://%d", url, len(engines)-1)
	}
}

// Addresses are the endpoints at which Dial finds engines.
func Addresses(engines []*Engine) llm.Endpoints {
	at := make(llm.Endpoints, len(engines))
	for i, e := range engines {
		at[i].URL = address(e.index)
	}
	return at
}

func address(index int) string { return "sim://" + strconv.Itoa(index) }

// Close implements llm.Wire.
func (w *wire) Close() error { return nil }

// Probe implements llm.Wire.
func (w *wire) Probe(context.Context) ([]llm.Served, error) {
	if w.e.down.Load() {
		return nil, w.fails(llm.Unreachable, "nothing listens", false)
	}
	return []llm.Served{{Name: w.e.model, Owner: "matrix-sim", Context: w.e.of.c.Engine.Context}}, nil
}

// Load implements llm.Loader.
func (w *wire) Load(context.Context) (running, waiting int, ok bool, err error) {
	if w.e.down.Load() {
		return 0, 0, true, w.fails(llm.Unreachable, "nothing listens", false)
	}
	g := w.e.work.gauges()
	return g.Running, g.Waiting, true, nil
}

// Send implements llm.Wire.
func (w *wire) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	params := appendParams(nil, &r.Sampling)
	rep, err := w.send(ctx, r)
	if f, ok := err.(*llm.Failure); ok { //nolint:errorlint // send wraps nothing
		f.Params = params
	}
	if rep != nil {
		rep.Params = params
	}
	return rep, err
}

func (w *wire) send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	w.e.of.first()
	if w.e.down.Load() {
		return nil, w.fails(llm.Unreachable, "nothing listens", false)
	}
	v := w.e.enter()
	defer v.leave()
	f, n := w.e.arrive()
	v.arrived(n, r.Key, func() string { return startOf(r) }, f)
	switch no := f.refuses(); {
	case no != nil:
		v.refused(no)
		return nil, w.refused(no)
	case f != nil && f.Kind == Reset:
		return nil, w.fails(llm.Transport, "connection reset", true)
	}
	a, no := w.ask(r)
	if no != nil {
		v.refused(no)
		w.e.refuse(no)
		return nil, w.refused(no)
	}
	var run *running
	if r.Input != nil {
		run, no = w.e.beginEmbedding(a, r.Input)
	} else {
		run, no = w.e.begin(a)
	}
	if no != nil {
		v.refused(no)
		return nil, w.refused(no)
	}
	v.begun(run)
	first, err := run.deliver(ctx, f.spoils(ctx, r.OnDelta, run))
	if err == nil {
		err = run.slowed(ctx, f)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, w.fails(llm.Transport, "the connection was cut", true)
	}
	if err := w.spoil(ctx, f); err != nil {
		return nil, err
	}
	return w.reply(r, run, first), nil
}

// spoils is tell as far as f lets it go: of a stall one piece, of what is
// truncated one half.
func (f *Fault) spoils(ctx context.Context, tell func(llm.Delta) bool, run *running) func(llm.Delta) bool {
	if f == nil || tell == nil || f.Kind != Stall && f.Kind != Truncate {
		return tell
	}
	left := 0
	for i := range run.ds {
		left += run.ds[i].tokens
	}
	left /= 2
	return func(d llm.Delta) bool {
		more := tell(d)
		if f.Kind == Stall {
			<-ctx.Done()
			return false
		}
		left -= tokensOf(d.Text)
		return more && left > 0
	}
}

// spoil is what a fault makes of a reply that is there.
func (w *wire) spoil(ctx context.Context, f *Fault) error {
	if f == nil {
		return nil
	}
	switch f.Kind {
	case Stall:
		<-ctx.Done()
		return ctx.Err()
	case Truncate:
		return w.fails(llm.Transport, "the reply was cut off", true)
	case Garbage:
		return w.fails(llm.Fault, "the reply is not JSON", true)
	}
	return nil
}

func (w *wire) fails(k llm.Kind, msg string, sent bool) *llm.Failure {
	return &llm.Failure{Kind: k, Endpoint: address(w.e.index), Msg: "simulated: " + msg, Sent: sent}
}

func (w *wire) refused(r *refusal) *llm.Failure {
	kind, hint := llm.Judge(r.status, r.code, r.typ)
	return &llm.Failure{Kind: kind, Endpoint: address(w.e.index), Status: r.status, Code: r.code, Msg: r.msg, Hint: hint, After: r.after}
}

// ask reads r.
func (w *wire) ask(r *llm.Request) (*ask, *refusal) {
	s := &r.Sampling
	b := body{Seed: s.Seed, Temperature: s.Temperature, TopP: s.TopP, Stream: r.OnDelta != nil}
	if s.N > 0 {
		b.N = &s.N
	}
	if s.MaxTokens > 0 {
		b.MaxTokens = &s.MaxTokens
	}
	if s.ResponseFormat != nil || len(s.Extra) > 0 {
		extra := map[string]any{}
		if s.ResponseFormat != nil {
			extra["response_format"] = s.ResponseFormat
		}
		for k, v := range s.Extra {
			extra[k] = v
		}
		raw, err := json.Marshal(extra)
		if err == nil {
			err = json.Unmarshal(raw, &b)
		}
		if err != nil {
			return nil, wrong("extra_body", "%v", err)
		}
	}
	a, no := w.e.ask(&b, false)
	if no != nil {
		return nil, no
	}
	a.key = r.Key
	a.prompt = r.Prompt
	if len(s.Stop) > 0 {
		a.stop = s.Stop
	}
	if s.Logprobs > 0 {
		a.logprobs = 1 + min(s.Logprobs, 20)
	}
	if f := r.Format; f != nil {
		if no := w.e.setFormat(a, f.JSON, f.Schema, f.Regex, f.Choice, f.Grammar); no != nil {
			return nil, no
		}
	}
	if r.Messages == nil {
		return a, nil
	}
	a.chat = true
	return a, w.converse(a, r)
}

// converse reads what a chat has.
func (w *wire) converse(a *ask, r *llm.Request) *refusal {
	a.messages = make([]message, len(r.Messages))
	for i := range r.Messages {
		from, m := &r.Messages[i], &a.messages[i]
		*m = message{Role: from.Role, Content: from.Content, CallID: from.ToolCallID, images: len(from.Images)}
		for _, c := range from.ToolCalls {
			m.ToolCalls = append(m.ToolCalls, toolCall{id: c.ID, name: c.Name, args: c.Arguments})
		}
	}
	a.choose = "none"
	if len(r.Tools) == 0 {
		return nil
	}
	for i := range r.Tools {
		from := &r.Tools[i]
		t := tool{name: from.Name, schema: anything()}
		if len(from.Parameters) > 0 {
			s, err := w.e.schemas.get(from.Parameters)
			if err != nil {
				return wrong("tools", "tool %q: %v", from.Name, err)
			}
			t.schema = s
		}
		a.about += from.Name + string(from.Parameters)
		a.tools = append(a.tools, t)
	}
	a.parallel = r.Sampling.Extra["parallel_tool_calls"] == true
	switch r.ToolChoice {
	case "", "auto":
		a.choose = "auto"
	case "none", "required":
		a.choose = r.ToolChoice
	default:
		return a.force(r.ToolChoice)
	}
	return nil
}

// deliver waits for the reply, or until the caller has enough of it, and returns
// when the first of it was told.
func (r *running) deliver(ctx context.Context, tell func(llm.Delta) bool) (first time.Duration, err error) {
	if tell == nil {
		return 0, r.wait(ctx)
	}
	for i := range r.ds {
		r.ds[i].write()
	}
	sent := make([]int, len(r.ds))
	for {
		done := r.job.done.Load()
		if r.job.lost.Load() {
			r.e.cut.Add(1)
			return 0, errDown
		}
		tokens := int(r.job.progress.Load())
		if (tokens > 0 || done) && first == 0 {
			first = max(1, time.Since(r.since))
		}
		for i := range r.ds {
			d := &r.ds[i]
			to := upTo(d.text, tokens)
			if done {
				to = len(d.text)
			}
			if to <= sent[i] {
				continue
			}
			piece := d.text[sent[i]:to]
			sent[i] = to
			if !tell(llm.Delta{Choice: i, Text: piece}) {
				r.stop(sent)
				return first, nil
			}
		}
		if done {
			r.settle()
			return first, nil
		}
		select {
		case <-r.job.woken:
		case <-ctx.Done():
			r.abandon()
			return 0, ctx.Err()
		}
	}
}

// stop ends the reply where the caller had enough of it.
func (r *running) stop(sent []int) {
	r.abandon()
	for i := range r.ds {
		d := &r.ds[i]
		d.text, d.finish = d.text[:sent[i]], "stop"
		d.tokens = tokensOf(d.text)
	}
}

func (w *wire) reply(r *llm.Request, run *running, first time.Duration) *llm.Reply {
	rep := &llm.Reply{Model: w.e.model, Revision: "fp_sim", Endpoint: address(w.e.index), First: first, Took: time.Since(run.since)}
	u := &rep.Usage
	u.PromptTokens, u.CompletionTokens, u.CachedTokens = run.usage()
	if r.Input != nil {
		u.CompletionTokens = 0
		for _, text := range r.Input {
			rep.Vectors = append(rep.Vectors, embed(text, embedded))
		}
		return rep
	}
	for _, m := range r.Messages {
		u.Images += len(m.Images)
	}
	o := output{e: w.e, run: run, a: &ask{chat: true}}
	if r.Sampling.Logprobs > 0 {
		o.a.logprobs = 1 + min(r.Sampling.Logprobs, 20)
	}
	rep.Choices = make([]llm.Choice, len(run.ds))
	for i := range run.ds {
		d := &run.ds[i]
		c := &rep.Choices[i]
		c.Text, c.Finish = d.text, d.finish
		if o.a.logprobs > 0 {
			c.Logprobs = o.logprobs(nil, d, 0, len(d.text))
		}
		for _, t := range d.calls {
			c.ToolCalls = append(c.ToolCalls, llm.ToolCall{ID: t.id, Name: t.name, Arguments: t.args})
		}
	}
	return rep
}

// appendParams appends what of s is set, as the API names it.
func appendParams(b []byte, s *llm.Sampling) []byte {
	b = append(b, '{')
	put := func(key string, v any) {
		if _, over := s.Extra[key]; over {
			return
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(appendText(b, key), ':')
		b = appendJSON(b, v)
	}
	for _, p := range []struct {
		key string
		v   *float64
	}{{"temperature", s.Temperature}, {"top_p", s.TopP}, {"presence_penalty", s.PresencePenalty}, {"frequency_penalty", s.FrequencyPenalty}} {
		if p.v != nil {
			put(p.key, *p.v)
		}
	}
	if s.MaxTokens > 0 {
		put("max_tokens", s.MaxTokens)
	}
	if s.N > 1 {
		put("n", s.N)
	}
	if len(s.Stop) > 0 {
		put("stop", s.Stop)
	}
	if s.Seed != nil {
		put("seed", *s.Seed)
	}
	if s.Logprobs > 0 {
		put("logprobs", true)
	}
	if s.Effort != "" {
		put("reasoning_effort", s.Effort)
	}
	if s.ResponseFormat != nil {
		put("response_format", s.ResponseFormat)
	}
	if len(s.Extra) > 0 {
		j := appendJSON(nil, s.Extra)
		if len(b) > 1 {
			b = append(b, ',')
		}
		return append(b, j[1:]...)
	}
	return append(b, '}')
}
