package run_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/run"
)

func TestRun(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(5)
	p := b.run(cfg)
	if p.Done != 200 || p.Failed != 0 || p.Pending != 0 || p.Live != 0 || p.Total != 200 || !p.Finished {
		t.Errorf("progress: got %+v, want 200 done and finished", p)
	}
	if p.Hops != 1000 {
		t.Errorf("hops: got %d, want 1000: the judge acts inline", p.Hops)
	}
	got := b.tasks("data")
	x := got["r17"]
	if len(x.Turns) != 10 || x.Turns[0].Text != fmt.Sprintf("r17 says 0 of seed %d", x.Seed) || string(x.Outcome.Value.Raw()) != `{"said":5}` {
		t.Errorf("r17: got %+v", x)
	}
	if x.Turns[2].Hop != 2 || x.Turns[3].Hop != 2 || x.Turns[2].Timing.At.IsZero() {
		t.Errorf("r17: the third and fourth turns belong to the second hop, got %+v and %+v", x.Turns[2], x.Turns[3])
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Done != 200 {
		t.Errorf("verify: got %+v", a)
	}
}

// A run of the same config gives the same content in any order of events.
func TestReproducible(t *testing.T) {
	var want map[string]string
	for i, live := range []int{1, 7, 500} {
		b := newBed(t)
		cfg := dialogue(4)
		cfg.Live = live
		b.run(cfg)
		got := content(b.tasks("data"))
		if i == 0 {
			want = got
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("live %d: %s", live, d)
		}
	}
}

func TestStopAndResume(t *testing.T) {
	undisturbed := newBed(t)
	undisturbed.run(dialogue(6))
	want := content(undisturbed.tasks("data"))

	b := newBed(t)
	sessions := 0
	for {
		sessions++
		cfg := dialogue(6)
		r, err := b.until(cfg, 300, func(r *run.Run, cancel func()) {
			if sessions%2 == 0 {
				cancel() // at once
			} else {
				r.Stop()
			}
		})
		if err == nil {
			if !r.Progress().Finished {
				t.Errorf("Run returned nil before the end")
			}
			break
		}
		if !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
		if a := b.verify(cfg.Source, 1); !a.OK || a.Pending == 0 {
			t.Fatalf("after session %d: %+v", sessions, a)
		}
		if sessions > 100 {
			t.Fatal("no end")
		}
	}
	if sessions < 3 {
		t.Errorf("it took %d sessions: nothing was tested", sessions)
	}
	if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
		t.Errorf("differs from an undisturbed run: %s", d)
	}
	if p := b.run(dialogue(6)); p.Done != 200 || !p.Finished {
		t.Errorf("a run that is over: got %+v", p)
	}
}

func TestTrials(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	cfg.Source, cfg.Trials, cfg.Live = numbered(30), 4, 3
	cfg.Source.(rows)[5].Err = errors.New("line 6: unexpected end of JSON input")
	p := b.run(cfg)
	if p.Done != 116 || p.Failed != 4 {
		t.Errorf("got %d done and %d failed, want 116 and 4", p.Done, p.Failed)
	}
	got := b.tasks("data")
	seeds := map[int64]bool{}
	for _, id := range []string{"r3", "r3#1", "r3#2", "r3#3"} {
		seeds[got[id].Seed] = true
	}
	if len(seeds) != 4 {
		t.Errorf("the trials of r3 have %d seeds between them, want 4", len(seeds))
	}
	b.verify(cfg.Source, 4)
}

func TestBadRows(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	source := numbered(10)
	source[2].Err = errors.New("unexpected end of JSON input")
	source[2].ID, source[2].Item = "", matrix.RawValue([]byte(`"{broken"`))
	source[6].ID = "r1"
	source[8].ID = "rows:10" // somebody else's address
	source[9].ID = ""
	cfg.Source = source
	p := b.run(cfg)
	if p.Done != 8 || p.Failed != 2 {
		t.Errorf("got %d done and %d failed, want 8 and 2", p.Done, p.Failed)
	}
	failed := b.tasks("failed")
	for id, cause := range map[string]string{"rows:3": "unexpected end of JSON", "rows:7": `the id "r1" is already that of an earlier row`} {
		if o := failed[id].Outcome; o == nil || o.Status != matrix.Failed || !strings.Contains(o.Cause, cause) {
			t.Errorf("%s: got %+v, want a cause with %q", id, o, cause)
		}
	}
	if _, ok := b.tasks("data")["rows:10'"]; !ok {
		t.Errorf("the row without an id is missing: %v", slices.Sorted(maps.Keys(b.tasks("data"))))
	}
	b.verify(source, 1)
}

