// Package printable makes text from outside safe for a terminal. It knows nothing
// of what the text is.
package printable

import "strings"

// Text is s without what a terminal would obey: of all control characters only
// the newline is left. Others become their pictures, or U+FFFD; so do what turns
// the direction of text round and what ends a line unseen.
func Text(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && isControl(r) }) {
		return s
	}
	s = strings.NewReplacer("\r\n", "\n", "\t", "    ").Replace(s)
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || !isControl(r):
			return r
		case r < ' ':
			return '\u2400' + r // its picture
		}
		return '\uFFFD'
	}, s)
}

// Line is Text on one line: every run of blanks and newlines is one blank. Names
// and ids go through it, so that they cannot forge a line of their own.
func Line(s string) string { return strings.Join(strings.Fields(Text(s)), " ") }

func isControl(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r < 0xa0:
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // embeddings, overrides and isolates
		return true
	}
	return r == 0x2028 || r == 0x2029 // line and paragraph separator
}
