package openai

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"matrix/llm"
)

// wireReply is what an operation answers, whole or a piece of a stream.
type wireReply struct {
	Model    string          `json:"model"`
	Revision text            `json:"system_fingerprint"`
	Choices  *[]wireChoice   `json:"choices"`
	Data     *[]wireVector   `json:"data"`
	Usage    *wireUsage      `json:"usage"`
	Error    json.RawMessage `json:"error"`
	Object   string          `json:"object"`
}

type wireChoice struct {
	Index        int             `json:"index"`
	Message      wireMessage     `json:"message"`
	Delta        wireMessage     `json:"delta"`
	Text         string          `json:"text"` // of completions
	FinishReason string          `json:"finish_reason"`
	Logprobs     json.RawMessage `json:"logprobs"`
	Error        json.RawMessage `json:"error"`
}

type wireMessage struct {
	Content          content    `json:"content"`
	Refusal          text       `json:"refusal"`
	ReasoningContent text       `json:"reasoning_content"`
	Reasoning        text       `json:"reasoning"`
	ToolCalls        []wireTool `json:"tool_calls"`
}

func (m *wireMessage) reasoning() string {
	if m.ReasoningContent != "" {
		return string(m.ReasoningContent)
	}
	return string(m.Reasoning)
}

type wireTool struct {
	Index    *int   `json:"index"`
	ID       string `json:"id"`
	Function struct {
		Name      string    `json:"name"`
		Arguments arguments `json:"arguments"`
	} `json:"function"`
}

type wireVector struct {
	Index     int    `json:"index"`
	Embedding vector `json:"embedding"`
}

// wireUsage is what a reply says of its cost.
type wireUsage struct {
	Prompt       int `json:"prompt_tokens"`
	Completion   int `json:"completion_tokens"`
	CacheHit     int `json:"prompt_cache_hit_tokens"` // DeepSeek
	PromptDetail struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetail struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
	Reasoning int     `json:"reasoning_tokens"` // SGLang
	Cost      float64 `json:"cost"`             // OpenRouter, in USD
}

func (u *wireUsage) usage(images int) llm.Usage {
	if u == nil {
		return llm.Usage{Images: images}
	}
	return llm.Usage{
		PromptTokens:     u.Prompt,
		CompletionTokens: u.Completion,
		CachedTokens:     max(u.PromptDetail.Cached, u.CacheHit),
		ReasoningTokens:  max(u.CompletionDetail.Reasoning, u.Reasoning),
		Images:           images,
		USD:              u.Cost,
	}
}

// text is a string; what is none counts as empty.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	return nil
}

// content is what a message says: a text, or a list of parts of which those
// that are texts count (others show how a model thought, or are pictures).
type content string

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*string)(c))
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Text != nil && (p.Type == "text" || p.Type == "output_text" || p.Type == "") {
			all.WriteString(*p.Text)
		}
	}
	*c = content(all.String())
	return nil
}

// arguments are a text of JSON; some servers give the JSON itself.
type arguments string

// UnmarshalJSON implements json.Unmarshaler.
func (a *arguments) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		return nil
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, (*string)(a))
	}
	*a = arguments(b)
	return nil
}

// vector is a list of numbers, or the base64 of their little-endian float32s.
type vector []float32

