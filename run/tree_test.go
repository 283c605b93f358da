package run_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/cluster"
	"matrix/matrixtest"
	"matrix/run"
)

// numbers are n JSON numbers.
func numbers(n int) []matrix.Value {
	all := make([]matrix.Value, n)
	for i := range all {
		all[i] = matrix.RawValue(fmt.Append(nil, i))
	}
	return all
}

// forest is a flow in which each row's task becomes chunks, each chunk pairs, and a
// pair is kept, dropped or has failed, by its seed. A task that merges waits for what
// it became, and finishes with what that came to. How many children there are hangs
// on the seed, too; some have none.
func forest(n int, merge bool) run.Config {
	then := ""
	if merge {
		then = "merge"
	}
	say := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: fmt.Sprintf("%s of %d at depth %d, seed %d, item %s", t.ID, t.Siblings, t.Depth(), t.Seed, t.Item.Raw()), Calls: []matrix.Call{{Name: "m", USD: 1}}}, nil
	})
	sum := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		b, err := json.Marshal(t.Children)
		return matrix.Turn{Data: matrix.RawValue(b)}, err
	})
	return run.Config{
		Source: numbered(n), Live: 10, Seed: 7,
		Roles: map[string]matrix.Role{"split": {Agent: say}, "ask": {Agent: say}, "judge": {Agent: say}, "merge": {Agent: sum}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			last := t.Last()
			switch {
			case last == nil:
				return matrix.To("split")
			case last.Role == "split":
				return matrix.Expand(matrix.Expansion{Items: numbers(int(t.Seed % 7)), As: "chunk", Role: "ask", Then: then, Carry: []string{"split"}})
			case last.Role == "ask":
				return matrix.Expand(matrix.Expansion{Items: numbers(int(t.Seed % 4)), As: "pair", Role: "judge", Then: then, Omit: []string{"n"}})
			case last.Role == "judge" && t.Seed%5 == 0:
				return matrix.Drop("by its seed")
			case last.Role == "judge" && t.Seed%5 == 1:
				return matrix.Fail("by its seed, which is odd")
			case last.Role == "judge":
				return matrix.Finish(t.Item)
			}
			return matrix.Finish(last.Data)
		}),
	}
}

// ends are all tasks of a bed by how they ended, less what differs from run to run.
func (b *bed) ends() map[string]map[string]string {
	b.t.Helper()
	all := map[string]map[string]string{}
	for _, name := range []string{"data", "dropped", "expanded", "failed"} {
		all[name] = content(b.tasks(name))
	}
	return all
}

