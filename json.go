package matrix

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonReader parses JSON in one pass, for text that is most likely valid: where
// it stops, encoding/json says what is wrong.
type jsonReader struct {
	text string
	i    int
}

const deepest = 10000 // as in encoding/json

func (r *jsonReader) space() {
	for r.i < len(r.text) {
		switch r.text[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

func (r *jsonReader) next() byte {
	if r.i < len(r.text) {
		return r.text[r.i]
	}
	return 0
}

// document reads one value that is all of the text.
func (r *jsonReader) document() (v any, ok bool) {
	if v, ok = r.value(0); ok {
		r.space()
	}
	return v, ok && r.i == len(r.text)
}

func (r *jsonReader) value(depth int) (any, bool) {
	r.space()
	switch c := r.next(); {
	case c == '"':
		return r.string()
	case c == '{' && depth < deepest:
		return r.object(depth + 1)
	case c == '[' && depth < deepest:
		return r.list(depth + 1)
	case c == 't':
		return true, r.word("true")
	case c == 'f':
		return false, r.word("false")
	case c == 'n':
		return nil, r.word("null")
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	}
	return nil, false
}

func (r *jsonReader) word(w string) bool {
	if !strings.HasPrefix(r.text[r.i:], w) {
		return false
	}
	r.i += len(w)
	return true
}

func (r *jsonReader) object(depth int) (any, bool) {
	m := map[string]any{}
	r.i++
	if r.space(); r.next() == '}' {
		r.i++
		return m, true
	}
	for {
		if r.space(); r.next() != '"' {
			return nil, false
		}
		key, ok := r.string()
		if !ok {
			return nil, false
		}
		if r.space(); r.next() != ':' {
			return nil, false
		}
		r.i++
		v, ok := r.value(depth)
		if !ok {
			return nil, false
		}
		m[key] = v
		r.space()
		switch r.next() {
		case ',':
			r.i++
		case '}':
			r.i++
			return m, true
		default:
			return nil, false
		}
	}
}

func (r *jsonReader) list(depth int) (any, bool) {
	l := []any{}
	r.i++
	if r.space(); r.next() == ']' {
		r.i++
		return l, true
	}
	for {
		v, ok := r.value(depth)
		if !ok {
			return nil, false
		}
		l = append(l, v)
		r.space()
		switch r.next() {
		case ',':
			r.i++
		case ']':
			r.i++
			return l, true
		default:
			return nil, false
		}
	}
}

// string reads a text. One without escapes is a part of what is read; others,
// and those that are not UTF-8, are left to encoding/json.
func (r *jsonReader) string() (string, bool) {
	start := r.i + 1
	for i := start; i < len(r.text); i++ {
		switch c := r.text[i]; {
		case c == '"':
			s := r.text[start:i]
			r.i = i + 1
			if !utf8.ValidString(s) {
				return unquoted(r.text[start-1 : i+1])
			}
			return s, true
		case c == '\\':
			return r.escaped(start, i)
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

// escaped reads a text with an escape at i.
func (r *jsonReader) escaped(start, i int) (string, bool) {
	for ; i < len(r.text); i++ {
		switch r.text[i] {
		case '\\':
			i++
		case '"':
			r.i = i + 1
			return unquoted(r.text[start-1 : r.i])
		}
	}
	return "", false
}

func unquoted(quoted string) (s string, ok bool) {
	err := json.Unmarshal([]byte(quoted), &s)
	return s, err == nil
}

// number reads a whole number as int, or as its digits where it does not fit,
// and any other as float64.
func (r *jsonReader) number() (any, bool) {
	start := r.i
	digits := func() bool {
		from := r.i
		for r.i < len(r.text) && r.text[r.i] >= '0' && r.text[r.i] <= '9' {
			r.i++
		}
		return r.i > from
	}
	if r.next() == '-' {
		r.i++
	}
	first := r.i
	if !digits() || r.text[first] == '0' && r.i > first+1 {
		return nil, false
	}
	whole := true
	if r.next() == '.' {
		whole = false
		r.i++
		if !digits() {
			return nil, false
		}
	}
	if c := r.next(); c == 'e' || c == 'E' {
		whole = false
		r.i++
		if c := r.next(); c == '+' || c == '-' {
			r.i++
		}
		if !digits() {
			return nil, false
		}
	}
	s := r.text[start:r.i]
	if whole {
		if n, err := strconv.Atoi(s); err == nil {
			return n, true
		}
		return s, true
	}
	f, _ := strconv.ParseFloat(s, 64)
	return f, true
}
