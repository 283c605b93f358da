package matrixtest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"matrix/llm"
)

// OpenAI is the wire format of the OpenAI API, for fakes of services that speak
// it: https://platform.openai.com/docs/api-reference/chat. locate says what is
// asked for at a request's path (chat/completions, completions, embeddings or
// models), of which model where the path says that, and whether the credentials
// are right. more is added to every reply and piece of one; nil for nothing.
func OpenAI(locate func(r *http.Request) (what, model string, known bool), more map[string]any) Codec {
	k := openAI{locate, more}
	return Codec{Read: k.read, Write: k.write, Events: k.events, List: k.list}
}

type openAI struct {
	locate func(r *http.Request) (what, model string, known bool)
	more   map[string]any
}

type openAIBody struct {
	Model    string
	Messages []struct {
		Role, Content json.RawMessage
		ToolCalls     []openAICall `json:"tool_calls"`
		ToolCallID    string       `json:"tool_call_id"`
	}
	Prompt     string
	Input      []string
	Tools      []struct{ Function llm.Tool }
	ToolChoice json.RawMessage `json:"tool_choice"`
	Format     *struct {
		Type       string
		JSONSchema struct {
			Schema json.RawMessage
		} `json:"json_schema"`
	} `json:"response_format"`

	Temperature      *float64
	TopP             *float64 `json:"top_p"`
	PresencePenalty  *float64 `json:"presence_penalty"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	MaxTokens        int      `json:"max_tokens"`
	MaxCompletion    int      `json:"max_completion_tokens"`
	Stop             []string
	Seed             *int64
	N                int
	TopLogprobs      int    `json:"top_logprobs"`
	Effort           string `json:"reasoning_effort"`
	Stream           bool
}

type openAICall struct {
	Index    int    `json:"index"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

var openAIKnown = []string{
	"model", "messages", "prompt", "input", "tools", "tool_choice", "response_format", "temperature", "top_p", "presence_penalty",
	"frequency_penalty", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "logprobs", "top_logprobs", "reasoning_effort",
	"stream", "stream_options", "encoding_format",
}

func (k openAI) read(r *http.Request, body []byte) (Call, error) {
	what, model, known := k.locate(r)
	c := Call{Known: known, Model: model}
	c.Key = r.Header.Get("Idempotency-Key")
	if what == "models" && r.Method == http.MethodGet {
		c.Probe = true
		return c, nil
	}
	var b openAIBody
	var all map[string]any
	if err := errors.Join(json.Unmarshal(body, &b), json.Unmarshal(body, &all)); err != nil {
		return c, err
	}
	if b.Model != "" {
		c.Model = b.Model
	}
	c.Stream, c.Prompt, c.Input = b.Stream, b.Prompt, b.Input
	s := &c.Sampling
	s.Temperature, s.TopP, s.PresencePenalty, s.FrequencyPenalty = b.Temperature, b.TopP, b.PresencePenalty, b.FrequencyPenalty
	s.MaxTokens, s.Stop, s.Seed, s.N, s.Logprobs, s.Effort = max(b.MaxTokens, b.MaxCompletion), b.Stop, b.Seed, b.N, b.TopLogprobs, b.Effort
	s.Extra = map[string]any{}
	for name, v := range all {
		if !slices.Contains(openAIKnown, name) {
			s.Extra[name] = v
		}
	}
	for _, t := range b.Tools {
		c.Tools = append(c.Tools, t.Function)
	}
	if f := b.Format; f != nil {
		c.Format = &llm.Format{JSON: f.Type == "json_object", Schema: f.JSONSchema.Schema}
	}
	if len(b.ToolChoice) > 0 && json.Unmarshal(b.ToolChoice, &c.ToolChoice) != nil {
		var named struct{ Function struct{ Name string } }
		if err := json.Unmarshal(b.ToolChoice, &named); err != nil {
			return c, err
		}
		c.ToolChoice = named.Function.Name
	}
	switch {
	case what == "chat/completions" && b.Messages != nil:
		return c, b.messages(&c)
	case what == "completions" && b.Prompt != "", what == "embeddings" && b.Input != nil:
		return c, nil
	}
	return c, fmt.Errorf("nothing is asked for at %q", what)
}

func (b *openAIBody) messages(c *Call) error {
	for _, in := range b.Messages {
		m := llm.Message{ToolCallID: in.ToolCallID}
		if err := json.Unmarshal(in.Role, &m.Role); err != nil {
			return err
		}
		for _, t := range in.ToolCalls {
			m.ToolCalls = append(m.ToolCalls, llm.ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: t.Function.Arguments})
		}
		if len(in.Content) > 0 && json.Unmarshal(in.Content, &m.Content) != nil {
			var parts []struct {
				Type, Text string
				ImageURL   struct{ URL string } `json:"image_url"`
			}
			if err := json.Unmarshal(in.Content, &parts); err != nil {
				return err
			}
			for _, p := range parts {
				if p.Type == "text" {
					m.Content += p.Text
					continue
				}
				img := llm.Image{URL: p.ImageURL.URL}
				if rest, ok := strings.CutPrefix(img.URL, "data:"); ok {
					media, data, _ := strings.Cut(rest, ";base64,")
					raw, err := base64.StdEncoding.DecodeString(data)
					if err != nil {
						return err
					}
					img = llm.Image{Media: media, Data: raw}
				}
				m.Images = append(m.Images, img)
			}
		}
		c.Messages = append(c.Messages, m)
	}
	return nil
}