// A task becomes children, which have its row, an element and what they carry; who
// waits for them goes on with what they ended with.
func TestExpand(t *testing.T) {
	for _, merge := range []bool{false, true} {
		b := newBed(t)
		p := b.run(forest(30, merge))
		a := b.verify(forest(30, merge).Source, 1)
		if !a.OK || a.Pending != 0 {
			t.Fatalf("merge %v: %+v", merge, a)
		}
		data, expanded := b.tasks("data"), b.tasks("expanded")
		children := 0
		tasks := map[string]matrix.Task{}
		for _, name := range []string{"data", "dropped", "expanded", "failed"} {
			for id, x := range b.tasks(name) {
				tasks[id] = x
				if x.Parent != "" {
					children++
				}
			}
		}
		if p.Fed != 30 || p.Total != int64(30+children) || p.Pending != 0 || p.Children != int64(children) || p.Settled() != int64(len(tasks)) || children < 100 {
			t.Errorf("merge %v: %d tasks, %d of them children; got %+v", merge, len(tasks), children, p)
		}
		if merge != (len(expanded) == 0) {
			t.Errorf("merge %v: %d tasks ended as expanded", merge, len(expanded))
		}
		for id, x := range tasks {
			for i := range x.Expanded {
				c, ok := tasks[x.ChildID(i)]
				if !ok || c.Parent != id || c.Index() != i || c.Siblings != x.Expanded || c.Row != x.Row || c.Waited != merge {
					t.Errorf("child %d of %s: got %+v", i, id, c)
				}
			}
			if x.Depth() == 1 {
				item := x.Item.Any().(map[string]any)
				if first := x.Turns[0]; item["chunk"] != x.Index() || item["n"] == nil || first.Role != "split" || len(first.Calls) > 0 || first.Hop != 0 || !strings.HasPrefix(first.Text, x.Parent+" of 0") {
					t.Errorf("%s: got the item %v and the turn %+v", id, item, first)
				}
			}
			if x.Depth() == 2 {
				if item := x.Item.Any().(map[string]any); len(item) != 2 || item["pair"] != x.Index() || x.Turns[0].Role != "judge" {
					t.Errorf("%s: got the item %v and %d turns", id, item, len(x.Turns))
				}
			}
			if !merge || x.Depth() == 2 {
				continue
			}
			if len(x.Children) != x.Expanded || data[id].ID == "" {
				t.Errorf("%s was told of %d of %d children, and is %s", id, len(x.Children), x.Expanded, x.Outcome.Status)
			}
			for i, c := range x.Children {
				if o := tasks[c.ID].Outcome; c.ID != x.ChildID(i) || c.Index != i || c.Status != o.Status || c.Cause != o.Cause || string(c.Value.Raw()) != string(o.Value.Raw()) && !o.Value.IsZero() {
					t.Errorf("%s was told %+v of its child %d, which ended with %+v", id, c, i, o)
				}
			}
		}
		if usd, want := p.Usage["m"].USD, float64(30+children); usd != want {
			t.Errorf("merge %v: all cost %g, want %g: what a child carries is its parent's", merge, usd, want)
		}
	}
}

// Whenever the power is cut, an expanding flow comes to what it does undisturbed.
func TestTreesAndPowerLoss(t *testing.T) {
	t.Parallel()
	for _, merge := range []bool{false, true} {
		undisturbed := newBed(t)
		undisturbed.run(forest(40, merge))
		want := undisturbed.ends()
		losses := 0
		for round := range 6 {
			rng := rand.New(rand.NewPCG(5, uint64(round)))
			b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run", shards: 1 + round%2*2}
			for {
				mem := b.fs.(*vfs.MemFS)
				var after *vfs.MemFS
				_, err := b.with(forest(40, merge), func(r *run.Run, cancel func()) {
					for at := int64(rng.IntN(200)); r.Progress().NewHops < at && !r.Finished(); {
						time.Sleep(50 * time.Microsecond)
					}
					after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)], RNG: rng})
					cancel() // of the world that goes on without us
				})
				if err != nil && !errors.Is(err, run.ErrStopped) {
					t.Fatal(err)
				}
				b.fs = after
				a := b.verify(forest(40, merge).Source, 1)
				if !a.OK {
					t.Fatalf("round %d after %d losses", round, losses)
				}
				if a.Pending == 0 {
					break
				}
				losses++
			}
			if d := cmp.Diff(want, b.ends()); d != "" {
				t.Errorf("merge %v, round %d differs from an undisturbed run: %s", merge, round, d)
			}
		}
		if losses < 8 {
			t.Errorf("the power was lost %d times in the middle of a run: too few to test anything", losses)
		}
	}
}

