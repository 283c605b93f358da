package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"matrix"
	"matrix/internal/jsontext"
	"matrix/lang"
	"matrix/llm"
)

// Embed is an agent that has a model make vectors of texts. The turn's data is
// {"vector": [...]} of the one text, or {"vectors": [[...], ...]} of several, in
// their order.
type Embed struct {
	Model     string         `yaml:"model" required:"true" doc:"Name of the model that embeds."`
	Text      string         `yaml:"text" doc:"Template of the text; the turn's data is {vector}."`
	Texts     string         `yaml:"texts" doc:"Expression that gives a list of texts, in the place of text; the turn's data is {vectors}."`
	OnRefused string         `yaml:"on_refused" doc:"What becomes of a request that the service refuses: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Extra     map[string]any `yaml:"extra_body" secret:"named" doc:"More keys of the request, sent as they are (dimensions, input_type, ...)."`
}

type embed struct {
	modelCaller
	text  *lang.Template // nil: texts
	texts *lang.Expr
}

var (
	_ matrix.Agent = (*embed)(nil)
	_ Mentioner    = (*embed)(nil)
)

// NewEmbed makes the agent of a role.
func NewEmbed(role string, c Embed, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &embed{modelCaller: modelCaller{role: role, name: c.Model, model: m, sampling: llm.Sampling{Extra: c.Extra}, onRefused: c.OnRefused}}
	a.modelCaller.check(Parse{}, &bad)
	s := newSources(p, &bad)
	if (c.Text == "") == (c.Texts == "") {
		bad.addf("", "an embed needs text or texts, and not both")
	}
	a.text = s.template("text", c.Text)
	a.texts = s.expr("texts", c.Texts)
	a.hash = s.revision()
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *embed) Mentions() []Mention {
	if a.text != nil {
		return []Mention{mention("text", a.text)}
	}
	return []Mention{mention("texts", a.texts)}
}

// Act implements matrix.Agent.
func (a *embed) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	texts, err := a.input(t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	if len(texts) == 0 {
		return matrix.Turn{Data: matrix.RawValue([]byte(`{"vectors":[]}`))}, nil
	}
	r := a.request(t, llm.Request{Input: texts, Sampling: a.sampling}, 0)
	hash := a.sign(t, r, 0)
	ctx, free := llm.WithReplies(ctx)
	defer free()
	reply, err := a.model.Do(ctx, r)
	if err != nil {
		return a.failed(nil, r, hash, err)
	}
	data, err := vectors(reply.Vectors, len(texts), a.text != nil)
	if err != nil {
		return matrix.Turn{}, fmt.Errorf("model %q: %w", a.name, err)
	}
	return matrix.Turn{Data: data, Calls: []matrix.Call{a.account(r, hash, reply)}}, nil
}

// input are the texts to be embedded. Only a list may have none.
func (a *embed) input(t *matrix.Task) ([]string, error) {
	if a.text != nil {
		s, err := a.text.Render(t, nil)
		if err == nil && strings.TrimSpace(s) == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("text: %w", err)
		}
		return []string{s}, nil
	}
	v, err := a.texts.Eval(t)
	if err != nil {
		return nil, fmt.Errorf("texts: %w", err)
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("texts: want a list of texts, got %T", v)
	}
	texts := make([]string, len(list))
	for i, x := range list {
		s, ok := x.(string)
		if !ok || strings.TrimSpace(s) == "" {
			return nil, fmt.Errorf("texts: element %d is not a text, or an empty one", i)
		}
		texts[i] = s
	}
	return texts, nil
}

// vectors are the data of a turn.
func vectors(vs [][]float32, want int, one bool) (matrix.Value, error) {
	if len(vs) != want {
		return matrix.Value{}, fmt.Errorf("got %d vectors for %d texts", len(vs), want)
	}
	b := []byte(`{"vectors":[`)
	if one {
		b = []byte(`{"vector":`)
	}
	for i, v := range vs {
		b = append(jsontext.Separate(b, i), '[')
		for j, x := range v {
			b = jsontext.Separate(b, j)
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return matrix.Value{}, fmt.Errorf("vector %d has %v in it", i, x)
			}
			b = jsontext.AppendFloat(b, float64(x), 32)
		}
		b = append(b, ']')
	}
	if !one {
		b = append(b, ']')
	}
	return matrix.RawValue(append(b, '}')), nil
}
