package session

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/internal/spend"
	"matrix/llm"
	"matrix/run"
)

// A snapshot is the same after it has been JSON, but for the roles by name, which
// it has as a list.
func TestSnapshotAsJSON(t *testing.T) {
	want := Snapshot{
		Progress: run.Progress{
			Totals: run.Totals{
				Done: 1, Failed: 2, Hops: 3, Seconds: 4.5, Metrics: map[string]run.MetricSum{"m": {Count: 1, Sum: 2, Mean: new(2.0)}},
				Usage:  map[string]run.Usage{"model": {Calls: 5, Tokens: matrix.Tokens{PromptTokens: 6}, USD: 0.25}},
				Causes: run.Causes{"cause": {Count: 2, Example: "q1"}}, Faults: map[matrix.Fault]int64{matrix.FaultStep: 2},
			},
			Total: 7, Fed: 8, Live: 9, Pending: -1, Waiting: true, Finished: true, Failure: "q1: no", Retried: run.Retried{Tasks: 1, Flow: 2, Rows: 3, Other: 4},
			NewHops: 10, Tail: 11, Elapsed: 12 * time.Second,
		},
		Name:  "coral",
		Roles: []RoleSnapshot{{Name: "teacher", RoleProgress: run.RoleProgress{Waiting: 1, Acting: 2, Hops: 3, Inline: true}, Rate: 1.5, Where: "gpu != nil", Unserved: true}},
		Models: []ModelSnapshot{{Name: "model", Rate: 2.5, Stats: llm.Stats{
			InFlight: 1, Limit: 2, Waiting: 3, Calls: 4, Failed: 5, Seconds: 6.5, Retries: 7, PromptTokens: 8, CompletionTokens: 9, CachedTokens: 10, USD: 0.5,
			Paused: &llm.Trouble{Since: time.Unix(1e9, 0).UTC(), Kind: llm.Timeout, Msg: "late"}, Note: &llm.Trouble{Kind: llm.Fatal, Msg: "key"},
			Endpoints: []llm.EndpointStats{{URL: "http://h", InFlight: 1, Limit: 2, Calls: 3, Fault: &llm.Trouble{Kind: llm.Unreachable, Msg: "refused"}}},
		}}},
		Head: &WorkerState{ID: "head", State: "working", Roles: []string{"teacher"}, Heard: time.Unix(1e9, 0).UTC()},
		Workers: []WorkerState{{
			ID: "w1", Host: "h", PID: 5, Version: "v", Labels: map[string]string{"gpu": "h100"}, State: "working", Why: "no key", Roles: []string{"teacher"},
			Slots: 8, Silent: 6.5, Steps: map[string]run.RoleProgress{"teacher": {Acting: 3, Hops: 4}}, Heard: time.Unix(1e9, 0).UTC(),
		}},
		Rate:     3.5,
		Spending: &spend.Spending{USD: 1, Tokens: 2, Projected: &llm.Cost{USD: 3}, Limit: &llm.Cost{Tokens: 4}, Models: map[string]*spend.Spending{"model": {USD: 1}}},
	}
	b, err := json.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	var got Snapshot
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s\n%s", d, b)
	}
}

// A role is unserved where tasks wait for it, and neither this process nor a worker that
// works serves it. What acts is what those do who are there.
func TestUnserved(t *testing.T) {
	role := func(name string) RoleSnapshot {
		return RoleSnapshot{Name: name, RoleProgress: run.RoleProgress{Waiting: 1, Acting: 100}}
	}
	idle, inline := role("e"), role("f")
	idle.Waiting, inline.Inline = 0, true
	s := Snapshot{Roles: []RoleSnapshot{role("a"), role("b"), role("c"), role("d"), idle, inline, role("g")}}
	acting := func(n int) map[string]run.RoleProgress { return map[string]run.RoleProgress{"a": {Acting: n}} }
	s.join(&WorkerState{ID: headName, State: workerWorking, Roles: []string{"a"}, Steps: acting(1)}, []WorkerState{
		{ID: "w1", State: "working", Roles: []string{"b"}, Steps: acting(2)},
		{ID: "w2", State: "draining", Roles: []string{"c"}},
		{ID: "w3", State: "silent", Roles: []string{"g"}, Silent: 6},
	})
	if got, want := s.Unserved(), []string{"c", "d", "g"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := s.Roles[0].Acting; n != 3 || s.Head == nil {
		t.Errorf("%d steps are under way, want those of the head and of the worker: 3", n)
	}
	b, err := s.Summary()
	over := s
	over.Finished = true
	if over.join(nil, nil); len(over.Unserved()) > 0 {
		t.Errorf("a finished run: got %v", over.Unserved())
	}
	if err != nil || !strings.Contains(string(b), `"workers": 3`) || !strings.Contains(string(b), `"unserved": [`) {
		t.Errorf("summary: got %s, %v", b, err)
	}
}

// A worker that was not heard of for some seconds is silent, and at nothing.
func TestSilent(t *testing.T) {
	steps := map[string]run.RoleProgress{"a": {Acting: 2, Hops: 5}}
	h := &head{workers: map[string]*WorkerState{
		"w1": {ID: "w1", State: workerWorking, Steps: steps, Heard: time.Now()},
		"w2": {ID: "w2", State: workerWorking, Steps: steps, Heard: time.Now().Add(-time.Hour)},
	}}
	all := h.present()
	if w := all[0]; w.State != workerWorking || w.Silent != 0 || w.Steps["a"].Acting != 2 {
		t.Errorf("one that is heard of: got %+v", w)
	}
	if w := all[1]; w.State != workerSilent || w.Silent < 3600 || w.Steps["a"].Acting != 0 || w.Steps["a"].Hops != 5 {
		t.Errorf("one that is not: got %+v", w)
	}
	if h.workers["w2"].State != workerWorking || steps["a"].Acting != 2 {
		t.Errorf("what it told is changed: %+v", h.workers["w2"])
	}
}
