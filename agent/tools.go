package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/jsonschema"
	"matrix/llm"
)

// toolSet is the tools that a model may ask for. A nil toolSet has none.
type toolSet struct {
	tools   []llm.Tool
	schemas map[string]*jsonschema.Schema // of those tools that have one
}

// newToolSet reads a list of tools: {type: function, function: {name, description,
// parameters, strict}}, or what stands at function alone.
func newToolSet(v any) (*toolSet, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("want a list of tools, got %s", shorten(raw))
	}
	if len(list) == 0 {
		return nil, nil
	}
	s := &toolSet{schemas: map[string]*jsonschema.Schema{}}
	for i, raw := range list {
		t, err := newTool(raw)
		if err == nil && slices.ContainsFunc(s.tools, func(o llm.Tool) bool { return o.Name == t.Name }) {
			err = errors.New("it is there twice")
		}
		if err == nil && len(t.Parameters) > 0 {
			s.schemas[t.Name], err = jsonschema.Compile(t.Parameters)
		}
		if err != nil {
			name := fmt.Sprintf("tool %d", i+1)
			if t.Name != "" {
				name += " (" + t.Name + ")"
			}
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s.tools = append(s.tools, t)
	}
	return s, nil
}

func newTool(raw json.RawMessage) (llm.Tool, error) {
	var outer struct {
		Type     string          `json:"type"`
		Function json.RawMessage `json:"function"`
	}
	if json.Unmarshal(raw, &outer) == nil && len(outer.Function) > 0 {
		if outer.Type != "" && outer.Type != "function" {
			return llm.Tool{}, fmt.Errorf("its type is %q, and only functions can be called", outer.Type)
		}
		raw = outer.Function
	}
	var f struct {
		llm.Tool
		Type string `json:"type"` // of a bare one, as some datasets have it
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f.Tool, fmt.Errorf("want {name, description, parameters, strict}, got %s: %s", shorten(raw), strings.TrimPrefix(err.Error(), "json: "))
	}
	switch {
	case f.Name == "":
		return f.Tool, errors.New("it has no name")
	case len(f.Parameters) > 0 && f.Parameters[0] != '{':
		if string(f.Parameters) != "null" {
			return f.Tool, fmt.Errorf("its parameters are %s, want a JSON Schema of an object", shorten(f.Parameters))
		}
		f.Parameters = nil
	}
	return f.Tool, nil
}

// has reports whether there is a tool of that name.
func (s *toolSet) has(name string) bool {
	return s != nil && slices.ContainsFunc(s.tools, func(t llm.Tool) bool { return t.Name == name })
}

func (s *toolSet) names() string {
	var names []string
	for i := range s.tools {
		names = append(names, s.tools[i].Name)
	}
	return strings.Join(names, ", ")
}

// read reads the calls of a reply, and says what is wrong with the first that
// cannot be made. Each has an id that no call in the task has yet.
func (s *toolSet) read(t *matrix.Task, calls []llm.ToolCall) ([]matrix.ToolCall, error) {
	var problem error
	out := make([]matrix.ToolCall, len(calls))
	taken := map[string]bool{}
	for i := range t.Turns {
		for _, c := range t.Turns[i].ToolCalls {
			taken[c.ID] = true
		}
	}
	for i, c := range calls {
		v, err := s.readOne(&c)
		problem = cmp.Or(problem, err)
		if c.ID == "" || taken[c.ID] {
			c.ID = fmt.Sprintf("call_%d_%d", len(t.Turns), i+1)
		}
		taken[c.ID] = true
		out[i] = matrix.ToolCall{ID: c.ID, Name: c.Name, Arguments: v}
	}
	return out, problem
}

// readOne reads the arguments of a call; those that are not JSON are a text.
func (s *toolSet) readOne(c *llm.ToolCall) (matrix.Value, error) {
	raw := cmp.Or(strings.TrimSpace(c.Arguments), "{}") // several services send nothing where there are none
	var b bytes.Buffer
	v, err := matrix.ParseValue([]byte(raw))
	if err == nil && json.Compact(&b, []byte(raw)) == nil {
		v, err = matrix.ParseValue(b.Bytes())
	}
	if err != nil {
		text, _ := matrix.NewValue(c.Arguments)
		if json.Valid([]byte(raw)) {
			return text, fmt.Errorf("the arguments of the call of %s cannot be used: %w", c.Name, err)
		}
		return text, fmt.Errorf("the arguments of the call of %s are not JSON: %s", c.Name, shorten([]byte(c.Arguments)))
	}
	switch {
	case s == nil:
		return v, fmt.Errorf("the reply calls %s, and there are no tools", c.Name)
	case !s.has(c.Name):
		return v, fmt.Errorf("the reply calls %s, and there is no such tool, only %s", c.Name, s.names())
	}
	if _, ok := v.Any().(map[string]any); !ok {
		return v, fmt.Errorf("the arguments of the call of %s are %s, want an object", c.Name, shorten(v.Raw()))
	}
	schema := s.schemas[c.Name]
	if schema == nil {
		return v, nil
	}
	var misfit *jsonschema.MisfitError
	if err := schema.Check(v.Any()); errors.As(err, &misfit) {
		return v, fmt.Errorf("the arguments of the call of %s do not fit its parameters: %w", c.Name, misfit)
	} else if err != nil {
		return v, fmt.Errorf("the arguments of the call of %s cannot be checked: %w", c.Name, err)
	}
	return v, nil
}

// replyText is what a reply said, its calls as text, for a model that is shown it.
func replyText(s *matrix.Sample) string {
	if len(s.ToolCalls) == 0 {
		return s.Text
	}
	parts := make([]string, 0, 1+len(s.ToolCalls))
	if strings.TrimSpace(s.Text) != "" {
		parts = append(parts, s.Text)
	}
	for i := range s.ToolCalls {
		c := &s.ToolCalls[i]
		parts = append(parts, c.Name+"("+argumentsOf(c)+")")
	}
	return strings.Join(parts, "\n")
}

// argumentsOf is what a model wrote as the arguments of a call, JSON or not.
func argumentsOf(c *matrix.ToolCall) string {
	if text, ok := c.Arguments.Any().(string); ok {
		return text
	}
	return c.Arguments.String()
}

// answeredCalls are the calls of turn that are answered in view, as messages: the
// assistant's, and one for each answer. Services refuse calls without answers
// and answers without calls.
func answeredCalls(turn *matrix.Turn, after []*matrix.Turn) []llm.Message {
	assistant := llm.Message{Role: "assistant", Content: turn.Text, Opaque: turn.Opaque.Raw()}
	var answers []llm.Message
	for i := range turn.ToolCalls {
		c := &turn.ToolCalls[i]
		r := resultOf(c.ID, after)
		if r == nil {
			continue
		}
		assistant.ToolCalls = append(assistant.ToolCalls, llm.ToolCall{ID: c.ID, Name: c.Name, Arguments: argumentsOf(c)})
		answers = append(answers, llm.Message{Role: "tool", Content: r.Content, ToolCallID: c.ID, ToolName: c.Name, IsError: r.IsError})
	}
	return append([]llm.Message{assistant}, answers...)
}

func resultOf(id string, turns []*matrix.Turn) *matrix.ToolResult {
	for _, t := range turns {
		for i := range t.ToolResults {
			if t.ToolResults[i].ID == id {
				return &t.ToolResults[i]
			}
		}
	}
	return nil
}
