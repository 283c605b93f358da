package openai

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
	"matrix/llm"
)

// call is a request as it goes out.
type call struct {
	op     op
	r      *llm.Request
	stream bool
	params []byte // the object of all that is not the conversation and how it is sent
	body   []byte
	images int
}

// mostCalls is the most tool calls and choices of a reply that are read.
const mostCalls = 1 << 10

// most is how many choices are read, or vectors: what was asked for, and of
// vectors one more, which is one too many.
func (c *call) most() int {
	if c.op == embedding {
		return len(c.r.Input) + 1
	}
	return min(c.r.Sampling.Draws(), mostCalls)
}

// encode makes the call of r to a model; empty: of no name. A failure is one of llm.Lack.
func (w *Wire) encode(r *llm.Request, s server, model string) (*call, *llm.Failure) {
	c := &call{op: chat, r: r, stream: llm.Streams(r)}
	switch {
	case r.Messages != nil:
	case r.Input != nil:
		c.op, c.stream = embedding, false
	default:
		c.op = completion
	}
	refused := func(err error) *llm.Failure {
		msg := w.secrets.Hide(err.Error())
		if no := (*noFormat)(nil); errors.As(err, &no) {
			return llm.LackFormat(r, w.targets[0].base, msg, no.hint())
		}
		return llm.Lack(w.targets[0].base, msg, "")
	}
	var err error
	if c.params, err = w.appendParams(make([]byte, 0, 96), c, s); err != nil {
		return nil, refused(err)
	}
	b := make([]byte, 0, w.size(r)+len(c.params))
	b = append(b, '{')
	if model != "" {
		b = append(b, `"model":`...)
		b = append(jsontext.AppendString(b, model), ',')
	}
	switch c.op {
	case embedding:
		b = append(b, `"input":`...)
		b = appendStrings(b, r.Input)
	case completion:
		b = append(b, `"prompt":`...)
		b = jsontext.AppendString(b, r.Prompt)
	default:
		b = append(b, `"messages":[`...)
		for i := range r.Messages {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendMessage(b, &r.Messages[i]); err != nil {
				return nil, refused(fmt.Errorf("message %d: %w", i, err))
			}
			c.images += len(r.Messages[i].Images)
		}
		b = append(b, ']')
		if b, err = appendTools(b, r.Tools); err != nil {
			return nil, refused(err)
		}
	}
	if c.stream {
		b = append(b, `,"stream":true`...)
		if _, ok := r.Sampling.Extra["stream_options"]; !ok {
			b = append(b, `,"stream_options":{"include_usage":true`...)
			if (r.Sampling.Until != "" || r.OnDelta != nil) && (s.name == vllm || s.name == sglang) {
				b = append(b, `,"continuous_usage_stats":true`...) // so that a reply that is cut short is counted
			}
			b = append(b, '}')
		}
	}
	if len(c.params) > 2 {
		b = append(b, ',')
		c.body = append(b, c.params[1:]...)
	} else {
		c.body = append(b, '}')
	}
	return c, nil
}

// size estimates the bytes of r's body.
func (w *Wire) size(r *llm.Request) int {
	n := 128 + len(w.model) + written(r.Prompt)
	for _, s := range r.Input {
		n += 8 + written(s)
	}
	for i := range r.Messages {
		m := &r.Messages[i]
		n += 40 + written(m.Content)
		for k := range m.Images {
			n += 80 + len(m.Images[k].URL) + base64.StdEncoding.EncodedLen(len(m.Images[k].Data))
		}
		for k := range m.ToolCalls {
			n += 96 + 2*len(m.ToolCalls[k].Arguments)
		}
	}
	for i := range r.Tools {
		n += 80 + len(r.Tools[i].Description) + len(r.Tools[i].Parameters)
	}
	return n
}

// written estimates the bytes of s in JSON.
func written(s string) int { return len(s) + len(s)/16 + strings.Count(s, "\n") }

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsontext.AppendString(b, s)
	}
	return append(b, ']')
}

func appendMessage(b []byte, m *llm.Message) ([]byte, error) {
	if len(m.Extra) > 0 {
		return appendExtra(b, m)
	}
	b = append(b, `{"role":`...)
	b = jsontext.AppendString(b, m.Role)
	b = append(b, `,"content":`...)
	if len(m.Images) == 0 {
		b = jsontext.AppendString(b, m.Content)
	} else {
		b = append(b, '[')
		if m.Content != "" {
			b = append(b, `{"type":"text","text":`...)
			b = append(jsontext.AppendString(b, m.Content), '}', ',')
		}
		for i := range m.Images {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendImage(b, &m.Images[i]); err != nil {
				return nil, fmt.Errorf("image %d: %w", i, err)
			}
		}
		b = append(b, ']')
	}
	if len(m.ToolCalls) > 0 {
		b = append(b, `,"tool_calls":[`...)
		for i := range m.ToolCalls {
			if i > 0 {
				b = append(b, ',')
			}
			t := &m.ToolCalls[i]
			b = append(b, `{"id":`...)
			b = jsontext.AppendString(b, t.ID)
			b = append(b, `,"type":"function","function":{"name":`...)
			b = jsontext.AppendString(b, t.Name)
			b = append(b, `,"arguments":`...)
			b = append(jsontext.AppendString(b, t.Arguments), '}', '}')
		}
		b = append(b, ']')
	}
	if m.ToolCallID != "" {
		b = append(b, `,"tool_call_id":`...)
		b = jsontext.AppendString(b, m.ToolCallID)
	}
	return append(b, '}'), nil
}

