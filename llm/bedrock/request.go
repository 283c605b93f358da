package bedrock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	smithy "github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"matrix/internal/jsontext"
	"matrix/llm"
)

// replyTool is the tool by which a model without structured output replies.
const replyTool = "reply"

// refusal is what Converse has no way to say.
type refusal struct{ msg, hint string }

func (r *refusal) Error() string { return r.msg + ": " + r.hint }

// formatRefusal is the refusal of a format that no reply can have.
type formatRefusal struct{ error }

func (r *formatRefusal) Unwrap() error { return r.error }

// input makes a Converse call of r. params is what is sent beside the
// conversation. An error is a *refusal.
func (w *wire) input(r *llm.Request) (in *bedrockruntime.ConverseInput, params json.RawMessage, err error) {
	s := &r.Sampling
	switch {
	case r.Input != nil:
		return nil, nil, &refusal{"Converse brings no embeddings", "use another kind of model for them"}
	case r.Messages == nil:
		return nil, nil, &refusal{"Converse continues no texts", "ask in messages"}
	case s.PresencePenalty != nil || s.FrequencyPenalty != nil:
		return nil, nil, &refusal{"Converse takes no penalties", "leave out presence_penalty and frequency_penalty, or give the model's own in extra_body"}
	case s.Logprobs > 0:
		return nil, nil, &refusal{"Converse brings no logprobs", "leave out logprobs"}
	}
	in = &bedrockruntime.ConverseInput{ModelId: &w.model, GuardrailConfig: w.guardrail}
	if in.System, in.Messages, err = conversation(r.Messages); err != nil {
		return nil, nil, err
	}
	if s.Temperature != nil || s.TopP != nil || s.MaxTokens > 0 || len(s.Stop) > 0 {
		c := &types.InferenceConfiguration{Temperature: float(s.Temperature), TopP: float(s.TopP), StopSequences: s.Stop}
		if s.MaxTokens > 0 {
			n := int32(min(s.MaxTokens, 1<<31-1))
			c.MaxTokens = &n
		}
		in.InferenceConfig = c
	}
	if len(s.Extra) > 0 {
		if in.AdditionalModelRequestFields, err = document(s.Extra); err != nil {
			return nil, nil, &refusal{"extra_body cannot be sent", err.Error()}
		}
	}
	if s.Effort != "" {
		in.OutputConfig = &types.OutputConfig{Effort: &s.Effort}
	}
	if in.ToolConfig, err = tools(r); err != nil {
		return nil, nil, err
	}
	f, err := wanted(r)
	if err != nil {
		return nil, nil, err
	}
	if f != nil {
		if err := w.shape(in, f); err != nil {
			return nil, nil, err
		}
	}
	return in, said(in, s), nil
}

func float(v *float64) *float32 {
	if v == nil {
		return nil
	}
	f := float32(*v)
	return &f
}

// conversation makes system blocks and messages of ms. Converse wants the sides
// to take turns, so neighbours of one side are one message.
func conversation(ms []llm.Message) (system []types.SystemContentBlock, out []types.Message, err error) {
	for i := range ms {
		m := &ms[i]
		if m.Role == "system" {
			if m.Content != "" {
				system = append(system, &types.SystemContentBlockMemberText{Value: m.Content})
			}
			continue
		}
		side := types.ConversationRoleUser
		if m.Role == "assistant" {
			side = types.ConversationRoleAssistant
		}
		content, err := blocks(m)
		if err != nil {
			return nil, nil, err
		}
		switch n := len(out); {
		case len(content) == 0: // Converse refuses empty texts
		case n > 0 && out[n-1].Role == side:
			out[n-1].Content = append(out[n-1].Content, content...)
		default:
			out = append(out, types.Message{Role: side, Content: content})
		}
	}
	return system, out, nil
}

