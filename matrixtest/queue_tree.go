package matrixtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
)

// at checks where a task waits, and its log.
func (s *suite) at(task, role, log string) *matrix.Message {
	s.Helper()
	m, ok, err := s.q.Peek(s.Context(), task)
	if err != nil || !ok {
		s.Fatalf("peek %s: got %v, %v", task, ok, err)
	}
	if got := s.log(m); m.Role != role || got != log {
		s.Errorf("%s waits for %s with the log %q; want %s and %q", task, m.Role, got, role, log)
	}
	return m
}

// fates checks what became of tasks: pairs of a task and its status.
func (s *suite) fates(pairs ...string) {
	s.Helper()
	for i := 0; i < len(pairs); i += 2 {
		f, err := s.q.Lookup(s.Context(), pairs[i])
		if err != nil || f[0].Status != matrix.Status(pairs[i+1]) {
			s.Errorf("%s: got %+v, %v; want %q", pairs[i], f, err, pairs[i+1])
		}
	}
}

// live checks which tasks are pending.
func (s *suite) live(want ...string) {
	s.Helper()
	var got []string
	if err := s.q.Live(s.Context(), func(id string) error { got = append(got, id); return nil }); err != nil {
		s.Error(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.Errorf("live: got %q, want %q", got, want)
	}
}

func (s *suite) commit(t matrix.Taken, step matrix.Step) {
	s.Helper()
	if err := errors.Join(t.Commit(step, nil), s.q.Flush(s.Context())); err != nil {
		s.Fatalf("commit a step of %s: %v", t.Message().Task, err)
	}
}

// collect settles one batch of what waits for role as done, together with appends.
func (s *suite) collect(role string, appends map[string]matrix.Step) error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return s.q.Collect(ctx, role, 100, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		st := matrix.Settlement{Appends: appends, Checkpoints: map[string][]byte{"sink": []byte(ms[0].Task)}, Then: cancel}
		for range ms {
			st.Fates = append(st.Fates, matrix.Fate{Status: matrix.Done})
		}
		return st, nil
	})
}

func (s *suite) claim(task string, hop int) matrix.Taken {
	s.Helper()
	x, ok, err := s.q.Claim(task, hop)
	if err != nil || !ok {
		s.Fatalf("claim %s at hop %d: got %v, %v", task, hop, ok, err)
	}
	return x
}

func child(task, role string) matrix.Seed {
	return matrix.Seed{Task: task, Row: 7, Role: role, Priority: 2, Record: []byte(task + "/0")}
}

