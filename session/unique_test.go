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

// twins are n rows, of which each third one says what the one before does.
func twins(n int) string {
	var b strings.Builder
	for i := range n {
		k := i
		if i%3 == 2 {
			k--
		}
		fmt.Fprintf(&b, "{\"id\":\"q%d\",\"text\":\"what is question %d of those about the number %d and all that follows from %d\"}\n", i, k, k, k)
	}
	return b.String()
}

// tasksOf are the tasks of an end, by id.
func tasksOf(t *testing.T, out string, status matrix.Status) map[string]*matrix.Task {
	t.Helper()
	d, err := rundir.OpenOutput(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all := map[string]*matrix.Task{}
	for r, err := range d.Tasks(t.Context(), status) {
		if err != nil {
			t.Fatal(err)
		}
		all[r.Task.ID] = r.Task
	}
	return all
}

// Of each method one of two twins is kept, whichever ended first, and the other says which.
// What was kept is known to the next session, whose index was lost, and costs nothing anew.
func TestUnique(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"exact", "minhash", "embedding"} {
		t.Run(method, func(t *testing.T) {
			text := strings.Replace(echo, "flow: [say]", "flow: [{role: say, finish: last.text}]", 1) + "unique: {on: value, method: " + method + "}\nmetrics: {long: len(value)}\n"
			if method == "embedding" {
				text = strings.Replace(text, "models:", "models:\n  e: {kind: sim, price: {input: 1}}", 1)
				text = strings.Replace(text, "{on: value", "{model: e, threshold: 0.999, on: value", 1)
			}
			path, out := config(t, text, twins(30)), filepath.Join(t.TempDir(), "out")
			for again, rows := range []string{twins(30), twins(60)} {
				if err := os.WriteFile(filepath.Join(path, "rows.jsonl"), []byte(rows), 0o666); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(filepath.Join(out, rundir.UniqueDir)); err != nil {
					t.Fatal(err)
				}
				n := 10 * (again + 1)
				c, err := spec.Load(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out, Accept: true})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if p := s.Progress(); p.Done != int64(2*n) || p.Dropped != int64(n) || len(p.Reasons) != 1 {
					t.Errorf("session %d: got %+v", again, p.Totals)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			kept := tasksOf(t, out, matrix.Done)
			for id, x := range tasksOf(t, out, matrix.Dropped) {
				_, name, _ := strings.Cut(x.Outcome.Cause, `"`)
				name, _, _ = strings.Cut(name, `"`)
				twin := kept[name]
				if twin == nil || twin.Last().Text != x.Last().Text {
					t.Errorf("%s is dropped because %s", id, x.Outcome.Cause)
				}
			}
			for id, x := range kept {
				vector, calls := 0, 1
				if method == "embedding" {
					vector, calls = 4*256, 2
				}
				if len(x.Outcome.Signature) != vector || len(x.Last().Calls) != calls {
					t.Errorf("%s: a signature of %d bytes, %d calls; want %d and %d", id, len(x.Outcome.Signature), len(x.Last().Calls), vector, calls)
				}
			}
			d, err := session.OpenDir(out)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if a, err := session.Verify(t.Context(), d); err != nil || !a.OK {
				t.Errorf("verify: %+v, %v", a, err)
			}
		})
	}
}

// Workers make signatures, also by a model, and the head compares them.
func TestUniqueAtWorkers(t *testing.T) {
	text := strings.Replace(echo, "models:", "models:\n  e: {kind: sim}", 1) + "unique: {model: e, threshold: 0.999, method: embedding}\n"
	path, out := config(t, text, twins(60)), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out)
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{Name: "w"})
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the worker", over); err != nil {
		t.Error(err)
	}
	if p := s.Progress(); p.Done != 40 || p.Dropped != 20 {
		t.Errorf("got %+v", p.Totals)
	}
}

