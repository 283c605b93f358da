package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"matrix/llm"
)

// Kinds of servers.
const (
	OpenAI   = "openai"
	VLLM     = "vllm"
	SGLang   = "sglang"
	LlamaCpp = "llama.cpp"
	Ollama   = "ollama"
	TensorRT = "tensorrt-llm"
)

// Server is a kind of server, as far as requests differ.
type Server struct {
	Name   string
	Guided bool // a vLLM before 0.11, which wants guided_regex, not structured_outputs
	Newer  bool // it wants max_completion_tokens
}

// NoFormat is the error of a server that cannot hold a reply to a format.
type NoFormat struct {
	server, what string
	can          []string
}

func (e *NoFormat) Error() string {
	return fmt.Sprintf("a server of kind %s cannot hold a reply to a %s", e.server, e.what)
}

// Hint says what to do.
func (e *NoFormat) Hint() string {
	otherwise := "leave out enforce, and the reply is checked all the same"
	if e.what == "grammar" { // which is always sent
		otherwise = "give a regex, a choice or a schema in its place"
	}
	return "where it is one of these, set server: " + strings.Join(e.can, "|") + " at the model; else " + otherwise
}

// format asks for a format in the server's own way, or says that it has none.
func format(o *writer, f *llm.Format, s Server) error {
	none := func(what string, can ...string) error { return &NoFormat{s.Name, what, can} }
	type object = map[string]any
	switch {
	case len(f.Schema) > 0 && s.Name == TensorRT:
		o.any("response_format", object{"type": "json", "schema": f.Schema})
	case len(f.Schema) > 0:
		schema := object{"name": "reply", "schema": f.Schema}
		if f.Name != "" {
			schema["name"] = f.Name
		}
		if strict(f.Schema) {
			schema["strict"] = true
		}
		o.any("response_format", object{"type": "json_schema", "json_schema": schema})
	case f.JSON:
		o.any("response_format", object{"type": "json_object"})
	case f.Regex != "":
		switch s.Name {
		case VLLM:
			guide(o, s, "regex", f.Regex)
		case SGLang:
			o.text("regex", f.Regex)
		case TensorRT:
			o.any("response_format", object{"type": "regex", "regex": f.Regex})
		default:
			return none("regular expression", VLLM, SGLang, TensorRT)
		}
	case len(f.Choice) > 0:
		switch s.Name {
		case VLLM:
			guide(o, s, "choice", f.Choice)
		case SGLang:
			o.text("regex", either(f.Choice))
		case TensorRT:
			o.any("response_format", object{"type": "regex", "regex": either(f.Choice)})
		case LlamaCpp:
			o.text("grammar", gbnf(f.Choice))
		default:
			return none("choice", VLLM, SGLang, LlamaCpp, TensorRT)
		}
	case f.Grammar != "":
		switch s.Name {
		case VLLM:
			guide(o, s, "grammar", f.Grammar)
		case SGLang:
			o.text("ebnf", f.Grammar)
		case TensorRT:
			o.any("response_format", object{"type": "ebnf", "ebnf": f.Grammar})
		case LlamaCpp:
			o.text("grammar", f.Grammar)
		default:
			return none("grammar", VLLM, SGLang, LlamaCpp, TensorRT)
		}
	}
	return nil
}

// Wanted returns what the reply to r must look like, said in any of the ways that
// servers take: Format, response_format, vLLM's structured_outputs or guided_json
// and its like; nil for any text. An error is a *llm.FieldError.
func Wanted(r *llm.Request) (*llm.Format, error) {
	if r.Format != nil {
		return r.Format, nil
	}
	if f := r.Sampling.ResponseFormat; f != nil {
		return llm.FormatOf(f)
	}
	var guided struct {
		JSON       json.RawMessage `json:"json"`
		JSONObject bool            `json:"json_object"`
		Regex      string          `json:"regex"`
		Choice     []string        `json:"choice"`
		Grammar    string          `json:"grammar"`
	}
	said := map[string]any{}
	for key, v := range r.Sampling.Extra {
		if what, ok := strings.CutPrefix(key, "guided_"); ok {
			said[what] = v
		} else if in, ok := v.(map[string]any); ok && key == "structured_outputs" {
			maps.Copy(said, in)
		}
	}
	if len(said) == 0 {
		return nil, nil
	}
	raw, err := json.Marshal(said)
	if err == nil {
		err = json.Unmarshal(raw, &guided)
	}
	if err != nil {
		return nil, &llm.FieldError{Field: "structured_outputs", Err: err}
	}
	f := &llm.Format{JSON: guided.JSONObject, Schema: guided.JSON, Regex: guided.Regex, Choice: guided.Choice, Grammar: guided.Grammar}
	var text string
	if json.Unmarshal(f.Schema, &text) == nil { // a schema in a text, as vLLM takes it too
		f.Schema = json.RawMessage(text)
	}
	return f, nil
}

// guide asks vLLM.
func guide(o *writer, s Server, what string, v any) {
	if s.Guided {
		o.any("guided_"+what, v)
		return
	}
	o.any("structured_outputs", map[string]any{what: v})
}

// either is a regular expression of the choices.
func either(choices []string) string {
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = regexp.QuoteMeta(c)
	}
	return "(" + strings.Join(quoted, "|") + ")"
}

// gbnf is llama.cpp's grammar of the choices.
func gbnf(choices []string) string {
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(c) + `"`
	}
	return "root ::= " + strings.Join(quoted, " | ")
}

// strict reports whether a schema keeps the rules of OpenAI's strict mode: each
// object names all its properties as required and allows no others. A service
// of that mode refuses other schemas, and takes them as a hint without it.
func strict(schema json.RawMessage) bool {
	var v any
	return json.Unmarshal(schema, &v) == nil && strictNode(v)
}

func strictNode(v any) bool {
	switch v := v.(type) {
	case []any:
		return !slices.ContainsFunc(v, func(v any) bool { return !strictNode(v) })
	case map[string]any:
		properties, object := v["properties"].(map[string]any)
		if object || v["type"] == "object" {
			required, _ := v["required"].([]any)
			if v["additionalProperties"] != false || len(required) < len(properties) {
				return false
			}
		}
		for _, k := range []string{"items", "anyOf"} {
			if inner, ok := v[k]; ok && !strictNode(inner) {
				return false
			}
		}
		for _, named := range []any{v["properties"], v["$defs"], v["definitions"]} {
			all, _ := named.(map[string]any)
			for _, inner := range all {
				if !strictNode(inner) {
					return false
				}
			}
		}
	}
	return true
}
