package lang

import (
	"matrix/internal/fielderror"
	"matrix/lang/jinja"
)

// Error says what is wrong with a source text, and where.
type Error = jinja.Error

// FieldError says which key of a config section is at fault; its Err is an *Error
// where the place inside the value is known.
type FieldError = fielderror.Error

// Params are the knobs that a config gives to its expressions and templates.
// They must be made of nil, bool, int, float64, string, []any and
// map[string]any, and not be changed afterwards.
type Params map[string]any
