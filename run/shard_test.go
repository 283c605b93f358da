package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"matrix"
	"matrix/local"
	"matrix/run"
)

// The trials of a row are in one shard, with every row whose id is the name of one
// of them; rows are spread evenly, those with numbered ids too.
func TestShardOf(t *testing.T) {
	const shards = 4
	for _, id := range []string{"x", "", "x#1", "x#2#1", "x#0", "#1"} {
		for trial := range 3 {
			if got, want := run.ShardOf(matrix.TaskID(id, trial), 3, shards), run.ShardOf(id, 3, shards); got != want {
				t.Errorf("trial %d of %q is in shard %d, want %d", trial, id, got, want)
			}
		}
	}
	for _, trials := range []int{1, 3} {
		var n [shards]int
		for i := range 4000 {
			n[run.ShardOf(fmt.Sprint("doc#", i+3), trials, shards)]++
		}
		for k := range n {
			if n[k] < 900 || n[k] > 1100 {
				t.Errorf("%d trials: shards have %v of 4000 rows", trials, n)
			}
		}
	}
}

// Each child of each trial has a key of its own, in the shard of its row, and no row
// has it, whatever bytes its id has.
func TestChildID(t *testing.T) {
	rowsOf := []string{"a", "", "a#1", "\x01a", "a\x00", "\xff", strings.Repeat("long ", 100)}
	seen := map[string]string{}
	for _, row := range rowsOf {
		for _, trial := range []int{0, 1, 300} {
			for _, path := range [][]int{{0}, {1}, {0, 0}, {0, 1}, {97}, {300, 0}} {
				key, what := run.ChildID(row, trial, path...), fmt.Sprintf("%v of trial %d of %q", path, trial, row)
				if other := seen[key]; other != "" {
					t.Errorf("%s and %s have one key", what, other)
				}
				seen[key] = what
				if got, want := run.ShardOf(key, 2, 5), run.ShardOf(row, 2, 5); got != want {
					t.Errorf("%s is in shard %d, and the row in %d", what, got, want)
				}
			}
		}
	}
	source := numbered(4)
	source[0].ID, source[1].ID, source[2].ID = run.ChildID("r3", 0, 0), "\uFFFD\x02r3\x00\x00", "\xff"
	b := newBed(t)
	cfg := dialogue(2)
	cfg.Source = source
	if p := b.run(cfg); p.Done != 3 || p.Failed != 1 { // the second one has the name of the first
		t.Errorf("got %+v, want 3 done and 1 failed", p)
	}
	if a := b.verify(source, 1); !a.OK {
		t.Errorf("verify: %q", a.Culprits)
	}
	q := b.open()[0].(*local.Queue)
	defer q.Close()
	if err := q.Walk(t.Context(), func(id string, _ matrix.Fate) error {
		if strings.HasPrefix(id, run.ChildID("", 0)[:1]) {
			t.Errorf("%q names a row", id)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// failing is a dialogue in which a third of the tasks fail, while broken holds.
func failing(turns int, broken bool) run.Config {
	cfg := dialogue(turns)
	ask := cfg.Roles["answer"].Agent
	cfg.Roles["answer"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, task *matrix.Task) (matrix.Turn, error) {
		if broken && task.Seed%3 == 0 {
			return matrix.Turn{}, &matrix.FailError{Err: errors.New("out of order")}
		}
		return ask.Act(ctx, task)
	})}
	return cfg
}

// A run over several shards comes to what one over a single shard does, through
// stops and a retry of what has failed.
func TestShards(t *testing.T) {
	t.Parallel()
	whole := newBed(t)
	cfg := failing(4, true)
	cfg.Trials = 2
	want := whole.run(cfg)
	if want.Failed < 50 || want.Done < 50 {
		t.Fatalf("%d done and %d failed: nothing is tested", want.Done, want.Failed)
	}
	wantData, wantFailed := content(whole.tasks("data")), content(whole.tasks("failed"))

	b := newBed(t)
	b.shards = 4
	for sessions := 0; ; sessions++ {
		r, err := b.with(cfg, func(r *run.Run, cancel func()) {
			for r.Progress().NewHops < 300 && !r.Finished() {
				time.Sleep(time.Millisecond)
			}
			r.Stop()
		})
		if a := b.verify(cfg.Source, cfg.Trials); !a.OK {
			t.Fatalf("after session %d: %+v", sessions, a)
		}
		if err == nil {
			got := r.Progress()
			if got.Done != want.Done || got.Failed != want.Failed || got.Hops != want.Hops || got.Fed != want.Fed || got.Pending != 0 || !got.Finished {
				t.Errorf("got %+v, want %+v", got, want)
			}
			exampleless := cmpopts.IgnoreFields(run.CauseCount{}, "Example") // whichever came first
			if d := cmp.Diff(want.FailedBy(), got.FailedBy(), exampleless); d != "" {
				t.Errorf("causes: %s", d)
			}
			break
		}
		if !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(wantData, content(b.tasks("data"))); d != "" {
		t.Errorf("data: %s", d)
	}
	if d := cmp.Diff(wantFailed, content(b.tasks("failed"))); d != "" {
		t.Errorf("failed: %s", d)
	}
	fixed := failing(4, false)
	fixed.Trials, fixed.Live, fixed.Retry = 2, 5, &run.Retry{Begin: true}
	p := b.run(fixed)
	if p.Done != 400 || p.Failed != 0 || p.Retried.Tasks != want.Failed {
		t.Errorf("after the retry: got %d done, %d failed, %d tried again; want 400, 0 and %d", p.Done, p.Failed, p.Retried.Tasks, want.Failed)
	}
	if a := b.verify(fixed.Source, 2); !a.OK {
		t.Errorf("after the retry: %+v", a)
	}
	if n := len(b.tasks("data")); n != 400 {
		t.Errorf("data has %d tasks, want 400", n)
	}
}

// The number of shards cannot change within a run.
func TestShardsCannotChange(t *testing.T) {
	b := newBed(t)
	b.shards = 3
	b.run(dialogue(1))
	b.shards = 2
	qs := b.open()
	for _, q := range qs {
		defer q.(closer).Close()
	}
	cfg := dialogue(1)
	b.wire(&cfg, qs...)
	if _, err := run.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "shards was 3") {
		t.Errorf("two shards of three: got %v", err)
	}
}

// TestShardsLosePower is TestPowerLoss over several shards, whose stores and checkpoints
// a power cut leaves at different moments.
func TestShardsLosePower(t *testing.T) {
	undisturbed := newBed(t)
	undisturbed.run(dialogue(3))
	want := content(undisturbed.tasks("data"))
	losses := 0
	for round := range 4 {
		rng := rand.New(rand.NewPCG(2, uint64(round)))
		b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run", shards: 3}
		for {
			mem := b.fs.(*vfs.MemFS)
			var after *vfs.MemFS
			_, err := b.with(dialogue(3), func(r *run.Run, cancel func()) {
				for at := int64(rng.IntN(300)); r.Progress().NewHops < at && !r.Finished(); {
					time.Sleep(50 * time.Microsecond)
				}
				after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)], RNG: rng})
				cancel()
			})
			if err != nil && !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			b.fs = after
			a := b.verify(dialogue(3).Source, 1)
			if !a.OK {
				t.Fatalf("round %d after %d losses", round, losses)
			}
			if a.Pending == 0 {
				break
			}
			losses++
		}
		if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
			t.Errorf("round %d differs from an undisturbed run: %s", round, d)
		}
	}
	if losses < 4 {
		t.Errorf("the power was lost %d times in the middle of a run: too few to test anything", losses)
	}
}

