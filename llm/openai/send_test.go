package openai

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
)

func TestChat(t *testing.T) {
	zero, top, seed := 0.0, 0.9, int64(42)
	var body map[string]any
	var head http.Header
	w := serve(t, Options{Model: "llama", APIKey: "sk-secret-1", Header: map[string]string{"X-Team": "coral"}}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/chat/completions" || r.Method != "POST" {
			t.Errorf("got %s %s", r.Method, r.URL.Path)
		}
		body, head = sent(t, r), r.Header
		w.Header().Set("X-Ratelimit-Limit-Requests", "100")
		w.Header().Set("X-Ratelimit-Remaining-Requests", "99")
		reply(w, good)
	})
	rep, err := w.Send(t.Context(), &llm.Request{
		Messages: []llm.Message{{Role: "system", Content: "be \"brief\"\n\x01<&>"}, {Role: "user", Content: "Ünï\xff"}},
		Sampling: llm.Sampling{
			Temperature: &zero, TopP: &top, MaxTokens: 50, Stop: []string{"\n"}, Seed: &seed, N: 2, Logprobs: 3, Effort: "low",
			PresencePenalty: &top, FrequencyPenalty: &zero,
			ResponseFormat: json.RawMessage(`{"type":"json_object"}`), Extra: map[string]any{"min_p": 0.2, "top_p": 0.5},
		},
		Key: "task 7/3",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"model": "llama",
		"messages": []any{
			map[string]any{"role": "system", "content": "be \"brief\"\n\x01<&>"},
			map[string]any{"role": "user", "content": "Ünï\uFFFD"},
		},
		"temperature": 0.0, "max_tokens": 50.0, "n": 2.0, "stop": []any{"\n"}, "seed": 42.0, "logprobs": true, "top_logprobs": 3.0,
		"reasoning_effort": "low", "presence_penalty": 0.9, "frequency_penalty": 0.0,
		"response_format": map[string]any{"type": "json_object"}, "min_p": 0.2, "top_p": 0.5, // extra_body wins
	}
	if d := cmp.Diff(want, body); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
	for k, v := range map[string]string{
		"Authorization": "Bearer sk-secret-1", "X-Team": "coral", "Idempotency-Key": "task+7%2F3",
		"Content-Type": "application/json", "User-Agent": "matrix",
	} {
		if got := head.Get(k); got != v {
			t.Errorf("header %s: got %q, want %q", k, got, v)
		}
	}
	var params map[string]any
	if err := json.Unmarshal(rep.Params, &params); err != nil || params["seed"] != 42.0 || params["min_p"] != 0.2 || params["messages"] != nil {
		t.Errorf("params: got %s (%v)", rep.Params, err)
	}
	rep.Params = nil
	if d := cmp.Diff(&llm.Reply{
		Choices: []llm.Choice{{Text: "hello", Finish: "stop"}}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 7, CompletionTokens: 3}},
		Model: "m-1", Revision: "fp-9", Endpoint: w.targets[0].base, Quota: []llm.Quota{{Limit: 100, Left: 99}},
	}, rep); d != "" {
		t.Errorf("reply (-want +got):\n%s", d)
	}
}

