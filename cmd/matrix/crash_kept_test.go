package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/run"
)

// crashKept keeps exactly so many tasks that are unlike each other, each told after
// some of those that were kept before it.
const crashKept = `
name: kept
seed: 11
live: 40
trials: until
until: {kept: 1, most: 3}
dataset: {path: rows.jsonl, id: id}
output: {rows_per_part: 150, compress: %s, dropped: full}
unique: {on: last.text}
pool: {seeds: rows.jsonl, kept: "{id: id, text: last.text}", most: 200}
models:
  a: {kind: scripted, delay: 4ms, reply: "{{ item.texts[trial] }}"}
roles:
  examples: {compute: {kept: "draw(pool.kept, 3)", seeds: "map(draw(pool.seeds, 2), .id)"}}
  tell: {chat: {model: a, prompt: "{%% for x in last.data.kept %%}{{ x.text }} {%% endfor %%}{{ item.id }}"}}
flow: [examples, tell]
`

// crashKinds is how many kinds of rows there are, for until.per.
const crashKinds = 4

// TestCrashKept kills a run that keeps exactly so many tasks, no two of them alike, and
// draws from those it has kept, at random moments; types the same command again, and
// then that with a larger goal. What was decided before a kill, and drawn, stands.
func TestCrashKept(t *testing.T) {
	t.Parallel()
	kills := crashShare(crashKills(t))
	bin := buildMatrix(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance starts from %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	killed, kept := 0, 0
	for round := 0; killed < kills; round++ {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir(), shards: 1}
		h.out = filepath.Join(h.dir, "crashed")
		per := round%2 == 1
		families := h.writeTwins([]string{"none", "zstd"}[round%2])
		seen := &decisions{of: map[string]string{}, drawn: map[string]string{}}
		goals := []int{80, 160, 240}
		for i, goal := range goals {
			args := []string{fmt.Sprint("until.kept=", goal)}
			if per {
				args = []string{fmt.Sprint("until.kept=", goal/crashKinds), "until.per=item.kind"}
			}
			most := (min(kills-killed, 15) + len(goals) - 1 - i) / (len(goals) - i)
			for left := most; ; {
				var after time.Duration
				if left > 0 {
					after = time.Duration(20+rng.IntN(400)) * time.Millisecond
				}
				code := h.run(after, args...)
				h.once()
				seen.check(h)
				if code == 0 {
					break
				}
				if code != -1 {
					t.Fatalf("after %d kills: exit %d\n%s", killed, code, h.log())
				}
				killed, left = killed+1, left-1
				switch rng.IntN(6) {
				case 0:
					h.tear()
				case 1:
					h.verify()
				case 2: // a cache
					if err := os.RemoveAll(filepath.Join(h.out, rundir.UniqueDir)); err != nil {
						t.Fatal(err)
					}
				}
			}
			h.checkKept(goal, per, families)
			kept = goal
		}
		if out, err := exec.Command(bin, "verify", h.out, "--complete").CombinedOutput(); err != nil {
			t.Fatalf("verify --complete: %v\n%s", err, out)
		}
	}
	t.Logf("%d kills, %d kept at the end of each round: exactly so many, no two alike, each decision as it was", killed, kept)
}

// writeTwins makes a folder whose rows tell texts of families: those of one differ in a
// word. It says which family a text is of.
func (h *crashBed) writeTwins(compress string) (families map[string]int) {
	families = map[string]int{}
	text := func(family int) string {
		r := rand.New(rand.NewPCG(uint64(family), 1))
		words := make([]string, 60)
		for i := range words {
			words[i] = fmt.Sprint("w", r.IntN(100_000))
		}
		words[len(words)-1] = fmt.Sprint("x", h.rng.IntN(5))
		s := strings.Join(words, " ")
		families[s] = family
		return s
	}
	var b bytes.Buffer
	for i := range 1200 {
		var texts []string
		for range 3 {
			texts = append(texts, text(h.rng.IntN(600)))
		}
		line, err := json.Marshal(map[string]any{"id": fmt.Sprint("q", i), "kind": fmt.Sprint("kind ", i%crashKinds), "texts": texts})
		if err != nil {
			h.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	for name, content := range map[string]string{"rows.jsonl": b.String(), "config.yaml": fmt.Sprintf(crashKept, compress)} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o666); err != nil {
			h.Fatal(err)
		}
	}
	return families
}

// decisions are what a run had committed when it was looked at: how tasks ended, with
// their lines, and what those under way had drawn.
type decisions struct{ of, drawn map[string]string }

