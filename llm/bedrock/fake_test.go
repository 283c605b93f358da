package bedrock

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/smithy-go/eventstream"

	"matrix/llm"
	"matrix/matrixtest"
)

const modelID = "us.anthropic.claude-test-v1:0"

// codec speaks Converse and ConverseStream, as the REST JSON protocol and the
// event stream encoding have them:
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html
// https://smithy.io/2.0/aws/amazon-eventstream.html
var codec = matrixtest.Codec{Read: read, Write: write, Events: events}

func start(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
	return open(t, Config{}, codec.Serve(t, secret, answer))
}

func open(t testing.TB, c Config, url string) llm.Driver {
	t.Helper()
	c.Model = modelID
	w, err := c.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// converseBody is the body of a Converse call.
type converseBody struct {
	System   []struct{ Text string }
	Messages []struct {
		Role    string
		Content []struct {
			Text  *string
			Image *struct {
				Format string
				Source struct{ Bytes []byte }
			}
			ReasoningContent *struct {
				ReasoningText   *struct{ Text, Signature string }
				RedactedContent []byte
			}
			ToolUse *struct {
				ToolUseID string `json:"toolUseId"`
				Name      string
				Input     json.RawMessage
			}
			ToolResult *struct {
				ToolUseID string `json:"toolUseId"`
				Content   []struct{ Text string }
				Status    string
			}
		}
	}
	InferenceConfig struct {
		MaxTokens     int
		Temperature   *float64
		TopP          *float64
		StopSequences []string
	}
	AdditionalModelRequestFields map[string]any
	ToolConfig                   *struct {
		Tools []struct {
			ToolSpec struct {
				Name, Description string
				InputSchema       struct{ JSON json.RawMessage }
				Strict            bool
			}
		}
		ToolChoice map[string]struct{ Name string }
	}
	OutputConfig *struct {
		Effort     string
		TextFormat *struct {
			Type      string
			Structure struct {
				JSONSchema struct{ Schema, Name string }
			}
		}
	}
	GuardrailConfig map[string]string
}

func read(r *http.Request, raw []byte) (matrixtest.Call, error) {
	path, op, ok := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/model/"), "/converse")
	model, err := url.PathUnescape(path)
	if !ok || err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		return matrixtest.Call{}, errors.New("not a call of Converse")
	}
	var body converseBody
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return matrixtest.Call{}, err
	}
	last := "assistant"
	for _, m := range body.Messages {
		if m.Role == last || len(m.Content) == 0 {
			return matrixtest.Call{}, errors.New("the sides do not take turns")
		}
		last = m.Role
	}
	call := body.call()
	call.Model, call.Stream = model, op == "-stream"
	auth := r.Header.Get("Authorization")
	call.Known = strings.Contains(auth, "Credential="+keyID+"/") && strings.Contains(auth, "/us-west-2/bedrock/aws4_request") ||
		auth == "Bearer bedrock-api-key-example"
	return call, nil
}

// call is what the body asks for.
func (b *converseBody) call() matrixtest.Call {
	var c matrixtest.Call
	for _, s := range b.System {
		c.Messages = append(c.Messages, llm.Message{Role: "system", Content: s.Text})
	}
	for _, m := range b.Messages {
		out := llm.Message{Role: m.Role}
		for _, p := range m.Content {
			switch {
			case p.Text != nil:
				out.Content += *p.Text
			case p.ReasoningContent != nil:
				if t := p.ReasoningContent.ReasoningText; t != nil && out.Content == "" {
					out.Opaque, _ = json.Marshal(t.Signature)
				}
			case p.Image != nil:
				out.Images = append(out.Images, llm.Image{Data: p.Image.Source.Bytes, Media: "image/" + p.Image.Format})
			case p.ToolUse != nil:
				out.ToolCalls = append(out.ToolCalls, llm.ToolCall{ID: p.ToolUse.ToolUseID, Name: p.ToolUse.Name, Arguments: string(p.ToolUse.Input)})
			case p.ToolResult != nil:
				c.Messages = append(c.Messages, llm.Message{Role: "tool", ToolCallID: p.ToolResult.ToolUseID, Content: p.ToolResult.Content[0].Text, IsError: p.ToolResult.Status == "error"})
			}
		}
		if out.Content != "" || out.Images != nil || out.ToolCalls != nil {
			c.Messages = append(c.Messages, out)
		}
	}
	s := &c.Sampling
	s.MaxTokens, s.Temperature, s.TopP, s.Stop = b.InferenceConfig.MaxTokens, b.InferenceConfig.Temperature, b.InferenceConfig.TopP, b.InferenceConfig.StopSequences
	s.Extra = b.AdditionalModelRequestFields
	if t := b.ToolConfig; t != nil {
		for _, x := range t.Tools {
			c.Tools = append(c.Tools, llm.Tool{Name: x.ToolSpec.Name, Description: x.ToolSpec.Description, Parameters: x.ToolSpec.InputSchema.JSON, Strict: x.ToolSpec.Strict})
		}
		for kind, v := range t.ToolChoice {
			c.ToolChoice = map[string]string{"any": "required", "tool": v.Name, "auto": "auto"}[kind]
		}
	}
	if o := b.OutputConfig; o != nil {
		s.Effort = o.Effort
		if o.TextFormat != nil {
			c.Format = &llm.Format{Schema: json.RawMessage(o.TextFormat.Structure.JSONSchema.Schema), Name: o.TextFormat.Structure.JSONSchema.Name}
		}
	}
	return c
}