// object is what every reply and piece of one has.
func (k openAI) object(c *Call, rep *llm.Reply, kind string) map[string]any {
	v := map[string]any{"id": "chatcmpl-1", "object": kind, "created": 1, "model": rep.Model}
	for name, x := range k.more {
		v[name] = x
	}
	return v
}

func openAIUsage(u llm.Usage) map[string]any {
	return map[string]any{
		"prompt_tokens": u.PromptTokens, "completion_tokens": u.CompletionTokens, "total_tokens": u.PromptTokens + u.CompletionTokens,
		"prompt_tokens_details":     map[string]any{"cached_tokens": u.CachedTokens},
		"completion_tokens_details": map[string]any{"reasoning_tokens": u.ReasoningTokens},
	}
}

func openAICalls(calls []llm.ToolCall) []openAICall {
	var out []openAICall
	for i, t := range calls {
		o := openAICall{Index: i, ID: t.ID, Type: "function"}
		o.Function.Name, o.Function.Arguments = t.Name, t.Arguments
		out = append(out, o)
	}
	return out
}

func (k openAI) write(c *Call, rep *llm.Reply) (http.Header, []byte) {
	h := http.Header{"Content-Type": {"application/json"}}
	v := k.object(c, rep, "chat.completion")
	v["usage"] = openAIUsage(rep.Usage)
	if c.Input != nil {
		data := []map[string]any{}
		for i, vec := range rep.Vectors {
			raw := make([]byte, 0, 4*len(vec))
			for _, x := range vec {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
			}
			data = append(data, map[string]any{"index": i, "embedding": raw})
		}
		v["data"] = data
		return h, encoded(v)
	}
	choices := []map[string]any{}
	for i := range rep.Choices {
		o := &rep.Choices[i]
		choice := map[string]any{"index": i, "finish_reason": o.Finish}
		if c.Prompt != "" {
			choice["text"] = o.Text
		} else {
			m := map[string]any{"role": "assistant", "content": o.Text}
			if len(o.ToolCalls) > 0 {
				m["tool_calls"] = openAICalls(o.ToolCalls)
			}
			if o.Reasoning != "" {
				m["reasoning_content"] = o.Reasoning
			}
			choice["message"] = m
		}
		choices = append(choices, choice)
	}
	v["choices"] = choices
	return h, encoded(v)
}

func (k openAI) events(c *Call, rep *llm.Reply) (http.Header, [][]byte) {
	var out [][]byte
	add := func(v map[string]any) { out = append(out, SSE("", string(encoded(v)))) }
	piece := func(i int, delta map[string]any, finish any) {
		v := k.object(c, rep, "chat.completion.chunk")
		v["choices"] = []any{map[string]any{"index": i, "delta": delta, "finish_reason": finish}}
		add(v)
	}
	for i := range rep.Choices {
		o := &rep.Choices[i]
		piece(i, map[string]any{"role": "assistant", "content": ""}, nil)
		if o.Reasoning != "" {
			for _, s := range Pieces(o.Reasoning) {
				piece(i, map[string]any{"reasoning_content": s}, nil)
			}
		}
		if o.Text != "" {
			for _, s := range Pieces(o.Text) {
				piece(i, map[string]any{"content": s}, nil)
			}
		}
		for _, t := range openAICalls(o.ToolCalls) {
			args := t.Function.Arguments
			t.Function.Arguments = ""
			piece(i, map[string]any{"tool_calls": []any{t}}, nil)
			for _, part := range []string{args[:len(args)/2], args[len(args)/2:]} {
				more := openAICall{Index: t.Index}
				more.Function.Arguments = part
				piece(i, map[string]any{"tool_calls": []any{more}}, nil)
			}
		}
	}
	for i := range rep.Choices {
		piece(i, map[string]any{}, rep.Choices[i].Finish)
	}
	v := k.object(c, rep, "chat.completion.chunk")
	v["choices"], v["usage"] = []any{}, openAIUsage(rep.Usage)
	add(v)
	out = append(out, SSE("", "[DONE]"))
	return http.Header{"Content-Type": {"text/event-stream"}}, out
}

func (k openAI) list(served []string) []byte {
	data := []map[string]any{}
	for _, name := range served {
		data = append(data, map[string]any{"id": name, "object": "model"})
	}
	return encoded(map[string]any{"object": "list", "data": data})
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
