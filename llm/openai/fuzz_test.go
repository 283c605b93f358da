package openai

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"matrix/llm"
	"matrix/llm/internal/sse"
	"matrix/llm/openai/api"
)

func FuzzEncode(f *testing.F) {
	f.Add("llama", "user", "a \"b\" \\ \n\t\r\x00\x7f \u2028 \xff\xc3 é 🙂", "stop", int64(-1), 0.1)
	f.Add("", "", "", "", int64(0), 1e300)
	f.Fuzz(func(t *testing.T, model, role, text, stop string, seed int64, temp float64) {
		w, err := New(Options{BaseURL: "http://127.0.0.1:1", Model: model})
		if err != nil {
			t.Fatal(err)
		}
		r := &llm.Request{
			Messages: []llm.Message{{Role: role, Content: text}, {Role: role, Content: stop, ToolCallID: text, ToolCalls: []llm.ToolCall{{ID: text, Name: stop, Arguments: text}}}},
			Sampling: llm.Sampling{Temperature: &temp, Seed: &seed, Stop: []string{stop}, Extra: map[string]any{stop: text}},
		}
		if r.Sampling.Check() != nil || strings.EqualFold(stop, "model") || strings.EqualFold(stop, "messages") {
			return
		}
		c, failed := w.encode(r, api.Server{Name: api.OpenAI}, w.model)
		if failed != nil || !json.Valid(c.params) {
			t.Fatalf("params: %s, %v", c.params, failed)
		}
		var v struct {
			Model    string
			Messages []struct{ Role, Content string }
		}
		if err := json.Unmarshal(c.body, &v); err != nil {
			t.Fatalf("%s: %v", c.body, err)
		}
		valid := func(s string) string { return strings.Map(func(r rune) rune { return r }, s) }
		if v.Model != valid(model) || v.Messages[0].Role != valid(role) || v.Messages[0].Content != valid(text) || v.Messages[1].Content != valid(stop) {
			t.Errorf("got %+v from %s", v, c.body)
		}
	})
}

func FuzzRead(f *testing.F) {
	w, err := New(Options{BaseURL: "http://127.0.0.1:1", APIKey: "sk-secret-1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, false, []byte(good))
	f.Add(200, false, []byte(`{"error":{"code":502,"message":"sk-secret-1"}}`))
	f.Add(200, true, []byte(`{"data":[{"index":0,"embedding":"AACAPw=="}]}`))
	f.Add(400, false, []byte(`{"error":{"code":"x","message":[1]},"detail":{}}`))
	f.Fuzz(func(t *testing.T, status int, embed bool, body []byte) {
		c := &call{op: chat, r: &llm.Request{}}
		if embed {
			c = &call{op: embedding, r: &llm.Request{Input: []string{"x"}}}
		}
		rep, f := w.read(&w.targets[0], c, &head{status: status}, nil, body)
		switch {
		case (rep == nil) == (f == nil):
			t.Errorf("got %v and %v", rep, f)
		case rep != nil && len(rep.Choices) == 0 && len(rep.Vectors) != 1:
			t.Error("a reply that holds nothing")
		case f != nil && (strings.Contains(f.Msg, "sk-secret-1") || len(f.Msg) > 3000):
			t.Errorf("got %q", f.Msg)
		}
	})
}

// Whatever a stream holds, and however it is cut, it is a reply or a failure.
func FuzzStream(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"<think>a</think>b\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"), 3)
	f.Add([]byte(": x\r\ndata: {\"choices\":[{\"index\":1,\"delta\":{\"tool_calls\":[{\"id\":\"a\"},{\"index\":-1}]},\"logprobs\":{\"a\":[1]}}]}\r\n\r\n"), 1)
	f.Add([]byte("data: {\"error\":{\"message\":\"sk-secret-1\"}}\n\n"), 100)
	f.Fuzz(func(t *testing.T, body []byte, step int) {
		w, err := New(Options{BaseURL: "http://127.0.0.1:1", APIKey: "sk-secret-1"})
		if err != nil {
			t.Fatal(err)
		}
		r := &llm.Request{Sampling: llm.Sampling{Until: "b+"}}
		_, s, err := llm.NewStream(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p := &pieces{w: w, t: &w.targets[0], c: &call{op: chat, r: r}, h: &head{status: 200}, s: s}
		e := sse.New(&stepper{bytes.NewReader(body), max(1, step%100)}, nil, 1<<16)
		for {
			data, err := e.Next(s.Alive)
			if err != nil {
				break
			}
			more, f := p.add(data)
			if f != nil {
				if f.Msg == "" || strings.Contains(f.Msg, "sk-secret-1") {
					t.Errorf("got %+v", f)
				}
				return
			}
			if !more {
				break
			}
		}
		rep, failed := p.reply()
		if (rep == nil) == (failed == nil) || rep != nil && len(rep.Choices) == 0 {
			t.Errorf("got %+v and %v", rep, failed)
		}
	})
}

// stepper reads at most n bytes at once.
type stepper struct {
	r io.Reader
	n int
}

func (s *stepper) Read(b []byte) (int, error) { return s.r.Read(b[:min(len(b), s.n)]) }
