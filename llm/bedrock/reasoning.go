package bedrock

import (
	"encoding/json"
	"strings"

	"matrix/llm"
)

// kind is who reads the Opaque of this package's replies.
const kind = "bedrock"

// signed is a block of reasoning as Choice.Opaque has it. Converse wants it back
// with the tool calls that follow it, as it was:
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ReasoningTextBlock.html
type signed struct {
	Text      string `json:"text,omitempty"`
	Signature string `json:"signature,omitempty"`
	Redacted  []byte `json:"redacted,omitempty"`
}

// part is s as a part of a reply; none where it is not signed.
func (s *signed) part() llm.OpaquePart {
	if s.Signature == "" && len(s.Redacted) == 0 {
		return llm.OpaquePart{}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return llm.OpaquePart{} // not so: texts alone
	}
	return llm.OpaquePart{Own: b}
}

func (s *signed) block() block {
	if len(s.Redacted) > 0 {
		return block{Reasoning: &reasoning{Redacted: s.Redacted}}
	}
	return block{Reasoning: &reasoning{Text: &reasoningText{s.Text, s.Signature}}}
}

// reasoned puts what the model reasoned into what it said: where it was, or in
// front where the rest was changed since.
func reasoned(m *llm.Message, said []block) []block {
	parts, fits := llm.OpaqueParts(kind, m)
	if len(parts) == 0 {
		return said
	}
	var out []block
	text, calls := 0, 0
	for _, p := range parts {
		var own signed
		switch {
		case len(p.Own) > 0 && json.Unmarshal(p.Own, &own) == nil:
			out = append(out, own.block())
		case fits && p.Call:
			out = append(out, use(&m.ToolCalls[calls]))
			calls++
		case fits && p.Text > 0:
			part := m.Content[text : text+p.Text]
			out = append(out, block{Text: &part})
			text += p.Text
		}
	}
	if !fits {
		out = append(out, said...)
	}
	return out
}

// layout notes the order of a stream's blocks. The events of a block follow one
// another.
type layout struct {
	opaque llm.Opaque
	text   int // bytes of the block's text
	call   bool
	signed signed
	reason strings.Builder // the text of signed
}

// stop ends a block.
func (l *layout) stop() {
	if l.call {
		l.opaque.Add(llm.OpaquePart{Call: true})
	}
	l.opaque.Add(llm.OpaquePart{Text: l.text})
	l.signed.Text = l.reason.String()
	l.opaque.Add(l.signed.part())
	l.text, l.call, l.signed = 0, false, signed{}
	l.reason.Reset()
}
