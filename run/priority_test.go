package run_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"matrix"
	"matrix/run"
)

// classes is a dataset of so many rows of each class, bulk rows first.
func classes(bulk, normal, urgent int) rows {
	all := numbered(bulk + normal + urgent)
	for i := range all {
		switch {
		case i < bulk:
			all[i].Priority = matrix.Bulk
		case i >= bulk+normal:
			all[i].Priority = matrix.Urgent
		}
	}
	return all
}

// seededFirst is a queue from which is taken once all that it is seeded with waits.
type seededFirst struct {
	run.Store
	seeded chan struct{}
	once   sync.Once
}

func (q *seededFirst) Seed(ctx context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	n, err := q.Store.Seed(ctx, seeds, checkpoints)
	if len(seeds) > 0 {
		q.once.Do(func() { close(q.seeded) })
	}
	return n, err
}

func (q *seededFirst) Take(ctx context.Context, role string, n int, ready func()) ([]matrix.Taken, error) {
	select {
	case <-q.seeded:
		return q.Store.Take(ctx, role, n, ready)
	case <-ctx.Done():
		return nil, nil
	}
}

// A role that does one step at a time takes, of all that wait, the highest class
// first, in it what is under way, and then what came first.
func TestUrgentFirst(t *testing.T) {
	for _, shards := range []int{1, 3} {
		b := newBed(t)
		b.shards = shards
		b.around = func(q run.Store) run.Store { return &seededFirst{Store: q, seeded: make(chan struct{})} }
		var order []string
		var left map[string]int // steps of each task
		var r *run.Run
		started := make(chan struct{})
		cfg := run.Config{
			Source: classes(3, 2, 2),
			Roles: map[string]matrix.Role{"a": {Concurrency: 1, Agent: matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
				<-started
				if left[t.ID]--; left[t.ID] == 0 {
					delete(left, t.ID)
				}
				waiting := len(left) // but this one
				if _, ok := left[t.ID]; ok {
					waiting--
				}
				for r.Progress().Roles["a"].Waiting < waiting { // the step before is still to be committed
					time.Sleep(100 * time.Microsecond)
				}
				order = append(order, fmt.Sprint(t.ID, ".", len(t.Turns)))
				return matrix.Turn{Text: "so"}, nil
			})}},
			Router: router(func(t *matrix.Task) matrix.Decision {
				if len(t.Turns) == 2 {
					return matrix.Finish(matrix.Value{})
				}
				return matrix.To("a")
			}),
		}
		_, err := b.with(cfg, func(x *run.Run, _ func()) {
			for r = x; r.Progress().Fed < 7 || r.Progress().Roles["a"].Acting == 0; {
				time.Sleep(time.Millisecond)
			}
			left = map[string]int{}
			for i := range 7 {
				left[fmt.Sprint("r", i)] = 2
			}
			close(started)
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(order) != 14 {
			t.Fatalf("%d shards: got %q, want 14 steps", shards, order)
		}
		for id, x := range b.tasks("data") {
			if want := classes(3, 2, 2)[slices.IndexFunc(numbered(7), func(r matrix.Row) bool { return r.ID == id })].Priority; x.Priority != want {
				t.Errorf("%d shards: %s is written as %v, want %v", shards, id, x.Priority, want)
			}
		}
		if shards > 1 {
			continue // each has an order of its own
		}
		// The next step is taken when one has ended, which is committed meanwhile.
		if want := []string{"r5.0", "r6.0", "r5.1", "r6.1", "r3.0", "r4.0", "r3.1", "r4.1", "r0.0", "r1.0", "r0.1", "r1.1", "r2.0", "r2.1"}; !slices.Equal(order, want) {
			t.Errorf("got %q, want %q", order, want)
		}
	}
}

// What a task has it keeps: over a kill, where another session says something else
// of its row, and where it failed and is tried again.
func TestPriorityIsTheTasks(t *testing.T) {
	b := newBed(t)
	var mu sync.Mutex
	ranks := map[string]matrix.Priority{}
	broken := true
	cfg := func(source rows) run.Config {
		return run.Config{
			Source: source, Live: 10, Seed: 1,
			Roles: map[string]matrix.Role{"a": {Attempts: 1, Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
				mu.Lock()
				defer mu.Unlock()
				ranks[t.ID] = t.Priority
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
		}
	}
	check := func(when string) {
		t.Helper()
		if len(ranks) != 3 || ranks["r0"] != matrix.Bulk || ranks["r1"] != matrix.Normal || ranks["r2"] != matrix.Urgent {
			t.Errorf("%s: got %v", when, ranks)
		}
		clear(ranks)
	}
	stop := cfg(classes(1, 1, 1))
	stop.Roles = map[string]matrix.Role{"a": {Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		<-ctx.Done()
		return matrix.Turn{}, ctx.Err()
	})}}
	_, err := b.with(stop, func(r *run.Run, cancel func()) {
		for r.Progress().Fed < 3 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	})
	if !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	b.run(cfg(classes(0, 3, 0)))
	check("resumed")
	for id, x := range b.tasks("failed") {
		if ranks[id] = x.Priority; x.Outcome.Fault != matrix.FaultStep {
			t.Errorf("%s failed by %s", id, x.Outcome.Fault)
		}
	}
	check("failed")
	broken = false
	again := cfg(classes(0, 3, 0))
	again.Retry = &run.Retry{Begin: true}
	b.run(again)
	check("tried again")
}

// A class that does not exist fails its row alone.
func TestPriorityThatIsNone(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(2)
	source := numbered(3)
	source[1].Priority = 7
	cfg.Source = source
	if p := b.run(cfg); p.Done != 2 || p.Failed != 1 || p.Failure != "r1: there is no priority 7" {
		t.Errorf("got %d done, %d failed, %s", p.Done, p.Failed, p.Failure)
	}
	b.verify(source, 1)
}
