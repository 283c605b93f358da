package llm

import "testing"

func TestLackFormat(t *testing.T) {
	row := &Request{Sampling: Sampling{ResponseFormat: map[string]any{"type": "json_object"}}}
	for _, tt := range []struct {
		name string
		r    *Request
		want Kind
	}{
		{"of the config", &Request{Format: &Format{Regex: "a"}}, Fatal},
		{"of a row", row, Refused},
	} {
		if f := UnsupportedFormat(tt.r, "http://x", "no", "do"); f.Kind != tt.want || f.Msg != "no" || f.Hint != "do" || f.Sent {
			t.Errorf("%s: got %+v, want kind %v", tt.name, f, tt.want)
		}
	}
}
