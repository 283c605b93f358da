package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
)

// Value is a JSON value. It is kept as text and parsed at most once, when
// somebody looks inside. The zero Value is absent. A Value that is being
// looked into must be in one goroutine's hands.
type Value struct {
	raw    json.RawMessage
	parsed any
	ok     bool
}

// RawValue wraps text that is already known to be JSON as ParseValue leaves it:
// it goes to the output as it is.
func RawValue(raw []byte) Value { return Value{raw: raw} }

// ParseValue checks that raw is one JSON value and wraps it. Its text becomes
// what strict readers take: half a surrogate pair and bytes that are not UTF-8
// become U+FFFD, and of a key that an object has twice the last counts. A number
// that a float64 cannot hold is an error.
func ParseValue(raw []byte) (Value, error) {
	x, ok, odd := decodeFast(raw)
	if !ok {
		_, err := decodeSlowly(raw)
		return Value{}, err
	}
	if odd {
		var err error
		if raw, err = jsontext.Strict(raw); err != nil {
			return Value{}, err
		}
	}
	return Value{raw: raw, parsed: x, ok: true}, nil
}

// ForeignValue wraps what somebody else wrote and nobody here looks into, such
// as a service's log probabilities. It is as ParseValue, but takes anything: a
// number that a float64 cannot hold becomes null, as NaN does, and what is no
// JSON a string.
func ForeignValue(raw []byte) Value {
	if len(raw) == 0 {
		return Value{}
	}
	strict, _ := jsontext.Strict(raw)
	if strict == nil {
		v, _ := NewValue(string(raw)) // a string can be encoded
		return v
	}
	return Value{raw: strict}
}

// NewValue encodes x, a float with its point (1.0). The Value keeps x as its parsed form, so x must be made
// of nil, bool, int, float64, string, []any and map[string]any, and not be
// changed afterwards.
func NewValue(x any) (Value, error) {
	raw, err := appendJSON(nil, x)
	if err == nil && bytes.Contains(raw, []byte(`\ufffd`)) { // two keys may have become the same
		raw, err = jsontext.Strict(raw)
	}
	if err != nil {
		return Value{}, err
	}
	return Value{raw: raw, parsed: x, ok: true}, nil
}

// DecodedValue wraps text together with what it parses to: both as in NewValue,
// for a caller that has written the text itself.
func DecodedValue(raw []byte, parsed any) Value { return Value{raw: raw, parsed: parsed, ok: true} }

// IsZero reports whether the value is absent. JSON null is not absent.
func (v Value) IsZero() bool { return len(v.raw) == 0 }

// Raw returns the JSON text.
func (v Value) Raw() json.RawMessage { return v.raw }

// Any returns the value as nil, bool, int, float64, string, []any or
// map[string]any. Whole numbers are int, and those that 64 bits cannot hold are
// their digits as a string: no digit is lost. Do not change what it returns. An
// absent value is nil.
func (v *Value) Any() any {
	if !v.ok {
		v.ok = true
		if len(v.raw) > 0 {
			v.parsed, _ = decode(v.raw)
		}
	}
	return v.parsed
}

// MarshalJSON returns the text as it is.
func (v Value) MarshalJSON() ([]byte, error) {
	if len(v.raw) == 0 {
		return []byte("null"), nil
	}
	return v.raw, nil
}

// UnmarshalJSON keeps a copy of the text, made good as by ParseValue.
func (v *Value) UnmarshalJSON(b []byte) error {
	strict, err := jsontext.Strict(bytes.Clone(b))
	if err != nil {
		return err
	}
	*v = Value{raw: strict}
	return nil
}

func (v Value) String() string { return string(v.raw) }

// appendJSON appends x, a float with its point, the keys of an object in order.
func appendJSON(b []byte, x any) ([]byte, error) {
	switch x := x.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, x), nil
	case int:
		return strconv.AppendInt(b, int64(x), 10), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return b, fmt.Errorf("the number %v is none that JSON has", x)
		}
		return jsontext.AppendFloat(b, x, 64), nil
	case string:
		return jsontext.AppendString(b, x), nil
	case []any:
		if x == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i, e := range x {
			b = jsontext.Separate(b, i)
			var err error
			if b, err = appendJSON(b, e); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		if x == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '{')
		var few [8]string
		keys := slices.AppendSeq(few[:0], maps.Keys(x))
		slices.Sort(keys)
		for i, k := range keys {
			b = append(jsontext.AppendString(jsontext.Separate(b, i), k), ':')
			var err error
			if b, err = appendJSON(b, x[k]); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
	return appendOther(b, reflect.ValueOf(x))
}

// appendOther appends a value of a type that is not promised.
func appendOther(b []byte, v reflect.Value) ([]byte, error) {
	_, own := v.Interface().(json.Marshaler)
	switch kind := v.Kind(); {
	case own || v.Type() == reflect.TypeFor[[]byte]():
	case kind == reflect.Float32 || kind == reflect.Float64:
		return jsontext.AppendFloat(b, v.Float(), v.Type().Bits()), nil
	case kind == reflect.Slice || kind == reflect.Array:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = v.Index(i).Interface()
		}
		return appendJSON(b, list)
	case kind == reflect.Map && v.Type().Key().Kind() == reflect.String:
		object := make(map[string]any, v.Len())
		for i := v.MapRange(); i.Next(); {
			object[i.Key().String()] = i.Value().Interface()
		}
		return appendJSON(b, object)
	}
	var w bytes.Buffer
	e := json.NewEncoder(&w)
	e.SetEscapeHTML(false)
	err := e.Encode(v.Interface())
	return append(b, bytes.TrimRight(w.Bytes(), "\n")...), err
}

// decode parses one JSON value.
func decode(raw []byte) (any, error) {
	if v, ok, _ := decodeFast(raw); ok {
		return v, nil
	}
	return decodeSlowly(raw)
}

func decodeSlowly(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	if rest := bytes.Trim(raw[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("unexpected %.20q after the JSON value", rest)
	}
	return number(x), nil
}

// number replaces json.Number by int where the number is whole and fits, by a
// string where it is whole and does not, and by float64 elsewhere.
func number(x any) any {
	switch x := x.(type) {
	case json.Number:
		if n, err := strconv.Atoi(string(x)); err == nil {
			return n
		}
		if !strings.ContainsAny(string(x), ".eE") {
			return string(x)
		}
		f, _ := x.Float64()
		return f
	case []any:
		for i := range x {
			x[i] = number(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = number(x[k])
		}
	}
	return x
}
