package run_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"matrix"
	"matrix/run"
)

// worker makes the Worker of another process, which serves these roles of cfg; all
// where none is named.
func worker(t testing.TB, cfg run.Config, roles ...string) *run.Worker {
	t.Helper()
	w, err := run.NewWorker(workerConfig(cfg, roles...))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func workerConfig(cfg run.Config, roles ...string) run.WorkerConfig {
	c := run.WorkerConfig{Router: cfg.Router, Roles: maps.Clone(cfg.Roles), Limits: cfg.Limits, Metrics: cfg.Metrics, MaxFailed: cfg.MaxFailed}
	for name, x := range c.Roles {
		served := len(roles) == 0
		for _, r := range roles {
			served = served || r == name
		}
		if !served {
			x.Agent = nil
			c.Roles[name] = x
		}
	}
	return c
}

// takers are queues as those see them who take from them.
func takers(qs []run.Store) (from []matrix.Taker) {
	for _, q := range qs {
		from = append(from, q)
	}
	return from
}

// together runs all of fs and joins their errors.
func together(fs ...func() error) error {
	errs := make([]error, len(fs))
	var all sync.WaitGroup
	for i, f := range fs {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Whoever acts, in this process or elsewhere, all of the flow or single roles of it, what
// comes of it is the same.
func TestServe(t *testing.T) {
	alone := newBed(t)
	alone.run(dialogue(5))
	want := content(alone.tasks("data"))
	for _, c := range []struct {
		name    string
		noWork  bool
		shards  int
		workers [][]string // roles of each; none for all
		hops    int64      // of them and of the run
	}{
		{"one worker", true, 1, [][]string{{}}, 1000},
		{"beside the run", false, 1, [][]string{{}}, 1000},
		{"a role each", true, 1, [][]string{{"ask"}, {"answer"}, {"judge"}}, 2000}, // the judge is inline for nobody
		{"shards", true, 2, [][]string{{}, {"ask", "judge"}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.shards = c.shards
			cfg := dialogue(5)
			cfg.NoWork = c.noWork
			b.serve = func(ctx context.Context, r *run.Run, qs []run.Store) error {
				var works []func() error
				for i, roles := range c.workers {
					w := worker(t, cfg, roles...)
					works = append(works, func() error {
						err := w.Work(ctx, takers(qs)...)
						r.Elsewhere(fmt.Sprint(i), w.Roles())
						return err
					})
				}
				return together(works...)
			}
			head := cfg
			if c.noWork {
				head.Roles = maps.Clone(cfg.Roles)
				for name, x := range head.Roles {
					x.Agent = nil
					head.Roles[name] = x
				}
			}
			p := b.run(head)
			if p.Done != 200 || !p.Finished || c.hops != 0 && p.NewHops != c.hops || p.Roles["ask"].Acting != 0 {
				t.Errorf("got %+v, want 200 done in %d hops", p, c.hops)
			}
			if len(c.workers) == 1 && p.Roles["judge"].Well != 1000 {
				t.Errorf("the judge: got %+v, want 1,000 turns", p.Roles["judge"])
			}
			got := content(b.tasks("data"))
			if len(c.workers) == 1 {
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("differs from a run that acts alone: %s", d)
				}
			}
			if a := b.verify(cfg.Source, 1); !a.OK || a.Done != 200 {
				t.Errorf("verify: got %+v", a)
			}
		})
	}
}

// Who acts elsewhere is treated as who acts here when the run ends early.
func TestServeEnds(t *testing.T) {
	fault := errors.New("the network is gone")
	for _, c := range []struct {
		name  string
		grace bool // the steps may end; else ctx ends them
		end   func(r *run.Run, cancel func())
		serve error // what Serve returns when a step has begun
		want  error
	}{
		{"stop", true, func(r *run.Run, _ func()) { r.Stop() }, nil, run.ErrStopped},
		{"stop, and the grace period is over", false, func(r *run.Run, _ func()) { r.Stop() }, nil, run.ErrStopped},
		{"drain", true, func(r *run.Run, _ func()) { r.Drain() }, nil, run.ErrStopped},
		{"cancel", false, func(_ *run.Run, cancel func()) { cancel() }, nil, run.ErrStopped},
		{"halt", true, func(r *run.Run, _ func()) { r.Halt(fault); r.Halt(errors.New("another")) }, nil, fault},
		{"an error of Serve", false, nil, fault, fault},
		{"a stop by Serve", true, nil, &matrix.StopError{Err: fault}, fault},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := dialogue(2)
			cfg.Source = numbered(3)
			if !c.grace {
				cfg.Grace = 1
			}
			begun, landing := make(chan struct{}, 100), make(chan struct{})
			cfg.Roles["ask"] = matrix.Role{Attempts: 1, Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
				begun <- struct{}{}
				if !c.grace {
					<-ctx.Done()
					return matrix.Turn{}, ctx.Err()
				}
				<-landing
				return matrix.Turn{Text: "landed"}, ctx.Err()
			})}
			all := make(chan struct{}) // steps have begun
			b.serve = func(ctx context.Context, _ *run.Run, qs []run.Store) error {
				context.AfterFunc(matrix.Stopping(ctx), func() { close(landing) })
				return together(func() error {
					if c.serve != nil { // the run acts, and is told by it
						return nil
					}
					return worker(t, cfg).Work(ctx, takers(qs)...)
				}, func() error {
					for range 3 {
						<-begun
					}
					close(all)
					return c.serve
				})
			}
			cfg.NoWork = c.serve == nil
			_, err := b.with(cfg, func(r *run.Run, cancel func()) {
				if c.end != nil {
					<-all
					c.end(r, cancel)
				}
			})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			q, err := openQueue(b)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			for _, id := range []string{"r0", "r1", "r2"} {
				m, ok, err := q.Peek(context.Background(), id)
				if err != nil || !ok {
					t.Fatalf("peek %s: %v, %v", id, ok, err)
				}
				if landed := m.Role == "answer"; landed != c.grace || m.Attempt != 0 {
					t.Errorf("%s waits for %s with %d attempts spent; landed %v, want %v", id, m.Role, m.Attempt, landed, c.grace)
				}
			}
		})
	}
}

