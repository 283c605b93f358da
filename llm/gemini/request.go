package gemini

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"matrix/llm"
)

// content is an entry of a conversation.
type content struct {
	Role  string `json:"role,omitempty"` // user or model
	Parts []part `json:"parts"`
}

// part is a piece of a content: one of its fields is set, and a signature
// beside it.
type part struct {
	Text       *string   `json:"text,omitempty"` // which may be empty where it is signed
	Thought    bool      `json:"thought,omitempty"`
	InlineData *blob     `json:"inlineData,omitempty"`
	FileData   *file     `json:"fileData,omitempty"`
	Call       *call     `json:"functionCall,omitempty"`
	Response   *response `json:"functionResponse,omitempty"`
	Signature  string    `json:"thoughtSignature,omitempty"`
}

type blob struct {
	Media string `json:"mimeType"`
	Data  []byte `json:"data"`
}

type file struct {
	Media string `json:"mimeType"`
	URI   string `json:"fileUri"`
}

type call struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args"`
}

type response struct {
	ID       string         `json:"id,omitempty"`
	Name     string         `json:"name"`
	Response map[string]any `json:"response"`
}

type declaration struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parametersJsonSchema,omitempty"`
}

// unsupported refuses what the service does not have.
func (w *Driver) unsupported(r *llm.Request) *llm.Failure {
	if r.Prompt != "" {
		return llm.Unsupported(w.conn.Base, "Gemini has no completions of a prompt", "send a chat")
	}
	if r.Input != nil && llm.Streams(r) {
		return llm.Unsupported(w.conn.Base, "embeddings cannot be streamed", "leave out stream")
	}
	if len(r.Input) > 1 && w.config.Vertex && single(w.config.Model) {
		return llm.Unsupported(w.conn.Base, "this model embeds one text a call on Vertex AI", "send the texts one by one")
	}
	return nil
}

// single says that a model of Vertex AI embeds one text a call, as Google's own
// client knows it.
func single(model string) bool {
	return strings.Contains(model, "gemini") && model != "gemini-embedding-001" || strings.Contains(model, "maas")
}

// embedding makes the body of a call for vectors, and says which method takes it.
func (w *Driver) embedding(r *llm.Request) (body []byte, params json.RawMessage, method string, err error) {
	params = json.RawMessage("{}")
	var o struct {
		Task       string `json:"taskType,omitempty"`
		Title      string `json:"title,omitempty"`
		Dimensions *int32 `json:"outputDimensionality,omitempty"`

		// Of Vertex AI alone.
		Media    string `json:"mimeType,omitempty"`
		Truncate *bool  `json:"autoTruncate,omitempty"`
		OCR      *bool  `json:"documentOcr,omitempty"`
		Audio    *bool  `json:"audioTrackExtraction,omitempty"`
	}
	if len(r.Sampling.Extra) > 0 {
		if params, err = json.Marshal(r.Sampling.Extra); err == nil {
			err = json.Unmarshal(params, &o)
		}
		if err != nil {
			return nil, nil, "", err
		}
	}
	if !w.config.Vertex && (o.Media != "" || o.Truncate != nil || o.OCR != nil || o.Audio != nil) {
		return nil, nil, "", errors.New("mimeType, autoTruncate, documentOcr and audioTrackExtraction are Vertex AI's")
	}
	said := func(i int) content { return content{Role: "user", Parts: []part{{Text: &r.Input[i]}}} }
	b := map[string]any{}
	switch {
	case !w.config.Vertex:
		method = "batchEmbedContents"
		type request struct {
			Model      string  `json:"model"`
			Content    content `json:"content"`
			Task       string  `json:"taskType,omitempty"`
			Title      string  `json:"title,omitempty"`
			Dimensions *int32  `json:"outputDimensionality,omitempty"`
		}
		rs := make([]request, len(r.Input))
		for i := range rs {
			rs[i] = request{w.model(), said(i), o.Task, o.Title, o.Dimensions}
		}
		b["requests"] = rs
	case single(w.config.Model):
		method = "embedContent"
		b["content"] = said(0)
		o.Media = ""
		if c, err := json.Marshal(o); err == nil && string(c) != "{}" {
			b["embedContentConfig"] = json.RawMessage(c)
		}
	default:
		method = "predict"
		type instance struct {
			Content string `json:"content"`
			Task    string `json:"task_type,omitempty"`
			Title   string `json:"title,omitempty"`
			Media   string `json:"mimeType,omitempty"`
		}
		is := make([]instance, len(r.Input))
		for i := range is {
			is[i] = instance{r.Input[i], o.Task, o.Title, o.Media}
		}
		b["instances"] = is
		parameters := map[string]any{}
		if o.Dimensions != nil {
			parameters["outputDimensionality"] = *o.Dimensions
		}
		if o.Truncate != nil {
			parameters["autoTruncate"] = *o.Truncate
		}
		if len(parameters) > 0 {
			b["parameters"] = parameters
		}
	}
	body, err = json.Marshal(b)
	return body, params, method, err
}