// The name of a trial may be the id of another row, before or after it.
func TestTrialsAndIDs(t *testing.T) {
	for _, ids := range [][]string{{"a", "a#1", "b"}, {"a#1", "a", "b"}, {"rows:2#1", "", "rows:2"}} {
		b := newBed(t)
		cfg := dialogue(1)
		source := numbered(3)
		for i, id := range ids {
			source[i].ID = id
		}
		cfg.Source, cfg.Trials, cfg.Live = source, 2, 1
		if p := b.run(cfg); p.Done+p.Failed != 6 {
			t.Errorf("%v: got %d done and %d failed, want 6 in all", ids, p.Done, p.Failed)
		}
		b.verify(source, 2)
	}
}

// behind is a store that loses the checkpoints of the n-th seeding, and ends there.
type behind struct {
	run.Store
	n int
}

var errBehind = errors.New("crashed before the checkpoints")

func (s *behind) Seed(ctx context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	if len(seeds) > 0 {
		if s.n--; s.n == 0 {
			_, err := s.Store.Seed(ctx, seeds, nil)
			return 0, errors.Join(err, errBehind)
		}
	}
	return s.Store.Seed(ctx, seeds, checkpoints)
}

// Rows are fed again whose checkpoint a crash has lost, and their tasks are known.
func TestCheckpointsBehindTheirTasks(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	cfg.Trials = 3
	for n := range 2 {
		q, err := openQueue(b)
		if err != nil {
			t.Fatal(err)
		}
		b.wire(&cfg, &behind{q, n + 2})
		r, err := run.New(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(context.Background()); !errors.Is(err, errBehind) {
			t.Fatalf("run: got %v, want %v", err, errBehind)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if p := b.run(cfg); p.Done != 600 || p.Fed != 600 {
		t.Errorf("got %d of %d done, want 600 of 600", p.Done, p.Fed)
	}
	b.verify(cfg.Source, 3)
}

func TestEmptyDataset(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = rows{}
	if p := b.run(cfg); !p.Finished || p.Total != 0 {
		t.Errorf("got %+v, want finished with nothing", p)
	}
	b.verify(cfg.Source, 1)
}

func TestDatasetChanged(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(3)
	b.stopAt(cfg, 50)
	cfg.Source = numbered(150)
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	b.wire(&cfg, q)
	if _, err := run.New(context.Background(), cfg); !errors.Is(err, run.ErrDatasetChanged) || !strings.Contains(err.Error(), "200 rows") {
		t.Errorf("a dataset that shrank: got %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.AcceptChanges = true
	if p := b.run(cfg); p.Done != 150 {
		t.Errorf("accepted: got %d done, want 150", p.Done)
	}
}

// A dataset that changes while it is fed has no end that can be believed.
func TestDatasetChangesDuringTheRun(t *testing.T) {
	t.Parallel()
	const n = 2000
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "{\"id\":\"r%d\",\"text\":%q}\n", i, strings.Repeat("x", 400))
	}
	whole := text.String()
	for name, change := range map[string]func(path string) error{
		"cut": func(path string) error { return os.Truncate(path, int64(len(whole)/2)) },
		"cut at the end of a line": func(path string) error {
			return os.Truncate(path, int64(strings.LastIndexByte(whole[:len(whole)/2], '\n')+1))
		},
		"appended to": func(path string) error { return os.WriteFile(path, []byte(whole+"{}\n"), 0o666) },
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", []byte(strings.ReplaceAll(whole, "\"r", "\"q")), 0o666); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
		"written over":       func(path string) error { return os.WriteFile(path, []byte(strings.ReplaceAll(whole, "x", "y")), 0o666) },
		"removed":            os.Remove,
		"not changed at all": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rows.jsonl")
			if err := os.WriteFile(path, []byte(whole), 0o666); err != nil {
				t.Fatal(err)
			}
			source, err := dataset.Open(dataset.Options{Paths: []string{path}, IDField: "id"})
			if err != nil {
				t.Fatal(err)
			}
			b := newBed(t)
			cfg := dialogue(1)
			cfg.Source = source
			say, once := cfg.Roles["ask"].Agent, sync.Once{}
			cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, task *matrix.Task) (matrix.Turn, error) {
				once.Do(func() { // 40 tasks are live: most rows are not read yet
					if err := change(path); err != nil {
						t.Error(err)
					}
				})
				return say.Act(ctx, task)
			})}
			r, err := b.with(cfg, nil)
			if name == "not changed at all" {
				if p := r.Progress(); err != nil || p.Done != n {
					t.Errorf("got %d done, %v, want %d", p.Done, err, n)
				}
				return
			}
			if name == "removed" {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %v, want %v", err, fs.ErrNotExist)
				}
			} else if !errors.Is(err, run.ErrDatasetChanged) {
				t.Errorf("got %v, want %v", err, run.ErrDatasetChanged)
			}
			if p := r.Progress(); p.Finished {
				t.Errorf("got %+v, want a run that is not finished", p)
			}
			// With the dataset as it was, the run goes on; what was fed stays.
			if name == "written over" {
				return // rows of both are in it: only a new run helps
			}
			if err := os.WriteFile(path, []byte(whole), 0o666); err != nil {
				t.Fatal(err)
			}
			if p := b.run(cfg); p.Done+p.Failed != n || !p.Finished {
				t.Errorf("with the dataset back: got %+v, want %d tasks", p, n)
			}
		})
	}
}

