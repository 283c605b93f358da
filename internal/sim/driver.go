package sim

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// driver calls an engine in process. A call that waits costs no goroutine but its
// caller's.
type driver struct{ e *Engine }

var (
	_ llm.Driver = (*driver)(nil)
	_ llm.Loader = (*driver)(nil)
)

// NewDriver returns a driver to e. Its Close leaves e open.
func NewDriver(e *Engine) llm.Driver { return &driver{e} }

// Open returns the function that llm.New wants, for addresses sim://0, sim://1
// and so on of engines; Addresses returns these.
func Open(engines []*Engine) func(url string) (llm.Driver, error) {
	return func(url string) (llm.Driver, error) {
		for _, e := range engines {
			if url == address(e.index) {
				return NewDriver(e), nil
			}
		}
		return nil, fmt.Errorf("there is no engine at %q: want sim://0 to sim://%d", url, len(engines)-1)
	}
}

// Addresses are the endpoints at which Open finds engines.
func Addresses(engines []*Engine) llm.Endpoints {
	at := make(llm.Endpoints, len(engines))
	for i, e := range engines {
		at[i].URL = address(e.index)
	}
	return at
}

func address(index int) string { return "sim://" + strconv.Itoa(index) }

// Close implements llm.Driver.
func (w *driver) Close() error { return nil }

// Probe implements llm.Driver.
func (w *driver) Probe(context.Context) ([]llm.Served, error) {
	if w.e.down.Load() {
		return nil, w.fails(llm.Unreachable, "nothing listens", false)
	}
	return []llm.Served{{Name: w.e.model, Owner: "matrix-sim", Context: w.e.of.c.Engine.Context}}, nil
}

// Load implements llm.Loader.
func (w *driver) Load(context.Context) (running, waiting int, ok bool, err error) {
	if w.e.down.Load() {
		return 0, 0, true, w.fails(llm.Unreachable, "nothing listens", false)
	}
	g := w.e.work.gauges()
	return g.Running, g.Waiting, true, nil
}

// Send implements llm.Driver.
func (w *driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	q := &api.Request{Request: r, Stream: r.OnDelta != nil}
	params, err := q.Params(api.Server{Name: api.VLLM})
	if err != nil {
		return nil, llm.Unsupported(address(w.e.index), err.Error(), "")
	}
	if len(r.Sampling.Extra) > 0 { // which wins over the rest
		said, err := api.Read(params)
		if err != nil {
			return nil, llm.Unsupported(address(w.e.index), err.Error(), "")
		}
		over := *r
		over.Sampling = said.Sampling
		if said.ToolChoice != "" {
			over.ToolChoice = said.ToolChoice
		}
		q.Request = &over
	}
	rep, err := w.send(ctx, q)
	if f, ok := err.(*llm.Failure); ok { //nolint:errorlint // send wraps nothing
		f.Params = params
	}
	if rep != nil {
		rep.Params = params
	}
	return rep, err
}

func (w *driver) send(ctx context.Context, r *api.Request) (*llm.Reply, error) {
	w.e.of.first()
	if w.e.down.Load() {
		return nil, w.fails(llm.Unreachable, "nothing listens", false)
	}
	v := w.e.enter()
	defer v.leave()
	run, a, f, no := w.e.admit(r, v, func(a *ask) *refusal {
		if r.Input == nil {
			return nil
		}
		return a.embed(r.Input)
	})
	switch {
	case no != nil:
		return nil, w.refused(no)
	case run == nil:
		return nil, w.fails(llm.Transport, "connection reset", true)
	}
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
	return w.reply(r.Request, run, a, first), nil
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
func (w *driver) spoil(ctx context.Context, f *Fault) error {
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

func (w *driver) fails(k llm.Kind, msg string, sent bool) *llm.Failure {
	return &llm.Failure{Kind: k, Endpoint: address(w.e.index), Msg: "simulated: " + msg, Sent: sent}
}

func (w *driver) refused(r *refusal) *llm.Failure {
	kind, hint := llm.Judge(r.status, r.code, r.typ)
	return &llm.Failure{Kind: kind, Endpoint: address(w.e.index), Status: r.status, Code: r.code, Msg: r.msg, Hint: hint, After: r.after}
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
	err = r.follow(ctx, func(tokens int, done bool) bool {
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
				return false
			}
		}
		return true
	})
	return first, err
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

func (w *driver) reply(r *llm.Request, run *running, a *ask, first time.Duration) *llm.Reply {
	var rep *llm.Reply
	if r.Input != nil {
		rep = &llm.Reply{Model: w.e.model, Revision: "fp_sim"}
		rep.Usage.PromptTokens, _, rep.Usage.CachedTokens = run.usage()
		for _, text := range r.Input {
			rep.Vectors = append(rep.Vectors, embed(text, embedded))
		}
	} else {
		rep = (&output{e: w.e, run: run, a: &ask{chat: true, logprobs: a.logprobs}}).reply()
	}
	for i := range r.Messages {
		rep.Usage.Images += len(r.Messages[i].Images)
	}
	rep.Endpoint, rep.First, rep.Took = address(w.e.index), first, time.Since(run.since)
	return rep
}
