package openai

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// packed writes as a gzip does it, piece by piece.
type packed struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (p packed) Write(b []byte) (int, error) { return p.z.Write(b) }

func (p packed) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p packed) Flush() {
	p.z.Flush()
	p.ResponseWriter.(http.Flusher).Flush()
}

// Replies that are compressed although nobody asked for that, and begin with a
// byte order mark, are read all the same: whole, in a stream, and as an error.
func TestOddBodies(t *testing.T) {
	for name, c := range map[string]struct{ zip, mark bool }{"gzip": {true, false}, "mark": {false, true}, "both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				body := sent(t, r)
				if body["max_tokens"] == 1.0 {
					w.Header().Set("Content-Type", "application/json")
				} else {
					w.Header().Set("Content-Type", "text/event-stream")
				}
				if c.zip {
					w.Header().Set("Content-Encoding", "GZIP")
				}
				if body["seed"] == 1.0 {
					w.WriteHeader(400)
				}
				if c.zip {
					z := gzip.NewWriter(w)
					defer z.Close()
					w = packed{w, z}
				}
				if c.mark {
					io.WriteString(w, api.BOM)
				}
				switch {
				case body["seed"] == 1.0:
					io.WriteString(w, `{"error":{"message":"no such thing","code":"odd"}}`)
				case body["stream"] == true:
					write(w, say(0, "hel"), say(0, "lo"), finish(0, "stop"), "[DONE]")
				default:
					io.WriteString(w, good)
				}
			})
			for _, r := range []*llm.Request{ask("x"), streaming("x")} {
				if r.Sampling.Stream == nil {
					r.Sampling.MaxTokens = 1
				}
				rep, err := w.Send(within(t, 5*time.Second), r)
				if err != nil || rep.Choices[0].Text != "hello" {
					t.Errorf("got %+v, %v, want hello", rep, err)
				}
			}
			r, seed := ask("x"), int64(1)
			r.Sampling.Seed, r.Sampling.MaxTokens = &seed, 1
			_, err := w.Send(t.Context(), r)
			if f := failure(t, err); f.Kind != llm.Refused || f.Code != "odd" || f.Msg != "no such thing" {
				t.Errorf("got %+v", f)
			}
		})
	}
}

// What cannot be decoded is said in words, and what is decoded is bounded.
func TestCompressed(t *testing.T) {
	encoding, status := "br", 200
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", encoding)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if encoding == "br" {
			io.WriteString(w, "\x0b\x02\x80")
			return
		}
		z := gzip.NewWriter(w)
		defer z.Close()
		_, _ = z.Write(make([]byte, 1<<20))
	})
	w.max = 1 << 16
	_, err := w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Msg, "compressed by br") || f.Hint == "" {
		t.Errorf("got %+v", f)
	}
	status = 503
	_, err = w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Capacity || f.Msg != "Service Unavailable" {
		t.Errorf("got %+v", f)
	}
	encoding, status = "gzip", 200
	_, err = w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Refused || !strings.Contains(f.Msg, "larger than 65536 bytes") {
		t.Errorf("got %+v", f)
	}
}

// A usage that makes no sense leaves a good reply good, and is as if not told.
func TestOddUsage(t *testing.T) {
	for usage, want := range map[string]llm.Usage{
		`{"prompt_tokens":"3","completion_tokens":"4","cost":"0.5"}`:                                {Tokens: llm.Tokens{PromptTokens: 3, CompletionTokens: 4}, USD: 0.5},
		`{"prompt_tokens":-3,"completion_tokens":1e15,"cost":-1}`:                                   {},
		`{"prompt_tokens":7,"completion_tokens":2000000000,"prompt_tokens_details":"none"}`:         {Tokens: llm.Tokens{PromptTokens: 7}},
		`{"prompt_tokens":{},"completion_tokens":[],"prompt_tokens_details":{"cached_tokens":"x"}}`: {},
		`"none"`: {}, `[]`: {}, `{"prompt_tokens":1e999,"completion_tokens":5.0}`: {Tokens: llm.Tokens{CompletionTokens: 5}},
	} {
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			reply(w, `{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}],"usage":`+usage+`}`)
		})
		rep, err := w.Send(t.Context(), ask("x"))
		if err != nil || rep.Usage != want || rep.Choices[0].Text != "hello" {
			t.Errorf("%s: got %+v, %v, want %+v", usage, rep, err, want)
		}
	}
}

