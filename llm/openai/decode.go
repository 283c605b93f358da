package openai

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
	"matrix/llm"
)

// wireReply is what an operation answers, whole or a piece of a stream. Texts
// may be parts of what was read. An error and logprobs are JSON.
type wireReply struct {
	model, revision, object string
	choices                 []wireChoice // nil: there is no such list
	data                    []wireVector
	usage                   *wireUsage
	err                     string
}

// isWhole says that a choice is one of a reply that was not streamed; isPiece,
// that all are pieces.
func (r *wireReply) isWhole() bool {
	return slices.ContainsFunc(r.choices, func(c wireChoice) bool { return c.whole })
}

func (r *wireReply) isPiece() bool {
	return !r.isWhole() && slices.ContainsFunc(r.choices, func(c wireChoice) bool { return c.piece })
}

type wireChoice struct {
	index    int
	message  wireMessage
	delta    wireMessage
	whole    bool   // there is a message
	piece    bool   // there is a delta
	text     string // of completions
	finish   string
	logprobs string
	err      string
}

type wireMessage struct {
	content   string
	refusal   string
	thinking  string // reasoning_content
	reasoning string
	tools     []wireTool
}

// thought is what the model thought, by either name.
func (m *wireMessage) thought() string {
	if m.thinking != "" {
		return m.thinking
	}
	return m.reasoning
}

type wireTool struct {
	index               int
	numbered            bool // index is given
	id, name, arguments string
}

type wireVector struct {
	index  int
	values []float32
}

// wireUsage is what a reply says of its cost.
type wireUsage struct {
	prompt, completion int
	cached, hit        int     // hit: DeepSeek
	thought, reasoning int     // reasoning: SGLang
	cost               float64 // OpenRouter, in USD
}

func (u *wireUsage) usage(images int) llm.Usage {
	if u == nil {
		return llm.Usage{Images: images}
	}
	return llm.Usage{
		PromptTokens:     u.prompt,
		CompletionTokens: u.completion,
		CachedTokens:     max(u.cached, u.hit),
		ReasoningTokens:  max(u.thought, u.reasoning),
		Images:           images,
		USD:              u.cost,
	}
}

// bom is the mark that some servers write before a text.
const bom = "\ufeff"

// decode reads a wireReply in one pass. A key counts in its exact case, and of
// one that comes twice the last. Keys that are not known are skipped, and null
// is as if its key were not there. What is known and of another kind is an
// error, as is what is not JSON; but a usage that cannot be read is as if it were
// not there, since the reply is good without. Of choices and vectors the first
// most are read.
func decode(body string, most int) (wireReply, error) {
	d := decoder{jsontext.New(strings.TrimPrefix(body, bom))}
	var w wireReply
	for key := range d.fields {
		switch key {
		case "model":
			w.model = d.text()
		case "system_fingerprint":
			w.revision = d.maybeText()
		case "object":
			w.object = d.text()
		case "choices":
			w.choices = list(&d, most, (*decoder).choice)
		case "data":
			w.data = list(&d, most, (*decoder).vector)
		case "usage":
			w.usage = d.usage()
		case "error":
			w.err = d.Raw()
		default:
			d.Skip()
		}
	}
	return w, d.End()
}

// decoder reads the parts of a wireReply.
type decoder struct{ jsontext.Reader }

// fields reads an object, if one is there.
func (d *decoder) fields(yield func(key string) bool) {
	if !d.Null() {
		d.Object(yield)
	}
}

// list reads a list of most entries, if one is there: it is not nil then.
func list[T any](d *decoder, most int, read func(*decoder, *T)) []T {
	if d.Null() {
		return nil
	}
	l := []T{}
	for range d.List {
		if len(l) == most {
			d.Skip()
			continue
		}
		l = append(l, *new(T))
		read(d, &l[len(l)-1])
	}
	return l
}

func (d *decoder) text() string {
	if d.Null() {
		return ""
	}
	return d.Text()
}

// maybeText reads a text; what is none counts as empty.
func (d *decoder) maybeText() string {
	if d.Next() == '"' {
		return d.Text()
	}
	d.Skip()
	return ""
}

func (d *decoder) int() int {
	if d.Null() {
		return 0
	}
	return d.Int()
}

