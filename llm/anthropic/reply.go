package anthropic

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"matrix/llm"
	"matrix/llm/internal/rest"
	"matrix/llm/internal/sse"
)

// reply is a message as the service sends it.
type reply struct {
	Type       string  `json:"type"`
	Model      string  `json:"model"`
	Content    []part  `json:"content"`
	StopReason string  `json:"stop_reason"`
	Details    details `json:"stop_details"`
	Usage      usage   `json:"usage"`
}

// part is a block of a reply's content.
type part struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	Signature string          `json:"signature"` // of a thinking block
	Data      string          `json:"data"`      // of a redacted_thinking block
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
}

// kept is p as Choice.Opaque has it: a text by its length alone. Thoughts that nobody signed are not kept:
// the service does not take them back.
func (p *part) kept(text int) llm.OpaquePart {
	var own block
	switch p.Type {
	case "text":
		return llm.OpaquePart{Text: text}
	case "tool_use":
		return llm.OpaquePart{Call: true}
	case "thinking":
		if p.Signature == "" {
			return llm.OpaquePart{}
		}
		own = block{Type: p.Type, Thinking: &p.Thinking, Signature: p.Signature}
	case "redacted_thinking":
		own = block{Type: p.Type, Data: p.Data}
	default:
		return llm.OpaquePart{}
	}
	b, err := json.Marshal(own)
	if err != nil {
		return llm.OpaquePart{} // not so: texts alone
	}
	return llm.OpaquePart{Own: b}
}

// details says more of a refusal.
type details struct {
	Category    string `json:"category"`
	Explanation string `json:"explanation"`
}

