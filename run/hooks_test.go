package run_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
