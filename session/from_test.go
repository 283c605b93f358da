package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// Tasks of a run go on at a role, in a new folder, with another flow: what was said before
// stays, and costs nothing again.
func TestFrom(t *testing.T) {
	service := newCounted(t)
	text := strings.NewReplacer("flow: [ask, judge]", "flow: [ask, check, judge]", "roles:", "roles:\n  check: {compute: {n: 'item.n > 3 ? item.n + \"x\" : 1'}}").Replace(fmt.Sprintf(asking, service.URL))
	text = strings.Replace(text, "name: asking", "name: asking\ntrials: 2\nmax_failed: none", 1)
	rows := `{"id":"a","text":"one","n":1}` + "\n" + `{"id":"b","text":"two","n":2}` + "\n" + `{"id":"c","text":"three","n":5}` + "\n"
	old := filepath.Join(t.TempDir(), "old")
	complete(t, config(t, text, rows), old) // c does not come to the judge
	was := done(t, old)
	if len(was) != 4 {
		t.Fatalf("got %d done, want 4", len(was))
	}

	// Only the judge is left, who asks something else.
	other := text[:strings.Index(text, "roles:")] + `roles:
  judge: {chat: {model: m, prompt: "How bad is: {{ turn('ask').text }} {{ item.n }}"}}
flow: [judge]
metrics: {said: "len(turns)"}
`
	other = strings.Replace(other, "trials: 2", "trials: 1", 1)
	path, out := config(t, other, "not asked for\n"), filepath.Join(t.TempDir(), "new")
	before := service.calls.Load()
	v := complete(t, path, out, "from={run: "+old+", role: judge}", "live=1")
	if asked := service.calls.Load() - before; asked != 4 || v.Done != 4 || v.Total != 4 {
		t.Errorf("asked %d times, %d of %d done; want 4 each", asked, v.Done, v.Total)
	}
	if reused, calls := v.Reused(); reused != 4 || calls != 8 || v.Usage["m"].PromptTokens != 40 {
		t.Errorf("got %d of %d calls, %+v", reused, calls, v.Usage["m"])
	}
	for id, x := range done(t, out) {
		y := was[id]
		if y == nil || x.Row != y.Row || x.Trial != y.Trial || x.Seed != y.Seed || string(x.Item.Raw()) != string(y.Item.Raw()) || len(x.Turns) != 3 || *x.Metrics["said"] != 3 ||
			x.Turns[0].Text != y.Turns[0].Text || x.Turns[0].Hop != 0 || *x.Turns[0].Calls[0].Reused != (matrix.Reused{Run: old, Task: id}) || x.Turns[2].Text == y.Turns[2].Text || x.Turns[2].Hop != 1 {
			t.Errorf("%s: got %+v, was %+v", id, x, y)
		}
	}
	d, err := session.OpenDir(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if a, err := session.Verify(t.Context(), d); err != nil || !a.OK || a.Tasks != 4 {
		t.Errorf("verify: got %+v, %v", a, err)
	}

	// A role that the run did not have acts behind the turns of those that are done. Where
	// filters them.
	added := strings.Replace(text, "flow:", "  last: {chat: {model: m, prompt: \"Say it again: {{ last.text }}\"}}\nflow:", 1)
	added = strings.NewReplacer("judge]", "judge, last]", "trials: 2", "trials: 1").Replace(added)
	before = service.calls.Load()
	v = complete(t, config(t, added, rows), filepath.Join(t.TempDir(), "added"), "from={run: "+old+", role: last}", "+dataset.where=item.n == 1")
	if asked := service.calls.Load() - before; asked != 2 || v.Done != 2 {
		t.Errorf("asked %d times, %d done; want 2", asked, v.Done)
	}

	// What failed at the role goes on, too.
	v = complete(t, config(t, strings.NewReplacer("+ \"x\"", "", "trials: 2", "trials: 1").Replace(text), rows), filepath.Join(t.TempDir(), "failed"), "from={run: "+old+", role: check}")
	if v.Done != 6 || v.Failed != 0 {
		t.Errorf("got %d done and %d failed, want 6", v.Done, v.Failed)
	}
}

// What cannot be gone on with is told, with the key.
func TestFromRefused(t *testing.T) {
	service := newCounted(t)
	path := config(t, fmt.Sprintf(asking, service.URL), rows)
	kept, twice := filepath.Join(t.TempDir(), "kept"), filepath.Join(t.TempDir(), "twice")
	complete(t, path, kept)
	complete(t, path, twice, "trials=2")
	under := open(t, path, filepath.Join(t.TempDir(), "under"))
	defer under.Close()
	for _, tt := range []struct{ from, want string }{
		{"{run: " + t.TempDir() + ", role: judge}", "has no task that has ended"},
		{"{run: nowhere, role: judge}", "there is no such folder"},
		{"{run: " + kept + ", role: jugde}", `there is no role "jugde" (did you mean "judge"?)`},
		{"{run: " + kept + "}", "role: is missing: name the role at which they go on: ask or judge"},
		{"{role: judge}", "run: is missing"},
		{"{run: " + twice + ", role: judge}", "are trials already"},
		{"{run: " + kept + ", role: judge}", "is the folder of this run itself"},
	} {
		c, err := spec.Load(path, []string{"from=" + tt.from, "trials=3"})
		if err != nil {
			t.Fatal(err)
		}
		s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: kept, Fresh: true})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.from, err, tt.want)
		}
	}
	busy := filepath.Join(under.Folder.Path, rundir.DataDir, "part-00000.jsonl")
	if err := os.MkdirAll(filepath.Dir(busy), 0o777); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(kept, rundir.DataDir, "part-00000.jsonl"))
	if err == nil {
		err = os.WriteFile(busy, b, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Load(path, []string{"from={run: " + under.Folder.Path + ", role: judge}"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: filepath.Join(t.TempDir(), "new")}); err == nil || !strings.Contains(err.Error(), "is under way") {
		t.Errorf("a run under way: got %v", err)
	}
	if len(done(t, kept)) != 3 {
		t.Error("the run is not there any more")
	}
}