// body makes the body of a chat, and the parameters in it.
func (w *Driver) body(r *llm.Request) (body []byte, params json.RawMessage, f *llm.Failure) {
	generation, f := w.generation(r)
	if f != nil {
		return nil, nil, f
	}
	b := map[string]any{}
	if len(generation) > 0 {
		b["generationConfig"] = generation
	}
	if len(r.Tools) > 0 && r.ToolChoice != "" {
		b["toolConfig"] = map[string]any{"functionCallingConfig": choice(r.ToolChoice)}
	}
	llm.Overlay(b, r.Sampling.Extra)
	params, err := json.Marshal(b)
	if err != nil {
		return nil, nil, llm.Unsupported(w.conn.Base, "the request cannot be written as JSON: "+err.Error(), "check the schema of the format, and extra_body")
	}
	system, contents := w.contents(r.Messages)
	if len(contents) == 0 {
		return nil, nil, llm.Unsupported(w.conn.Base, "the conversation is empty", "a call needs a message of the user's")
	}
	b["contents"] = contents
	if system != nil {
		b["systemInstruction"] = system
	}
	if len(r.Tools) > 0 {
		ds := make([]declaration, len(r.Tools))
		for i, t := range r.Tools {
			if len(t.Parameters) > 0 && !json.Valid(t.Parameters) {
				return nil, nil, llm.Unsupported(w.conn.Base, fmt.Sprintf("the parameters of tool %q are not JSON", t.Name), "give a JSON Schema")
			}
			ds[i] = declaration{t.Name, t.Description, t.Parameters}
		}
		more, _ := b["tools"].([]any) // of extra_body: the service's own tools
		b["tools"] = append([]any{map[string]any{"functionDeclarations": ds}}, more...)
	}
	if body, err = json.Marshal(b); err != nil {
		f = llm.Unsupported(w.conn.Base, "the request cannot be written as JSON: "+err.Error(), "check the schemas of tools")
		f.Params = params
	}
	return body, params, f
}

// generation is the generationConfig of a call.
func (w *Driver) generation(r *llm.Request) (map[string]any, *llm.Failure) {
	s := &r.Sampling
	g := map[string]any{}
	float := func(key string, v *float64) {
		if v != nil {
			g[key] = *v
		}
	}
	float("temperature", s.Temperature)
	float("topP", s.TopP)
	float("presencePenalty", s.PresencePenalty)
	float("frequencyPenalty", s.FrequencyPenalty)
	if s.MaxTokens > 0 {
		g["maxOutputTokens"] = s.MaxTokens
	}
	if len(s.Stop) > 0 {
		g["stopSequences"] = s.Stop
	}
	if s.Seed != nil {
		g["seed"] = fold(*s.Seed)
	}
	if s.N > 1 {
		g["candidateCount"] = s.N
	}
	if s.Logprobs > 0 {
		g["responseLogprobs"], g["logprobs"] = true, s.Logprobs
	}
	if s.Effort != "" {
		g["thinkingConfig"] = map[string]any{"thinkingLevel": strings.ToUpper(s.Effort)}
	}
	format, err := llm.Wanted(r)
	if err == nil && format != nil {
		err = shape(g, format)
	}
	if err != nil {
		return nil, llm.UnsupportedFormat(r, w.conn.Base, err.Error(), "give a JSON Schema or a choice, or leave out enforce")
	}
	return g, nil
}

