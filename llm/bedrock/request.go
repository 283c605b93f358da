package bedrock

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix/llm"
)

// replyTool is the tool by which a model without structured output replies.
const replyTool = "reply"

// input makes a Converse call of r. params is what is sent beside the
// conversation. A failure is one of llm.Unsupported, without an endpoint.
func (w *driver) input(r *llm.Request) (in *request, params json.RawMessage, f *llm.Failure) {
	s := &r.Sampling
	switch {
	case r.Input != nil:
		return nil, nil, llm.Unsupported("", "Converse brings no embeddings", "use another kind of model for them")
	case r.Messages == nil:
		return nil, nil, llm.Unsupported("", "Converse continues no texts", "ask in messages")
	case s.PresencePenalty != nil || s.FrequencyPenalty != nil:
		return nil, nil, llm.Unsupported("", "Converse takes no penalties", "leave out presence_penalty and frequency_penalty, or give the model's own in extra_body")
	case s.Logprobs > 0:
		return nil, nil, llm.Unsupported("", "Converse brings no logprobs", "leave out logprobs")
	}
	in = &request{Guardrail: w.guardrail}
	if in.System, in.Messages, f = conversation(r.Messages); f != nil {
		return nil, nil, f
	}
	if s.Temperature != nil || s.TopP != nil || s.MaxTokens > 0 || len(s.Stop) > 0 {
		c := &inference{Temperature: s.Temperature, TopP: s.TopP, Stop: s.Stop}
		if s.MaxTokens > 0 {
			n := int32(min(s.MaxTokens, 1<<31-1))
			c.MaxTokens = &n
		}
		in.Inference = c
	}
	if len(s.Extra) > 0 {
		var err error
		if in.Extra, err = document(s.Extra); err != nil {
			return nil, nil, llm.Unsupported("", "extra_body cannot be sent", err.Error())
		}
	}
	if s.Effort != "" {
		in.Output = &output{Effort: s.Effort}
	}
	if in.Tools, f = tools(r); f != nil {
		return nil, nil, f
	}
	format, err := llm.Wanted(r)
	if err != nil {
		return nil, nil, llm.Unsupported("", err.Error(), "Converse takes {type: json_schema, json_schema: {name: ..., schema: ...}}")
	}
	if format != nil {
		f = w.shape(in, r, format)
	}
	return in, said(in), f
}

// conversation makes system blocks and messages of ms. Converse wants the sides
// to take turns, so neighbours of one side are one message.
func conversation(ms []llm.Message) (system []block, out []message, f *llm.Failure) {
	for i := range ms {
		m := &ms[i]
		if m.Role == "system" {
			if m.Content != "" {
				system = append(system, block{Text: &m.Content})
			}
			continue
		}
		side := "user"
		if m.Role == "assistant" {
			side = "assistant"
		}
		content, f := blocks(m)
		if f != nil {
			return nil, nil, f
		}
		switch n := len(out); {
		case len(content) == 0: // Converse refuses empty texts
		case n > 0 && out[n-1].Role == side:
			out[n-1].Content = append(out[n-1].Content, content...)
		default:
			out = append(out, message{side, content})
		}
	}
	return system, out, nil
}

func blocks(m *llm.Message) ([]block, *llm.Failure) {
	if m.Role == "tool" {
		r := &toolResult{ID: m.ToolCallID, Content: []block{{Text: &m.Content}}}
		if m.IsError {
			r.Status = "error"
		}
		return []block{{Result: r}}, nil
	}
	var out []block
	if m.Content != "" {
		out = append(out, block{Text: &m.Content})
	}
	for i := range m.Images {
		p := &m.Images[i]
		if p.Data == nil {
			return nil, llm.Unsupported("", "Converse fetches no images", "give the image's file, not its URL")
		}
		format, _ := strings.CutPrefix(p.Media, "image/")
		if !slices.Contains([]string{"png", "jpeg", "gif", "webp"}, format) {
			return nil, llm.Unsupported("", fmt.Sprintf("Converse takes no images of %q", p.Media), "make them png, jpeg, gif or webp")
		}
		img := &image{Format: format}
		img.Source.Bytes = p.Data
		out = append(out, block{Image: img})
	}
	for i := range m.ToolCalls {
		out = append(out, use(&m.ToolCalls[i]))
	}
	return reasoned(m, out), nil
}

