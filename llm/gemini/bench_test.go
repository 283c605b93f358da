package gemini

import (
	"strings"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

// BenchmarkSend is a call of 2 KiB in and 400 bytes out, with the fake's own work.
func BenchmarkSend(b *testing.B) {
	w := driver(b, Config{APIKey: testKey, BaseURL: codec(geminiAPI).Serve(b, testKey, says)})
	defer w.Close()
	r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: strings.Repeat("some words ", 186)}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Send(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// says answers every call.
func says(matrixtest.Call) matrixtest.Answer {
	return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: strings.Repeat("words ", 66), Finish: "stop"}}}}
}
