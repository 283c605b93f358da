package extsort_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"matrix/internal/extsort"
)

// Records come in the order of their keys, and with one key as they were added, whether
// they fit into memory or not; nothing is left on the disk.
func TestSorter(t *testing.T) {
	for _, memory := range []int{0, 1, 5_000} {
		dir := t.TempDir()
		s := &extsort.Sorter{Dir: dir, Memory: memory}
		g := rand.New(rand.NewPCG(1, 2))
		var want []extsort.Record
		for i := range 500 {
			r := extsort.Record{Key: fmt.Sprint(g.IntN(40)), Value: fmt.Append(nil, i)}
			if i%50 == 0 {
				r = extsort.Record{Value: make([]byte, 100_000)}
			}
			want = append(want, r)
			if err := s.Add(r.Key, r.Value); err != nil {
				t.Fatal(err)
			}
		}
		if memory > 0 && s.Runs() < 2 {
			t.Errorf("%d bytes: %d runs, want several", memory, s.Runs())
		}
		slices.SortStableFunc(want, func(a, b extsort.Record) int { return cmp.Compare(a.Key, b.Key) })
		n := 0
		for r, err := range s.All() {
			if err != nil {
				t.Fatal(err)
			}
			if r.Key != want[n].Key || string(r.Value) != string(want[n].Value) {
				t.Fatalf("%d bytes, record %d: got %.40q, want %.40q", memory, n, r, want[n])
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d bytes: got %d records, want %d", memory, n, len(want))
		}
		for _, err := range s.All() { // and can be left off
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		s.Close()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%d bytes: %v is left", memory, left)
		}
	}
}

// Who wants few records has few in memory, and no file.
func TestMost(t *testing.T) {
	dir := t.TempDir()
	s := &extsort.Sorter{Dir: dir + "/missing", Most: 10, Memory: 10_000}
	g := rand.New(rand.NewPCG(3, 4))
	var keys []string
	for range 100_000 {
		key := fmt.Sprintf("%016x", g.Uint64())
		keys = append(keys, key)
		if err := s.Add(key, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(keys)
	n := 0
	for r, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if n < 10 && r.Key != keys[n] {
			t.Errorf("record %d: got %s, want %s", n, r.Key, keys[n])
		}
		n++
	}
	if n < 10 || n > 2000 {
		t.Errorf("got %d records", n)
	}
}

// A folder that is not there is an error, once there is something to write.
func TestNoFolder(t *testing.T) {
	s := &extsort.Sorter{Dir: t.TempDir() + "/missing", Memory: 1}
	if err := s.Add("a", []byte("b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
