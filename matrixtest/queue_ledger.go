package matrixtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
)

func collects(t *testing.T, s *suite) {
	s.seed("a", "w", "x", "y")
	s.seed("done", "z")
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		return matrix.Step{Role: "done", Record: []byte(m.Task + "/1")}, m.Task == "y", nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	want := map[string]matrix.Fate{}
	line := 0
	err := s.q.Collect(ctx, "done", 3, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		if len(ms) > 3 {
			t.Errorf("a batch of %d, want at most 3", len(ms))
		}
		st := matrix.Settlement{Checkpoints: map[string][]byte{"sink": fmt.Append(nil, line+len(ms))}}
		for _, m := range ms {
			f := matrix.Fate{Status: matrix.Done, Part: 2, Line: line}
			if m.Task == "x" {
				f.Status = matrix.Failed
			}
			if m.Task != "z" {
				if got := s.log(m); got != m.Task+"/0 "+m.Task+"/1" {
					t.Errorf("log of %s: got %q", m.Task, got)
				}
			}
			line++
			st.Fates = append(st.Fates, f)
			f.Row = map[string]int64{"w": 0, "x": 1, "y": 2, "z": 0}[m.Task]
			want[m.Task] = f
		}
		if line == 4 {
			cancel()
		}
		return st, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := map[string]matrix.Fate{}
		if err := s.q.Walk(context.Background(), func(id string, f matrix.Fate) error { got[id] = f; return nil }); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("ledger: got %v, want %v", got, want)
		}
		if checkpoint, err := s.q.Checkpoint(context.Background(), "sink"); string(checkpoint) != "4" || err != nil {
			t.Errorf("checkpoint: got %q, %v; want 4", checkpoint, err)
		}
		if n := s.q.Counts().Live; n != 0 {
			t.Errorf("live: got %d, want 0", n)
		}
		if _, ok, err := s.q.Peek(context.Background(), "x"); ok || err != nil {
			t.Errorf("peek of a settled task: got %v, %v; want nothing", ok, err)
		}
		s.reopen()
	}
}

// collectDrains: the end of Stopping ends a Collect once nothing waits any more, and
// the end of its context at once.
func collectDrains(t *testing.T, s *suite) {
	s.seed("done", "v", "w", "x", "y", "z")
	soft, stop := context.WithCancel(context.Background())
	stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	settle := func(ctx context.Context) (n int) {
		err := s.q.Collect(ctx, "done", 2, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			n += len(ms)
			st := matrix.Settlement{}
			for range ms {
				st.Fates = append(st.Fates, matrix.Fate{Status: matrix.Done})
			}
			return st, nil
		})
		if err != nil || ctx.Err() != nil && n > 0 {
			t.Errorf("collect: %d settled, %v; the context: %v", n, err, ctx.Err())
		}
		return n
	}
	if n := settle(soft); n != 0 {
		t.Errorf("under a context that is done: %d settled, want none", n)
	}
	if n := settle(matrix.WithStopping(ctx, soft)); n != 5 {
		t.Errorf("settled: got %d, want all 5", n)
	}
	if n := settle(matrix.WithStopping(ctx, soft)); n != 0 {
		t.Errorf("where nothing waits: %d settled", n)
	}
}

func collectFails(t *testing.T, s *suite) {
	s.seed("done", "x", "y")
	full := errors.New("disk full")
	err := s.q.Collect(context.Background(), "done", 10, func(context.Context, []*matrix.Message) (matrix.Settlement, error) {
		return matrix.Settlement{Checkpoints: map[string][]byte{"sink": []byte("no")}}, full
	})
	if !errors.Is(err, full) {
		t.Errorf("collect: got %v, want %v", err, full)
	}
	if n := s.q.Counts().Waiting["done"]; n != 2 {
		t.Errorf("waiting: got %d, want 2", n)
	}
	if checkpoint, err := s.q.Checkpoint(context.Background(), "sink"); checkpoint != nil || err != nil {
		t.Errorf("checkpoint: got %q, %v; want none", checkpoint, err)
	}
}

func peeks(t *testing.T, s *suite) {
	s.seed("a", "x")
	for range 2 {
		m, ok, err := s.q.Peek(context.Background(), "x")
		if err != nil || !ok || m.Task != "x" || m.Role != "a" || s.log(m) != "x/0" {
			t.Errorf("peek: got %+v, %v, %v", m, ok, err)
		}
	}
	if _, ok, err := s.q.Peek(context.Background(), "nobody"); ok || err != nil {
		t.Errorf("peek of nobody: got %v, %v", ok, err)
	}
	if n := s.q.Counts().Waiting["a"]; n != 1 {
		t.Errorf("waiting: got %d, want 1", n)
	}
}

// storm moves many tasks through random roles, errors and reopenings, and
// checks that each log is the task's one history.
func storm(t *testing.T, s *suite) {
	const tasks, hops = 400, 12
	roles := []string{"a", "b", "c"}
	ids := make([]string, tasks)
	for i := range ids {
		ids[i] = fmt.Sprintf("t%04d", i)
	}
	s.seed("a", ids...)
	settled := map[string]bool{}
	for round := 0; len(settled) < tasks; round++ {
		if round > 100 {
			t.Fatalf("%d of %d tasks settled after %d rounds", len(settled), tasks, round)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var steps atomic.Int64
		var wg sync.WaitGroup
		for _, name := range roles {
			wg.Go(func() {
				err := matrix.Consume(ctx, s.q, name, matrix.Slots(4), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
					if steps.Add(1) == 700 {
						cancel()
					}
					rs, err := m.Log(context.Background(), 0)
					if err != nil {
						t.Error(err)
					}
					for i, r := range rs {
						if want := fmt.Sprintf("%s/%d", m.Task, i); string(r) != want {
							t.Errorf("record %d: got %q, want %q", i, r, want)
						}
					}
					if len(rs) != m.Hop+1 {
						t.Errorf("%s: %d records at hop %d", m.Task, len(rs), m.Hop)
					}
					if rand.IntN(10) == 0 {
						return matrix.Step{}, &matrix.RetryError{Err: errors.New("chance"), Free: rand.IntN(2) == 0}
					}
					to := roles[rand.IntN(3)]
					if m.Hop == hops {
						to = "done"
					}
					return matrix.Step{Role: to, Priority: rand.IntN(3), Record: fmt.Appendf(nil, "%s/%d", m.Task, m.Hop+1)}, nil
				})
				if err != nil {
					t.Errorf("consume %s: %v", name, err)
				}
			})
		}
		wg.Go(func() {
			err := s.q.Collect(ctx, "done", 50, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				fates := make([]matrix.Fate, len(ms))
				for i, m := range ms {
					if settled[m.Task] {
						t.Errorf("%s was settled twice", m.Task)
					}
					settled[m.Task] = true
					fates[i].Status = matrix.Done
				}
				if len(settled) == tasks {
					cancel()
				}
				return matrix.Settlement{Fates: fates}, nil
			})
			if err != nil {
				t.Errorf("collect: %v", err)
			}
		})
		wg.Wait()
		s.reopen()
		if got := s.q.Counts().Live; got != tasks-len(settled) {
			t.Fatalf("live after a reopen: got %d, want %d", got, tasks-len(settled))
		}
	}
}
