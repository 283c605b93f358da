package gemini

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

// Signatures go back on the parts that they came with, wherever these were.
func TestSignaturesGoBack(t *testing.T) {
	pieces := []string{
		`{"text":"hm","thought":true}`,
		`{"text":"","thought":true,"thoughtSignature":"dGhvdWdodA=="}`,
		`{"text":"Let me "}`, `{"text":"look."}`,
		`{"text":"","thoughtSignature":"dGV4dA=="}`,
		`{"functionCall":{"id":"a","name":"f","args":{"x":1}},"thoughtSignature":"Y2FsbA=="}`,
		`{"functionCall":{"id":"b","name":"g","args":{}}}`,
	}
	want := []string{pieces[1], `{"text":"Let me look."}`, pieces[4], pieces[5], pieces[6]}
	skip := []string{
		`{"text":"Let me look."}`, `{"functionCall":{"id":"b","name":"g","args":{}},"thoughtSignature":"skip_thought_signature_validator"}`,
	}
	var got []json.RawMessage // the model's parts
	w := raw(t, Config{APIKey: testKey}, func(w http.ResponseWriter, r *http.Request) {
		var b struct {
			Contents []struct{ Parts []json.RawMessage }
		}
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		answer := func(parts []json.RawMessage, finish string) map[string]any {
			return map[string]any{"candidates": []any{map[string]any{"content": map[string]any{"role": "model", "parts": parts}, "finishReason": finish}}}
		}
		var parts []json.RawMessage
		for _, p := range pieces {
			parts = append(parts, json.RawMessage(p))
		}
		switch {
		case len(b.Contents) > 1:
			got = b.Contents[1].Parts
			w.Header().Set("Content-Type", "application/json")
			w.Write(encode(answer(parts[2:3], "STOP")))
		case r.URL.Query().Get("alt") == "sse":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range parts {
				w.Write(matrixtest.SSE("", string(encode(answer(parts[i:i+1], "")))))
			}
			w.Write(matrixtest.SSE("", string(encode(answer(nil, "STOP")))))
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Write(encode(answer(parts, "STOP")))
		}
	})
	for _, stream := range []bool{false, true} {
		r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}}
		r.Sampling.Stream = &stream
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Choices[0]
		if c.Text != "Let me look." || c.Reasoning != "hm" || len(c.ToolCalls) != 2 {
			t.Errorf("stream %v: got %+v", stream, c)
		}
		off := false
		r.Sampling.Stream = &off
		for _, x := range []struct {
			name  string
			calls []llm.ToolCall
			want  []string
		}{{"as it was", c.ToolCalls, want}, {"a call was left out", c.ToolCalls[1:], skip}} {
			r.Messages = append(r.Messages[:1:1], llm.Message{Role: "assistant", Content: c.Text, ToolCalls: x.calls, Opaque: c.Opaque})
			if _, err := w.Send(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if g, want := values(t, got), values(t, x.want); !reflect.DeepEqual(g, want) {
				t.Errorf("stream %v, %s: got %s, want %s", stream, x.name, encode(g), encode(want))
			}
		}
	}
}

func values[T ~[]byte | ~string](t *testing.T, texts []T) []any {
	t.Helper()
	out := make([]any, len(texts))
	for i, s := range texts {
		if err := json.Unmarshal([]byte(s), &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// A pinned address is reached by the name of its host.
func TestPinned(t *testing.T) {
	hosts := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		w.Write(list([]string{"m"}))
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	host := "llm.example.invalid:" + u.Port()
	w := driver(t, Config{BaseURL: "http://" + host + "#127.0.0.1", APIKey: testKey})
	defer w.Close()
	if served, err := w.Probe(t.Context()); err != nil || len(served) != 1 {
		t.Fatalf("got %v and %v, want a model", served, err)
	}
	if got := <-hosts; got != host {
		t.Errorf("got host %q, want %q", got, host)
	}
}
