package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"matrix/llm"
)

// ScriptedConfig is a scripted model as a config has it. Exactly one of Reply
// and Replies is set. Whoever reads the config compiles Reply, and turns
// Replies into a function with ReplyList.
type ScriptedConfig struct {
	Reply   string        `yaml:"reply" doc:"Template of the reply, over the task and the prompt."`
	Replies any           `yaml:"replies" doc:"List of replies, or lists by role: the first for a role's first call in a task, and so on; the last one repeats. A reply is a text, or {text, reasoning, tool_calls: [{name, arguments}], finish}."`
	Delay   time.Duration `yaml:"delay" free:"true" doc:"How long each reply takes." default:"0s"`
}

// Scripted is a model whose replies are made by a function.
type Scripted struct {
	// Reply makes a reply. One without Finish ended well, and its tool calls get
	// ids where they have none. An error that is no *Error becomes one of Kind
	// Refused. It is not asked for embeddings.
	Reply func(*llm.Request) (llm.Choice, error)
	Delay time.Duration // how long each reply takes
}

// NewScripted returns a model that replies by s. Where n replies are asked
// for, all are the same. Tokens are estimated at four characters each. A text is
// embedded by the pairs of letters in it, in 16 dimensions, so that texts that
// share some are near each other.
func NewScripted(name string, s Scripted) (llm.Model, error) {
	if s.Reply == nil {
		return nil, &llm.FieldError{Field: "reply", Err: errors.New("is missing: say what the model replies, by reply or by replies")}
	}
	if s.Delay < 0 {
		return nil, &llm.FieldError{Field: "delay", Err: fmt.Errorf("got %v, want 0 or more", s.Delay)}
	}
	return &model{name: name, delay: s.Delay, reply: s.reply, close: func() error { return nil }}, nil
}

func (s *Scripted) reply(r *llm.Request, rep *llm.Reply) (*llm.Usage, error) {
	if r.Input != nil {
		for _, text := range r.Input {
			rep.Vectors = append(rep.Vectors, letterPairs(text))
		}
		return nil, nil
	}
	c, err := s.Reply(r)
	if err != nil {
		return nil, llm.AsError(rep.Model, err)
	}
	c = ended(c)
	for range max(1, r.Sampling.N) {
		rep.Choices = append(rep.Choices, c)
	}
	return nil, nil
}

// ended is c with how it ended, and with ids at its tool calls, where it does
// not say.
func ended(c llm.Choice) llm.Choice {
	if c.Finish == "" {
		c.Finish = "stop"
		if len(c.ToolCalls) > 0 {
			c.Finish = "tool_calls"
		}
	}
	for i := range c.ToolCalls {
		if c.ToolCalls[i].ID == "" {
			c.ToolCalls = slices.Clone(c.ToolCalls)
			break
		}
	}
	for i := range c.ToolCalls {
		if c.ToolCalls[i].ID == "" {
			c.ToolCalls[i].ID = fmt.Sprintf("call_%d", i+1)
		}
	}
	return c
}

// letterPairs is a vector of length 1 that counts the pairs of letters in s.
func letterPairs(s string) []float32 {
	var v [16]float64
	last := ' '
	for _, r := range strings.ToLower(s) + " " {
		v[(uint32(last)*31+uint32(r))*2654435761>>28]++
		last = r
	}
	var sum float64
	for _, x := range v {
		sum += x * x
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x / math.Sqrt(sum))
	}
	return out
}

// ReplyList returns the function of Scripted that takes its replies from a
// list, or from a map of role to reply or list of replies. A reply is a text, or
// a map of text, reasoning, tool_calls and finish. The call Ask.Nth of a role,
// and one further for each re-ask, takes the reply of that index; past the end
// the last one repeats. A role that has no list is an error of Kind Fatal, since
// no task could get past it. The error of ReplyList is a *FieldError.
func ReplyList(replies any) (func(*llm.Request) (llm.Choice, error), error) {
	bad := func(format string, a ...any) error {
		return &llm.FieldError{Field: "replies", Err: fmt.Errorf(format, a...)}
	}
	at := func(list []llm.Choice, a *llm.Ask) llm.Choice { return list[min(max(0, a.Nth+a.Reask), len(list)-1)] }
	byRole, ok := replies.(map[string]any)
	if !ok {
		list, err := replyList(replies)
		if err != nil {
			return nil, bad("%w", err)
		}
		return func(r *llm.Request) (llm.Choice, error) { return at(list, &r.Ask), nil }, nil
	}
	if len(byRole) == 0 {
		return nil, bad("is empty")
	}
	lists := make(map[string][]llm.Choice, len(byRole))
	for role, v := range byRole {
		list, err := replyList(v)
		if err != nil {
			return nil, bad("of role %q: %w", role, err)
		}
		lists[role] = list
	}
	return func(r *llm.Request) (llm.Choice, error) {
		list, ok := lists[r.Ask.Role]
		if !ok {
			have := strings.Join(slices.Sorted(maps.Keys(lists)), ", ")
			return llm.Choice{}, &llm.Error{Kind: llm.Fatal, Msg: fmt.Sprintf("no replies for role %q", r.Ask.Role), Hint: "replies has lists for " + have}
		}
		return at(list, &r.Ask), nil
	}, nil
}

// replyFields are the keys of a reply that is a map.
var replyFields = []string{"text", "reasoning", "tool_calls", "finish"}

// replyList reads a reply or a list of replies.
func replyList(v any) ([]llm.Choice, error) {
	entries := []any{v}
	switch v := v.(type) {
	case string, map[string]any:
	case []string:
		entries = nil
		for _, s := range v {
			entries = append(entries, s)
		}
	case []any:
		entries = v
	default:
		return nil, fmt.Errorf("got %T, want a list of replies, or such lists by role", v)
	}
	if len(entries) == 0 {
		return nil, errors.New("is empty")
	}
	list := make([]llm.Choice, len(entries))
	for i, x := range entries {
		switch x := x.(type) {
		case string:
			list[i] = llm.Choice{Text: x}
		case map[string]any:
			c, err := scriptedReply(x)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i+1, err)
			}
			list[i] = c
		default:
			j, _ := json.Marshal(x)
			return nil, fmt.Errorf("entry %d is %s, want a text: put it in quotes", i+1, j)
		}
	}
	return list, nil
}

// scriptedReply reads a reply that is a map.
func scriptedReply(m map[string]any) (llm.Choice, error) {
	for k := range m {
		if !slices.Contains(replyFields, k) {
			return llm.Choice{}, fmt.Errorf("a reply has no %q, it has %s", k, strings.Join(replyFields, ", "))
		}
	}
	j, err := json.Marshal(m)
	if err != nil {
		return llm.Choice{}, err
	}
	var s sample
	if err := json.Unmarshal(j, &s); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			return llm.Choice{}, fmt.Errorf("%s is a %s, want a reply {text, reasoning, tool_calls: [{name, arguments}], finish}", typ.Field, typ.Value)
		}
		return llm.Choice{}, err
	}
	for i, t := range s.ToolCalls {
		if t.Name == "" {
			return llm.Choice{}, fmt.Errorf("tool call %d has no name", i+1)
		}
		if t.Arguments == "" {
			s.ToolCalls[i].Arguments = "{}"
		}
	}
	return s.choice(), nil
}
