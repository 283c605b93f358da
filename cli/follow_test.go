package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/dataset"
)

// following is echo over a dataset that grows, and has n rows.
func following(t *testing.T, n int) (dir, inbox string) {
	dir = files(t, map[string]string{"config.yaml": strings.Replace(echo, "id: id}", "id: id, follow: true}", 1), "rows.jsonl": rows(n)})
	return dir, filepath.Join(dir, "rows.jsonl")
}

// write makes a file of the test.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// A run whose dataset may grow is not complete, whatever is pending.
func TestVerifyOfWhatMayGrow(t *testing.T) {
	dir, inbox := following(t, 0)
	out := filepath.Join(dir, "out")
	interrupts := make(chan os.Signal, 1)
	interrupts <- os.Interrupt
	program(Program{interrupts: interrupts}, "run", dir, "-o", out).want(t, exitStopped)
	matrixCmd("verify", out).want(t, 0, "0 pending", "OK", "Rows may still be appended")
	matrixCmd("verify", out, "--complete").want(t, 1, "rows may still be appended to the dataset: the run is not complete", "!repair")
	write(t, inbox+dataset.EndSuffix, "")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	matrixCmd("verify", out, "--complete").want(t, 0, "OK", "!appended")
}
