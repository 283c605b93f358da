package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"matrix"
	"matrix/internal/taskjson"
	"matrix/lang"
	"matrix/llm"
	"matrix/tool"
)

// Score is an agent that has a pool judge how the task went: the turn's data is what the
// pool says, with a reward as the pool defines it.
type Score struct {
	Pool     string `yaml:"pool" required:"true" doc:"Name of the pool that scores, of kind process."`
	Reason   string `yaml:"reason" doc:"Expression for the text that says why the task ended, as the pool knows it."`
	Verdicts string `yaml:"verdicts" doc:"Expression for what a judge said, where the pool asked for one: turn('judge').data."`
}

// Judge is an agent that asks a model what a pool wants to know before it scores, if
// anything: the turn's data is what was read out of the reply, and null where the pool
// wants to know nothing, which costs no call.
type Judge struct {
	Pool      string       `yaml:"pool" required:"true" doc:"Name of the pool that says what is asked, of kind process."`
	Model     string       `yaml:"model" required:"true" doc:"Name of the model that is asked."`
	Reason    string       `yaml:"reason" doc:"Expression for the text that says why the task ended, as the pool knows it."`
	Parse     Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data. Default: JSON."`
	Reask     int          `yaml:"reask" doc:"How often a reply that cannot be used is asked for again." default:"1"`
	OnLength  string       `yaml:"on_length" doc:"What becomes of a reply that was cut at max_tokens: fail makes a turn with an error; accept uses it as it is; more asks again with twice the tokens, as often as reask says." default:"fail" enum:"fail,accept,more"`
	OnRefused string       `yaml:"on_refused" doc:"What becomes of a request that the service refuses: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Unseeded  bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling  llm.Sampling `yaml:",inline"`
}

// scorer is what both have in common.
type scorer struct {
	name   string // of the pool
	pool   tool.Scorer
	reason *lang.Expr // nil: none
}

func newScorer(name string, p Pool, reason string, s *sources, bad *fieldErrors) scorer {
	pool, ok := p.(tool.Scorer)
	if !ok && p != nil {
		bad.addf("pool", "%s does not score: pools of kind process do", name)
	}
	return scorer{name: name, pool: pool, reason: s.expr("reason", reason)}
}

// given is what the pool is told of t.
func (s *scorer) given(t *matrix.Task) (tool.Scoring, error) {
	g := tool.Scoring{Turns: taskjson.Plain.AppendTurns(nil, t.Turns)}
	if s.reason == nil {
		return g, nil
	}
	v, err := s.reason.Eval(t)
	if err == nil && v != nil {
		var ok bool
		if g.Reason, ok = v.(string); !ok {
			err = fmt.Errorf("want a text, got %s", kindOf(v))
		}
	}
	if err != nil {
		return g, &matrix.FailError{Err: fmt.Errorf("reason: %w", err)}
	}
	return g, nil
}

// called is the call of the pool that began then.
func (s *scorer) called(op, reason string, began time.Time) (matrix.Call, error) {
	v, err := matrix.NewValue(map[string]any{"op": op, "reason": reason})
	return matrix.Call{Kind: matrix.KindTool, Name: s.name, Params: v, TookMS: milliseconds(time.Since(began))}, err
}

type score struct {
	scorer
	verdicts *lang.Expr // nil: none
}

// NewScore makes the agent of a role. pool is that of c.Pool.
func NewScore(c Score, pool Pool, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	s := newSources(p, &bad)
	a := &score{scorer: newScorer(c.Pool, pool, c.Reason, s, &bad), verdicts: s.expr("verdicts", c.Verdicts)}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *score) Mentions() []Mention { return mentionsOf("reason", a.reason, "verdicts", a.verdicts) }

// mentionsOf are those of pairs of a key and an expression, which may be nil.
func mentionsOf(pairs ...any) (ms []Mention) {
	for pair := range slices.Chunk(pairs, 2) {
		if e := pair[1].(*lang.Expr); e != nil {
			ms = append(ms, mention(pair[0].(string), e))
		}
	}
	return ms
}

// Act implements matrix.Agent.
func (a *score) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	given, err := a.given(t)
	if err != nil {
		return matrix.Turn{}, err
	}
	if a.verdicts != nil {
		v, err := a.verdicts.Eval(t)
		if err != nil {
			return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("verdicts: %w", err)}
		}
		if given.Verdicts, err = json.Marshal(v); err != nil {
			return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("verdicts: %w", err)}
		}
	}
	began := time.Now()
	raw, err := a.pool.Score(ctx, taskOf(t, a.name), given)
	if err != nil {
		return matrix.Turn{}, toolFate(a.name, err)
	}
	data, err := matrix.ParseValue(raw)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("pool %s: its score: %w", a.name, err)}
	}
	call, err := a.called("score", given.Reason, began)
	return matrix.Turn{Data: data, Calls: []matrix.Call{call}}, err
}

type judge struct {
	modelCaller
	scorer
}

// NewJudge makes the agent of a role that asks model m. pool is that of c.Pool.
func NewJudge(role string, c Judge, pool Pool, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	s := newSources(p, &bad)
	if c.Parse.Regex == "" && c.Parse.Schema == nil && len(c.Parse.Choice) == 0 && c.Parse.Grammar == "" {
		c.Parse.JSON = true
	}
	a := &judge{scorer: newScorer(c.Pool, pool, c.Reason, s, &bad), modelCaller: modelCaller{role: role, kind: "judge", name: c.Model, model: m, sampling: c.Sampling,
		reask: c.Reask, onLength: c.OnLength, onRefused: c.OnRefused, unseeded: c.Unseeded}}
	a.modelCaller.check(c.Parse, &bad)
	a.hash = s.revision()
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *judge) Mentions() []Mention { return mentionsOf("reason", a.reason) }

// Act implements matrix.Agent.
func (a *judge) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	given, err := a.given(t)
	if err != nil {
		return matrix.Turn{}, err
	}
	began := time.Now()
	raw, err := a.pool.Judge(ctx, taskOf(t, a.scorer.name), given)
	if err != nil {
		return matrix.Turn{}, toolFate(a.scorer.name, err)
	}
	asked, err := a.called("judge", given.Reason, began)
	if err != nil || len(raw) == 0 || string(raw) == "null" {
		return matrix.Turn{Data: matrix.RawValue([]byte("null")), Calls: []matrix.Call{asked}}, err
	}
	var base llm.Request
	messages, err := matrix.ParseValue(raw)
	if err == nil {
		base.Messages, err = new(imageLoader).conversation(ctx, messages.Any(), false)
	}
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("pool %s: what it asks a judge: %w", a.scorer.name, err)}
	}
	turn, err := a.act(ctx, t, base, nil, func(base *llm.Request, problem error, reply string) error {
		base.Messages = add(add(slices.Clone(base.Messages), "assistant", reply), "user", "That reply cannot be used: "+problem.Error()+". Reply again, in the form that was asked for.")
		return nil
	})
	turn.Calls = append([]matrix.Call{asked}, turn.Calls...)
	return turn, err
}

var (
	_, _ matrix.Agent = (*score)(nil), (*judge)(nil)
	_, _ Mentioner    = (*score)(nil), (*judge)(nil)
)