// A process that dies at any commit, before or after that is durable, leaves trees
// that the next one goes on with.
func TestTreesAndDeadOwners(t *testing.T) {
	undisturbed := newBed(t)
	undisturbed.run(forest(20, true))
	want := undisturbed.ends()
	deaths := 0
	for round := range 3 {
		rng := rand.New(rand.NewPCG(9, uint64(round)))
		b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run", shards: 2}
		for range b.shards {
			b.logs = append(b.logs, matrixtest.NewScriptedLog(4<<10))
		}
		for {
			at, fault := 1+rng.IntN(20), []matrixtest.LogFault{matrixtest.Cut, matrixtest.CutAfter}[rng.IntN(2)]
			b.fault = func(n int) matrixtest.LogFault {
				if n == at {
					return fault
				}
				return matrixtest.Answered
			}
			_, err := b.with(forest(20, true), nil)
			b.fs = b.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)], RNG: rng})
			b.fault = nil
			a := b.verify(forest(20, true).Source, 1)
			if !a.OK {
				t.Fatalf("round %d after %d deaths", round, deaths)
			}
			if err == nil && a.Pending == 0 {
				break
			}
			if !errors.Is(err, matrixtest.ErrCut) {
				t.Fatalf("run: got %v, want %v", err, matrixtest.ErrCut)
			}
			deaths++
		}
		if d := cmp.Diff(want, b.ends()); d != "" {
			t.Errorf("round %d differs from an undisturbed run: %s", round, d)
		}
	}
	if deaths < 6 {
		t.Errorf("the owner died %d times in the middle of a run: too few to test anything", deaths)
	}
}

// However many children there are, no more tasks are under way than may be, also where
// only one may be, and a tree is as deep as that.
func TestTreesKeepToTheirCredit(t *testing.T) {
	for _, live := range []int{1, 3} {
		cfg := forest(6, true)
		cfg.Live = live
		var acting, most atomic.Int64
		cfg.Middleware = []run.Middleware{func(_ string, next matrix.Agent) matrix.Agent {
			return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				n := acting.Add(1)
				defer acting.Add(-1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				return next.Act(ctx, t)
			})
		}}
		b := newBed(t)
		p := b.run(cfg)
		if !p.Finished || most.Load() > int64(live) {
			t.Errorf("live %d: %d steps at once, %+v", live, most.Load(), p)
		}
		if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 {
			t.Errorf("live %d: %+v", live, a)
		}
	}
}

// A list of many elements is never in the queue at once.
func TestManyChildren(t *testing.T) {
	const many = 5000
	var most atomic.Int64
	cfg := run.Config{
		Source: numbered(1), Live: 100,
		Roles: map[string]matrix.Role{"one": {Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
			return matrix.Turn{Data: matrix.RawValue([]byte("1"))}, nil
		})}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch {
			case t.Depth() > 0 && t.Last() != nil:
				return matrix.Finish(t.Last().Data)
			case len(t.Children) > 0:
				return matrix.Finish(matrix.RawValue(fmt.Append(nil, len(t.Children))))
			}
			return matrix.Expand(matrix.Expansion{Items: numbers(many), As: "i", Role: "one", Then: "one"})
		}),
	}
	b := newBed(t)
	cfg.Middleware = []run.Middleware{func(_ string, next matrix.Agent) matrix.Agent {
		return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
			if n := live.Load(); n != nil {
				most.Store(max(most.Load(), int64((*n)())))
			}
			return next.Act(ctx, t)
		})
	}}
	r, err := b.with(cfg, func(r *run.Run, _ func()) {
		f := func() int { return int(r.Progress().Live) }
		live.Store(&f)
	})
	live.Store(nil)
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Progress(); p.Done != many+1 || most.Load() > 100+1+256 {
		t.Errorf("got %d done and %d at once; want %d, and about 100", p.Done, most.Load(), many+1)
	}
	if o := b.tasks("data")["r0"].Outcome; o == nil || string(o.Value.Raw()) != fmt.Sprint(many) {
		t.Errorf("the parent ended with %+v", o)
	}
}

var live atomic.Pointer[func() int]