func TestTools(t *testing.T) {
	var body map[string]any
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		body = sent(t, r)
		reply(w, `{"choices":[{"message":{"content":null,"tool_calls":[
			{"id":"a","type":"function","function":{"name":"add","arguments":"{\"x\":1}"}},
			{"type":"function","function":{"name":"add","arguments":{"x":2}}}]},"finish_reason":"tool_calls"}]}`)
	})
	r := &llm.Request{
		Messages: []llm.Message{
			{Role: "user", Content: "1+2?"},
			{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "c1", Name: "add", Arguments: `{"x":0}`}}},
			{Role: "tool", Content: "0", ToolCallID: "c1", ToolName: "add"},
		},
		Tools:      []llm.Tool{{Name: "add", Description: "adds", Parameters: json.RawMessage(`{"type":"object"}`), Strict: true}},
		ToolChoice: "add", Key: "k",
	}
	rep, err := w.Send(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	function := func(v map[string]any) map[string]any { return map[string]any{"type": "function", "function": v} }
	want := map[string]any{
		"messages": []any{
			map[string]any{"role": "user", "content": "1+2?"},
			map[string]any{"role": "assistant", "content": "", "tool_calls": []any{
				map[string]any{"id": "c1", "type": "function", "function": map[string]any{"name": "add", "arguments": `{"x":0}`}},
			}},
			map[string]any{"role": "tool", "content": "0", "tool_call_id": "c1"},
		},
		"tools":       []any{function(map[string]any{"name": "add", "description": "adds", "parameters": map[string]any{"type": "object"}, "strict": true})},
		"tool_choice": function(map[string]any{"name": "add"}),
	}
	if d := cmp.Diff(want, body); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
	c := rep.Choices[0]
	if len(c.ToolCalls) != 2 || c.ToolCalls[0] != (llm.ToolCall{ID: "a", Name: "add", Arguments: `{"x":1}`}) || c.ToolCalls[1].Arguments != `{"x":2}` || c.Finish != "tool_calls" {
		t.Errorf("got %+v", c)
	}
	made := c.ToolCalls[1].ID
	if again, err := w.Send(t.Context(), r); err != nil || made == "" || again.Choices[0].ToolCalls[1].ID != made {
		t.Errorf("ids made up: got %q and %+v, want the same", made, again)
	}
	r.ToolChoice = "required"
	if _, err := w.Send(t.Context(), r); err != nil || body["tool_choice"] != "required" {
		t.Errorf("tool_choice: got %v", body["tool_choice"])
	}
}

func TestImages(t *testing.T) {
	var body map[string]any
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { body = sent(t, r); reply(w, good) })
	rep, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "see", Images: []llm.Image{
		{URL: "https://x/a.png", Detail: "low"}, {Data: []byte("\x89PNG"), Media: "image/png"},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		map[string]any{"type": "text", "text": "see"},
		map[string]any{"type": "image_url", "image_url": map[string]any{"url": "https://x/a.png", "detail": "low"}},
		map[string]any{"type": "image_url", "image_url": map[string]any{"url": "data:image/png;base64,iVBORw=="}},
	}
	if d := cmp.Diff(want, body["messages"].([]any)[0].(map[string]any)["content"]); d != "" {
		t.Errorf("content (-want +got):\n%s", d)
	}
	if rep.Usage.Images != 2 {
		t.Errorf("images: got %d, want 2", rep.Usage.Images)
	}
	for _, m := range []llm.Image{{}, {Data: []byte("x")}} {
		_, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Images: []llm.Image{m}}}})
		if f := failure(t, err); f.Kind != llm.Refused || !strings.Contains(f.Msg, "message 0: image 0") {
			t.Errorf("got %v", f)
		}
	}
}

func TestCompletion(t *testing.T) {
	var body map[string]any
	w := serve(t, Options{Model: "m"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/completions" {
			t.Errorf("got %s", r.URL.Path)
		}
		body = sent(t, r)
		reply(w, `{"model":"m-1","choices":[{"text":" time","logprobs":{"tokens":[" time"]},"finish_reason":"length"}]}`)
	})
	rep, err := w.Send(t.Context(), &llm.Request{Prompt: "Once upon a", Sampling: llm.Sampling{Logprobs: 2, MaxTokens: 1, Effort: "low"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"model": "m", "prompt": "Once upon a", "logprobs": 2.0, "max_tokens": 1.0}, body); d != "" {
		t.Errorf("body (-want +got):\n%s", d)
	}
	if c := rep.Choices[0]; c.Text != " time" || c.Finish != "length" || string(c.Logprobs) != `{"tokens":[" time"]}` {
		t.Errorf("got %+v", c)
	}
}

