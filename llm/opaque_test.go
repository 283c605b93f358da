package llm

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestOpaque(t *testing.T) {
	o := Opaque{Driver: "w"}
	if o.Add(OpaquePart{Text: 3}); o.JSON() != nil {
		t.Errorf("a text alone: got %s, want nothing", o.JSON())
	}
	o.Add(OpaquePart{})
	o.Add(OpaquePart{Text: 2})
	o.Add(OpaquePart{Own: json.RawMessage(`{"signature":"s"}`)})
	o.Add(OpaquePart{Call: true, Own: json.RawMessage(`"t"`)})
	o.Add(OpaquePart{Call: true})
	const want = `{"wire":"w","parts":[{"text":5},{"own":{"signature":"s"}},{"call":true,"own":"t"},{"call":true}]}`
	if got := string(o.JSON()); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	two := []ToolCall{{ID: "1"}, {ID: "2"}}
	for _, c := range []struct {
		name   string
		driver string
		m      Message
		parts  int
		fits   bool
	}{
		{"as it was", "w", Message{Content: "abcde", ToolCalls: two, Opaque: o.JSON()}, 4, true},
		{"a call was left out", "w", Message{Content: "abcde", ToolCalls: two[:1], Opaque: o.JSON()}, 4, false},
		{"a shorter text", "w", Message{Content: "abc", ToolCalls: two, Opaque: o.JSON()}, 4, false},
		{"a longer text", "w", Message{Content: "abcdef", ToolCalls: two, Opaque: o.JSON()}, 4, false},
		{"counts that overflow", "w", Message{Opaque: json.RawMessage(`{"wire":"w","parts":[{"text":9223372036854775807},{"text":9223372036854775807}]}`)}, 2, false},
		{"another vendor's", "v", Message{Content: "abcde", ToolCalls: two, Opaque: o.JSON()}, 0, false},
		{"none", "w", Message{Content: "abcde"}, 0, false},
		{"no JSON of ours", "w", Message{Opaque: json.RawMessage(`[1]`)}, 0, false},
	} {
		parts, fits := OpaqueParts(c.driver, &c.m)
		if len(parts) != c.parts || fits != c.fits {
			t.Errorf("%s: got %d parts, fits %v, want %d and %v", c.name, len(parts), fits, c.parts, c.fits)
		}
		if c.fits && !reflect.DeepEqual(parts, o.Parts) {
			t.Errorf("%s: got %+v, want %+v", c.name, parts, o.Parts)
		}
	}
}
