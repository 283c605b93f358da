package local

import (
	"fmt"
	"testing"
)

// What was added is never strange, and few of the others are not.
func TestIDs(t *testing.T) {
	const n = 200_000 // several parts
	s := newIDs()
	if !s.strange("row 0") {
		t.Error("an empty one knows row 0")
	}
	for i := range n {
		s.add(fmt.Sprintf("row %d", i))
	}
	known := 0
	for i := range n {
		if s.strange(fmt.Sprintf("row %d", i)) {
			t.Fatalf("row %d was added, and is strange", i)
		}
		if !s.strange(fmt.Sprintf("other %d", i)) {
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

func BenchmarkIDs(b *testing.B) {
	s := newIDs()
	for i := range 10_000_000 {
		s.add(fmt.Sprintf("row %d", i))
	}
	for b.Loop() {
		if !s.strange("another") {
			b.Fatal("seems known: run it again")
		}
	}
}
