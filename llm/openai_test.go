package llm

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestChat(t *testing.T) {
	temp, top, seed := 0.5, 0.9, int64(42)
	var body map[string]any
	var head http.Header
	m := serve(t, OpenAI{
		Model: "llama", APIKey: "sk-secret-1", Headers: map[string]string{"X-Team": "coral"},
		Sampling: Sampling{Temperature: &temp, TopP: &top, MaxTokens: 100, Extra: map[string]any{"top_k": 5, "min_p": 0.1}},
	}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/chat/completions" || r.Method != "POST" {
			t.Errorf("got %s %s", r.Method, r.URL.Path)
		}
		body, head = sent(t, r), r.Header
		reply(w, good)
	})
	zero := 0.0
	rep, err := m.Chat(t.Context(), &Request{
		Messages: []Message{{"system", "be \"brief\"\n\x01<&>"}, {"user", "Ünï\xff"}},
		Sampling: Sampling{Temperature: &zero, MaxTokens: 50, Stop: []string{"\n"}, Seed: &seed, N: 2,
			ResponseFormat: json.RawMessage(`{"type":"json_object"}`), Extra: map[string]any{"min_p": 0.2}},
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
		"temperature": 0.0, "top_p": 0.9, "max_tokens": 50.0, "n": 2.0, "stop": []any{"\n"}, "seed": 42.0,
		"response_format": map[string]any{"type": "json_object"}, "top_k": 5.0, "min_p": 0.2,
	}
	if !reflect.DeepEqual(body, want) {
		t.Errorf("body: got %v, want %v", body, want)
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
	if err := json.Unmarshal(rep.Params, &params); err != nil || params["seed"] != 42.0 || params["top_k"] != 5.0 || params["messages"] != nil {
		t.Errorf("params: got %s (%v)", rep.Params, err)
	}
	if rep.Model != "m-1" || rep.Endpoint != m.targets[0].base || rep.Took <= 0 || rep.Retries != 0 {
		t.Errorf("got %+v", rep)
	}
	if len(rep.Choices) != 1 || rep.Choices[0] != (Choice{"hello", "stop"}) || rep.Usage != (Usage{7, 3}) {
		t.Errorf("got %+v", rep)
	}
	if got, want := m.Stats(), (Stats{Calls: 1, PromptTokens: 7, CompletionTokens: 3}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

// A reply that is empty or cut is the caller's to judge.
func TestReplyPassedOn(t *testing.T) {
	for name, body := range map[string]string{
		"null":      `{"choices":[{"message":{"content":null},"finish_reason":"stop"}],"usage":null}`,
		"empty":     `{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}`,
		"no reason": `{"choices":[{"message":{"content":""},"finish_reason":null}]}`,
		"cut":       `{"choices":[{"message":{"content":""},"finish_reason":"length"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) { reply(w, body) })
			rep, err := m.Chat(t.Context(), ask("x"))
			if err != nil || rep.Choices[0].Text != "" || rep.Retries != 0 {
				t.Fatalf("got %+v, %v", rep, err)
			}
			if want := map[string]string{"cut": "length", "no reason": ""}[name]; want != "" && rep.Choices[0].Finish != want {
				t.Errorf("finish: got %q, want %q", rep.Choices[0].Finish, want)
			}
		})
	}
}

func TestBaseURL(t *testing.T) {
	for _, c := range []struct{ serves, url string }{
		{"/v1/chat/completions", ""},
		{"/v1/chat/completions", "/"},
		{"/v1/chat/completions", "/v1"},
		{"/v1/chat/completions", "/v1//"},
		{"/v1/chat/completions", "/v1/chat/completions"},
		{"/chat/completions", ""},
		{"/api/chat/completions", "/api"},
		{"/api/v1/chat/completions", "/api/"},
		{"/v1beta/openai/chat/completions", "/v1beta/openai/"},
	} {
		t.Run(c.serves+" by "+c.url, func(t *testing.T) {
			tries := new(log)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tries.add(r.URL.Path)
				if r.URL.Path != c.serves {
					http.NotFound(w, r)
					return
				}
				reply(w, good)
			}))
			defer s.Close()
			m := client(t, OpenAI{BaseURL: s.URL + c.url}, quick)
			for range 3 {
				rep, err := m.Chat(within(t, 10*time.Second), ask("x"))
				if err != nil {
					t.Fatal(err)
				}
				if want := s.URL + strings.TrimSuffix(c.serves, chatPath); rep.Endpoint != want {
					t.Errorf("endpoint: got %q, want %q", rep.Endpoint, want)
				}
			}
			if len(tries.list) > 4 { // the wrong address is tried once at most
				t.Errorf("tried %q", tries.list)
			}
		})
	}
}

func TestBaseURLSaysWhatWasTried(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	m := client(t, OpenAI{BaseURL: s.URL}, quick)
	_, err := m.Chat(t.Context(), ask("x"))
	e := kindOf(t, err)
	if e.Kind != Fatal || !strings.Contains(e.Msg, s.URL+"/v1/chat/completions") || !strings.Contains(e.Msg, "also tried "+s.URL+"/chat/completions") || !strings.Contains(e.Hint, "base_url") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownModelSaysWhichThereAre(t *testing.T) {
	m := serve(t, OpenAI{Model: "lama"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			reply(w, `{"data":[{"id":"llama"},{"id":"qwen"}]}`)
			return
		}
		w.WriteHeader(404)
		reply(w, `{"object":"error","message":"The model lama does not exist.","type":"NotFoundError","code":404}`)
	})
	_, err := m.Chat(t.Context(), ask("x"))
	e := kindOf(t, err)
	if e.Kind != Fatal || !strings.Contains(e.Msg, "does not exist") || !strings.Contains(e.Hint, `"lama"`) || !strings.Contains(e.Hint, `["llama" "qwen"]`) {
		t.Errorf("got %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	inf := 1 / zeroFloat
	for _, c := range []struct {
		name, field, want string
		config            OpenAI
	}{
		{"no address", "base_url", "is empty", OpenAI{}},
		{"no scheme", "base_url", "http://localhost:8000", OpenAI{BaseURL: "localhost:8000"}},
		{"scheme", "base_url", "want http or https", OpenAI{BaseURL: "ftp://x"}},
		{"no host", "base_url", "no host", OpenAI{BaseURL: "http:///v1"}},
		{"port", "base_url", "port", OpenAI{BaseURL: "http://me:hunter2222@x:y/"}},
		{"timeout", "timeout", "-1s", OpenAI{BaseURL: "http://x", Timeout: -time.Second}},
		{"concurrency", "concurrency", "-1", OpenAI{BaseURL: "http://x", Concurrency: -1}},
		{"key", "api_key", "line break", OpenAI{BaseURL: "http://x", APIKey: "sk-12345678\n"}},
		{"header", "headers", "X-A", OpenAI{BaseURL: "http://x", Headers: map[string]string{"X-A": "b\r\nc"}}},
		{"stream", "extra_body", "stream", OpenAI{BaseURL: "http://x", Sampling: Sampling{Extra: map[string]any{"stream": true}}}},
		{"temperature", "temperature", "Inf", OpenAI{BaseURL: "http://x", Sampling: Sampling{Temperature: &inf}}},
		{"max tokens", "max_tokens", "-5", OpenAI{BaseURL: "http://x", Sampling: Sampling{MaxTokens: -5}}},
		{"n", "n", "-5", OpenAI{BaseURL: "http://x", Sampling: Sampling{N: -5}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewOpenAI("m", c.config)
			var f *FieldError
			if !errors.As(err, &f) || f.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s: ...%s...", err, c.field, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "sk-1")) {
				t.Errorf("shows a secret: %v", err)
			}
		})
	}
}

var zeroFloat float64

func TestContextEnds(t *testing.T) {
	in := make(chan bool, 1)
	m := serve(t, OpenAI{Concurrency: 1}, func(w http.ResponseWriter, r *http.Request) {
		r.Body.Read(make([]byte, 1<<16)) // so that the server sees the client leave
		in <- true
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { _, err := m.Chat(ctx, ask("x")); done <- err }()
	<-in
	go func() { _, err := m.Chat(ctx, ask("waits for a slot")); done <- err }()
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, code := range []int{301, 302, 307, 308} {
		hit := new(log)
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hit.add(r.Header.Get("Authorization"))
		}))
		m := serve(t, OpenAI{APIKey: "sk-secret-1"}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/v1/chat/completions?k=sk-secret-1", code)
		})
		_, err := m.Chat(t.Context(), ask("x"))
		e := kindOf(t, err)
		if e.Kind != Fatal || !strings.Contains(e.Msg, other.URL) || strings.Contains(err.Error(), "sk-secret-1") {
			t.Errorf("%d: got %v", code, err)
		}
		if len(hit.list) != 0 {
			t.Errorf("%d: the other host was called", code)
		}
		other.Close()
	}
}

// A server that repeats the key in its message does not get it shown.
func TestSecretsStayOut(t *testing.T) {
	const key, header, pass = "sk-secret-1", "token-4711", "hunter2222"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
		reply(w, `{"error":{"message":"wrong: `+r.Header.Get("Authorization")+` `+r.Header.Get("X-Token")+` `+pass+`"}}`)
	}))
	defer s.Close()
	u := strings.Replace(s.URL, "http://", "http://me:"+pass+"@", 1)
	m := client(t, OpenAI{BaseURL: u, APIKey: key, Headers: map[string]string{"X-Token": "Bearer " + header}}, quick)
	_, err := m.Chat(t.Context(), ask("x"))
	for _, secret := range []string{key, header, pass} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error shows %q: %v", secret, err)
		}
	}
	if !strings.Contains(err.Error(), "wrong: ") {
		t.Errorf("the server's message is gone: %v", err)
	}
}
