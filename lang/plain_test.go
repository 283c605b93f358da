package lang

import (
	"fmt"
	"testing"

	"matrix"
)

// What is plain already is not copied; what is not leaves the value that it was in as it is.
func TestPlainCopies(t *testing.T) {
	list := make([]any, 1000)
	for i := range list {
		list[i] = map[string]any{"a": i, "b": []any{"x"}}
	}
	parts := 1 << 20
	if n := testing.AllocsPerRun(10, func() {
		if _, err := plain(list, &parts); err != nil {
			t.Fatal(err)
		}
	}); n > 5 {
		t.Errorf("%v allocations for a list of 1,000 plain objects, want 5 at most", n)
	}
	for name, odd := range map[string]any{"bytes that are no text": "a\xff", "a value": new(matrix.RawValue([]byte(`"a\ufffd"`)))} {
		inner := map[string]any{"x": odd, "y": 1}
		v := []any{[]any{1}, []any{inner}}
		got, err := plain(v, &parts)
		if want := "[[1] [map[x:a\uFFFD y:1]]]"; err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: got %v, %v; want %s", name, got, err, want)
		}
		if inner["x"] != odd {
			t.Errorf("%s: the value itself became %v", name, inner["x"])
		}
	}
	for name, v := range map[string]any{"list": []any(nil), "object": map[string]any(nil)} {
		if got, err := plain(v, &parts); err != nil || got == nil || fmt.Sprintf("%#v", got) == fmt.Sprintf("%#v", v) {
			t.Errorf("no %s: got %#v, %v; want an empty one", name, got, err)
		}
	}
}