// fates: what becomes of a task whose agent returns an error.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		err  func(attempt int64) error // nil error: the agent acts
		want string                    // cause; empty: done
		acts int64
	}{
		{"fail", func(int64) error { return &matrix.FailError{Err: errors.New("refused")} }, "ask: refused", 1},
		{"twice, then well", func(n int64) error {
			if n > 2 {
				return nil
			}
			return &matrix.RetryError{Err: errors.New("reset"), After: time.Millisecond}
		}, "", 3},
		{"always", func(int64) error { return &matrix.RetryError{Err: errors.New("reset"), After: time.Millisecond} }, "ask: gave up after 3 attempts: reset", 3},
		{"an outage spends nothing", func(n int64) error {
			if n > 20 {
				return nil
			}
			return &matrix.RetryError{Err: errors.New("down"), Free: true, After: time.Millisecond}
		}, "", 21},
		{"panic", func(n int64) error {
			if n > 1 {
				return &matrix.FailError{Err: errors.New("came back")}
			}
			panic("boom")
		}, "ask: came back", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := dialogue(1)
			cfg.Source = numbered(1)
			var n atomic.Int64
			cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
				return matrix.Turn{Text: "hm"}, c.err(n.Add(1))
			})}
			p := b.run(cfg)
			if n.Load() != c.acts {
				t.Errorf("the agent acted %d times, want %d", n.Load(), c.acts)
			}
			if c.want == "" {
				if p.Done != 1 {
					t.Errorf("got %+v, want it done", b.tasks("failed"))
				}
				return
			}
			x := b.tasks("failed")["r0"]
			if x.Outcome == nil || x.Outcome.Cause != c.want {
				t.Fatalf("got %+v, want the cause %q", x.Outcome, c.want)
			}
			if len(x.Turns) != 1 || x.Turns[0].Role != "ask" || x.Turns[0].Error == "" {
				t.Errorf("turns: got %+v, want the one that failed", x.Turns)
			}
			if p.Failure != "r0: "+c.want {
				t.Errorf("last failure: got %q", p.Failure)
			}
		})
	}
}