func (d *decoder) choice(c *wireChoice) {
	for key := range d.fields {
		switch key {
		case "index":
			c.index = d.int()
		case "message":
			c.whole = !d.Null()
			if c.whole {
				d.message(&c.message)
			}
		case "delta":
			c.piece = !d.Null()
			if c.piece {
				d.message(&c.delta)
			}
		case "text":
			c.text = d.text()
		case "finish_reason":
			c.finish = d.text()
		case "logprobs":
			c.logprobs = d.Raw()
		case "error":
			c.err = d.Raw()
		default:
			d.Skip()
		}
	}
}

func (d *decoder) message(m *wireMessage) {
	for key := range d.fields {
		switch key {
		case "content":
			m.content = d.content()
		case "refusal":
			m.refusal = d.maybeText()
		case "reasoning_content":
			m.thinking = d.maybeText()
		case "reasoning":
			m.reasoning = d.maybeText()
		case "tool_calls":
			m.tools = list(d, mostCalls, (*decoder).tool)
		default:
			d.Skip()
		}
	}
}

// content reads what a message says: a text, or a list of parts of which those
// that are texts count (others show how a model thought, or are pictures).
func (d *decoder) content() string {
	if d.Next() != '[' {
		return d.text()
	}
	var all strings.Builder
	for range d.List {
		kind, said := "", ""
		for key := range d.fields {
			switch key {
			case "type":
				kind = d.text()
			case "text":
				said = d.text()
			default:
				d.Skip()
			}
		}
		if kind == "text" || kind == "output_text" || kind == "" {
			all.WriteString(said)
		}
	}
	return all.String()
}

func (d *decoder) tool(t *wireTool) {
	for key := range d.fields {
		switch key {
		case "index":
			t.numbered = !d.Null()
			if t.numbered {
				t.index = d.Int()
			}
		case "id":
			t.id = d.text()
		case "function":
			for key := range d.fields {
				switch key {
				case "name":
					t.name = d.text()
				case "arguments":
					t.arguments = d.arguments()
				default:
					d.Skip()
				}
			}
		default:
			d.Skip()
		}
	}
}

// arguments reads a text of JSON; some servers give the JSON itself.
func (d *decoder) arguments() string {
	switch {
	case d.Null():
		return ""
	case d.Next() == '"':
		return d.Text()
	}
	return d.Raw()
}

func (d *decoder) vector(v *wireVector) {
	for key := range d.fields {
		switch key {
		case "index":
			v.index = d.int()
		case "embedding":
			v.values = d.floats()
		default:
			d.Skip()
		}
	}
}

// floats reads a list of numbers, or the base64 of their little-endian
// float32s.
func (d *decoder) floats() []float32 {
	if d.Next() != '"' {
		return list(d, math.MaxInt, func(d *decoder, f *float32) {
			if !d.Null() {
				*f = float32(d.Float(32))
			}
		})
	}
	raw, err := base64.StdEncoding.DecodeString(d.Text())
	if err != nil || len(raw)%4 != 0 {
		d.Refuse("the base64 of float32s")
		return nil
	}
	list := make([]float32, len(raw)/4)
	for i := range list {
		list[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return list
}

func (d *decoder) usage() *wireUsage {
	if d.Next() != '{' {
		d.Skip()
		return nil
	}
	u := &wireUsage{}
	for key := range d.Object {
		switch key {
		case "prompt_tokens":
			u.prompt = d.count()
		case "completion_tokens":
			u.completion = d.count()
		case "prompt_cache_hit_tokens":
			u.hit = d.count()
		case "reasoning_tokens":
			u.reasoning = d.count()
		case "cost":
			u.cost = d.amount()
		case "prompt_tokens_details":
			u.cached = d.detail("cached_tokens")
		case "completion_tokens_details":
			u.thought = d.detail("reasoning_tokens")
		default:
			d.Skip()
		}
	}
	return u
}

// detail reads one number of an object.
func (d *decoder) detail(name string) (n int) {
	if d.Next() != '{' {
		d.Skip()
		return 0
	}
	for key := range d.Object {
		if key == name {
			n = d.count()
		} else {
			d.Skip()
		}
	}
	return n
}

// count reads a number of tokens; one that cannot be so is 0.
func (d *decoder) count() int { return int(d.amount()) }

// amount reads a number of a usage, which may be written as a text. What is none
// is 0, and so is one below 0 or beyond all reason.
func (d *decoder) amount() float64 {
	var s string
	if d.Next() == '"' {
		s = d.Text()
	} else {
		s = d.Raw()
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f <= 1e9 {
		return f
	}
	return 0
}
