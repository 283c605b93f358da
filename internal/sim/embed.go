package sim

import (
	"math"
	"net/http"
	"strconv"
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
	f, n := e.arrive()
	v.arrived(n, q.Key, func() string { return "" }, f)
	if no := f.refuses(); no != nil {
		v.refused(no)
		no.write(w)
		return
	}
	if f != nil && f.Kind == Reset {
		breaks(w)
		return
	}
	q.Messages = nil
	a, no := e.ask(q)
	list, err := q.Input, error(nil)
	if q.Other != "" {
		list, err = promptsIn(q.Other)
	}
	width, ok := embedded, true
	if v := q.Sampling.Extra["dimensions"]; v != nil {
		width, ok = integer(v)
	}
	switch {
	case no != nil:
	case err != nil || len(list) == 0:
		no = wrong("input", "input: want a text, texts, or tokens")
	case !ok || width < 1 || width > 4096:
		no = wrong("dimensions", "dimensions is %v, want 1 to 4096", q.Sampling.Extra["dimensions"])
	}
	if no != nil {
		v.refused(no)
		e.refuse(no).write(w)
		return
	}
	run, no := e.beginEmbedding(a, list)
	if no != nil {
		v.refused(no)
		no.write(w)
		return
	}
	v.begun(run)
	if run.wait(r.Context()) != nil || run.slowed(r.Context(), f) != nil {
		panic(http.ErrAbortHandler)
	}
	out := e.embeddingReply(run, list, width, q.Floats)
	switch {
	case f == nil:
	case f.Kind == Stall:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case f.Kind == Garbage:
		out = []byte("<<< garbage >>>")
	case f.Kind == Truncate:
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(out))}
		_, _ = w.Write(out[:len(out)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	answer(w, 200, out)
}

// beginEmbedding gives texts to the engine, as one prompt with no reply.
func (e *Engine) beginEmbedding(a *ask, list []string) (*running, *refusal) {
	a.prompt = strings.Join(list, "")
	a.n, a.max, a.endless, a.format = 1, 1, true, format{choice: []string{"x"}}
	return e.begin(a)
}

func (e *Engine) embeddingReply(run *running, list []string, width int, floats bool) []byte {
	r := api.Reply{Object: "list", Model: e.model, Floats: floats, Usage: &api.Usage{Prompt: run.job.prompt}, Data: make([]api.Vector, len(list))}
	for i, text := range list {
		r.Data[i] = api.Vector{Index: i, Values: embed(text, width)}
	}
	return r.Append(nil)
}
