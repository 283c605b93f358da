package lang

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"matrix"
	"matrix/lang/internal/calc"
)

// Kind names the type of what an expression comes to: "a list", "text", "nil".
func Kind(v any) string { return calc.Kind(v) }

// plain makes v of nil, bool, int, float64, string, []any and map[string]any. It
// takes from parts one for each value, and for each 64 bytes of text. Of v it copies
// no more than what is to be another in it.
func plain(v any, parts *int) (any, error) {
	out, _, err := plainPart(v, parts)
	return out, err
}

// plainPart is plain; same reports that v was plain already, and is out.
func plainPart(v any, parts *int) (out any, same bool, err error) {
	*parts--
	if s, ok := v.(string); ok {
		*parts -= len(s) / (calc.MaxText / calc.MaxParts)
	}
	if *parts < 0 {
		return nil, false, fmt.Errorf("the result has more than %d parts, or %d MiB", calc.MaxParts, calc.MaxText>>20)
	}
	switch x := v.(type) {
	case nil, bool, int:
		return v, true, nil
	case string:
		if utf8.ValidString(x) {
			return v, true, nil
		}
		return valid(x), false, nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, false, fmt.Errorf("the result is %v, which JSON cannot say; was something divided by 0?", x)
		}
		return v, true, nil
	case []any:
		list, same, err := plainList(x, parts)
		if same {
			return v, true, err
		}
		return list, false, err
	case map[string]any:
		object, same, err := plainObject(x, parts)
		return object, same, err
	}
	out, err = plainView(v, parts)
	return out, false, err
}

func plainList(v []any, parts *int) ([]any, bool, error) {
	out := v
	same := v != nil
	if !same {
		out = []any{}
	}
	for i := range v {
		p, kept, err := plainPart(v[i], parts)
		if err != nil {
			return nil, false, err
		}
		if kept {
			continue
		}
		if same {
			out, same = slices.Clone(v), false
		}
		out[i] = p
	}
	return out, same, nil
}

func plainObject(v map[string]any, parts *int) (map[string]any, bool, error) {
	out := v
	same := v != nil
	if !same {
		out = map[string]any{}
	}
	for k := range v {
		p, kept, err := plainPart(v[k], parts)
		if err != nil {
			return nil, false, err
		}
		if kept {
			continue
		}
		if same {
			out, same = maps.Clone(v), false
		}
		out[k] = p
	}
	return out, same, nil
}

// plainView is plain of what expressions see of a turn, and of other types.
func plainView(v any, parts *int) (any, error) {
	switch v := v.(type) {
	case *turn:
		return plain(*v, parts)
	case turn:
		return plain(v.plain(), parts)
	case sample:
		return plain(v.plain(), parts)
	case *call:
		return plain(v.plain(), parts)
	case oneCall:
		return plain(v.plain(), parts)
	case *matrix.Value:
		return plain(v.Any(), parts)
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case time.Duration:
		return v.Seconds(), nil
	}
	return plainKind(v, parts)
}

// valid is s as it is once it was written as JSON and read again.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// slice is v[from:to] with negative bounds counted from the end; of a text, by
// characters. nil stays nil.
func slice(v, from, to any) (any, error) {
	if v == nil {
		return nil, nil
	}
	s, isText := v.(string)
	runes := []rune(s)
	list := reflect.ValueOf(v)
	n := len(runes)
	if !isText {
		if list.Kind() != reflect.Slice {
			return nil, fmt.Errorf("cannot take a slice of %s", calc.Kind(v))
		}
		n = list.Len()
	}
	i, err := calc.Bound(from, 0, n, 0, n)
	if err != nil {
		return nil, err
	}
	j, err := calc.Bound(to, n, n, 0, n)
	if err != nil {
		return nil, err
	}
	i = min(i, j)
	if isText {
		return string(runes[i:j]), nil
	}
	return list.Slice(i, j).Interface(), nil
}

func plainKind(v any, parts *int) (any, error) {
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice, reflect.Array:
		out := make([]any, r.Len())
		for i := range out {
			out[i] = r.Index(i).Interface()
		}
		return plain(out, parts)
	case reflect.Map:
		out := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			out[fmt.Sprint(it.Key().Interface())] = it.Value().Interface()
		}
		return plain(out, parts)
	}
	switch {
	case r.CanInt():
		return int(r.Int()), nil
	case r.CanUint() && r.Uint() <= math.MaxInt:
		return int(r.Uint()), nil
	case r.CanUint():
		return float64(r.Uint()), nil
	case r.CanFloat():
		return plain(r.Float(), parts)
	case r.Kind() == reflect.String:
		return valid(r.String()), nil
	}
	return nil, fmt.Errorf("the result is %s, which is not a JSON value", calc.Kind(v))
}

// anyList is v as a list: the characters of a text, the keys of an object.
func anyList(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case string:
		out := make([]any, 0, len(v))
		for _, r := range v {
			out = append(out, string(r))
		}
		return out
	case map[string]any:
		out := make([]any, 0, len(v))
		for _, k := range sortedKeys(v) {
			out = append(out, k)
		}
		return out
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice && r.Kind() != reflect.Array {
		return nil
	}
	out := make([]any, r.Len())
	for i := range out {
		out[i] = r.Index(i).Interface()
	}
	return out
}

func sortedKeys[M ~map[string]any](m M) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
