package bedrock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/aws/smithy-go/encoding/httpbinding"

	"matrix/llm"
	"matrix/llm/internal/amazon"
)

// driver is a driver to one model of Bedrock.
type driver struct {
	conn      *amazon.Conn
	model     string
	tool      bool // schemas are asked for by a tool
	guardrail *guardrail
}

var _ llm.Driver = (*driver)(nil)

// Probe implements llm.Driver: Bedrock has no call that costs nothing and says
// whether this model answers.
func (w *driver) Probe(context.Context) ([]llm.Served, error) { return nil, nil }

// Close implements llm.Driver.
func (w *driver) Close() error { return w.conn.Close() }

// Send implements llm.Driver.
func (w *driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	in, params, f := w.input(r)
	if f != nil {
		f.Endpoint = w.conn.Endpoint
		return nil, f
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, llm.Unsupported(w.conn.Endpoint, "the request cannot be written as JSON: "+err.Error(), "check the schemas of tools and formats, and extra_body")
	}
	return llm.Exchange(ctx, r, w.conn.Endpoint, params, func(ctx context.Context, s *llm.Stream) (*llm.Reply, *llm.Failure) {
		var d draft
		var f *llm.Failure
		if llm.Streams(r) {
			f = w.stream(ctx, s, body, &d)
		} else {
			f = w.whole(ctx, body, &d)
		}
		if f == nil {
			format, _ := llm.Wanted(r)
			f = d.verdict(w.tool && format != nil)
		}
		if f == nil {
			d.reply.Usage = d.usage
			return &d.reply, nil
		}
		f.Endpoint = w.conn.Endpoint
		if f.Usage == nil && d.usage != (llm.Usage{}) {
			f.Usage = &d.usage
		}
		return nil, f
	})
}

// draft is a reply that is not judged yet.
type draft struct {
	reply llm.Reply // one choice
	usage llm.Usage
	stop  string
	ended bool // by whom it streams to: nothing more is known of it

	layout layout
}

// path is that of an operation.
func (w *driver) path(operation string) string {
	return "/model/" + httpbinding.EscapePath(w.model, true) + "/" + operation
}

// whole brings a reply in one piece.
func (w *driver) whole(ctx context.Context, body []byte, d *draft) *llm.Failure {
	res, err := w.conn.Post(ctx, w.path("converse"), nil, body) //nolint:bodyclose // Read closes it
	var said []byte
	if err == nil {
		said, err = amazon.Read(ctx, res)
	}
	var out reply
	if err == nil && json.Unmarshal(said, &out) != nil {
		err = amazon.Garbled(res, string(said))
	}
	if err != nil {
		return w.conn.Failure(ctx, err)
	}
	d.stop, d.usage = out.Stop, out.Usage.ours()
	if out.Output.Message == nil || out.Stop == "" {
		return &llm.Failure{Kind: llm.Fault, EmptyReply: true, Sent: true, Msg: "the reply holds no message"}
	}
	var text, reasoning strings.Builder
	var c llm.Choice
	opaque := llm.Opaque{Driver: kind}
	for _, b := range out.Output.Message.Content {
		switch {
		case b.Text != nil:
			text.WriteString(*b.Text)
			opaque.Add(llm.OpaquePart{Text: len(*b.Text)})
		case b.Citations != nil:
			for _, part := range b.Citations.Content {
				if part.Text != nil {
					text.WriteString(*part.Text)
					opaque.Add(llm.OpaquePart{Text: len(*part.Text)})
				}
			}
		case b.Reasoning != nil:
			own := signed{Redacted: b.Reasoning.Redacted}
			if t := b.Reasoning.Text; t != nil {
				own.Text, own.Signature = t.Text, t.Signature
				reasoning.WriteString(t.Text)
			}
			opaque.Add(own.part())
		case b.ToolUse != nil:
			var args bytes.Buffer
			if len(b.ToolUse.Input) == 0 || json.Compact(&args, b.ToolUse.Input) != nil {
				args.WriteString("{}")
			}
			c.ToolCalls = append(c.ToolCalls, llm.ToolCall{ID: b.ToolUse.ID, Name: b.ToolUse.Name, Arguments: args.String()})
			opaque.Add(llm.OpaquePart{Call: true})
		}
	}
	c.Text, c.Reasoning, c.Finish, c.Opaque = text.String(), reasoning.String(), out.Stop, opaque.JSON()
	d.reply.Choices = []llm.Choice{c}
	return nil
}

