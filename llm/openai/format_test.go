package openai

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
	"matrix/llm/openai/api"
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
			"*":          looseSchema,
			api.TensorRT: `{"response_format":{"type":"json","schema":{"type":"object","properties":{"a":{"type":"string"}}}}}`,
		}},
		{"strict schema", llm.Format{Schema: tight, Name: "answer"}, map[string]string{
			"*":          `{"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":` + string(tight) + `}}}`,
			api.TensorRT: `{"response_format":{"type":"json","schema":` + string(tight) + `}}`,
		}},
		{"regex", llm.Format{Regex: `\d+`}, map[string]string{
			api.VLLM:     `{"structured_outputs":{"regex":"\\d+"}}`,
			api.SGLang:   `{"regex":"\\d+"}`,
			api.TensorRT: `{"response_format":{"type":"regex","regex":"\\d+"}}`,
		}},
		{"choice", llm.Format{Choice: []string{"a.b", `"c"`}}, map[string]string{
			api.VLLM:     `{"structured_outputs":{"choice":["a.b","\"c\""]}}`,
			api.SGLang:   `{"regex":"(a\\.b|\"c\")"}`,
			api.TensorRT: `{"response_format":{"type":"regex","regex":"(a\\.b|\"c\")"}}`,
			api.LlamaCpp: `{"grammar":"root ::= \"a.b\" | \"\\\"c\\\"\""}`,
		}},
		{"grammar", llm.Format{Grammar: `root ::= "a"`}, map[string]string{
			api.VLLM:     `{"structured_outputs":{"grammar":"root ::= \"a\""}}`,
			api.SGLang:   `{"ebnf":"root ::= \"a\""}`,
			api.TensorRT: `{"response_format":{"type":"ebnf","ebnf":"root ::= \"a\""}}`,
			api.LlamaCpp: `{"grammar":"root ::= \"a\""}`,
		}},
	} {
		for _, server := range []string{api.OpenAI, api.VLLM, api.SGLang, api.LlamaCpp, api.Ollama, api.TensorRT} {
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
					if f.Kind != llm.Fatal || !strings.Contains(f.Msg, server) || !strings.Contains(f.Hint, api.VLLM) || len(calls.all()) != 0 {
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
