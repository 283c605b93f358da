package matrix

import (
	"strconv"

	"matrix/internal/jsonread"
)

// decodeFast parses one JSON value that is most likely valid; where it is not,
// encoding/json says what is wrong.
func decodeFast(raw []byte) (v any, ok bool) {
	r := jsonread.New(string(raw))
	v = readAny(&r)
	return v, r.OK()
}

func readAny(r *jsonread.Reader) any {
	switch r.Next() {
	case '"':
		return r.Text()
	case '{':
		m := map[string]any{}
		for key := range r.Object {
			m[key] = readAny(r)
		}
		return m
	case '[':
		l := []any{}
		for range r.List {
			l = append(l, readAny(r))
		}
		return l
	case 't', 'f':
		return r.Bool()
	case 'n':
		r.Null()
		return nil
	}
	return readNumber(r)
}

// readNumber reads a whole number as int, or as its digits where it does not
// fit, and any other as float64.
func readNumber(r *jsonread.Reader) any {
	s, whole := r.Number()
	if whole {
		if n, err := strconv.Atoi(s); err == nil {
			return n
		}
		return s
	}
	f, _ := strconv.ParseFloat(s, 64)
	return f
}