func TestPanicCause(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(3)
	cfg.Roles["ask"] = matrix.Role{Attempts: 1, Agent: matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		if t.ID == "r1" {
			panic("boom")
		}
		return matrix.Turn{}, nil
	})}
	if p := b.run(cfg); p.Done != 2 || p.Failed != 1 {
		t.Errorf("got %d done and %d failed, want 2 and 1", p.Done, p.Failed)
	}
	cause := b.tasks("failed")["r1"].Outcome.Cause
	if want := "the agent panicked: boom (run_test.go:"; !strings.Contains(cause, want) {
		t.Errorf("cause: got %q, want it to contain %q", cause, want)
	}
}

func TestStopError(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	wrong := errors.New("401: wrong key")
	good := cfg.Roles["ask"]
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{}, &matrix.StopError{Err: wrong}
	})}
	if _, err := b.with(cfg, nil); !errors.Is(err, wrong) {
		t.Errorf("run: got %v, want %v", err, wrong)
	}
	if a := b.verify(cfg.Source, 1); a.Pending != 200 {
		t.Errorf("pending: got %d, want all 200", a.Pending)
	}
	cfg.Roles["ask"] = good
	if p := b.run(cfg); p.Done != 200 {
		t.Errorf("after the repair: got %d done, want 200", p.Done)
	}
}

// Where one step stops the run, others that are under way may land.
func TestStopErrorLetsOthersLand(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(2)
	wrong := errors.New("402: no credit")
	var first atomic.Bool
	begun := make(chan struct{})
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
		if first.CompareAndSwap(false, true) {
			<-begun
			return matrix.Turn{}, &matrix.StopError{Err: wrong}
		}
		close(begun)
		select {
		case <-matrix.Stopping(ctx).Done(): // the run is to stop, and this one was paid for
			return matrix.Turn{Text: "paid"}, nil
		case <-ctx.Done():
			return matrix.Turn{}, ctx.Err()
		}
	})}
	if _, err := b.with(cfg, nil); !errors.Is(err, wrong) {
		t.Errorf("run: got %v, want %v", err, wrong)
	}
	var asked atomic.Int64
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		asked.Add(1)
		return matrix.Turn{Text: "again"}, nil
	})}
	if p := b.run(cfg); p.Done != 2 || asked.Load() != 1 {
		t.Errorf("%d done, and %d asked again, want 2 and 1", p.Done, asked.Load())
	}
}

// One step's word stops the run also while others wait for what will not come.
func TestStopErrorReleasesOthers(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Grace = time.Second
	wrong := errors.New("404: no such model")
	var waiting atomic.Int64
	all := make(chan struct{})
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
		if waiting.Add(1) == 20 {
			close(all)
			return matrix.Turn{}, &matrix.StopError{Err: wrong}
		}
		<-all
		<-ctx.Done()
		return matrix.Turn{}, ctx.Err()
	})}
	over := make(chan error, 1)
	go func() { _, err := b.with(cfg, nil); over <- err }()
	select {
	case err := <-over:
		if !errors.Is(err, wrong) {
			t.Errorf("got %v, want %v", err, wrong)
		}
	case <-time.After(time.Minute):
		t.Fatal("the run goes on")
	}
}

// An inline agent that fails does not cost the turn that was made before it.
func TestInlineError(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	var asked, judged atomic.Int64
	ask, judge := cfg.Roles["ask"].Agent, cfg.Roles["judge"].Agent
	cfg.Source = numbered(1)
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		asked.Add(1)
		return ask.Act(ctx, t)
	})}
	cfg.Roles["judge"] = matrix.Role{Inline: true, Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		if judged.Add(1) < 3 {
			return matrix.Turn{}, &matrix.RetryError{Err: errors.New("not now")}
		}
		return judge.Act(ctx, t)
	})}
	if p := b.run(cfg); p.Done != 1 {
		t.Fatalf("got %+v", b.tasks("failed"))
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times, want once", asked.Load())
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits matrix.Limits
		want   string
	}{
		{"hops", matrix.Limits{Hops: 5}, "limit: 5 hops"},
		{"rounds", matrix.Limits{Rounds: 3}, "limit: 3 rounds of judge; limits.rounds in the config raises it, 0 lifts it"},
		{"tokens", matrix.Limits{Tokens: 100}, "limit: 100 tokens (used 120)"},
		{"dollars", matrix.Limits{USD: 0.05}, "limit: 0.05 USD (used 0.06)"},
		{"seconds", matrix.Limits{Seconds: 1e-9}, "limit: 1e-09 s"},
		{"finish", matrix.Limits{Hops: 5, Finish: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := dialogue(1 << 30)
			cfg.Source, cfg.Limits = numbered(3), c.limits
			talk := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
				return matrix.Turn{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Tokens: matrix.Tokens{PromptTokens: 30, CompletionTokens: 10}, USD: 0.02}}}, nil
			})
			cfg.Roles["ask"], cfg.Roles["answer"] = matrix.Role{Agent: talk}, matrix.Role{Agent: talk}
			b.run(cfg)
			if c.want == "" {
				if o := b.tasks("data")["r1"].Outcome; o == nil || !o.Value.IsZero() || o.Stopped == "" {
					t.Errorf("got %+v, want done without a value, and the limit that stopped it", o)
				}
				return
			}
			if o := b.tasks("failed")["r1"].Outcome; o == nil || o.Cause != c.want {
				t.Errorf("got %+v, want the cause %q", o, c.want)
			}
		})
	}
}

