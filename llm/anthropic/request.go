package anthropic

import (
	"encoding/json"

	"matrix/llm"
)

// block is a part of a message's content.
type block struct {
	Type string `json:"type"`
	Text string `json:"text,omitempty"`

	Source *source `json:"source,omitempty"` // of an image

	ID    string          `json:"id,omitempty"` // of a tool_use
	Name  string          `json:"name,omitempty"`
	Input json.RawMessage `json:"input,omitempty"`

	ToolUseID string `json:"tool_use_id,omitempty"` // of a tool_result
	Content   string `json:"content,omitempty"`
	IsError   bool   `json:"is_error,omitempty"`

	Thinking  *string `json:"thinking,omitempty"` // of a thinking block, where it may be empty
	Signature string  `json:"signature,omitempty"`
	Data      string  `json:"data,omitempty"` // of a redacted_thinking block

	Cache *cacheControl `json:"cache_control,omitempty"`
}

type source struct {
	Type  string `json:"type"` // base64 or url
	Media string `json:"media_type,omitempty"`
	Data  []byte `json:"data,omitempty"`
	URL   string `json:"url,omitempty"`
}

type cacheControl struct {
	Type string `json:"type"`
}

type message struct {
	Role    string  `json:"role"` // user or assistant
	Content []block `json:"content"`
}

type tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Schema      json.RawMessage `json:"input_schema"`
	Strict      bool            `json:"strict,omitempty"`
}

// conversation is what a body has beside parameters.
type conversation struct {
	Model    string    `json:"model"`
	System   []block   `json:"system,omitempty"`
	Messages []message `json:"messages"`
	Tools    []tool    `json:"tools,omitempty"`
}

// request writes a body, and the parameters in it.
func (w *Driver) request(r *llm.Request) (body []byte, params json.RawMessage, f *llm.Failure) {
	if f := w.unsupported(r); f != nil {
		return nil, nil, f
	}
	p, f := w.params(r)
	if f != nil {
		return nil, nil, f
	}
	c := conversation{Model: w.config.Model}
	c.System, c.Messages = messages(r.Messages)
	if len(c.Messages) == 0 {
		return nil, nil, llm.Unsupported(w.conn.Base, "the conversation is empty", "a call needs a message of the user's")
	}
	if w.config.Cache {
		c.cache()
	}
	for _, t := range r.Tools {
		schema := t.Parameters
		if len(schema) == 0 {
			schema = json.RawMessage(`{"type":"object","properties":{}}`)
		}
		c.Tools = append(c.Tools, tool{t.Name, t.Description, schema, t.Strict})
	}
	params, err := json.Marshal(p)
	if err == nil {
		body, err = json.Marshal(c)
	}
	if err != nil {
		return nil, nil, llm.Unsupported(w.conn.Base, "the request cannot be written as JSON: "+err.Error(), "check the schemas of tools and formats, and extra_body")
	}
	body = append(body[:len(body)-1], ',')
	return append(body, params[1:]...), params, nil // never empty: max_tokens is there
}

// unsupported refuses what the service does not have.
func (w *Driver) unsupported(r *llm.Request) *llm.Failure {
	unsupported := func(what, hint string) *llm.Failure {
		return llm.Unsupported(w.conn.Base, "Anthropic's API has no "+what, hint)
	}
	s := &r.Sampling
	switch {
	case r.Input != nil:
		return unsupported("embeddings", "use a model of kind openai or gemini")
	case r.Prompt != "":
		return unsupported("completions of a prompt", "send a chat")
	case s.PresencePenalty != nil:
		return unsupported("presence_penalty", "leave it out")
	case s.FrequencyPenalty != nil:
		return unsupported("frequency_penalty", "leave it out")
	case s.Logprobs > 0:
		return unsupported("logprobs", "leave them out")
	}
	return nil
}