// usage counts tokens; those of the prompt in three parts.
type usage struct {
	Input   int `json:"input_tokens"`
	Written int `json:"cache_creation_input_tokens"`
	Read    int `json:"cache_read_input_tokens"`
	Output  int `json:"output_tokens"`
	Details struct {
		Thinking int `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
}

func (u *usage) ours() llm.Usage {
	return llm.Usage{
		Tokens: llm.Tokens{PromptTokens: u.Input + u.Written + u.Read, CompletionTokens: u.Output,
			CachedTokens: u.Read, CacheWriteTokens: u.Written, ReasoningTokens: u.Details.Thinking},
	}
}

// finish is a stop_reason in words that agents know. Most they know already.
func finish(reason string) string {
	if reason == "model_context_window_exceeded" {
		return "model_length"
	}
	return reason
}

// whole reads a reply that is not streamed.
func (w *Driver) whole(ctx context.Context, res *http.Response) (*llm.Reply, *llm.Failure) {
	body, f := w.conn.Read(ctx, res)
	if f != nil {
		return nil, f
	}
	var m reply
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, w.conn.EmptyReply(res, "the reply is not the JSON of a message: "+w.conn.Shown(body))
	}
	if m.Type == "error" {
		return nil, w.complain(res, body)
	}
	if m.Type != "message" || m.StopReason == "" {
		return nil, w.conn.EmptyReply(res, "the reply is not a message, or has no stop_reason: "+w.conn.Shown(body))
	}
	c := llm.Choice{Finish: finish(m.StopReason)}
	var text, thought strings.Builder
	opaque := llm.Opaque{Driver: kind}
	for i := range m.Content {
		opaque.Add(m.Content[i].kept(len(m.Content[i].Text)))
		switch p := &m.Content[i]; p.Type {
		case "text":
			text.WriteString(p.Text)
		case "thinking":
			thought.WriteString(p.Thinking)
		case "tool_use":
			c.ToolCalls = append(c.ToolCalls, llm.ToolCall{ID: p.ID, Name: p.Name, Arguments: string(p.Input)})
		}
	}
	c.Text, c.Reasoning, c.Opaque = text.String(), thought.String(), opaque.JSON()
	rep := &llm.Reply{Choices: []llm.Choice{c}, Model: m.Model, Usage: m.Usage.ours()}
	return rep, w.declined(rep, &m.Details)
}

// declined is the failure of a reply that is a refusal and nothing else.
func (w *Driver) declined(rep *llm.Reply, d *details) *llm.Failure {
	c := &rep.Choices[0]
	if c.Finish != "refusal" || c.Text != "" || len(c.ToolCalls) > 0 {
		return nil
	}
	f := &llm.Failure{Kind: llm.Refused, Endpoint: w.conn.Base, Status: http.StatusOK, Code: "refusal", Msg: "the model declined", Sent: true, Usage: &rep.Usage}
	if why := strings.TrimSpace(d.Category + " " + d.Explanation); why != "" {
		f.Msg += ": " + llm.Shorten(w.conn.Hide(why), 1000)
	}
	return f
}

// event is one of a stream.
type event struct {
	Type    string `json:"type"`
	Index   int    `json:"index"`
	Message reply  `json:"message"`       // of message_start
	Block   part   `json:"content_block"` // of content_block_start
	Delta   struct {
		Type       string  `json:"type"`
		Text       string  `json:"text"`
		Thinking   string  `json:"thinking"`
		Signature  string  `json:"signature"`
		Partial    string  `json:"partial_json"`
		StopReason string  `json:"stop_reason"`
		Details    details `json:"stop_details"`
	} `json:"delta"`
	Usage *usage `json:"usage"` // of message_delta: sums so far
}

// reading is a stream that is being read.
type reading struct {
	stream  *llm.Stream
	model   string
	usage   usage
	details details
	calls   map[int]int // index of a tool_use block to that of its call
	open    part        // block that is being sent, and its parts so far
	text    int         // bytes of its text
	thought strings.Builder
	opaque  llm.Opaque
	stopped bool // stop_reason was told
	ended   bool // message_stop came
}

// stream reads a reply that is streamed.
func (w *Driver) stream(ctx context.Context, res *http.Response, s *llm.Stream) (*llm.Reply, *llm.Failure) {
	if media := res.Header.Get("Content-Type"); !strings.HasPrefix(media, "text/event-stream") {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, w.conn.EmptyReply(res, fmt.Sprintf("the reply is not a stream, but %q: %s", media, w.conn.Shown(body)))
	}
	in := reading{stream: s, calls: map[int]int{}, opaque: llm.Opaque{Driver: kind}}
	_, f := rest.Events(ctx, w.conn, res, s, func(v *event, said []byte) (bool, *llm.Failure) {
		if v.Type == "error" {
			return false, w.complain(res, said)
		}
		in.take(v)
		return !in.ended, nil
	})
	if f != nil {
		return nil, f
	}
	if in.ended {
		sse.Drain(res.Body, s.Close)
	}
	rep := &llm.Reply{Choices: s.Choices(), Model: in.model, Usage: in.usage.ours(), First: s.First()}
	c := &rep.Choices[0]
	for i := range c.ToolCalls {
		if c.ToolCalls[i].Arguments == "" {
			c.ToolCalls[i].Arguments = "{}" // the service sends no piece of an empty object
		}
	}
	if !s.Ended() {
		c.Opaque = in.opaque.JSON()
	}
	switch {
	case s.Ended():
		rep.Usage.CompletionTokens, rep.Usage.Estimated = max(rep.Usage.CompletionTokens, s.Tokens()), true
	case !in.ended:
		return nil, &llm.Failure{Kind: llm.Transport, Endpoint: w.conn.Base, Status: res.StatusCode, Sent: true, Msg: "the stream ended before the reply did"}
	case !in.stopped && c.Text == "" && len(c.ToolCalls) == 0:
		return nil, w.conn.EmptyReply(res, "the stream holds no reply")
	}
	return rep, w.declined(rep, &in.details)
}

// take adds an event to the reply.
func (in *reading) take(v *event) {
	s := in.stream
	switch v.Type {
	case "message_start":
		in.model, in.usage = v.Message.Model, v.Message.Usage
	case "content_block_start":
		s.Keep(len(v.Block.Data) + len(v.Block.Signature) + llm.PartBytes)
		in.open, in.text = v.Block, len(v.Block.Text)
		in.thought.Reset()
		in.thought.WriteString(v.Block.Thinking)
		switch v.Block.Type {
		case "text":
			s.Text(0, v.Block.Text)
		case "thinking":
			s.Reasoning(0, v.Block.Thinking)
		case "tool_use":
			in.calls[v.Index] = len(in.calls)
			s.ToolCall(0, in.calls[v.Index], v.Block.ID, v.Block.Name, "")
		}
	case "content_block_stop":
		in.open.Thinking = in.thought.String()
		in.opaque.Add(in.open.kept(in.text))
	case "content_block_delta":
		switch v.Delta.Type {
		case "text_delta":
			in.text += len(v.Delta.Text)
			s.Text(0, v.Delta.Text)
		case "thinking_delta":
			in.thought.WriteString(v.Delta.Thinking)
			s.Reasoning(0, v.Delta.Thinking)
		case "signature_delta":
			if s.Keep(len(v.Delta.Signature)) {
				in.open.Signature += v.Delta.Signature
			}
		case "input_json_delta":
			if nth, ok := in.calls[v.Index]; ok {
				s.ToolCall(0, nth, "", "", v.Delta.Partial)
			}
		}
	case "message_delta":
		if v.Delta.StopReason != "" {
			in.stopped = true
			in.details = v.Delta.Details
			s.Finish(0, finish(v.Delta.StopReason))
		}
		if v.Usage != nil {
			in.usage.add(v.Usage)
		}
	case "message_stop":
		in.ended = true
	}
}

// add takes later sums, where they are told.
func (u *usage) add(v *usage) {
	for _, p := range []struct {
		sum   *int
		later int
	}{
		{&u.Input, v.Input}, {&u.Written, v.Written}, {&u.Read, v.Read},
		{&u.Output, v.Output}, {&u.Details.Thinking, v.Details.Thinking},
	} {
		*p.sum = max(*p.sum, p.later)
	}
}

// statuses are those of the service's types of errors, for errors in a stream,
// whose status was told before: https://platform.claude.com/docs/en/api/errors.
var statuses = map[string]int{
	"invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
	"not_found_error": 404, "conflict_error": 409, "request_too_large": 413, "rate_limit_error": 429,
	"api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}

// complain judges an error that the service tells.
func (w *Driver) complain(res *http.Response, body []byte) *llm.Failure {
	var c struct {
		Error struct {
			Type    string `json:"type"`
			Message string `json:"message"`
			Details struct {
				Code string `json:"error_code"`
			} `json:"details"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &c) // what it is not says no more than its status
	e := &c.Error
	f := &llm.Failure{Status: res.StatusCode, Code: cmp.Or(e.Details.Code, e.Type), Msg: e.Message}
	if res.StatusCode < 300 { // in a stream
		f.Status = statuses[e.Type]
	}
	f.Kind, f.Hint = llm.Judge(f.Status, e.Details.Code, e.Type)
	return w.conn.Complaint(f, res, body)
}