func use(c *llm.ToolCall) block {
	return block{ToolUse: &toolUse{c.ID, c.Name, c.Object()}}
}

func tools(r *llm.Request) (*toolConfig, *llm.Failure) {
	if len(r.Tools) == 0 {
		return nil, nil
	}
	c := &toolConfig{}
	switch r.ToolChoice {
	case "":
	case "auto":
		c.Choice = &toolChoice{Auto: &struct{}{}}
	case "required":
		c.Choice = &toolChoice{Any: &struct{}{}}
	case "none":
		for i := range r.Messages {
			if r.Messages[i].Role == "tool" || len(r.Messages[i].ToolCalls) > 0 {
				return nil, llm.Unsupported("", "Converse cannot forbid the tools of a conversation that has used some", "leave out tool choice none")
			}
		}
		return nil, nil
	default:
		c.Choice = &toolChoice{Tool: &named{r.ToolChoice}}
	}
	for i := range r.Tools {
		t := &r.Tools[i]
		spec := toolSpec{Name: t.Name, Description: t.Description, Strict: t.Strict}
		spec.Schema.JSON = json.RawMessage(`{"type":"object"}`)
		if len(t.Parameters) > 0 {
			if !json.Valid(t.Parameters) {
				return nil, llm.Unsupported("", fmt.Sprintf("the parameters of tool %q are not JSON", t.Name), "give a JSON Schema")
			}
			spec.Schema.JSON = t.Parameters
		}
		c.Tools = append(c.Tools, tool{spec})
	}
	return c, nil
}

// shape asks for a reply of a format:
// https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
func (w *driver) shape(in *request, r *llm.Request, f *llm.Format) *llm.Failure {
	if len(f.Schema) == 0 {
		return llm.UnsupportedFormat(r, "", "Converse holds replies to a JSON Schema only", "give a schema (as response_format: type json_schema), or leave out enforce: the reply is checked all the same")
	}
	if !json.Valid(f.Schema) {
		return llm.Unsupported("", "the schema is not JSON", "give a JSON Schema")
	}
	if w.tool {
		if in.Tools != nil {
			return llm.Unsupported("", "a reply cannot be held to a schema by a tool where there are other tools", "set schema: native, or leave out one of them")
		}
		spec := toolSpec{Name: replyTool, Description: "Gives the reply."}
		spec.Schema.JSON = f.Schema
		in.Tools = &toolConfig{[]tool{{spec}}, &toolChoice{Tool: &named{replyTool}}}
		return nil
	}
	if in.Output == nil {
		in.Output = &output{}
	}
	in.Output.Format = &textFormat{Type: "json_schema"}
	in.Output.Format.Structure.Schema = jsonSchema{f.Name, string(f.Schema)}
	return nil
}

// said is the JSON of the parameters of in, in Converse's words.
func said(in *request) json.RawMessage {
	type schema struct {
		Name   string          `json:"name,omitempty"`
		Schema json.RawMessage `json:"schema"`
	}
	type output struct {
		Effort string  `json:"effort,omitempty"`
		Schema *schema `json:"jsonSchema,omitempty"`
	}
	p := struct {
		Inference *inference      `json:"inferenceConfig,omitempty"`
		Output    *output         `json:"outputConfig,omitempty"`
		Extra     json.RawMessage `json:"additionalModelRequestFields,omitempty"`
		Guardrail string          `json:"guardrail,omitempty"`
	}{Inference: in.Inference, Extra: in.Extra}
	if o := in.Output; o != nil {
		p.Output = &output{Effort: o.Effort}
		if o.Format != nil {
			s := o.Format.Structure.Schema
			p.Output.Schema = &schema{s.Name, json.RawMessage(s.Schema)}
		}
	}
	if g := in.Guardrail; g != nil {
		p.Guardrail = g.ID + ":" + g.Version
	}
	b, err := json.Marshal(p)
	if err != nil {
		return json.RawMessage("{}") // not so: each part was sent as JSON
	}
	return b
}

// document is v as a JSON object.
func document(v map[string]any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, errors.New("cannot be written as JSON: " + err.Error())
	}
	return b, nil
}
