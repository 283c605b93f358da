package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"matrix/internal/jsontext"
	"matrix/llm"
	"matrix/llm/internal/sse"
	"matrix/llm/openai/api"
)

// streamWith has the reply to a call sent in pieces.
func (w *Driver) streamWith(ctx context.Context, t *target, c *call) (*llm.Reply, *llm.Failure) {
	inner, s, err := llm.NewStream(ctx, c.r)
	if err != nil {
		return nil, &llm.Failure{Kind: llm.Refused, Endpoint: t.base, Msg: err.Error()}
	}
	defer s.Close()
	rep, f := w.pieces(inner, t, c, s)
	if f != nil && ctx.Err() == nil {
		if stalled := s.Stalled(inner, t.base); stalled != nil {
			stalled.Status, stalled.Usage, stalled.Quota = f.Status, f.Usage, f.Quota
			return nil, stalled
		}
	}
	return rep, f
}

// pieces reads a stream, or what a server that does not stream has sent.
func (w *Driver) pieces(ctx context.Context, t *target, c *call, s *llm.Stream) (*llm.Reply, *llm.Failure) {
	res, h, f := w.open(ctx, t, c.op, t.at[c.op], c.r.Key, c.body)
	if f != nil {
		return nil, f
	}
	defer res.Body.Close()
	b := buffers.Get().(*buffer)
	b.Grow(4096)
	defer b.free()
	e := sse.New(res.Body, b.AvailableBuffer(), int(w.max))
	s.Reads(res.Body)
	e.Wait = s.Pause
	if h.status < 200 || h.status > 299 || !e.Here(h.media, s.Alive) {
		whole, f := w.body(ctx, t, e.Left(), h)
		defer whole.free()
		if f != nil {
			return nil, f
		}
		return w.read(t, c, h, s, whole.Bytes())
	}
	rep, f := w.collect(ctx, t, c, h, s, func() ([]byte, error) { return e.Next(s.Alive) })
	if f == nil && !s.Ended() {
		sse.Drain(res.Body, s.Close)
	}
	return rep, f
}

// collect puts a reply together from the data of events.
func (w *Driver) collect(ctx context.Context, t *target, c *call, h *head, s *llm.Stream, next func() ([]byte, error)) (*llm.Reply, *llm.Failure) {
	p := &pieces{w: w, t: t, c: c, h: h, s: s}
	for {
		data, err := next()
		switch {
		case errors.Is(err, sse.ErrLong):
			return nil, w.tooLarge(t, h)
		case errors.Is(err, io.EOF) && p.finished():
			return p.reply()
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			f := w.broken(ctx, err, t, h.status)
			f.Usage, f.Quota = p.fault().Usage, h.quota
			return nil, f
		}
		more, f := p.add(data)
		switch {
		case f != nil:
			return nil, f
		case more:
		case s.Ended() || p.whole():
			return p.reply()
		default:
			f := p.fault()
			f.Kind, f.EmptyReply, f.Msg = llm.Transport, false, "the stream ended before the reply did"
			return nil, f
		}
	}
}

// replay reads a stream that came as a whole. s is that of the call; nil where it
// asked for none.
func (w *Driver) replay(t *target, c *call, h *head, s *llm.Stream, next func() ([]byte, error)) (*llm.Reply, *llm.Failure) {
	if s == nil {
		var err error
		if _, s, err = llm.NewStream(context.Background(), c.r); err != nil {
			return nil, &llm.Failure{Kind: llm.Refused, Endpoint: t.base, Msg: err.Error()}
		}
		defer s.Close()
	}
	return w.collect(context.Background(), t, c, h, s, next)
}

// pieces puts the pieces of a stream together.
type pieces struct {
	w *Driver
	t *target
	c *call
	h *head
	s *llm.Stream

	model, revision string
	usage           *api.Usage
	drafts          []*draft
	tokens          int // pieces that brought some text, each of a token or more
}

// draft is what a choice has beside what llm.Stream keeps of it.
type draft struct {
	last     int         // index of the newest tool call
	at       map[int]int // that of the newest one which the server gave a number
	refusal  strings.Builder
	logprobs map[string][]json.RawMessage
	finish   string
}

var done = []byte("[DONE]")

// add takes an event. It returns false where the reply is whole.
func (p *pieces) add(data []byte) (bool, *llm.Failure) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return true, nil
	}
	if bytes.Equal(data, done) {
		return false, nil
	}
	r, err := api.Decode(string(data), p.c.most())
	if err != nil {
		f := p.fault()
		f.Msg = fmt.Sprintf("an event of the stream is not the JSON of %s (%v): %s", p.t.at[p.c.op].Path, err, llm.Shorten(p.w.secrets.Hide(string(data)), 120))
		return false, f
	}
	if r.Usage != nil {
		p.usage = r.Usage
	}
	if api.Present(r.Error) {
		return false, p.w.within(p.t, p.c, p.h, p.usage, data)
	}
	if p.model == "" {
		p.model = strings.Clone(r.Model)
	}
	if r.Revision != "" && r.Revision != p.revision {
		p.revision = strings.Clone(r.Revision)
	}
	for i := range r.Choices {
		o := &r.Choices[i]
		if api.Present(o.Error) {
			return false, p.w.within(p.t, p.c, p.h, p.usage, []byte(`{"error":`+o.Error+`}`))
		}
		if o.Index < 0 || o.Index > api.MaxCalls {
			f := p.fault()
			f.Msg = fmt.Sprintf("the stream has a choice with index %d", o.Index)
			return false, f
		}
		if o.Index < p.c.most() && !p.choice(o) {
			return false, nil
		}
	}
	return true, nil
}

