// Package jsontext reads JSON in one pass, for a caller that says what it
// expects where, writes strings, and makes text good that strict readers refuse.
// It knows no types and no fields.
package jsontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Reader reads a document, value by value. It takes what encoding/json takes
// and makes the same of it. Where a value is not what is asked for, or is no
// JSON, the reader stops for good: what it returns from there on is zero, loops
// end, and End says why. So only End has to be looked at.
//
// Texts are parts of the document, and keep it in memory, where they stand in
// it as they are.
type Reader struct {
	text  string
	i     int
	depth int
	key   string // the last one
	odd   bool
	wrong string // what the value is not, once the reader has stopped
}

const deepest = 10000 // as in encoding/json

// New returns a reader of a document.
func New(text string) Reader { return Reader{text: text} }

// Next returns the first byte of the next value, which says what it must be; 0
// where nothing is left.
func (r *Reader) Next() byte {
	for r.i < len(r.text) {
		switch c := r.text[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

// Refuse stops the reader: the last value is not what is wanted.
func (r *Reader) Refuse(want string) {
	if r.wrong == "" {
		r.wrong = want
	}
	r.i = len(r.text)
}

// KindError is the error of a value that is not what was asked for.
type KindError struct {
	Key  string // the last one that was read; empty: none
	Want string // a number, a list, ...
}

func (e *KindError) Error() string {
	if e.Key == "" {
		return "it is not " + e.Want
	}
	return fmt.Sprintf("%.50q is not %s", e.Key, e.Want)
}

// End returns nil where the whole document has been read. Otherwise the error
// is that of encoding/json where the document is not JSON, and a *KindError
// where it is.
func (r *Reader) End() error {
	if r.OK() {
		return nil
	}
	var raw json.RawMessage
	switch err := json.Unmarshal([]byte(r.text), &raw); {
	case err != nil:
		return err
	case r.wrong == "":
		return errors.New("there is more than was read")
	}
	return &KindError{r.key, r.wrong}
}

// OK says that End returns nil.
func (r *Reader) OK() bool { return r.wrong == "" && r.Next() == 0 && r.i == len(r.text) }

// Odd says that what was read holds something that encoding/json takes and
// other readers refuse: a text with half a surrogate pair or bytes that are not
// UTF-8, or a number that a float64 cannot hold. Texts that were skipped do not
// count.
func (r *Reader) Odd() bool { return r.odd }

// Object reads an object: for key := range r.Object. The body of the loop reads
// the value, or skips it, and does not break off.
func (r *Reader) Object(yield func(key string) bool) {
	if !r.open('{', '}', "an object") {
		return
	}
	for {
		key := r.Text()
		if r.Next() != ':' {
			r.Refuse("an object")
			return
		}
		r.i++
		r.key = key
		if !yield(key) || !r.more('}', "an object") {
			return
		}
	}
}

// List reads a list: for range r.List. The body of the loop reads an element,
// or skips it, and does not break off.
func (r *Reader) List(yield func() bool) {
	if !r.open('[', ']', "a list") {
		return
	}
	for key := r.key; yield() && r.more(']', "a list"); {
		r.key = key
	}
}

// open begins an object or a list, and reports whether it holds anything.
func (r *Reader) open(begin, end byte, what string) bool {
	if r.Next() != begin || r.depth == deepest {
		r.Refuse(what)
		return false
	}
	r.i++
	if r.Next() == end {
		r.i++
		return false
	}
	r.depth++
	return true
}

// more goes on behind a value of an object or a list, and reports whether another
// follows.
func (r *Reader) more(end byte, what string) bool {
	switch r.Next() {
	case ',':
		r.i++
		return true
	case end:
		r.i++
		r.depth--
	default:
		r.Refuse(what)
	}
	return false
}

// Text reads a string. Bytes of it that are not UTF-8, and halves of surrogate
// pairs, become U+FFFD.
func (r *Reader) Text() string {
	s, plain := r.quoted()
	if plain {
		return s
	}
	s, odd := unescape(s)
	r.odd = r.odd || odd
	return s
}

// quoted reads a string as it is written, without its quotes, and reports whether
// that is what it means.
func (r *Reader) quoted() (s string, whole bool) {
	if r.Next() != '"' {
		r.Refuse("a text")
		return "", true
	}
	start, high := r.i+1, false
	whole = true
	for i := plain(r.text, start); i < len(r.text); i = plain(r.text, i) {
		switch c := r.text[i]; {
		case c == '"':
			r.i = i + 1
			s = r.text[start:i]
			return s, whole && (!high || utf8.ValidString(s))
		case c >= utf8.RuneSelf:
			for high = true; i < len(r.text) && r.text[i] >= utf8.RuneSelf; i++ {
			}
			continue
		}
		n := escape(r.text[i:])
		if n == 0 {
			break
		}
		whole = false
		i += n
	}
	r.Refuse("a text")
	return "", true
}

// plain returns where, from i on, the first byte of s is that cannot stand in a
// JSON string as it is, or is not ASCII.
func plain[S ~string | ~[]byte](s S, i int) int {
	for ; i+8 <= len(s); i += 8 {
		const each, high = 0x0101010101010101, 0x8080808080808080
		p := s[i : i+8]
		w := uint64(p[0]) | uint64(p[1])<<8 | uint64(p[2])<<16 | uint64(p[3])<<24 | uint64(p[4])<<32 | uint64(p[5])<<40 | uint64(p[6])<<48 | uint64(p[7])<<56
		quote, slash := w^('"'*each), w^('\\'*each)
		odd := ((w-' '*each)&^w | (quote-each)&^quote | (slash-each)&^slash | w) & high // true up to its lowest bit
		if odd != 0 {
			return i + bits.TrailingZeros64(odd)/8
		}
	}
	for i < len(s) && s[i] >= ' ' && s[i] < utf8.RuneSelf && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}

// escape returns the length of the escape that s begins with; 0: it is none.
func escape(s string) int {
	if len(s) < 2 || s[0] != '\\' {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if unit(s) >= 0 {
			return 6
		}
	}
	return 0
}

// unit returns what the \uXXXX says that s begins with; -1: it begins with
// something else.
func unit(s string) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	var n rune
	for _, c := range []byte(s[2:6]) {
		n <<= 4
		switch {
		case c >= '0' && c <= '9':
			n |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			n |= rune(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			n |= rune(c - 'A' + 10)
		default:
			return -1
		}
	}
	return n
}

// unescape returns what a string means whose escapes are valid, and whether
// there is a part that means nothing, for which U+FFFD stands.
func unescape(s string) (meant string, odd bool) {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && s[i] != '\\' && s[i] < utf8.RuneSelf {
			i++
		}
		b.WriteString(s[start:i])
		switch {
		case i == len(s):
		case s[i] != '\\':
			c, n := utf8.DecodeRuneInString(s[i:])
			odd = odd || n == 1
			b.WriteRune(c)
			i += n
		case s[i+1] != 'u':
			b.WriteByte(meaning(s[i+1]))
			i += 2
		default:
			c := unit(s[i:])
			i += 6
			if utf16.IsSurrogate(c) {
				c = utf16.DecodeRune(c, unit(s[i:]))
				if c != utf8.RuneError {
					i += 6
				} else {
					odd = true
				}
			}
			b.WriteRune(c)
		}
	}
	return b.String(), odd
}

// meaning returns what an escape of one letter stands for.
func meaning(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'r':
		return '\r'
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	}
	return c
}

// Number reads a number as it is written, and reports whether it is written
// without fraction and exponent.
func (r *Reader) Number() (s string, whole bool) {
	r.Next()
	i := r.i
	digits := func() bool {
		from := i
		for i < len(r.text) && r.text[i] >= '0' && r.text[i] <= '9' {
			i++
		}
		return i > from
	}
	at := func(a, b byte) bool {
		is := i < len(r.text) && (r.text[i] == a || r.text[i] == b)
		if is {
			i++
		}
		return is
	}
	at('-', '-')
	first := i
	ok := digits() && (r.text[first] != '0' || i == first+1)
	whole = true
	exponent := false
	if ok && at('.', '.') {
		whole, ok = false, digits()
	}
	if ok && at('e', 'E') {
		at('+', '-')
		exponent = true
		whole, ok = false, digits()
	}
	if !ok {
		r.Refuse("a number")
		return "", false
	}
	s = r.text[r.i:i]
	r.i = i
	r.odd = r.odd || (exponent || len(s) >= short) && beyond(s)
	return s, whole
}

// Int reads a whole number that fits.
func (r *Reader) Int() int {
	s, whole := r.Number()
	n, err := strconv.Atoi(s)
	if err != nil || !whole {
		r.Refuse("a whole number")
		return 0
	}
	return n
}

// Float reads a number that fits into a float of 32 or 64 bits.
func (r *Reader) Float(bits int) float64 {
	s, _ := r.Number()
	f, err := strconv.ParseFloat(s, bits)
	if err != nil {
		r.Refuse("a number")
		return 0
	}
	return f
}

// Bool reads true or false.
func (r *Reader) Bool() bool {
	switch r.Next() {
	case 't':
		return r.word("true")
	case 'f':
		r.word("false")
	default:
		r.Refuse("true or false")
	}
	return false
}

// Null reads null, if that is what comes.
func (r *Reader) Null() bool { return r.Next() == 'n' && r.word("null") }

func (r *Reader) word(w string) bool {
	if !strings.HasPrefix(r.text[r.i:], w) {
		r.Refuse(w)
		return false
	}
	r.i += len(w)
	return true
}

// Skip reads a value of any kind.
func (r *Reader) Skip() {
	switch r.Next() {
	case '"':
		r.quoted()
	case '{':
		for range r.Object {
			r.Skip()
		}
	case '[':
		for range r.List {
			r.Skip()
		}
	case 't', 'f':
		r.Bool()
	case 'n':
		r.Null()
	default:
		r.Number()
	}
}

// Raw reads a value of any kind and returns its text.
func (r *Reader) Raw() string {
	r.Next()
	start := r.i
	r.Skip()
	if r.wrong != "" {
		return ""
	}
	return r.text[start:r.i]
}
