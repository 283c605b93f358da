package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

// Request is an agent that sends the conversation, or the whole request, that a
// row brings along: in the form of the OpenAI API, as datasets of dialogues and
// batch files have it. Else all is as in Chat. A row whose value has another form
// fails alone.
type Request struct {
	Model     string       `yaml:"model" required:"true" doc:"Name of the model that answers."`
	Messages  string       `yaml:"messages" doc:"Expression for the list of messages: role, content (a text, or parts that are text or image_url), tool_calls, tool_call_id."`
	Body      string       `yaml:"body" doc:"Expression for a whole request: messages, tools, tool_choice, and sampling parameters, which win over those of the config. Its model and stream do not count. One of messages and body is given."`
	System    string       `yaml:"system" doc:"Template of a system message that goes before the others."`
	Parse     Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data."`
	Reask     int          `yaml:"reask" doc:"How often a reply that cannot be used is asked for again." default:"1"`
	OnLength  string       `yaml:"on_length" doc:"What becomes of a reply that was cut at max_tokens: fail makes a turn with an error; accept uses it as it is; more asks again with twice the tokens, as often as reask says." default:"fail" enum:"fail,accept,more"`
	OnRefused string       `yaml:"on_refused" doc:"What becomes of a request that the service refuses: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Unseeded  bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling  llm.Sampling `yaml:",inline"`
}

type request struct {
	asker
	system         *lang.Template // nil: none
	messages, body *lang.Expr     // one of them
}

var (
	_ matrix.Agent = (*request)(nil)
	_ Mentioner    = (*request)(nil)
)

// NewRequest makes the agent of a role.
func NewRequest(role string, c Request, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	r, err := newReader(c.Parse)
	if err != nil {
		bad = append(bad, err)
	}
	a := &request{asker: asker{role: role, name: c.Model, model: m, sampling: c.Sampling, reader: r,
		reask: c.Reask, onLength: c.OnLength, onRefused: c.OnRefused, unseeded: c.Unseeded}}
	a.asker.check(&bad)
	s := newSources(p, &bad)
	if (c.Messages == "") == (c.Body == "") {
		bad.addf("", "a request needs one of messages and body")
	}
	a.system = s.template("system", c.System)
	a.messages = s.expr("messages", c.Messages)
	a.body = s.expr("body", c.Body)
	a.hash = s.revision()
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *request) Mentions() []Mention {
	var ms []Mention
	for key, e := range map[string]*lang.Expr{"messages": a.messages, "body": a.body} {
		if e != nil {
			ms = append(ms, Mention{Key: key, Fields: e.Fields(), Roles: e.Roles()})
		}
	}
	if a.system != nil {
		ms = append(ms, Mention{Key: "system", Fields: a.system.Fields(), Roles: a.system.Roles()})
	}
	return ms
}

// Act implements matrix.Agent.
func (a *request) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	base, tools, sampling, err := a.read(t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	as := a.asker
	as.sampling = llm.Merge(as.sampling, sampling)
	return as.act(ctx, t, base, tools, func(base *llm.Request, problem error, reply string) error {
		again := "That reply cannot be used: " + problem.Error() + ". Reply again, in the form that was asked for."
		base.Messages = add(add(slices.Clone(base.Messages), "assistant", reply), "user", again)
		return nil
	})
}

// read makes the request of what the task brings.
func (a *request) read(t *matrix.Task) (base llm.Request, tools *offer, s llm.Sampling, err error) {
	e, key := a.messages, "messages"
	if e == nil {
		e, key = a.body, "body"
	}
	v, err := e.Eval(t)
	if err != nil {
		return base, nil, s, fmt.Errorf("%s: %w", key, err)
	}
	if a.body != nil {
		body, ok := v.(map[string]any)
		if !ok {
			return base, nil, s, fmt.Errorf("body: want a request with messages, got %s", kindOf(v))
		}
		v, key = body["messages"], "body.messages"
		if tools, err = newOffer(body["tools"]); err != nil && body["tools"] != nil {
			return base, nil, s, fmt.Errorf("body.tools: %w", err)
		}
		s = parameters(body)
	}
	if tools != nil {
		base.Tools = tools.tools
	}
	if base.Messages, err = conversation(v); err != nil {
		return base, nil, s, fmt.Errorf("%s: %w", key, err)
	}
	if a.system != nil {
		text, err := a.system.Render(t, nil)
		if err != nil {
			return base, nil, s, fmt.Errorf("system: %w", err)
		}
		base.Messages = slices.Insert(base.Messages, 0, llm.Message{Role: "system", Content: text})
	}
	return base, tools, s, s.Check()
}

// parameters are what a request of the API says beside its conversation.
func parameters(body map[string]any) llm.Sampling {
	var s llm.Sampling
	s.Extra = maps.Clone(body)
	for _, key := range []string{"model", "messages", "tools", "stream", "stream_options", "prompt", "input"} {
		delete(s.Extra, key)
	}
	for key, to := range map[string]*int{"max_tokens": &s.MaxTokens, "n": &s.N} {
		if n, ok := s.Extra[key].(int); ok && n > 0 {
			*to = n
			delete(s.Extra, key)
		}
	}
	if n, ok := s.Extra["seed"].(int); ok {
		seed := int64(n)
		s.Seed = &seed
		delete(s.Extra, "seed")
	}
	return s
}

// conversation reads a list of messages as the OpenAI API has it.
func conversation(v any) ([]llm.Message, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("want a list of messages, got %s", kindOf(v))
	}
	if len(list) == 0 {
		return nil, errors.New("the list of messages is empty")
	}
	ms := make([]llm.Message, len(list))
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("message %d is %s, want {role, content}", i+1, kindOf(v))
		}
		var err error
		if ms[i], err = message(m); err != nil {
			return nil, fmt.Errorf("message %d: %w", i+1, err)
		}
	}
	return ms, nil
}

// sides are the roles that messages may have, in the words of several datasets.
var sides = map[string]string{
	"system": "system", "developer": "system", "user": "user", "human": "user",
	"assistant": "assistant", "gpt": "assistant", "model": "assistant", "tool": "tool", "function": "tool",
}

// message reads {role, content}, or {from, value} as ShareGPT has it.
func message(m map[string]any) (llm.Message, error) {
	side, content := m["role"], m["content"]
	if from, ok := m["from"]; ok && side == nil {
		side, content = from, m["value"]
	}
	name, _ := side.(string)
	out := llm.Message{Role: sides[strings.ToLower(name)]}
	if out.Role == "" {
		raw, _ := json.Marshal(side)
		return out, fmt.Errorf("role is %s, want system, user, assistant or tool", shorten(raw))
	}
	out.ToolCallID, _ = m["tool_call_id"].(string)
	out.ToolName, _ = m["name"].(string)
	calls, err := toolCalls(m["tool_calls"])
	if err != nil {
		return out, err
	}
	out.ToolCalls = calls
	switch c := content.(type) {
	case string:
		out.Content = c
	case []any:
		for i, p := range c {
			part, ok := p.(map[string]any)
			if !ok {
				return out, fmt.Errorf("part %d of content is %s, want {type, ...}", i+1, kindOf(p))
			}
			if err := addPart(&out, part); err != nil {
				return out, fmt.Errorf("part %d of content: %w", i+1, err)
			}
		}
	case nil:
		if len(calls) == 0 {
			return out, errors.New("it has no content")
		}
	default:
		return out, fmt.Errorf("content is %s, want a text or a list of parts", kindOf(content))
	}
	return out, nil
}

func addPart(m *llm.Message, part map[string]any) error {
	switch kind, _ := part["type"].(string); kind {
	case "text", "input_text", "output_text":
		text, ok := part["text"].(string)
		if !ok {
			return errors.New("it has no text")
		}
		if m.Content != "" {
			m.Content += "\n\n"
		}
		m.Content += text
		return nil
	case "image_url":
		var where, detail string
		switch u := part["image_url"].(type) {
		case string:
			where = u
		case map[string]any:
			where, _ = u["url"].(string)
			detail, _ = u["detail"].(string)
		}
		if where == "" {
			return errors.New("its image_url has no url")
		}
		image, err := (&album{}).named(where)
		if err != nil {
			return err
		}
		image.Detail = detail
		m.Images = append(m.Images, image)
		return nil
	default:
		return fmt.Errorf("its type is %q, and only text and image_url can be sent", kind)
	}
}

func toolCalls(v any) ([]llm.ToolCall, error) {
	list, ok := v.([]any)
	if !ok {
		if v != nil {
			return nil, fmt.Errorf("tool_calls is %s, want a list", kindOf(v))
		}
		return nil, nil
	}
	var calls []llm.ToolCall
	for i, v := range list {
		m, _ := v.(map[string]any)
		f, ok := m["function"].(map[string]any)
		if !ok {
			f = m
		}
		c := llm.ToolCall{}
		c.ID, _ = m["id"].(string)
		c.Name, _ = f["name"].(string)
		if c.Name == "" {
			return nil, fmt.Errorf("tool call %d names no function", i+1)
		}
		switch args := f["arguments"].(type) {
		case string:
			c.Arguments = args
		default:
			raw, err := json.Marshal(args)
			if err != nil {
				return nil, err
			}
			c.Arguments = string(raw)
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// kindOf says what v is, for messages.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a text"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	case bool:
		return "true or false"
	}
	return "a number"
}