// What cannot become children fails, and says why.
func TestExpandRefused(t *testing.T) {
	long := matrix.RawValue([]byte(`"` + strings.Repeat("x", 1<<20) + `"`))
	for want, x := range map[string]matrix.Expansion{
		"there is no such role":              {Items: numbers(1), As: "x", Role: "nobody"},
		"offsets into the row":               {Items: slices.Repeat([]matrix.Value{long}, 9), As: "x", Role: "one"},
		"and 1048576 is the most":            {Items: slices.Repeat(numbers(1), 1<<20+1), As: "x", Role: "one"},
		"no field for the elements":          {Items: numbers(1), Role: "one"},
		"of its own would have more than 64": {Items: numbers(1), As: "x", Role: "one"},
	} {
		deep := strings.Contains(want, "64")
		one := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) { return matrix.Turn{}, nil })
		b := newBed(t)
		p := b.run(run.Config{
			Source: numbered(1), Roles: map[string]matrix.Role{"one": {Agent: one}},
			Router: router(func(t *matrix.Task) matrix.Decision {
				if t.Last() == nil && !deep {
					return matrix.To("one")
				}
				return matrix.Expand(x)
			}),
		})
		if p.Failed != 1 || !deep && p.Settled() != 1 {
			t.Errorf("%s: got %+v", want, p)
		}
		for id, x := range b.tasks("failed") {
			if !strings.Contains(x.Outcome.Cause, want) {
				t.Errorf("%s: got %q, want %q", id, x.Outcome.Cause, want)
			}
		}
	}
}

// Values that have too many bytes together fail the task that waits for them, also
// where the run was stopped meanwhile.
func TestChildrenWithLargeValues(t *testing.T) {
	t.Parallel()
	large := matrix.RawValue([]byte(`"` + strings.Repeat("x", 1<<20) + `"`))
	cfg := run.Config{
		Source: numbered(1), Live: 2,
		Roles: map[string]matrix.Role{"one": {Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) { return matrix.Turn{}, nil })}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch {
			case t.Depth() > 0:
				return matrix.Finish(large)
			case len(t.Children) > 0:
				return matrix.Finish(matrix.Value{})
			}
			return matrix.Expand(matrix.Expansion{Items: numbers(20), As: "i", Role: "one", Then: "one"})
		}),
	}
	b := newBed(t)
	if _, err := b.until(cfg, 12, func(r *run.Run, _ func()) { r.Stop() }); !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	if p := b.run(cfg); p.Done != 20 || p.Failed != 1 {
		t.Errorf("got %+v, want 20 done and 1 failed", p)
	}
	if x := b.tasks("failed")["r0"]; x.Outcome == nil || !strings.Contains(x.Outcome.Cause, "8 MiB") || len(x.Children) != 20 {
		t.Errorf("got %+v with %d children", x.Outcome, len(x.Children))
	}
	if a := b.verify(cfg.Source, 1); !a.OK {
		t.Error("verify")
	}
}

// Where a worker acts that has no store, trees come to the same.
func TestTreesAndWorkers(t *testing.T) {
	t.Parallel()
	alone := newBed(t)
	alone.run(forest(30, true))
	want := alone.ends()
	b := newBed(t)
	b.shards = 2
	cfg := forest(30, true)
	cfg.NoWork = true
	network := matrixtest.NewNetwork(64 << 10)
	b.serve = func(ctx context.Context, r *run.Run, qs []run.Store) error {
		serve := []func() error{func() error {
			m := join(t, network, 2, "a", cfg, func(*member) run.Middleware {
				return func(_ string, next matrix.Agent) matrix.Agent { return next }
			})
			<-m.over
			return m.err
		}}
		for k, q := range qs {
			o, err := cluster.NewOwner(q, cluster.OwnerOptions{Shard: k, Net: network, Fresh: true})
			if err != nil {
				return err
			}
			serve = append(serve, func() error { return o.Serve(ctx) })
		}
		return together(serve...)
	}
	if p := b.run(cfg); !p.Finished {
		t.Errorf("got %+v", p)
	}
	if d := cmp.Diff(want, b.ends()); d != "" {
		t.Errorf("differs from a run of one process: %s", d)
	}
	if a := b.verify(cfg.Source, 1); !a.OK {
		t.Error("verify")
	}
}

