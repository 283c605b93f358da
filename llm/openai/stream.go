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
)

// streamWith has the reply to a call sent in pieces.
func (w *Wire) streamWith(ctx context.Context, t *target, c *call) (*llm.Reply, *llm.Failure) {
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

// pieces reads a stream.
func (w *Wire) pieces(ctx context.Context, t *target, c *call, s *llm.Stream) (*llm.Reply, *llm.Failure) {
	res, h, f := w.open(ctx, t, c.op, t.at[c.op], c.r.Key, c.body)
	if f != nil {
		return nil, f
	}
	if h.status < 200 || h.status > 299 || strings.HasPrefix(h.media, "application/json") || strings.HasPrefix(h.media, "text/html") {
		b, f := w.body(ctx, t, res, h)
		defer b.free()
		if f != nil {
			return nil, f
		}
		return w.read(t, c, h, b.Bytes())
	}
	defer res.Body.Close()
	b := buffers.Get().(*buffer)
	b.Grow(2048)
	defer b.free()
	p := &pieces{w: w, t: t, c: c, h: h, s: s}
	e := sse.New(res.Body, b.AvailableBuffer(), int(w.max))
	for {
		data, err := e.Next(s.Alive)
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
		if f != nil {
			return nil, f
		}
		if !more {
			if !s.Ended() {
				sse.Drain(res.Body, s.Close)
			}
			return p.reply()
		}
	}
}

// pieces puts the pieces of a stream together.
type pieces struct {
	w *Wire
	t *target
	c *call
	h *head
	s *llm.Stream

	model, revision string
	usage           *wireUsage
	drafts          []*draft
	tokens          int // pieces that brought some text, each of a token or more
}

// draft is what a choice has beside what llm.Stream keeps of it.
type draft struct {
	think    thinker
	last     int // index of the newest tool call
	ids      map[int]string
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
	r, err := decode(string(data))
	if err != nil {
		f := p.fault()
		f.Msg = p.w.secrets.Hide(fmt.Sprintf("an event of the stream is not the JSON of %s (%v): %s", p.t.at[p.c.op].Path, err, llm.Shorten(string(data), 120)))
		return false, f
	}
	if r.usage != nil {
		p.usage = r.usage
	}
	if present(r.err) {
		return false, p.w.within(p.t, p.c, p.h, p.usage, data)
	}
	if p.model == "" {
		p.model = strings.Clone(r.model)
	}
	if r.revision != "" && r.revision != p.revision {
		p.revision = strings.Clone(r.revision)
	}
	for i := range r.choices {
		o := &r.choices[i]
		if present(o.err) {
			return false, p.w.within(p.t, p.c, p.h, p.usage, []byte(`{"error":`+o.err+`}`))
		}
		if o.index < 0 || o.index > 1<<10 {
			f := p.fault()
			f.Msg = fmt.Sprintf("the stream has a choice with index %d", o.index)
			return false, f
		}
		if !p.choice(o) {
			return false, nil
		}
	}
	return true, nil
}

// choice takes a piece of a choice. It returns false where the reply was ended.
func (p *pieces) choice(o *wireChoice) bool {
	for len(p.drafts) <= o.index {
		p.drafts = append(p.drafts, &draft{})
	}
	d, m := p.drafts[o.index], &o.delta
	if m.content != "" || o.text != "" || m.thought() != "" || len(m.tools) > 0 {
		p.tokens++
	}
	thought, said := d.think.add(m.content + o.text)
	thought = m.thought() + thought
	d.refusal.WriteString(m.refusal)
	if !p.s.Reasoning(o.index, thought) || !p.s.Text(o.index, said) {
		return false
	}
	for i := range m.tools {
		p.toolCall(o.index, d, &m.tools[i])
	}
	if present(o.logprobs) {
		d.addLogprobs(o.logprobs)
	}
	if o.finish != "" {
		d.finish = o.finish
		thought, said = d.think.end()
		p.s.Reasoning(o.index, thought)
		more := p.s.Text(o.index, said)
		p.s.Finish(o.index, o.finish)
		return more
	}
	return true
}

// toolCall takes a piece of a tool call. A server that numbers none, or all of
// them alike, tells them apart by their ids.
func (p *pieces) toolCall(choice int, d *draft, t *wireTool) {
	if d.ids == nil {
		d.ids = map[int]string{}
		d.last = -1
	}
	n := d.last
	switch {
	case t.numbered:
		n = t.index
	case t.id != "" || n < 0:
		n++
	}
	if old := d.ids[n]; old != "" && t.id != "" && old != t.id {
		n = d.last + 1
	}
	if n < 0 || n > 1<<10 {
		return
	}
	if t.id != "" {
		d.ids[n] = t.id
	}
	d.last = max(d.last, n)
	p.s.ToolCall(choice, n, t.id, t.name, t.arguments)
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
	for i, d := range p.drafts {
		if !p.s.Ended() {
			thought, said := d.think.end()
			p.s.Reasoning(i, thought)
			p.s.Text(i, said)
		}
		declined += d.refusal.String()
	}
	rep := &llm.Reply{
		Choices: p.s.Choices(), Usage: p.usage.usage(p.c.images), Model: p.model, Revision: p.revision,
		Endpoint: p.t.base, Params: p.c.params, Quota: p.h.quota, First: p.s.First(),
	}
	if rep.Usage.CompletionTokens == 0 && p.tokens > 0 {
		rep.Usage.CompletionTokens, rep.Usage.Estimated = p.tokens, true
	}
	for i := range rep.Choices {
		c := &rep.Choices[i]
		c.Reasoning = strings.Trim(c.Reasoning, blanks)
		if i < len(p.drafts) && p.drafts[i].logprobs != nil {
			c.Logprobs, _ = json.Marshal(p.drafts[i].logprobs) // of JSON that was read
		}
		p.c.name(i, c.ToolCalls)
	}
	return conclude(rep, p.t, p.c, p.h, p.usage, declined)
}
