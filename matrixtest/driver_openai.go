package matrixtest

import (
	"encoding/json"
	"fmt"
	"net/http"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// OpenAI is the wire format of the OpenAI API, for fakes of services that speak
// it: https://platform.openai.com/docs/api-reference/chat. locate says what is
// asked for at a request's path (chat/completions, completions, embeddings or
// models), of which model where the path says that, and whether the credentials
// are right. more is added to every reply and piece of one; nil for nothing.
func OpenAI(locate func(r *http.Request) (what, model string, known bool), more map[string]any) Codec {
	k := openAI{locate: locate}
	if len(more) > 0 {
		k.more = encoded(more)
	}
	return Codec{Read: k.read, Write: k.write, Events: k.events, List: k.list}
}

type openAI struct {
	locate func(r *http.Request) (what, model string, known bool)
	more   []byte // an object; nil: nothing
}

func (k openAI) read(r *http.Request, body []byte) (Call, error) {
	what, model, known := k.locate(r)
	c := Call{Known: known, Model: model, Probe: what == "models" && r.Method == http.MethodGet}
	c.Key = r.Header.Get("Idempotency-Key")
	if c.Probe {
		return c, nil
	}
	q, err := api.Read(body)
	if err != nil {
		return c, err
	}
	q.Key = c.Key
	c.Request, c.Stream = *q.Request, q.Stream
	if q.Model != "" {
		c.Model = q.Model
	}
	s := &c.Sampling
	if s.ResponseFormat != nil {
		if c.Format, err = llm.FormatOf(s.ResponseFormat); err != nil {
			return c, err
		}
		s.ResponseFormat = nil
	}
	if n, ok := s.Extra["max_completion_tokens"].(int); ok {
		s.MaxTokens = n
		delete(s.Extra, "max_completion_tokens")
	}
	switch {
	case what == "chat/completions" && c.Messages != nil, what == "completions" && c.Prompt != "", what == "embeddings" && c.Input != nil:
		return c, nil
	}
	return c, fmt.Errorf("nothing is asked for at %q", what)
}

// add appends the JSON of a reply, or a piece of one.
func (k openAI) add(b []byte, r *api.Reply) []byte {
	r.ID, r.Created = "chatcmpl-1", 1
	b = r.Append(b)
	if k.more != nil {
		b = append(append(b[:len(b)-1], ','), k.more[1:]...)
	}
	return b
}

func (k openAI) write(c *Call, rep *llm.Reply) (http.Header, []byte) {
	r := api.ReplyOf(rep, c.Prompt == "")
	if c.Input != nil && r.Data == nil {
		r.Choices, r.Data = nil, []api.Vector{}
	}
	return http.Header{"Content-Type": {"application/json"}}, k.add(nil, r)
}

func (k openAI) events(_ *Call, rep *llm.Reply) (http.Header, [][]byte) {
	var out [][]byte
	add := func(r *api.Reply) {
		r.Object, r.Model = "chat.completion.chunk", rep.Model
		out = append(out, SSE("", string(k.add(nil, r))))
	}
	piece := func(c api.Choice) {
		c.Piece = true
		add(&api.Reply{Choices: []api.Choice{c}})
	}
	say := func(i int, m api.Message) { piece(api.Choice{Index: i, Delta: m}) }
	for i := range rep.Choices {
		o := &rep.Choices[i]
		piece(api.Choice{Index: i, First: true})
		if o.Reasoning != "" {
			for _, s := range Pieces(o.Reasoning) {
				say(i, api.Message{Thinking: s})
			}
		}
		if o.Text != "" {
			for _, s := range Pieces(o.Text) {
				say(i, api.Message{Content: s})
			}
		}
		for n, t := range o.ToolCalls {
			call := func(t api.ToolCall) {
				t.Index, t.Numbered = n, true
				say(i, api.Message{Tools: []api.ToolCall{t}})
			}
			call(api.ToolCall{ID: t.ID, Name: t.Name})
			half := len(t.Arguments) / 2
			call(api.ToolCall{Arguments: t.Arguments[:half]})
			call(api.ToolCall{Arguments: t.Arguments[half:]})
		}
	}
	for i := range rep.Choices {
		piece(api.Choice{Index: i, Finish: rep.Choices[i].Finish})
	}
	add(&api.Reply{Choices: []api.Choice{}, Usage: api.UsageOf(rep.Usage)})
	return http.Header{"Content-Type": {"text/event-stream"}}, append(out, SSE("", "[DONE]"))
}

func (k openAI) list(served []string) []byte {
	list := make([]llm.Served, len(served))
	for i, name := range served {
		list[i].Name = name
	}
	return api.AppendModels(nil, list, 1)
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
