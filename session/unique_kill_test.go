package session

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"matrix"
	"matrix/internal/dedup"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

const uniqueConfig = `
dataset: {path: rows.jsonl, id: id}
live: 15
roles:
  draw: {compute: {kept: "draw(pool.kept, 3)", seed: "draw(pool.seeds, 1)[0].text"}}
  say: {compute: {text: item.text}}
flow: [draw, say]
unique: {on: last.data.text}
pool: {seeds: rows.jsonl, kept: "{id: id, text: last.data.text}", most: 100}
`

// dying is a run.Judge that ends its process at the nth time that a step is reached, as if
// it had been killed there.
type dying struct {
	judge
	step string
	n    int
}

func (d *dying) at(step string) {
	if step != d.step {
		return
	}
	if d.n--; d.n == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d *dying) Judge(ctx context.Context, tasks []*matrix.Task) error {
	err := d.judge.Judge(ctx, tasks)
	d.at("judged")
	return err
}

func (d *dying) Checkpoint() ([]byte, error) {
	d.at("written")
	return d.judge.Checkpoint()
}

func (d *dying) Settled(ctx context.Context) error {
	d.at("committed")
	err := d.judge.Settled(ctx)
	d.at("indexed")
	return err
}

// TestUniqueChild is a process of TestUniqueOverKills.
func TestUniqueChild(t *testing.T) {
	dir := os.Getenv("MATRIX_TEST_UNIQUE")
	if dir == "" {
		t.Skip("it is run by another test")
	}
	step, n, _ := strings.Cut(os.Getenv("MATRIX_TEST_DIE"), ":")
	d := &dying{step: step}
	d.n, _ = strconv.Atoi(n)
	c, err := spec.Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Build(registry.New(), c, registry.ToRun)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := rundir.NewClaim(filepath.Join(dir, "out"), rundir.ClaimOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.Open(t.Context(), c, registry.New().Parts()); err != nil {
		t.Fatal(err)
	}
	engine := p.engine()
	folder.Configure(&engine, c.Run.Output)
	var r *run.Run
	engine.Judge = func([]byte) (run.Judge, error) {
		d.judge, err = p.openJudge(t.Context(), folder, r.Progress().Done)
		return d, err
	}
	if r, err = run.New(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if err := folder.SaveConfig(); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{d.judge.Close(), p.Close(), folder.Close()} {
		if err != nil {
			t.Error(err)
		}
	}
}

// A run is killed at each step of settling, again and again. What was settled stays as it
// was decided, no two kept tasks are alike, and what was dropped is like a kept one.
func TestUniqueOverKills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 6))
	texts := map[string]string{}
	var rows strings.Builder
	for i := range 600 {
		id := fmt.Sprint("r", i)
		text := make([]string, 60)
		for k := range text {
			text[k] = fmt.Sprint("w", rng.IntN(10_000))
		}
		if i > 0 && i%2 == 1 { // nearly that of an earlier one
			text = strings.Fields(texts[fmt.Sprint("r", rng.IntN(i))])
			text[len(text)-1] = "changed"
		}
		texts[id] = strings.Join(text, " ")
		line, err := json.Marshal(map[string]string{"id": id, "text": texts[id]})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&rows, "%s\n", line)
	}
	for name, content := range map[string]string{"config.yaml": uniqueConfig, "rows.jsonl": rows.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	decided := map[string]matrix.Fate{}
	kills := 0
	for i := 0; ; i++ {
		step := []string{"judged", "written", "committed", "indexed"}[i%4]
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUniqueChild$")
		child.Env = append(os.Environ(), "MATRIX_TEST_UNIQUE="+dir, fmt.Sprintf("MATRIX_TEST_DIE=%s:%d", step, 1+rng.IntN(4)))
		out, err := child.CombinedOutput()
		if i == 5 { // the cache may be lost, too
			if err := os.RemoveAll(filepath.Join(dir, "out", rundir.UniqueDir)); err != nil {
				t.Fatal(err)
			}
		}
		fates := fatesIn(t, filepath.Join(dir, "out"))
		for id, f := range decided {
			if fates[id] != f {
				t.Fatalf("after kill %d, when it was %s: %s was %+v, and is %+v", i, step, id, f, fates[id])
			}
		}
		decided = fates
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v\n%s", err, out)
		}
		kills++
	}
	if kills < 8 {
		t.Errorf("killed %d times, want each step twice at least", kills)
	}
	checkUnique(t, filepath.Join(dir, "out"), texts)
}

