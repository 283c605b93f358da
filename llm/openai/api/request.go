// Package api writes and reads the bodies of the OpenAI API, on the client's side
// and on the server's: requests, replies and the pieces of streamed ones,
// embeddings, completions, the list of models, errors. It knows what vLLM, SGLang,
// llama.cpp, Ollama and TensorRT-LLM add to it, and nothing of HTTP.
package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
	"matrix/llm"
)

// Request is the body of a call: a chat where it has Messages, embeddings where
// it has an Input, and else a completion of its Prompt.
type Request struct {
	*llm.Request
	Model  string // empty: none is named
	Stream bool
	Usage  bool // a stream says at its end what the reply cost
	Counts bool // and so far with each piece: vLLM, SGLang
	Floats bool // vectors are wanted as lists of numbers, rather than as base64; read, not written

	// Other is a prompt, or input, that llm.Request has no form for: several
	// prompts, tokens. JSON; read, not written.
	Other string
}

// Params returns the object of all that a body says beside the conversation and
// how the reply is sent, in the words of a kind of server. Extra wins over all.
// An error may be a *NoFormat.
func (r *Request) Params(s Server) ([]byte, error) {
	p := &r.Sampling
	o := &writer{b: append(make([]byte, 0, 96), '{'), extra: p.Extra}
	o.first = len(o.b)
	if r.Input != nil {
		o.text("encoding_format", "base64")
	} else {
		o.sampling(r.Messages != nil, s, p)
		if r.Messages != nil && len(r.Tools) > 0 && r.ToolChoice != "" {
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

func (w *writer) sampling(chat bool, s Server, p *llm.Sampling) {
	w.float("temperature", p.Temperature)
	w.float("top_p", p.TopP)
	if _, ok := p.Extra["max_completion_tokens"]; p.MaxTokens > 0 && !ok {
		if chat && s.Newer {
			w.int("max_completion_tokens", int64(p.MaxTokens))
		} else {
			w.int("max_tokens", int64(p.MaxTokens))
		}
	}
	if p.N > 1 {
		w.int("n", int64(p.N))
	}
	if len(p.Stop) > 0 && w.key("stop") {
		w.b = appendStrings(w.b, p.Stop)
	}
	if p.Seed != nil {
		w.int("seed", *p.Seed)
	}
	w.float("presence_penalty", p.PresencePenalty)
	w.float("frequency_penalty", p.FrequencyPenalty)
	switch {
	case p.Logprobs > 0 && chat:
		w.any("logprobs", true)
		w.int("top_logprobs", int64(p.Logprobs))
	case p.Logprobs > 0:
		w.int("logprobs", int64(p.Logprobs))
	}
	if p.Effort != "" && chat {
		w.text("reasoning_effort", p.Effort)
	}
}

// Append appends the body with such params.
func (r *Request) Append(b, params []byte) ([]byte, error) {
	b = slices.Grow(b, r.size()+len(params))
	b = append(b, '{')
	if r.Model != "" {
		b = append(jsontext.AppendString(append(b, `"model":`...), r.Model), ',')
	}
	var err error
	switch {
	case r.Messages != nil:
		b = append(b, `"messages":[`...)
		for i := range r.Messages {
			if b, err = appendMessage(jsontext.Separate(b, i), &r.Messages[i]); err != nil {
				return nil, fmt.Errorf("message %d: %w", i, err)
			}
		}
		if b, err = appendTools(append(b, ']'), r.Tools); err != nil {
			return nil, err
		}
	case r.Input != nil:
		b = appendStrings(append(b, `"input":`...), r.Input)
	default:
		b = jsontext.AppendString(append(b, `"prompt":`...), r.Prompt)
	}
	if r.Stream {
		b = append(b, `,"stream":true`...)
		if _, ok := r.Sampling.Extra["stream_options"]; !ok && r.Usage {
			b = append(b, `,"stream_options":{"include_usage":true`...)
			if r.Counts {
				b = append(b, `,"continuous_usage_stats":true`...)
			}
			b = append(b, '}')
		}
	}
	if len(params) > 2 {
		return append(append(b, ','), params[1:]...), nil
	}
	return append(b, '}'), nil
}

// size estimates the bytes of the body.
func (r *Request) size() int {
	n := 128 + len(r.Model) + written(r.Prompt)
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
		b = jsontext.AppendString(jsontext.Separate(b, i), s)
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
			b = jsontext.Separate(b, i)
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
			b = jsontext.Separate(b, i)
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

// Read reads a body. A key counts in its exact case, and of one that comes twice
// the last; null is as if its key were not there. What the fields of llm.Request
// have no place for is passed through: keys that are not known in Sampling.Extra,
// and those of a message in its Extra, as is content whose parts say more than one
// text and images behind it. An error says which key is not as it must be.
func Read(body []byte) (*Request, error) {
	d := decoder{jsontext.New(strings.TrimPrefix(string(body), BOM))}
	r := &Request{Request: &llm.Request{}, Floats: true}
	s := &r.Sampling
	logprobs, top := -1, 0
	for key := range d.fields {
		if d.Null() {
			continue
		}
		switch key {
		case "model":
			r.Model = d.Text()
		case "messages":
			r.Messages = list(&d, math.MaxInt, (*decoder).asked)
		case "prompt":
			if texts, raw := d.texts(); len(texts) == 1 {
				r.Prompt = texts[0]
			} else {
				r.Other = raw
			}
		case "input":
			var raw string
			if r.Input, raw = d.texts(); r.Input == nil {
				r.Input, r.Other = []string{}, raw
			}
		case "tools":
			r.Tools = list(&d, math.MaxInt, (*decoder).offered)
		case "tool_choice":
			if raw := d.Raw(); strings.HasPrefix(raw, `"`) {
				r.ToolChoice, _ = value(raw).(string)
				if c := r.ToolChoice; c != "auto" && c != "none" && c != "required" {
					d.Refuse("auto, none, required or {type: function, function: {name}}")
				}
			} else if r.ToolChoice = functionIn(raw); r.ToolChoice == "" {
				put(&s.Extra, key, value(raw))
			}
		case "response_format":
			s.ResponseFormat = value(d.Raw())
		case "temperature":
			s.Temperature = new(d.Float(64))
		case "top_p":
			s.TopP = new(d.Float(64))
		case "presence_penalty":
			s.PresencePenalty = new(d.Float(64))
		case "frequency_penalty":
			s.FrequencyPenalty = new(d.Float(64))
		case "max_tokens":
			s.MaxTokens = d.positive()
		case "n":
			s.N = d.positive()
		case "stop":
			if s.Stop, _ = d.texts(); s.Stop == nil {
				d.Refuse("a text or a list of texts")
			}
		case "seed":
			s.Seed = new(int64(d.Int()))
		case "logprobs": // of a chat, or of a completion
			switch d.Next() {
			case 't', 'f':
				if logprobs = -1; d.Bool() {
					logprobs = 0
				}
			default:
				if logprobs = d.Int(); logprobs < 0 {
					d.Refuse("true, false or a number of 0 or more")
				}
			}
		case "top_logprobs":
			if top = d.Int(); top < 0 {
				d.Refuse("a number of 0 or more")
			}
		case "reasoning_effort":
			s.Effort = d.Text()
		case "stream":
			r.Stream = d.Bool()
		case "stream_options":
			for key := range d.fields {
				switch key {
				case "include_usage":
					r.Usage = !d.Null() && d.Bool()
				case "continuous_usage_stats":
					r.Counts = !d.Null() && d.Bool()
				default:
					d.Skip()
				}
			}
		case "encoding_format":
			if form := d.Text(); form != "float" && form != "base64" {
				d.Refuse("float or base64")
			} else {
				r.Floats = form == "float"
			}
		default:
			put(&s.Extra, key, value(d.Raw()))
		}
	}
	if logprobs >= 0 {
		s.Logprobs = max(1, logprobs, top)
	}
	return r, d.End()
}

func put(m *map[string]any, key string, v any) {
	if *m == nil {
		*m = map[string]any{}
	}
	(*m)[key] = v
}

// value is what some JSON says, its numbers as whole ones where they are.
func value(raw string) any {
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil // it is not JSON, which who reads it says
	}
	return numbers(v)
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(v.String()); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return f
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

// texts reads a text or a list of texts; nil: the list holds anything else. raw
// is the JSON of a list.
func (d *decoder) texts() (texts []string, raw string) {
	switch d.Next() {
	case '"':
		return []string{d.Text()}, ""
	case '[':
		raw = d.Raw()
		if json.Unmarshal([]byte(raw), &texts) != nil {
			return nil, raw
		}
		return texts, raw
	}
	d.Refuse("a text or a list of texts")
	return nil, ""
}

// positive reads a number of 1 or more.
func (d *decoder) positive() int {
	n := d.Int()
	if n < 1 {
		d.Refuse("a whole number of 1 or more")
	}
	return n
}

// functionIn is the name in {function: {name}}; empty where there is none.
func functionIn(raw string) string {
	var v struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	_ = json.Unmarshal([]byte(raw), &v)
	return v.Function.Name
}

// offered reads a function that may be called.
func (d *decoder) offered(t *llm.Tool) {
	for key := range d.fields {
		if key != "function" {
			d.Skip()
			continue
		}
		if json.Unmarshal([]byte(d.Raw()), t) == nil && string(t.Parameters) == "null" {
			t.Parameters = nil
		}
	}
	if t.Name == "" {
		d.Refuse("a list of functions that have a name")
	}
}

// asked reads a message of the conversation.
func (d *decoder) asked(m *llm.Message) {
	name := ""
	for key := range d.fields {
		if d.Null() {
			continue
		}
		switch key {
		case "role":
			m.Role = d.Text()
		case "content":
			if d.Next() != '[' {
				m.Content = d.Text()
			} else if raw := d.Raw(); !readParts(raw, m) {
				put(&m.Extra, key, value(raw))
			}
		case "tool_calls":
			for _, t := range list(d, math.MaxInt, (*decoder).tool) {
				m.ToolCalls = append(m.ToolCalls, llm.ToolCall{ID: t.ID, Name: t.Name, Arguments: t.Arguments})
			}
		case "tool_call_id":
			m.ToolCallID = d.Text()
		case "name":
			name = d.Text()
			put(&m.Extra, key, name)
		default:
			put(&m.Extra, key, value(d.Raw()))
		}
	}
	switch m.Role {
	case "developer":
		m.Role = "system"
		put(&m.Extra, "role", "developer")
	case "tool":
		m.ToolName = name
	}
}

// readParts reads content in parts, and reports whether m says all of it.
func readParts(raw string, m *llm.Message) bool {
	d := decoder{jsontext.New(raw)}
	all, parts := true, 0
	for range d.List {
		kind, text := "", ""
		var image llm.Image
		for key := range d.fields {
			switch {
			case d.Null():
			case key == "type":
				kind = d.Text()
			case key == "text" && d.Next() == '"':
				text = d.Text()
			case key == "image_url" && d.Next() == '{':
				for key := range d.fields {
					switch key {
					case "url":
						image = imageAt(d.text(), image.Detail)
					case "detail":
						image.Detail = d.text()
					default:
						all = false
						d.Skip()
					}
				}
			default:
				all = false
				d.Skip()
			}
		}
		switch kind {
		case "text":
			all = all && parts == 0
			m.Content += text
		case "image_url":
			m.Images = append(m.Images, image)
		default:
			all = false
		}
		parts++
	}
	return d.End() == nil && all
}

// imageAt is an image by its address, or what a data: URL holds.
func imageAt(url, detail string) llm.Image {
	if rest, ok := strings.CutPrefix(url, "data:"); ok {
		media, data, _ := strings.Cut(rest, ";base64,")
		if raw, err := base64.StdEncoding.DecodeString(data); err == nil && len(raw) > 0 {
			return llm.Image{Media: media, Data: raw, Detail: detail}
		}
	}
	return llm.Image{URL: url, Detail: detail}
}
