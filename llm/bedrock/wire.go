package bedrock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"matrix/llm"
	"matrix/llm/internal/amazon"
)

// wire is a wire to one model of Bedrock.
type wire struct {
	conn      *amazon.Conn
	client    *bedrockruntime.Client
	model     string
	tool      bool // schemas are asked for by a tool
	guardrail *types.GuardrailConfiguration
}

var _ llm.Wire = (*wire)(nil)

// Probe implements llm.Wire: Bedrock has no call that costs nothing and says
// whether this model answers.
func (w *wire) Probe(context.Context) ([]llm.Served, error) { return nil, nil }

// Close implements llm.Wire.
func (w *wire) Close() error { return w.conn.Close() }

// Send implements llm.Wire.
func (w *wire) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	in, params, err := w.input(r)
	if no := (*refusal)(nil); errors.As(err, &no) {
		if f := (*formatRefusal)(nil); errors.As(err, &f) {
			return nil, llm.LackFormat(r, w.conn.Endpoint, no.msg, no.hint)
		}
		return nil, llm.Lack(w.conn.Endpoint, no.msg, no.hint)
	} else if err != nil {
		return nil, err
	}
	var d draft
	if llm.Streams(r) {
		err = w.stream(ctx, r, in, &d)
	} else {
		err = w.whole(ctx, in, &d)
	}
	if err == nil {
		f, _ := wanted(r)
		err = d.verdict(w.tool && f != nil)
	}
	if f := (*llm.Failure)(nil); errors.As(err, &f) {
		f.Endpoint, f.Params = w.conn.Endpoint, params
		if f.Usage == nil && d.usage != (llm.Usage{}) {
			f.Usage = &d.usage
		}
		return nil, f
	} else if err != nil {
		return nil, err
	}
	d.usage.Images = images(r)
	d.reply.Usage, d.reply.Params, d.reply.Endpoint = d.usage, params, w.conn.Endpoint
	return &d.reply, nil
}

func images(r *llm.Request) (n int) {
	for i := range r.Messages {
		n += len(r.Messages[i].Images)
	}
	return n
}

// draft is a reply that is not judged yet.
type draft struct {
	reply llm.Reply // one choice
	usage llm.Usage
	stop  types.StopReason
	ended bool // by whom it streams to: nothing more is known of it

	layout layout
}

// whole brings a reply in one piece.
func (w *wire) whole(ctx context.Context, in *bedrockruntime.ConverseInput, d *draft) error {
	out, err := w.client.Converse(ctx, in)
	if err != nil {
		return w.conn.Failure(ctx, err)
	}
	d.stop, d.usage = out.StopReason, tokens(out.Usage)
	m, ok := out.Output.(*types.ConverseOutputMemberMessage)
	if !ok || out.StopReason == "" {
		return &llm.Failure{Kind: llm.Fault, Hollow: true, Sent: true, Msg: "the reply holds no message"}
	}
	var text, reasoning strings.Builder
	var c llm.Choice
	opaque := llm.Opaque{Wire: kind}
	for _, b := range m.Value.Content {
		switch b := b.(type) {
		case *types.ContentBlockMemberText:
			text.WriteString(b.Value)
			opaque.Add(llm.OpaquePart{Text: len(b.Value)})
		case *types.ContentBlockMemberCitationsContent:
			for _, part := range b.Value.Content {
				if t, ok := part.(*types.CitationGeneratedContentMemberText); ok {
					text.WriteString(t.Value)
					opaque.Add(llm.OpaquePart{Text: len(t.Value)})
				}
			}
		case *types.ContentBlockMemberReasoningContent:
			var own signed
			switch t := b.Value.(type) {
			case *types.ReasoningContentBlockMemberReasoningText:
				own.Text, own.Signature = value(t.Value.Text), value(t.Value.Signature)
				reasoning.WriteString(own.Text)
			case *types.ReasoningContentBlockMemberRedactedContent:
				own.Redacted = t.Value
			}
			opaque.Add(own.part())
		case *types.ContentBlockMemberToolUse:
			call := llm.ToolCall{ID: value(b.Value.ToolUseId), Name: value(b.Value.Name), Arguments: "{}"}
			if b.Value.Input != nil {
				args, err := b.Value.Input.MarshalSmithyDocument()
				if err != nil {
					return &llm.Failure{Kind: llm.Fault, Sent: true, Msg: "the input of a tool cannot be read: " + err.Error()}
				}
				call.Arguments = string(args)
			}
			c.ToolCalls = append(c.ToolCalls, call)
			opaque.Add(llm.OpaquePart{Call: true})
		}
	}
	c.Text, c.Reasoning, c.Finish, c.Opaque = text.String(), reasoning.String(), string(out.StopReason), opaque.JSON()
	d.reply.Choices = []llm.Choice{c}
	return nil
}

