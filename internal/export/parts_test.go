package export

import (
	"os"
	"path/filepath"
	"testing"
)

// A set is removed with all that belongs to it, and nothing else, however its folder is called.
func TestClearParts(t *testing.T) {
	for _, name := range []string{"export", "run [1]", "a*b"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(filepath.Join(dir, DataDir), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"part-00001.jsonl", ".part-00001.keys", setFile, "data/train-00000-of-00001.jsonl", "data/" + scratchName + "1", "mine.txt"} {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := Clear(dir); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 || left[0].Name() != "mine.txt" {
			t.Errorf("%s: got %v, %v; want that only mine.txt is left", name, left, err)
		}
	}
}
