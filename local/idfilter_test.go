package local

import (
	"context"
	"fmt"
	"testing"

	"matrix"
)

// What was added is never unseen, and few of the others are not.
func TestIDs(t *testing.T) {
	const n = 200_000 // several parts
	s := newIDFilter()
	if !s.unseen("row 0") {
		t.Error("an empty one knows row 0")
	}
	for i := range n {
		s.add(fmt.Sprintf("row %d", i))
	}
	known := 0
	for i := range n {
		if s.unseen(fmt.Sprintf("row %d", i)) {
			t.Fatalf("row %d was added, and is unseen", i)
		}
		if !s.unseen(fmt.Sprintf("other %d", i)) {
			known++
		}
	}
	if most := n / 100; known > most {
		t.Errorf("of %d ids that were not added, %d seem known; want at most %d", n, known, most)
	}
	bytes := 0
	for _, p := range s.parts {
		bytes += 8 * len(p)
	}
	if most := n * 2 * bitsPerID / 8; bytes > most {
		t.Errorf("got %d bytes for %d ids, want at most %d", bytes, n, most)
	}
}

// A queue without tasks knows ids in its filter, one with some in its store.
func TestIDsOfQueue(t *testing.T) {
	dir := t.TempDir()
	known := func(q *Queue, id string, want bool) {
		t.Helper()
		if f, err := q.Lookup(context.Background(), id); err != nil || (f[0].Status != "") != want {
			t.Errorf("lookup %s: got %v %v, want %v", id, f, err, want)
		}
	}
	for n, filter := range []bool{true, true, false} {
		q, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := q.seen != nil; got != filter {
			t.Errorf("open %d: has a filter %v, want %v", n, got, filter)
		}
		switch n {
		case 0: // leaves checkpoints and no task
			if _, err := q.Seed(t.Context(), nil, map[string][]byte{"a": nil}); err != nil {
				t.Error(err)
			}
		case 1: // what a refused batch holds is in the filter alone
			if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}, {Task: "y"}}, nil); err == nil {
				t.Error("a seed without a role is taken")
			}
			known(q, "x", false)
			if got, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, nil); got != 1 || err != nil {
				t.Errorf("seed: got %d %v, want 1", got, err)
			}
		}
		known(q, "x", n > 0)
		known(q, "y", false)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	q, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	known(q, "x", true)
}

func BenchmarkIDs(b *testing.B) {
	s := newIDFilter()
	for i := range 10_000_000 {
		s.add(fmt.Sprintf("row %d", i))
	}
	for b.Loop() {
		if !s.unseen("another") {
			b.Fatal("seems known: run it again")
		}
	}
}
