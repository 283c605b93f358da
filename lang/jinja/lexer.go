package jinja

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxTag     = 64 << 10 // bytes
	maxTags    = 20000
	maxNesting = 200 // of tags, and of brackets
)

type kind int

const (
	none    kind = iota // the tag has ended
	data                // text between tags
	output              // {{ }}
	block               // {% %}
	name                // also and, or, not, in, is
	text                // a literal text
	integer             // a literal whole number
	decimal             // a literal number with a point or an exponent
	symbol              // an operator or a bracket
)

// token is a part of a tag.
type token struct {
	kind kind
	at   int    // offset in the source
	val  string // as it is written; of a text, what it stands for
}

// piece is a part of a template: text, or a tag with its tokens.
type piece struct {
	kind   kind // data, output or block
	at     int  // offset in the source
	text   string
	tokens []token
	end    int // where the tag ends, before its bracket
}

// lexer takes a source apart.
type lexer struct {
	src    string
	lines  []int // offset of each line
	pieces []piece
	tags   int
}

func newLexer(src string) *lexer {
	l := &lexer{src: src, lines: []int{0}}
	for i := range len(src) {
		if src[i] == '\n' {
			l.lines = append(l.lines, i+1)
		}
	}
	return l
}

func (l *lexer) position(offset int) (line, column int) {
	offset = min(max(offset, 0), len(l.src))
	line, found := slices.BinarySearch(l.lines, offset)
	if !found {
		line--
	}
	return line + 1, utf8.RuneCountInString(l.src[l.lines[line]:offset]) + 1
}

func (l *lexer) errorAt(offset int, format string, args ...any) *Error {
	line, column := l.position(offset)
	return &Error{Line: line, Column: column, Msg: fmt.Sprintf(format, args...)}
}

var (
	rawBegin = regexp.MustCompile(`^\s*raw\s*[-+]?%\}`)
	rawEnd   = regexp.MustCompile(`\{%[-+]?\s*endraw\s*[-+]?%\}`)
)

