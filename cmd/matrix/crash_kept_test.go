package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"matrix"
	"matrix/internal/dedup"
	"matrix/internal/rundir"
	"matrix/local"
)

// keptConfig makes exactly so many tasks that are unlike each other, with examples of those that
// were kept before. What a task becomes depends on what was kept as it drew.
const keptConfig = `
name: kept
live: 40
dataset: {path: rows.jsonl, id: id}
trials: until
until: {kept: 1000, most: 1000}
unique: {on: turn("say").text}
pool: {seeds: rows.jsonl, kept: "{id: id, text: turn('say').text}", most: 200}
models:
  m: {kind: scripted, reply: "{{ prompt }}"}
roles:
  draw: {compute: {kept: "draw(pool.kept, 2)", twin: "len(kept) > 0 && pick([true, false])", n: "seed"}}
  say: {chat: {model: m, prompt: "{% if last.data.twin %}{{ last.data.kept[0].text }} again{% else %}{% for i in range(60) %}w{{ last.data.n }}x{{ i }} {% endfor %}{% endif %}"}}
  end: {compute: {length: len(last.text)}}
flow: [draw, say, end]
`

// TestCrashKept kills the program at random moments while it keeps exactly so many tasks, no two
// of them alike, and draws from them. What was decided once is never revised.
func TestCrashKept(t *testing.T) {
	kills := crashKills(t)
	bin := buildMatrix(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance starts from %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for killed := 0; killed < kills; {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir(), shards: 1}
		h.out = filepath.Join(h.dir, "out")
		var rows strings.Builder
		for i := range 30 {
			fmt.Fprintf(&rows, `{"id":"q%d"}`+"\n", i)
		}
		for name, content := range map[string]string{"rows.jsonl": rows.String(), "config.yaml": keptConfig} {
			if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		decided := map[string]matrix.Fate{}
		for code, begun := -1, killed; code != 0; {
			var after time.Duration
			if killed < kills && killed < begun+50 {
				after = time.Duration(50+rng.IntN(500)) * time.Millisecond
			}
			if code = h.run(after); code == -1 {
				killed++
			} else if code != 0 {
				t.Fatalf("after %d kills: exit %d\n%s", killed, code, h.log())
			}
			if rng.IntN(5) == 0 { // a cache
				if err := os.RemoveAll(filepath.Join(h.out, rundir.UniqueDir)); err != nil {
					t.Fatal(err)
				}
			}
			now := h.fates()
			for id, f := range decided {
				if now[id] != f {
					t.Fatalf("after %d kills: %s was %+v, and is %+v", killed, id, f, now[id])
				}
			}
			decided = now
		}
		h.verify()
		h.unlike(1000)
	}
}

// fates are those of tasks that have ended.
func (h *crashBed) fates() map[string]matrix.Fate {
	h.Helper()
	fates := map[string]matrix.Fate{}
	dir := filepath.Join(h.out, rundir.StateDir)
	if _, err := os.Stat(dir); err != nil {
		return fates // killed before there was a run
	}
	q, err := local.Open(dir, local.Options{ReadOnly: true, Existing: true})
	if err != nil {
		h.Fatal(err)
	}
	err = q.Walk(h.Context(), func(id string, f matrix.Fate) error {
		if f.Status != matrix.Pending {
			fates[id] = f
		}
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
	if err := q.Close(); err != nil {
		h.Fatal(err)
	}
	return fates
}

var twinOf = regexp.MustCompile(`^near-duplicate of "(.*)" \(`)

// unlike: n tasks are kept, no two alike; those that were dropped are like a kept one, or
// too many; those that were drawn are kept.
func (h *crashBed) unlike(n int) {
	h.Helper()
	x, err := dedup.OpenMemory(dedup.Options{Method: dedup.MinHash, Threshold: 0.8})
	if err != nil {
		h.Fatal(err)
	}
	defer x.Close()
	type drew struct {
		Kept []struct{ ID, Text string }
	}
	kept, drawn := map[string]string{}, map[string]bool{}
	tasks := h.lines("data")
	dropped := h.lines("dropped")
	read := func(line string) (t matrix.Task, d drew) {
		err := json.Unmarshal([]byte(line), &t)
		if err == nil && len(t.Turns) > 0 {
			err = json.Unmarshal(t.Turns[0].Data.Raw(), &d)
		}
		if err != nil {
			h.Fatalf("%v: %s", err, line)
		}
		return t, d
	}
	for id, line := range tasks {
		t, d := read(line)
		kept[id] = t.Turns[1].Text
		sig := x.Signer().Text(kept[id])
		if m, found, err := x.Find(sig); found || err != nil {
			h.Errorf("%s is kept, and like %s: %v", id, m.Name, err)
		}
		if err := x.Add(id, sig); err != nil {
			h.Fatal(err)
		}
		for _, k := range d.Kept {
			drawn[k.ID] = true
		}
	}
	surplus := 0
	for id, line := range dropped {
		t, d := read(line)
		for _, k := range d.Kept {
			drawn[k.ID] = true
		}
		if t.Outcome.Cause == "surplus" {
			surplus++
			continue
		}
		if name := twinOf.FindStringSubmatch(t.Outcome.Cause); name == nil || kept[name[1]] == "" {
			h.Errorf("%s was dropped: %s", id, t.Outcome.Cause)
		} else if _, found, err := x.Find(x.Signer().Text(t.Turns[1].Text)); !found || err != nil {
			h.Errorf("%s was dropped for %s, and is like nothing that is kept: %v", id, name[1], err)
		}
	}
	for id := range drawn {
		if kept[id] == "" {
			h.Errorf("%s was drawn, and is not kept", id)
		}
	}
	if len(kept) != n || len(dropped) < 100 || len(drawn) < 20 {
		h.Errorf("kept %d, want %d; %d dropped, %d of them surplus, %d drawn", len(kept), n, len(dropped), surplus, len(drawn))
	}
	h.Logf("%d kept, %d dropped, %d of them surplus, %d drawn", len(kept), len(dropped), surplus, len(drawn))
}
