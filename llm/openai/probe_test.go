package openai

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
)

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name  string
		paths map[string]string // what they answer; others do not exist
		want  []llm.Served
	}{
		{"vllm", map[string]string{"/v1/models": `{"object":"list","data":[{"id":"llama","owned_by":"vllm","max_model_len":8192},{"id":"lora","owned_by":"vllm"}]}`},
			[]llm.Served{{Name: "llama", Owner: "vllm", Context: 8192}, {Name: "lora", Owner: "vllm"}}},
		{"llama.cpp", map[string]string{"/v1/models": `{"models":[{"name":"x"}],"data":[{"id":"x","owned_by":"llamacpp","meta":{"n_ctx_train":4096}}]}`},
			[]llm.Served{{Name: "x", Owner: "llamacpp", Context: 4096}}},
		{"without /v1", map[string]string{"/models": `{"data":[{"id":"x","context_length":10,"owned_by":null}]}`}, []llm.Served{{Name: "x", Context: 10}}},
		{"none yet", map[string]string{"/v1/models": `{"data":[]}`}, []llm.Served{}},
		{"no list", map[string]string{"/health": ""}, nil},
		{"neither", nil, nil},
		{"another list", map[string]string{"/v1/models": `["x"]`, "/models": `{"models":3}`}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, ok := c.paths[r.URL.Path]
				if !ok || r.Method != "GET" {
					http.NotFound(w, r)
					return
				}
				reply(w, text)
			}))
			defer s.Close()
			got, err := open(t, Options{BaseURL: s.URL}).Probe(within(t, 5*time.Second))
			if err != nil || !cmp.Equal(got, c.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestProbeFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve http.HandlerFunc
		kind  llm.Kind
	}{
		{"key", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }, llm.Fatal},
		{"loading", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, llm.Capacity},
		{"no list, and sick", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(map[bool]int{true: 500, false: 404}[r.URL.Path == "/health"])
		}, llm.Fault},
		{"reset", func(w http.ResponseWriter, r *http.Request) { reset(w) }, llm.Transport},
		{"pages of errors", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html;charset=utf-8")
			w.WriteHeader(404)
			fmt.Fprint(w, "<html><title>Error response</title>")
		}, llm.Fatal},
		{"web page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>")
		}, llm.Fatal},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := serve(t, Options{}, c.serve)
			_, err := w.Probe(within(t, 5*time.Second))
			if f := failure(t, err); f.Kind != c.kind {
				t.Errorf("got %+v, want %v", f, c.kind)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, Options{BaseURL: "http://127.0.0.1:1"}).Probe(ctx); err != context.Canceled {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// What serves is found out once, by the first call that must know.
func TestServerIsFound(t *testing.T) {
	for _, c := range []struct {
		name, models, banner, version string
		want                          string // key of the regular expression
	}{
		{"vllm", `{"data":[{"id":"m","owned_by":"vllm"}]}`, "", `{"version":"0.11.0"}`, "structured_outputs"},
		{"the simulator", `{"data":[{"id":"m","owned_by":"matrix-sim"}]}`, "", ``, "structured_outputs"},
		{"old vllm", `{"data":[{"id":"m","owned_by":"vllm"}]}`, "", `{"version":"0.10.2"}`, "guided_regex"},
		{"vllm of a later time", `{"data":[{"id":"m","owned_by":"vllm"}]}`, "", `{"version":"1.2"}`, "structured_outputs"},
		{"built vllm", `{"data":[{"id":"m","owned_by":"vllm"}]}`, "", `{"version":"0.9.1.dev3+g1"}`, "guided_regex"},
		{"vllm without a version", `{"data":[{"id":"m","owned_by":"vllm"}]}`, "", ``, "structured_outputs"},
		{"sglang", `{"data":[{"id":"m","owned_by":"sglang"}]}`, "", ``, "regex"},
		{"tensorrt", `{"data":[{"id":"m","owned_by":"tensorrt_llm"}]}`, "", ``, "response_format"},
		{"llama.cpp", `{"data":[{"id":"m","owned_by":"me"}]}`, "llama.cpp", ``, ""},
		{"ollama", `{"data":[{"id":"m","owned_by":"library"}]}`, "", ``, ""},
		{"unknown", `{"data":[{"id":"m","owned_by":"organization-owner"}]}`, "", ``, ""},
		{"silent", ``, "", ``, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := new(log)
			var mu sync.Mutex
			var bodies []map[string]any
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				text := ""
				switch r.URL.Path {
				case "/v1/models":
					text = c.models
				case "/version":
					text = c.version
				case "/v1/chat/completions":
					mu.Lock()
					bodies = append(bodies, sent(t, r))
					mu.Unlock()
					reply(w, good)
					return
				}
				asked.add(r.URL.Path)
				if c.banner != "" {
					w.Header().Set("Server", c.banner)
				}
				if text == "" {
					http.NotFound(w, r)
					return
				}
				reply(w, text)
			})
			if _, err := w.Send(t.Context(), ask("needs not know")); err != nil || len(asked.all()) != 0 {
				t.Fatalf("asked %q, %v", asked.all(), err)
			}
			r := ask("x")
			r.Format = &llm.Format{Regex: "a+"}
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					_, err := w.Send(t.Context(), r)
					if c.want != "" && err != nil {
						t.Error(err)
					} else if c.want == "" {
						if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Hint, "set server: vllm|sglang|tensorrt-llm") {
							t.Errorf("got %+v", f)
						}
					}
				})
			}
			wg.Wait()
			for _, b := range bodies[1:] {
				if b[c.want] == nil {
					t.Errorf("got %v, want %s", b, c.want)
				}
			}
			if got := asked.all(); slices.Index(got, "/v1/models") != 0 || len(got) > 3 {
				t.Errorf("asked %q", got)
			}
		})
	}
}

// A server that cannot be asked now is asked again, and no request is refused
// for that.
func TestServerIsAskedAgain(t *testing.T) {
	n := new(log)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/chat/completions":
			reply(w, good)
		case n.add("") == 1:
			w.WriteHeader(502)
		default:
			reply(w, `{"data":[{"id":"m","owned_by":"sglang"}]}`)
		}
	})
	r := ask("x")
	r.Format = &llm.Format{Grammar: "g"}
	_, err := w.Send(t.Context(), r)
	if f := failure(t, err); f.Kind != llm.Transport {
		t.Errorf("got %+v", f)
	}
	if rep, err := w.Send(t.Context(), r); err != nil || !strings.Contains(string(rep.Params), "ebnf") {
		t.Errorf("got %+v, %v", rep, err)
	}
}
