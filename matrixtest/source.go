package matrixtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"matrix"
)

// Source runs the conformance suite of matrix.Source. build makes a dataset
// that holds the given rows, in its own form and in order; it is called more
// than once in a test. Rows are objects that all have the fields "id" and
// "text", both strings, so that any form can hold them; ids are read from "id".
func Source(t *testing.T, build func(t *testing.T, rows []map[string]string) matrix.Source) {
	t.Helper()
	for _, test := range []struct {
		name string
		rows []map[string]string
	}{
		{"Empty", nil},
		{"One", sourceRows(1)},
		{"Many", sourceRows(1000)},
		{"Text", []map[string]string{
			{"id": "lines", "text": "one\ntwo\r\nthree\n"},
			{"id": "quotes", "text": `"a", 'b', ""c"", \"d\", {"e": [1, 2]}`},
			{"id": "unicode", "text": "žluťoučký kůň 駅 🐎 \u2028 \u2029 \ufffd"},
			{"id": "space", "text": "  \t  "},
			{"id": "empty", "text": ""},
			{"id": "comma", "text": ",,,"},
			{"id": "żółw", "text": "an id that is not ASCII"},
		}},
		{"Large", []map[string]string{
			{"id": "before", "text": "small"},
			{"id": "large", "text": strings.Repeat("0123456789abcde\n", 8<<20/16)},
			{"id": "after", "text": "small"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := build(t, test.rows)
			got := readSource(t, s, matrix.Position{})
			checkRows(t, got, test.rows)
			n, err := s.Count(t.Context())
			if err != nil || n != int64(len(test.rows)) {
				t.Errorf("Count: got %d, %v, want %d", n, err, len(test.rows))
			}
			checkResume(t, s, got)
		})
	}

	t.Run("StopsAtError", func(t *testing.T) {
		s := build(t, sourceRows(10))
		stop, calls := errors.New("stop"), 0
		err := s.Rows(t.Context(), matrix.Position{}, func(matrix.Row) error {
			if calls++; calls == 3 {
				return stop
			}
			return nil
		})
		if err != stop || calls != 3 {
			t.Errorf("got %v after %d rows, want %v after 3", err, calls, stop)
		}
	})

	t.Run("StopsWithContext", func(t *testing.T) {
		s := build(t, sourceRows(1000))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls := 0
		err := s.Rows(ctx, matrix.Position{}, func(matrix.Row) error {
			calls++
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || calls != 1 {
			t.Errorf("got %v after %d rows, want %v after 1", err, calls, context.Canceled)
		}
	})

	t.Run("TwoAtOnce", func(t *testing.T) {
		s := build(t, sourceRows(20))
		outer := 0
		err := s.Rows(t.Context(), matrix.Position{}, func(a matrix.Row) error {
			inner := 0
			outer++
			return s.Rows(t.Context(), a.Next, func(b matrix.Row) error {
				if inner++; b.Number != a.Number+int64(inner) {
					return fmt.Errorf("row %d after row %d, at call %d", b.Number, a.Number, inner)
				}
				return nil
			})
		})
		if err != nil || outer != 20 {
			t.Errorf("got %v after %d rows, want 20 rows", err, outer)
		}
	})

	t.Run("Fingerprint", func(t *testing.T) {
		rows := sourceRows(10)
		changed := append(sourceRows(9), map[string]string{"id": "9", "text": "another text"})
		prints := map[string]string{}
		for name, r := range map[string][]map[string]string{"same": rows, "fewer": rows[:9], "changed": changed, "empty": nil} {
			s := build(t, r)
			first, err := s.Fingerprint()
			if err != nil || first == "" {
				t.Fatalf("%s: got %q, %v", name, first, err)
			}
			second, err := s.Fingerprint()
			if err != nil || first != second {
				t.Errorf("%s: got %q, %v at the second call, want %q", name, second, err, first)
			}
			if other, ok := prints[first]; ok {
				t.Errorf("%s and %s have the same fingerprint %q", name, other, first)
			}
			prints[first] = name
		}
	})
}

func sourceRows(n int) []map[string]string {
	rows := make([]map[string]string, n)
	for i := range rows {
		rows[i] = map[string]string{"id": fmt.Sprint(i), "text": strings.Repeat(fmt.Sprintf("text %d ", i), i%7)}
	}
	return rows
}

func readSource(t *testing.T, s matrix.Source, from matrix.Position) []matrix.Row {
	t.Helper()
	var rows []matrix.Row
	err := s.Rows(t.Context(), from, func(r matrix.Row) error {
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		t.Fatalf("Rows from %+v: %v", from, err)
	}
	return rows
}

func checkRows(t *testing.T, got []matrix.Row, want []map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
	addresses := map[string]int{}
	for i, r := range got {
		if r.Err != nil {
			t.Errorf("row %d: got error %v", i, r.Err)
			continue
		}
		if r.Number != int64(i) || r.ID != want[i]["id"] || r.Next.Row != int64(i)+1 {
			t.Errorf("row %d: got number %d, id %q, position %+v, want id %q", i, r.Number, r.ID, r.Next, want[i]["id"])
		}
		if j, ok := addresses[r.Address]; ok || r.Address == "" {
			t.Errorf("row %d: got address %q, which is also that of row %d", i, r.Address, j)
		}
		addresses[r.Address] = i
		var item map[string]string
		if err := json.Unmarshal(r.Item.Raw(), &item); err != nil || !reflect.DeepEqual(item, want[i]) {
			t.Errorf("row %d: got item %.200s (%v), want %.200v", i, r.Item, err, want[i])
		}
	}
}

// checkResume goes on from some positions, each through its JSON form, as a
// run that was killed does.
func checkResume(t *testing.T, s matrix.Source, all []matrix.Row) {
	t.Helper()
	step := max(len(all)/10, 1)
	for i := 0; i < len(all); i += step {
		saved, err := json.Marshal(all[i].Next)
		if err != nil {
			t.Fatal(err)
		}
		var from matrix.Position
		if err := json.Unmarshal(saved, &from); err != nil {
			t.Fatal(err)
		}
		rest := readSource(t, s, from)
		if len(rest) != len(all)-i-1 {
			t.Fatalf("from %+v: got %d rows, want %d", from, len(rest), len(all)-i-1)
		}
		for j, r := range rest {
			w := all[i+1+j]
			if r.ID != w.ID || r.Address != w.Address || r.Number != w.Number || r.Next != w.Next || string(r.Item.Raw()) != string(w.Item.Raw()) {
				t.Fatalf("from %+v: row %d is %q at %s (next %+v), want %q at %s (next %+v)", from, j, r.ID, r.Address, r.Next, w.ID, w.Address, w.Next)
			}
		}
	}
}