// UnmarshalJSON implements json.Unmarshaler.
func (v *vector) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '"' {
		return json.Unmarshal(b, (*[]float32)(v))
	}
	raw, err := base64.StdEncoding.DecodeString(string(b[1 : len(b)-1]))
	if err != nil {
		return err
	}
	if len(raw)%4 != 0 {
		return errors.New("its bytes are no float32s")
	}
	*v = make(vector, len(raw)/4)
	for i := range *v {
		(*v)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// read judges a whole response.
func (w *Wire) read(t *target, c *call, h *head, body []byte) (*llm.Reply, *llm.Failure) {
	if h.status < 200 || h.status > 299 {
		return nil, w.complain(t, h, body)
	}
	f := &llm.Failure{Kind: llm.Fault, Endpoint: t.base, Status: h.status, Hollow: true, Sent: true, Quota: h.quota}
	var r wireReply
	if err := json.Unmarshal(body, &r); err != nil {
		f.Msg = w.secrets.Hide(fmt.Sprintf("the reply is not the JSON of %s (%v): %s", t.at[c.op].Path, err, llm.Shorten(string(body), 120)))
		if strings.HasPrefix(h.media, "text/html") {
			f.Kind, f.Hollow = llm.Transport, false // somebody on the way to the server answered
			if !w.reached() {
				f.Kind, f.Sent, f.Hint = llm.Fatal, false, "this is a web page, not a model server: check base_url"
			}
		}
		return nil, f
	}
	if r.Usage != nil {
		u := r.Usage.usage(c.images)
		f.Usage = &u
	}
	if present(r.Error) {
		return nil, w.within(t, h, f, body)
	}
	rep := &llm.Reply{Usage: r.Usage.usage(c.images), Model: r.Model, Revision: string(r.Revision), Endpoint: t.base, Params: c.params, Quota: h.quota}
	if c.op == embedding {
		if f := vectors(rep, c, &r, f); f != nil {
			return nil, f
		}
		return rep, nil
	}
	if r.Choices == nil || len(*r.Choices) == 0 {
		f.Msg = w.secrets.Hide("the reply holds no choices: " + llm.Shorten(string(body), 120))
		if r.Choices == nil && r.Model == "" && r.Object == "" && len(body) > 2 && body[0] == '{' && !w.reached() {
			f.Kind, f.Hollow, f.Sent, f.Hint = llm.Fatal, false, false, "this is no model server: check base_url"
		}
		return nil, f
	}
	rep.Choices = make([]llm.Choice, len(*r.Choices))
	declined := ""
	for i := range *r.Choices {
		o := &(*r.Choices)[i]
		if present(o.Error) {
			return nil, w.within(t, h, f, slices.Concat([]byte(`{"error":`), o.Error, []byte("}")))
		}
		rep.Choices[i] = c.choice(i, o)
		declined += string(o.Message.Refusal)
	}
	return w.conclude(rep, f, declined)
}

// choice reads a whole choice.
func (c *call) choice(i int, o *wireChoice) llm.Choice {
	m := &o.Message
	ch := llm.Choice{Text: string(m.Content) + o.Text, Reasoning: m.reasoning(), Finish: o.FinishReason}
	if ch.Reasoning == "" {
		ch.Reasoning, ch.Text = split(ch.Text)
	}
	if present(o.Logprobs) {
		ch.Logprobs = o.Logprobs
	}
	for k := range m.ToolCalls {
		t := &m.ToolCalls[k]
		ch.ToolCalls = append(ch.ToolCalls, llm.ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: string(t.Function.Arguments)})
	}
	c.name(i, ch.ToolCalls)
	return ch
}

// name makes up ids of tool calls that have none: the same ones for the same
// key.
func (c *call) name(choice int, calls []llm.ToolCall) {
	for k := range calls {
		if calls[k].ID != "" {
			continue
		}
		id := rand.Uint64()
		if c.r.Key != "" {
			id = xxh3.HashString(c.r.Key + "/" + strconv.Itoa(choice) + "/" + strconv.Itoa(k))
		}
		calls[k].ID = fmt.Sprintf("call_%016x", id)
	}
}

// within judges an error that came in a response of success. f says what is
// known of it.
func (w *Wire) within(t *target, h *head, f *llm.Failure, body []byte) *llm.Failure {
	inner := *h
	inner.status = http.StatusInternalServerError
	g := w.complain(t, &inner, body)
	g.Usage, g.Sent = f.Usage, true
	return g
}

// conclude judges the choices of a reply. f says what is known of it, for a
// failure; declined is what the model said instead of an answer.
func (w *Wire) conclude(rep *llm.Reply, f *llm.Failure, declined string) (*llm.Reply, *llm.Failure) {
	said, filtered := false, true
	for i := range rep.Choices {
		c := &rep.Choices[i]
		if c.Finish == "error" || c.Finish == "abort" {
			f.Msg = fmt.Sprintf("the server broke off the reply (finish_reason %q)", c.Finish)
			return nil, f
		}
		said = said || c.Text != "" || len(c.ToolCalls) > 0
		filtered = filtered && c.Finish == "content_filter"
	}
	switch {
	case !said && declined != "":
		f.Kind, f.Hollow, f.Msg = llm.Refused, false, "the model declined: "+llm.Shorten(declined, 1000)
		return nil, f
	case !said && filtered:
		f.Kind, f.Hollow, f.Code, f.Msg = llm.Refused, false, "content_filter", "the service's filter took the reply away"
		return nil, f
	}
	return rep, nil
}

// vectors reads the reply to an embedding.
func vectors(rep *llm.Reply, c *call, r *wireReply, f *llm.Failure) *llm.Failure {
	n := len(c.r.Input)
	if r.Data == nil || len(*r.Data) != n {
		got := 0
		if r.Data != nil {
			got = len(*r.Data)
		}
		f.Msg = fmt.Sprintf("the reply holds %d vectors for %d texts", got, n)
		return f
	}
	rep.Vectors = make([][]float32, n)
	for _, d := range *r.Data {
		if d.Index < 0 || d.Index >= n || len(d.Embedding) == 0 || rep.Vectors[d.Index] != nil {
			f.Msg = fmt.Sprintf("the reply holds no vector for each of %d texts", n)
			return f
		}
		rep.Vectors[d.Index] = d.Embedding
	}
	return nil
}
