package matrixtest

import (
	"context"
	"errors"
	"testing"

	"matrix"
)

// Grower runs the conformance suite of matrix.Grower, and that of matrix.Source on
// what has been closed. build makes an empty dataset that is not closed, with what
// appends rows to it and what closes it. Rows are as those of Source.
func Grower(t *testing.T, build func(t *testing.T) (s matrix.Grower, add func(rows []map[string]string), end func())) {
	t.Helper()
	t.Run("Closed", func(t *testing.T) {
		Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
			s, add, end := build(t)
			add(rows)
			end()
			return s
		})
	})

	count := func(t *testing.T, s matrix.Grower, want int64) {
		t.Helper()
		if n, err := s.Count(t.Context()); err != nil || n != want {
			t.Errorf("Count: got %d, %v, want %d", n, err, want)
		}
	}
	more := func(t *testing.T, s matrix.Grower, from matrix.Position, want bool) {
		t.Helper()
		if got, err := s.More(t.Context(), from); err != nil || got != want {
			t.Fatalf("More from %+v: got %v, %v, want %v", from, got, err, want)
		}
	}

	t.Run("Grows", func(t *testing.T) {
		s, add, end := build(t)
		all := sourceRows(100)
		var at matrix.Position
		var prints []string
		for n := 0; n <= len(all); n += 10 {
			got := readSource(t, s, matrix.Position{})
			checkRows(t, got, all[:n])
			if n > 0 {
				more(t, s, at, true)
				if rest := readSource(t, s, at); len(rest) != 10 {
					t.Fatalf("got %d rows behind the first %d, want the 10 that were added", len(rest), n-10)
				}
				at = got[n-1].Next
			}
			count(t, s, -1)
			p, err := s.Fingerprint()
			if err != nil {
				t.Fatal(err)
			}
			for i, was := range append(prints, p) {
				if ok, err := s.Extends(was); err != nil || !ok {
					t.Errorf("with %d rows: got %v, %v, want that it extends what it was with %d", n, ok, err, i*10)
				}
				if i < len(prints) && was == p {
					t.Errorf("with %d rows it has the fingerprint that it had with %d", n, i*10)
				}
			}
			prints = append(prints, p)
			if n == len(all) {
				break
			}
			waits := make(chan error, 1)
			go func() {
				ok, err := s.More(t.Context(), at)
				if err == nil && !ok {
					err = errors.New("it reports that it is closed")
				}
				waits <- err
			}()
			add(all[n : n+10])
			if err := <-waits; err != nil {
				t.Fatalf("More, while rows come: %v", err)
			}
		}
		end()
		more(t, s, matrix.Position{}, true)
		more(t, s, at, false)
		count(t, s, int64(len(all)))
		checkResume(t, s, readSource(t, s, matrix.Position{}))
		for i, was := range prints {
			if ok, err := s.Extends(was); err != nil || !ok {
				t.Errorf("closed: got %v, %v, want that it extends what it was with %d rows", ok, err, i*10)
			}
		}
	})

	t.Run("ClosedWhileItWaits", func(t *testing.T) {
		s, _, end := build(t)
		waits := make(chan error, 1)
		go func() {
			ok, err := s.More(t.Context(), matrix.Position{})
			if err == nil && ok {
				err = errors.New("it reports a row, and there is none")
			}
			waits <- err
		}()
		end()
		if err := <-waits; err != nil {
			t.Error(err)
		}
		count(t, s, 0)
	})

	t.Run("StopsWithContext", func(t *testing.T) {
		s, add, _ := build(t)
		add(sourceRows(3))
		at := readSource(t, s, matrix.Position{})[2].Next
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan error, 1)
		go func() {
			_, err := s.More(ctx, at)
			waits <- err
		}()
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})

	t.Run("AnotherOne", func(t *testing.T) {
		a, add, _ := build(t)
		add(sourceRows(10))
		b, other, _ := build(t)
		other(sourceRows(11)[1:])
		was, err := a.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := b.Extends(was); err != nil || ok {
			t.Errorf("got %v, %v, want that it does not extend a dataset of other rows", ok, err)
		}
	})
}
