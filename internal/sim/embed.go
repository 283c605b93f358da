package sim

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// width is how long an embedding is where nobody says.
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
	var b body
	if !e.read(w, r, &b) {
		return
	}
	v := e.enter()
	defer v.leave()
	f, n := e.arrive()
	v.arrived(n, r.Header.Get(keyHeader), b.start, f)
	if no := f.refuses(); no != nil {
		v.refused(no)
		no.write(w)
		return
	}
	if f != nil && f.Kind == Reset {
		breaks(w)
		return
	}
	a, no := e.ask(&b, false)
	list, err := promptsOf(b.Input)
	switch {
	case no != nil:
	case err != nil || len(list) == 0:
		no = wrong("input", "input: want a text, texts, or tokens")
	case b.Dimensions < 0 || b.Dimensions > 4096:
		no = wrong("dimensions", "dimensions is %d, want 1 to 4096", b.Dimensions)
	case b.Encoding != "" && b.Encoding != "float" && b.Encoding != "base64":
		no = wrong("encoding_format", "encoding_format is %q, want float or base64", b.Encoding)
	}
	if no != nil {
		v.refused(no)
		e.refuse(no).write(w)
		return
	}
	a.key = r.Header.Get(keyHeader)
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
	out := e.embeddingReply(run, list, &b)
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

func (e *Engine) embeddingReply(run *running, list []string, b *body) []byte {
	n := b.Dimensions
	if n == 0 {
		n = embedded
	}
	var out []byte
	out = append(out, `{"object":"list","model":`...)
	out = appendText(out, e.model)
	out = append(out, `,"data":[`...)
	for i, text := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"object":"embedding","index":`...)
		out = strconv.AppendInt(out, int64(i), 10)
		out = append(out, `,"embedding":`...)
		v := embed(text, n)
		if b.Encoding == "base64" {
			raw := make([]byte, 0, 4*n)
			for _, x := range v {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
			}
			out = append(out, '"')
			out = base64.StdEncoding.AppendEncode(out, raw)
			out = append(out, `"}`...)
			continue
		}
		out = append(out, '[')
		for k, x := range v {
			if k > 0 {
				out = append(out, ',')
			}
			out = strconv.AppendFloat(out, float64(x), 'g', -1, 32)
		}
		out = append(out, "]}"...)
	}
	out = append(out, `],"usage":{"prompt_tokens":`...)
	out = strconv.AppendInt(out, int64(run.job.prompt), 10)
	out = append(out, `,"total_tokens":`...)
	out = strconv.AppendInt(out, int64(run.job.prompt), 10)
	return append(out, "}}"...)
}
