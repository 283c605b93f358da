package gemini

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

const (
	testKey     = "AIzaSy-a-key-of-the-tests"
	testToken   = "ya29.a-token-of-the-tests"
	testModel   = "gemini-3-test"
	testProject = "project-1"
)

// fakeBody is a request as the service's reference has it.
type fakeBody struct {
	Contents          []fakeContent
	SystemInstruction *fakeContent
	Tools             []struct {
		FunctionDeclarations []struct {
			Name, Description    string
			ParametersJSONSchema json.RawMessage `json:"parametersJsonSchema"`
		}
	}
	ToolConfig struct {
		FunctionCallingConfig struct {
			Mode                 string
			AllowedFunctionNames []string
		}
	}
	GenerationConfig struct {
		Temperature, TopP, PresencePenalty, FrequencyPenalty *float64
		MaxOutputTokens, CandidateCount, Logprobs            int
		StopSequences                                        []string
		Seed                                                 *int64
		ResponseMimeType                                     string
		ResponseJSONSchema                                   json.RawMessage `json:"responseJsonSchema"`
		ResponseSchema                                       *struct {
			Type string
			Enum []string
		}
		ThinkingConfig struct{ ThinkingLevel string }
	}
	Requests  []struct{ Content fakeContent } // of batchEmbedContents
	Instances []struct{ Content string }      // of predict
}

type fakeContent struct {
	Role  string
	Parts []struct {
		Text       string
		Thought    bool
		InlineData *struct {
			MimeType string
			Data     []byte
		}
		FileData     *struct{ MimeType, FileURI string }
		FunctionCall *struct {
			ID, Name string
			Args     json.RawMessage
		}
		FunctionResponse *struct {
			ID, Name string
			Response map[string]any
		}
		ThoughtSignature string
	}
}

