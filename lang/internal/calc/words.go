package calc

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"matrix/internal/near"
)

// Kinded is a value that names its type.
type Kinded interface{ Kind() string }

// Kind names the type of a value as a person would.
func Kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case bool:
		return fmt.Sprint(v)
	case string:
		if r := []rune(v); len(r) > 30 {
			v = string(r[:30]) + "..."
		}
		return fmt.Sprintf("the text %q", v)
	case Kinded:
		return v.Kind()
	}
	if _, ok := Float(v); ok {
		return fmt.Sprintf("the number %v", v)
	}
	switch reflect.ValueOf(v).Kind() {
	case reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Func:
		return "a function"
	}
	return fmt.Sprintf("a %T", v)
}

// Operand is Kind in an error of what is calculated.
func Operand(v any) string {
	if v == nil {
		return "nothing (none)"
	}
	return Kind(v)
}

// NotNumber is the error of v where a number is wanted.
func NotNumber(v any) error { return fmt.Errorf("want a number, got %s", Operand(v)) }

// NoField says that what is called name has no field key, and which it has.
func NoField(name, key string, have []string) string {
	have = slices.Sorted(slices.Values(have))
	msg := fmt.Sprintf("%s has no field %q", name, key)
	if near := near.Name(key, have); near != "" {
		return msg + fmt.Sprintf(", did you mean %q?", near)
	}
	if len(have) == 0 {
		return msg + ", it has none"
	}
	more := ""
	if len(have) > 20 {
		more = fmt.Sprintf(" and %d more", len(have)-20)
		have = have[:20]
	}
	return msg + ", it has " + strings.Join(have, ", ") + more
}

// DidYouMean is the end of an error of an unknown name.
func DidYouMean(name string, candidates []string) string {
	if near := near.Name(name, candidates); near != "" {
		return ", did you mean " + near + "?"
	}
	return ""
}
