package export

import "matrix/lang"

// compile compiles an expression; nil where there is none.
// It sees lang.FinishedLocals, and more names.
func compile(what, src string, p lang.Params, more ...string) (*lang.Expr, error) {
	if src == "" {
		return nil, nil
	}
	e, err := lang.CompileExpr(src, p, append(lang.FinishedLocals(), more...)...)
	if err != nil {
		return nil, usagef("%s %s: %w", what, src, err)
	}
	return e, nil
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
