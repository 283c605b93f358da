package anthropic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

const (
	testKey   = "sk-ant-api03-secret-of-the-tests"
	testModel = "claude-test-1"
)

// fakeBody is a request as the service's reference has it.
type fakeBody struct {
	Model    string `json:"model"`
	System   []fakeBlock
	Messages []struct {
		Role    string
		Content []fakeBlock
	}
	Tools []struct {
		Name, Description string
		InputSchema       json.RawMessage `json:"input_schema"`
	}
	ToolChoice *struct{ Type, Name string } `json:"tool_choice"`

	MaxTokens    *int     `json:"max_tokens"`
	Temperature  *float64 `json:"temperature"`
	TopP         *float64 `json:"top_p"`
	Stop         []string `json:"stop_sequences"`
	Stream       bool     `json:"stream"`
	OutputConfig struct {
		Effort string
		Format *struct {
			Type   string
			Schema json.RawMessage
		}
	} `json:"output_config"`
}

type fakeBlock struct {
	Type, Text string
	Source     struct {
		Type, URL string
		MediaType string `json:"media_type"`
		Data      []byte
	}
	ID, Name  string
	Input     json.RawMessage
	ToolUseID string `json:"tool_use_id"`
	Content   string
	IsError   bool `json:"is_error"`
	Thinking  *string
	Signature string
	Data      string
	Cache     *struct{ Type string } `json:"cache_control"`
}

// known are the keys of a request that fakeBody reads.
var known = []string{"model", "system", "messages", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "stop_sequences", "stream", "output_config"}

// read decodes a request as the service would.
func read(r *http.Request, body []byte) (matrixtest.Call, error) {
	c := matrixtest.Call{Known: r.Header.Get("X-Api-Key") == testKey}
	if r.Header.Get("Anthropic-Version") != "2023-06-01" {
		return c, fmt.Errorf("anthropic-version is %q", r.Header.Get("Anthropic-Version"))
	}
	if r.Method == http.MethodGet && r.URL.Path == "/v1/models" {
		c.Probe = true
		return c, nil
	}
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" {
		return c, errors.New("no such path")
	}
	var b fakeBody
	if err := json.Unmarshal(body, &b); err != nil {
		return c, err
	}
	var all map[string]any
	if err := json.Unmarshal(body, &all); err != nil {
		return c, err
	}
	c.Model, c.Stream = b.Model, b.Stream
	switch {
	case b.MaxTokens == nil || *b.MaxTokens < 1:
		return c, errors.New("max_tokens: Field required")
	case len(b.Messages) == 0:
		return c, errors.New("messages: at least one message is required")
	}
	s := &c.Sampling
	s.MaxTokens, s.Temperature, s.TopP, s.Stop, s.Effort = *b.MaxTokens, b.Temperature, b.TopP, b.Stop, b.OutputConfig.Effort
	if f := b.OutputConfig.Format; f != nil {
		if f.Type != "json_schema" {
			return c, fmt.Errorf("output_config.format.type %q", f.Type)
		}
		c.Format = &llm.Format{Schema: f.Schema}
	}
	s.Extra = map[string]any{}
	for k, v := range all {
		if !slices.Contains(known, k) {
			s.Extra[k] = v
		}
	}
	for _, t := range b.Tools {
		c.Tools = append(c.Tools, llm.Tool{Name: t.Name, Description: t.Description, Parameters: t.InputSchema})
	}
	if t := b.ToolChoice; t != nil {
		c.ToolChoice = map[string]string{"auto": "auto", "none": "none", "any": "required", "tool": t.Name}[t.Type]
	}
	for _, p := range b.System {
		c.Messages = append(c.Messages, llm.Message{Role: "system", Content: p.Text})
	}
	for _, m := range b.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return c, fmt.Errorf("role %q", m.Role)
		}
		if err := readMessage(&c, m.Role, m.Content); err != nil {
			return c, err
		}
	}
	return c, nil
}

func readMessage(c *matrixtest.Call, role string, blocks []fakeBlock) error {
	m := llm.Message{Role: role}
	spoke := false
	for _, p := range blocks {
		switch p.Type {
		case "text":
			if p.Text == "" {
				return errors.New("text content blocks must be non-empty")
			}
			m.Content += p.Text
			spoke = true
		case "image":
			m.Images = append(m.Images, llm.Image{URL: p.Source.URL, Data: p.Source.Data, Media: p.Source.MediaType})
			spoke = true
		case "thinking":
			if p.Thinking == nil || p.Signature == "" || spoke {
				return fmt.Errorf("Invalid signature in thinking block, or not where it was: %+v", p)
			}
			m.Opaque = encode(p.Signature)
		case "tool_use":
			if !bytes.HasPrefix(bytes.TrimSpace(p.Input), []byte("{")) {
				return fmt.Errorf("tool_use.input: Input should be a valid dictionary, got %s", p.Input)
			}
			m.ToolCalls = append(m.ToolCalls, llm.ToolCall{ID: p.ID, Name: p.Name, Arguments: string(p.Input)})
			spoke = true
		case "tool_result":
			if spoke {
				return errors.New("tool_result blocks come first")
			}
			c.Messages = append(c.Messages, llm.Message{Role: "tool", ToolCallID: p.ToolUseID, Content: p.Content, IsError: p.IsError})
		default:
			return fmt.Errorf("block of type %q", p.Type)
		}
	}
	if spoke {
		c.Messages = append(c.Messages, m)
	}
	return nil
}

