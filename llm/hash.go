package llm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"matrix/internal/jsontext"
)

// Hash says what r asks of a model: the SHA-256, in hex digits, of a JSON
// document that docs/datasets.md describes. It is the same in every process, on
// every machine and for every address of a service, and differs where anything
// differs that the reply depends on, but for the seed. model is the model's name
// at the service. Sampling must be complete: that of the model's config with r's
// laid over it.
func (r *Request) Hash(model string) string {
	b := make([]byte, 0, 1024)
	b = append(b, '{')
	key := func(k string) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(jsontext.AppendString(b, k), ':')
	}
	if f := r.Format; f != nil {
		key("format")
		b = appendCanonical(b, f.document())
	}
	if r.Input != nil {
		key("input")
		b = appendCanonical(b, r.Input)
	}
	if r.Messages != nil {
		key("messages")
		b = append(b, '[')
		for i := range r.Messages {
			b = r.Messages[i].append(jsontext.Separate(b, i))
		}
		b = append(b, ']')
	}
	key("model")
	b = jsontext.AppendString(b, model)
	key("params")
	b = r.Sampling.appendSet(b)
	if r.Prompt != "" {
		key("prompt")
		b = jsontext.AppendString(b, r.Prompt)
	}
	if r.ToolChoice != "" {
		key("tool_choice")
		b = jsontext.AppendString(b, r.ToolChoice)
	}
	if len(r.Tools) > 0 {
		key("tools")
		b = appendCanonical(b, r.Tools)
	}
	sum := sha256.Sum256(append(b, '}'))
	return hex.EncodeToString(sum[:])
}

// append appends a message. That which is common, a role and a text, costs no
// detour.
func (m *Message) append(b []byte) []byte {
	if len(m.Images)+len(m.ToolCalls)+len(m.Opaque)+len(m.Extra) == 0 && m.ToolCallID == "" && m.ToolName == "" && !m.IsError {
		b = jsontext.AppendString(append(b, `{"content":`...), m.Content)
		return append(jsontext.AppendString(append(b, `,"role":`...), m.Role), '}')
	}
	d := map[string]any{"role": m.Role, "content": m.Content}
	var images, calls []any
	for _, p := range m.Images {
		image := map[string]any{}
		setText(image, "url", p.URL)
		setText(image, "detail", p.Detail)
		if len(p.Data) > 0 {
			sum := sha256.Sum256(p.Data)
			image["sha256"] = hex.EncodeToString(sum[:])
		}
		images = append(images, image)
	}
	for _, c := range m.ToolCalls {
		calls = append(calls, map[string]any{"id": c.ID, "name": c.Name, "arguments": c.Arguments})
	}
	if images != nil {
		d["images"] = images
	}
	if calls != nil {
		d["tool_calls"] = calls
	}
	setText(d, "tool_call_id", m.ToolCallID)
	setText(d, "tool_name", m.ToolName)
	setText(d, "opaque", string(m.Opaque))
	if m.IsError {
		d["is_error"] = true
	}
	if len(m.Extra) > 0 {
		d["extra"] = m.Extra
	}
	return appendCanonical(b, d)
}

func (f *Format) document() map[string]any {
	d := map[string]any{}
	if f.JSON {
		d["json"] = true
	}
	if len(f.Schema) > 0 {
		d["schema"] = f.Schema
	}
	if len(f.Choice) > 0 {
		d["choice"] = f.Choice
	}
	setText(d, "name", f.Name)
	setText(d, "regex", f.Regex)
	setText(d, "grammar", f.Grammar)
	return d
}

// appendSet appends what is set, as in a config, but for the seed and for how
// the reply is brought.
func (s *Sampling) appendSet(b []byte) []byte {
	b = append(b, '{')
	first := len(b)
	key := func(k string, set bool) bool {
		if set && len(b) > first {
			b = append(b, ',')
		}
		if set {
			b = append(append(append(b, '"'), k...), '"', ':')
		}
		return set
	}
	float := func(k string, v *float64) {
		if key(k, v != nil) {
			b = jsontext.AppendFloat(b, *v, 64)
		}
	}
	extra := s.Extra
	if _, ok := extra["seed"]; ok {
		extra = maps.Clone(extra)
		delete(extra, "seed")
	}
	if key("extra_body", len(extra) > 0) {
		b = appendCanonical(b, extra)
	}
	float("frequency_penalty", s.FrequencyPenalty)
	if key("logprobs", s.Logprobs > 0) {
		b = strconv.AppendInt(b, int64(s.Logprobs), 10)
	}
	if key("max_tokens", s.MaxTokens > 0) {
		b = strconv.AppendInt(b, int64(s.MaxTokens), 10)
	}
	if key("n", s.N > 1) {
		b = strconv.AppendInt(b, int64(s.N), 10)
	}
	float("presence_penalty", s.PresencePenalty)
	if key("reasoning_effort", s.Effort != "") {
		b = jsontext.AppendString(b, s.Effort)
	}
	if key("response_format", s.ResponseFormat != nil) {
		b = appendCanonical(b, s.ResponseFormat)
	}
	if key("stop", len(s.Stop) > 0) {
		b = appendCanonical(b, s.Stop)
	}
	float("temperature", s.Temperature)
	float("top_p", s.TopP)
	if key("until", s.Until != "") {
		b = jsontext.AppendString(b, s.Until)
	}
	return append(b, '}')
}

func setText(d map[string]any, key, text string) {
	if text != "" {
		d[key] = text
	}
}

// appendCanonical appends x in the one form that it has: keys in order, no
// space, floats with their point, the numbers of a schema as they are written.
// What cannot be encoded is not sent either.
func appendCanonical(b []byte, x any) []byte {
	switch x := x.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, x)
	case string:
		return jsontext.AppendString(b, x)
	case float64:
		return jsontext.AppendFloat(b, x, 64)
	case json.Number:
		return append(b, x...)
	case []any:
		b = append(b, '[')
		for i, v := range x {
			b = appendCanonical(jsontext.Separate(b, i), v)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(x)) {
			b = appendCanonical(append(jsontext.AppendString(jsontext.Separate(b, i), k), ':'), x[k])
		}
		return append(b, '}')
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return append(b, "null"...)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var plain any
	if err := d.Decode(&plain); err != nil {
		return append(b, "null"...)
	}
	return appendCanonical(b, plain)
}
