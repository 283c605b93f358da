package openai

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"matrix/llm"
)

// Servers, by the names in the config.
const (
	auto     = "auto"
	openai   = "openai"
	vllm     = "vllm"
	sglang   = "sglang"
	llamaCpp = "llama.cpp"
	ollama   = "ollama"
	tensorrt = "tensorrt-llm"
)

// owners are the servers by what they write into owned_by of their models.
var owners = map[string]string{
	"vllm":         vllm,
	"matrix-sim":   vllm, // the simulator takes what vLLM takes
	"sglang":       sglang,
	"llamacpp":     llamaCpp,
	"library":      ollama,
	"tensorrt_llm": tensorrt,
}

// server is what serves.
type server struct {
	name   string
	guided bool // a vLLM before 0.11, which wants guided_regex, not structured_outputs
	asked  bool // it was asked for its version
	unsure bool // it would not say what it is; name is openai
}

// noFormat is a server that cannot hold a reply to a format.
type noFormat struct {
	server, what string
	can          []string
}

func (e *noFormat) Error() string {
	return fmt.Sprintf("a server of kind %s cannot hold a reply to a %s", e.server, e.what)
}

func (e *noFormat) hint() string {
	otherwise := "leave out enforce, and the reply is checked all the same"
	if e.what == "grammar" { // which is always sent
		otherwise = "give a regex, a choice or a schema in its place"
	}
	return "where it is one of these, set server: " + strings.Join(e.can, "|") + " at the model; else " + otherwise
}

// format asks for a format in the server's own way, or says that it has none.
func format(o *writer, f *llm.Format, s server) error {
	none := func(what string, can ...string) error { return &noFormat{s.name, what, can} }
	type object = map[string]any
	switch {
	case len(f.Schema) > 0 && s.name == tensorrt:
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
		switch s.name {
		case vllm:
			guide(o, s, "regex", f.Regex)
		case sglang:
			o.text("regex", f.Regex)
		case tensorrt:
			o.any("response_format", object{"type": "regex", "regex": f.Regex})
		default:
			return none("regular expression", vllm, sglang, tensorrt)
		}
	case len(f.Choice) > 0:
		switch s.name {
		case vllm:
			guide(o, s, "choice", f.Choice)
		case sglang:
			o.text("regex", either(f.Choice))
		case tensorrt:
			o.any("response_format", object{"type": "regex", "regex": either(f.Choice)})
		case llamaCpp:
			o.text("grammar", gbnf(f.Choice))
		default:
			return none("choice", vllm, sglang, llamaCpp, tensorrt)
		}
	case f.Grammar != "":
		switch s.name {
		case vllm:
			guide(o, s, "grammar", f.Grammar)
		case sglang:
			o.text("ebnf", f.Grammar)
		case tensorrt:
			o.any("response_format", object{"type": "ebnf", "ebnf": f.Grammar})
		case llamaCpp:
			o.text("grammar", f.Grammar)
		default:
			return none("grammar", vllm, sglang, llamaCpp, tensorrt)
		}
	}
	return nil
}

// guide asks vLLM.
func guide(o *writer, s server, what string, v any) {
	if s.guided {
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