// shape asks for a format.
func shape(g map[string]any, f *llm.Format) error {
	switch {
	case len(f.Schema) > 0:
		g["responseMimeType"], g["responseJsonSchema"] = "application/json", f.Schema
	case f.JSON:
		g["responseMimeType"] = "application/json"
	case len(f.Choice) > 0:
		g["responseMimeType"] = "text/x.enum"
		g["responseSchema"] = map[string]any{"type": "STRING", "enum": f.Choice}
	default:
		return errors.New("Gemini has no structured output but by JSON Schema and choice")
	}
	return nil
}

// fold makes a seed one of 31 bits, which is what the service takes.
func fold(seed int64) int64 {
	if seed >= math.MinInt32 && seed <= math.MaxInt32 {
		return seed
	}
	return (seed ^ seed>>32) & math.MaxInt32
}

func choice(name string) map[string]any {
	switch name {
	case "auto", "none":
		return map[string]any{"mode": strings.ToUpper(name)}
	case "required":
		return map[string]any{"mode": "ANY"}
	}
	return map[string]any{"mode": "ANY", "allowedFunctionNames": []string{name}}
}

// contents makes the service's conversation of ours. System messages go in
// front; results of neighbouring calls are one content, as the service wants it.
func (w *Driver) contents(ms []llm.Message) (system *content, out []content) {
	for i := range ms {
		m := &ms[i]
		c := content{Role: "user"}
		switch m.Role {
		case "system":
			if system == nil {
				system = &content{}
			}
			system.Parts = append(system.Parts, part{Text: &m.Content})
			continue
		case "tool":
			c.Parts = []part{{Response: &response{w.id(m.ToolCallID), m.ToolName, result(m)}}}
			if n := len(out); n > 0 && out[n-1].Parts[0].Response != nil {
				out[n-1].Parts = append(out[n-1].Parts, c.Parts...)
				continue
			}
		default:
			if m.Role == "assistant" {
				c.Role = "model"
			}
			c.Parts = w.speech(m)
		}
		if len(c.Parts) > 0 {
			out = append(out, c)
		}
	}
	return system, out
}

// id is that of a call, where the service takes one.
func (w *Driver) id(id string) string {
	if w.config.Vertex {
		return ""
	}
	return id
}

// result is what a tool said, as the object that the service wants: output is what it
// gives, and error why it could not.
func result(m *llm.Message) map[string]any {
	if m.IsError {
		return map[string]any{"error": m.Content}
	}
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(m.Content), &object) == nil && object != nil {
		out := make(map[string]any, len(object))
		for k, v := range object {
			out[k] = v
		}
		return out
	}
	return map[string]any{"output": m.Content}
}

// speech is what a user or an assistant says.
func (w *Driver) speech(m *llm.Message) []part {
	if out := w.signed(m); out != nil {
		return out
	}
	var out []part
	if m.Content != "" {
		out = append(out, part{Text: &m.Content})
	}
	for i := range m.Images {
		img := &m.Images[i]
		if len(img.Data) > 0 {
			out = append(out, part{InlineData: &blob{img.Media, img.Data}})
			continue
		}
		out = append(out, part{FileData: &file{media(img), img.URL}})
	}
	for i := range m.ToolCalls {
		p := w.call(&m.ToolCalls[i])
		if w.newer && i == 0 { // of parallel calls the first is signed
			p.Signature = unsigned
		}
		out = append(out, p)
	}
	return out
}

func (w *Driver) call(c *llm.ToolCall) part {
	return part{Call: &call{w.id(c.ID), c.Name, c.Object()}}
}

// media is the type of an image at a URL, which the service wants to be told.
func media(img *llm.Image) string {
	if img.Media != "" {
		return img.Media
	}
	name, _, _ := strings.Cut(img.URL, "?")
	switch strings.ToLower(path.Ext(name)) {
	case ".png":
		return "image/png"
	case ".webp":
		return "image/webp"
	case ".gif":
		return "image/gif"
	}
	return "image/jpeg"
}