func TestEmbedding(t *testing.T) {
	for name, data := range map[string]string{
		"floats": `[{"index":1,"embedding":[0.5,-2]},{"index":0,"embedding":[1,0]}]`,
		"base64": `[{"index":0,"embedding":"AACAPwAAAAA="},{"index":1,"embedding":"AAAAPwAAAMA="}]`,
	} {
		t.Run(name, func(t *testing.T) {
			var body map[string]any
			temp := 0.5
			w := serve(t, Options{Model: "m"}, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/embeddings" {
					t.Errorf("got %s", r.URL.Path)
				}
				body = sent(t, r)
				reply(w, `{"object":"list","model":"m-1","data":`+data+`,"usage":{"prompt_tokens":4,"total_tokens":4}}`)
			})
			rep, err := w.Send(t.Context(), &llm.Request{Input: []string{"a", "b"}, Sampling: llm.Sampling{Temperature: &temp, Extra: map[string]any{"dimensions": 2}}})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(map[string]any{"model": "m", "input": []any{"a", "b"}, "encoding_format": "base64", "dimensions": 2.0}, body); d != "" {
				t.Errorf("body (-want +got):\n%s", d)
			}
			if d := cmp.Diff([][]float32{{1, 0}, {0.5, -2}}, rep.Vectors); d != "" || rep.Usage.PromptTokens != 4 || rep.Params == nil {
				t.Errorf("got %+v\n%s", rep, d)
			}
		})
	}
	for _, data := range []string{`[]`, `[{"index":0,"embedding":[1]}]`, `[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]`,
		`[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]`, `[{"index":0,"embedding":"AAA="},{"index":1,"embedding":[1]}]`, `null`} {
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { reply(w, `{"data":`+data+`}`) })
		_, err := w.Send(t.Context(), &llm.Request{Input: []string{"a", "b"}})
		if f := failure(t, err); f.Kind != llm.Fault || !f.EmptyReply {
			t.Errorf("%s: got %+v", data, f)
		}
	}
}

// A model that refuses max_tokens gets max_completion_tokens, from the second
// try of the first call on.
func TestMaxCompletionTokens(t *testing.T) {
	old := new(log)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if b := sent(t, r); b["max_tokens"] != nil || b["max_completion_tokens"] != 9.0 {
			old.add("")
			w.WriteHeader(400)
			reply(w, `{"error":{"message":"Unsupported parameter","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}`)
			return
		}
		reply(w, good)
	})
	r := ask("x")
	r.Sampling.MaxTokens = 9
	for range 3 {
		if rep, err := w.Send(t.Context(), r); err != nil || string(rep.Params) != `{"max_completion_tokens":9}` {
			t.Fatalf("got %+v, %v", rep, err)
		}
	}
	if n := len(old.all()); n != 1 {
		t.Errorf("got %d refusals, want 1", n)
	}
	r.Sampling.Extra = map[string]any{"max_tokens": 9} // the user insists
	_, err := w.Send(t.Context(), r)
	if f := failure(t, err); f.Kind != llm.Refused || f.Code != "unsupported_parameter" || !strings.Contains(f.Hint, "max_tokens") {
		t.Errorf("got %+v", f)
	}
}

func TestBaseURL(t *testing.T) {
	for _, c := range []struct{ serves, url string }{
		{"/v1/chat/completions", ""},
		{"/v1/chat/completions", "/"},
		{"/v1/chat/completions", "/v1"},
		{"/v1/chat/completions", "/v1//"},
		{"/v1/chat/completions", "/v1/chat/completions"},
		{"/v1/chat/completions", "/v1/models"},
		{"/chat/completions", ""},
		{"/api/chat/completions", "/api"},
		{"/api/v1/chat/completions", "/api/"},
		{"/v1beta/openai/chat/completions", "/v1beta/openai/"},
		{"/gateway/@cf%2Fmeta/v1/chat/completions", "/gateway/@cf%2Fmeta/v1"},
		{"/my%20models/v1/chat/completions", "/my models"},
		{"/my%20models/v1/chat/completions", " /my%20models/v1/ "},
	} {
		t.Run(c.serves+" by "+c.url, func(t *testing.T) {
			tries := new(log)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tries.add(r.URL.EscapedPath())
				if r.URL.EscapedPath() != c.serves {
					http.NotFound(w, r)
					return
				}
				reply(w, good)
			}))
			defer s.Close()
			w := open(t, Options{BaseURL: s.URL + strings.TrimLeft(c.url, " ")})
			for range 3 {
				rep, err := w.Send(within(t, 10*time.Second), ask("x"))
				if err != nil {
					t.Fatal(err)
				}
				if want := s.URL + strings.TrimSuffix(c.serves, "/chat/completions"); rep.Endpoint != want {
					t.Errorf("endpoint: got %q, want %q", rep.Endpoint, want)
				}
			}
			if n := tries.all(); len(n) > 4 { // the wrong address is tried once at most
				t.Errorf("tried %q", n)
			}
		})
	}
}

