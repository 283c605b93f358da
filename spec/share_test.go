package spec_test

import (
	"testing"

	"matrix/spec"
)

func TestShare(t *testing.T) {
	for text, want := range map[string]spec.Share{"50%": 0.5, "100%": 1, "0.5 %": 0.005, "none": 0} {
		var s, again spec.Share
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: got %v, %v, want %v", text, s, err, want)
		}
		b, err := s.MarshalText()
		if err == nil {
			err = again.UnmarshalText(b)
		}
		if err != nil || again != s {
			t.Errorf("%s: written as %s, read as %v, %v", text, b, again, err)
		}
	}
	for _, text := range []string{"", "%", "50", "0.5", "0%", "101%", "-1%", "NaN%", "all", "None"} {
		if err := new(spec.Share).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got no error", text)
		}
	}
}
