// Package reuse has the replies that earlier runs paid for: what of their tasks is a
// reply, and an index on the disk that hands out each of them once. It does not know
// where tasks come from.
package reuse

import (
	"encoding/json"
	"iter"
	"strings"

	"matrix"
	"matrix/llm"
)

// Reply is what a call of an earlier run brought.
type Reply struct {
	Hash string `json:"-"` // of what was asked: llm.Request.Hash

	Run      string          `json:"run"`
	Task     string          `json:"task"`
	Seed     *int64          `json:"seed,omitempty"`
	Model    string          `json:"model,omitempty"`
	Revision string          `json:"revision,omitempty"`
	Params   json.RawMessage `json:"params,omitempty"`
	Choices  []llm.Choice    `json:"choices,omitempty"`
	Vectors  [][]float32     `json:"vectors,omitempty"`
}

// reply is r as a model gives it.
func (r *Reply) reply() *llm.Reply {
	return &llm.Reply{
		Choices: r.Choices, Vectors: r.Vectors, Model: r.Model, Revision: r.Revision, Params: r.Params,
		Reused: &llm.Reused{Run: r.Run, Task: r.Task, Seed: r.Seed},
	}
}

// Of goes over the replies that stand in the turns of a task of a run. Of calls whose
// reply was asked for again nothing but the last one's is there; a turn that was put
// together of several replies has none that can be given to one call.
func Of(run string, t *matrix.Task) iter.Seq[*Reply] {
	return func(yield func(*Reply) bool) {
		for i := range t.Turns {
			turn := &t.Turns[i]
			call := sole(turn)
			if call == nil {
				continue
			}
			r := &Reply{Hash: call.Request, Run: run, Task: t.ID, Seed: call.Seed, Model: call.Model, Revision: call.Revision, Params: call.Params.Raw()}
			if was := call.Reused; was != nil {
				r.Run, r.Task = was.Run, was.Task
			}
			if r.Choices = choices(turn, call.Finish); r.Choices == nil {
				if r.Vectors = vectors(turn); r.Vectors == nil {
					continue
				}
			}
			if !yield(r) {
				return
			}
		}
	}
}

// sole is the call whose reply the turn holds; nil where there is none.
func sole(t *matrix.Turn) *matrix.Call {
	var last *matrix.Call
	for i := range t.Calls {
		c := &t.Calls[i]
		if c.Kind != matrix.KindModel {
			continue
		}
		if last != nil && last.Error == "" { // more samples were asked for
			return nil
		}
		last = c
	}
	if last == nil || last.Request == "" {
		return nil
	}
	return last
}

// choices are the replies of a turn; nil where there is none.
func choices(t *matrix.Turn, finish string) []llm.Choice {
	if len(t.Samples) == 0 {
		if t.Text == "" && len(t.ToolCalls) == 0 {
			return nil
		}
		return []llm.Choice{choice(&matrix.Sample{Text: t.Text, Reasoning: t.Reasoning, ToolCalls: t.ToolCalls, Logprobs: t.Logprobs, Opaque: t.Opaque, Finish: finish}, "")}
	}
	all := make([]llm.Choice, len(t.Samples))
	for i := range t.Samples {
		all[i] = choice(&t.Samples[i], finish)
	}
	return all
}

// choice is a sample as a model gave it. finish is that of the first one, for those of
// a version that did not note it for each.
func choice(s *matrix.Sample, finish string) llm.Choice {
	c := llm.Choice{Text: s.Text, Reasoning: s.Reasoning, Finish: s.Finish, Logprobs: s.Logprobs.Raw(), Opaque: s.Opaque.Raw()}
	if c.Finish == "" {
		c.Finish = finish
	}
	for _, x := range s.ToolCalls {
		arguments := string(x.Arguments.Raw())
		if text, ok := x.Arguments.Any().(string); ok { // no JSON
			arguments = text
		}
		c.ToolCalls = append(c.ToolCalls, llm.ToolCall{ID: x.ID, Name: x.Name, Arguments: arguments})
	}
	return c
}

// vectors are those of an embedding; nil where the turn has none.
func vectors(t *matrix.Turn) [][]float32 {
	if t.Error != "" || !strings.HasPrefix(string(t.Data.Raw()), `{"vector`) {
		return nil
	}
	var d struct {
		Vector  []float32   `json:"vector"`
		Vectors [][]float32 `json:"vectors"`
	}
	if json.Unmarshal(t.Data.Raw(), &d) != nil {
		return nil
	}
	if d.Vector != nil {
		return [][]float32{d.Vector}
	}
	return d.Vectors
}