// stream brings a reply piece by piece.
func (w *wire) stream(ctx context.Context, r *llm.Request, in *bedrockruntime.ConverseInput, d *draft) error {
	at, s, err := llm.NewStream(ctx, r)
	if err != nil {
		return err
	}
	defer s.Close()
	failed := func(err error) error {
		if f := s.Stalled(at, w.conn.Endpoint); f != nil {
			return f
		}
		return w.conn.Failure(ctx, err)
	}
	out, err := w.client.ConverseStream(at, &bedrockruntime.ConverseStreamInput{
		ModelId: in.ModelId, Messages: in.Messages, System: in.System, InferenceConfig: in.InferenceConfig,
		ToolConfig: in.ToolConfig, OutputConfig: in.OutputConfig, AdditionalModelRequestFields: in.AdditionalModelRequestFields,
		GuardrailConfig: guard(in.GuardrailConfig),
	}, func(o *bedrockruntime.Options) { o.Protocol = amazon.Protocol() })
	if err != nil {
		return failed(err)
	}
	events := out.GetStream()
	defer events.Close() //nolint:errcheck // what went wrong with the stream, events.Err has said
	calls := map[int32]int{}
	d.layout.opaque.Wire = kind
	came := 0
	for e := range events.Events() {
		came++
		if !d.take(s, e, calls) {
			d.ended = true
			break
		}
	}
	if d.reply.First = s.First(); !d.ended {
		if err := events.Err(); err != nil {
			return failed(err)
		}
		if d.stop == "" {
			if f := s.Stalled(at, w.conn.Endpoint); f != nil {
				return f
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if came == 0 {
				return &llm.Failure{Kind: llm.Fault, Hollow: true, Sent: true, Msg: "the stream holds no reply"}
			}
			return &llm.Failure{Kind: llm.Transport, Sent: true, Msg: "the stream ended before the reply did"}
		}
	}
	if d.ended {
		d.usage.CompletionTokens, d.usage.Estimated = s.Tokens(), true // the service counts at the end only
	}
	d.reply.Choices = s.Choices()[:1]
	if !d.ended {
		d.layout.stop()
		d.reply.Choices[0].Opaque = d.layout.opaque.JSON()
	}
	for i := range d.reply.Choices[0].ToolCalls {
		if c := &d.reply.Choices[0].ToolCalls[i]; c.Arguments == "" {
			c.Arguments = "{}"
		}
	}
	return nil
}

// take adds an event of a stream. False: the reply has ended. calls is which
// tool call a content block is.
func (d *draft) take(s *llm.Stream, e types.ConverseStreamOutput, calls map[int32]int) bool {
	s.Alive()
	switch e := e.(type) {
	case *types.ConverseStreamOutputMemberContentBlockStart:
		if t, ok := e.Value.Start.(*types.ContentBlockStartMemberToolUse); ok {
			n := len(calls)
			d.layout.call = true
			calls[value(e.Value.ContentBlockIndex)] = n
			s.ToolCall(0, n, value(t.Value.ToolUseId), value(t.Value.Name), "")
		}
	case *types.ConverseStreamOutputMemberContentBlockStop:
		d.layout.stop()
	case *types.ConverseStreamOutputMemberContentBlockDelta:
		switch t := e.Value.Delta.(type) {
		case *types.ContentBlockDeltaMemberText:
			d.layout.text += len(t.Value)
			return s.Text(0, t.Value)
		case *types.ContentBlockDeltaMemberReasoningContent:
			return s.Reasoning(0, d.layout.reasoning(t.Value))
		case *types.ContentBlockDeltaMemberToolUse:
			if n, ok := calls[value(e.Value.ContentBlockIndex)]; ok {
				s.ToolCall(0, n, "", "", value(t.Value.Input))
			}
		}
	case *types.ConverseStreamOutputMemberMessageStop:
		d.stop = e.Value.StopReason
		s.Finish(0, string(d.stop))
	case *types.ConverseStreamOutputMemberMetadata:
		d.usage = tokens(e.Value.Usage)
	}
	return true
}

func guard(g *types.GuardrailConfiguration) *types.GuardrailStreamConfiguration {
	if g == nil {
		return nil
	}
	return &types.GuardrailStreamConfiguration{GuardrailIdentifier: g.GuardrailIdentifier, GuardrailVersion: g.GuardrailVersion}
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// tokens counts. inputTokens are those that were neither read from a cache nor
// written to one:
// https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
func tokens(u *types.TokenUsage) llm.Usage {
	if u == nil {
		return llm.Usage{}
	}
	read, written := int(value(u.CacheReadInputTokens)), int(value(u.CacheWriteInputTokens))
	return llm.Usage{
		PromptTokens:     int(value(u.InputTokens)) + read + written,
		CompletionTokens: int(value(u.OutputTokens)),
		CachedTokens:     read, CacheWriteTokens: written,
	}
}

// verdict says what a reply's end makes of it. The words are in
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_ResponseSyntax
func (d *draft) verdict(byTool bool) error {
	c := &d.reply.Choices[0]
	fail := func(kind llm.Kind, hollow bool, format string, a ...any) error {
		return &llm.Failure{Kind: kind, Code: string(d.stop), Hollow: hollow, Sent: true, Msg: fmt.Sprintf(format, a...)}
	}
	switch d.stop {
	case types.StopReasonGuardrailIntervened:
		return fail(llm.Refused, false, "a guardrail stepped in: %s", llm.Shorten(c.Text, 300))
	case types.StopReasonContentFiltered:
		return fail(llm.Refused, false, "the service's content filter stopped the reply")
	case types.StopReasonMalformedModelOutput, types.StopReasonMalformedToolUse:
		return fail(llm.Fault, true, "the service broke off the reply (%s)", d.stop)
	case types.StopReasonModelContextWindowExceeded:
		if c.Text == "" && len(c.ToolCalls) == 0 {
			return fail(llm.Context, false, "the conversation fills the model's context window")
		}
		c.Finish = "length" // the room was used up, as with max_tokens
	}
	if byTool {
		for _, call := range c.ToolCalls {
			if call.Name == replyTool && json.Valid([]byte(call.Arguments)) {
				c.Text, c.ToolCalls, c.Opaque = call.Arguments, nil, nil
				if d.stop == types.StopReasonToolUse {
					c.Finish = string(types.StopReasonEndTurn)
				}
				break
			}
		}
	}
	return nil
}