// Fields of a message of its own go to the server as they are.
func TestMessageExtra(t *testing.T) {
	var body map[string]any
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { body = sent(t, r); reply(w, good) })
	_, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{
		{Role: "system", Content: "<a>", Extra: map[string]any{"role": "developer", "name": "ann"}},
		{Role: "user", Content: "a\n\nb", Images: []llm.Image{{URL: "https://x.org/a.png"}}, Extra: map[string]any{"content": []any{map[string]any{"type": "text", "text": "a"}}}},
		{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "c", Name: "f", Arguments: "{}"}}, Extra: map[string]any{"reasoning_content": "hm"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var want []any
	if err := json.Unmarshal([]byte(`[{"role":"developer","name":"ann","content":"<a>"},{"role":"user","content":[{"type":"text","text":"a"}]},
		{"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}]`), &want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, body["messages"]); d != "" {
		t.Errorf("messages (-want +got):\n%s", d)
	}
}

// The first reply that Until may end asks what serves: one that can count as it
// goes is asked to, so that the reply is counted.
func TestUntilIsCounted(t *testing.T) {
	for name, c := range map[string]struct {
		list  string
		want  any // continuous_usage_stats
		usage llm.Usage
	}{
		"vllm":   {`{"data":[{"id":"m","owned_by":"vllm"}]}`, true, llm.Usage{Tokens: llm.Tokens{PromptTokens: 5, CompletionTokens: 9}}},
		"sglang": {`{"data":[{"id":"m","owned_by":"sglang"}]}`, true, llm.Usage{Tokens: llm.Tokens{PromptTokens: 5, CompletionTokens: 9}}},
		"other":  {`{"data":[{"id":"m","owned_by":"openai"}]}`, nil, llm.Usage{Tokens: llm.Tokens{CompletionTokens: 2}, Estimated: true}},
		"silent": {``, nil, llm.Usage{Tokens: llm.Tokens{CompletionTokens: 2}, Estimated: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			options := make(chan any, 9)
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					if asked.Add(1); c.list == "" {
						w.WriteHeader(401)
					}
					io.WriteString(w, c.list)
					return
				}
				body := sent(t, r)
				if body["stream"] != true {
					w.WriteHeader(500)
					return
				}
				running := body["stream_options"].(map[string]any)["continuous_usage_stats"]
				options <- running
				for i, text := range []string{"a", "b.", "c"} {
					usage := ""
					if running == true {
						usage = fmt.Sprintf(`,"usage":{"prompt_tokens":5,"completion_tokens":%d}`, 8+i)
					}
					write(w, fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%q}}]%s}`, text, usage))
				}
				<-r.Context().Done()
			})
			for range 2 {
				r := ask("x")
				r.Sampling.Until = `\.`
				rep, err := w.Send(within(t, 5*time.Second), r)
				if err != nil {
					t.Fatal(err)
				}
				if running := <-options; rep.Choices[0].Text != "ab." || rep.Usage != c.usage || running != c.want {
					t.Errorf("got %+v, asked for %v; want %+v", rep, running, c.usage)
				}
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times what serves, want once", n)
			}
			r := ask("x") // for a format it is asked again where it was silent
			r.Format = &llm.Format{Grammar: "g"}
			_, err := w.Send(t.Context(), r)
			if f := failure(t, err); name == "silent" && (asked.Load() < 2 || f.Status != 401) {
				t.Errorf("got %+v, asked %d times", f, asked.Load())
			}
		})
	}
}

// A call that ends while it finds out what serves has not found out.
func TestFindingEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	counts := false
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			if ctx.Err() == nil {
				cancel()
				<-r.Context().Done()
				return
			}
			io.WriteString(w, `{"data":[{"id":"m","owned_by":"vllm"}]}`)
			return
		}
		counts = sent(t, r)["stream_options"].(map[string]any)["continuous_usage_stats"] == true
		write(w, `{"choices":[{"index":0,"delta":{"content":"a."}}]}`)
		<-r.Context().Done()
	})
	r := ask("x")
	r.Sampling.Until = `\.`
	if _, err := w.Send(ctx, r); err == nil {
		t.Fatal("got a reply to a call that was ended")
	}
	if _, err := w.Send(within(t, 5*time.Second), r); err != nil || !counts {
		t.Errorf("got %v, asked to count: %v", err, counts)
	}
}