// Who serves is to do so until the run is to end.
func TestServeReturnsEarly(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.NoWork = true
	b.serve = func(context.Context, *run.Run, []run.Store) error { return nil }
	if _, err := b.with(cfg, nil); err == nil || !strings.Contains(err.Error(), "Serve has returned") {
		t.Errorf("got %v, want an error", err)
	}
}

func TestNewWorkerRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(c *run.WorkerConfig)
		want   string
	}{
		"no agent":    {func(c *run.WorkerConfig) { *c = workerConfig(dialogue(1), "nobody") }, "none has an agent"},
		"a name":      {func(c *run.WorkerConfig) { c.Roles["_x"] = matrix.Role{} }, `"_x" cannot be the name of a role`},
		"concurrency": {func(c *run.WorkerConfig) { c.Roles["ask"] = matrix.Role{Concurrency: -1} }, "concurrency is -1"},
		"middleware": {func(c *run.WorkerConfig) {
			c.Middleware = []run.Middleware{func(string, matrix.Agent) matrix.Agent { return nil }}
		}, "without an agent"},
		"nothing wrong": {func(*run.WorkerConfig) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := workerConfig(dialogue(1))
			c.change(&cfg)
			w, err := run.NewWorker(cfg)
			if c.want == "" {
				if err != nil || w == nil {
					t.Errorf("got %v, want a worker", err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// seeded opens the queue of b and feeds it.
func seeded(t *testing.T, b *bed, cfg run.Config) run.Store {
	t.Helper()
	q := b.open()[0]
	t.Cleanup(func() { q.(closer).Close() })
	b.wire(&cfg, q)
	r, err := run.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Feed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return q
}

// A worker that has found what will not pass by itself says so at once, begins nothing
// more, and lands what it has begun.
func TestWorkerHalts(t *testing.T) {
	wrong := errors.New("401: no such key")
	for name, c := range map[string]struct {
		err  error // of the step that finds it
		want func(err error) bool
	}{
		"a stop":          {&matrix.StopError{Err: wrong}, func(err error) bool { return errors.Is(err, wrong) }},
		"too many failed": {&matrix.FailError{Err: wrong}, func(err error) bool { return errors.As(err, new(*run.TooManyFailed)) }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dialogue(2)
			cfg.Source, cfg.Live = numbered(300), 1000
			q := seeded(t, newBed(t), cfg)
			halted := make(chan error, 2)
			var begun atomic.Int64
			cfg.Roles["ask"] = matrix.Role{Concurrency: 2, Agent: matrix.AgentFunc(func(ctx context.Context, _ *matrix.Task) (matrix.Turn, error) {
				if begun.Add(1) == 1 {
					err := <-halted
					halted <- err
					return matrix.Turn{Text: "landed"}, ctx.Err()
				}
				return matrix.Turn{}, c.err
			})}
			wc := workerConfig(cfg, "ask")
			wc.MaxFailed, wc.Halted = 0.9, func(err error) { halted <- err }
			w, err := run.NewWorker(wc)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Work(t.Context(), q); !c.want(err) {
				t.Errorf("got %v", err)
			}
			if err := <-halted; !c.want(err) || len(halted) != 0 {
				t.Errorf("told %v, and %d times more", err, len(halted))
			}
			if p := w.Roles()["ask"]; p.Hops > 101 || p.Well != 1 || p.Acting != 0 {
				t.Errorf("got %+v, want what was begun and no more", p)
			}
			if n := q.Counts().Waiting["judge"]; n != 1 {
				t.Errorf("%d have landed, want 1: %v", n, q.Counts())
			}
			if err := w.Work(t.Context(), q); !c.want(err) {
				t.Errorf("once more: got %v", err)
			}
		})
	}
}

// leases is a queue whose claims may be lost.
type leases struct {
	run.Store
	mu    sync.Mutex
	held  map[string]*lease
	fates func(n int) int // of the n-th commit
	n     int
}

const (
	commits      = iota
	neverCommits // lost before
	unanswered   // committed, and nobody is told
)

type lease struct {
	matrix.Taken
	q    *leases
	once sync.Once
	lost chan struct{}
}

func (q *leases) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	ts, err := q.Store.Take(ctx, role, n, ready)
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, t := range ts {
		x := &lease{Taken: t, q: q, lost: make(chan struct{})}
		q.held[t.Message().Task] = x
		ts[i] = x
	}
	return ts, err
}

// lose has the task wait again for whoever comes.
func (q *leases) lose(task string) {
	q.mu.Lock()
	x := q.held[task]
	q.mu.Unlock()
	x.end(func() { close(x.lost); x.Taken.Return(nil) })
}

func (x *lease) Lost() <-chan struct{} { return x.lost }
func (x *lease) Return(err error)      { x.end(func() { x.Taken.Return(err) }) }

func (x *lease) Commit(s matrix.Step, durable func()) error {
	x.q.mu.Lock()
	x.q.n++
	fate := x.q.fates(x.q.n)
	x.q.mu.Unlock()
	err := matrix.ErrLost
	x.end(func() {
		if fate == neverCommits {
			x.Taken.Return(nil)
		} else if e := x.Taken.Commit(s, durable); fate == commits || e != nil {
			err = e
		}
	})
	return err
}

func (x *lease) end(how func()) { x.once.Do(how) }

// What a worker holds of a task's past is not what the next step sees: wherever a claim
// is lost, each agent finds the task as its log tells.
func TestWorkersSeeTheLog(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(6)
	cfg.Source, cfg.NoWork = numbered(60), true
	var nth atomic.Int64
	var q *leases
	say := matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		m, ok, err := q.Peek(context.WithoutCancel(ctx), t.ID)
		if err != nil || !ok || m.Hop != t.Hop-1 {
			return matrix.Turn{}, &matrix.StopError{Err: fmt.Errorf("%s acts at hop %d; by its queue %+v, %v, %v", t.ID, t.Hop, m, ok, fmt.Sprint(err))}
		}
		log, err := m.Log(context.WithoutCancel(ctx), 0)
		if err != nil {
			return matrix.Turn{}, err
		}
		told, err := run.Decode(t.ID, log)
		if err != nil {
			return matrix.Turn{}, err
		}
		told.Hop++
		if want, got := content(map[string]matrix.Task{"": *told})[""], content(map[string]matrix.Task{"": *t})[""]; got != want {
			return matrix.Turn{}, &matrix.StopError{Err: fmt.Errorf("%s at hop %d: the agent sees\n%s\nand the log tells\n%s", t.ID, t.Hop, got, want)}
		}
		n := nth.Add(1)
		if n%7 == 0 { // while it acts: what it then says comes to nothing
			q.lose(t.ID)
			<-ctx.Done()
		}
		return matrix.Turn{Text: fmt.Sprint("call ", n)}, nil
	})
	cfg.Roles["ask"], cfg.Roles["answer"] = matrix.Role{Agent: say}, matrix.Role{Agent: say}
	var lost atomic.Int64
	b.serve = func(ctx context.Context, _ *run.Run, qs []run.Store) error {
		q = &leases{Store: qs[0], held: map[string]*lease{}, fates: func(n int) int {
			switch n % 5 {
			case 1:
				lost.Add(1)
				return neverCommits
			case 3:
				return unanswered
			}
			return commits
		}}
		one, two := worker(t, cfg), worker(t, cfg)
		return together(func() error { return one.Work(ctx, q) }, func() error { return two.Work(ctx, q) })
	}
	if p := b.run(cfg); p.Done != 60 || p.Failed != 0 || lost.Load() == 0 {
		t.Errorf("got %+v with %d claims lost, want 60 done", p, lost.Load())
	}
	if a := b.verify(cfg.Source, 1); !a.OK || a.Done != 60 {
		t.Errorf("verify: got %+v", a)
	}
}

// unreadable is a queue whose messages cannot be read once.
type unreadable struct {
	run.Store
	err  error
	once atomic.Bool
}

func (q *unreadable) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	ts, err := q.Store.Take(ctx, role, n, ready)
	for _, t := range ts {
		if m := t.Message(); q.once.CompareAndSwap(false, true) {
			m.Log = func(context.Context, int) ([][]byte, error) { return nil, q.err }
		}
	}
	return ts, err
}

