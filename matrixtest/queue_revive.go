package matrixtest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"matrix"
)

// revives: what has failed comes back with a new log, others are noted where they
// stand, and checkpoints go with both.
func revives(t *testing.T, s *suite) {
	ctx := context.Background()
	s.seed("bad", "x", "y")
	s.settle("bad", matrix.Failed)
	s.seed("good", "z")
	s.settle("good", matrix.Done)
	s.seed("a", "w")
	seeds := []matrix.Seed{
		{Task: "x", Row: 99, Role: "b", Priority: 2, Record: []byte("x/again")},
		{Task: "x", Role: "c", Record: []byte("twice")},
		{Task: "z", Role: "b", Record: []byte("it is done")},
		{Task: "w", Role: "b", Record: []byte("it is live")},
		{Task: "u", Role: "b", Record: []byte("nobody knows it")},
	}
	moved := map[string]matrix.Place{"y": {Part: 3, Line: 7}, "z": {Part: 3, Line: 8}, "w": {Part: 3, Line: 9}, "v": {}}
	n, err := s.q.Revive(ctx, seeds, moved, map[string][]byte{"totals": []byte("1 less")})
	if n != 1 || err != nil {
		t.Fatalf("revive: got %d, %v; want 1: of the others none has failed", n, err)
	}
	check := func(when string) {
		t.Helper()
		for id, want := range map[string]matrix.Fate{
			"x": {Status: matrix.Pending, Row: 0, Part: -1},
			"y": {Status: matrix.Failed, Row: 1, Part: 3, Line: 7},
			"z": {Status: matrix.Done, Row: 0},
			"w": {Status: matrix.Pending, Row: 0, Part: -1},
		} {
			if f, err := s.q.Lookup(ctx, id); err != nil || f[0] != want {
				t.Errorf("%s: lookup %s: got %+v, %v; want %+v", when, id, f, err, want)
			}
		}
		for _, id := range []string{"u", "v"} {
			if f, err := s.q.Lookup(ctx, id); err != nil || f[0].Status != "" {
				t.Errorf("%s: lookup %s: got %v, %v; want nothing", when, id, f, err)
			}
		}
		if b, err := s.q.Checkpoint(context.Background(), "totals"); string(b) != "1 less" || err != nil {
			t.Errorf("%s: checkpoint: got %q, %v", when, b, err)
		}
		if n, b, c := s.q.Counts().Live, s.q.Counts().Waiting["b"], s.q.Counts().Waiting["c"]; n != 2 || b != 1 || c != 0 {
			t.Errorf("%s: got %d live, %d for b and %d for c; want 2, 1 and 0", when, n, b, c)
		}
		m, ok, err := s.q.Peek(context.Background(), "x")
		if err != nil || !ok || m.Role != "b" || m.Hop != 0 || m.Attempt != 0 || m.Priority != 2 || s.log(m) != "x/again" {
			t.Errorf("%s: peek x: got %+v, %v, %v; want the new record alone", when, m, ok, err)
		}
	}
	check("at once")
	s.reopen()
	check("opened again")
	s.consume("b", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if got := s.log(m); got != "x/again" || m.Task != "x" {
			t.Errorf("delivery: got %s with log %q", m.Task, got)
		}
		return matrix.Step{Role: "sink", Record: []byte("x/1")}, true, nil
	})
	if m, ok, err := s.q.Peek(context.Background(), "x"); err != nil || !ok || s.log(m) != "x/again x/1" {
		t.Errorf("after a hop: got %+v, %v, %v", m, ok, err)
	}
	if n, err := s.q.Seed(ctx, []matrix.Seed{{Task: "x", Role: "a"}}, nil); n != 0 || err != nil {
		t.Errorf("a revived task is known: added %d, %v", n, err)
	}
	s.settle("sink", matrix.Failed)
	if n, err := s.q.Revive(ctx, []matrix.Seed{{Task: "x", Role: "b", Record: []byte("once more")}}, nil, nil); n != 1 || err != nil {
		t.Errorf("revive it again: got %d, %v; want 1", n, err)
	}
	s.reopen()
	if m, ok, err := s.q.Peek(context.Background(), "x"); err != nil || !ok || s.log(m) != "once more" {
		t.Errorf("revived twice: got %+v, %v, %v", m, ok, err)
	}
	if _, err := s.q.Revive(ctx, []matrix.Seed{{Task: "y"}}, nil, map[string][]byte{"totals": []byte("no")}); err == nil {
		t.Error("a seed for no role was taken")
	}
	if b, _ := s.q.Checkpoint(context.Background(), "totals"); string(b) != "1 less" {
		t.Errorf("a refused revival has set a checkpoint: %q", b)
	}
	if err := s.q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.q.Revive(ctx, nil, nil, nil); !errors.Is(err, matrix.ErrClosed) {
		t.Errorf("revive after a close: got %v, want %v", err, matrix.ErrClosed)
	}
	s.reopen()
}

// revivesMany: tasks come back and fail again, round after round, and none is
// lost or doubled.
func revivesMany(t *testing.T, s *suite) {
	const n, rounds = 300, 5
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("t%03d", i))
	}
	s.seed("bad", ids...)
	for round := range rounds {
		s.settle("bad", matrix.Failed)
		if got := s.q.Counts().Live; got != 0 {
			t.Fatalf("round %d: %d live after all have settled", round, got)
		}
		for i := 0; i < n; i += 50 {
			var seeds []matrix.Seed
			for _, id := range ids[i : i+50] {
				seeds = append(seeds, matrix.Seed{Task: id, Role: "again", Record: fmt.Appendf(nil, "%s/%d", id, round)})
			}
			if got, err := s.q.Revive(context.Background(), seeds, nil, nil); got != 50 || err != nil {
				t.Fatalf("round %d: revived %d, %v; want 50", round, got, err)
			}
		}
		s.reopen()
		left := n
		s.consume("again", 3, func(m *matrix.Message) (matrix.Step, bool, error) {
			if got, want := s.log(m), fmt.Sprintf("%s/%d", m.Task, round); got != want {
				t.Errorf("log of %s: got %q, want %q", m.Task, got, want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			left--
			return matrix.Step{Role: "bad", Record: []byte("x")}, left == 0, nil
		})
	}
}
