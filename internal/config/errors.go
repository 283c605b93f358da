package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"matrix/internal/near"
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
// what is not known; for the command line, `command line: argument: message`.
func (e *Error) Error() string {
	var b strings.Builder
	key, argument := e.Key, strings.HasPrefix(e.File, commandLine)
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 && !argument {
			fmt.Fprintf(&b, ":%d", e.Line)
			if e.Column > 0 {
				fmt.Fprintf(&b, ":%d", e.Column)
			}
		}
		b.WriteString(": ")
	}
	if argument && sets(e.File, key) {
		key = ""
	}
	if key != "" {
		b.WriteString(key + ": ")
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

// Sorted is es as an error, nil when there is none; errors of one file stand
// in the order of their places.
func (es Errors) Sorted() error {
	if len(es) == 0 {
		return nil
	}
	es.sort()
	return es
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// Join is the path of key inside the value at path. Where one of them is empty
// it is the other.
func Join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}

func errorAt(p Pos, key, format string, args ...any) *Error {
	return &Error{File: p.File, Line: p.Line, Column: p.Column, Key: key, Msg: fmt.Sprintf(format, args...)}
}

// unknownKey says that key is not one of known. p is where it is written.
func unknownKey(p Pos, path string, key string, known []string) *Error {
	e := errorAt(p, path, "unknown key")
	if strings.ContainsAny(key, `()[]{}"'`) {
		e.Msg += "; " + inBraces
		return e
	}
	if path == key { // of the config itself, which may be composed, too
		known = append(slices.Clone(known), "defaults")
	}
	if e.Hint = near.Name(key, known); e.Hint == "" && len(known) > 0 && len(known) <= 20 {
		e.Msg += "; known are " + strings.Join(known, ", ")
	}
	return e
}
