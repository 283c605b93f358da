package anthropic

import (
	"strings"
	"testing"

	"matrix/llm"
)

// BenchmarkSend is a call of 2 KiB in and 400 bytes out, with the fake's own work.
func BenchmarkSend(b *testing.B) {
	w := start(b, Config{}, says)
	defer w.Close()
	r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: strings.Repeat("some words ", 186)}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Send(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
