package run_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"matrix"
	"matrix/run"
)

// A task that is done is signed in its last step, and what that called is the turn's. What
// passes is tried again, behind a paid step by the inline role alone; what does not fails
// the task, and no other ends are signed.
func TestSign(t *testing.T) {
	var asked, signed atomic.Int64
	say := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		asked.Add(1)
		return matrix.Turn{Text: t.ID, Calls: []matrix.Call{{Name: "m"}}}, nil
	})
	check := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) { return matrix.Turn{}, nil })
	tried := map[string]int{} // by the one worker
	cfg := run.Config{
		Source: numbered(6), Live: 1, Roles: map[string]matrix.Role{"say": {Agent: say}, "check": {Agent: check, Inline: true}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch last := t.Last(); {
			case last == nil:
				return matrix.To("say")
			case last.Role == "say":
				return matrix.To("check")
			case t.ID == "r5":
				return matrix.Drop("not wanted")
			}
			return matrix.Finish(matrix.Value{})
		}),
		Sign: func(_ context.Context, x *matrix.Task) ([]byte, []matrix.Call, error) {
			signed.Add(1)
			calls := []matrix.Call{{Name: "e", Tokens: matrix.Tokens{PromptTokens: 1}}}
			tried[x.ID]++
			switch {
			case x.ID == "r1" && tried[x.ID] < 3:
				return nil, calls, errors.New("passes")
			case x.ID == "r2":
				return nil, calls, errors.New("does not pass")
			case x.ID == "r3":
				return nil, calls, &matrix.FailError{Err: errors.New("cannot be signed")}
			}
			return []byte(x.ID), calls, nil
		},
	}
	b := newBed(t)
	p := b.run(cfg)
	if p.Done != 3 || p.Dropped != 1 || p.Failed != 2 || asked.Load() != 6 || tried["r5"] != 0 {
		t.Errorf("got %+v, asked %d times, signed %v", p.Totals, asked.Load(), tried)
	}
	for id, x := range b.tasks("data") {
		last := x.Turns[1]
		if string(x.Outcome.Signature) != id || len(last.Calls) != 1 || last.Calls[0].Name != "e" || last.Calls[0].Kind != matrix.KindModel {
			t.Errorf("%s: signed %q, by %+v", id, x.Outcome.Signature, last.Calls)
		}
	}
	failed := b.tasks("failed")
	for id, want := range map[string]string{"r2": "gave up after 3 attempts: does not pass", "r3": "cannot be signed"} {
		x := failed[id]
		if x.Outcome == nil || x.Outcome.Cause != want || x.Outcome.Fault != matrix.FaultStep || len(x.Outcome.Signature) > 0 {
			t.Errorf("%s: got %s", id, fmt.Sprintf("%+v", x.Outcome))
		}
	}
}