var known = []string{"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}

// place is a backend of the service: where its methods are, and who may call.
type place struct {
	prefix string // of paths
	header string
	value  string
}

var (
	geminiAPI = place{"/v1beta/models/", "X-Goog-Api-Key", testKey}
	vertexAI  = place{"/v1beta1/projects/" + testProject + "/locations/europe-west4/publishers/google/models/", "Authorization", "Bearer " + testToken}
)

func (p place) read(r *http.Request, body []byte) (matrixtest.Call, error) {
	c := matrixtest.Call{Known: r.Header.Get(p.header) == p.value}
	if r.Method == http.MethodGet && r.URL.Path == "/v1beta/models" {
		c.Probe = true
		return c, nil
	}
	method, ok := strings.CutPrefix(r.URL.Path, p.prefix)
	if !ok || r.Method != http.MethodPost {
		return c, errors.New("no such path")
	}
	model, method, _ := strings.Cut(method, ":")
	c.Model = model
	var b fakeBody
	if err := json.Unmarshal(body, &b); err != nil {
		return c, err
	}
	switch method {
	case "batchEmbedContents":
		for _, q := range b.Requests {
			c.Input = append(c.Input, q.Content.Parts[0].Text)
		}
		return c, nil
	case "predict":
		for _, in := range b.Instances {
			c.Input = append(c.Input, in.Content)
		}
		return c, nil
	case "generateContent":
	case "streamGenerateContent":
		c.Stream = true
		if r.URL.Query().Get("alt") != "sse" {
			return c, errors.New("not alt=sse")
		}
	default:
		return c, fmt.Errorf("no method %q", method)
	}
	var all map[string]any
	if err := json.Unmarshal(body, &all); err != nil {
		return c, err
	}
	return c, b.understand(&c, all)
}

// understand reads what was asked for.
func (b *fakeBody) understand(c *matrixtest.Call, all map[string]any) error {
	g, s := &b.GenerationConfig, &c.Sampling
	s.Temperature, s.TopP, s.PresencePenalty, s.FrequencyPenalty = g.Temperature, g.TopP, g.PresencePenalty, g.FrequencyPenalty
	s.MaxTokens, s.N, s.Stop, s.Seed, s.Logprobs = g.MaxOutputTokens, g.CandidateCount, g.StopSequences, g.Seed, g.Logprobs
	s.Effort = strings.ToLower(g.ThinkingConfig.ThinkingLevel)
	if s.Seed != nil && int64(int32(*s.Seed)) != *s.Seed {
		return fmt.Errorf("generation_config.seed: %d is no TYPE_INT32", *s.Seed)
	}
	s.Extra = map[string]any{}
	for k, v := range all {
		if !slices.Contains(known, k) {
			s.Extra[k] = v
		}
	}
	switch g.ResponseMimeType {
	case "":
	case "application/json":
		c.Format = &llm.Format{JSON: g.ResponseJSONSchema == nil, Schema: g.ResponseJSONSchema}
	case "text/x.enum":
		if g.ResponseSchema == nil || g.ResponseSchema.Type != "STRING" {
			return errors.New("text/x.enum needs a schema of strings")
		}
		c.Format = &llm.Format{Choice: g.ResponseSchema.Enum}
	default:
		return fmt.Errorf("responseMimeType %q", g.ResponseMimeType)
	}
	for _, t := range b.Tools {
		for _, d := range t.FunctionDeclarations {
			c.Tools = append(c.Tools, llm.Tool{Name: d.Name, Description: d.Description, Parameters: d.ParametersJSONSchema})
		}
	}
	f := b.ToolConfig.FunctionCallingConfig
	c.ToolChoice = map[string]string{"AUTO": "auto", "NONE": "none", "ANY": "required"}[f.Mode]
	if len(f.AllowedFunctionNames) > 0 {
		c.ToolChoice = f.AllowedFunctionNames[0]
	}
	if b.SystemInstruction != nil {
		for _, p := range b.SystemInstruction.Parts {
			c.Messages = append(c.Messages, llm.Message{Role: "system", Content: p.Text})
		}
	}
	if len(b.Contents) == 0 {
		return errors.New("contents are not specified")
	}
	for i := range b.Contents {
		if err := b.Contents[i].understand(c); err != nil {
			return err
		}
	}
	return nil
}

func (in *fakeContent) understand(c *matrixtest.Call) error {
	role := map[string]string{"user": "user", "model": "assistant"}[in.Role]
	if role == "" || len(in.Parts) == 0 {
		return fmt.Errorf("a content of role %q with %d parts", in.Role, len(in.Parts))
	}
	m := llm.Message{Role: role}
	for i, p := range in.Parts {
		switch {
		case p.FunctionResponse != nil:
			text, _ := p.FunctionResponse.Response["output"].(string)
			cause, failed := p.FunctionResponse.Response["error"].(string)
			c.Messages = append(c.Messages, llm.Message{Role: "tool", Content: text + cause, ToolCallID: p.FunctionResponse.ID, ToolName: p.FunctionResponse.Name, IsError: failed})
			m.Role = ""
		case p.FunctionCall != nil:
			if len(m.ToolCalls) == 0 && p.ThoughtSignature == "" && strings.HasPrefix(c.Model, "gemini-3") {
				return errors.New("Function call is missing a thought_signature in functionCall parts")
			}
			if p.ThoughtSignature != "" && p.ThoughtSignature != unsigned {
				m.Opaque = encode(p.ThoughtSignature)
			}
			m.ToolCalls = append(m.ToolCalls, llm.ToolCall{ID: p.FunctionCall.ID, Name: p.FunctionCall.Name, Arguments: string(p.FunctionCall.Args)})
		case p.InlineData != nil:
			m.Images = append(m.Images, llm.Image{Media: p.InlineData.MimeType, Data: p.InlineData.Data})
		case p.FileData != nil:
			m.Images = append(m.Images, llm.Image{Media: p.FileData.MimeType, URL: p.FileData.FileURI})
		case p.Thought:
			if p.ThoughtSignature == "" {
				return errors.New("thoughts without a signature")
			}
		case p.Text != "" || p.ThoughtSignature != "":
			m.Content += p.Text
		default:
			return fmt.Errorf("part %d is empty", i)
		}
	}
	if m.Role != "" {
		c.Messages = append(c.Messages, m)
	}
	return nil
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// reasons are the service's words for the suite's.
var reasons = map[string]string{"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}

func reason(finish string) string {
	if s, ok := reasons[finish]; ok {
		return s
	}
	return finish
}

func usageOf(u llm.Usage) map[string]any {
	return map[string]any{
		"promptTokenCount": u.PromptTokens, "cachedContentTokenCount": u.CachedTokens,
		"candidatesTokenCount": u.CompletionTokens - u.ReasoningTokens, "thoughtsTokenCount": u.ReasoningTokens,
		"totalTokenCount": u.PromptTokens + u.CompletionTokens,
	}
}

// parts are the content of a choice, its texts cut by cut.
func parts(c *llm.Choice, cut func(string) []string) []map[string]any {
	var out []map[string]any
	if c.Reasoning != "" {
		for _, s := range cut(c.Reasoning) {
			out = append(out, map[string]any{"text": s, "thought": true})
		}
	}
	if c.Text != "" {
		for _, s := range cut(c.Text) {
			out = append(out, map[string]any{"text": s})
		}
	}
	for i, t := range c.ToolCalls {
		p := map[string]any{"functionCall": map[string]any{"id": t.ID, "name": t.Name, "args": json.RawMessage(t.Arguments)}}
		if i == 0 && c.Opaque != nil { // of parallel calls the first
			p["thoughtSignature"] = c.Opaque
		}
		out = append(out, p)
	}
	return out
}

func write(c *matrixtest.Call, rep *llm.Reply) (http.Header, []byte) {
	h := http.Header{"Content-Type": {"application/json; charset=UTF-8"}}
	if c.Input != nil {
		vs, ps := []map[string]any{}, []map[string]any{}
		for _, v := range rep.Vectors {
			vs = append(vs, map[string]any{"values": v})
			ps = append(ps, map[string]any{"embeddings": map[string]any{"values": v}})
		}
		return h, encode(map[string]any{"embeddings": vs, "predictions": ps}) // of the one backend and the other
	}
	out := map[string]any{"modelVersion": rep.Model, "responseId": "r-1", "usageMetadata": usageOf(rep.Usage)}
	candidates := []map[string]any{}
	for i := range rep.Choices {
		c := &rep.Choices[i]
		candidates = append(candidates, map[string]any{
			"index": i, "finishReason": reason(c.Finish),
			"content": map[string]any{"role": "model", "parts": parts(c, func(s string) []string { return []string{s} })},
		})
	}
	if len(candidates) > 0 {
		out["candidates"] = candidates
	}
	return h, encode(out)
}

func events(_ *matrixtest.Call, rep *llm.Reply) (http.Header, [][]byte) {
	var out [][]byte
	add := func(candidate map[string]any) {
		v := map[string]any{"modelVersion": rep.Model, "responseId": "r-1", "usageMetadata": usageOf(rep.Usage)}
		if candidate != nil {
			v["candidates"] = []any{candidate}
		}
		out = append(out, matrixtest.SSE("", string(encode(v))))
	}
	for i := range rep.Choices {
		for _, p := range parts(&rep.Choices[i], matrixtest.Pieces) {
			add(map[string]any{"index": i, "content": map[string]any{"role": "model", "parts": []any{p}}})
		}
	}
	for i := range rep.Choices {
		add(map[string]any{"index": i, "finishReason": reason(rep.Choices[i].Finish), "content": map[string]any{"role": "model", "parts": []any{map[string]any{"text": ""}}}})
	}
	if len(rep.Choices) == 0 {
		add(nil)
	}
	return http.Header{"Content-Type": {"text/event-stream"}}, out
}

func list(served []string) []byte {
	var models []map[string]any
	for _, name := range served {
		models = append(models, map[string]any{"name": "models/" + name, "inputTokenLimit": 1048576})
	}
	return encode(map[string]any{"models": models})
}

func codec(p place) matrixtest.Codec {
	return matrixtest.Codec{Read: p.read, Write: write, Events: events, List: list}
}

// driver makes a driver by o.
func driver(t testing.TB, o Config) *Driver {
	t.Helper()
	if o.Model == "" {
		o.Model = testModel
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
