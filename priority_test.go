package matrix_test

import (
	"encoding/json"
	"slices"
	"testing"

	"matrix"
)

func TestPriority(t *testing.T) {
	for i, name := range matrix.Priorities() {
		var p matrix.Priority
		if err := p.UnmarshalText([]byte(name)); err != nil || p != matrix.Bulk+matrix.Priority(i) || p.String() != name {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	for _, name := range []string{"", "Urgent", "high", "0"} {
		if err := new(matrix.Priority).UnmarshalText([]byte(name)); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, p := range []matrix.Priority{-2, 2} {
		if p.Check() == nil || p.String() == "" {
			t.Errorf("%d is a priority", int(p))
		}
		if b, err := json.Marshal(p); err == nil {
			t.Errorf("%d is written as %s", int(p), b)
		}
	}
	var old matrix.Task
	if err := json.Unmarshal([]byte(`{"id":"a"}`), &old); err != nil || old.Priority != matrix.Normal {
		t.Errorf("got %v, %v of a task without a priority, want normal", old.Priority, err)
	}
}

// Class goes before class, and in a class what is under way before what is new.
func TestRank(t *testing.T) {
	opened, acted := []matrix.Turn{{Role: "user"}}, []matrix.Turn{{Role: "user"}, {Role: "a", Hop: 1}}
	var ranks []int
	for _, p := range []matrix.Priority{matrix.Bulk, matrix.Normal, matrix.Urgent} {
		for _, turns := range [][]matrix.Turn{opened, acted} {
			ranks = append(ranks, (&matrix.Task{Priority: p, Turns: turns}).Rank())
		}
	}
	if !slices.IsSorted(ranks) || len(slices.Compact(slices.Clone(ranks))) != 6 {
		t.Errorf("got %v, want six that rise", ranks)
	}
	// Messages that runs of before left in their queues: 0 new, 1 under way.
	if got := ranks[2:4]; !slices.Equal(got, []int{0, 1}) {
		t.Errorf("normal tasks have %v, want 0 and 1", got)
	}
}
