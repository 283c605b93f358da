package llm

import (
	"encoding/json"
	"testing"
	"time"
)

// The hash of a request is written down in outputs and looked for by later runs:
// this value must never change.
func TestHashIsTheSameForEver(t *testing.T) {
	temperature, seed := 1.0, int64(7)
	r := &Request{
		Messages: []Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: "Why?\n\"é\u2028 <b>", Images: []Image{{Data: []byte("GIF89a"), Media: "image/gif", Detail: "low"}}}},
		Tools:    []Tool{{Name: "add", Parameters: json.RawMessage(`{"type": "object", "properties": {"b": {}, "a": {}}}`)}}, ToolChoice: "auto",
		Format:   &Format{Choice: []string{"A", "B"}},
		Sampling: Sampling{Temperature: &temperature, MaxTokens: 9, Seed: &seed, N: 1, Stop: []string{"\n"}, Extra: map[string]any{"min_p": 0.05, "top_k": 20, "seed": 3}},
	}
	const want = "88ac205cacd5944ad21e594e5795e8b31f669940292a21f25a2800aae8a3aa0e"
	if got := r.Hash("llama-70b"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	other, stream := int64(8), true
	for name, change := range map[string]func(){
		"seed":       func() { r.Sampling.Seed = &other },
		"no seed":    func() { r.Sampling.Seed = nil },
		"extra seed": func() { delete(r.Sampling.Extra, "seed") },
		"stream":     func() { r.Sampling.Stream, r.Sampling.Stall = &stream, time.Second },
		"space":      func() { r.Tools[0].Parameters = json.RawMessage(`{"properties":{"a":{},"b":{}},"type":"object"}`) },
		"one reply":  func() { r.Sampling.N = 0 },
		"who asks":   func() { r.Key, r.Session, r.Ask = "k", "s", Ask{ID: "a", Role: "r"} },
	} {
		if change(); r.Hash("llama-70b") != want {
			t.Errorf("%s alters the hash", name)
		}
	}
	seen := map[string]string{want: "the first"}
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"temperature", func() { *r.Sampling.Temperature = 1.5 }},
		{"stop", func() { r.Sampling.Stop = append(r.Sampling.Stop, "x") }},
		{"extra", func() { r.Sampling.Extra["top_k"] = 21 }},
		{"format", func() { r.Format = nil }},
		{"tools", func() { r.Tools[0].Description = "adds" }},
		{"choice", func() { r.ToolChoice = "" }},
		{"image", func() { r.Messages[1].Images[0].Data = []byte("GIF87a") }},
		{"text", func() { r.Messages[0].Content += "." }},
		{"role", func() { r.Messages[0].Role = "user" }},
		{"fewer", func() { r.Messages = r.Messages[:1] }},
		{"prompt", func() { r.Messages, r.Prompt = nil, "Be brief." }},
		{"input", func() { r.Prompt, r.Input = "", []string{"Be brief."} }},
	} {
		c.change()
		h := r.Hash("llama-70b")
		if was := seen[h]; was != "" {
			t.Errorf("%s: the hash is that of %s", c.name, was)
		}
		seen[h] = c.name
	}
	if seen[r.Hash("llama-8b")] != "" {
		t.Error("another model has the same hash")
	}
}

func BenchmarkHash(b *testing.B) {
	temperature := 0.7
	r := &Request{Messages: []Message{{Role: "user", Content: string(make([]byte, 4096))}}, Sampling: Sampling{Temperature: &temperature, MaxTokens: 512}}
	b.ReportAllocs()
	for b.Loop() {
		r.Hash("llama-70b")
	}
}