func fatesIn(t *testing.T, out string) map[string]matrix.Fate {
	t.Helper()
	q, err := local.Open(filepath.Join(out, rundir.StateDir), local.Options{ReadOnly: true, Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	fates := map[string]matrix.Fate{}
	err = q.Walk(t.Context(), func(id string, f matrix.Fate) error {
		if f.Status != matrix.Pending {
			fates[id] = f
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return fates
}

var named = regexp.MustCompile(`^near-duplicate of "(.*)" \((.*)\)$`)

// checkUnique compares what stands in the output of a run with the texts of its rows.
func checkUnique(t *testing.T, out string, texts map[string]string) {
	t.Helper()
	d, err := rundir.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ends := map[matrix.Status][]*matrix.Task{}
	for _, status := range matrix.Ends() {
		for r, err := range d.Tasks(t.Context(), status) {
			if err != nil {
				t.Fatal(err)
			}
			ends[status] = append(ends[status], r.Task)
		}
	}
	x, err := dedup.OpenMemory(dedup.Options{Method: dedup.MinHash, Threshold: 0.8})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	kept := map[string]bool{}
	drawn := map[string]int{}
	for _, task := range ends[matrix.Done] {
		kept[task.ID] = true
		var pool struct {
			Kept []struct{ ID, Text string }
			Seed string
		}
		if err := json.Unmarshal(task.Turns[0].Data.Raw(), &pool); err != nil || pool.Seed == "" {
			t.Fatalf("%s: drew %s: %v", task.ID, task.Turns[0].Data.Raw(), err)
		}
		for _, k := range pool.Kept {
			if drawn[k.ID]++; k.Text != texts[k.ID] {
				t.Errorf("%s: drew %+v", task.ID, k)
			}
		}
		signature := x.Signer().Text(texts[task.ID])
		if m, found, err := x.Find(signature); found || err != nil {
			t.Errorf("%s is kept, and alike %+v, %v", task.ID, m, err)
		}
		if err := x.Add(task.ID, signature); err != nil {
			t.Fatal(err)
		}
		if len(task.Outcome.Signature) > 0 {
			t.Errorf("%s: a signature that can be made again stands in the output", task.ID)
		}
	}
	for _, task := range ends[matrix.Dropped] {
		name := named.FindStringSubmatch(task.Outcome.Cause)
		if name == nil || !kept[name[1]] {
			t.Errorf("%s is dropped because %s: want a task that is kept", task.ID, task.Outcome.Cause)
			continue
		}
		if m, found, err := x.Find(x.Signer().Text(texts[task.ID])); !found || err != nil || fmt.Sprintf("%.2f", m.Score) != name[2] && m.Name == name[1] {
			t.Errorf("%s is dropped because %s: got %+v, %v, %v", task.ID, task.Outcome.Cause, m, found, err)
		}
	}
	for id := range drawn {
		if !kept[id] {
			t.Errorf("%s was drawn %d times, and is not kept", id, drawn[id])
		}
	}
	if len(drawn) < 50 {
		t.Errorf("%d tasks were drawn", len(drawn))
	}
	if n := len(kept) + len(ends[matrix.Dropped]); n != len(texts) || len(kept) < len(texts)/3 || len(kept) > 2*len(texts)/3 {
		t.Errorf("%d kept and %d dropped of %d", len(kept), len(ends[matrix.Dropped]), len(texts))
	}
	if a, err := Verify(t.Context(), d); err != nil || !a.OK {
		t.Errorf("verify: %+v, %v", a, err)
	}
}
