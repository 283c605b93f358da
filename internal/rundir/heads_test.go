package rundir_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"matrix"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/matrixtest"
	"matrix/registry"
	"matrix/route"
	"matrix/run"
	"matrix/spec"
)

// heads is where the logs of a run are, and who leads it.
type heads struct {
	mu    sync.Mutex
	logs  map[int]*matrixtest.ScriptedLog
	epoch uint64
}

// lead is the next one's.
func (h *heads) lead(t *testing.T) *lead {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.logs == nil {
		h.logs = map[int]*matrixtest.ScriptedLog{}
	}
	h.epoch++
	return &lead{h, h.epoch, t.TempDir()}
}

type lead struct {
	h     *heads
	epoch uint64
	dir   string
}

func (l *lead) Epoch() uint64         { return l.epoch }
func (l *lead) View(shard int) string { return filepath.Join(l.dir, fmt.Sprint(shard)) }
func (l *lead) Log(_ context.Context, shard int) (local.Log, error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if l.h.logs[shard] == nil {
		l.h.logs[shard] = matrixtest.NewScriptedLog(64 << 10)
	}
	return l.h.logs[shard].Open(nil), nil
}

const config = `
name: told
dataset: {path: %s, id: id}
output: {rows_per_part: 7}
models: {m: {kind: scripted, reply: yes}}
roles: {say: {chat: {model: m, prompt: hello}}}
flow: [say]
`

// folder is that of a run of 100 rows over two shards.
type folder struct {
	*testing.T
	c   *spec.Config
	dir string
}

func newFolder(t *testing.T) *folder {
	dir := t.TempDir()
	var rows strings.Builder
	for i := range 100 {
		fmt.Fprintf(&rows, `{"id":"q%d"}`+"\n", i)
	}
	path := filepath.Join(dir, "rows.jsonl")
	if err := os.WriteFile(path, []byte(rows.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := spec.LoadText("config.yaml", fmt.Sprintf(config, path), nil, []string{"shards=2"})
	if err != nil {
		t.Fatal(err)
	}
	return &folder{t, c, filepath.Join(dir, "out")}
}

// claim claims and opens the folder.
func (f *folder) claim(l *lead) (*rundir.Claim, error) {
	var o rundir.ClaimOptions
	if l != nil {
		o.Lead, o.Heads = l, "a, b, c"
	}
	claim, err := rundir.NewClaim(f.dir, o)
	if err == nil {
		if err = claim.Open(f.Context(), f.c, registry.New().Parts()); err != nil {
			err = errors.Join(err, claim.Close())
		}
	}
	return claim, err
}

// work goes on with the run until so many tasks more are settled, or all, and says
// whether it has finished. It hands back what has finished.
func (f *folder) work(l *lead, most int) (*rundir.Claim, bool) {
	f.Helper()
	claim, err := f.claim(l)
	if err != nil {
		f.Fatal(err)
	}
	source, err := registry.Source(&f.c.Run)
	if err != nil {
		f.Fatal(err)
	}
	router, err := route.NewSequence([]route.Step{{Role: "say"}}, route.Env{Roles: map[string]route.Role{"say": {}}})
	if err != nil {
		f.Fatal(err)
	}
	var r *run.Run
	settled := 0
	cfg := run.Config{Source: source, Router: router, Live: 10, Roles: map[string]matrix.Role{"say": {Agent: matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		if t.ID == "q13" {
			return matrix.Turn{}, &matrix.FailError{Err: errors.New("unlucky")}
		}
		return matrix.Turn{Text: "yes"}, nil
	})}}}
	var mu sync.Mutex
	cfg.On = func(e run.Event) {
		if e.Kind == run.TaskSettled {
			mu.Lock()
			defer mu.Unlock()
			if settled++; settled == most {
				r.Stop()
			}
		}
	}
	claim.Configure(&cfg, f.c.Run.Output)
	if r, err = run.New(f.Context(), cfg); err != nil {
		f.Fatal(err)
	}
	if err := claim.SaveConfig(); err != nil {
		f.Fatal(err)
	}
	switch err := r.Run(f.Context()); {
	case err == nil:
		return claim, true
	case !errors.Is(err, run.ErrStopped):
		f.Fatal(err)
	}
	return claim, false
}

// finish is work to the end. The folder is then one that one process has left.
func (f *folder) finish(l *lead) {
	f.Helper()
	claim, finished := f.work(l, 0)
	if !finished {
		f.Fatal("the run has not finished")
	}
	if err := errors.Join(claim.HandBack(f.Context()), claim.Close()); err != nil {
		f.Fatal(err)
	}
	f.whole()
}

func (f *folder) whole() {
	f.Helper()
	d, err := rundir.Open(f.dir)
	if err != nil {
		f.Fatal(err)
	}
	defer d.Close()
	a, err := d.Verify(f.Context())
	if err != nil || !a.OK || a.Done != 99 || a.Failed != 1 {
		f.Fatalf("verify: %+v, %v", a, err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case rundir.ConfigFile, rundir.StateDir, rundir.DataDir, rundir.FailedDir, rundir.FormatsDir:
		default:
			f.Errorf("%s is left", e.Name())
		}
	}
	for _, dir := range []string{rundir.DataDir, rundir.FailedDir} {
		if left, _ := filepath.Glob(filepath.Join(f.dir, dir, ".*")); len(left) > 0 {
			f.Errorf("%v is left", left)
		}
	}
	if _, is, err := rundir.Elsewhere(f.dir); is || err != nil {
		f.Errorf("elsewhere: %v, %v", is, err)
	}
}