// brokenCheckpoint is the leader's store, whose feeder is stopped between the seeds of
// the shards and the checkpoint that speaks of them.
type brokenCheckpoint struct{ *local.Queue }

var errBrokenCheckpoint = errors.New("stopped before the checkpoint")

func (q brokenCheckpoint) Seed(ctx context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	if len(seeds) == 0 && bytes.Contains(checkpoints["feed"], []byte(`"tasks":50`)) {
		return 0, errBrokenCheckpoint
	}
	return q.Queue.Seed(ctx, seeds, checkpoints)
}

// Tasks that a crash left ahead of the feeder's checkpoint are known afterwards, also
// where the dataset is another one by then: all of them end, and each is counted.
func TestTasksAheadOfTheCheckpoint(t *testing.T) {
	for _, rows := range []int{50, 20, 80} {
		b := newBed(t)
		var qs []run.Store
		for k := range 3 {
			q, err := local.Open(filepath.Join(b.dir, fmt.Sprint("state", k)), local.Options{FS: b.fs})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = q.Close() }()
			qs = append(qs, q)
		}
		cfg := dialogue(1)
		cfg.Source = numbered(50)
		b.wire(&cfg, append([]run.Store{brokenCheckpoint{qs[0].(*local.Queue)}}, qs[1:]...)...)
		r, err := run.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); !errors.Is(err, errBrokenCheckpoint) {
			t.Fatalf("got %v, want %v", err, errBrokenCheckpoint)
		}
		cfg.Source, cfg.AcceptChanges = numbered(rows), true
		b.wire(&cfg, qs...)
		r, err = run.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("%d rows: %v", rows, err)
		}
		if p := r.Progress(); p.Done+p.Failed != int64(max(50, rows)) || !p.Finished {
			t.Errorf("%d rows: %d done and %d failed, finished %v; want %d tasks", rows, p.Done, p.Failed, p.Finished, max(50, rows))
		}
	}
}

