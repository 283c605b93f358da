package openai

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

// client is a model whose service is one server.
func client(t *testing.T, c Config, h http.HandlerFunc) *llm.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	m, err := llm.New("teacher", c.Service, llm.Endpoints{{URL: s.URL}}, c.Open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// Each try of a call carries the same key and the same body.
func TestRetries(t *testing.T) {
	t.Parallel()
	keys, texts := new(log), new(log)
	m := client(t, Config{Model: "m", Service: llm.Service{Timeout: time.Second}}, func(w http.ResponseWriter, r *http.Request) {
		body := sent(t, r)
		texts.add(body["messages"].([]any)[0].(map[string]any)["content"].(string))
		switch keys.add(r.Header.Get("Idempotency-Key")) {
		case 1:
			w.WriteHeader(429)
		case 2:
			reply(w, good[:100])
		case 3:
			<-r.Context().Done()
		default:
			reply(w, good)
		}
	})
	rep, err := m.Do(within(t, 20*time.Second), ask("x"))
	if err != nil {
		t.Fatal(err)
	}
	if rep.Retries != 3 || rep.Choices[0].Text != "hello" || rep.Retry <= 0 || rep.Took <= 0 {
		t.Errorf("got %+v", rep)
	}
	if got := slices.Compact(keys.all()); !slices.Equal(got, []string{"key-x"}) {
		t.Errorf("keys: got %q", got)
	}
	if got := slices.Compact(texts.all()); !slices.Equal(got, []string{"x"}) {
		t.Errorf("texts: got %q", got)
	}
	if s := m.Stats(); s.Retries != 3 || s.Calls != 1 || s.Paused != nil || s.PromptTokens != 7 {
		t.Errorf("stats: got %+v", s)
	}
}

func TestUnknownModelSaysWhichThereAre(t *testing.T) {
	m := client(t, Config{Model: "lama"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			reply(w, `{"data":[{"id":"llama"},{"id":"qwen"}]}`)
			return
		}
		w.WriteHeader(404)
		reply(w, `{"object":"error","message":"The model lama does not exist.","type":"NotFoundError","code":404}`)
	})
	_, err := m.Do(within(t, 10*time.Second), ask("x"))
	var e *llm.Error
	if !errors.As(err, &e) || e.Kind != llm.Fatal || !strings.Contains(e.Msg, "does not exist") || !strings.Contains(e.Hint, "llama") || !strings.Contains(e.Hint, "qwen") {
		t.Errorf("got %v", err)
	}
}
