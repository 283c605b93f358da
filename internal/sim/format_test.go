package sim

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const toolsBody = `"tools":[
 {"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":7}},"required":["city","days"],"additionalProperties":false}}},
 {"type":"function","function":{"name":"time"}}]`

func TestTools(t *testing.T) {
	s := start(t, quick)
	base, c := s.URLs()[0], client(t, false)
	for _, x := range []struct {
		name, params string
		calls        int
	}{
		{"auto", ``, 1},
		{"none", `"tool_choice":"none",`, 0},
		{"required", `"tool_choice":"required",`, 1},
		{"named", `"tool_choice":{"type":"function","function":{"name":"weather"}},`, 1},
		{"parallel", `"parallel_tool_calls":true,`, 2},
	} {
		v := chatOf(t, c, base, `{`+x.params+toolsBody+`,"messages":[{"role":"user","content":"`+x.name+`"}]}`).Choices[0]
		if len(v.Message.ToolCalls) != x.calls || (v.Finish == "tool_calls") != (x.calls > 0) || (v.Message.Content == nil) != (x.calls > 0) {
			t.Errorf("%s: got %+v", x.name, v)
		}
		for _, call := range v.Message.ToolCalls {
			var args struct {
				City *string
				Days int
			}
			err := json.Unmarshal([]byte(call.Function.Arguments), &args)
			if err != nil || call.ID == "" || call.Type != "function" || call.Function.Name == "weather" && (args.City == nil || args.Days < 1 || args.Days > 7) {
				t.Errorf("%s: got call %+v: %v", x.name, call, err)
			}
			if x.name == "named" && call.Function.Name != "weather" {
				t.Errorf("named: got %s, want weather", call.Function.Name)
			}
		}
	}
	v := chatOf(t, c, base, `{`+toolsBody+`,"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"time","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"noon"}]}`)
	if v.Choices[0].Message.Content == nil {
		t.Errorf("after a tool's answer: got %+v, want a text", v.Choices[0])
	}
}

func TestStructured(t *testing.T) {
	s := start(t, quick)
	base, c := s.URLs()[0], client(t, false)
	const schema = `{"type":"object","properties":{"name":{"type":"string","minLength":3},"tags":{"type":"array","items":{"enum":["a","b"]},"minItems":2},"of":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["name","tags","of"],"$defs":{"n":{"type":"number","exclusiveMinimum":0,"maximum":1}}}`
	compiled, err := newSchema(json.RawMessage(schema))
	if err != nil {
		t.Fatal(err)
	}
	fits := func(text string) bool {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		return err == nil && compiled.check.Check(v) == nil
	}
	matches := func(re string) func(string) bool { return regexp.MustCompile("^(?:" + re + ")$").MatchString }
	among := func(list ...string) func(string) bool {
		return func(s string) bool { return slices.Contains(list, s) }
	}
	const ebnf = `root ::= greeting ", " name ("!" | "?")+ # so
greeting ::= "hi" | "hello"
name ::= [A-Z] [a-z]+`
	const sums = `root ::= root [-+] product | product
product ::= product "*" value | value
value ::= [0-9]+ | "(" root ")"`
	for _, x := range []struct {
		name, params string
		ok           func(string) bool
	}{
		{"json_object", `"response_format":{"type":"json_object"}`, func(s string) bool { return json.Valid([]byte(s)) }},
		{"json_schema", `"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":` + schema + `}}`, fits},
		{"guided_json", `"guided_json":` + schema, fits},
		{"guided_json in a text", `"guided_json":` + strconv.Quote(schema), fits},
		{"structured_outputs json", `"structured_outputs":{"json":` + schema + `}`, fits},
		{"guided_regex", `"guided_regex":"[a-f]{3}-(\\d+|none)\\.?"`, matches(`[a-f]{3}-(\d+|none)\.?`)},
		{"structured_outputs regex", `"structured_outputs":{"regex":"\\w+@\\w+\\.com"}`, matches(`\w+@\w+\.com`)},
		{"guided_choice", `"guided_choice":["yes","no"]`, among("yes", "no")},
		{"structured_outputs choice", `"structured_outputs":{"choice":["left","right"]}`, among("left", "right")},
		{"grammar", `"structured_outputs":{"grammar":` + strconv.Quote(ebnf) + `}`, matches(`(hi|hello), [A-Z][a-z]+[!?]+`)},
		{"grammar without end in sight", `"guided_grammar":` + strconv.Quote(sums), matches(`[0-9()+*-]*[0-9)]`)},
		{"grammar of classes", `"guided_grammar":` + strconv.Quote(`root ::= [^a-z\x00-\x1f]{2,3} .`), matches(`[^a-z]{2,3}.`)},
	} {
		for i := range 20 {
			v := chatOf(t, c, base, fmt.Sprintf(`{%s,"seed":%d,%s}`, x.params, i, hello))
			if got := *v.Choices[0].Message.Content; !x.ok(got) {
				t.Errorf("%s: got %s", x.name, got)
			}
		}
	}
}