// stop is work on heads, or in one process without, that ends before the run does.
func (f *folder) stop(l *lead, most int) {
	f.Helper()
	claim, finished := f.work(l, most)
	if finished {
		f.Fatal("the run has finished")
	}
	if err := claim.Close(); err != nil {
		f.Fatal(err)
	}
}

func (f *folder) refused(err error, want rundir.Refusal) {
	f.Helper()
	var refused *rundir.RefusedError
	if !errors.As(err, &refused) || refused.Cause != want || !strings.Contains(err.Error(), "a, b, c") {
		f.Errorf("got %v, want it refused: %s", err, want)
	}
}

// A run that one process began goes on with heads, one after the other, and leaves what
// one process leaves.
func TestHeads(t *testing.T) {
	for _, begins := range []string{"with heads", "in one process"} {
		t.Run(begins, func(t *testing.T) {
			f := newFolder(t)
			var h heads
			if begins == "in one process" {
				f.stop(nil, 20)
			}
			f.stop(h.lead(t), 23)
			f.stop(h.lead(t), 11)
			if _, err := os.Stat(filepath.Join(f.dir, rundir.StateDir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the state is there, too: %v", err)
			}

			_, err := f.claim(nil)
			f.refused(err, rundir.OnHeads)
			d, err := rundir.Open(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Verify(t.Context()); !errors.Is(err, local.ErrLocked) || !strings.Contains(err.Error(), "a, b, c") {
				t.Errorf("verify: got %v, want %v", err, local.ErrLocked)
			}
			_, err = d.Repair(t.Context(), nil)
			f.refused(err, rundir.OnHeads)
			d.Close()
			if d, err = rundir.OpenOutput(t.Context(), f.dir); err != nil {
				t.Fatal(err)
			}
			found := map[string]bool{}
			last := ""
			for r, err := range d.Tasks(t.Context(), matrix.Done) {
				if err != nil || found[r.Task.ID] || !strings.HasPrefix(r.Where, "data/part-") {
					t.Fatalf("got %+v, %v; want each task once", r, err)
				}
				found[r.Task.ID] = true
				last = r.Task.ID
			}
			if !d.Busy() || len(found) < 34 {
				t.Errorf("%d tasks are found, want 34 or more; busy: %v", len(found), d.Busy())
			}
			if _, err := d.Find(t.Context(), last); err != nil {
				t.Errorf("find %s: %v", last, err)
			}
			d.Close()

			f.finish(h.lead(t))
			if claim, err := f.claim(h.lead(t)); err != nil { // for a head that was late
				t.Error(err)
			} else if err := claim.Close(); err != nil {
				t.Error(err)
			}
			f.whole()
		})
	}
}

// A leader may be killed at any step of bringing a run in, and of handing it back.
func TestHeadsCutShort(t *testing.T) {
	f := newFolder(t)
	var h heads
	f.stop(nil, 20)
	name := func(name string) string { return filepath.Join(f.dir, name) }
	note := func(begun bool) {
		t.Helper()
		if err := os.WriteFile(name(rundir.HeadsFile), fmt.Appendf(nil, `{"heads":"a, b, c","begun":%v}`, begun), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	note(false) // as it is before the first log is begun
	_, err := f.claim(nil)
	f.refused(err, rundir.OnHeads)
	f.stop(h.lead(t), 1)
	note(false) // as it is when the state is out of the way
	f.stop(h.lead(t), 1)
	claim, finished := f.work(h.lead(t), 0)
	if !finished {
		t.Fatal("the run has not finished")
	}
	if err := claim.Close(); err != nil { // before it hands back
		t.Fatal(err)
	}
	_, err = f.claim(nil)
	f.refused(err, rundir.OnHeads)
	claim, _ = f.work(h.lead(t), 0)
	if err := os.MkdirAll(name("state.new-1/x"), 0o777); err != nil { // of one before
		t.Fatal(err)
	}
	if err := claim.HandBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := claim.HandBack(t.Context()); err != nil { // another one, just after
		t.Fatal(err)
	}
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*lead{h.lead(t), nil} {
		note(true) // as it is when the state is there again
		if claim, err = f.claim(l); err != nil {
			t.Fatal(err)
		}
		if err := claim.Close(); err != nil {
			t.Fatal(err)
		}
		f.whole()
	}
}

// Heads that have lost the logs of a run do not begin it anew. What stands in the
// outputs is not lost then.
func TestHeadsGone(t *testing.T) {
	f := newFolder(t)
	var h heads
	f.stop(h.lead(t), 40)
	h.logs = nil
	_, err := f.claim(h.lead(t))
	f.refused(err, rundir.HeadsGone)
	if err := os.Remove(filepath.Join(f.dir, rundir.HeadsFile)); err != nil {
		t.Fatal(err)
	}
	d, err := rundir.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	is, err := d.Repair(t.Context(), func(context.Context, run.Checkpoints) (map[string][]byte, error) { return nil, nil })
	if err != nil || is.Done+is.Failed < 40 {
		t.Fatalf("repair: %+v, %v", is, err)
	}
	d.Close()
	if err := os.RemoveAll(filepath.Join(f.dir, "before-repair")); err != nil {
		t.Fatal(err)
	}
	f.finish(nil)
}

// Several heads do not start a run over: each of them would.
func TestHeadsFresh(t *testing.T) {
	var h heads
	if _, err := rundir.NewClaim(t.TempDir(), rundir.ClaimOptions{Fresh: true, Lead: h.lead(t)}); err == nil {
		t.Error("a run is started over by one of its heads")
	}
}
