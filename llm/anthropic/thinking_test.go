package anthropic

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

// interleaved is a reply whose thoughts stand among texts and calls.
var interleaved = []string{
	`{"type":"thinking","thinking":"","signature":"s1"}`, // whose text the service keeps to itself
	`{"type":"redacted_thinking","data":"r1"}`,
	`{"type":"text","text":"First \u00e9."}`,
	`{"type":"text","text":" Then."}`,
	`{"type":"tool_use","id":"a","name":"f","input":{"x":1}}`,
	`{"type":"thinking","thinking":"and now","signature":"s2"}`,
	`{"type":"tool_use","id":"b","name":"g","input":{}}`,
	`{"type":"thinking","thinking":"not signed","signature":""}`,
}

// back are the blocks that go back: texts between thoughts and calls are one, and
// what is not signed is not there.
var back = []string{
	interleaved[0], interleaved[1], `{"type":"text","text":"First é. Then."}`, interleaved[4], interleaved[5], interleaved[6],
}

// streamOf is interleaved as events.
func streamOf() string {
	out := string(matrixtest.SSE("message_start", `{"type":"message_start","message":{"model":"m","usage":{"input_tokens":1}}}`))
	add := func(name, format string, a ...any) { out += string(matrixtest.SSE(name, fmt.Sprintf(format, a...))) }
	for i, text := range interleaved {
		var b map[string]any
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			panic(err)
		}
		delta := func(kind, key string, v any) {
			add("content_block_delta", `{"type":"content_block_delta","index":%d,"delta":{"type":%q,%q:%s}}`, i, kind, key, encode(v))
		}
		start := map[string]any{"type": b["type"], "text": "", "thinking": "", "signature": "", "input": map[string]any{}}
		for _, key := range []string{"id", "name", "data"} {
			start[key] = b[key]
		}
		add("content_block_start", `{"type":"content_block_start","index":%d,"content_block":%s}`, i, encode(start))
		switch b["type"] {
		case "text":
			delta("text_delta", "text", b["text"])
		case "thinking":
			delta("thinking_delta", "thinking", b["thinking"])
			delta("signature_delta", "signature", b["signature"])
		case "tool_use":
			delta("input_json_delta", "partial_json", string(encode(b["input"])))
		}
		add("content_block_stop", `{"type":"content_block_stop","index":%d}`, i)
	}
	add("message_delta", `{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":1}}`)
	add("message_stop", `{"type":"message_stop"}`)
	return out
}

// Thoughts go back where they were, each as it came.
func TestThinkingGoesBack(t *testing.T) {
	var got []json.RawMessage // the assistant's content
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		var b struct {
			Messages []struct{ Content []json.RawMessage }
			Stream   bool
		}
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		switch {
		case len(b.Messages) > 1:
			got = b.Messages[1].Content
			w.Header().Set("Content-Type", "application/json")
			w.Write(encode(envelope(&llm.Reply{}, []any{}, "end_turn")))
		case b.Stream:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, streamOf())
		default:
			w.Header().Set("Content-Type", "application/json")
			var content []json.RawMessage
			for _, s := range interleaved {
				content = append(content, json.RawMessage(s))
			}
			w.Write(encode(envelope(&llm.Reply{}, content, "tool_use")))
		}
	})
	for _, stream := range []bool{false, true} {
		r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}, Sampling: llm.Sampling{Stream: &stream}}
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Choices[0]
		if c.Text != "First é. Then." || c.Reasoning != "and nownot signed" || len(c.ToolCalls) != 2 {
			t.Errorf("stream %v: got %+v", stream, c)
		}
		r.Sampling.Stream = nil
		for _, x := range []struct {
			name  string
			calls []llm.ToolCall
			want  []string
		}{
			{"as it was", c.ToolCalls, back},
			{"a call was left out", c.ToolCalls[:1], []string{back[0], back[1], back[4], back[2], back[3]}},
		} {
			r.Messages = append(r.Messages[:1:1], llm.Message{Role: "assistant", Content: c.Text, ToolCalls: x.calls, Opaque: c.Opaque})
			for _, call := range x.calls {
				r.Messages = append(r.Messages, llm.Message{Role: "tool", ToolCallID: call.ID, Content: "so"})
			}
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
	w, err := New(Config{BaseURL: "http://" + host + "#127.0.0.1", Model: "m", APIKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if served, err := w.Probe(t.Context()); err != nil || len(served) != 1 {
		t.Fatalf("got %v and %v, want a model", served, err)
	}
	if got := <-hosts; got != host {
		t.Errorf("got host %q, want %q", got, host)
	}
}
