package sandbox

import "testing"

// A layer that comes after a rewind may have the name of one that was folded before it: it is
// not taken for that one by who reads the journal.
func TestRewindAfterFold(t *testing.T) {
	dir := t.TempDir()
	j := &journal{dir: dir}
	base := 1
	for _, l := range []line{
		{Layer: &layer{N: 1}}, {Setup: true}, {Layer: &layer{N: 2}}, {Layer: &layer{N: 3, At: 1}}, {Layer: &layer{N: 4, At: 2}},
		{Folded: []int{3}}, {Rewind: &base}, {Layer: &layer{N: 2}}, {Layer: &layer{N: 3, At: 1}},
	} {
		if err := j.write(l); err != nil {
			t.Fatal(err)
		}
	}
	j.close()
	s, err := j.read()
	if err != nil || len(s.layers) != 3 || len(s.folded) != 0 {
		t.Errorf("got layers %v, of which %v are to be folded, %v; want three and none", s.layers, s.folded, err)
	}
}