func blocks(m *llm.Message) ([]types.ContentBlock, error) {
	if m.Role == "tool" {
		text := m.Content
		return []types.ContentBlock{&types.ContentBlockMemberToolResult{Value: types.ToolResultBlock{
			ToolUseId: &m.ToolCallID, Content: []types.ToolResultContentBlock{&types.ToolResultContentBlockMemberText{Value: text}},
		}}}, nil
	}
	var out []types.ContentBlock
	if m.Content != "" {
		out = append(out, &types.ContentBlockMemberText{Value: m.Content})
	}
	for i := range m.Images {
		p := &m.Images[i]
		if p.Data == nil {
			return nil, &refusal{"Converse fetches no images", "give the image's file, not its URL"}
		}
		format, ok := map[string]types.ImageFormat{
			"image/png": types.ImageFormatPng, "image/jpeg": types.ImageFormatJpeg,
			"image/gif": types.ImageFormatGif, "image/webp": types.ImageFormatWebp,
		}[p.Media]
		if !ok {
			return nil, &refusal{fmt.Sprintf("Converse takes no images of %q", p.Media), "make them png, jpeg, gif or webp"}
		}
		out = append(out, &types.ContentBlockMemberImage{Value: types.ImageBlock{Format: format, Source: &types.ImageSourceMemberBytes{Value: p.Data}}})
	}
	for i := range m.ToolCalls {
		out = append(out, use(&m.ToolCalls[i]))
	}
	return reasoned(m, out), nil
}

func use(c *llm.ToolCall) types.ContentBlock {
	return &types.ContentBlockMemberToolUse{Value: types.ToolUseBlock{ToolUseId: &c.ID, Name: &c.Name, Input: arguments(c.Arguments)}}
}

// arguments is what a model gave to a tool. Converse wants an object: what is
// none goes into one.
func arguments(text string) smithy.Interface {
	b := []byte(strings.TrimSpace(text))
	if !json.Valid(b) || b[0] != '{' {
		if len(b) == 0 {
			return raw("{}")
		}
		return raw(append(jsontext.AppendString([]byte(`{"arguments":`), text), '}'))
	}
	return raw(b)
}

func tools(r *llm.Request) (*types.ToolConfiguration, error) {
	if len(r.Tools) == 0 {
		return nil, nil
	}
	c := &types.ToolConfiguration{}
	switch r.ToolChoice {
	case "":
	case "auto":
		c.ToolChoice = &types.ToolChoiceMemberAuto{}
	case "required":
		c.ToolChoice = &types.ToolChoiceMemberAny{}
	case "none":
		for i := range r.Messages {
			if r.Messages[i].Role == "tool" || len(r.Messages[i].ToolCalls) > 0 {
				return nil, &refusal{"Converse cannot forbid the tools of a conversation that has used some", "leave out tool choice none"}
			}
		}
		return nil, nil
	default:
		c.ToolChoice = &types.ToolChoiceMemberTool{Value: types.SpecificToolChoice{Name: &r.ToolChoice}}
	}
	for i := range r.Tools {
		t := &r.Tools[i]
		spec := types.ToolSpecification{Name: &t.Name, InputSchema: &types.ToolInputSchemaMemberJson{Value: raw(`{"type":"object"}`)}}
		if len(t.Parameters) > 0 {
			if !json.Valid(t.Parameters) {
				return nil, &refusal{fmt.Sprintf("the parameters of tool %q are not JSON", t.Name), "give a JSON Schema"}
			}
			spec.InputSchema = &types.ToolInputSchemaMemberJson{Value: raw(t.Parameters)}
		}
		if t.Description != "" {
			spec.Description = &t.Description
		}
		if t.Strict {
			spec.Strict = &t.Strict
		}
		c.Tools = append(c.Tools, &types.ToolMemberToolSpec{Value: spec})
	}
	return c, nil
}

