package api

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

// Reply is what an operation answers, whole or a piece of a stream. Texts may be
// parts of what was read.
type Reply struct {
	ID      string // written, not read
	Object  string // chat.completion, chat.completion.chunk, text_completion or list
	Created int64  // seconds; written, not read

	Model    string
	Revision string   // system_fingerprint
	Choices  []Choice // nil: there is no such list
	Data     []Vector // of embeddings
	Floats   bool     // Data is written as lists of numbers, rather than as base64
	Usage    *Usage   // nil: it says none
	Error    string   // JSON; empty: there is none
}

// IsWhole reports whether a choice is one of a reply that was not streamed.
func (r *Reply) IsWhole() bool {
	return slices.ContainsFunc(r.Choices, func(c Choice) bool { return c.Whole })
}

// IsPiece reports whether all choices are pieces of a stream.
func (r *Reply) IsPiece() bool {
	return !r.IsWhole() && slices.ContainsFunc(r.Choices, func(c Choice) bool { return c.Piece })
}

// Choice is one reply text, or a piece of one: a Message of a chat, a Delta of a
// chat's stream, or else the Text of a completion.
type Choice struct {
	Index    int
	Message  Message
	Delta    Message
	Whole    bool   // there is a message
	Piece    bool   // there is a delta
	First    bool   // it is the first, and says who speaks; written, not read
	Text     string // of completions
	Finish   string // finish_reason; empty in the pieces before the last
	Logprobs string // JSON; empty: there are none
	Error    string // JSON; empty: there is none
}

// Message is what an assistant says.
type Message struct {
	Content   string
	Refusal   string
	Thinking  string // reasoning_content
	Reasoning string // the same by another name
	Tools     []ToolCall
}

// Thought is what the model thought, by either name.
func (m *Message) Thought() string {
	if m.Thinking != "" {
		return m.Thinking
	}
	return m.Reasoning
}

// ToolCall is a call of a function, or a piece of one.
type ToolCall struct {
	Index     int
	Numbered  bool // Index is given, as in streams
	ID        string
	Name      string
	Arguments string
}

// Vector is an embedding.
type Vector struct {
	Index  int
	Values []float32
}

// Usage is what a reply says of its cost.
type Usage struct {
	Prompt, Completion int
	Cached, Hit        int     // Hit: DeepSeek
	Thought, Reasoning int     // Reasoning: SGLang
	Cost               float64 // OpenRouter, in USD
}

// Of returns what u says of a call with so many images; u may be nil.
func (u *Usage) Of(images int) llm.Usage {
	if u == nil {
		return llm.Usage{Images: images}
	}
	return llm.Usage{
		Tokens: llm.Tokens{PromptTokens: u.Prompt,
			CompletionTokens: u.Completion,
			CachedTokens:     max(u.Cached, u.Hit),
			ReasoningTokens:  max(u.Thought, u.Reasoning)},
		Images: images,
		USD:    u.Cost,
	}
}

// UsageOf is u as a reply says it.
func UsageOf(u llm.Usage) *Usage {
	return &Usage{Prompt: u.PromptTokens, Completion: u.CompletionTokens, Cached: u.CachedTokens, Thought: u.ReasoningTokens, Cost: u.USD}
}

// ReplyOf is a reply as a server of the API writes it, but for ID and Created: to
// a chat, or to a call for a completion or for embeddings.
func ReplyOf(rep *llm.Reply, chat bool) *Reply {
	out := &Reply{Model: rep.Model, Revision: rep.Revision, Usage: UsageOf(rep.Usage)}
	if rep.Vectors != nil {
		out.Object, out.Data = "list", make([]Vector, len(rep.Vectors))
		for i, v := range rep.Vectors {
			out.Data[i] = Vector{i, v}
		}
		return out
	}
	out.Choices = make([]Choice, len(rep.Choices))
	for i := range rep.Choices {
		from, to := &rep.Choices[i], &out.Choices[i]
		*to = Choice{Index: i, Finish: from.Finish, Logprobs: string(from.Logprobs)}
		if !chat {
			out.Object, to.Text = "text_completion", from.Text
			continue
		}
		out.Object, to.Whole = "chat.completion", true
		to.Message = Message{Content: from.Text, Thinking: from.Reasoning}
		for _, t := range from.ToolCalls {
			to.Message.Tools = append(to.Message.Tools, ToolCall{ID: t.ID, Name: t.Name, Arguments: t.Arguments})
		}
	}
	return out
}

