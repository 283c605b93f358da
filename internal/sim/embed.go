package sim

import (
	"math"
	"net/http"
	"strings"

	"matrix/llm/openai/api"
)

// embedded is how long an embedding is where nobody says.
const embedded = 256

// embed makes a vector of length 1 of a text. Texts that share words have
// vectors that are near each other.
func embed(text string, n int) []float32 {
	v := make([]float32, n)
	add := func(w string) {
		r := random(hashOf(w))
		for i := range v {
			v[i] += float32(r.float() - 0.5)
		}
	}
	for w := range strings.FieldsSeq(strings.ToLower(text)) {
		add(w)
	}
	add("")
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(sum))
	}
	return v
}

func (e *Engine) embeddings(w http.ResponseWriter, r *http.Request) {
	q := e.read(w, r)
	if q == nil {
		return
	}
	v := e.enter()
	defer v.leave()
	q.Messages = nil
	list, width := q.Input, embedded
	run, _, f := e.accept(w, q, v, func(a *ask) *refusal {
		var err error
		if q.Other != "" {
			list, err = promptsIn(q.Other)
		}
		ok := true
		if v := q.Sampling.Extra["dimensions"]; v != nil {
			width, ok = integer(v)
		}
		switch {
		case err != nil || len(list) == 0:
			return wrong("input", "input: want a text, texts, or tokens")
		case !ok || width < 1 || width > 4096:
			return wrong("dimensions", "dimensions is %v, want 1 to 4096", q.Sampling.Extra["dimensions"])
		}
		return a.embed(list)
	})
	if run != nil {
		run.answer(w, r, f, func(b []byte) []byte { return e.embeddingReply(b, run, list, width, q.Floats) })
	}
}

// embed makes texts the prompt, with no reply.
func (a *ask) embed(list []string) *refusal {
	a.prompt = strings.Join(list, "")
	a.n, a.max, a.endless, a.format = 1, 1, true, format{choice: []string{"x"}}
	return nil
}

func (e *Engine) embeddingReply(b []byte, run *running, list []string, width int, floats bool) []byte {
	r := api.Reply{Object: "list", Model: e.model, Floats: floats, Usage: &api.Usage{Prompt: run.job.prompt}, Data: make([]api.Vector, len(list))}
	for i, text := range list {
		r.Data[i] = api.Vector{Index: i, Values: embed(text, width)}
	}
	return r.Append(b)
}
