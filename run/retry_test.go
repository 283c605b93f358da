package run_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"matrix"
	"matrix/run"
)

// flaky is a flow of three roles. The second fails every third row as long as
// broken is true; the flow itself fails every seventh. Each turn has cost
// something.
func flaky(n int, broken *atomic.Bool) run.Config {
	act := func(role string) matrix.Role {
		return matrix.Role{Agent: matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
			turn := matrix.Turn{Text: fmt.Sprintf("%s of %s, turn %d", role, t.ID, len(t.Turns)),
				Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Tokens: matrix.Tokens{PromptTokens: 10, CompletionTokens: 5}, USD: 0.25}}}
			if role == "second" && number(t)%3 == 0 && broken.Load() {
				return turn, &matrix.FailError{Err: fmt.Errorf("cannot compute score: row %d is \"bad\"", number(t))}
			}
			return turn, nil
		})}
	}
	next := map[string]string{"first": "second", "second": "third"}
	return run.Config{
		Source: numbered(n), Live: 40, Seed: 7,
		Roles: map[string]matrix.Role{"first": act("first"), "second": act("second"), "third": act("third")},
		Router: router(func(t *matrix.Task) matrix.Decision {
			last := t.Last()
			switch {
			case last == nil:
				return matrix.To("first")
			case last.Role == "second" && number(t)%7 == 1:
				return matrix.Fail("the flow does not want it")
			case last.Role == "third":
				return matrix.Finish(matrix.Value{})
			}
			return matrix.To(next[last.Role])
		}),
	}
}

func number(t *matrix.Task) int {
	var n int
	fmt.Sscanf(t.Row, "r%d", &n)
	return n
}

// fates says how many of n rows of flaky fail through a step, and by the flow.
func fates(n int) (step, flow int64) {
	for i := range n {
		switch {
		case i%3 == 0:
			step++
		case i%7 == 1:
			flow++
		}
	}
	return step, flow
}

func TestRetryFailed(t *testing.T) {
	const n = 200
	var broken atomic.Bool
	undisturbed := newBed(t)
	undisturbed.run(flaky(n, &broken))
	want, wantFailed := content(undisturbed.tasks("data")), content(undisturbed.tasks("failed"))

	broken.Store(true)
	b := newBed(t)
	p := b.run(flaky(n, &broken))
	step, flow := fates(n)
	if p.Failed != step+flow {
		t.Fatalf("failed: got %d, want %d by a step and %d by the flow", p.Failed, step, flow)
	}
	causes := p.FailedBy()
	if len(causes) != 2 || causes[0].Cause != `second: cannot compute score: row # is "..."` || causes[0].Count != step || causes[1].Count != flow {
		t.Errorf("causes: got %+v", causes)
	}

	// Nothing has been fixed: all fail again, and what they cost is spent again.
	cfg := flaky(n, &broken)
	cfg.Retry = &run.Retry{Begin: true}
	again := b.run(cfg)
	if again.Failed != p.Failed || again.Done != p.Done || again.Retried != (run.Retried{Tasks: step, Flow: flow}) {
		t.Errorf("tried again for nothing: got %d done, %d failed, %+v; want %d, %d, %d tasks and %d of the flow", again.Done, again.Failed, again.Retried, p.Done, p.Failed, step, flow)
	}
	if got, want := again.Usage["m"].Calls, p.Usage["m"].Calls+step; got != want {
		t.Errorf("calls: got %d, want %d: each of %d tasks took one more", got, want, step)
	}
	if d := cmp.Diff(causes, again.FailedBy(), cmpopts.IgnoreFields(run.CauseCount{}, "Example", "Words")); d != "" {
		t.Errorf("causes: %s", d)
	}
	b.verify(cfg.Source, 1)

	broken.Store(false)
	cfg = flaky(n, &broken)
	cfg.Retry = &run.Retry{Begin: true}
	p = b.run(cfg)
	if p.Failed != int64(len(wantFailed)) || p.Done != int64(len(want)) {
		t.Errorf("fixed: got %d done and %d failed, want %d and %d", p.Done, p.Failed, len(want), len(wantFailed))
	}
	if got, want := p.Usage["m"].Calls, undisturbed.totals().Usage["m"].Calls+2*step; got != want {
		t.Errorf("calls: got %d, want %d: the calls of failed turns stay spent", got, want)
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 {
		t.Errorf("verify: %+v", a)
	}
	if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
		t.Errorf("the output differs from that of a run in which nothing failed: %s", d)
	}
	if d := cmp.Diff(wantFailed, content(b.tasks("failed"))); d != "" {
		t.Errorf("the failed output differs: %s", d)
	}

	// Those of the flow, where they are named.
	cfg = flaky(n, &broken)
	cfg.Retry = &run.Retry{Begin: true, Where: "fault", Select: func(t *matrix.Task) (bool, error) { return run.FaultOf(t) == matrix.FaultFlow, nil }}
	if p = b.run(cfg); p.Retried != (run.Retried{Tasks: int64(len(wantFailed))}) || p.Failed != int64(len(wantFailed)) {
		t.Errorf("of the flow: got %+v, %d failed; want %d", p.Retried, p.Failed, len(wantFailed))
	}
	b.verify(cfg.Source, 1)
}

