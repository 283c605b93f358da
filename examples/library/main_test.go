package main

import (
	"path/filepath"
	"testing"

	"matrix/dataset"
)

func TestPlay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"first", "again on the same folder"} {
		totals, err := play(t.Context(), "numbers.jsonl", dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if totals.Done != 4 || totals.Failed != 1 {
			t.Errorf("%s: got %d found and %d not found, want 4 and 1", name, totals.Done, totals.Failed)
		}
		if m := totals.Metrics["guesses"]; m.Count != 4 || m.Sum != 18 {
			t.Errorf("%s: got %v guesses for %d rows, want 18 for 4", name, m.Sum, m.Count)
		}
	}
	for folder, want := range map[string]int{"data": 4, "failed": 1} {
		lines := 0
		err := dataset.ReadParts(filepath.Join(dir, folder), func(int, int, []byte) error { lines++; return nil })
		if err != nil || lines != want {
			t.Errorf("%s: got %d lines and error %v, want %d lines", folder, lines, err, want)
		}
	}
}
