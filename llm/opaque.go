package llm

import "encoding/json"

// Opaque puts together what a Choice keeps for its service: the order in which
// the parts of the reply came, and of them what is the service's own, such as
// signed thoughts. Texts and tool calls stand in the reply itself; a part counts
// them off.
type Opaque struct {
	Driver string       `json:"wire"` // kind of the driver: another's is not read
	Parts  []OpaquePart `json:"parts"`
}

// OpaquePart is a part of a reply: a text, a tool call, or what is the
// service's own; with a text or a call, Own is what belongs to it.
type OpaquePart struct {
	Text int             `json:"text,omitempty"` // so many bytes of the reply's text
	Call bool            `json:"call,omitempty"` // the next of its tool calls
	Own  json.RawMessage `json:"own,omitempty"`
}

// Add adds a part. Texts without anything of the service's own become one.
func (o *Opaque) Add(p OpaquePart) {
	if p.Text > 0 && len(p.Own) == 0 {
		if n := len(o.Parts); n > 0 && o.Parts[n-1].Text > 0 && len(o.Parts[n-1].Own) == 0 {
			o.Parts[n-1].Text += p.Text
			return
		}
	}
	if p.Text > 0 || p.Call || len(p.Own) > 0 {
		o.Parts = append(o.Parts, p)
	}
}

// JSON is what a Choice has as Opaque: nil where nothing is the service's own.
func (o *Opaque) JSON() json.RawMessage {
	for i := range o.Parts {
		if len(o.Parts[i].Own) == 0 {
			continue
		}
		if b, err := json.Marshal(o); err == nil {
			return b
		}
	}
	return nil
}

// OpaqueParts are the parts of an assistant's message, as a driver of that kind
// kept them; none where another did. fits says that they count off all of its
// text and its tool calls: it may have been changed since.
func OpaqueParts(driver string, m *Message) (parts []OpaquePart, fits bool) {
	var o Opaque
	if len(m.Opaque) == 0 || json.Unmarshal(m.Opaque, &o) != nil || o.Driver != driver {
		return nil, false
	}
	text, calls := 0, 0
	for _, p := range o.Parts {
		if p.Text < 0 || p.Text > len(m.Content)-text {
			return o.Parts, false
		}
		text += p.Text
		if p.Call {
			calls++
		}
	}
	return o.Parts, text == len(m.Content) && calls == len(m.ToolCalls)
}
