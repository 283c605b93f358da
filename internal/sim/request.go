package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// body is a request of the OpenAI API, and what vLLM adds to it.
type body struct {
	Model    string          `json:"model"`
	Messages []wireMessage   `json:"messages"`
	Prompt   json.RawMessage `json:"prompt"`
	Input    json.RawMessage `json:"input"`

	Tools []struct {
		Type     string `json:"type"`
		Function struct {
			Name       string          `json:"name"`
			Parameters json.RawMessage `json:"parameters"`
		} `json:"function"`
	} `json:"tools"`
	ToolChoice json.RawMessage `json:"tool_choice"`
	Parallel   *bool           `json:"parallel_tool_calls"`

	ResponseFormat *struct {
		Type       string `json:"type"`
		JSONSchema struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
	Structured *struct {
		JSON       json.RawMessage `json:"json"`
		Regex      string          `json:"regex"`
		Choice     []string        `json:"choice"`
		Grammar    string          `json:"grammar"`
		JSONObject bool            `json:"json_object"`
	} `json:"structured_outputs"`
	GuidedJSON    json.RawMessage `json:"guided_json"`
	GuidedRegex   string          `json:"guided_regex"`
	GuidedChoice  []string        `json:"guided_choice"`
	GuidedGrammar string          `json:"guided_grammar"`

	N             *int            `json:"n"`
	MaxTokens     *int            `json:"max_tokens"`
	MaxCompletion *int            `json:"max_completion_tokens"`
	MinTokens     int             `json:"min_tokens"`
	IgnoreEOS     bool            `json:"ignore_eos"`
	Stop          json.RawMessage `json:"stop"`
	Seed          *int64          `json:"seed"`
	Temperature   *float64        `json:"temperature"`
	TopP          *float64        `json:"top_p"`
	Logprobs      json.RawMessage `json:"logprobs"`
	TopLogprobs   int             `json:"top_logprobs"`
	Echo          bool            `json:"echo"`

	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
		Continuous   bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`

	Dimensions int    `json:"dimensions"`
	Encoding   string `json:"encoding_format"`
}

type wireMessage struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	ToolCalls []struct {
		ID       string `json:"id"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
	CallID string `json:"tool_call_id"`
}

// ask reads what b asks of e.
func (e *Engine) ask(b *body, chat bool) (*ask, *refusal) {
	if b.Model != "" && b.Model != e.model {
		return nil, &refusal{status: 404, typ: "NotFoundError", code: "model_not_found", param: "model", msg: fmt.Sprintf("The model %q does not exist; this server has %q.", b.Model, e.model)}
	}
	a := &ask{chat: chat, seed: b.Seed, stream: b.Stream, least: b.MinTokens, endless: b.IgnoreEOS, n: 1}
	if b.N != nil {
		if a.n = *b.N; a.n < 1 {
			return nil, wrong("n", "n is %d, want 1 or more", a.n)
		}
	}
	for _, m := range []struct {
		key string
		n   *int
	}{{"max_tokens", b.MaxTokens}, {"max_completion_tokens", b.MaxCompletion}} {
		if m.n == nil {
			continue
		}
		if a.max = *m.n; a.max < 1 {
			return nil, wrong(m.key, "%s must be at least 1, got %d.", m.key, a.max)
		}
	}
	if b.Temperature != nil && *b.Temperature < 0 {
		return nil, wrong("temperature", "temperature must be non-negative, got %v.", *b.Temperature)
	}
	if b.TopP != nil && !(*b.TopP > 0 && *b.TopP <= 1) {
		return nil, wrong("top_p", "top_p must be in (0, 1], got %v.", *b.TopP)
	}
	var err error
	if a.stop, err = textsOf(b.Stop); err != nil {
		return nil, wrong("stop", "stop: %v", err)
	}
	if r := a.readLogprobs(b); r != nil {
		return nil, r
	}
	if r := e.readFormat(a, b); r != nil {
		return nil, r
	}
	if !chat {
		return a, nil
	}
	if len(b.Messages) == 0 {
		return nil, wrong("messages", "messages is missing or empty")
	}
	if r := a.readMessages(b.Messages); r != nil {
		return nil, r
	}
	return a, e.readTools(a, b)
}

// readLogprobs reads logprobs as a chat has them, and as a completion has.
func (a *ask) readLogprobs(b *body) *refusal {
	switch s := string(b.Logprobs); s {
	case "", "null", "false":
	case "true":
		a.logprobs = 1 + b.TopLogprobs
	default:
		n := 0
		if json.Unmarshal(b.Logprobs, &n) != nil || n < 0 {
			return wrong("logprobs", "logprobs is %s, want true, false or a number", s)
		}
		a.logprobs = 1 + n
	}
	if a.logprobs > 21 || b.TopLogprobs < 0 {
		return wrong("top_logprobs", "at most 20 logprobs a token can be had")
	}
	return nil
}

func (a *ask) readMessages(list []wireMessage) *refusal {
	a.messages = make([]message, len(list))
	for i := range list {
		w, m := &list[i], &a.messages[i]
		switch w.Role {
		case "system", "developer", "user", "assistant", "tool":
		default:
			return wrong("messages", "messages[%d]: role is %q, want system, user, assistant or tool", i, w.Role)
		}
		m.Role, m.CallID = w.Role, w.CallID
		if err := m.read(w.Content); err != nil {
			return wrong("messages", "messages[%d]: %v", i, err)
		}
		for _, c := range w.ToolCalls {
			m.ToolCalls = append(m.ToolCalls, toolCall{id: c.ID, name: c.Function.Name, args: c.Function.Arguments})
		}
	}
	return nil
}

// read reads the content of a message: a text, or parts of which some may be
// pictures.
func (m *message) read(raw json.RawMessage) error {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil
	case raw[0] != '[':
		return json.Unmarshal(raw, &m.Content)
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range parts {
		switch p.Type {
		case "text":
			b.WriteString(p.Text)
		case "image_url":
			m.images++
		default:
			return fmt.Errorf("a part is of type %q, want text or image_url", p.Type)
		}
	}
	m.Content = b.String()
	return nil
}

func (e *Engine) readTools(a *ask, b *body) *refusal {
	a.choose = "none"
	if len(b.Tools) == 0 {
		return nil
	}
	a.choose = "auto"
	var about bytes.Buffer
	for i := range b.Tools {
		f := &b.Tools[i].Function
		if f.Name == "" {
			return wrong("tools", "tools[%d] has no function.name", i)
		}
		t := tool{name: f.Name, schema: anything()}
		if len(f.Parameters) > 0 && string(f.Parameters) != "null" {
			s, err := e.schemas.get(f.Parameters)
			if err != nil {
				return wrong("tools", "tools[%d]: %v", i, err)
			}
			t.schema = s
		}
		about.WriteString(f.Name)
		about.Write(f.Parameters)
		a.tools = append(a.tools, t)
	}
	a.about = about.String()
	a.parallel = b.Parallel != nil && *b.Parallel
	if len(b.ToolChoice) == 0 || string(b.ToolChoice) == "null" {
		return nil
	}
	var word string
	var named struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(b.ToolChoice, &word) == nil {
		a.choose = word
		if word != "auto" && word != "none" && word != "required" {
			return wrong("tool_choice", "tool_choice is %q, want auto, none, required or a function", word)
		}
		return nil
	}
	if json.Unmarshal(b.ToolChoice, &named) != nil {
		return wrong("tool_choice", "tool_choice cannot be read")
	}
	return a.force(named.Function.Name)
}

// force makes a call the tool of a name.
func (a *ask) force(name string) *refusal {
	for _, t := range a.tools {
		if t.name == name {
			a.choose, a.parallel = name, false
			return nil
		}
	}
	return wrong("tool_choice", "tool_choice names %q, which is none of the tools", name)
}

func (e *Engine) readFormat(a *ask, b *body) *refusal {
	schema, regex, choice, ebnf, object := b.GuidedJSON, b.GuidedRegex, b.GuidedChoice, b.GuidedGrammar, false
	if s := b.Structured; s != nil {
		schema, regex, choice, ebnf, object = s.JSON, s.Regex, s.Choice, s.Grammar, s.JSONObject
	}
	if f := b.ResponseFormat; f != nil {
		switch f.Type {
		case "text", "":
		case "json_object":
			object = true
		case "json_schema":
			if len(f.JSONSchema.Schema) == 0 {
				return wrong("response_format", "response_format.json_schema.schema is missing")
			}
			schema = f.JSONSchema.Schema
		default:
			return wrong("response_format", "response_format.type is %q, want text, json_object or json_schema", f.Type)
		}
	}
	if len(schema) > 0 && schema[0] == '"' { // a schema in a text, as vLLM takes it too
		var text string
		if json.Unmarshal(schema, &text) == nil {
			schema = json.RawMessage(text)
		}
	}
	return e.setFormat(a, object, schema, regex, choice, ebnf)
}

func (e *Engine) setFormat(a *ask, object bool, schema []byte, regex string, choice []string, ebnf string) *refusal {
	var err error
	switch {
	case len(schema) > 0 && string(schema) != "null":
		if a.format.schema, err = e.schemas.get(schema); err != nil {
			return wrong("response_format", "%v", err)
		}
	case regex != "":
		if a.format.regex, err = newPattern(regex); err != nil {
			return wrong("structured_outputs", "%v", err)
		}
	case len(choice) > 0:
		a.format.choice = choice
	case ebnf != "":
		if a.format.grammar, err = newGrammar(ebnf); err != nil {
			return wrong("structured_outputs", "%v", err)
		}
	case object:
		a.format.json = true
	}
	return nil
}

// textsOf reads a text or a list of texts.
func textsOf(raw json.RawMessage) ([]string, error) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil, nil
	case raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return []string{s}, err
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err == nil {
		return list, nil
	}
	return nil, fmt.Errorf("want a text or a list of texts")
}

// promptsOf reads prompts: a text, texts, tokens, or lists of tokens. Tokens
// become texts of as many tokens.
func promptsOf(raw json.RawMessage) ([]string, error) {
	if list, err := textsOf(raw); err == nil {
		return list, nil
	}
	var one []int
	if json.Unmarshal(raw, &one) == nil {
		return []string{ofTokens(one)}, nil
	}
	var many [][]int
	if json.Unmarshal(raw, &many) == nil {
		list := make([]string, len(many))
		for i := range many {
			list[i] = ofTokens(many[i])
		}
		return list, nil
	}
	return nil, fmt.Errorf("want a text, a list of texts, or tokens")
}

func ofTokens(ids []int) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = fmt.Appendf(b, "%04x", id&0xffff)
	}
	return string(b)
}
