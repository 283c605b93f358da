package export

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// Entries come in the order of their keys, and with one key as they were added,
// whether they fit into memory or not; nothing is left on the disk.
func TestSorter(t *testing.T) {
	for _, most := range []int{0, 1, 5_000} {
		dir := t.TempDir()
		s := &sorter{dir: dir, most: most}
		g := rand.New(rand.NewPCG(1, 2))
		var want []entry
		for i := range 500 {
			e := entry{key: fmt.Sprint(g.IntN(40)), split: i % 3, id: fmt.Sprint(i), row: fmt.Appendf(nil, `{"n":%d}`, i)}
			want = append(want, e)
			if err := s.add(e); err != nil {
				t.Fatal(err)
			}
		}
		if most > 0 && len(s.runs) < 2 {
			t.Errorf("%d bytes: %d runs, want several", most, len(s.runs))
		}
		slices.SortStableFunc(want, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
		n := 0
		for e, err := range s.all() {
			if err != nil {
				t.Fatal(err)
			}
			if w := want[n]; e.key != w.key || e.split != w.split || e.id != w.id || string(e.row) != string(w.row) {
				t.Fatalf("%d bytes, entry %d: got %v, want %v", most, n, e, w)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d bytes: got %d entries, want %d", most, n, len(want))
		}
		s.close()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%d bytes: %v is left", most, left)
		}
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
