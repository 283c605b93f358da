package lang

import "fmt"

// Error says what is wrong with a source text, and where.
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

// FieldError says which key of a config section is at fault.
type FieldError struct {
	Field string // path inside the section: "prompt", "parse.schema"
	Err   error  // *Error where the place inside the value is known
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Params are the knobs that a config gives to its expressions and templates.
// They must be made of nil, bool, int, float64, string, []any and
// map[string]any, and not be changed afterwards.
type Params map[string]any
