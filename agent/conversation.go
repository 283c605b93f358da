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
	"matrix/internal/jsontext"
	"matrix/llm"
	"matrix/llm/openai/api"
)

// parseBody reads what a request of the OpenAI API says beside its conversation,
// which may be nothing: tools and which of them, and into as how a reply is drawn
// and read. Unknown keys are passed through.
func parseBody(body map[string]any, as *modelCaller) (tools *toolSet, choice string, err error) {
	if body == nil {
		return nil, "", nil
	}
	if tools, err = newToolSet(body["tools"]); err != nil {
		return nil, "", fmt.Errorf("tools: %w", err)
	}
	rest := maps.Clone(body)
	for _, key := range []string{"model", "messages", "tools", "stream", "stream_options", "prompt", "input"} {
		delete(rest, key)
	}
	raw, err := json.Marshal(rest)
	if err != nil {
		return nil, "", err
	}
	q, err := api.Read(raw)
	if bad := (*jsontext.KindError)(nil); errors.As(err, &bad) {
		return nil, "", fmt.Errorf("%s: want %s, got %s", bad.Key, bad.Want, kindOf(body[bad.Key]))
	} else if err != nil {
		return nil, "", err
	}
	s := q.Sampling
	extra := func(key string) {
		if v := body[key]; v != nil {
			if s.Extra == nil {
				s.Extra = map[string]any{}
			}
			s.Extra[key] = v
		}
	}
	extra("prompt") // which no chat has: Check says so
	extra("input")
	switch choice = q.ToolChoice; {
	case tools == nil:
		extra("tool_choice")
		choice = ""
	case choice != "" && choice != "auto" && choice != "none" && choice != "required" && !tools.has(choice):
		return nil, "", fmt.Errorf("tool_choice: there is no tool %q, only %s", choice, tools.names())
	}
	if format, ok := s.ResponseFormat.(map[string]any); ok {
		if as.reader.read == nil {
			if err := as.setFormat(format); err != nil {
				return nil, "", fmt.Errorf("response_format: %w", err)
			}
		}
	} else if s.ResponseFormat != nil {
		return nil, "", fmt.Errorf("response_format: want an object, got %s", kindOf(s.ResponseFormat))
	}
	as.sampling = llm.Merge(as.sampling, s)
	return tools, choice, s.Check()
}

// setFormat makes replies be read as a response_format says. One of a type that
// is the service's own says nothing here.
func (a *modelCaller) setFormat(format map[string]any) error {
	if kind := format["type"]; kind != "json_object" && kind != "json_schema" {
		return nil
	}
	f, err := llm.FormatOf(format)
	if bad := (*llm.FieldError)(nil); errors.As(err, &bad) {
		return bad.Err
	}
	p := Parse{JSON: true}
	if len(f.Schema) > 0 {
		p.Schema = string(f.Schema)
	}
	a.reader, err = newReader(p)
	return err
}

// conversation reads a list of messages as the OpenAI API has it. exact says that
// they are part of a request of that API, rather than of a dataset with columns
// of its own: what a service with that API is sent is what they say.
func (l *imageLoader) conversation(ctx context.Context, v any, exact bool) ([]llm.Message, error) {
	list, ok := Messages(v)
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
		if ms[i], err = l.message(ctx, m); err != nil {
			return nil, fmt.Errorf("message %d: %w", i+1, err)
		}
		ms[i].Extra = own(m, &ms[i], exact)
	}
	return ms, nil
}

// Messages is v as a list of messages, where it is one: a list, or a text that
// is the JSON of a list of {role, content} or {from, value}.
func Messages(v any) ([]any, bool) {
	if list, ok := v.([]any); ok {
		return list, true
	}
	text, _ := v.(string)
	if text = strings.TrimSpace(text); !strings.HasPrefix(text, "[") {
		return nil, false
	}
	parsed, err := matrix.ParseValue([]byte(text))
	if err != nil {
		return nil, false
	}
	list, _ := parsed.Any().([]any)
	for _, e := range list {
		m, _ := e.(map[string]any)
		if m["role"] == nil && m["from"] == nil {
			return nil, false
		}
	}
	return list, len(list) > 0
}

// silent reports whether a conversation says nothing to reply to: its last message
// is an empty one of the user, or there is nothing in any.
func silent(ms []llm.Message) bool {
	blank := func(m *llm.Message) bool {
		return strings.TrimSpace(m.Content) == "" && len(m.Images) == 0 && len(m.ToolCalls) == 0 && m.Role != "tool"
	}
	if last := &ms[len(ms)-1]; last.Role == "user" && blank(last) {
		return true
	}
	return !slices.ContainsFunc(ms, func(m llm.Message) bool { return !blank(&m) })
}

