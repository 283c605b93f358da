package lang

import "matrix/lang/jinja"

// Error says what is wrong with a source text, and where.
type Error = jinja.Error

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
