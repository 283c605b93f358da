// Package fielderror says which key of a config a fault is of, for packages that know
// their own keys and not where in a config they stand.
package fielderror

// Error is a value that cannot be used.
type Error struct {
	Field string // path of the key inside its section, as in YAML: "prompt", "parse.schema"
	Err   error  // what is wrong with it
}

func (e *Error) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
