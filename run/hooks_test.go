package run_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/run"
)

// Who watches is told of each thing that happens, and middleware stands around the
// agents by their roles.
func TestHooks(t *testing.T) {
	var mu sync.Mutex
	var told, around []string
	wrap := func(name string) run.Middleware {
		return func(role string, next matrix.Agent) matrix.Agent {
			return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				mu.Lock()
				around = append(around, name+" "+role)
				mu.Unlock()
				return next.Act(ctx, t)
			})
		}
	}
	tries := 0
	ask := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		if tries++; tries == 1 {
			return matrix.Turn{}, errors.New("not now")
		}
		return matrix.Turn{Text: "so", Calls: []matrix.Call{{Name: "m", Tokens: matrix.Tokens{PromptTokens: 3}}, {Kind: matrix.KindTool, Name: "add"}}}, nil
	})
	check := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) { return matrix.Turn{Text: "no"}, nil })
	b := newBed(t)
	b.run(run.Config{
		Source: numbered(1),
		Roles:  map[string]matrix.Role{"ask": {Agent: ask}, "check": {Agent: check, Inline: true}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch len(t.Turns) {
			case 0:
				return matrix.To("ask")
			case 1:
				return matrix.To("check")
			}
			return matrix.Fail("no")
		}),
		Middleware: []run.Middleware{wrap("outer"), wrap("inner")},
		On: func(e run.Event) {
			s := fmt.Sprintf("%s %s %s", e.Kind, e.Task, e.Role)
			switch {
			case e.Err != nil:
				s += " " + e.Err.Error()
			case e.Turn != nil:
				s += fmt.Sprintf(" %s of %d calls", e.Turn.Text, len(e.Turn.Calls))
			case e.Call != nil:
				s += fmt.Sprintf(" %s %s", e.Call.Kind, e.Call.Name)
			case e.Kind == run.TaskSettled:
				s += fmt.Sprintf("%s at %d:%d, %s", e.Fate.Status, e.Fate.Part, e.Fate.Line, e.Why)
			}
			mu.Lock()
			told = append(told, s)
			mu.Unlock()
		},
	})
	fed := slices.Index(told, "task fed r0 ask")
	if fed < 0 {
		t.Fatalf("got %q, and no task fed", told)
	}
	if d := cmp.Diff([]string{
		"step done r0 ask not now", "call done r0 ask model m", "call done r0 ask tool add", "step done r0 ask so of 2 calls",
		"step done r0 check no of 0 calls", "task settled r0 failed at 0:0, no",
	}, slices.Delete(slices.Clone(told), fed, fed+1)); d != "" {
		t.Errorf("told: %s", d)
	}
	if d := cmp.Diff([]string{"outer ask", "inner ask", "outer ask", "inner ask", "outer check", "inner check"}, around); d != "" {
		t.Errorf("around: %s", d)
	}
}

// Who watches may panic at anything: the run stops and says where, what is under
// way lands, and the next session goes on as if nothing had been.
func TestWhoWatchesPanics(t *testing.T) {
	for _, kind := range []run.EventKind{run.TaskFed, run.CallDone, run.StepDone, run.TaskSettled} {
		for _, shards := range []int{1, 3} {
			b := newBed(t)
			b.shards = shards
			cfg := dialogue(4)
			says := cfg.Roles["ask"]
			act := says.Agent
			says.Agent = matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				turn, err := act.Act(ctx, t)
				turn.Calls = []matrix.Call{{Name: "m"}}
				return turn, err
			})
			cfg.Roles["ask"] = says
			var told atomic.Int64
			cfg.On = func(e run.Event) {
				if e.Kind == kind && told.Add(1) >= 5 {
					panic("no more")
				}
			}
			_, err := b.with(cfg, nil)
			if want := fmt.Sprintf("panicked at %q of task r", kind); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "no more (hooks_test.go:") {
				t.Errorf("%s: got %v, want that it %s", kind, err, want)
			}
			if a := b.verify(cfg.Source, 1); !a.OK {
				t.Errorf("%s: got %+v", kind, a)
			}
			cfg.On = nil
			if p := b.run(cfg); p.Done != 200 {
				t.Errorf("%s: got %d done, want 200", kind, p.Done)
			}
		}
	}
}

// Tasks that are tried again are told as fed and settled again.
func TestToldOfRetry(t *testing.T) {
	b := newBed(t)
	var mu sync.Mutex
	var told []string
	broken := true
	cfg := run.Config{
		Source: numbered(1),
		Roles: map[string]matrix.Role{"a": {Attempts: 1, Agent: matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
			if broken {
				return matrix.Turn{}, errors.New("broken")
			}
			return matrix.Turn{Text: "so"}, nil
		})}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			if t.Last() == nil {
				return matrix.To("a")
			}
			return matrix.Finish(matrix.Value{})
		}),
		On: func(e run.Event) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, string(e.Kind)+" "+string(e.Fate.Status))
		},
	}
	b.run(cfg)
	broken, cfg.Retry = false, &run.Retry{Begin: true}
	b.run(cfg)
	slices.Sort(told) // a task may be told as fed behind its first steps
	if d := cmp.Diff([]string{"step done ", "step done ", "task fed ", "task fed ", "task settled done", "task settled failed"}, told); d != "" {
		t.Errorf("told: %s", d)
	}
}

// A panic of middleware is one of the agent; a role without an agent is not a role.
func TestMiddlewareFails(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(1)
	cfg.Middleware = []run.Middleware{func(role string, next matrix.Agent) matrix.Agent {
		return matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) { panic("no " + role) })
	}}
	if p := b.run(cfg); p.Failed != 1 || !strings.HasPrefix(p.Failure, "r0: ask: gave up after 3 attempts: the agent panicked: no ask (hooks_test.go:") {
		t.Errorf("got %d failed: %s", p.Failed, p.Failure)
	}
	qs := b.open()
	defer qs[0].(closer).Close()
	b.wire(&cfg, qs...)
	refused := func(want string) {
		t.Helper()
		if _, err := run.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	cfg.Middleware = append(cfg.Middleware, func(string, matrix.Agent) matrix.Agent { return nil })
	refused("middleware 1 leaves role ")
	cfg.Roles["ask"], cfg.Middleware = matrix.Role{}, cfg.Middleware[:1]
	refused("role ask has no agent")
}
