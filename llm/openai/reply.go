package openai

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"matrix/llm"
	"matrix/llm/internal/sse"
	"matrix/llm/openai/api"
)

// read judges a whole response, which may be a stream all the same. s is that of
// a call that asked for one.
func (w *Driver) read(t *target, c *call, h *head, s *llm.Stream, body []byte) (*llm.Reply, *llm.Failure) {
	body = sse.Uncommented(body)
	e := sse.New(bytes.NewReader(body), nil, len(body))
	next := func() ([]byte, error) { return e.Next(func() {}) }
	streamed := sse.Is(body)
	if h.status < 200 || h.status > 299 {
		if streamed {
			if said, err := next(); err == nil {
				body = said
			}
		}
		return nil, w.complain(t, h, body)
	}
	if streamed && c.op != embedding {
		return w.replay(t, c, h, s, next)
	}
	r, err := api.Decode(string(body), c.most())
	if c.op != embedding && (err != nil || r.IsPiece()) {
		first, _, _ := bytes.Cut(body, []byte("\n"))
		if p, bad := api.Decode(string(first), c.most()); bad == nil && p.Choices != nil && !p.IsWhole() {
			return w.replay(t, c, h, s, lines(body))
		}
	}
	if err != nil {
		f := fault(t, c, h, nil)
		f.Msg = fmt.Sprintf("the reply is not the JSON of %s (%v): %s", t.at[c.op].Path, err, llm.Shorten(w.secrets.Hide(string(body)), 120))
		if strings.HasPrefix(h.media, "text/html") {
			f.Kind, f.EmptyReply = llm.Transport, false // somebody on the way to the server answered
			if !w.reached() {
				f.Kind, f.Sent, f.Hint = llm.Fatal, false, "this is a web page, not a model server: check base_url"
			}
		}
		return nil, f
	}
	if api.Present(r.Error) {
		return nil, w.within(t, c, h, r.Usage, body)
	}
	rep := &llm.Reply{
		Usage: r.Usage.Of(c.images), Model: strings.Clone(r.Model), Revision: strings.Clone(r.Revision),
		Endpoint: t.base, Params: c.params, Quota: h.quota,
	}
	if c.op == embedding {
		if msg := vectors(rep, c, r.Data); msg != "" {
			f := fault(t, c, h, r.Usage)
			f.Msg = msg
			return nil, f
		}
		return rep, nil
	}
	if len(r.Choices) == 0 {
		f := fault(t, c, h, r.Usage)
		f.Msg = "the reply holds no choices: " + llm.Shorten(w.secrets.Hide(string(body)), 120)
		if r.Choices == nil && r.Model == "" && r.Object == "" && len(body) > 2 && body[0] == '{' && !w.reached() {
			f.Kind, f.EmptyReply, f.Sent, f.Hint = llm.Fatal, false, false, "this is not a model server: check base_url"
		}
		return nil, f
	}
	rep.Choices = make([]llm.Choice, len(r.Choices))
	declined := ""
	for i := range r.Choices {
		o := &r.Choices[i]
		if api.Present(o.Error) {
			return nil, w.within(t, c, h, r.Usage, []byte(`{"error":`+o.Error+`}`))
		}
		rep.Choices[i] = c.choice(i, o, len(body))
		declined += o.Message.Refusal
	}
	return conclude(rep, t, c, h, r.Usage, declined)
}

// choice makes a choice of what a body of some size says.
func (c *call) choice(i int, o *api.Choice, size int) llm.Choice {
	m := &o.Message
	ch := llm.Choice{Text: m.Content + o.Text, Reasoning: m.Thought(), Finish: strings.Clone(o.Finish)}
	ch.Text, ch.Reasoning = own(ch.Text, size), own(ch.Reasoning, size)
	if api.Present(o.Logprobs) {
		ch.Logprobs = []byte(o.Logprobs)
	}
	for k := range m.Tools {
		t := &m.Tools[k]
		ch.ToolCalls = append(ch.ToolCalls, llm.ToolCall{ID: strings.Clone(t.ID), Name: strings.Clone(t.Name), Arguments: own(t.Arguments, size)})
	}
	c.name(i, ch.ToolCalls)
	return ch
}

// own copies a text that would keep a body in memory of which it is less than
// half.
func own(s string, size int) string {
	if 2*len(s) < size {
		return strings.Clone(s)
	}
	return s
}

// name makes up ids of tool calls that have none: the same ones for the same
// key.
func (c *call) name(choice int, calls []llm.ToolCall) {
	for k := range calls {
		if calls[k].ID != "" {
			continue
		}
		id := rand.Uint64()
		if c.r.Key != "" {
			id = xxh3.HashString(c.r.Key + "/" + strconv.Itoa(choice) + "/" + strconv.Itoa(k))
		}
		calls[k].ID = fmt.Sprintf("call_%016x", id)
	}
}

// fault is a failure of a response of success, which says of its cost u.
func fault(t *target, c *call, h *head, u *api.Usage) *llm.Failure {
	f := &llm.Failure{Kind: llm.Fault, Endpoint: t.base, Status: h.status, EmptyReply: true, Sent: true, Quota: h.quota}
	if u != nil {
		cost := u.Of(c.images)
		f.Usage = &cost
	}
	return f
}

// within judges an error that came in a response of success, which says of its
// cost u.
func (w *Driver) within(t *target, c *call, h *head, u *api.Usage, body []byte) *llm.Failure {
	f := w.complain(t, h, body)
	f.Usage, f.Sent = fault(t, c, h, u).Usage, true
	return f
}

// conclude judges the choices of a reply; declined is what the model said
// instead of an answer.
func conclude(rep *llm.Reply, t *target, c *call, h *head, u *api.Usage, declined string) (*llm.Reply, *llm.Failure) {
	said, filtered := false, true
	for i := range rep.Choices {
		o := &rep.Choices[i]
		said = said || o.Text != "" || len(o.ToolCalls) > 0
		filtered = filtered && o.Finish == "content_filter"
	}
	switch {
	case !said && declined != "":
		f := fault(t, c, h, u)
		f.Kind, f.EmptyReply, f.Msg = llm.Refused, false, "the model declined: "+llm.Shorten(declined, 1000)
		return nil, f
	case !said && filtered:
		f := fault(t, c, h, u)
		f.Kind, f.EmptyReply, f.Code, f.Msg = llm.Refused, false, "content_filter", "the service's filter took the reply away"
		return nil, f
	}
	return rep, nil
}

// vectors puts the vectors of a reply in order, or says what is wrong.
func vectors(rep *llm.Reply, c *call, data []api.Vector) (msg string) {
	n := len(c.r.Input)
	if len(data) != n {
		return fmt.Sprintf("the reply holds %d vectors for %d texts", len(data), n)
	}
	rep.Vectors = make([][]float32, n)
	for _, d := range data {
		if d.Index < 0 || d.Index >= n || len(d.Values) == 0 || rep.Vectors[d.Index] != nil {
			return fmt.Sprintf("the reply holds no vector for each of %d texts", n)
		}
		rep.Vectors[d.Index] = d.Values
	}
	return ""
}

// lines returns the lines of a body, one with each call.
func lines(b []byte) func() ([]byte, error) {
	return func() (line []byte, err error) {
		if len(b) == 0 {
			return nil, io.EOF
		}
		line, b, _ = bytes.Cut(b, []byte("\n"))
		return line, nil
	}
}
