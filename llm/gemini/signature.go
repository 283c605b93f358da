package gemini

import (
	"encoding/json"

	"matrix/llm"
)

// kind is who reads the Opaque of this package's replies.
const kind = "gemini"

// unsigned stands for the signature of a call that has none of this service's,
// as those of another model's: models from Gemini 3 on refuse calls without. It
// is one of the two texts that the service lets pass, by
// https://ai.google.dev/gemini-api/docs/thought-signatures (under FAQs) and
// https://cloud.google.com/vertex-ai/generative-ai/docs/thought-signatures.
const unsigned = "skip_thought_signature_validator"

// signature is what the service put to a part, as Choice.Opaque has it. A part of
// thoughts is kept whole, as no text of the reply has it.
type signature struct {
	Signature string  `json:"signature"` // base64
	Thought   *string `json:"thought,omitempty"`
}

// note adds a part of choice i to what goes back.
func (in *reading) note(i int, p *part) {
	o := in.opaque[i]
	if o == nil {
		o = &llm.Opaque{Driver: kind}
		in.opaque[i] = o
	}
	s := signature{Signature: p.Signature}
	add := llm.OpaquePart{Call: p.Call != nil}
	bytes := len(s.Signature)
	switch {
	case add.Call:
		bytes += llm.PartBytes
	case p.Thought:
		if s.Thought = p.Text; s.Signature != "" { // kept a second time
			bytes += len(p.text()) + llm.PartBytes
		}
	default:
		add.Text = len(p.text())
	}
	if bytes > 0 && in.stream != nil && !in.stream.Keep(bytes) {
		return
	}
	if s.Signature != "" {
		add.Own, _ = json.Marshal(s)
	}
	o.Add(add)
}

// signed is what the model said, with the signatures where they were; nil where
// there are none, or what was signed was changed since.
func (w *Driver) signed(m *llm.Message) []part {
	parts, fits := llm.OpaqueParts(kind, m)
	if !fits {
		return nil
	}
	var out []part
	text, calls := 0, 0
	for _, p := range parts {
		var own signature
		if len(p.Own) > 0 && json.Unmarshal(p.Own, &own) != nil {
			return nil
		}
		q := part{Signature: own.Signature}
		if p.Call {
			q = w.call(&m.ToolCalls[calls])
			q.Signature = own.Signature
			calls++
		} else if q.Thought = own.Thought != nil; q.Thought {
			q.Text = own.Thought
		} else {
			s := m.Content[text : text+p.Text]
			text += p.Text
			q.Text = &s
		}
		out = append(out, q)
	}
	return out
}
