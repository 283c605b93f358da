package main

import (
	"path/filepath"
	"sync"
	"testing"

	"matrix/dataset"
	"matrix/run"
)

func TestPlay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"first", "again on the same folder"} {
		var mu sync.Mutex
		told := map[run.EventKind]int{}
		totals, err := play(t.Context(), "numbers.jsonl", dir, func(e run.Event) {
			mu.Lock()
			told[e.Kind]++
			mu.Unlock()
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if totals.Done != 4 || totals.Failed != 1 {
			t.Errorf("%s: got %d found and %d not found, want 4 and 1", name, totals.Done, totals.Failed)
		}
		if m := totals.Metrics["guesses"]; m.Count != 4 || m.Sum != 18 {
			t.Errorf("%s: got %v guesses for %d rows, want 18 for 4", name, m.Sum, m.Count)
		}
		if name == "first" && (told[run.TaskFed] != 5 || told[run.TaskSettled] != 5 || told[run.StepDone] != 2*(18+8)) || name != "first" && len(told) > 0 {
			t.Errorf("%s: was told %v, want each of 5 tasks fed and settled, and each guess and its answer, once", name, told)
		}
	}
	for folder, want := range map[string]int{"data": 4, "failed": 1} {
		lines := 0
		err := dataset.ReadParts(filepath.Join(dir, folder), dataset.Shard{}, func(int, int, []byte) error { lines++; return nil })
		if err != nil || lines != want {
			t.Errorf("%s: got %d lines and error %v, want %d lines", folder, lines, err, want)
		}
	}
}