// check compares with what stands there now, and takes note of it.
func (d *decisions) check(h *crashBed) {
	h.Helper()
	state := filepath.Join(h.out, rundir.StateDir)
	if _, err := os.Stat(filepath.Join(h.out, "config.yaml")); err != nil {
		return // killed before there was a run
	}
	q, err := local.Open(state, local.Options{ReadOnly: true, Existing: true})
	if err != nil {
		h.Fatal(err)
	}
	defer q.Close()
	lines := map[matrix.Status]map[string]string{}
	for _, s := range matrix.Ends() {
		lines[s] = h.lines(rundir.OutputDir(s))
	}
	now := map[string]string{}
	err = q.Walk(h.Context(), func(id string, f matrix.Fate) error {
		if f.Status == matrix.Pending {
			return nil
		}
		line := lines[f.Status][id]
		now[id] = fmt.Sprintf("%s part %d line %d: %s", f.Status, f.Part, f.Line, line)
		if was, ok := d.drawn[id]; ok && was != drawn(h, line) {
			h.Errorf("%s had drawn %s before a kill, and now %s", id, was, drawn(h, line))
		}
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
	for id, was := range d.of {
		if now[id] != was {
			h.Errorf("%s was decided before a kill:\n  was %s\n  is  %s", id, was, now[id])
		}
	}
	d.of, d.drawn = now, map[string]string{}
	err = q.Live(h.Context(), func(key string) error {
		m, ok, err := q.Peek(h.Context(), key)
		if err != nil || !ok {
			return err
		}
		log, err := m.Log(h.Context(), 0)
		if err != nil {
			return err
		}
		t, err := run.Decode(key, log)
		if err == nil && len(t.Turns) > 0 {
			d.drawn[key] = drawn(h, string(dataset.AppendTask(nil, t)))
		}
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
}

// drawn is what the first turn of a task in a line has.
func drawn(h *crashBed, line string) string {
	var t struct{ Turns []struct{ Data any } }
	if err := json.Unmarshal([]byte(line), &t); err != nil || len(t.Turns) == 0 {
		h.Errorf("a task that had drawn has no turn in its line %.200s: %v", line, err)
		return ""
	}
	b, _ := json.Marshal(t.Turns[0].Data)
	return string(b)
}

// twinOf is the reason of a task that is like a kept one.
var twinOf = regexp.MustCompile(`^near-duplicate of "(.*)" \(`)

// checkKept looks at a run that has come to its goal: exactly so many are kept, no two of
// a family; what was dropped names one of its own; what was drawn is kept.
func (h *crashBed) checkKept(goal int, per bool, families map[string]int) {
	h.Helper()
	type told struct {
		ID    string
		Item  struct{ Kind string }
		Turns []struct {
			Text string
			Data struct{ Kept []struct{ ID, Text string } }
		}
		Outcome struct{ Cause string }
	}
	read := func(name string) map[string]told {
		tasks := map[string]told{}
		for id, line := range h.lines(name) {
			var t told
			if err := json.Unmarshal([]byte(line), &t); err != nil {
				h.Fatal(err)
			}
			tasks[id] = t
		}
		return tasks
	}
	kept, dropped := read(rundir.DataDir), read(rundir.DroppedDir)
	of, kinds := map[int]string{}, map[string]int{}
	family := func(t told) int {
		n, ok := families[t.Turns[len(t.Turns)-1].Text]
		if !ok {
			h.Errorf("%s told what no row has", t.ID)
		}
		return n
	}
	for id, t := range kept {
		if twin, ok := of[family(t)]; ok {
			h.Errorf("%s and %s are alike, and both are kept", id, twin)
		}
		of[family(t)] = id
		kinds[t.Item.Kind]++
	}
	if len(kept) != goal {
		h.Errorf("%d are kept, want exactly %d", len(kept), goal)
	}
	if want := slices.Repeat([]int{goal / crashKinds}, crashKinds); per && !slices.Equal(slices.Collect(maps.Values(kinds)), want) {
		h.Errorf("kept by kind: %v, want %d of each", kinds, want[0])
	}
	twins := 0
	for id, t := range dropped {
		if name := twinOf.FindStringSubmatch(t.Outcome.Cause); name != nil {
			if twins++; of[family(t)] != name[1] {
				h.Errorf("%s is dropped as %q, and what is kept of its family is %q", id, t.Outcome.Cause, of[family(t)])
			}
		} else if t.Outcome.Cause != run.Surplus {
			h.Errorf("%s is dropped as %q", id, t.Outcome.Cause)
		}
	}
	if twins == 0 {
		h.Error("no task was dropped as another's twin: the rows prove nothing")
	}
	draws := 0
	for _, tasks := range []map[string]told{kept, dropped} {
		for id, t := range tasks {
			for _, turn := range t.Turns[:min(1, len(t.Turns))] {
				for _, x := range turn.Data.Kept {
					draws++
					if k, ok := kept[x.ID]; !ok || k.Turns[len(k.Turns)-1].Text != x.Text {
						h.Errorf("%s drew %s, which is not kept so", id, x.ID)
					}
				}
			}
		}
	}
	if draws == 0 {
		h.Error("no task drew another: the pool was never seen")
	}
}
