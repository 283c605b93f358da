package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

// Complete is an agent that has a model go on with a text: no roles, no
// template of the service's, as base models and code models want it. The turn's
// text is what was added. A reply that cannot be used is asked for again with
// another seed; else all is as in Chat.
type Complete struct {
	Model     string       `yaml:"model" required:"true" doc:"Name of the model that goes on."`
	Prompt    string       `yaml:"prompt" required:"true" doc:"Template of the text to be continued, sent as it is."`
	Parse     Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data."`
	Reask     int          `yaml:"reask" doc:"How often a reply that cannot be used is asked for again." default:"1"`
	OnLength  string       `yaml:"on_length" doc:"What becomes of a reply that was cut at max_tokens: fail makes a turn with an error; accept uses it as it is; more asks again with twice the tokens, as often as reask says." default:"fail" enum:"fail,accept,more"`
	OnRefused string       `yaml:"on_refused" doc:"What becomes of a request that the service refuses: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Unseeded  bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling  llm.Sampling `yaml:",inline"`
}

type complete struct {
	modelCaller
	prompt *lang.Template
	parse  Parse
}

var (
	_ matrix.Agent = (*complete)(nil)
	_ Mentioner    = (*complete)(nil)
)

// NewComplete makes the agent of a role.
func NewComplete(role string, c Complete, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &complete{parse: c.Parse, modelCaller: modelCaller{role: role, kind: "complete", name: c.Model, model: m, sampling: c.Sampling,
		reask: c.Reask, onLength: c.OnLength, onRefused: c.OnRefused, unseeded: c.Unseeded}}
	a.modelCaller.check(c.Parse, &bad)
	s := newSources(p, &bad)
	if c.Prompt == "" {
		bad.addf("prompt", "is empty")
	}
	a.prompt = s.template("prompt", c.Prompt)
	a.hash = s.revision()
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *complete) Mentions() []Mention {
	return []Mention{mention("prompt", a.prompt)}
}

// Act implements matrix.Agent.
func (a *complete) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	base, err := a.Asked(ctx, t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	return a.act(ctx, t, base, nil, nil)
}

// Asked implements Asker.
func (a *complete) Asked(_ context.Context, t *matrix.Task) (llm.Request, error) {
	prompt, err := a.prompt.Render(t, nil)
	if err == nil && strings.TrimSpace(prompt) == "" {
		err = errors.New("there is nothing to go on with: the text is empty")
	}
	if err != nil {
		return llm.Request{}, fmt.Errorf("prompt: %w", err)
	}
	return llm.Request{Prompt: prompt}, nil
}