// params is what a body has beside the conversation.
func (w *Driver) params(r *llm.Request) (map[string]any, *llm.Failure) {
	s := &r.Sampling
	p := map[string]any{"max_tokens": w.config.MaxTokens}
	if s.MaxTokens > 0 {
		p["max_tokens"] = s.MaxTokens
	}
	if s.Temperature != nil {
		p["temperature"] = *s.Temperature
	}
	if s.TopP != nil {
		p["top_p"] = *s.TopP
	}
	if len(s.Stop) > 0 {
		p["stop_sequences"] = s.Stop
	}
	if llm.Streams(r) {
		p["stream"] = true
	}
	if len(r.Tools) > 0 && r.ToolChoice != "" {
		p["tool_choice"] = toolChoice(r.ToolChoice)
	}
	output := map[string]any{}
	if s.Effort != "" {
		output["effort"] = s.Effort
	}
	format, err := llm.Wanted(r)
	switch {
	case err != nil:
		return nil, llm.UnsupportedFormat(r, w.conn.Base, err.Error(), "give a JSON Schema")
	case format == nil:
	case len(format.Schema) > 0:
		output["format"] = map[string]any{"type": "json_schema", "schema": format.Schema}
	default:
		return nil, llm.UnsupportedFormat(r, w.conn.Base, "Anthropic's API has no structured output but by JSON Schema", "give a schema, or none and say in the prompt what is wanted")
	}
	if len(output) > 0 {
		p["output_config"] = output
	}
	llm.Overlay(p, s.Extra)
	return p, nil
}

func toolChoice(choice string) map[string]any {
	switch choice {
	case "auto", "none":
		return map[string]any{"type": choice}
	case "required":
		return map[string]any{"type": "any"}
	}
	return map[string]any{"type": "tool", "name": choice}
}

// messages makes the service's of ours. System messages go in front; results of
// tools and what a user says after them are one message, as the service wants
// it. What is empty is left out, since the service refuses it.
func messages(ms []llm.Message) (system []block, out []message) {
	for i := range ms {
		m := &ms[i]
		role := "user"
		var blocks []block
		switch m.Role {
		case "system":
			if m.Content != "" {
				system = append(system, block{Type: "text", Text: m.Content})
			}
			continue
		case "tool":
			blocks = []block{{Type: "tool_result", ToolUseID: m.ToolCallID, Content: m.Content, IsError: m.IsError}}
		default:
			if m.Role == "assistant" {
				role = "assistant"
			}
			blocks = speech(m)
		}
		switch n := len(out); {
		case len(blocks) == 0:
		case n > 0 && out[n-1].Role == role && out[n-1].Content[0].Type == "tool_result":
			out[n-1].Content = append(out[n-1].Content, blocks...)
		default:
			out = append(out, message{role, blocks})
		}
	}
	return system, out
}

// speech is what a user or an assistant says.
func speech(m *llm.Message) []block {
	var out []block
	if m.Content != "" {
		out = append(out, block{Type: "text", Text: m.Content})
	}
	for i := range m.Images {
		img := &m.Images[i]
		s := &source{Type: "base64", Media: img.Media, Data: img.Data}
		if len(img.Data) == 0 {
			s = &source{Type: "url", URL: img.URL}
		}
		out = append(out, block{Type: "image", Source: s})
	}
	for i := range m.ToolCalls {
		out = append(out, use(&m.ToolCalls[i]))
	}
	return thought(m, out)
}

func use(c *llm.ToolCall) block {
	return block{Type: "tool_use", ID: c.ID, Name: c.Name, Input: c.Object()}
}

// thought puts what the model thought into what it said: where it was, or in
// front where the rest was changed since.
func thought(m *llm.Message, said []block) []block {
	parts, fits := llm.OpaqueParts(kind, m)
	if len(parts) == 0 {
		return said
	}
	var out []block
	text, calls := 0, 0
	for _, p := range parts {
		var own block
		switch {
		case len(p.Own) > 0 && json.Unmarshal(p.Own, &own) == nil:
			out = append(out, own)
		case fits && p.Call:
			out = append(out, use(&m.ToolCalls[calls]))
			calls++
		case fits && p.Text > 0:
			out = append(out, block{Type: "text", Text: m.Content[text : text+p.Text]})
			text += p.Text
		}
	}
	if !fits {
		out = append(out, said...)
	}
	return out
}

// cache has the service keep what will be sent again: the system message, and
// the conversation up to its last two turns of the user's, so that this call
// reads what the one before it wrote. The service takes four such marks.
func (c *conversation) cache() {
	mark := func(blocks []block) {
		if n := len(blocks); n > 0 {
			blocks[n-1].Cache = &cacheControl{"ephemeral"}
		}
	}
	mark(c.System)
	left := 2
	for i := len(c.Messages) - 1; i >= 0 && left > 0; i-- {
		if c.Messages[i].Role == "user" {
			mark(c.Messages[i].Content)
			left--
		}
	}
}