// Append appends r as JSON.
func (r *Reply) Append(b []byte) []byte {
	b = append(b, '{')
	if r.ID != "" {
		b = append(jsontext.AppendString(append(b, `"id":`...), r.ID), ',')
	}
	b = jsontext.AppendString(append(b, `"object":`...), r.Object)
	if r.Created != 0 {
		b = strconv.AppendInt(append(b, `,"created":`...), r.Created, 10)
	}
	b = jsontext.AppendString(append(b, `,"model":`...), r.Model)
	if r.Revision != "" {
		b = jsontext.AppendString(append(b, `,"system_fingerprint":`...), r.Revision)
	}
	if r.Choices != nil {
		b = append(b, `,"choices":[`...)
		for i := range r.Choices {
			b = r.Choices[i].append(jsontext.Separate(b, i))
		}
		b = append(b, ']')
	}
	if r.Data != nil {
		b = append(b, `,"data":[`...)
		for i := range r.Data {
			b = r.Data[i].append(jsontext.Separate(b, i), r.Floats)
		}
		b = append(b, ']')
	}
	if r.Usage != nil {
		b = r.Usage.append(append(b, `,"usage":`...))
	}
	if r.Error != "" {
		b = append(append(b, `,"error":`...), r.Error...)
	}
	return append(b, '}')
}

func (c *Choice) append(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"index":`...), int64(c.Index), 10)
	switch {
	case c.Whole:
		b = c.Message.append(append(b, `,"message":`...), true, true)
	case c.Piece:
		b = c.Delta.append(append(b, `,"delta":`...), c.First, false)
	default:
		b = jsontext.AppendString(append(b, `,"text":`...), c.Text)
	}
	b = append(b, `,"logprobs":`...)
	if c.Logprobs == "" {
		b = append(b, "null"...)
	} else {
		b = append(b, c.Logprobs...)
	}
	b = append(b, `,"finish_reason":`...)
	if c.Finish == "" {
		b = append(b, "null"...)
	} else {
		b = jsontext.AppendString(b, c.Finish)
	}
	if c.Error != "" {
		b = append(append(b, `,"error":`...), c.Error...)
	}
	return append(b, '}')
}

// append appends a message. A whole one, and the first piece of one, have content
// even where that is nothing.
func (m *Message) append(b []byte, first, whole bool) []byte {
	b = append(b, '{')
	begin := len(b)
	key := func(name string) {
		if len(b) > begin {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"', ':')
	}
	text := func(name, s string) {
		if s != "" {
			key(name)
			b = jsontext.AppendString(b, s)
		}
	}
	if first {
		text("role", "assistant")
	}
	switch {
	case m.Content != "" || first && len(m.Tools) == 0:
		key("content")
		b = jsontext.AppendString(b, m.Content)
	case whole:
		key("content")
		b = append(b, "null"...)
	}
	text("refusal", m.Refusal)
	text("reasoning_content", m.Thinking)
	text("reasoning", m.Reasoning)
	if len(m.Tools) > 0 {
		key("tool_calls")
		b = append(b, '[')
		for i := range m.Tools {
			b = m.Tools[i].append(jsontext.Separate(b, i))
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// append appends a call, or a piece of one: what has neither id nor name is more
// of the arguments.
func (t *ToolCall) append(b []byte) []byte {
	b = append(b, '{')
	if t.Numbered {
		b = append(strconv.AppendInt(append(b, `"index":`...), int64(t.Index), 10), ',')
	}
	if t.ID != "" {
		b = append(jsontext.AppendString(append(b, `"id":`...), t.ID), `,"type":"function",`...)
	}
	b = append(b, `"function":{`...)
	if t.Name != "" {
		b = append(jsontext.AppendString(append(b, `"name":`...), t.Name), ',')
	}
	return append(jsontext.AppendString(append(b, `"arguments":`...), t.Arguments), '}', '}')
}

func (v *Vector) append(b []byte, floats bool) []byte {
	b = strconv.AppendInt(append(b, `{"object":"embedding","index":`...), int64(v.Index), 10)
	b = append(b, `,"embedding":`...)
	if !floats {
		raw := make([]byte, 0, 4*len(v.Values))
		for _, x := range v.Values {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), raw), '"', '}')
	}
	b = append(b, '[')
	for i, x := range v.Values {
		b = strconv.AppendFloat(jsontext.Separate(b, i), float64(x), 'g', -1, 32)
	}
	return append(b, ']', '}')
}

func (u *Usage) append(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"prompt_tokens":`...), int64(u.Prompt), 10)
	b = strconv.AppendInt(append(b, `,"completion_tokens":`...), int64(u.Completion), 10)
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), int64(u.Prompt+u.Completion), 10)
	b = strconv.AppendInt(append(b, `,"prompt_tokens_details":{"cached_tokens":`...), int64(max(u.Cached, u.Hit)), 10)
	b = append(b, '}')
	if n := max(u.Thought, u.Reasoning); n > 0 {
		b = append(strconv.AppendInt(append(b, `,"completion_tokens_details":{"reasoning_tokens":`...), int64(n), 10), '}')
	}
	if u.Cost > 0 {
		b = jsontext.AppendFloat(append(b, `,"cost":`...), u.Cost, 64)
	}
	return append(b, '}')
}