// stream brings a reply piece by piece.
func (w *driver) stream(ctx context.Context, s *llm.Stream, body []byte, d *draft) *llm.Failure {
	res, err := w.conn.Post(ctx, w.path("converse-stream"), nil, body) //nolint:bodyclose // Events does
	var events *amazon.Events
	if err == nil {
		events, err = amazon.NewEvents(res)
	}
	if err != nil {
		return w.conn.Failure(ctx, err)
	}
	defer events.Close()
	events.Wait = s.Pause
	calls := map[int]int{}
	d.layout.opaque.Driver = kind
	came := 0
	for !d.ended {
		kind, payload, err := events.Next()
		if err == io.EOF {
			break
		}
		var e piece
		if err == nil && json.Unmarshal(payload, &e) != nil {
			err = amazon.Garbled(res, "an event of type "+kind+" is not JSON")
		}
		if err != nil {
			return w.conn.Failure(ctx, err)
		}
		came++
		d.ended = !d.take(s, kind, &e, calls)
	}
	switch {
	case d.ended:
		d.usage.CompletionTokens, d.usage.Estimated = s.Tokens(), true // the service counts at the end only
	case d.stop != "":
	case came == 0:
		return &llm.Failure{Kind: llm.Fault, EmptyReply: true, Sent: true, Msg: "the stream holds no reply"}
	default:
		return &llm.Failure{Kind: llm.Transport, Sent: true, Msg: "the stream ended before the reply did"}
	}
	d.reply.First, d.reply.Choices = s.First(), s.Choices()[:1]
	c := &d.reply.Choices[0]
	if !d.ended {
		d.layout.stop()
		c.Opaque = d.layout.opaque.JSON()
	}
	for i := range c.ToolCalls {
		if c.ToolCalls[i].Arguments == "" {
			c.ToolCalls[i].Arguments = "{}"
		}
	}
	return nil
}

// take adds an event of a stream. False: the reply has ended. calls is which
// tool call a content block is.
func (d *draft) take(s *llm.Stream, kind string, e *piece, calls map[int]int) bool {
	s.Alive()
	switch kind {
	case "contentBlockStart":
		s.Keep(llm.PartBytes)
		if t := e.Start.ToolUse; t != nil {
			n := len(calls)
			d.layout.call = true
			calls[e.Index] = n
			s.ToolCall(0, n, t.ID, t.Name, "")
		}
	case "contentBlockStop":
		d.layout.stop()
	case "contentBlockDelta":
		if r := e.Delta.Reasoning; r != nil {
			own := &d.layout.signed
			d.layout.reason.WriteString(r.Text)
			if s.Keep(len(r.Signature) + len(r.Redacted)) {
				own.Signature += r.Signature
				own.Redacted = append(own.Redacted, r.Redacted...)
			}
			return s.Reasoning(0, r.Text)
		}
		if t := e.Delta.ToolUse; t != nil {
			if n, ok := calls[e.Index]; ok {
				s.ToolCall(0, n, "", "", t.Input)
			}
			return true
		}
		d.layout.text += len(e.Delta.Text)
		return s.Text(0, e.Delta.Text)
	case "messageStop":
		d.stop = e.Stop
		s.Finish(0, d.stop)
	case "metadata":
		d.usage = e.Usage.ours()
	}
	return true
}

func (u *usage) ours() llm.Usage {
	return llm.Usage{
		Tokens: llm.Tokens{PromptTokens: u.Input + u.Read + u.Write, CompletionTokens: u.Output,
			CachedTokens: u.Read, CacheWriteTokens: u.Write},
	}
}

// verdict says what a reply's end makes of it. The words are in
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_ResponseSyntax
func (d *draft) verdict(byTool bool) *llm.Failure {
	c := &d.reply.Choices[0]
	fail := func(kind llm.Kind, empty bool, format string, a ...any) *llm.Failure {
		return &llm.Failure{Kind: kind, Code: d.stop, EmptyReply: empty, Sent: true, Msg: fmt.Sprintf(format, a...)}
	}
	switch d.stop {
	case "guardrail_intervened":
		return fail(llm.Refused, false, "a guardrail stepped in: %s", llm.Shorten(c.Text, 300))
	case "content_filtered":
		return fail(llm.Refused, false, "the service's content filter stopped the reply")
	case "malformed_model_output", "malformed_tool_use":
		return fail(llm.Fault, true, "the service broke off the reply (%s)", d.stop)
	case "model_context_window_exceeded":
		if c.Text == "" && len(c.ToolCalls) == 0 {
			return fail(llm.Context, false, "the conversation fills the model's context window")
		}
		c.Finish = "length" // the room was used up, as with max_tokens
	}
	if byTool {
		for _, call := range c.ToolCalls {
			if call.Name == replyTool && json.Valid([]byte(call.Arguments)) {
				c.Text, c.ToolCalls, c.Opaque = call.Arguments, nil, nil
				if d.stop == "tool_use" {
					c.Finish = "end_turn"
				}
				break
			}
		}
	}
	return nil
}
