package llm

import (
	"fmt"
	"strings"
	"unicode/utf8"
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
