package export

import (
	"fmt"

	"matrix"
	"matrix/lang"
)

// Names that expressions see besides those of the language: of a finished task, and
// of one of several replies.
var (
	ofTask   = []string{"value", "stopped", "metrics"}
	ofSample = append(ofTask[:len(ofTask):len(ofTask)], "sample", "index")
)

// compile compiles an expression; nil where there is none.
func compile(what, src string, p lang.Params, locals []string) (*lang.Expr, error) {
	if src == "" {
		return nil, nil
	}
	e, err := lang.CompileExpr(src, p, locals...)
	if err != nil {
		return nil, usagef("%s %s: %w", what, src, err)
	}
	return e, nil
}

// truth is a condition: nil is false.
func truth(e *lang.Expr, t *matrix.Task, locals []any) (bool, error) {
	v, err := e.EvalLocals(t, locals)
	if err != nil {
		return false, err
	}
	switch v := v.(type) {
	case bool:
		return v, nil
	case nil:
		return false, nil
	}
	return false, fmt.Errorf("want true or false, got %s", typeOf(v))
}

// number is v as a number, where it is one.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// typeOf names the type of a value, for people.
func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case int, float64:
		return "a number"
	case string:
		return "a text"
	case []any:
		return "a list"
	}
	return "an object"
}
