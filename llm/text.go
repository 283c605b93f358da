package llm

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"matrix/internal/jsonread"
)

// Secrets are texts that must not be shown.
type Secrets []string

// Add adds a secret. One of less than 8 bytes is left out: hiding it would hide
// plain words.
func (s *Secrets) Add(secret string) {
	if len(secret) >= 8 {
		*s = append(*s, secret)
	}
}

// Hide returns text with *** for each secret.
func (s Secrets) Hide(text string) string {
	for _, k := range s {
		text = strings.ReplaceAll(text, k, "***")
	}
	return text
}

// Shorten makes s one line of at most n bytes, in whole runes, and says how long
// it was.
func Shorten(s string, n int) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "\uFFFD")
	if len(s) <= n {
		return s
	}
	cut := n
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:cut], len(s))
}

const digits = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD; HTML is left alone.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := jsonread.Plain(s, 0); i < len(s); i = jsonread.Plain(s, i) {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			for i < len(s) && s[i] >= utf8.RuneSelf {
				r, n := utf8.DecodeRuneInString(s[i:])
				if r == utf8.RuneError && n == 1 {
					b = append(append(b, s[start:i]...), "\uFFFD"...)
					start = i + 1
				}
				i += n
			}
			continue
		case c == '"' || c == '\\':
			b = append(append(b, s[start:i]...), '\\', c)
		case c == '\n':
			b = append(append(b, s[start:i]...), '\\', 'n')
		case c == '\r':
			b = append(append(b, s[start:i]...), '\\', 'r')
		case c == '\t':
			b = append(append(b, s[start:i]...), '\\', 't')
		default:
			b = append(append(b, s[start:i]...), '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