// Failed tasks of trees are tried again, unless a task waited for them.
func TestTreesTriedAgain(t *testing.T) {
	t.Parallel()
	broken := func(merge bool) run.Config {
		cfg := forest(30, merge)
		for _, name := range []string{"judge", "merge"} {
			x := cfg.Roles[name]
			act := x.Agent
			x.Agent = matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				if t.Seed%2 == 0 {
					return matrix.Turn{}, &matrix.FailError{Err: errors.New("out of order")}
				}
				return act.Act(ctx, t)
			})
			cfg.Roles[name] = x
		}
		return cfg
	}
	whole := newBed(t)
	whole.run(forest(30, false))
	want := whole.ends()
	b := newBed(t)
	before := b.run(broken(false))
	cfg := forest(30, false)
	cfg.Retry = &run.Retry{Begin: true}
	p := b.run(cfg)
	if p.Retried.Tasks < 10 || p.Retried.Tasks >= before.Failed || p.Retried.Told != 0 {
		t.Errorf("got %+v of %d that failed", p.Retried, before.Failed)
	}
	if d := cmp.Diff(want, b.ends()); d != "" {
		t.Errorf("tried again: differs from a run in which nothing was broken: %s", d)
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 {
		t.Errorf("got %+v", a)
	}

	b = newBed(t)
	b.run(broken(true))
	roots := 0
	for id, x := range b.tasks("failed") {
		if x.Depth() == 0 {
			roots++
			if len(x.Children) != x.Expanded {
				t.Errorf("%s failed and was told of %d of %d", id, len(x.Children), x.Expanded)
			}
		}
	}
	cfg = forest(30, true)
	cfg.Retry = &run.Retry{Begin: true}
	p = b.run(cfg)
	if roots == 0 || p.Retried.Tasks != int64(roots) || p.Retried.Told == 0 {
		t.Errorf("got %+v, want the %d rows' tasks", p.Retried, roots)
	}
	for id, x := range b.tasks("data") {
		if x.Depth() == 0 && x.Expanded > 0 && x.Outcome.Value.String() == "" || len(x.Children) != x.Expanded {
			t.Errorf("%s: ended with %s, told of %d of %d", id, x.Outcome.Value, len(x.Children), x.Expanded)
		}
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 {
		t.Errorf("got %+v", a)
	}
}

// An audit names the child that is missing, the one that nobody became, and the parent
// that was not told.
func TestVerifyTrees(t *testing.T) {
	b := newBed(t)
	cfg := forest(30, true)
	if _, err := b.until(cfg, 60, func(r *run.Run, _ func()) { r.Stop() }); !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Pending == 0 {
		t.Fatalf("got %+v", a)
	}
	q := b.open()[0]
	defer q.(closer).Close()
	var child string
	if err := q.Walk(t.Context(), func(key string, f matrix.Fate) error {
		if id := run.NameOf(key); strings.Count(id, "/") == 1 && f.Status != matrix.Pending {
			child = key
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	row := strings.Split(run.NameOf(child), "/")[0]
	for want, l := range map[string]run.Store{
		run.NameOf(child) + ": " + row + " became it, and the ledger does not know it: lost": &changed{q, child, matrix.Fate{}, ""},
		row + ", which waits for it, was told":                                               &changed{q, child, matrix.Fate{Status: matrix.Pending, Part: -1}, ""},
		"and these tell of":                                                                  &changed{q, "", matrix.Fate{}, run.ChildID("r0", 0, 99)},
	} {
		a, err := run.Verify(t.Context(), cfg.Source, 1, []run.Written{b.written(l, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(a.Culprits, "\n"), want) {
			t.Errorf("got %q, want %q among them", a.Culprits, want)
		}
	}
}

// changed is a store that says something else of one task, or that there is another.
type changed struct {
	run.Store
	task  string
	fate  matrix.Fate
	other string
}

func (c *changed) Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error) {
	fates, err := c.Store.Lookup(ctx, ids...)
	for i, id := range ids {
		if id == c.task {
			fates[i] = c.fate
		}
	}
	return fates, err
}

func (c *changed) Walk(ctx context.Context, f func(id string, fate matrix.Fate) error) error {
	if c.other != "" {
		if err := f(c.other, matrix.Fate{Status: matrix.Done}); err != nil {
			return err
		}
	}
	return c.Store.Walk(ctx, f)
}