// stops are the service's words for the suite's.
var stops = map[string]string{"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

func stopReason(finish string) string {
	if s, ok := stops[finish]; ok {
		return s
	}
	return finish
}

func usageOf(u llm.Usage) map[string]any {
	return map[string]any{
		"input_tokens": u.PromptTokens - u.CachedTokens - u.CacheWriteTokens, "cache_creation_input_tokens": u.CacheWriteTokens,
		"cache_read_input_tokens": u.CachedTokens, "output_tokens": u.CompletionTokens,
		"output_tokens_details": map[string]any{"thinking_tokens": u.ReasoningTokens},
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// signature is that of what the model thought.
func signature(c *llm.Choice) (s string) {
	if c.Opaque == nil {
		return "c2lnbmVk"
	}
	if err := json.Unmarshal(c.Opaque, &s); err != nil {
		panic(err)
	}
	return s
}

// blocks are the content of a choice.
func blocks(c *llm.Choice) []map[string]any {
	out := []map[string]any{}
	if c.Reasoning != "" {
		out = append(out, map[string]any{"type": "thinking", "thinking": c.Reasoning, "signature": signature(c)})
	}
	if c.Text != "" {
		out = append(out, map[string]any{"type": "text", "text": c.Text, "citations": nil})
	}
	for _, t := range c.ToolCalls {
		out = append(out, map[string]any{"type": "tool_use", "id": t.ID, "name": t.Name, "input": json.RawMessage(t.Arguments)})
	}
	return out
}

func envelope(rep *llm.Reply, content any, stop any) map[string]any {
	return map[string]any{
		"id": "msg_1", "type": "message", "role": "assistant", "model": rep.Model, "content": content,
		"stop_reason": stop, "stop_sequence": nil, "usage": usageOf(rep.Usage),
	}
}

func write(_ *matrixtest.Call, rep *llm.Reply) (http.Header, []byte) {
	h := http.Header{"Content-Type": {"application/json"}, "Request-Id": {"req_1"}}
	if len(rep.Choices) == 0 {
		return h, encode(envelope(rep, []any{}, nil))
	}
	c := &rep.Choices[0]
	return h, encode(envelope(rep, blocks(c), stopReason(c.Finish)))
}

func events(_ *matrixtest.Call, rep *llm.Reply) (http.Header, [][]byte) {
	var out [][]byte
	add := func(name string, v map[string]any) {
		v["type"] = name
		out = append(out, matrixtest.SSE(name, string(encode(v))))
	}
	start := envelope(rep, []any{}, nil)
	add("message_start", map[string]any{"message": start})
	add("ping", map[string]any{})
	if len(rep.Choices) > 0 {
		c := &rep.Choices[0]
		for i, b := range blocks(c) {
			pieces, kind, key := []string(nil), "", ""
			switch b["type"] {
			case "thinking":
				pieces, kind, key = matrixtest.Pieces(c.Reasoning), "thinking_delta", "thinking"
				b["thinking"], b["signature"] = "", ""
			case "text":
				pieces, kind, key = matrixtest.Pieces(c.Text), "text_delta", "text"
				b["text"] = ""
			case "tool_use":
				if in := string(b["input"].(json.RawMessage)); in != "{}" {
					pieces = []string{"", in[:len(in)/2], in[len(in)/2:]}
				}
				kind, key = "input_json_delta", "partial_json"
				b["input"] = json.RawMessage("{}")
			}
			add("content_block_start", map[string]any{"index": i, "content_block": b})
			for _, p := range pieces {
				add("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": kind, key: p}})
			}
			if kind == "thinking_delta" {
				add("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "signature_delta", "signature": signature(c)}})
			}
			add("content_block_stop", map[string]any{"index": i})
		}
		add("message_delta", map[string]any{
			"delta": map[string]any{"stop_reason": stopReason(c.Finish), "stop_sequence": nil},
			"usage": map[string]any{"output_tokens": rep.Usage.CompletionTokens, "output_tokens_details": map[string]any{"thinking_tokens": rep.Usage.ReasoningTokens}},
		})
	}
	add("message_stop", map[string]any{})
	return http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}, out
}

func list(served []string) []byte {
	var data []map[string]any
	for _, name := range served {
		data = append(data, map[string]any{"type": "model", "id": name, "display_name": name})
	}
	return encode(map[string]any{"data": data, "has_more": false})
}

var codec = matrixtest.Codec{Read: read, Write: write, Events: events, List: list}

// start serves the format, and makes a driver by o.
func start(t testing.TB, o Config, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
	t.Helper()
	o.BaseURL = codec.Serve(t, testKey, answer)
	if o.Model == "" {
		o.Model = testModel
	}
	if o.APIKey == "" {
		o.APIKey = testKey
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
