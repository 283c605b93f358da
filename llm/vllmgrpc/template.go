package vllmgrpc

import (
	"maps"
	"slices"
	"strings"

	"matrix/llm"
)

// template writes a chat out as a model was trained to read it. The server adds
// the token that every prompt begins with. A text that holds such marks itself
// is read as if they were the chat's.
type template struct {
	turn func(b *strings.Builder, role, text string)
	open string // the turn that is to be written

	end    string // of a turn; the model's own reply ends with it too
	system bool   // there are turns of system; else its text begins the first of user
}

// The formats are those of the models' own templates, in tokenizer_config.json
// or chat_template.jinja: of Qwen/Qwen2.5-7B-Instruct (chatml),
// meta-llama/Llama-3.1-8B-Instruct without its dates (llama3), and
// google/gemma-3-4b-it (gemma).
var templates = map[string]template{
	"chatml": {
		turn: func(b *strings.Builder, role, text string) {
			b.WriteString("<|im_start|>" + role + "\n" + text + "<|im_end|>\n")
		},
		open: "<|im_start|>assistant\n", end: "<|im_end|>", system: true,
	},
	"llama3": {
		turn: func(b *strings.Builder, role, text string) {
			b.WriteString("<|start_header_id|>" + role + "<|end_header_id|>\n\n" + strings.TrimSpace(text) + "<|eot_id|>")
		},
		open: "<|start_header_id|>assistant<|end_header_id|>\n\n", end: "<|eot_id|>", system: true,
	},
	"gemma": {
		turn: func(b *strings.Builder, role, text string) {
			if role == "assistant" {
				role = "model"
			}
			b.WriteString("<start_of_turn>" + role + "\n" + strings.TrimSpace(text) + "<end_of_turn>\n")
		},
		open: "<start_of_turn>model\n", end: "<end_of_turn>",
	},
}

func names() string { return strings.Join(slices.Sorted(maps.Keys(templates)), ", ") }

// write writes the chat out, up to where the reply begins.
func (t *template) write(ms []llm.Message) string {
	var b strings.Builder
	before := "" // what system said, where it has no turn
	for i := range ms {
		role, text := ms[i].Role, ms[i].Content
		if role == "system" && !t.system {
			before += text + "\n\n"
			continue
		}
		if role == "user" {
			text, before = before+text, ""
		}
		t.turn(&b, role, text)
	}
	if before != "" { // and nobody else spoke
		t.turn(&b, "user", before)
	}
	b.WriteString(t.open)
	return b.String()
}