func (b *bed) totals() run.Totals {
	b.t.Helper()
	q, err := openQueue(b)
	if err != nil {
		b.t.Fatal(err)
	}
	defer q.Close()
	var all run.Totals
	checkpoint, err := q.Checkpoint(context.Background(), "totals")
	if err == nil {
		err = json.Unmarshal(checkpoint, &all)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// TestRetryOfLimits: a task at a limit goes on where the limit was raised, and
// fails at once where it was not.
func TestRetryOfLimits(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(5)
	cfg.Source, cfg.Limits = numbered(20), matrix.Limits{Rounds: 2}
	if p := b.run(cfg); p.Failed != 20 {
		t.Fatalf("failed: got %d, want all 20", p.Failed)
	}
	cfg.Retry = &run.Retry{Begin: true}
	p := b.run(cfg)
	if p.Failed != 20 || p.NewHops != 0 {
		t.Errorf("the limit is as it was: got %d failed and %d hops; want 20, and nobody acts", p.Failed, p.NewHops)
	}
	b.verify(cfg.Source, 1)
	cfg.Limits.Rounds = 50
	if p = b.run(cfg); p.Done != 20 {
		t.Errorf("the limit was raised: got %d done", p.Done)
	}
	b.verify(cfg.Source, 1)
	undisturbed := newBed(t)
	cfg = dialogue(5)
	cfg.Source = numbered(20)
	undisturbed.run(cfg)
	if d := cmp.Diff(content(undisturbed.tasks("data")), content(b.tasks("data"))); d != "" {
		t.Errorf("differs from a run without the limit: %s", d)
	}
}

// TestRetryKeepsCredit: of many failed tasks no more are live at once than others
// may be.
func TestRetryKeepsCredit(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	b := newBed(t)
	cfg := flaky(600, &broken)
	b.run(cfg)
	broken.Store(false)
	var most atomic.Int64
	cfg.Live, cfg.Retry = 10, &run.Retry{Begin: true}
	first := cfg.Roles["second"].Agent
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	cfg.Roles["second"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, x *matrix.Task) (matrix.Turn, error) {
		if n := int64(q.Counts().Live); n > most.Load() {
			most.Store(n)
		}
		return first.Act(ctx, x)
	})}
	b.wire(&cfg, q)
	r, err := run.New(context.Background(), cfg)
	if err == nil {
		err = r.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Progress(); most.Load() > 10 || p.Retried.Tasks != 200 {
		t.Errorf("%d tasks were live at once, of %d that were tried again; want at most 10, and 200", most.Load(), p.Retried.Tasks)
	}
}

// TestRetryPowerLoss cuts the power at random moments of a retry, over a file
// system that then drops some or all of what was not synced, and goes on with
// what is left, by a plain run or by asking again.
func TestRetryPowerLoss(t *testing.T) {
	t.Parallel()
	const n = 300
	var broken atomic.Bool
	undisturbed := newBed(t)
	undisturbed.run(flaky(n, &broken))
	want, wantFailed := content(undisturbed.tasks("data")), content(undisturbed.tasks("failed"))
	losses, within := 0, 0
	for round := range 10 {
		rng := rand.New(rand.NewPCG(2, uint64(round)))
		b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run"}
		broken.Store(true)
		b.run(flaky(n, &broken))
		broken.Store(false)
		b.fs = b.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		for begin := true; ; {
			cfg := flaky(n, &broken)
			cfg.Live = 10 + rng.IntN(60)
			cfg.Retry = &run.Retry{Begin: begin}
			mem := b.fs.(*vfs.MemFS)
			var after *vfs.MemFS
			_, err := b.with(cfg, func(r *run.Run, cancel func()) {
				for at := int64(rng.IntN(120)); r.Progress().NewHops < at && !r.Finished(); {
					time.Sleep(20 * time.Microsecond)
				}
				after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)], RNG: rng})
				cancel()
			})
			if err != nil && !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			b.fs = after
			a := b.verify(cfg.Source, 1)
			if !a.OK {
				t.Fatalf("round %d after %d losses: %+v", round, losses, a)
			}
			on := b.retrying()
			data, _ := b.readable("data") // verify has read them up to their checkpoints
			failed, _ := b.readable("failed")
			for id := range data {
				if _, twice := failed[id]; twice {
					t.Errorf("round %d: %s stands in both outputs", round, id)
				}
			}
			if !on && a.Pending == 0 && a.Failed == int64(len(wantFailed)) {
				break
			}
			losses++
			if on {
				within++
			}
			// What had not begun is asked for again.
			begin = !on && a.Pending == 0 || rng.IntN(4) == 0
		}
		if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
			t.Errorf("round %d: the output differs from that of a run in which nothing failed: %s", round, d)
		}
		if d := cmp.Diff(wantFailed, content(b.tasks("failed"))); d != "" {
			t.Errorf("round %d: the failed output differs: %s", round, d)
		}
	}
	if losses < 8 || within < 3 {
		t.Errorf("the power was lost %d times, %d of them while failed tasks were brought back: too few to test anything", losses, within)
	}
}