// A log that cannot be read for a while, or whose task is somebody else's by now, is no
// fault of the worker.
func TestWorkerReadsAgain(t *testing.T) {
	gone := errors.New("the owner does not answer")
	for name, c := range map[string]struct {
		err, want error
	}{
		"lost":     {fmt.Errorf("read: %w", matrix.ErrLost), nil},
		"for now":  {&matrix.RetryError{Err: gone, Free: true}, nil},
		"for good": {gone, gone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := dialogue(2)
			cfg.Source, cfg.NoWork = numbered(5), true
			b.serve = func(ctx context.Context, _ *run.Run, qs []run.Store) error {
				return worker(t, cfg).Work(ctx, &unreadable{Store: qs[0], err: c.err})
			}
			r, err := b.with(cfg, nil)
			if !errors.Is(err, c.want) || err == nil != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if p := r.Progress(); c.want == nil && p.Done != 5 {
				t.Errorf("got %+v, want 5 done", p)
			}
		})
	}
}

// What workers tell of themselves is summed by process; what comes late is left out.
func TestElsewhere(t *testing.T) {
	b := newBed(t)
	q := b.open()[0]
	defer q.(closer).Close()
	cfg := dialogue(1)
	b.wire(&cfg, q)
	r, err := run.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	at := func(life int) time.Time { return time.Unix(1_700_000_000, 0).Add(time.Duration(life)) }
	tell := func(worker string, life, acting int, hops, well, failed int64, cause string) {
		r.Elsewhere(worker, map[string]run.RoleProgress{
			"ask":      {Acting: acting, Hops: hops, Well: well, Failed: failed, Cause: cause, Fault: matrix.FaultStep, Began: at(life)},
			"stranger": {Hops: 100, Began: at(life)},
		})
	}
	check := func(when string, acting int, hops, well, failed int64, cause string) {
		t.Helper()
		want := run.RoleProgress{Acting: acting, Hops: hops, Well: well, Failed: failed, Cause: cause}
		if cause != "" {
			want.Fault = matrix.FaultStep
		}
		p := r.Progress()
		if d := cmp.Diff(want, p.Roles["ask"], cmpopts.IgnoreFields(run.RoleProgress{}, "Began")); d != "" {
			t.Errorf("%s: %s", when, d)
		}
		if len(p.Roles) != 3 || p.NewHops != hops {
			t.Errorf("%s: %d roles and %d hops, want those of the flow and %d", when, len(p.Roles), p.NewHops, hops)
		}
	}
	tell("a", 1, 4, 10, 10, 0, "")
	tell("b", 1, 2, 5, 3, 2, "no answer")
	check("two workers", 6, 15, 13, 2, "no answer")
	tell("a", 1, 3, 12, 12, 0, "")
	tell("a", 1, 4, 10, 10, 0, "") // late
	check("a late word", 5, 17, 15, 2, "no answer")
	r.Elsewhere("a", nil)
	r.Elsewhere("nobody", nil)
	check("one is gone", 2, 17, 15, 2, "no answer")
	tell("a", 1, 1, 13, 13, 0, "")
	check("it is there after all", 3, 18, 16, 2, "no answer")
	tell("a", 2, 2, 1, 1, 0, "")
	check("it has started again", 4, 19, 17, 2, "no answer")
	tell("a", 1, 5, 14, 14, 0, "")
	check("a late word of the life before", 4, 20, 18, 2, "no answer")
	tell("a", 2, 1, 2, 2, 0, "")
	check("it goes on", 3, 21, 19, 2, "no answer")
	r.Elsewhere("a", nil)
	check("and is gone", 2, 21, 19, 2, "no answer")
}

