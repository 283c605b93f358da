package matrixtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
)

// take takes messages for role, and wants these tasks in this order.
func (s *suite) take(role string, n int, ready func(), want ...string) []matrix.Taken {
	s.Helper()
	ts, err := s.q.Take(s.Context(), role, n, ready)
	if err != nil {
		s.Fatalf("take %d for %s: %v", n, role, err)
	}
	got := []string{}
	for _, t := range ts {
		got = append(got, t.Message().Task)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Fatalf("take %d for %s: got %v, want %v", n, role, got, want)
	}
	return ts
}

func (s *suite) waiting(role string, want int) {
	s.Helper()
	if got := s.q.Counts().Waiting[role]; got != want {
		s.Errorf("waiting for %s: got %d, want %d", role, got, want)
	}
}

// takes: what is taken nobody else gets, until it is returned.
func takes(t *testing.T, s *suite) {
	s.take("a", 5, nil)
	s.seed("a", "x", "y", "z")
	ts := s.take("a", 2, nil, "x", "y")
	s.waiting("a", 1)
	if n := s.q.Counts().Live; n != 3 {
		t.Errorf("live: got %d, want 3", n)
	}
	z := s.take("a", 5, nil, "z")
	s.take("a", 1, nil)
	ts[1].Return(nil)
	z[0].Return(&matrix.RetryError{Err: errors.New("spent")})
	s.waiting("a", 2)
	again := s.take("a", 5, nil, "y", "z")
	for i, want := range []int{0, 1} {
		if m := again[i].Message(); m.Attempt != want || s.log(m) != m.Task+"/0" {
			t.Errorf("%s came back as %+v, want %d attempts", m.Task, m, want)
		}
		again[i].Return(nil)
	}
	ts[0].Return(nil)
}