func (b *bed) retrying() bool {
	b.t.Helper()
	q, err := openQueue(b)
	if err != nil {
		b.t.Fatal(err)
	}
	defer q.Close()
	_, on, err := run.RetryOf(context.Background(), q)
	if err != nil {
		b.t.Fatal(err)
	}
	return on
}

// TestRetryDiskFull fills the disk in the middle of a retry, again and again.
func TestRetryDiskFull(t *testing.T) {
	const n = 200
	var broken atomic.Bool
	stopped := 0
	for _, room := range []int64{2 << 10, 10 << 10, 30 << 10, 60 << 10, 120 << 10, 200 << 10} {
		var left atomic.Int64
		left.Store(1 << 40)
		b := &bed{t: t, fs: fullDisk{vfs.NewMem(), &left}, dir: "/run"}
		broken.Store(true)
		b.run(flaky(n, &broken))
		broken.Store(false)
		left.Store(room)
		cfg := flaky(n, &broken)
		cfg.Retry = &run.Retry{Begin: true}
		if q, err := openQueue(b); err == nil {
			b.wire(&cfg, q)
			r, err := run.New(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			switch err := r.Run(t.Context()); {
			case err == nil:
			case errors.Is(err, syscall.ENOSPC):
				stopped++
			default:
				t.Errorf("room for %d: got %v, want no space left", room, err)
			}
			_ = q.Close()
		}
		left.Store(1 << 40)
		if a := b.verify(cfg.Source, 1); !a.OK {
			t.Errorf("room for %d: %+v", room, a)
		}
		b.run(cfg)
		_, flow := fates(n)
		if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 || a.Failed < flow {
			t.Errorf("room for %d: after there was room again: %+v", room, a)
		}
	}
	if stopped < 2 {
		t.Errorf("the disk was full in the middle of a retry %d times: too few to test anything", stopped)
	}
}

// TestRetryOldOutput: a failed line that a version wrote which did not say what
// made the task fail can be tried again as well.
func TestRetryOldOutput(t *testing.T) {
	for cause, want := range map[string]matrix.Fault{
		"judge: cannot compute score: x": matrix.FaultStep,
		"limit: 3 rounds of judge":       matrix.FaultLimit,
		"not good enough":                matrix.FaultFlow,
	} {
		x := &matrix.Task{Turns: []matrix.Turn{{Role: "judge", Error: "cannot compute score: x"}}, Outcome: &matrix.Outcome{Status: matrix.Failed, Cause: cause}}
		if got := run.FaultOf(x); got != want {
			t.Errorf("%s: got %q, want %q", cause, got, want)
		}
	}
	if got := run.FaultOf(&matrix.Task{Outcome: &matrix.Outcome{Status: matrix.Failed, Cause: "not JSON"}}); got != matrix.FaultRow {
		t.Errorf("without turns: got %q, want %q", got, matrix.FaultRow)
	}
}

// TestTooManyFailed: a role that fails every task stops the run after 100 of
// them, however many are under way; what it has not failed is pending, and tried
// with the others later.
func TestTooManyFailed(t *testing.T) {
	var broken atomic.Bool
	for _, tt := range []struct {
		name   string
		broken func(n int) bool
		inline bool
		fail   func(t *matrix.Task, err error) (matrix.Turn, error)
		failed [2]int64 // at least and at most
		want   string
	}{
		{"all", func(int) bool { return true }, false, nil, [2]int64{100, 100}, "role second: the last 100 steps all failed their tasks, the last one with: no score of #"},
		{"all, inline", func(int) bool { return true }, true, nil, [2]int64{100, 100}, "role second: the last 100 steps all failed their tasks"},
		{"more than half", func(n int) bool { return n%5 < 3 }, false, nil, [2]int64{100, 200}, "steps failed their tasks, the last one with: no score"},
		{"a third", func(n int) bool { return n%3 == 0 }, false, nil, [2]int64{667, 667}, ""},
		{"all from the middle on", func(n int) bool { return n >= 1000 }, false, nil, [2]int64{100, 300}, "the last 100 steps"}, // some of the good ones end among them
		{"errors that the flow handles", func(int) bool { return true }, false, func(_ *matrix.Task, err error) (matrix.Turn, error) { return matrix.Turn{Error: err.Error()}, nil }, [2]int64{0, 0}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken.Store(true)
			cfg := flaky(2000, new(atomic.Bool))
			cfg.Live, cfg.MaxFailed = 1000, 0.5
			cfg.Router = router(func(t *matrix.Task) matrix.Decision {
				switch last := t.Last(); {
				case last == nil:
					return matrix.To("first")
				case last.Role == "first":
					return matrix.To("second")
				}
				return matrix.Finish(matrix.Value{})
			})
			cfg.Roles["second"] = matrix.Role{Inline: tt.inline, Agent: matrix.AgentFunc(func(_ context.Context, x *matrix.Task) (matrix.Turn, error) {
				if broken.Load() && tt.broken(number(x)) {
					err := fmt.Errorf("no score of %d", number(x))
					if tt.fail != nil {
						return tt.fail(x, err)
					}
					return matrix.Turn{}, &matrix.FailError{Err: err}
				}
				return matrix.Turn{Text: "well"}, nil
			})}
			b := newBed(t)
			r, err := b.with(cfg, nil)
			p := r.Progress()
			if p.Failed < tt.failed[0] || p.Failed > tt.failed[1] {
				t.Errorf("failed: got %d, want %d to %d", p.Failed, tt.failed[0], tt.failed[1])
			}
			var many *run.TooManyFailed
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.want == "":
			case !errors.As(err, &many) || !strings.Contains(digits(err.Error()), digits(tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if a := b.verify(cfg.Source, 1); !a.OK || tt.want != "" && a.Pending == 0 {
				t.Errorf("verify: %+v", a)
			}
			broken.Store(false)
			cfg.Retry = &run.Retry{Begin: true}
			if p := b.run(cfg); p.Failed != 0 || p.Done != 2000 {
				t.Errorf("fixed and tried again: got %d done and %d failed, want all done", p.Done, p.Failed)
			}
			b.verify(cfg.Source, 1)
		})
	}
}

// digits makes all numbers alike.
func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, s)
}

// TestTooManyBadRows: a dataset of which no row can be read is not fed to its
// end.
func TestTooManyBadRows(t *testing.T) {
	cfg := dialogue(1)
	bad := numbered(1000)
	for i := range bad {
		bad[i].Err = errors.New("not JSON")
	}
	cfg.Source, cfg.MaxFailed = bad, 0.5
	b := newBed(t)
	r, err := b.with(cfg, nil)
	var many *run.TooManyFailed
	if !errors.As(err, &many) || !strings.Contains(err.Error(), "dataset: the last 100 tasks could not begin, the last one with: not JSON") || many.Fault != matrix.FaultRow {
		t.Errorf("got %v, %+v", err, many)
	}
	if p := r.Progress(); p.Failed != 100 {
		t.Errorf("failed: got %d, want 100", p.Failed)
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 900 {
		t.Errorf("verify: %+v", a)
	}
}
