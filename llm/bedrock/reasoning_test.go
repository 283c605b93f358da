package bedrock

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"matrix/llm"
)

// What the model reasoned goes back where it was, as it came.
func TestReasoningGoesBack(t *testing.T) {
	const (
		one      = `{"reasoningContent":{"reasoningText":{"text":"hm","signature":"s1"}}}`
		redacted = `{"reasoningContent":{"redactedContent":"AQID"}}`
		text     = `{"text":"Let me look."}`
		first    = `{"toolUse":{"toolUseId":"a","name":"f","input":{"x":1}}}`
		two      = `{"reasoningContent":{"reasoningText":{"text":"and now","signature":"s2"}}}`
		second   = `{"toolUse":{"toolUseId":"b","name":"g","input":{}}}`
		unsigned = `{"reasoningContent":{"reasoningText":{"text":"not signed"}}}`
	)
	stream := []m{
		{"reasoningContent": m{"text": "h"}}, {"reasoningContent": m{"text": "m"}}, {"reasoningContent": m{"signature": "s1"}}, nil,
		{"reasoningContent": m{"redactedContent": "AQI="}}, {"reasoningContent": m{"redactedContent": "Aw=="}}, nil,
		{"text": "Let me "}, {"text": "look."}, nil,
		{"toolUse": m{"toolUseId": "a", "name": "f"}}, {"toolUse": m{"input": `{"x":`}}, {"toolUse": m{"input": `1}`}}, nil,
		{"reasoningContent": m{"text": "and now"}}, {"reasoningContent": m{"signature": "s2"}}, nil,
		{"toolUse": m{"toolUseId": "b", "name": "g"}}, nil,
		{"reasoningContent": m{"text": "not signed"}}, nil,
	}
	var got []json.RawMessage // the assistant's content
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b struct {
			Messages []struct{ Content []json.RawMessage }
		}
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		end := m{"stopReason": "tool_use", "usage": m{"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}}
		if strings.HasSuffix(r.URL.Path, "-stream") {
			w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
			w.Write(event("messageStart", m{"role": "assistant"}))
			block := 0
			for _, d := range stream {
				use, _ := d["toolUse"].(m)
				switch {
				case d == nil:
					w.Write(event("contentBlockStop", m{"contentBlockIndex": block}))
					block++
				case use["name"] != nil:
					w.Write(event("contentBlockStart", m{"contentBlockIndex": block, "start": d}))
				default:
					w.Write(event("contentBlockDelta", m{"contentBlockIndex": block, "delta": d}))
				}
			}
			w.Write(event("messageStop", m{"stopReason": "tool_use"}))
			w.Write(event("metadata", m{"usage": end["usage"]}))
			return
		}
		if len(b.Messages) > 1 {
			got = b.Messages[1].Content
		}
		var content []json.RawMessage
		for _, p := range []string{one, redacted, text, first, two, second, unsigned} {
			content = append(content, json.RawMessage(p))
		}
		end["output"] = m{"message": m{"role": "assistant", "content": content}}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(end)
	}))
	defer s.Close()
	w := open(t, Config{}, s.URL)
	defer w.Close()
	for _, stream := range []bool{false, true} {
		r := chat("go")
		r.Sampling.Stream = &stream
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Choices[0]
		if c.Text != "Let me look." || c.Reasoning != "hmand nownot signed" || len(c.ToolCalls) != 2 {
			t.Errorf("stream %v: got %+v", stream, c)
		}
		r.Sampling.Stream = nil
		for _, x := range []struct {
			name  string
			calls []llm.ToolCall
			want  []string
		}{
			{"as it was", c.ToolCalls, []string{one, redacted, text, first, two, second}},
			{"a call was left out", c.ToolCalls[:1], []string{one, redacted, two, text, first}},
		} {
			r.Messages = append(r.Messages[:1:1], llm.Message{Role: "assistant", Content: c.Text, ToolCalls: x.calls, Opaque: c.Opaque})
			if _, err := w.Send(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if g, want := values(t, got), values(t, x.want); !reflect.DeepEqual(g, want) {
				t.Errorf("stream %v, %s: got %v, want %v", stream, x.name, g, want)
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