// wanted is what the reply must look like: Format, or what response_format says
// in OpenAI's words. nil for any text.
func wanted(r *llm.Request) (*llm.Format, error) {
	if r.Format != nil {
		return r.Format, nil
	}
	if r.Sampling.ResponseFormat == nil {
		return nil, nil
	}
	var f struct {
		Type   string `json:"type"`
		Schema struct {
			Name   string          `json:"name"`
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	b, err := json.Marshal(r.Sampling.ResponseFormat)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	switch {
	case err == nil && f.Type == "text":
		return nil, nil
	case err == nil && f.Type == "json_schema" && len(f.Schema.Schema) > 0:
		return &llm.Format{Schema: f.Schema.Schema, Name: f.Schema.Name}, nil
	}
	return nil, &refusal{"Converse does not know this response_format", "it takes {type: json_schema, json_schema: {name: ..., schema: ...}}"}
}

// shape asks for a reply of a format:
// https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
func (w *wire) shape(in *bedrockruntime.ConverseInput, f *llm.Format) error {
	if len(f.Schema) == 0 {
		return &formatRefusal{&refusal{"Converse holds replies to a JSON Schema only", "give a schema, or leave out enforce: the reply is checked all the same"}}
	}
	if !json.Valid(f.Schema) {
		return &refusal{"the schema is not JSON", "give a JSON Schema"}
	}
	if w.tool {
		if in.ToolConfig != nil {
			return &refusal{"a reply cannot be held to a schema by a tool where there are other tools", "set schema: native, or leave out one of them"}
		}
		name, what := replyTool, "Gives the reply."
		in.ToolConfig = &types.ToolConfiguration{
			Tools: []types.Tool{&types.ToolMemberToolSpec{Value: types.ToolSpecification{
				Name: &name, Description: &what, InputSchema: &types.ToolInputSchemaMemberJson{Value: raw(f.Schema)},
			}}},
			ToolChoice: &types.ToolChoiceMemberTool{Value: types.SpecificToolChoice{Name: &name}},
		}
		return nil
	}
	def := types.JsonSchemaDefinition{Schema: text(f.Schema)}
	if f.Name != "" {
		def.Name = &f.Name
	}
	if in.OutputConfig == nil {
		in.OutputConfig = &types.OutputConfig{}
	}
	in.OutputConfig.TextFormat = &types.OutputFormat{
		Type: types.OutputFormatTypeJsonSchema, Structure: &types.OutputFormatStructureMemberJsonSchema{Value: def},
	}
	return nil
}

func text(b []byte) *string {
	s := string(b)
	return &s
}

// said is the JSON of the parameters of in, in Converse's words.
func said(in *bedrockruntime.ConverseInput, s *llm.Sampling) json.RawMessage {
	type inference struct {
		MaxTokens     *int32   `json:"maxTokens,omitempty"`
		Temperature   *float64 `json:"temperature,omitempty"`
		TopP          *float64 `json:"topP,omitempty"`
		StopSequences []string `json:"stopSequences,omitempty"`
	}
	type schema struct {
		Name   *string         `json:"name,omitempty"`
		Schema json.RawMessage `json:"schema"`
	}
	type output struct {
		Effort *string `json:"effort,omitempty"`
		Schema *schema `json:"jsonSchema,omitempty"`
	}
	p := struct {
		Inference *inference     `json:"inferenceConfig,omitempty"`
		Output    *output        `json:"outputConfig,omitempty"`
		Extra     map[string]any `json:"additionalModelRequestFields,omitempty"`
		Guardrail *string        `json:"guardrail,omitempty"`
	}{Extra: s.Extra}
	if c := in.InferenceConfig; c != nil {
		p.Inference = &inference{c.MaxTokens, s.Temperature, s.TopP, c.StopSequences}
	}
	if o := in.OutputConfig; o != nil {
		p.Output = &output{Effort: o.Effort}
		if o.TextFormat != nil {
			if d, ok := o.TextFormat.Structure.(*types.OutputFormatStructureMemberJsonSchema); ok {
				p.Output.Schema = &schema{d.Value.Name, json.RawMessage(*d.Value.Schema)}
			}
		}
	}
	if g := in.GuardrailConfig; g != nil {
		id := *g.GuardrailIdentifier + ":" + *g.GuardrailVersion
		p.Guardrail = &id
	}
	b, err := json.Marshal(p)
	if err != nil {
		return json.RawMessage("{}") // not so: each part was sent as JSON
	}
	return b
}

// jsonDocument is JSON that is sent as it stands: numbers keep their digits and
// objects their order.
type jsonDocument struct {
	smithy.Interface
	json []byte
}

// MarshalSmithyDocument implements the SDK's marshaler of documents.
func (d jsonDocument) MarshalSmithyDocument() ([]byte, error) { return d.json, nil }

func raw[T ~string | ~[]byte](text T) smithy.Interface {
	return jsonDocument{smithy.NewLazyDocument(nil), []byte(text)}
}

// document is v as a JSON object.
func document(v map[string]any) (smithy.Interface, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, errors.New("cannot be written as JSON: " + err.Error())
	}
	return raw(bytes.TrimSpace(b.Bytes())), nil
}
