// Package reuse has the replies that earlier runs paid for: what of their tasks is a
// reply, and an index on the disk that hands out each of them once. It does not know
// where tasks come from.
package reuse

import (
	"cmp"
	"encoding/json"
	"iter"
	"slices"
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
	Params   matrix.Value    `json:"params,omitzero"`
	Samples  []matrix.Sample `json:"samples,omitempty"`
	Vectors  [][]float32     `json:"vectors,omitempty"`
}

// reply is r as a model gives it.
func (r *Reply) reply() *llm.Reply {
	rep := &llm.Reply{
		Vectors: r.Vectors, Model: r.Model, Revision: r.Revision, Params: r.Params.Raw(),
		Reused: &llm.Reused{Run: r.Run, Task: r.Task, Seed: r.Seed},
	}
	for i := range r.Samples {
		rep.Choices = append(rep.Choices, choice(&r.Samples[i]))
	}
	return rep
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
			r := &Reply{Hash: call.Request, Run: run, Task: t.ID, Seed: call.Seed, Model: call.Model, Revision: call.Revision, Params: call.Params}
			if was := call.Reused; was != nil {
				r.Run, r.Task = was.Run, was.Task
			}
			if r.Samples = samples(turn, call.Finish); r.Samples == nil {
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

// samples are the replies of a turn, as they came; nil where there is none. finish is
// that of the first one, for those of a version that did not note it for each.
func samples(t *matrix.Turn, finish string) []matrix.Sample {
	all := t.Samples
	if len(all) == 0 {
		if t.Text == "" && len(t.ToolCalls) == 0 {
			return nil
		}
		all = []matrix.Sample{{Text: t.Text, Reasoning: t.Reasoning, ToolCalls: t.ToolCalls, Logprobs: t.Logprobs, Opaque: t.Opaque}}
	}
	all = slices.Clone(all)
	for i := range all {
		all[i].Data = matrix.Value{} // it is parsed again
		all[i].Finish = cmp.Or(all[i].Finish, finish)
	}
	return all
}

// choice is a sample as a model gave it.
func choice(s *matrix.Sample) llm.Choice {
	c := llm.Choice{Text: s.Text, Reasoning: s.Reasoning, Finish: s.Finish, Logprobs: s.Logprobs.Raw(), Opaque: s.Opaque.Raw()}
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