// lateRetry is a shard that is stopped before it begins a retry.
type lateRetry struct{ *local.Queue }

var errLateRetry = errors.New("stopped before the retry")

func (q lateRetry) Seed(ctx context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	if checkpoints["retry"] != nil {
		return 0, errLateRetry
	}
	return q.Queue.Seed(ctx, seeds, checkpoints)
}

// A retry that only some of the shards had begun goes on in all of them, and is
// over once they have ended it.
func TestRetryOfSomeShards(t *testing.T) {
	b := newBed(t)
	b.shards = 3
	cfg := failing(4, true)
	before := b.run(cfg)
	if before.Failed < 20 {
		t.Fatalf("%d failed: nothing is tested", before.Failed)
	}
	fixed := failing(4, false)
	fixed.Retry = &run.Retry{Begin: true, Where: "true"}
	qs := b.open()
	late := append([]run.Store{}, qs...)
	late[1], late[2] = lateRetry{qs[1].(*local.Queue)}, lateRetry{qs[2].(*local.Queue)}
	b.wire(&fixed, late...)
	r, err := run.New(t.Context(), fixed)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, errLateRetry) {
		t.Fatalf("got %v, want %v", err, errLateRetry)
	}
	for _, over := range []bool{false, true} {
		if where, on, err := run.RetryOf(t.Context(), qs...); on == over || !over && where != "true" || err != nil {
			t.Fatalf("over %v: a retry of %q is under way: %v, %v", over, where, on, err)
		}
		if over {
			break
		}
		fixed.Retry = &run.Retry{Where: "true"}
		b.wire(&fixed, qs...)
		if r, err = run.New(t.Context(), fixed); err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range qs {
		if err := q.(closer).Close(); err != nil {
			t.Error(err)
		}
	}
	if p := r.Progress(); p.Failed != 0 || p.Done != before.Done+before.Failed || !p.Finished {
		t.Errorf("%d done and %d failed, finished %v; want %d done", p.Done, p.Failed, p.Finished, before.Done+before.Failed)
	}
	if a := b.verify(fixed.Source, 1); !a.OK {
		t.Errorf("%+v", a)
	}
}