// split makes the pieces. The white space that the tags around a text cut off is
// not in it, nor is one newline at the end of the source.
func (l *lexer) split() *Error {
	src := strings.TrimSuffix(l.src, "\n")
	trim := false // what follows the last tag
	add := func(s string, at int, trimEnd bool) {
		if trim {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if trimEnd {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		if s != "" {
			l.pieces = append(l.pieces, piece{kind: data, at: at, text: s})
		}
	}
	for at := 0; ; {
		begin := at
		for begin < len(src) && (src[begin] != '{' || begin+1 == len(src) || strings.IndexByte("{%#", src[begin+1]) < 0) {
			begin++
		}
		if begin == len(src) {
			add(src[at:], at, false)
			return nil
		}
		inside := begin + 2
		sign := byte(0)
		if inside < len(src) && (src[inside] == '-' || src[inside] == '+') {
			sign = src[inside]
			inside++
		}
		add(src[at:begin], at, sign == '-')
		var err *Error
		switch kind := map[byte]kind{'{': output, '%': block}[src[begin+1]]; {
		case kind == none:
			n := strings.Index(src[inside:], "#}")
			if n < 0 {
				return l.errorAt(begin, "the comment {# is never closed by #}")
			}
			at = inside + n + 2
			trim = n > 0 && src[at-3] == '-'
		case kind == block && rawBegin.MatchString(src[inside:]):
			from := inside + rawBegin.FindStringIndex(src[inside:])[1]
			to := rawEnd.FindStringIndex(src[from:])
			if to == nil {
				return l.errorAt(begin+len("{% ")+strings.Index(src[begin+len("{% "):], "raw"), "{%% raw %%} is never closed: {%% endraw %%} is missing")
			}
			trim = src[from-3] == '-'
			add(src[from:from+to[0]], from, src[from+to[0]+2] == '-')
			at = from + to[1]
			trim = src[at-3] == '-'
		default:
			if at, trim, err = l.tag(kind, begin, inside, src); err != nil {
				return err
			}
		}
	}
}

// symbols are the operators and brackets, the longer ones first.
var symbols = []string{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ","}

// tag takes a tag apart from behind its bracket on; next is behind its end.
func (l *lexer) tag(kind kind, begin, at int, src string) (next int, trim bool, err *Error) {
	if l.tags++; l.tags > maxTags {
		return 0, false, l.errorAt(begin, "the template has more than %d tags", maxTags)
	}
	p := piece{kind: kind, at: begin}
	end := map[bool]string{true: "}}", false: "%}"}[kind == output]
	var open []byte // the brackets that are to be closed
	for {
		for at < len(src) && strings.IndexByte(" \t\n\r\f\v", src[at]) >= 0 {
			at++
		}
		rest := src[at:]
		switch {
		case rest == "":
			return 0, false, l.errorAt(begin, "%s is never closed", src[begin:begin+2])
		case at-begin > maxTag:
			return 0, false, l.errorAt(begin, "the tag is longer than %d KiB", maxTag>>10)
		case len(open) > 0:
		case strings.HasPrefix(rest, end), strings.HasPrefix(rest, "-"+end), kind == block && strings.HasPrefix(rest, "+"+end):
			p.end = at
			l.pieces = append(l.pieces, p)
			trim = rest[0] == '-'
			return at + strings.Index(rest, end) + len(end), trim, nil
		}
		t := token{at: at}
		var n int
		first, _ := utf8.DecodeRuneInString(rest)
		switch {
		case first == '"' || first == '\'':
			if n = literalLength(rest); n == 0 {
				return 0, false, l.errorAt(begin, "a text in this tag has no closing quote")
			}
			t.kind, t.val = text, unescaped(rest[1:n-1])
		case first >= '0' && first <= '9':
			afterDot := len(p.tokens) > 0 && p.tokens[len(p.tokens)-1].val == "." && p.tokens[len(p.tokens)-1].kind == symbol
			if n, t.kind = numberLength(rest, afterDot); n == 0 {
				return 0, false, l.errorAt(at, "this is not a number that can be used: %s", word(rest))
			}
			t.val = strings.ReplaceAll(rest[:n], "_", "")
		case first == '_' || unicode.IsLetter(first):
			t.kind, t.val = name, word(rest)
			n = len(t.val)
		default:
			i := slices.IndexFunc(symbols, func(s string) bool { return strings.HasPrefix(rest, s) })
			if i < 0 {
				return 0, false, l.errorAt(at, "unexpected %q", string(first))
			}
			t.kind, t.val = symbol, symbols[i]
			n = len(t.val)
			if err := l.brackets(t, &open); err != nil {
				return 0, false, err
			}
		}
		p.tokens = append(p.tokens, t)
		at += n
	}
}

// brackets keeps count of those that are open.
func (l *lexer) brackets(t token, open *[]byte) *Error {
	switch b := t.val[0]; b {
	case '(', '[', '{':
		if *open = append(*open, b); len(*open) > maxNesting {
			return l.errorAt(t.at, "brackets are nested more than %d deep", maxNesting)
		}
	case ')', ']', '}':
		last := len(*open) - 1
		if last < 0 {
			return l.errorAt(t.at, "unexpected %q", t.val)
		}
		if want := map[byte]byte{'(': ')', '[': ']', '{': '}'}[(*open)[last]]; want != b {
			return l.errorAt(t.at, "the brackets do not match: want %c", want)
		}
		*open = (*open)[:last]
	}
	return nil
}

// word is the letters and digits that s begins with.
func word(s string) string {
	n := strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
	if n < 0 {
		n = len(s)
	}
	return s[:n]
}

// literalLength is that of the text in quotes that s begins with; 0 where it does
// not end.
func literalLength(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			return i + 1
		}
	}
	return 0
}

var (
	wholeNumber   = regexp.MustCompile(`^(0[bB](_?[01])+|0[oO](_?[0-7])+|0[xX](_?[0-9a-fA-F])+|[1-9](_?[0-9])*|0(_?0)*)`)
	decimalNumber = regexp.MustCompile(`^[0-9](_?[0-9])*((\.[0-9](_?[0-9])*)?[eE][-+]?[0-9](_?[0-9])*|\.[0-9](_?[0-9])*)`)
)

// numberLength is that of the number that s begins with; 0 where a word begins with
// it. An element (x.0.1) is whole.
func numberLength(s string, element bool) (n int, _ kind) {
	what := decimal
	if n = len(decimalNumber.FindString(s)); n == 0 || element {
		what, n = integer, len(wholeNumber.FindString(s))
	}
	if word(s[n:]) != "" {
		return 0, none
	}
	return n, what
}

var escapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"", '\n': "", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v"}

// unescaped is a literal as Python reads it: an escape that it does not know stays.
func unescaped(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if e, ok := escapes[s[i]]; ok {
			b.WriteString(e)
			continue
		}
		if n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]; n > 0 && i+n < len(s) {
			if r, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32); err == nil && utf8.ValidRune(rune(r)) {
				b.WriteRune(rune(r))
				i += n
				continue
			}
		}
		b.WriteByte('\\')
		b.WriteByte(s[i])
	}
	return b.String()
}
