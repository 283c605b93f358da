package printable

import "testing"

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		"two\nlines":                  "two\nlines",
		"\x1b]52;c;AAAA\x07\x1b[2J":   "␛]52;c;AAAA␇␛[2J",
		"a\tb\r\nc\rd":                "a    b\nc␍d",
		"c1 \u009b31m, \x7f":          "c1 \uFFFD31m, \uFFFD",
		"abc\u202Edcba\u2066x\u2069":  "abc\uFFFDdcba\uFFFDx\uFFFD",
		"one\u2028two\u2029three":     "one\uFFFDtwo\uFFFDthree",
		"not \xff UTF-8":              "not \uFFFD UTF-8",
		"\u05d0\u200f \u0627\u200e é": "\u05d0\u200f \u0627\u200e é", // marks of a direction turn nothing round
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q): got %q, want %q", in, got, want)
		}
	}
	if got, want := Line(" id\nOK: nothing is lost\u2028x \x1b[1m"), "id OK: nothing is lost\uFFFDx ␛[1m"; got != want {
		t.Errorf("Line: got %q, want %q", got, want)
	}
}