func TestMetricsAndUsage(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(3)
	talk := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Retries: 1, Tokens: matrix.Tokens{PromptTokens: 30, CompletionTokens: 10, CachedTokens: 8, CacheWriteTokens: 3, ReasoningTokens: 2}, Estimated: true}, {Kind: matrix.KindModel, Name: "m"}}}, nil
	})
	cfg.Roles["ask"] = matrix.Role{Agent: talk}
	cfg.Metrics = map[string]matrix.Metric{
		"even":  func(t *matrix.Task) (any, error) { return t.Item.Any().(map[string]any)["n"].(int)%2 == 0, nil },
		"n":     func(t *matrix.Task) (any, error) { return t.Item.Any().(map[string]any)["n"], nil },
		"third": func(t *matrix.Task) (any, error) { return nil, nil },
		"bad":   func(t *matrix.Task) (any, error) { panic("no") },
		"nan":   func(t *matrix.Task) (any, error) { return math.NaN(), nil },
		"inf":   func(t *matrix.Task) (any, error) { return math.Inf(1), nil },
		"huge":  func(t *matrix.Task) (any, error) { return 1e308, nil },
	}
	p := b.run(cfg)
	want := map[string]run.MetricSum{"even": {Count: 200, Sum: 100, Mean: new(0.5)}, "n": {Count: 200, Sum: 19900, Mean: new(99.5)},
		"huge": {Count: 200, Sum: math.MaxFloat64, Mean: new(math.MaxFloat64 / 200)}, "third": {}, "bad": {}, "nan": {}, "inf": {}}
	if d := cmp.Diff(want, p.Metrics); d != "" {
		t.Errorf("metrics: %s", d)
	}
	if d := cmp.Diff(map[string]run.Usage{"m": {Calls: 800, Retries: 400, Tokens: matrix.Tokens{PromptTokens: 12000, CompletionTokens: 4000, CachedTokens: 3200, CacheWriteTokens: 1200, ReasoningTokens: 800}, Estimated: 400}}, p.Usage); d != "" {
		t.Errorf("usage: %s", d)
	}
	if d := cmp.Diff(map[string]*float64{"even": new(0.0), "n": new(3.0), "huge": new(1e308), "third": nil, "bad": nil, "nan": nil, "inf": nil}, b.tasks("data")["r3"].Metrics); d != "" {
		t.Errorf("metrics of r3: %s", d)
	}
	cfg = dialogue(1)
	cfg.Router = router(func(*matrix.Task) matrix.Decision { return matrix.Fail("never") })
	cfg.Metrics = map[string]matrix.Metric{"none": func(*matrix.Task) (any, error) { return 1, nil }}
	if d := cmp.Diff(map[string]run.MetricSum{"none": {}}, newBed(t).run(cfg).Metrics); d != "" {
		t.Errorf("metrics where every task failed: %s", d)
	}
}

