package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing wrong with a config.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 is unknown
	Key          string // path of the key, as in roles.teacher.chat
	Msg          string
	Hint         string // a name near to what was written, or empty
}

// Error is `file:line:column: key.path: message (did you mean "x"?)`, less
// what is not known.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
			if e.Column > 0 {
				fmt.Fprintf(&b, ":%d", e.Column)
			}
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", e.Hint)
	}
	return b.String()
}

// Errors are all things found wrong with a config, at least one.
type Errors []*Error

// Error has one line for each error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors one by one.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// sort puts errors of one file in the order of their places.
func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// err is es as an error: nil when there is none.
func (es Errors) err() error {
	if len(es) == 0 {
		return nil
	}
	return es
}

func errorAt(p Pos, key, format string, args ...any) *Error {
	return &Error{File: p.File, Line: p.Line, Column: p.Column, Key: key, Msg: fmt.Sprintf(format, args...)}
}

// Nearest is the name among known that is so near to name that a slip of the
// hand explains the difference, or the empty string.
func Nearest(name string, known []string) string {
	best, at := "", max(1, len([]rune(name))/3)+1
	for _, k := range known {
		if d := distance(name, k); d < at && d < len([]rune(k)) {
			best, at = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b, without regard to case.
func distance(a, b string) int {
	x, y := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	if len(x) > 100 || len(y) > 100 {
		return 100
	}
	d := make([][]int, len(x)+1)
	for i := range d {
		d[i] = make([]int, len(y)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(x)][len(y)]
}

// unknownKey says that key is not one of known. p is where it is written.
func unknownKey(p Pos, path string, key string, known []string) *Error {
	e := errorAt(p, path, "unknown key")
	if e.Hint = Nearest(key, known); e.Hint == "" && len(known) > 0 && len(known) <= 20 {
		e.Msg += "; known are " + strings.Join(known, ", ")
	}
	return e
}
