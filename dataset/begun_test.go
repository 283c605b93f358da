package dataset

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
)

// Tasks that a run has put out are rows again: those that came to the role, without
// what came from there on.
func TestBegun(t *testing.T) {
	dir := t.TempDir()
	call := func(usd float64) []matrix.Call {
		return []matrix.Call{{Kind: matrix.KindModel, Name: "m", USD: usd, TookMS: 5, Tokens: matrix.Tokens{PromptTokens: 3}}}
	}
	var b []byte
	for _, x := range []*matrix.Task{
		{ID: "a#1", Row: "a", Trial: 1, Item: matrix.RawValue([]byte(`{"n":1}`)), Outcome: &matrix.Outcome{Status: matrix.Done}, Metrics: map[string]*float64{"x": new(1.0)},
			Turns: []matrix.Turn{{Role: "judge", Text: "opens"}, {Role: "ask", Hop: 1, Calls: call(2)}, {Role: "judge", Hop: 2}, {Role: "ask", Hop: 3}}},
		{ID: "b", Row: "b", Item: matrix.RawValue([]byte(`{"n":2}`)), Turns: []matrix.Turn{{Role: "ask", Hop: 1}}},
		{ID: "c", Row: "c", Item: matrix.RawValue([]byte(`{"n":3}`)), Turns: []matrix.Turn{{Role: "judge", Hop: 1}}},
	} {
		b = append(AppendTask(b, x), '\n')
	}
	b = append(b, "{\"no\": \"task\"}\n"...)
	if err := os.MkdirAll(filepath.Join(dir, DataDir), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, DataDir, "part-00000.jsonl"), b, 0o666); err != nil {
		t.Fatal(err)
	}
	paths, err := OutputFiles(dir, matrix.Ends()...)
	if err != nil || len(paths) != 1 {
		t.Fatalf("got %q, %v", paths, err)
	}
	read := func(o Options, from matrix.Position) (rows []matrix.Row) {
		t.Helper()
		o.Paths = paths
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Rows(t.Context(), from, func(r matrix.Row) error { rows = append(rows, r); return nil }); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Count(t.Context()); from == (matrix.Position{}) && (err != nil || int(n) != len(rows)) {
			t.Errorf("count: got %d, %v, want %d", n, err, len(rows))
		}
		return rows
	}
	at := &Begun{Run: "runs/old", Role: "judge"}
	rows := read(Options{Begun: at}, matrix.Position{})
	if len(rows) != 3 || rows[0].ID != "a#1" || rows[1].ID != "c" || rows[1].Number != 1 || rows[1].Role != "judge" || len(rows[1].Begun.Turns) != 0 || string(rows[1].Item.Raw()) != `{"n":3}` ||
		rows[2].Err == nil || !strings.Contains(rows[2].Err.Error(), "it has no id") || rows[2].Begun != nil {
		t.Fatalf("got %+v", rows)
	}
	x := rows[0].Begun
	if len(x.Turns) != 2 || x.Outcome != nil || x.Metrics != nil || x.Row != "a" || x.Trial != 1 {
		t.Fatalf("got %+v", x)
	}
	if c := x.Turns[1].Calls[0]; x.Turns[1].Hop != 0 || c.USD != 0 || c.PromptTokens != 0 || c.TookMS != 0 || *c.Reused != (matrix.Reused{Run: "runs/old", Task: "a#1"}) {
		t.Errorf("got %+v", c)
	}
	if again := read(Options{Begun: at}, rows[0].Next); len(again) != 2 || again[0].ID != "c" {
		t.Errorf("read on: got %+v", again)
	}
	if all := read(Options{Begun: &Begun{Role: "last", New: true}}, matrix.Position{}); len(all) != 4 || len(all[0].Begun.Turns) != 4 {
		t.Errorf("a new role: got %+v", all)
	}
	where := func(t *matrix.Task) (bool, error) { return string(t.Item.Raw()) == `{"n":3}`, nil }
	if some := read(Options{Begun: at, Where: where}, matrix.Position{}); !slices.ContainsFunc(some, func(r matrix.Row) bool { return r.ID == "c" }) || len(some) != 2 {
		t.Errorf("where: got %+v", some)
	}
	for seed := range int64(3) { // tasks, in any order, and what is none
		mixed := read(Options{Begun: at, Shuffle: true, Seed: seed}, matrix.Position{})
		slices.SortFunc(mixed, func(a, b matrix.Row) int { return strings.Compare(b.ID, a.ID) })
		if len(mixed) != 3 || mixed[0].ID != "c" || mixed[0].Role != "judge" || mixed[1].ID != "a#1" || mixed[1].Begun == nil || len(mixed[1].Begun.Turns) != 2 ||
			string(mixed[1].Item.Raw()) != string(rows[0].Item.Raw()) || mixed[2].Err == nil {
			t.Errorf("shuffled: got %+v", mixed)
		}
	}
	if some := read(Options{Begun: at, Skip: 1, Limit: 1}, matrix.Position{}); len(some) != 1 || some[0].ID != "c" {
		t.Errorf("skip: got %+v", some)
	}
	if err := os.Rename(paths[0], filepath.Join(dir, DataDir, "retry-00000.jsonl")); err != nil {
		t.Fatal(err)
	}
	if _, err := OutputFiles(dir, matrix.Done); err != ErrRetrying {
		t.Errorf("tried again: got %v", err)
	}
}