type m = map[string]any

// finish is a word for an end in Converse's own words.
func finish(word string) string {
	if own, ok := map[string]string{"": "end_turn", "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[word]; ok {
		return own
	}
	return word
}

func usageOf(u llm.Usage) m {
	out := m{"inputTokens": u.PromptTokens - u.CachedTokens - u.CacheWriteTokens, "outputTokens": u.CompletionTokens, "totalTokens": u.PromptTokens + u.CompletionTokens}
	if u.CachedTokens > 0 {
		out["cacheReadInputTokens"] = u.CachedTokens
	}
	if u.CacheWriteTokens > 0 {
		out["cacheWriteInputTokens"] = u.CacheWriteTokens
	}
	return out
}

// signature is that of what the model reasoned.
func signature(c *llm.Choice) any {
	if c.Opaque == nil {
		return "c2ln"
	}
	return c.Opaque
}

func write(_ *matrixtest.Call, rep *llm.Reply) (http.Header, []byte) {
	head := http.Header{"Content-Type": {"application/json"}}
	if len(rep.Choices) == 0 {
		return head, []byte("{}")
	}
	c := &rep.Choices[0]
	content := []m{}
	if c.Reasoning != "" {
		content = append(content, m{"reasoningContent": m{"reasoningText": m{"text": c.Reasoning, "signature": signature(c)}}})
	}
	if c.Text != "" {
		content = append(content, m{"text": c.Text})
	}
	for _, t := range c.ToolCalls {
		content = append(content, m{"toolUse": m{"toolUseId": t.ID, "name": t.Name, "input": json.RawMessage(t.Arguments)}})
	}
	body, err := json.Marshal(m{
		"output":     m{"message": m{"role": "assistant", "content": content}},
		"stopReason": finish(c.Finish), "usage": usageOf(rep.Usage), "metrics": m{"latencyMs": 7},
	})
	if err != nil {
		panic(err)
	}
	return head, body
}

func events(_ *matrixtest.Call, rep *llm.Reply) (http.Header, [][]byte) {
	head := http.Header{"Content-Type": {"application/vnd.amazon.eventstream"}}
	if len(rep.Choices) == 0 {
		return head, nil
	}
	out := [][]byte{event("messageStart", m{"role": "assistant"})}
	block := 0
	delta := func(d m) { out = append(out, event("contentBlockDelta", m{"contentBlockIndex": block, "delta": d})) }
	stop := func() {
		out = append(out, event("contentBlockStop", m{"contentBlockIndex": block}))
		block++
	}
	c := &rep.Choices[0]
	if c.Reasoning != "" {
		for _, part := range matrixtest.Pieces(c.Reasoning) {
			delta(m{"reasoningContent": m{"text": part}})
		}
		delta(m{"reasoningContent": m{"signature": signature(c)}})
		stop()
	}
	if c.Text != "" {
		for _, part := range matrixtest.Pieces(c.Text) {
			delta(m{"text": part})
		}
		stop()
	}
	for _, t := range c.ToolCalls {
		out = append(out, event("contentBlockStart", m{"contentBlockIndex": block, "start": m{"toolUse": m{"toolUseId": t.ID, "name": t.Name}}}))
		for i := range len(t.Arguments) {
			delta(m{"toolUse": m{"input": t.Arguments[i : i+1]}})
		}
		stop()
	}
	return head, append(out,
		event("messageStop", m{"stopReason": finish(c.Finish)}),
		event("metadata", m{"usage": usageOf(rep.Usage), "metrics": m{"latencyMs": 7}}))
}

func event(kind string, payload m) []byte {
	b, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	return frame("event", kind, b)
}

// exception is an error in the middle of a stream.
func exception(kind, payload string) string { return string(frame("exception", kind, []byte(payload))) }

// frame is a message of the event stream encoding.
func frame(typ, kind string, payload []byte) []byte {
	msg := eventstream.Message{Payload: payload}
	for k, v := range map[string]string{":message-type": typ, ":" + typ + "-type": kind, ":content-type": "application/json"} {
		msg.Headers.Set(k, eventstream.StringValue(v))
	}
	var b bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&b, msg); err != nil {
		panic(err)
	}
	return b.Bytes()
}
