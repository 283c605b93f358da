package jsontext

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Strict returns a document as strict readers take it: without halves of
// surrogate pairs and bytes that are not UTF-8 (U+FFFD stands in their place),
// without a key that comes twice in an object (the last counts, in the place of
// the first), and without a number that a float64 cannot hold: null stands in
// its place, and the error says where. A document that is so already, as nearly
// all are, is returned itself; in another, what is odd is changed alone, and
// space between values goes. Of what is not JSON there is nothing to return but
// the error.
func Strict(raw []byte) ([]byte, error) {
	r := New(string(raw))
	if twice := r.scan(); r.OK() && !r.odd && !twice {
		return raw, nil
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	r = New(r.text)
	w := writer{}
	w.write(w.read(&r))
	return w.out, w.err
}

// scan reads a value, and reports whether an object in it has a key twice.
func (r *Reader) scan() (twice bool) {
	switch r.Next() {
	case '"':
		r.Text()
	case '{':
		var few [16]string
		keys := few[:0]
		for key := range r.Object {
			keys = append(keys, key)
			twice = r.scan() || twice
		}
		slices.Sort(keys)
		for i := 1; i < len(keys); i++ {
			twice = twice || keys[i] == keys[i-1]
		}
	case '[':
		for range r.List {
			twice = r.scan() || twice
		}
	default:
		r.Skip()
	}
	return twice
}

const short = 200

// beyond reports whether a float64 cannot hold a number.
func beyond(number string) bool {
	e := strings.IndexAny(number, "eE")
	if len(number) < short && (e < 0 || len(strings.TrimLeft(number[e+1:], "+-")) <= 2) {
		return false // it is less than 1e299
	}
	_, err := strconv.ParseFloat(number, 64)
	return err != nil
}

// writer writes a document anew. Values are a string, an *object, a []any, and
// what is to stand there as it is.
type writer struct {
	out []byte
	err error
}

type verbatim string

// object has each key once, in the order in which they came first.
type object struct {
	at     map[string]int
	keys   []string
	values []any
}

func (w *writer) read(r *Reader) any {
	switch r.Next() {
	case '"':
		return r.Text()
	case '{':
		o := &object{at: map[string]int{}}
		for key := range r.Object {
			v := w.read(r)
			if i, ok := o.at[key]; ok {
				o.values[i] = v
				continue
			}
			o.at[key] = len(o.keys)
			o.keys, o.values = append(o.keys, key), append(o.values, v)
		}
		return o
	case '[':
		l := []any{}
		for range r.List {
			l = append(l, w.read(r))
		}
		return l
	}
	raw := r.Raw()
	if beyond(raw) {
		if w.err == nil {
			w.err = rangeError(r.key, raw)
		}
		return verbatim("null")
	}
	return verbatim(raw)
}

func rangeError(key, number string) error {
	if len(number) > 40 {
		number = number[:40] + "..."
	}
	if key == "" {
		return fmt.Errorf("the number %s is beyond the range of 64-bit floats", number)
	}
	return fmt.Errorf("%.50q has the number %s, which is beyond the range of 64-bit floats", key, number)
}

func (w *writer) write(v any) {
	switch v := v.(type) {
	case string:
		w.out = AppendString(w.out, v)
	case *object:
		for i, key := range v.keys {
			w.out = append(w.out, "{,"[min(i, 1)])
			w.write(key)
			w.out = append(w.out, ':')
			w.write(v.values[i])
		}
		if len(v.keys) == 0 {
			w.out = append(w.out, '{')
		}
		w.out = append(w.out, '}')
	case []any:
		w.out = append(w.out, '[')
		for i := range v {
			w.out = Separate(w.out, i)
			w.write(v[i])
		}
		w.out = append(w.out, ']')
	case verbatim:
		w.out = append(w.out, v...)
	}
}