// Rows that have words in common with a benchmark are dropped, and say with which row of it.
func TestOverlap(t *testing.T) {
	path := config(t, echo+"unique: {method: exact, overlap: 6, against: [bench/*.jsonl], against_fields: [q]}\n", twins(6))
	bench := filepath.Join(path, "bench")
	if err := os.Mkdir(bench, 0o777); err != nil {
		t.Fatal(err)
	}
	const rows = `{"q":"nothing of it","a":"what is question 0 of those about the number 0 and"}
{"q":["or is it: QUESTION 4 of those about the number 4?"]}
`
	if err := os.WriteFile(filepath.Join(bench, "b.jsonl"), []byte(rows), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	complete(t, path, out)
	dropped := tasksOf(t, out, matrix.Dropped)
	for id, want := range map[string]string{"q4": `6 words in common with "b.jsonl:2"`, "q5": `6 words in common with "b.jsonl:2"`} {
		if x := dropped[id]; x == nil || x.Outcome.Cause != want {
			t.Errorf("%s: got %+v, want that it is dropped: %s", id, x, want)
		}
	}
	if len(dropped) != 3 { // and the twin of q1
		t.Errorf("got %d dropped", len(dropped))
	}
}

// What cannot be compared fails alone; null is compared with nothing.
func TestUniqueOfNothing(t *testing.T) {
	const rows = `{"id":"a","text":"x","key":null}
{"id":"b","text":"x","key":null}
{"id":"c","text":"x","key":7}
{"id":"d","text":"x","key":"k"}
{"id":"e","text":"x","key":"k"}
`
	path, out := config(t, echo+"unique: {on: item.key}\nmax_failed: none\n", rows), filepath.Join(t.TempDir(), "out")
	s := open(t, path, out)
	defer s.Close()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := s.Progress(); p.Done != 3 || p.Dropped != 1 || p.Failed != 1 {
		t.Errorf("got %+v", p.Totals)
	}
	if x := tasksOf(t, out, matrix.Failed)["c"]; x == nil || x.Outcome.Cause != "unique.on: want a text, got int" {
		t.Errorf("got %+v", x)
	}
}

// What is kept can be drawn by tasks that come later, and only at the head.
func TestPool(t *testing.T) {
	const text = `
name: pool
dataset: {path: rows.jsonl, id: id}
live: 1
models:
  m: {kind: scripted, reply: "{{ item.text }}"}
roles:
  draw: {compute: {seeds: "draw(pool.seeds, 2)", kept: "draw(pool.kept, 100)"}}
  say: {chat: {model: m, prompt: "{{ last.data.seeds | length }}"}}
flow: [draw, say]
pool: {seeds: seeds.jsonl, most: 8}
`
	path, out := config(t, text, twins(20)), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(filepath.Join(path, "seeds.jsonl"), []byte("{\"s\":1}\n{\"s\":2}\n{\"s\":3}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := serveRun(t, path, out, "cluster.no_work=false", "roles.say.where=gpu == \"yes\"")
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{Name: "w", Labels: map[string]string{"gpu": "yes"}})
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the worker", over); err != nil {
		t.Error(err)
	}
	most := 0
	for id, x := range tasksOf(t, out, matrix.Done) {
		d, _ := x.Turns[0].Data.Any().(map[string]any)
		seeds, _ := d["seeds"].([]any)
		kept, _ := d["kept"].([]any)
		if len(seeds) != 2 || x.Turns[0].Hop == x.Turns[1].Hop {
			t.Errorf("%s: got %v, drawn in hop %d and said in hop %d", id, d, x.Turns[0].Hop, x.Turns[1].Hop)
		}
		for _, k := range kept {
			if text, _ := k.(string); !strings.HasPrefix(text, "what is question") {
				t.Errorf("%s: drew %v", id, k)
			}
		}
		most = max(most, len(kept))
	}
	if most != 8 {
		t.Errorf("%d were drawn at most, want 8: as many as the pool has", most)
	}
}
