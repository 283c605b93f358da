package export

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// Entries come back from the disk as they were.
func TestSorter(t *testing.T) {
	s := newSorter(t.TempDir(), 1)
	defer s.Close()
	want := []entry{{key: "a", row: []byte(`{"n":1}`)}, {key: "b", split: 300, id: "x#1", row: []byte(`{}`)}, {key: "b", id: "é", row: []byte{}}}
	for _, i := range []int{1, 0, 2} {
		if err := s.add(want[i]); err != nil {
			t.Fatal(err)
		}
	}
	var got []entry
	for e, err := range s.all() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSortKey(t *testing.T) {
	for _, values := range [][]any{
		{-1e300, -2.5, -2, -0.5, 0, 0.25, 1, 1.5, 7, 1e300, nil},
		{"", "a", "a\x00", "ab", "b", "é", nil},
		{false, true, nil},
	} {
		last := ""
		for i, v := range values {
			key, is, err := sortKey(v)
			if err != nil || i > 0 && key <= last {
				t.Errorf("%v: key %q after %q, %v", v, key, last, err)
			}
			if (is == "") != (v == nil) {
				t.Errorf("%v is %q", v, is)
			}
			last = key
		}
	}
	if _, _, err := sortKey([]any{1}); err == nil {
		t.Error("a list has an order")
	}
}

// A shape holds all values that it was shown, and says which two do not go together.
func TestShape(t *testing.T) {
	s := &shape{}
	add := func(id string, v any) error { return s.add("", v, id) }
	for id, v := range []any{
		map[string]any{"n": 1, "list": []any{}, "none": nil},
		map[string]any{"n": 2.5, "list": []any{nil, map[string]any{"a": "x"}}},
		map[string]any{"n": 3, "list": nil},
	} {
		if err := add(fmt.Sprint(id), v); err != nil {
			t.Fatal(err)
		}
	}
	if s.fields["n"].kind != float || s.fields["list"].elem.fields["a"].kind != text || s.fields["none"].kind != unknown || s.width() != 3 {
		t.Errorf("got %+v", s.fields)
	}
	err := add("3", map[string]any{"list": []any{map[string]any{"a": 4}}})
	want := TypeError{"list[].a", "a text", "a number", "1", "3"}
	if got := (*TypeError)(nil); !errors.As(err, &got) || *got != want {
		t.Errorf("got %v, want %v", err, &want)
	}
}
