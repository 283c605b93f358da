package replay

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// model is one without a service: it answers by itself, after a delay.
type model struct {
	name  string
	delay time.Duration
	// reply completes a reply, which has the model's name. usage is nil where it is to
	// be estimated.
	reply func(r *llm.Request, rep *llm.Reply) (usage *llm.Usage, err error)
	close func() error

	inFlight atomic.Int64
	count    llm.Counters
}

var _ llm.Model = (*model)(nil)

// Do implements Model.
func (m *model) Do(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	start := time.Now()
	m.inFlight.Add(1)
	defer m.inFlight.Add(-1)
	if m.delay > 0 {
		t := time.NewTimer(m.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("model %q: %w", m.name, context.Cause(ctx))
	}
	rep := &llm.Reply{Model: m.name}
	usage, err := m.reply(r, rep)
	if err != nil {
		return nil, err
	}
	said := api.Request{Request: &llm.Request{Messages: r.Messages, Tools: r.Tools, ToolChoice: r.ToolChoice, Sampling: r.Sampling}}
	params, err := said.Params(api.Server{})
	if err != nil {
		return nil, &llm.Error{Kind: llm.Fatal, Model: m.name, Msg: err.Error()}
	}
	rep.Params, rep.Took = params, time.Since(start)
	if usage != nil {
		rep.Usage = *usage
	} else {
		rep.Usage = estimate(r, rep)
	}
	for i := range rep.Choices {
		if c := &rep.Choices[i]; r.OnDelta != nil && !r.OnDelta(llm.Delta{Choice: i, Text: c.Text, Reasoning: c.Reasoning}) {
			break
		}
	}
	m.count.Add(rep)
	return rep, nil
}

// Stats implements Model.
func (m *model) Stats() llm.Stats {
	s := m.count.Stats()
	s.InFlight = int(m.inFlight.Load())
	return s
}

// Close implements Model.
func (m *model) Close() error { return m.close() }

// estimate is what a reply may have cost, at four characters a token.
func estimate(r *llm.Request, rep *llm.Reply) llm.Usage {
	u := llm.Usage{Tokens: llm.Tokens{PromptTokens: about(r.Prompt)}}
	for i := range r.Messages {
		u.PromptTokens += about(r.Messages[i].Content)
		u.Images += len(r.Messages[i].Images)
	}
	for _, s := range r.Input {
		u.PromptTokens += about(s)
	}
	for i := range rep.Choices {
		c := &rep.Choices[i]
		u.ReasoningTokens += about(c.Reasoning)
		u.CompletionTokens += about(c.Text) + about(c.Reasoning)
		for _, t := range c.ToolCalls {
			u.CompletionTokens += about(t.Name) + about(t.Arguments)
		}
	}
	return u
}

// about is how many tokens a text may have.
func about(s string) int { return (len(s) + 3) / 4 }