// choice takes a piece of a choice. It returns false where the reply was ended.
func (p *pieces) choice(o *api.Choice) bool {
	for len(p.drafts) <= o.Index {
		p.drafts = append(p.drafts, &draft{last: -1})
	}
	d, m := p.drafts[o.Index], &o.Delta
	if m.Content != "" || o.Text != "" || m.Thought() != "" || len(m.Tools) > 0 {
		p.tokens++
	}
	if p.s.Keep(len(m.Refusal)) {
		d.refusal.WriteString(m.Refusal)
	}
	if !p.s.Reasoning(o.Index, m.Thought()) || !p.s.Text(o.Index, m.Content+o.Text) {
		return false
	}
	for i := range m.Tools {
		p.toolCall(o.Index, d, &m.Tools[i])
	}
	if api.Present(o.Logprobs) && p.s.Keep(len(o.Logprobs)) {
		d.addLogprobs(o.Logprobs)
	}
	if o.Finish != "" {
		d.finish = o.Finish
		p.s.Finish(o.Index, o.Finish)
	}
	return !p.s.Ended()
}

// toolCall takes a piece of a tool call. Servers number the calls; where they
// number none, or all alike, another call is told by another id, and without ids
// by a name behind arguments that are whole.
func (p *pieces) toolCall(choice int, d *draft, t *api.ToolCall) {
	n, known := d.last, d.last >= 0
	if t.Numbered {
		n, known = d.at[t.Index]
	}
	if known {
		old := p.s.Call(choice, n)
		switch {
		case t.ID != "" && old.ID != "":
			known = t.ID == old.ID
		case t.ID != "" && !t.Numbered:
			known = false
		case t.Name != "" && old.Name != "":
			known = t.Name == old.Name && (t.Arguments == "" || !isWhole(old.Arguments))
		}
	}
	if !known {
		n = d.last + 1
	}
	if n > api.MaxCalls {
		return
	}
	if t.Numbered {
		if d.at == nil {
			d.at = map[int]int{}
		}
		d.at[t.Index] = n
	}
	d.last = max(d.last, n)
	p.s.ToolCall(choice, n, t.ID, t.Name, t.Arguments)
}

// isWhole reports whether arguments are all that there will be: not of very long
// ones, since it is asked again and again.
func isWhole(arguments string) bool {
	return len(arguments) < 1<<16 && strings.HasSuffix(arguments, "}") && json.Valid([]byte(arguments))
}

// addLogprobs adds the log probabilities of a piece, lists by name, to those
// before.
func (d *draft) addLogprobs(raw string) {
	r := jsontext.New(raw)
	if r.Next() != '{' {
		return
	}
	if d.logprobs == nil {
		d.logprobs = map[string][]json.RawMessage{}
	}
	for name := range r.Object {
		if r.Next() != '[' {
			r.Skip()
			continue
		}
		for range r.List {
			d.logprobs[name] = append(d.logprobs[name], json.RawMessage(r.Raw()))
		}
	}
}

// finished says that each choice said why it ended.
func (p *pieces) finished() bool {
	return len(p.drafts) > 0 && !slices.ContainsFunc(p.drafts, func(d *draft) bool { return d.finish == "" })
}

// whole reports whether a stream that the server has marked as ended is: not where
// a choice does not say why it ended, and another does or others did before.
func (p *pieces) whole() bool {
	if p.finished() || len(p.drafts) == 0 {
		return true
	}
	told := slices.ContainsFunc(p.drafts, func(d *draft) bool { return d.finish != "" })
	return !told && !p.w.finishes.Load()
}

func (p *pieces) fault() *llm.Failure { return fault(p.t, p.c, p.h, p.usage) }

// reply is what came. Where the server did not count, which a reply that was
// ended early is the usual case of, the tokens of the completion are its pieces:
// an estimate that is too low where a piece holds several.
func (p *pieces) reply() (*llm.Reply, *llm.Failure) {
	if len(p.drafts) == 0 {
		f := p.fault()
		f.Msg = "the stream holds no choices"
		return nil, f
	}
	declined := ""
	for _, d := range p.drafts {
		declined += d.refusal.String()
	}
	if !p.s.Ended() && p.finished() {
		p.w.finishes.Store(true)
	}
	rep := &llm.Reply{
		Choices: p.s.Choices(), Usage: p.usage.Of(p.c.images), Model: p.model, Revision: p.revision,
		Endpoint: p.t.base, Params: p.c.params, Quota: p.h.quota, First: p.s.First(),
	}
	if rep.Usage.CompletionTokens == 0 && p.tokens > 0 {
		rep.Usage.CompletionTokens, rep.Usage.Estimated = p.tokens, true
	}
	for i := range rep.Choices {
		c := &rep.Choices[i]
		if i < len(p.drafts) && p.drafts[i].logprobs != nil {
			c.Logprobs, _ = json.Marshal(p.drafts[i].logprobs) // of JSON that was read
		}
		p.c.name(i, c.ToolCalls)
	}
	return conclude(rep, p.t, p.c, p.h, p.usage, declined)
}
