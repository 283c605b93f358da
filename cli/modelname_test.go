package cli

import "testing"

func TestShortName(t *testing.T) {
	for in, want := range map[string]string{
		"gpt-4o": "gpt-4o", "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B", "": "", "/": "/",
		"/data/models/Llama-3.1-8B-Instruct/": "Llama-3.1-8B-Instruct",
		"./qwen.gguf":                         "qwen.gguf",
		`C:\models\qwen.gguf`:                 "qwen.gguf",
		"/home/me/.cache/huggingface/hub/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f249a16976918f6564b8830bc894c89659": "meta-llama/Llama-3.1-8B",
	} {
		if got := shortName(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
