package sagemaker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/smithy-go/eventstream"

	"matrix/llm"
	"matrix/matrixtest"
)

const endpoint = "llama-3-endpoint"

// codec speaks InvokeEndpoint and InvokeEndpointWithResponseStream before a
// container that takes the OpenAI schema:
// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_ResponseStream.html
// https://docs.djl.ai/docs/serving/serving/docs/lmi/user_guides/chat_input_output_schema.html
var codec = matrixtest.Codec{Read: read, Write: write, Events: events}

func start(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Wire {
	return dial(t, Config{}, codec.Serve(t, secret, answer))
}

func dial(t testing.TB, c Config, url string) llm.Wire {
	t.Helper()
	c.Endpoint, c.Model = endpoint, "llama"
	w, err := c.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

type m = map[string]any

// invocation is the body for the container.
type invocation struct {
	Model    string
	Messages []struct {
		Role       string
		Content    json.RawMessage
		ToolCallID string `json:"tool_call_id"`
		Name       string
		ToolCalls  []struct {
			ID, Type string
			Function struct{ Name, Arguments string }
		} `json:"tool_calls"`
	}
	Prompt string
	Input  []string
	Tools  []struct {
		Type     string
		Function llm.Tool
	}
	ToolChoice     json.RawMessage `json:"tool_choice"`
	ResponseFormat *struct {
		Type       string
		JSONSchema struct {
			Name   string
			Schema json.RawMessage
			Strict bool
		} `json:"json_schema"`
	} `json:"response_format"`
	Temperature      *float64
	TopP             *float64 `json:"top_p"`
	MaxTokens        int      `json:"max_tokens"`
	Stop             []string
	Seed             *int64
	N                int
	PresencePenalty  *float64 `json:"presence_penalty"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	Effort           string   `json:"reasoning_effort"`
	Logprobs         any
	TopLogprobs      int `json:"top_logprobs"`
	Stream           bool
	StreamOptions    any `json:"stream_options"`
	EncodingFormat   any `json:"encoding_format"`
	XTest            any `json:"x_test"`
}

func read(r *http.Request, raw []byte) (matrixtest.Call, error) {
	var c matrixtest.Call
	name, op, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/endpoints/"), "/")
	if name != endpoint || op != "invocations" && op != "invocations-response-stream" || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		return c, errors.New("not an invocation")
	}
	var b invocation
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return c, err
	}
	if c.Stream = op != "invocations"; c.Stream != b.Stream {
		return c, fmt.Errorf("stream is %v in the body", b.Stream)
	}
	c.Model, c.Prompt, c.Input = b.Model, b.Prompt, b.Input
	for _, x := range b.Messages {
		out := llm.Message{Role: x.Role, ToolCallID: x.ToolCallID}
		if err := content(x.Content, &out); err != nil {
			return c, err
		}
		for _, t := range x.ToolCalls {
			out.ToolCalls = append(out.ToolCalls, llm.ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: t.Function.Arguments})
		}
		c.Messages = append(c.Messages, out)
	}
	for _, t := range b.Tools {
		c.Tools = append(c.Tools, t.Function)
	}
	if len(b.ToolChoice) > 0 && json.Unmarshal(b.ToolChoice, &c.ToolChoice) != nil {
		var one struct{ Function struct{ Name string } }
		if err := json.Unmarshal(b.ToolChoice, &one); err != nil {
			return c, err
		}
		c.ToolChoice = one.Function.Name
	}
	switch f := b.ResponseFormat; {
	case f != nil && f.Type == "json_object":
		c.Format = &llm.Format{JSON: true}
	case f != nil:
		c.Format = &llm.Format{Schema: f.JSONSchema.Schema, Name: f.JSONSchema.Name}
	}
	c.Sampling = llm.Sampling{
		Temperature: b.Temperature, TopP: b.TopP, MaxTokens: b.MaxTokens, Stop: b.Stop, Seed: b.Seed, N: b.N,
		PresencePenalty: b.PresencePenalty, FrequencyPenalty: b.FrequencyPenalty, Effort: b.Effort, Logprobs: b.TopLogprobs,
	}
	if b.XTest != nil {
		c.Sampling.Extra = m{"x_test": b.XTest}
	}
	c.Key = r.Header.Get("X-Amzn-Sagemaker-Inference-Id")
	auth := r.Header.Get("Authorization")
	c.Known = strings.Contains(auth, "Credential="+keyID+"/") && strings.Contains(auth, "/us-west-2/sagemaker/aws4_request")
	return c, nil
}

// content reads a text, or parts.
func content(raw json.RawMessage, out *llm.Message) error {
	if len(raw) == 0 || raw[0] != '[' {
		return json.Unmarshal(append(raw, []byte("null")[min(4, len(raw)*4):]...), &out.Content)
	}
	var parts []struct {
		Type, Text string
		ImageURL   struct{ URL string } `json:"image_url"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	for _, p := range parts {
		if p.Type == "text" {
			out.Content += p.Text
			continue
		}
		img := llm.Image{URL: p.ImageURL.URL}
		if rest, ok := strings.CutPrefix(img.URL, "data:"); ok {
			media, data, _ := strings.Cut(rest, ";base64,")
			b, err := base64.StdEncoding.DecodeString(data)
			if err != nil {
				return err
			}
			img = llm.Image{Data: b, Media: media}
		}
		out.Images = append(out.Images, img)
	}
	return nil
}

func usageOf(u llm.Usage) m {
	return m{
		"prompt_tokens": u.PromptTokens, "completion_tokens": u.CompletionTokens, "total_tokens": u.PromptTokens + u.CompletionTokens,
		"prompt_tokens_details": m{"cached_tokens": u.CachedTokens}, "completion_tokens_details": m{"reasoning_tokens": u.ReasoningTokens},
	}
}

func calls(c *llm.Choice) (out []m) {
	for i, t := range c.ToolCalls {
		out = append(out, m{"index": i, "id": t.ID, "type": "function", "function": m{"name": t.Name, "arguments": t.Arguments}})
	}
	return out
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func write(c *matrixtest.Call, rep *llm.Reply) (http.Header, []byte) {
	head := http.Header{"Content-Type": {"application/json"}}
	body := m{"id": "x", "model": rep.Model, "usage": usageOf(rep.Usage)}
	switch {
	case c.Input != nil:
		data := []m{}
		for i, v := range rep.Vectors {
			data = append(data, m{"index": i, "embedding": v})
		}
		body["data"] = data
	default:
		choices := []m{}
		for i := range rep.Choices {
			k := &rep.Choices[i]
			one := m{"index": i, "finish_reason": k.Finish}
			if c.Prompt != "" {
				one["text"] = k.Text
			} else {
				one["message"] = m{"role": "assistant", "content": k.Text, "reasoning_content": k.Reasoning, "tool_calls": calls(k)}
			}
			choices = append(choices, one)
		}
		body["choices"] = choices
	}
	return head, encoded(body)
}

// events cuts the server-sent events of the container anywhere, as the service
// does.
func events(c *matrixtest.Call, rep *llm.Reply) (http.Header, [][]byte) {
	var out [][]byte
	send := func(v any) {
		text := matrixtest.SSE("", string(encoded(v)))
		out = append(out, append(part(text[:len(text)/2]), part(text[len(text)/2:])...))
	}
	chunk := func(i int, delta m, finish any) {
		send(m{"model": rep.Model, "choices": []m{{"index": i, "delta": delta, "finish_reason": finish}}})
	}
	for i := range rep.Choices {
		k := &rep.Choices[i]
		if k.Reasoning != "" {
			for _, p := range matrixtest.Pieces(k.Reasoning) {
				chunk(i, m{"reasoning_content": p}, nil)
			}
		}
		for _, p := range matrixtest.Pieces(k.Text) {
			chunk(i, m{"content": p}, nil)
		}
		for n, t := range k.ToolCalls {
			chunk(i, m{"tool_calls": []m{{"index": n, "id": t.ID, "type": "function", "function": m{"name": t.Name, "arguments": ""}}}}, nil)
			for _, p := range t.Arguments {
				chunk(i, m{"tool_calls": []m{{"index": n, "function": m{"arguments": string(p)}}}}, nil)
			}
		}
		chunk(i, m{}, k.Finish)
	}
	send(m{"model": rep.Model, "choices": []m{}, "usage": usageOf(rep.Usage)})
	head := http.Header{"Content-Type": {"application/vnd.amazon.eventstream"}, "X-Amzn-Sagemaker-Content-Type": {"text/event-stream"}}
	return head, append(out, part([]byte("data: [DONE]\n\n")))
}

func part(b []byte) []byte { return frame("event", "PayloadPart", "application/octet-stream", b) }

// exception is an error in the middle of a stream.
func exception(kind, payload string) string {
	return string(frame("exception", kind, "application/json", []byte(payload)))
}

// frame is a message of the event stream encoding:
// https://smithy.io/2.0/aws/amazon-eventstream.html
func frame(typ, kind, media string, payload []byte) []byte {
	msg := eventstream.Message{Payload: payload}
	for k, v := range map[string]string{":message-type": typ, ":" + typ + "-type": kind, ":content-type": media} {
		msg.Headers.Set(k, eventstream.StringValue(v))
	}
	var b bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&b, msg); err != nil {
		panic(err)
	}
	return b.Bytes()
}