// BOM is the mark that some servers write before a text.
const BOM = "\ufeff"

// MaxCalls is the most tool calls and choices of a reply that are read.
const MaxCalls = 1 << 10

// Decode reads a Reply in one pass. A key counts in its exact case, and of
// one that comes twice the last. Keys that are not known are skipped, and null
// is as if its key were not there. What is known and of another kind is an
// error, as is what is not JSON; but a usage that cannot be read is as if it were
// not there, since the reply is good without. Of choices and vectors the first
// most are read.
func Decode(body string, most int) (Reply, error) {
	d := decoder{jsontext.New(strings.TrimPrefix(body, BOM))}
	var w Reply
	for key := range d.fields {
		switch key {
		case "model":
			w.Model = d.text()
		case "system_fingerprint":
			w.Revision = d.maybeText()
		case "object":
			w.Object = d.text()
		case "choices":
			w.Choices = list(&d, most, (*decoder).choice)
		case "data":
			w.Data = list(&d, most, (*decoder).vector)
		case "usage":
			w.Usage = d.usage()
		case "error":
			w.Error = d.Raw()
		default:
			d.Skip()
		}
	}
	return w, d.End()
}

// decoder reads the parts of a Reply.
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

func (d *decoder) choice(c *Choice) {
	for key := range d.fields {
		switch key {
		case "index":
			c.Index = d.int()
		case "message":
			c.Whole = !d.Null()
			if c.Whole {
				d.message(&c.Message)
			}
		case "delta":
			c.Piece = !d.Null()
			if c.Piece {
				d.message(&c.Delta)
			}
		case "text":
			c.Text = d.text()
		case "finish_reason":
			c.Finish = d.text()
		case "logprobs":
			c.Logprobs = d.Raw()
		case "error":
			c.Error = d.Raw()
		default:
			d.Skip()
		}
	}
}

func (d *decoder) message(m *Message) {
	for key := range d.fields {
		switch key {
		case "content":
			m.Content = d.content()
		case "refusal":
			m.Refusal = d.maybeText()
		case "reasoning_content":
			m.Thinking = d.maybeText()
		case "reasoning":
			m.Reasoning = d.maybeText()
		case "tool_calls":
			m.Tools = list(d, MaxCalls, (*decoder).tool)
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

func (d *decoder) tool(t *ToolCall) {
	for key := range d.fields {
		switch key {
		case "index":
			t.Numbered = !d.Null()
			if t.Numbered {
				t.Index = d.Int()
			}
		case "id":
			t.ID = d.text()
		case "function":
			for key := range d.fields {
				switch key {
				case "name":
					t.Name = d.text()
				case "arguments":
					t.Arguments = d.arguments()
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

func (d *decoder) vector(v *Vector) {
	for key := range d.fields {
		switch key {
		case "index":
			v.Index = d.int()
		case "embedding":
			v.Values = d.floats()
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

func (d *decoder) usage() *Usage {
	if d.Next() != '{' {
		d.Skip()
		return nil
	}
	u := &Usage{}
	for key := range d.Object {
		switch key {
		case "prompt_tokens":
			u.Prompt = d.count()
		case "completion_tokens":
			u.Completion = d.count()
		case "prompt_cache_hit_tokens":
			u.Hit = d.count()
		case "reasoning_tokens":
			u.Reasoning = d.count()
		case "cost":
			u.Cost = d.amount()
		case "prompt_tokens_details":
			u.Cached = d.detail("cached_tokens")
		case "completion_tokens_details":
			u.Thought = d.detail("reasoning_tokens")
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
