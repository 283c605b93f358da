package matrix_test

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"matrix"
)

func TestValueAny(t *testing.T) {
	for raw, want := range map[string]any{
		`null`:                           nil,
		`true`:                           true,
		`"a\u00e9"`:                      "aé",
		`7`:                              7,
		`-9223372036854775808`:           -9223372036854775808,
		`12345678901234567890`:           "12345678901234567890",
		`7.0`:                            7.0,
		`1e3`:                            1000.0,
		`[1,{"a":[2.5,null]}]`:           []any{1, map[string]any{"a": []any{2.5, nil}}},
		` {"id": 18446744073709551616} `: map[string]any{"id": "18446744073709551616"},
	} {
		v, err := matrix.ParseValue([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if got := v.Any(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", raw, got, want)
		}
		lazy := matrix.RawValue([]byte(raw))
		if got := lazy.Any(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, parsed when asked: got %#v, want %#v", raw, got, want)
		}
		if b, err := json.Marshal(v); err != nil || !json.Valid(b) {
			t.Errorf("%s: marshalled to %s, %v", raw, b, err)
		}
	}
	for _, raw := range []string{``, `{`, `1 2`, `nul`, "\"\x01\""} {
		if v, err := matrix.ParseValue([]byte(raw)); err == nil {
			t.Errorf("%q: got %v, want an error", raw, v)
		}
	}
	var absent matrix.Value
	if !absent.IsZero() || absent.Any() != nil {
		t.Errorf("the zero value: got %v, want it absent and nil", absent.Any())
	}
}

// A turn leaves out what it does not have.
func TestTurnJSON(t *testing.T) {
	b, err := json.Marshal(matrix.Turn{Role: "judge", Data: matrix.RawValue([]byte(`{"a":1}`))})
	if want := `{"role":"judge","data":{"a":1},"hop":0}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
	var back matrix.Turn
	if err := json.Unmarshal(b, &back); err != nil || string(back.Data.Raw()) != `{"a":1}` {
		t.Errorf("read back: got %+v, %v", back, err)
	}
}

// A float stays one, wherever it stands; what is whole has no point.
func TestNewValueKeepsThePoint(t *testing.T) {
	type score float64
	for _, c := range []struct {
		x    any
		want string
	}{
		{1.0, `1.0`}, {1, `1`}, {-0.5, `-0.5`}, {1e300, `1e+300`}, {[]any{1.0, 2, nil, true, "a<b"}, `[1.0,2,null,true,"a<b"]`},
		{map[string]any{"b": 4.0, "a": map[string]any{"x": []any{0.0}}}, `{"a":{"x":[0.0]},"b":4.0}`},
		{[]float64{1, 2.5}, `[1.0,2.5]`}, {[]string{"<"}, `["<"]`}, {map[string]float64{"a": 3}, `{"a":3.0}`}, {float32(0.1), `0.1`}, {score(2), `2.0`},
		{json.RawMessage(`{"a":1}`), `{"a":1}`}, {[]byte("ab"), `"YWI="`}, {[]any{}, `[]`}, {map[string]any{}, `{}`},
	} {
		v, err := matrix.NewValue(c.x)
		if got := string(v.Raw()); err != nil || got != c.want {
			t.Errorf("%#v: got %s, %v; want %s", c.x, got, err, c.want)
		}
		if f, ok := c.x.(float64); ok {
			if back := matrix.RawValue(v.Raw()); back.Any() != any(f) {
				back := matrix.RawValue(v.Raw())
				t.Errorf("%v: read back as %#v", f, back.Any())
			}
		}
	}
	if v, err := matrix.NewValue([]any{math.NaN()}); err == nil {
		t.Errorf("NaN: got %s, want an error", v)
	}
}