// What Azure and the like are built of.
func TestExactAddress(t *testing.T) {
	seen := new(log)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.add(r.URL.String() + " " + r.Header.Get("Api-Key"))
		reply(w, good)
	}))
	defer s.Close()
	token := 0
	w := open(t, Options{
		BaseURL: s.URL + "/openai/deployments/gpt?api-version=2026", Exact: true, ModelsURL: s.URL + "/openai/models?api-version=2026",
		Auth: func(context.Context) (string, string, error) {
			if token++; token > 2 {
				return "", "", errors.New("no token")
			}
			return "Api-Key", "t", nil
		},
	})
	if _, err := w.Send(t.Context(), ask("x")); err != nil {
		t.Fatal(err)
	}
	w.Probe(t.Context())
	if d := cmp.Diff([]string{"/openai/deployments/gpt/chat/completions?api-version=2026 t", "/openai/models?api-version=2026 t"}, seen.all()[:2]); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	_, err := w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Fatal || f.Msg != "no token" || f.Hint == "" {
		t.Errorf("got %+v", f)
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []struct {
		name, field, want string
		options           Options
	}{
		{"no address", "base_url", "is empty", Options{}},
		{"no scheme", "base_url", "http://localhost:8000", Options{BaseURL: "localhost:8000"}},
		{"scheme", "base_url", "want http or https", Options{BaseURL: "ftp://x"}},
		{"no host", "base_url", "no host", Options{BaseURL: "http:///v1"}},
		{"port", "base_url", "port", Options{BaseURL: "http://me:hunter2222@x:y/"}},
		{"key", "api_key", "line break", Options{BaseURL: "http://x", APIKey: "sk-12345678\n"}},
		{"header", "headers", "X-A", Options{BaseURL: "http://x", Header: map[string]string{"X-A": "b\r\nc"}}},
		{"server", "server", "tgi", Options{BaseURL: "http://x", Server: "tgi"}},
		{"h2c with TLS", "http2", "http://", Options{BaseURL: "https://x", H2C: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.options)
			var f *llm.FieldError
			if !errors.As(err, &f) || f.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s: ...%s...", err, c.field, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "sk-1")) {
				t.Errorf("shows a secret: %v", err)
			}
		})
	}
}

func TestContextEnds(t *testing.T) {
	for _, stream := range []bool{false, true} {
		in := make(chan bool, 1)
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			r.Body.Read(make([]byte, 1<<16)) // so that the server sees the client leave
			in <- true
			<-r.Context().Done()
		})
		r := ask("x")
		r.Sampling.Stream = &stream
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := w.Send(ctx, r); done <- err }()
		<-in
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := w.Send(ctx, r)
		cancel()
		if f := failure(t, err); f.Kind != llm.Timeout || !f.Sent || f.Params == nil {
			t.Errorf("got %+v", f)
		}
	}
}

// A key that is too long for a header is sent as its hash.
func TestLongKey(t *testing.T) {
	keys := new(log)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		keys.add(r.Header.Get("Idempotency-Key"))
		reply(w, good)
	})
	for _, text := range []string{"a", "a", "b"} {
		if _, err := w.Send(t.Context(), &llm.Request{Prompt: "x", Key: strings.Repeat(text, 100_000)}); err != nil {
			t.Fatal(err)
		}
	}
	if k := keys.all(); len(k[0]) != 32 || k[0] != k[1] || k[1] == k[2] {
		t.Errorf("got %q", k)
	}
}

// The same over HTTP/2 without TLS.
func TestH2C(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("got %s", r.Proto)
		}
		reply(w, good)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols.SetHTTP1(true)
	s.Start()
	defer s.Close()
	w := open(t, Options{BaseURL: s.URL, H2C: true})
	for range 3 {
		if rep, err := w.Send(within(t, 5*time.Second), ask("x")); err != nil || rep.Choices[0].Text != "hello" {
			t.Fatalf("got %+v, %v", rep, err)
		}
	}

	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reply(w, good) }))
	defer plain.Close()
	w = open(t, Options{BaseURL: plain.URL, H2C: true})
	_, err := w.Send(within(t, 5*time.Second), ask("x"))
	if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Hint, "leave out http2") {
		t.Errorf("a server without: got %+v", f)
	}
}
