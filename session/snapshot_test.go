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
		Workers: []WorkerState{{
			ID: "w1", Host: "h", PID: 5, Version: "v", Labels: map[string]string{"gpu": "h100"}, State: "working", Why: "no key", Roles: []string{"teacher"},
			Slots: 8, Steps: map[string]run.RoleProgress{"teacher": {Acting: 3, Hops: 4}}, Heard: time.Unix(1e9, 0).UTC(),
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

// A role is unserved where neither this process nor a worker that works serves it.
func TestUnserved(t *testing.T) {
	s := Snapshot{Roles: []RoleSnapshot{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "e", RoleProgress: run.RoleProgress{Inline: true}}}}
	s.join([]WorkerState{
		{ID: "w1", State: "working", Roles: []string{"b"}},
		{ID: "w2", State: "draining", Roles: []string{"c"}},
	}, map[string]bool{"a": true})
	if got, want := s.Unserved(), []string{"c", "d"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	b, err := s.Summary()
	over := s
	over.Finished = true
	if over.join(nil, nil); len(over.Unserved()) > 0 {
		t.Errorf("a finished run: got %v", over.Unserved())
	}
	if err != nil || !strings.Contains(string(b), `"workers": 2`) || !strings.Contains(string(b), `"unserved": [`) {
		t.Errorf("summary: got %s, %v", b, err)
	}
}
