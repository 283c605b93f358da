package matrix

import (
	"strconv"

	"matrix/internal/jsontext"
)

// decodeFast parses one JSON value that is most likely valid; where it is not,
// encoding/json says what is wrong. odd: strict readers refuse it.
func decodeFast(raw []byte) (v any, ok, odd bool) {
	d := decoder{Reader: jsontext.New(string(raw))}
	v = d.any()
	return v, d.OK(), d.Odd() || d.twice
}

type decoder struct {
	jsontext.Reader
	twice bool // an object has a key twice
}

func (d *decoder) any() any {
	switch d.Next() {
	case '"':
		return d.Text()
	case '{':
		m, n := map[string]any{}, 0
		for key := range d.Object {
			m[key] = d.any()
			n++
		}
		d.twice = d.twice || n > len(m)
		return m
	case '[':
		l := []any{}
		for range d.List {
			l = append(l, d.any())
		}
		return l
	case 't', 'f':
		return d.Bool()
	case 'n':
		d.Null()
		return nil
	}
	return d.number()
}

// number reads a whole number as int, or as its digits where it does not
// fit, and any other as float64.
func (d *decoder) number() any {
	s, whole := d.Number()
	if whole {
		if n, err := strconv.Atoi(s); err == nil {
			return n
		}
		return s
	}
	f, _ := strconv.ParseFloat(s, 64)
	return f
}
