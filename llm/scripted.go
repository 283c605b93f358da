package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// ScriptedConfig is a scripted model as a config has it. Exactly one of Reply
// and Replies is set. Whoever reads the config compiles Reply, and turns
// Replies into a function with ReplyList.
type ScriptedConfig struct {
	Reply   string        `yaml:"reply" doc:"Template of the reply, over the task and the prompt."`
	Replies any           `yaml:"replies" doc:"List of replies, or lists by role: the first for a role's first call in a task, and so on; the last one repeats."`
	Delay   time.Duration `yaml:"delay" free:"true" doc:"How long each reply takes." default:"0s"`
}

// Scripted is a model whose replies are made by a function.
type Scripted struct {
	Reply func(*Request) (string, error) // an error that is no *Error becomes one of Kind Refused
	Delay time.Duration                  // how long each reply takes
}

type scripted struct {
	name     string
	script   Scripted
	inFlight atomic.Int64
	count    counters
}

var _ Model = (*scripted)(nil)

// NewScripted returns a model that replies by s. Where n replies are asked
// for, all are the same. Tokens are estimated at four characters each.
func NewScripted(name string, s Scripted) (Model, error) {
	if s.Reply == nil {
		return nil, &FieldError{"reply", errors.New("is missing: say what the model replies, by reply or by replies")}
	}
	if s.Delay < 0 {
		return nil, &FieldError{"delay", fmt.Errorf("got %v, want 0 or more", s.Delay)}
	}
	return &scripted{name: name, script: s}, nil
}

// Chat implements Model.
func (m *scripted) Chat(ctx context.Context, r *Request) (*Reply, error) {
	start := time.Now()
	m.inFlight.Add(1)
	defer m.inFlight.Add(-1)
	if err := pause(ctx, m.name, m.script.Delay); err != nil {
		return nil, err
	}
	text, err := m.script.Reply(r)
	if err != nil {
		return nil, asError(m.name, err)
	}
	choices := make([]Choice, max(1, r.Sampling.N))
	for i := range choices {
		choices[i] = Choice{Text: text, Finish: "stop"}
	}
	return answer(&m.count, m.name, r, choices, start)
}

// Stats implements Model.
func (m *scripted) Stats() Stats {
	s := m.count.stats()
	s.InFlight = int(m.inFlight.Load())
	return s
}

// Close implements Model.
func (m *scripted) Close() error { return nil }

// pause waits for d or the end of ctx.
func pause(ctx context.Context, name string, d time.Duration) error {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("model %q: %w", name, context.Cause(ctx))
	}
	return nil
}

// asError gives err the model's name and, where it has none, a fate.
func asError(name string, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Kind: Refused, Model: name, Msg: err.Error()}
	}
	if e.Model != "" {
		return err
	}
	named := *e
	named.Model = name
	return &named
}

// answer makes the reply of a model without a service, and counts it.
func answer(count *counters, name string, r *Request, choices []Choice, start time.Time) (*Reply, error) {
	params, err := r.Sampling.appendParams(nil)
	if err != nil {
		return nil, &Error{Kind: Fatal, Model: name, Msg: err.Error()}
	}
	rep := &Reply{Choices: choices, Model: name, Params: params, Took: time.Since(start)}
	for i := range r.Messages {
		rep.Usage.PromptTokens += tokens(r.Messages[i].Content)
	}
	for i := range choices {
		rep.Usage.CompletionTokens += tokens(choices[i].Text)
	}
	count.add(rep)
	return rep, nil
}

// tokens estimates the tokens of a text.
func tokens(s string) int { return (len(s) + 3) / 4 }

// ReplyList returns the function of Scripted that takes its replies from a
// list of texts, or from a map of role to text or list of texts. The call
// Ask.Nth of a role, and one further for each re-ask, takes the reply of that
// index; past the end the last one repeats. A role that has no list is an
// error of Kind Fatal, since no task could get past it. The error of ReplyList
// is a *FieldError.
func ReplyList(replies any) (func(*Request) (string, error), error) {
	bad := func(format string, a ...any) error { return &FieldError{"replies", fmt.Errorf(format, a...)} }
	at := func(list []string, a *Ask) string { return list[min(max(0, a.Nth+a.Reask), len(list)-1)] }
	byRole, ok := replies.(map[string]any)
	if !ok {
		list, err := texts(replies)
		if err != nil {
			return nil, bad("%w", err)
		}
		return func(r *Request) (string, error) { return at(list, &r.Ask), nil }, nil
	}
	if len(byRole) == 0 {
		return nil, bad("is empty")
	}
	lists := make(map[string][]string, len(byRole))
	for role, v := range byRole {
		list, err := texts(v)
		if err != nil {
			return nil, bad("of role %q: %w", role, err)
		}
		lists[role] = list
	}
	return func(r *Request) (string, error) {
		list, ok := lists[r.Ask.Role]
		if !ok {
			have := strings.Join(slices.Sorted(maps.Keys(lists)), ", ")
			return "", &Error{Kind: Fatal, Msg: fmt.Sprintf("no replies for role %q", r.Ask.Role), Hint: "replies has lists for " + have}
		}
		return at(list, &r.Ask), nil
	}, nil
}

// texts reads a text or a list of texts.
func texts(v any) ([]string, error) {
	var list []string
	switch v := v.(type) {
	case string:
		list = []string{v}
	case []string:
		list = v
	case []any:
		for i, x := range v {
			s, ok := x.(string)
			if !ok {
				j, _ := json.Marshal(x)
				return nil, fmt.Errorf("entry %d is %s, want a text: put it in quotes", i+1, j)
			}
			list = append(list, s)
		}
	default:
		return nil, fmt.Errorf("got %T, want a list of texts, or such lists by role", v)
	}
	if len(list) == 0 {
		return nil, errors.New("is empty")
	}
	return list, nil
}