// begets: children begin with a step of their parent, or neither is there; with each
// step the parent's log says how far it has come.
func begets(t *testing.T, s *suite) {
	s.seed("grow", "p")
	s.seed("z", "known")
	p := s.take("grow", 1, nil, "p")[0]
	first := matrix.Step{Role: "grow", Record: []byte("2 of 3"), Children: []matrix.Seed{child("b", "a"), child("known", "a"), child("c", "a"), child("b", "z")}}
	for what, bad := range map[string]matrix.Seed{"to no role": child("bad", ""), "without an id": child("", "a")} {
		step := matrix.Step{Role: "grow", Children: []matrix.Seed{child("good", "a"), bad}}
		if err := p.Commit(step, nil); !errors.As(err, new(*matrix.StopError)) {
			t.Errorf("a child %s: got %v, want a stop", what, err)
		}
		p = s.take("grow", 1, nil, "p")[0]
	}
	told := false
	if err := p.Commit(first, func() {
		told = true
		s.waiting("grow", 0)
		s.waiting("a", 0)
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.q.Flush(t.Context()); err != nil || !told {
		t.Errorf("after a flush: told %v, %v; want that the step is durable", told, err)
	}
	if err := p.Commit(matrix.Step{Role: "grow", Children: []matrix.Seed{child("late", "a")}}, nil); !errors.Is(err, matrix.ErrLost) {
		t.Errorf("a second commit: got %v, want %v", err, matrix.ErrLost)
	}
	for range 2 {
		s.waiting("a", 2)
		if n := s.q.Counts().Live; n != 4 {
			t.Errorf("live: got %d, want the parent, two children and another", n)
		}
		s.fates("b", "owed", "c", "owed", "good", "", "bad", "", "late", "")
		s.live("b", "c", "known", "p")
		s.at("p", "grow", "p/0 2 of 3")
		s.at("known", "z", "known/0")
		if m := s.at("b", "a", "b/0"); m.Priority != 2 {
			t.Errorf("b has the priority %d, want 2", m.Priority)
		}
		if f, err := s.q.Lookup(t.Context(), "b"); err != nil || f[0].Row != 7 {
			t.Errorf("b: got %+v, %v; want the row of its seed", f, err)
		}
		// A crash before the next step leaves it to whoever comes after.
		for _, x := range append(s.take("grow", 1, nil, "p"), s.take("a", 2, nil, "b", "c")...) {
			x.Return(nil)
		}
		s.reopen()
	}
	s.commit(s.take("grow", 1, nil, "p")[0], matrix.Step{Role: "end", Record: []byte("3 of 3"), Children: []matrix.Seed{child("c", "a"), child("d", "a")}})
	s.settle("end", matrix.Done)
	s.settle("a", matrix.Done)
	s.reopen()
	all := map[string]int64{}
	if err := s.q.Walk(t.Context(), func(id string, f matrix.Fate) error { all[id] = f.Row; return nil }); err != nil {
		t.Error(err)
	}
	if want := map[string]int64{"p": 0, "b": 7, "c": 7, "d": 7, "known": 0}; fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("ledger, with rows: got %v, want %v", all, want)
	}
	s.fates("p", "done", "b", "done", "c", "done", "d", "done", "known", "owed")
	s.live("known")
}

// waits: a parent waits for a role that nobody takes; with the fates of its children
// its log grows, and it is made ready.
func waits(t *testing.T, s *suite) {
	s.seed("grow", "p")
	s.commit(s.take("grow", 1, nil, "p")[0], matrix.Step{Role: "wait", Record: []byte("p/1"), Children: []matrix.Seed{child("b", "end"), child("c", "later"), child("d", "later")}})
	result := func(role, record string) map[string]matrix.Step {
		return map[string]matrix.Step{"p": {Role: role, Priority: 3, Record: []byte(record)}, "nobody": {Role: "a"}, "gone": {Record: []byte("x")}}
	}
	s.seed("z", "gone")
	s.settle("z", matrix.Failed)
	// All of it, or nothing.
	full := errors.New("disk full")
	if err := s.q.Collect(t.Context(), "end", 10, func(context.Context, []*matrix.Message) (matrix.Settlement, error) {
		return matrix.Settlement{Fates: make([]matrix.Fate, 1), Appends: result("a", "no")}, full
	}); !errors.Is(err, full) {
		t.Errorf("collect: got %v, want %v", err, full)
	}
	for what, bad := range map[string]matrix.Step{
		"to a role that cannot be": {Role: strings.Repeat("r", 256)},
		"with children":            {Children: []matrix.Seed{child("e", "a")}},
	} {
		if err := s.collect("end", map[string]matrix.Step{"p": bad}); err == nil {
			t.Errorf("an append %s was taken", what)
		}
	}
	s.at("p", "wait", "p/0 p/1")
	s.fates("b", "owed", "e", "")
	s.claim("p", 1).Return(&matrix.RetryError{Err: errors.New("spent")})
	if err := s.collect("end", result("", "b")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m := s.at("p", "wait", "p/0 p/1 b"); m.Attempt != 1 {
			t.Errorf("attempts: got %d, want 1: an append is not a new hop", m.Attempt)
		}
		s.fates("b", "done", "nobody", "", "gone", "failed")
		want := matrix.Counts{Live: 3, Waiting: map[string]int{"wait": 1, "later": 2}}
		if n := s.q.Counts(); fmt.Sprint(n) != fmt.Sprint(want) {
			t.Errorf("counts: got %+v, want %+v", n, want)
		}
		if checkpoint, err := s.q.Checkpoint(t.Context(), "sink"); string(checkpoint) != "b" || err != nil {
			t.Errorf("checkpoint: got %q, %v; want it set with the fate", checkpoint, err)
		}
		s.reopen()
	}
	// Another is in somebody's hands meanwhile: what it leads to comes behind.
	x := s.claim("p", 2)
	s.commit(s.take("later", 1, nil, "c")[0], matrix.Step{Role: "end"})
	if err := s.collect("end", result("a", "no")); err == nil {
		t.Error("a task in somebody's hands was made ready")
	}
	s.fates("c", "owed")
	s.waiting("end", 1)
	if err := s.collect("end", result("", "c")); err != nil {
		t.Fatal(err)
	}
	if m := x.Message(); m.Hop != 2 || s.log(m) != "p/0 p/1 b" {
		t.Errorf("in somebody's hands: got %+v, want what was taken", m)
	}
	x.Return(nil)
	if _, ok, err := s.q.Claim("p", 2); ok || err != nil {
		t.Errorf("claim at an older hop: got %v, %v", ok, err)
	}
	s.claim("p", 3).Return(nil)
	s.reopen()
	s.at("p", "wait", "p/0 p/1 b c")
	x = s.claim("p", 3)
	s.commit(x, matrix.Step{Role: "wait", Record: []byte("p/2")})
	x = s.take("wait", 1, nil, "p")[0]
	x.Return(&matrix.RetryError{Err: errors.New("in an hour"), After: time.Hour})
	s.commit(s.take("later", 1, nil, "d")[0], matrix.Step{Role: "end"})
	called := make(chan struct{})
	s.take("a", 1, func() { close(called) })
	if err := s.collect("end", result("a", "d")); err != nil {
		t.Fatal(err)
	}
	<-called
	s.reopen()
	if m := s.at("p", "a", "p/0 p/1 b c p/2 d"); m.Priority != 3 || m.Attempt != 0 {
		t.Errorf("made ready: got %+v, want the priority 3 and no attempts", m)
	}
	s.commit(s.take("a", 1, nil, "p")[0], matrix.Step{Role: "end", Record: []byte("joined")})
	s.settle("end", matrix.Done)
	s.reopen()
	if n := s.q.Counts(); n.Live != 0 || len(n.Waiting) != 0 {
		t.Errorf("at the end: got %+v, want nothing", n)
	}
	s.fates("p", "done", "b", "done", "c", "done", "d", "done")
}

// begetsAgain: a parent that has failed and comes back finds the children that it had.
func begetsAgain(t *testing.T, s *suite) {
	brood := []matrix.Seed{child("b", "end"), child("c", "a"), child("d", "bad")}
	s.seed("grow", "p")
	s.commit(s.take("grow", 1, nil, "p")[0], matrix.Step{Role: "bad", Record: []byte("p/1"), Children: brood[:2]})
	s.settle("bad", matrix.Failed)
	if err := s.collect("end", map[string]matrix.Step{"p": {Record: []byte("it has failed")}}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.q.Revive(t.Context(), []matrix.Seed{{Task: "p", Role: "grow", Record: []byte("again")}}, nil, nil); n != 1 || err != nil {
		t.Fatalf("revive: got %d, %v; want 1", n, err)
	}
	s.reopen()
	s.at("p", "grow", "again")
	s.commit(s.take("grow", 1, nil, "p")[0], matrix.Step{Role: "wait", Record: []byte("again/1"), Children: brood})
	s.reopen()
	s.fates("p", "owed", "b", "done", "c", "owed", "d", "owed")
	s.at("c", "a", "c/0")
	s.settle("bad", matrix.Failed) // a child that fails and comes back is one all the same
	if n, err := s.q.Revive(t.Context(), []matrix.Seed{child("d", "a")}, nil, nil); n != 1 || err != nil {
		t.Fatalf("revive a child: got %d, %v; want 1", n, err)
	}
	for _, x := range s.take("a", 5, nil, "c", "d") {
		s.commit(x, matrix.Step{Role: "end"})
	}
	if err := s.collect("end", map[string]matrix.Step{"p": {Role: "a", Record: []byte("c d")}}); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	s.at("p", "a", "again again/1 c d")
	s.fates("b", "done", "c", "done", "d", "done")
}

// forest grows many trees at once, in batches, over reopenings: each child is settled
// once, and each parent is made ready once it knows of all of its own.
func forest(t *testing.T, s *suite) {
	const trees, brood, some = 20, 50, 7
	var roots []string
	for i := range trees {
		roots = append(roots, fmt.Sprint("p", i))
	}
	s.seed("grow", roots...)
	grown := func(log []string) (n int) { // how far the log says that the brood has begun
		for _, r := range log {
			_, _ = fmt.Sscanf(r, "begun %d", &n)
		}
		return n
	}
	told := func(log []string) map[string]bool { // the children that it tells of
		of := map[string]bool{}
		for _, r := range log {
			if ids, ok := strings.CutPrefix(r, "ended "); ok {
				for id := range strings.FieldsSeq(ids) {
					if of[id] {
						t.Errorf("%s is told of twice", id)
					}
					of[id] = true
				}
			}
		}
		return of
	}
	read := func(m *matrix.Message) (log []string) {
		rs, err := m.Log(context.Background(), 0)
		if err != nil {
			t.Error(err)
		}
		for _, r := range rs {
			log = append(log, string(r))
		}
		return log
	}
	settled := map[string]int{}
	roles := map[string]func(m *matrix.Message) matrix.Step{
		"grow": func(m *matrix.Message) matrix.Step {
			from := grown(read(m))
			to := min(from+some, brood)
			step := matrix.Step{Role: "grow", Record: fmt.Appendf(nil, "begun %d", to)}
			if to == brood {
				step.Role = "wait"
			}
			for i := from; i < to; i++ {
				step.Children = append(step.Children, matrix.Seed{Task: fmt.Sprint(m.Task, ".", i), Role: "a"})
			}
			return step
		},
		"a":    func(m *matrix.Message) matrix.Step { return matrix.Step{Role: []string{"a", "end"}[rand.IntN(2)]} },
		"join": func(m *matrix.Message) matrix.Step { return matrix.Step{Role: "end"} },
	}
	for round := 0; len(settled) < trees*(brood+1); round++ {
		if round > 200 {
			t.Fatalf("%d of %d tasks settled after %d rounds", len(settled), trees*(brood+1), round)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var steps atomic.Int64
		var wg sync.WaitGroup
		for role, act := range roles {
			wg.Go(func() {
				if err := matrix.Consume(ctx, s.q, role, matrix.Slots(4), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
					if steps.Add(1) == 200 {
						cancel()
					}
					if rand.IntN(10) == 0 {
						return matrix.Step{}, &matrix.RetryError{Err: errors.New("chance"), Free: rand.IntN(2) == 0, After: time.Millisecond}
					}
					return act(m), nil
				}); err != nil {
					t.Errorf("consume %s: %v", role, err)
				}
			})
		}
		wg.Go(func() {
			if err := s.q.Collect(ctx, "end", 20, func(ctx context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				st := matrix.Settlement{Appends: map[string]matrix.Step{}}
				ended := map[string]string{} // the children of a parent in this batch
				for _, m := range ms {
					st.Fates = append(st.Fates, matrix.Fate{Status: matrix.Done})
					if settled[m.Task]++; settled[m.Task] > 1 {
						t.Errorf("%s was settled %d times", m.Task, settled[m.Task])
					}
					if parent, _, ok := strings.Cut(m.Task, "."); ok {
						ended[parent] += m.Task + " "
					} else if log := read(m); len(told(log)) != brood || grown(log) != brood {
						t.Errorf("%s has joined %d of %d children that have begun; want %d", m.Task, len(told(log)), grown(log), brood)
					}
				}
				for parent, ids := range ended {
					m, ok, err := s.q.Peek(ctx, parent)
					if err != nil || !ok {
						return st, fmt.Errorf("peek %s: %v, %w", parent, ok, err)
					}
					step := matrix.Step{Record: []byte("ended " + ids)}
					if len(told(append(read(m), string(step.Record)))) == brood {
						step.Role = "join"
					}
					st.Appends[parent] = step
				}
				st.Then = func() {
					if len(settled) == trees*(brood+1) {
						cancel()
					}
				}
				return st, nil
			}); err != nil {
				t.Errorf("collect: %v", err)
				cancel()
			}
		})
		wg.Wait()
		cancel()
		s.reopen()
		begun := 0
		if err := s.q.Walk(t.Context(), func(string, matrix.Fate) error { begun++; return nil }); err != nil {
			t.Fatal(err)
		}
		want := trees
		for _, root := range roots {
			if m, ok, err := s.q.Peek(t.Context(), root); err != nil {
				t.Fatal(err)
			} else if ok {
				want += grown(read(m))
			} else {
				want += brood
			}
		}
		if n := s.q.Counts().Live; begun != want || n != want-len(settled) {
			t.Fatalf("the ledger has %d tasks, %d of them live; want %d, as the parents' logs say, and %d", begun, n, want, want-len(settled))
		}
	}
}

// endsMeanwhile: an append to a task that another Collect settles at the same time is
// there before, or left out: nothing of the task is left.
func endsMeanwhile(t *testing.T, s *suite) {
	const n = 100
	for i := range n {
		s.seed("parents", fmt.Sprint("p", i))
		s.seed("children", fmt.Sprint("c", i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var settled atomic.Int64
	for _, role := range []string{"parents", "children"} {
		wg.Go(func() {
			if err := s.q.Collect(ctx, role, 1, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				st := matrix.Settlement{Fates: []matrix.Fate{{Status: matrix.Done}}}
				if i, ok := strings.CutPrefix(ms[0].Task, "c"); ok {
					st.Appends = map[string]matrix.Step{"p" + i: {Record: []byte("ended")}}
				}
				st.Then = func() {
					if settled.Add(1) == 2*n {
						cancel()
					}
				}
				return st, nil
			}); err != nil {
				t.Errorf("collect %s: %v", role, err)
			}
		})
	}
	wg.Wait()
	s.reopen()
	if c := s.q.Counts(); settled.Load() != 2*n || c.Live != 0 || len(c.Waiting) != 0 {
		t.Errorf("%d of %d tasks were settled, and %+v are left; want none", settled.Load(), 2*n, c)
	}
}
