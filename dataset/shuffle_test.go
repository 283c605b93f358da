package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/extsort"
)

func numbered(t *testing.T, name string, from, n int) string {
	t.Helper()
	var b strings.Builder
	for i := from; i < from+n; i++ {
		fmt.Fprintf(&b, "{\"id\":%d}\n", i)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func opened(t *testing.T, o Options) *Source {
	t.Helper()
	o.IDField = "id"
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func all(t *testing.T, s *Source, from matrix.Position) (rows []matrix.Row) {
	t.Helper()
	if err := s.Rows(t.Context(), from, func(r matrix.Row) error { rows = append(rows, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

func idsOf(rows []matrix.Row) (ids []string) {
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids
}

// From each row on the rest is the same, in the same order, by another Source as after a kill.
func checkResumes(t *testing.T, o Options, rows []matrix.Row) {
	t.Helper()
	for i, r := range rows {
		if i%7 != 0 && i != len(rows)-1 {
			continue
		}
		rest := all(t, opened(t, o), r.Next)
		if !slices.Equal(idsOf(rest), idsOf(rows[i+1:])) {
			t.Fatalf("behind row %d: got %v, want %v", i, idsOf(rest), idsOf(rows[i+1:]))
		}
		for j := range rest {
			if w := rows[i+1+j]; rest[j].Next != w.Next || rest[j].Number != w.Number || rest[j].Address != w.Address || rest[j].Item.String() != w.Item.String() {
				t.Fatalf("got %+v, want %+v", rest[j], w)
			}
		}
	}
}

func TestSampleAndShuffle(t *testing.T) {
	paths := []string{numbered(t, "a.jsonl", 0, 150), numbered(t, "b.jsonl", 150, 50)}
	even := func(task *matrix.Task) (bool, error) {
		n := task.Item.Any().(map[string]any)["id"].(int)
		return n%2 == 0, nil
	}
	for _, test := range []struct {
		name string
		o    Options
		n    int
	}{
		{"sample", Options{Sample: 30}, 30}, {"sample where", Options{Sample: 30, Where: even}, 30}, {"sample of all", Options{Sample: 500}, 200}, {"sample where of all", Options{Sample: 100, Where: even}, 100},
		{"sample skip limit", Options{Sample: 30, Skip: 5, Limit: 10}, 10}, {"sample skip", Options{Sample: 30, Skip: 25}, 5}, {"sample skip all", Options{Sample: 3, Skip: 5}, 0},
		{"shuffle", Options{Shuffle: true}, 200}, {"shuffle where", Options{Shuffle: true, Where: even}, 100}, {"shuffle skip limit", Options{Shuffle: true, Skip: 20, Limit: 50}, 50},
		{"shuffle sample", Options{Shuffle: true, Sample: 30}, 30}, {"shuffle sample skip", Options{Shuffle: true, Sample: 30, Skip: 10, Where: even}, 20}, {"shuffle sample skip all", Options{Shuffle: true, Sample: 3, Skip: 3}, 0},
		{"shuffle rename", Options{Shuffle: true, Rename: map[string]string{"id": "id"}}, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := test.o
			o.Paths = paths
			s := opened(t, o)
			rows := all(t, s, matrix.Position{})
			got := idsOf(rows)
			distinct := slices.Compact(slices.Sorted(slices.Values(got)))
			if n, err := s.Count(t.Context()); len(got) != test.n || len(distinct) != test.n || n != int64(test.n) || err != nil {
				t.Fatalf("got %d rows, %d of them distinct, Count %d, %v, want %d", len(got), len(distinct), n, err, test.n)
			}
			inOrder := slices.IsSortedFunc(rows, func(a, b matrix.Row) int { return len(a.ID)*1000 - len(b.ID)*1000 + strings.Compare(a.ID, b.ID) })
			if test.n > 2 && inOrder == o.Shuffle {
				t.Errorf("in order: %v, in %v", inOrder, got)
			}
			checkResumes(t, o, rows)
			if o.Shuffle { // in runs that are written to a file, too
				var again []string
				w := s.walk(matrix.Position{}, true, func(r matrix.Row) error { again = append(again, r.ID); return nil })
				sorter := &extsort.Sorter{Memory: 1000}
				if err := w.sorted(t.Context(), sorter, matrix.Position{}); err != nil && !errors.Is(err, errEnough) {
					t.Fatal(err)
				}
				sorter.Close()
				if sorter.Runs() < 2 || len(again) < len(got) || !slices.Equal(again[:len(got)], got) {
					t.Errorf("with %d runs: got %v, want %v", sorter.Runs(), again, got)
				}
			}
			o.Seed = 1
			if other := idsOf(all(t, opened(t, o), matrix.Position{})); (test.n < 100 || o.Shuffle) && len(got) > 0 && slices.Equal(other, got) {
				t.Error("another seed gives the same rows")
			}
		})
	}
}

// Each row is as likely as any other to be in a sample, and to be the first.
func TestSampleIsEven(t *testing.T) {
	path := numbered(t, "a.jsonl", 0, 20)
	in, first := map[string]int{}, map[string]int{}
	const rounds = 2000
	for seed := range int64(rounds) {
		for _, id := range idsOf(all(t, opened(t, Options{Paths: []string{path}, Sample: 5, Seed: seed}), matrix.Position{})) {
			in[id]++
		}
		first[idsOf(all(t, opened(t, Options{Paths: []string{path}, Shuffle: true, Limit: 1, Seed: seed}), matrix.Position{}))[0]]++
	}
	for i := range 20 {
		id := fmt.Sprint(i)
		if in[id] < rounds/4*8/10 || in[id] > rounds/4*12/10 || first[id] < rounds/20/2 || first[id] > rounds/20*2 {
			t.Errorf("row %s is %d times in the sample, and %d times the first, of %d", id, in[id], first[id], rounds)
		}
	}
}

func TestShuffleOfOddRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.jsonl")
	if err := os.WriteFile(path, []byte("{\"id\":1}\nnonsense\n{\"id\":2}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	rows := all(t, opened(t, Options{Paths: []string{path}, Shuffle: true}), matrix.Position{})
	bad := 0
	for _, r := range rows {
		if r.Err != nil {
			bad++
			if r.Address != "a.jsonl:2" || r.Item.String() != `"nonsense"` || !strings.Contains(r.Err.Error(), "not valid JSON at column 2") {
				t.Errorf("got %+v", r)
			}
		}
	}
	if len(rows) != 3 || bad != 1 {
		t.Errorf("got %v", rows)
	}
	ordered, mixed := opened(t, Options{Paths: []string{path}}), opened(t, Options{Paths: []string{path}, Shuffle: true})
	for _, test := range []struct {
		s    *Source
		from matrix.Position
	}{{ordered, rows[0].Next}, {mixed, all(t, ordered, matrix.Position{})[0].Next}} {
		if err := test.s.Rows(t.Context(), test.from, func(matrix.Row) error { return nil }); err == nil || !strings.Contains(err.Error(), "in another order") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := Follow(mixed); err == nil {
		t.Error("a dataset in random order grows")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mixed.Rows(ctx, matrix.Position{}, func(matrix.Row) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	was, err := mixed.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := mixed.Extends(was); !ok || err != nil {
		t.Errorf("the same: got %v, %v", ok, err)
	}
	if err := os.WriteFile(path, []byte("{\"id\":1}\nnonsense\n{\"id\":2}\n{\"id\":3}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if ok, err := mixed.Extends(was); ok || err != nil {
		t.Errorf("with another row: got %v, %v", ok, err)
	}
}

func TestDraw(t *testing.T) {
	s := opened(t, Options{Paths: []string{numbered(t, "a.jsonl", 0, 1000)}})
	ids := func(n int, seed int64) []string {
		var rows []matrix.Row
		if err := Draw(s, n, seed).Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error { rows = append(rows, r); return nil }); err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			if r.Number != int64(i) || r.Next.Row != int64(i)+1 {
				t.Errorf("row %d: got %+v", i, r)
			}
		}
		return idsOf(rows)
	}
	got := ids(5, 0)
	if len(got) != 5 || len(slices.Compact(slices.Clone(got))) != 5 || !slices.Equal(got, ids(5, 0)) || slices.Equal(got, ids(5, 1)) || slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("got %v, %v", got, ids(5, 1))
	}
	if n := len(ids(2000, 0)); n != 1000 {
		t.Errorf("got %d rows of 1000", n)
	}
}