// Whether the steps of a role all failed is judged by what all workers did.
func TestElsewhereCountsAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		there run.RoleProgress // of ask
		fails bool             // each step of ask fails here
		ended bool             // with a *run.TooManyFailed
		role  string           // of it
	}{
		{"all failed here", run.RoleProgress{}, true, true, "ask"},
		{"all failed here, and one went well there", run.RoleProgress{Well: 1}, true, true, ""}, // no task is done
		{"one failed there", run.RoleProgress{Failed: 1, Cause: "ask: no"}, false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := dialogue(1)
			cfg.Source, cfg.MaxFailed = numbered(20), 1
			if c.fails {
				cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
					return matrix.Turn{}, &matrix.FailError{Err: errors.New("no")}
				})}
			}
			b.serve = func(ctx context.Context, r *run.Run, _ []run.Store) error {
				r.Elsewhere("w", map[string]run.RoleProgress{"ask": c.there})
				<-matrix.Stopping(ctx).Done()
				return nil
			}
			_, err := b.with(cfg, nil)
			var failed *run.TooManyFailed
			if errors.As(err, &failed) != c.ended || failed != nil && (failed.Role != c.role || !failed.Ended) {
				t.Errorf("got %v, want one of role %q: %v", err, c.role, c.ended)
			}
		})
	}
	t.Run("all failed there", func(t *testing.T) { // and all that there was to do was done there
		b := newBed(t)
		cfg := dialogue(1)
		cfg.Source, cfg.MaxFailed, cfg.NoWork = numbered(20), 1, true
		cfg.Router = router(func(t *matrix.Task) matrix.Decision {
			if t.Last() == nil {
				return matrix.To("ask")
			}
			return matrix.Finish(matrix.Value{})
		})
		cfg.Roles["ask"] = matrix.Role{Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
			return matrix.Turn{}, &matrix.FailError{Err: errors.New("no key")}
		})}
		b.serve = func(ctx context.Context, r *run.Run, qs []run.Store) error {
			w := worker(t, cfg)
			err := w.Work(ctx, takers(qs)...)
			r.Elsewhere("w", w.Roles())
			return err
		}
		_, err := b.with(cfg, nil)
		want := &run.TooManyFailed{Role: "ask", Failed: 20, Of: 20, Cause: "ask: no key", Fault: matrix.FaultStep, Ended: true}
		if failed := new(run.TooManyFailed); !errors.As(err, &failed) || *failed != *want {
			t.Errorf("got %v, want %v", err, want)
		}
	})
}