// However many names agents report calls under, the totals stay small: those that come
// late, or are long, are counted together.
func TestManyNamesOfCalls(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(3)
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		turn := matrix.Turn{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: strings.Repeat("x", 10_000)}}}
		for i := range 10 {
			turn.Calls = append(turn.Calls, matrix.Call{Kind: matrix.KindModel, Name: fmt.Sprint(t.ID, i), USD: 0.5})
		}
		return turn, nil
	})}
	p := b.run(cfg)
	calls, usd := int64(0), 0.0
	for name, u := range p.Usage {
		calls, usd = calls+u.Calls, usd+u.USD
		if len(name) > 1000 {
			t.Errorf("a name of %d bytes stands in the totals", len(name))
		}
	}
	if others := p.Usage[""]; len(p.Usage) != 100 || calls != 11*400 || usd != 2000 || others.Calls != 11*400-99*2 {
		t.Errorf("got %d names, %d calls, %v USD, of the others %+v, want 99 names and the others, 4,400 calls for 2,000 USD", len(p.Usage), calls, usd, others)
	}
}

func TestRouterAtFault(t *testing.T) {
	for name, c := range map[string]struct {
		next func(t *matrix.Task) matrix.Decision
		want string
	}{
		"to nobody": {func(*matrix.Task) matrix.Decision { return matrix.To("nobody") }, `"nobody", and there is no such role`},
		"panic":     {func(*matrix.Task) matrix.Decision { panic("lost") }, "the router panicked: lost"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			cfg := dialogue(1)
			cfg.Source, cfg.Router = numbered(2), router(c.next)
			b.run(cfg)
			if o := b.tasks("failed")["r0"].Outcome; o == nil || !strings.Contains(o.Cause, c.want) {
				t.Errorf("got %+v, want a cause with %q", o, c.want)
			}
		})
	}
}

// A step under way when the run is stopped may land for the grace period, and
// not longer.
func TestGrace(t *testing.T) {
	for _, c := range []struct {
		name  string
		grace time.Duration
		lands bool
	}{{"lands", time.Minute, true}, {"too late", time.Millisecond, false}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			cfg := dialogue(2)
			cfg.Source, cfg.Grace = numbered(1), c.grace
			begun, stopped := make(chan struct{}), make(chan struct{})
			var once sync.Once
			cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				once.Do(func() { close(begun) })
				<-stopped
				if !c.lands {
					<-ctx.Done()
				}
				return matrix.Turn{Text: "landed"}, ctx.Err()
			})}
			_, err := b.with(cfg, func(r *run.Run, _ func()) {
				<-begun
				r.Stop()
				close(stopped)
			})
			if !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			q, err := local.Open(filepath.Join(b.dir, "state"), local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			m, ok, err := q.Peek(context.Background(), "r0")
			if err != nil || !ok {
				t.Fatalf("peek: %v, %v", ok, err)
			}
			if landed := m.Role == "answer"; landed != c.lands || m.Attempt != 0 {
				t.Errorf("r0 waits for %s with %d attempts spent; landed %v, want %v", m.Role, m.Attempt, landed, c.lands)
			}
		})
	}
}

// A step that only waits gives up when the run is stopped, and spends nothing.
func TestStopWaiting(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	cfg.Source, cfg.Grace = numbered(3), time.Hour
	begun := make(chan struct{}, 3)
	cfg.Roles["ask"] = matrix.Role{Attempts: 1, Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		begun <- struct{}{}
		<-matrix.Stopping(ctx).Done()
		if ctx.Err() != nil {
			return matrix.Turn{}, errors.New("the grace period is over already")
		}
		return matrix.Turn{}, fmt.Errorf("waiting for a slot: %w", matrix.Stopping(ctx).Err())
	})}
	_, err := b.with(cfg, func(r *run.Run, _ func()) {
		<-begun
		r.Stop()
	})
	if !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	if a := b.verify(cfg.Source, 1); a.Pending != 3 || a.Failed != 0 {
		t.Errorf("got %+v, want all pending", a)
	}
}

// cut is a dataset that cannot be read beyond some rows.
type cut struct {
	rows
	err error
}

func (s cut) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	if err := s.rows.Rows(ctx, from, f); err != nil {
		return err
	}
	return s.err
}

