package near

import (
	"strings"
	"testing"
	"testing/quick"
)

func TestName(t *testing.T) {
	known := []string{"teacher", "student", "judge", "a", "b", "größe", "Path"}
	for word, want := range map[string]string{
		"techer": "teacher", "taecher": "teacher", "teachers": "teacher", "TEACHER": "teacher",
		"stdnt": "", "studnt": "student", "jugde": "judge", "jxdgx": "",
		"x": "", "": "", // every name of one character would be near
		"bb": "", "grösse": "größe", "grose": "", "path": "Path",
		strings.Repeat("x", 1000): "", "日本": "",
	} {
		if got := Name(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
	if got := Name("ca", []string{"ba", "cb"}); got != "ba" {
		t.Errorf("got %q, want the first of two that are as near", got)
	}
	if got := Name("x", nil); got != "" {
		t.Errorf("got %q of nothing", got)
	}
}

// Distances are symmetric, no longer than the longer text, and bounded.
func TestDistance(t *testing.T) {
	f := func(a, b string, limit uint8) bool {
		x, y := []rune(a), []rune(b)
		const none = 1 << 20
		d := distance(x, y, none)
		if len(x) > longest || len(y) > longest {
			return d == none
		}
		return d == distance(y, x, none) && d <= max(len(x), len(y)) && (d == 0) == (a == b) &&
			min(distance(x, y, int(limit)+1), int(limit)+1) == min(d, int(limit)+1)
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}