// own returns the fields of m, which was read as out, that out does not say: the
// role developer, the name of who speaks, and where m is exact all others that
// are not null, and content in parts.
func own(m map[string]any, out *llm.Message, exact bool) map[string]any {
	role, ok := m["role"].(string)
	if !ok {
		return nil // ShareGPT's
	}
	extra := map[string]any{}
	for k, v := range m {
		switch k {
		case "role":
			if role == "developer" {
				extra[k] = v
			}
		case "tool_call_id", "tool_calls":
		case "content":
			if parts, ok := v.([]any); ok && exact && inParts(parts, out) {
				extra[k] = v
			}
		case "name":
			if s, _ := v.(string); s != "" && (exact || out.Role != "tool") {
				extra[k] = v
			}
		default:
			if exact && v != nil {
				extra[k] = v
			}
		}
	}
	if len(extra) == 0 {
		return nil
	}
	return extra
}

// inParts says that parts can be sent as they are, and that out says less than
// they do: it has one text and then the images. A file of ours cannot be sent,
// nor what the API writes in another way.
func inParts(parts []any, out *llm.Message) bool {
	more, images := false, 0
	for i, p := range parts {
		part, _ := p.(map[string]any)
		switch part["type"] {
		case "text":
			more = more || i > 0 || len(part) > 2
		case "image_url":
			u, ok := part["image_url"].(map[string]any)
			where, _ := u["url"].(string)
			if !ok || out.Images[images].URL == "" && !strings.HasPrefix(where, "data:") {
				return false
			}
			images++
			more = more || len(part) > 2
		default:
			return false
		}
	}
	return more
}

// sides are the roles that messages may have, in the words of several datasets.
var sides = map[string]string{
	"system": "system", "developer": "system", "user": "user", "human": "user",
	"assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
	"tool": "tool", "function": "tool",
}

// EndsInReply reports whether a list of messages ends with the assistant's, so that
// there is nothing to reply to.
func EndsInReply(messages any) bool {
	list, _ := Messages(messages)
	if len(list) == 0 {
		return false
	}
	last, _ := list[len(list)-1].(map[string]any)
	return side(last) == "assistant"
}

// side is who speaks in a message: system, user, assistant or tool; else empty.
func side(m map[string]any) string {
	name, ok := m["role"].(string)
	if !ok {
		name, _ = m["from"].(string)
	}
	return sides[strings.ToLower(name)]
}

// message reads {role, content}, or {from, value} as ShareGPT has it.
func (l *imageLoader) message(ctx context.Context, m map[string]any) (llm.Message, error) {
	who, content := m["role"], m["content"]
	if from, ok := m["from"]; ok && who == nil {
		who, content = from, m["value"]
	}
	out := llm.Message{Role: side(m)}
	if out.Role == "" {
		raw, _ := json.Marshal(who)
		return out, fmt.Errorf("role is %s, want system, user, assistant or tool", shorten(raw))
	}
	switch out.Role {
	case "tool":
		out.ToolCallID, _ = m["tool_call_id"].(string)
		out.ToolName, _ = m["name"].(string)
	case "assistant":
		var err error
		if out.ToolCalls, err = toolCalls(m["tool_calls"]); err != nil {
			return out, err
		}
	}
	switch c := content.(type) {
	case string:
		out.Content = c
	case []any:
		for i, p := range c {
			part, ok := p.(map[string]any)
			if !ok {
				return out, fmt.Errorf("part %d of content is %s, want {type, ...}", i+1, kindOf(p))
			}
			if err := l.addPart(ctx, &out, part); err != nil {
				return out, fmt.Errorf("part %d of content: %w", i+1, err)
			}
		}
	case nil:
		if len(out.ToolCalls) == 0 {
			return out, errors.New("it has no content")
		}
	default:
		return out, fmt.Errorf("content is %s, want a text or a list of parts", kindOf(content))
	}
	if len(out.Images) > 0 && out.Role != "user" {
		return out, fmt.Errorf("it is of role %s, and only the user's may have images", out.Role)
	}
	return out, nil
}

// addPart adds a part of a message's content.
func (l *imageLoader) addPart(ctx context.Context, m *llm.Message, part map[string]any) error {
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
		image, err := l.named(ctx, where)
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

// toolCalls reads the calls of an assistant.
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
		case nil:
			c.Arguments = "{}"
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
