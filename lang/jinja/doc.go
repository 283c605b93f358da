// Package jinja renders Jinja2 templates: a source is compiled once to steps, which
// many goroutines may render at once. It knows nothing of where values come from:
// who renders brings them as an Env, and what is theirs is never changed. A template
// sees no file, no clock and no network, and its work, text and lists are bounded.
package jinja

import "fmt"

// Error says what is wrong with a template, or with an expression, and where.
type Error struct {
	Line   int // from 1; 0 unknown
	Column int // in characters, from 1; 0 unknown
	Msg    string
	Name   string // that is not known, where that is the error
}

func (e *Error) Error() string {
	switch {
	case e.Line > 1:
		return fmt.Sprintf("%s (at line %d, column %d)", e.Msg, e.Line, e.Column)
	case e.Column > 0:
		return fmt.Sprintf("%s (at column %d)", e.Msg, e.Column)
	}
	return e.Msg
}
