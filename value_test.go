package matrix_test

import (
	"encoding/json"
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