// calls: a queue calls once when there is more to take than was taken.
func calls(t *testing.T, s *suite) {
	called := make(chan string, 10)
	call := func(what string) func() { return func() { called <- what } }
	wants := func(want string) {
		t.Helper()
		select {
		case got := <-called:
			if got != want {
				t.Fatalf("called %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q was not called", want)
		}
	}
	s.take("a", 2, call("first"))
	s.seed("a", "v")
	wants("first")
	s.seed("a", "w", "x", "y")
	ts := s.take("a", 3, call("more waits"), "v", "w", "x")
	wants("more waits")
	ts = append(ts, s.take("a", 3, call("it comes back"), "y")...)
	ts[3].Return(nil)
	wants("it comes back")
	ts[3] = s.take("a", 1, call("a step leads here"), "y")[0]
	s.seed("b", "u")
	u := s.take("b", 1, nil, "u")[0]
	if err := u.Commit(matrix.Step{Role: "a"}, nil); err != nil {
		t.Fatal(err)
	}
	wants("a step leads here")
	select {
	case got := <-called:
		t.Errorf("%q was called again", got)
	default:
	}
	for _, x := range ts {
		x.Return(nil)
	}
	// One that was withdrawn is not called, and the one behind it is.
	ts = s.take("a", 5, nil, "u", "v", "w", "x", "y")
	ctx, withdraw := context.WithCancel(t.Context())
	if none, err := s.q.Take(ctx, "a", 1, call("it was withdrawn")); len(none) != 0 || err != nil {
		t.Fatalf("got %v, %v; want nothing", none, err)
	}
	s.take("a", 1, call("it was not"))
	withdraw()
	s.seed("a", "z")
	wants("it was not")
	select {
	case got := <-called:
		t.Errorf("%q was called", got)
	default:
	}
	for _, x := range append(ts, s.take("a", 1, nil, "z")...) {
		x.Return(nil)
	}
}

// commits: a step is told of once it is durable, and before it can be taken; a
// second one changes nothing.
func commits(t *testing.T, s *suite) {
	s.seed("a", "x")
	x := s.take("a", 1, nil, "x")[0]
	durable := make(chan bool, 1)
	if err := x.Commit(matrix.Step{Role: "b", Record: []byte("x/1")}, func() {
		durable <- s.q.Counts().Waiting["b"] == 0
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.q.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	select {
	case first := <-durable:
		if !first {
			t.Error("x could be taken before it was said to be durable")
		}
	default:
		t.Error("after a flush nobody was told that the step is durable")
	}
	if err := x.Commit(matrix.Step{Role: "c", Record: []byte("twice")}, func() { t.Error("the second step is durable") }); !errors.Is(err, matrix.ErrLost) {
		t.Errorf("a second commit: got %v, want %v", err, matrix.ErrLost)
	}
	x.Return(nil)
	s.waiting("a", 0)
	s.waiting("b", 1)
	s.reopen()
	y := s.take("b", 1, nil, "x")[0]
	if got := s.log(y.Message()); got != "x/0 x/1" {
		t.Errorf("log: got %q, want the first step alone", got)
	}
	y.Return(nil)
	if err := y.Commit(matrix.Step{Role: "c"}, nil); !errors.Is(err, matrix.ErrLost) {
		t.Errorf("a commit after a return: got %v, want %v", err, matrix.ErrLost)
	}
	y = s.take("b", 1, nil, "x")[0]
	if err := y.Commit(matrix.Step{}, nil); !errors.As(err, new(*matrix.StopError)) {
		t.Errorf("a step to no role: got %v, want a stop", err)
	}
	s.waiting("b", 1)
}

// claims: a message is claimed by task and hop, where it waits.
func claims(t *testing.T, s *suite) {
	claim := func(task string, hop int, want bool) matrix.Taken {
		t.Helper()
		x, ok, err := s.q.Claim(task, hop)
		if err != nil || ok != want {
			t.Fatalf("claim %s at hop %d: got %v, %v; want %v", task, hop, ok, err, want)
		}
		return x
	}
	s.seed("a", "v", "w", "x")
	x := claim("x", 0, true)
	claim("x", 0, false)
	claim("w", 1, false)
	claim("w", -1, false)
	claim("nobody", 0, false)
	if m := x.Message(); m.Task != "x" || m.Hop != 0 || s.log(m) != "x/0" {
		t.Errorf("claimed: got %+v", m)
	}
	if err := x.Commit(matrix.Step{Role: "b", Record: []byte("x/1")}, nil); err != nil {
		t.Fatal(err)
	}
	s.seed("a", "y") // behind the one that was the last
	for _, taken := range s.take("a", 5, nil, "v", "w", "y") {
		taken.Return(nil)
	}
	s.reopen()
	claim("x", 0, false)
	x = claim("x", 1, true)
	if got := s.log(x.Message()); got != "x/0 x/1" {
		t.Errorf("log after a reopen: got %q", got)
	}
	x.Return(nil)
	claim("x", 1, true).Return(nil)
	claim("v", 0, true).Return(nil)
	claim("v", 0, true).Return(&matrix.RetryError{Err: errors.New("in an hour"), After: time.Hour, Free: true})
	s.waiting("a", 3)
	claim("v", 1, false)
	v := claim("v", 0, true)
	s.waiting("a", 2)
	if m := v.Message(); m.Delayed > time.Minute {
		t.Errorf("claimed in its delay: it was delayed for %v, want the time that it was", m.Delayed)
	}
	v.Return(nil)
	s.settle("b", matrix.Done)
	claim("x", 1, false)
}

// neverReturned: a message that somebody took and keeps holds up nobody else.
func neverReturned(t *testing.T, s *suite) {
	s.seed("a", "lost", "x", "y")
	lost := s.take("a", 1, nil, "lost")[0]
	left := 2
	s.consume("a", 1, func(m *matrix.Message) (matrix.Step, bool, error) {
		if m.Task == "lost" {
			t.Error("it was taken twice")
		}
		left--
		return matrix.Step{Role: "done"}, left == 0, nil
	})
	s.settle("done", matrix.Done)
	if n := s.q.Counts(); n.Live != 1 || len(n.Waiting) != 0 {
		t.Errorf("got %+v, want one that is live and waits for nobody", n)
	}
	if m, ok, err := s.q.Peek(context.Background(), "lost"); err != nil || !ok || m.Role != "a" {
		t.Errorf("peek: got %+v, %v, %v", m, ok, err)
	}
	lost.Return(nil)
}

// shares: consumers of several roles share a room, and each gets its turn.
func shares(t *testing.T, s *suite) {
	const n, each = 3, 60
	roles := []string{"a", "b"}
	for _, role := range roles {
		for i := range each {
			s.seed(role, fmt.Sprint(role, i))
		}
	}
	sem := matrix.Slots(n)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var now, most, all atomic.Int64
	var wg sync.WaitGroup
	for _, role := range roles {
		wg.Go(func() {
			err := matrix.Consume(ctx, s.q, role, sem, func(context.Context, *matrix.Message) (matrix.Step, error) {
				k := now.Add(1)
				defer now.Add(-1)
				for old := most.Load(); k > old && !most.CompareAndSwap(old, k); old = most.Load() {
				}
				if all.Add(1) == 2*each {
					cancel()
				}
				return matrix.Step{Role: "c"}, nil
			})
			if err != nil {
				t.Errorf("consume %s: %v", role, err)
			}
		})
	}
	wg.Wait()
	if all.Load() != 2*each || most.Load() > n {
		t.Errorf("%d of %d messages by %d handlers at once, want all by at most %d", all.Load(), 2*each, most.Load(), n)
	}
}
