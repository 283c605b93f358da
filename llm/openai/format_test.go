package openai

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
)

// What each server is sent for each format; nothing where it has none.
func TestFormats(t *testing.T) {
	loose := json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}}}`)
	const looseSchema = `{"response_format":{"type":"json_schema","json_schema":{"name":"reply","schema":{"type":"object","properties":{"a":{"type":"string"}}}}}}`
	tight := json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}`)
	for _, c := range []struct {
		name   string
		format llm.Format
		want   map[string]string
	}{
		{"json", llm.Format{JSON: true}, map[string]string{"*": `{"response_format":{"type":"json_object"}}`}},
		{"schema", llm.Format{Schema: loose}, map[string]string{
			"*":      looseSchema,
			tensorrt: `{"response_format":{"type":"json","schema":{"type":"object","properties":{"a":{"type":"string"}}}}}`,
		}},
		{"strict schema", llm.Format{Schema: tight, Name: "answer"}, map[string]string{
			"*":      `{"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":` + string(tight) + `}}}`,
			tensorrt: `{"response_format":{"type":"json","schema":` + string(tight) + `}}`,
		}},
		{"regex", llm.Format{Regex: `\d+`}, map[string]string{
			vllm:     `{"structured_outputs":{"regex":"\\d+"}}`,
			sglang:   `{"regex":"\\d+"}`,
			tensorrt: `{"response_format":{"type":"regex","regex":"\\d+"}}`,
		}},
		{"choice", llm.Format{Choice: []string{"a.b", `"c"`}}, map[string]string{
			vllm:     `{"structured_outputs":{"choice":["a.b","\"c\""]}}`,
			sglang:   `{"regex":"(a\\.b|\"c\")"}`,
			tensorrt: `{"response_format":{"type":"regex","regex":"(a\\.b|\"c\")"}}`,
			llamaCpp: `{"grammar":"root ::= \"a.b\" | \"\\\"c\\\"\""}`,
		}},
		{"grammar", llm.Format{Grammar: `root ::= "a"`}, map[string]string{
			vllm:     `{"structured_outputs":{"grammar":"root ::= \"a\""}}`,
			sglang:   `{"ebnf":"root ::= \"a\""}`,
			tensorrt: `{"response_format":{"type":"ebnf","ebnf":"root ::= \"a\""}}`,
			llamaCpp: `{"grammar":"root ::= \"a\""}`,
		}},
	} {
		for _, server := range []string{openai, vllm, sglang, llamaCpp, ollama, tensorrt} {
			t.Run(c.name+" "+server, func(t *testing.T) {
				var body map[string]any
				calls := new(log)
				w := serve(t, Options{Server: server}, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/version" {
						http.NotFound(w, r)
						return
					}
					calls.add(r.URL.Path)
					body = sent(t, r)
					reply(w, good)
				})
				r := ask("x")
				r.Format = &c.format
				rep, err := w.Send(t.Context(), r)
				want, ok := c.want[server]
				if !ok {
					want = c.want["*"]
				}
				if want == "" {
					f := failure(t, err)
					if f.Kind != llm.Fatal || !strings.Contains(f.Msg, server) || !strings.Contains(f.Hint, vllm) || len(calls.all()) != 0 {
						t.Errorf("got %+v after %d calls", f, len(calls.all()))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				delete(body, "messages")
				var v map[string]any
				if err := json.Unmarshal([]byte(want), &v); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(v, body); d != "" {
					t.Errorf("body (-want +got):\n%s", d)
				}
				var params map[string]any
				if json.Unmarshal(rep.Params, &params); !cmp.Equal(params, v) {
					t.Errorf("params: got %s", rep.Params)
				}
			})
		}
	}
}

func TestFormatYieldsToTheUser(t *testing.T) {
	var body map[string]any
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { body = sent(t, r); reply(w, good) })
	r := ask("x")
	r.Format = &llm.Format{Regex: "a"}
	r.Sampling.ResponseFormat = map[string]any{"type": "json_object"}
	if _, err := w.Send(t.Context(), r); err != nil || !cmp.Equal(body["response_format"], any(map[string]any{"type": "json_object"})) {
		t.Errorf("got %v, %v", body, err)
	}
}

func TestStrict(t *testing.T) {
	for schema, want := range map[string]bool{
		`{"type":"string"}`: true,
		`{"type":"object"}`: false,
		`{"type":"object","additionalProperties":false}`:                                        true,
		`{"type":"object","properties":{"a":{}},"required":["a"],"additionalProperties":false}`: true,
		`{"type":"object","properties":{"a":{}},"required":[],"additionalProperties":false}`:    false,
		`{"type":"object","properties":{"a":{}},"required":["a"]}`:                              false,
		`{"type":"array","items":{"type":"object"}}`:                                            false,
		`{"anyOf":[{"type":"string"},{"type":"object"}]}`:                                       false,
		`{"$defs":{"x":{"type":"object"}},"type":"string"}`:                                     false,
		`{"type":"object","properties":{"type":{"type":"string"},"items":{"type":"array","items":{"type":"string"}}},"required":["type","items"],"additionalProperties":false}`: true,
		`{"type":"object","properties":{"a":{"type":"object","properties":{"b":{}},"required":["b"]}},"required":["a"],"additionalProperties":false}`:                           false,
		`not JSON`: false,
	} {
		if got := strict(json.RawMessage(schema)); got != want {
			t.Errorf("%s: got %v, want %v", schema, got, want)
		}
	}
}

func TestEither(t *testing.T) {
	choices := []string{"a|b", "c.d", "(e)", `\`}
	re := regexp.MustCompile("^" + either(choices) + "$")
	for _, c := range choices {
		if !re.MatchString(c) {
			t.Errorf("%q does not match %s", c, re)
		}
	}
	if re.MatchString("cxd") || re.MatchString("a") {
		t.Errorf("%s matches too much", re)
	}
}