// What steps under way come to when a fault ends the run is written, too.
func TestFaultWritesWhatLands(t *testing.T) {
	cfg := dialogue(1)
	cfg.Source, cfg.Live = cut{numbered(4), errors.New("a bad disk")}, 3
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		if t.ID == "r1" {
			<-ctx.Done()
		}
		return matrix.Turn{Text: "landed"}, nil
	})}
	r, err := newBed(t).with(cfg, nil)
	if err == nil || err.Error() != "dataset: a bad disk" {
		t.Errorf("got %v", err)
	}
	if p := r.Progress(); p.Done != 3 {
		t.Errorf("%d done, want the 3 that were fed", p.Done)
	}
}

// A run that lands waits for its steps, however long they take.
func TestLand(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	cfg.Source, cfg.Grace = numbered(3), time.Millisecond
	begun, landing := make(chan struct{}, 3), make(chan struct{})
	cfg.Roles["ask"] = matrix.Role{Attempts: 1, Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		begun <- struct{}{}
		<-landing
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		return matrix.Turn{Text: "landed"}, ctx.Err()
	})}
	_, err := b.with(cfg, func(r *run.Run, _ func()) {
		for range 3 {
			<-begun
		}
		r.Drain()
		close(landing)
	})
	if !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for _, id := range []string{"r0", "r1", "r2"} {
		if m, ok, err := q.Peek(context.Background(), id); err != nil || !ok || m.Role != "answer" {
			t.Errorf("%s: got %+v, %v, %v; want it to wait for answer", id, m, ok, err)
		}
	}
}

// Rows that join a dataset after the end are a change like any other.
func TestDatasetGrows(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(3)
	b.run(cfg)
	cfg.Source = numbered(5)
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	b.wire(&cfg, q)
	if _, err := run.New(context.Background(), cfg); !errors.Is(err, run.ErrDatasetChanged) {
		t.Errorf("got %v, want %v", err, run.ErrDatasetChanged)
	}
	if over, err := run.Finished(context.Background(), q); !over || err != nil {
		t.Errorf("finished: got %v, %v", over, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.AcceptChanges = true
	if p := b.run(cfg); p.Done != 5 || p.Total != 5 {
		t.Errorf("accepted: got %d done of %d, want 5", p.Done, p.Total)
	}
	b.verify(cfg.Source, 1)
}

// An agent's context ends when its claim on the task does: here the queue is closed.
func TestAgentEndsWithItsClaim(t *testing.T) {
	b := newBed(t)
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	acting := make(chan struct{})
	var ended atomic.Bool
	cfg := dialogue(1)
	cfg.Source = numbered(1)
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
		close(acting)
		<-ctx.Done()
		cause := context.Cause(ctx) // the queue's word, or that of a Consume which it ended
		ended.Store(errors.Is(cause, matrix.ErrLost) || errors.Is(cause, matrix.ErrClosed))
		return matrix.Turn{}, ctx.Err()
	})}
	b.wire(&cfg, q)
	r, err := run.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-acting
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Run(context.Background()); !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("run: got %v, want %v", err, matrix.ErrClosed)
	}
	wg.Wait()
	if !ended.Load() {
		t.Error("the agent's context did not end with the queue")
	}
}

// brokenTake is a queue from which a role's messages cannot be read once.
type brokenTake struct {
	*local.Queue
	role string
	once atomic.Bool
}

var errBrokenTake = errors.New("too many open files")

func (q *brokenTake) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	if role == q.role && q.once.CompareAndSwap(false, true) {
		return nil, errBrokenTake
	}
	return q.Queue.Take(ctx, role, n, ready)
}

// What a queue says ends the run at once, also where the other roles have much to do.
func TestRunEndsWhereAQueueFails(t *testing.T) {
	b := newBed(t)
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	cfg := dialogue(3)
	cfg.Source = numbered(50)
	broken := ""
	for name := range cfg.Roles {
		if name != "ask" {
			broken = name
		}
	}
	cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
		<-ctx.Done()
		return matrix.Turn{}, ctx.Err()
	})}
	b.wire(&cfg, &brokenTake{Queue: q, role: broken})
	r, err := run.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, errBrokenTake) {
		t.Errorf("got %v, want %v", err, errBrokenTake)
	}
}