// appendExtra appends a message that has fields of its own.
func appendExtra(b []byte, m *llm.Message) ([]byte, error) {
	plain := *m
	plain.Extra = nil
	if _, ok := m.Extra["content"]; ok {
		plain.Content, plain.Images = "", nil
	}
	j, err := appendMessage(nil, &plain)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(j, &all); err != nil {
		return nil, err
	}
	for k, v := range m.Extra {
		if all[k], err = json.Marshal(v); err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
	if j, err = json.Marshal(all); err != nil {
		return nil, err
	}
	return append(b, j...), nil
}

func appendImage(b []byte, m *llm.Image) ([]byte, error) {
	b = append(b, `{"type":"image_url","image_url":{"url":`...)
	switch {
	case m.URL != "":
		b = jsontext.AppendString(b, m.URL)
	case len(m.Data) > 0 && m.Media != "":
		b = append(b, `"data:`...)
		s := jsontext.AppendString(nil, m.Media)
		b = append(b, s[1:len(s)-1]...)
		b = append(b, `;base64,`...)
		b = append(base64.StdEncoding.AppendEncode(b, m.Data), '"')
	case len(m.Data) > 0:
		return nil, errors.New("its media type is not known")
	default:
		return nil, errors.New("it has neither an address nor data")
	}
	if m.Detail != "" {
		b = append(b, `,"detail":`...)
		b = jsontext.AppendString(b, m.Detail)
	}
	return append(b, '}', '}'), nil
}

func appendTools(b []byte, tools []llm.Tool) ([]byte, error) {
	for i := range tools {
		if i == 0 {
			b = append(b, `,"tools":[`...)
		} else {
			b = append(b, ',')
		}
		t, err := json.Marshal(&tools[i])
		if err != nil {
			return nil, fmt.Errorf("tool %q: %w", tools[i].Name, err)
		}
		b = append(b, `{"type":"function","function":`...)
		b = append(append(b, t...), '}')
	}
	if len(tools) > 0 {
		b = append(b, ']')
	}
	return b, nil
}

// writer writes the keys of an object. The first who writes a key wins.
type writer struct {
	b     []byte
	first int
	extra map[string]any // wins over all
	err   error
}

// key begins a key, unless it is an extra one.
func (w *writer) key(k string) bool {
	if _, ok := w.extra[k]; ok {
		return false
	}
	w.name(k)
	return true
}

func (w *writer) name(k string) {
	if len(w.b) > w.first {
		w.b = append(w.b, ',')
	}
	w.b = append(jsontext.AppendString(w.b, k), ':')
}

func (w *writer) float(k string, v *float64) {
	if v != nil && w.key(k) {
		w.b = strconv.AppendFloat(w.b, *v, 'g', -1, 64)
	}
}

func (w *writer) int(k string, v int64) {
	if w.key(k) {
		w.b = strconv.AppendInt(w.b, v, 10)
	}
}

func (w *writer) text(k, v string) {
	if w.key(k) {
		w.b = jsontext.AppendString(w.b, v)
	}
}

func (w *writer) any(k string, v any) {
	if !w.key(k) {
		return
	}
	w.value(k, v)
}

func (w *writer) value(k string, v any) {
	j, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%s: %w", k, err)
	}
	w.b = append(w.b, j...)
}

// appendParams appends the object of what the request sets beside its
// conversation.
func (w *Wire) appendParams(b []byte, c *call, s server) ([]byte, error) {
	r, p := c.r, &c.r.Sampling
	o := &writer{b: append(b, '{'), extra: p.Extra}
	o.first = len(o.b)
	if c.op == embedding {
		o.text("encoding_format", "base64")
	} else {
		w.sampling(o, c.op, p)
		if c.op == chat && len(r.Tools) > 0 && r.ToolChoice != "" {
			switch r.ToolChoice {
			case "auto", "none", "required":
				o.text("tool_choice", r.ToolChoice)
			default:
				type function struct {
					Name string `json:"name"`
				}
				o.any("tool_choice", struct {
					Type     string   `json:"type"`
					Function function `json:"function"`
				}{"function", function{r.ToolChoice}})
			}
		}
		switch {
		case p.ResponseFormat != nil:
			o.any("response_format", p.ResponseFormat)
		case r.Format != nil:
			if err := format(o, r.Format, s); err != nil {
				return nil, err
			}
		}
	}
	if len(p.Extra) > 0 {
		for _, k := range slices.Sorted(maps.Keys(p.Extra)) {
			o.name(k)
			o.value(k, p.Extra[k])
		}
	}
	return append(o.b, '}'), o.err
}

func (w *Wire) sampling(o *writer, op op, p *llm.Sampling) {
	o.float("temperature", p.Temperature)
	o.float("top_p", p.TopP)
	if _, ok := p.Extra["max_completion_tokens"]; p.MaxTokens > 0 && !ok {
		if op == chat && w.newer.Load() {
			o.int("max_completion_tokens", int64(p.MaxTokens))
		} else {
			o.int("max_tokens", int64(p.MaxTokens))
		}
	}
	if p.N > 1 {
		o.int("n", int64(p.N))
	}
	if len(p.Stop) > 0 && o.key("stop") {
		o.b = appendStrings(o.b, p.Stop)
	}
	if p.Seed != nil {
		o.int("seed", *p.Seed)
	}
	o.float("presence_penalty", p.PresencePenalty)
	o.float("frequency_penalty", p.FrequencyPenalty)
	switch {
	case p.Logprobs > 0 && op == chat:
		o.any("logprobs", true)
		o.int("top_logprobs", int64(p.Logprobs))
	case p.Logprobs > 0:
		o.int("logprobs", int64(p.Logprobs))
	}
	if p.Effort != "" && op == chat {
		o.text("reasoning_effort", p.Effort)
	}
}
