package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"matrix/internal/jsontext"
)

// Secret is a text that must not be shown.
type Secret struct {
	Text  string
	Shown string // in its place
	Key   string // of a request, whose value is this text; empty where no key is
}

// Secrets are texts that must not be shown.
type Secrets []Secret

// Add adds a secret that is shown as ***.
func (s *Secrets) Add(secret string) { *s = append(*s, Secret{Text: secret, Shown: "***"}) }

// leastHidden is how many bytes a secret has that is hidden inside a text: with a
// shorter one, plain words would be.
const leastHidden = 8

// Hide returns text without the secrets, whether they are spelled as they are or
// with escapes of JSON, also of JSON that stands as a text in other JSON. Hide before you Shorten: what is cut in two is not found.
func (s Secrets) Hide(text string) string {
	for _, k := range s {
		if len(k.Text) < leastHidden {
			continue
		}
		text = strings.ReplaceAll(text, k.Text, k.Shown)
		if strings.IndexByte(text, '\\') >= 0 {
			text = k.hideEscaped(text)
		}
	}
	return text
}

// maxQuoted is how often a text may have been quoted, one time inside the other.
const maxQuoted = 4

func (k Secret) hideEscaped(text string) string {
	for at := 0; at < len(text); at++ {
		if text[at] != k.Text[0] && text[at] != '\\' {
			continue
		}
		for depth := 1; depth <= maxQuoted; depth++ {
			if n := spelled(text[at:], k.Text, depth); n > 0 {
				text = text[:at] + k.Shown + text[at+n:]
				at += len(k.Shown) - 1
				break
			}
		}
	}
	return text
}

// spelled is how many bytes at the beginning of text spell the word, with escapes
// of JSON or without, where it has been quoted depth times; 0 where they do not.
func spelled(text, word string, depth int) int {
	i := 0
	for word != "" {
		piece, n := unquoted(text[i:], depth)
		if n == 0 || !strings.HasPrefix(word, piece) {
			return 0
		}
		word, i = word[len(piece):], i+n
	}
	return i
}

// unquoted is what the first n bytes of text stand for, where it has been quoted
// depth times: one character of what it was. n is 0 at the end.
func unquoted(text string, depth int) (piece string, n int) {
	if depth == 0 || text == "" {
		return text[:min(1, len(text))], min(1, len(text))
	}
	piece, n = unquoted(text, depth-1)
	if piece != `\` {
		return piece, n
	}
	escape, more := unquoted(text[n:], depth-1)
	switch at := strings.IndexByte(`"\/nrtbf`, (escape + " ")[0]); {
	case at >= 0:
		return "\"\\/\n\r\t\b\f"[at : at+1], n + more
	case escape == "u":
		digits, end := "", n+more
		for range 4 {
			digit, more := unquoted(text[end:], depth-1)
			digits, end = digits+digit, end+more
		}
		if r, err := strconv.ParseUint(digits, 16, 16); err == nil && len(digits) == 4 {
			return string(rune(r)), end
		}
	}
	return piece, n
}

// HideJSON is Hide for the values in a JSON object, and for numbers and short texts
// that stand as secrets under their own key. Without a secret it is raw itself.
func (s Secrets) HideJSON(raw json.RawMessage) json.RawMessage {
	for _, k := range s {
		if k.Text == "" || !bytes.Contains(raw, []byte(k.Text)) && !k.quotedIn(raw) {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var v any
		if d.Decode(&v) != nil {
			return json.RawMessage(s.Hide(string(raw)))
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(s.hideIn("", v)) != nil {
			return nil
		}
		return bytes.TrimSpace(b.Bytes())
	}
	return raw
}

// quotedIn reports whether raw holds the secret in a spelling of JSON that is not its
// own.
func (k Secret) quotedIn(raw []byte) bool {
	if !strings.ContainsAny(k.Text, "\"\\<>&") {
		return false
	}
	quoted, err := json.Marshal(k.Text)
	return err == nil && (bytes.Contains(raw, quoted[1:len(quoted)-1]) ||
		bytes.Contains(raw, jsontext.AppendString(nil, k.Text)))
}

func (s Secrets) hideIn(key string, v any) any {
	whole := func(text string) (string, bool) {
		for _, k := range s {
			if k.Text == text && (k.Key == key || len(text) >= leastHidden) {
				return k.Shown, true
			}
		}
		return s.Hide(text), false
	}
	switch v := v.(type) {
	case map[string]any:
		for name, in := range v {
			v[name] = s.hideIn(name, in)
		}
	case []any:
		for i := range v {
			v[i] = s.hideIn(key, v[i])
		}
	case string:
		text, _ := whole(v)
		return text
	case json.Number:
		if text, ok := whole(v.String()); ok {
			return text
		}
	}
	return v
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
