// Package python finds, for tests, the Python that has the field's readers and writers of data files.
package python

import (
	"os"
	"path/filepath"
	"testing"
)

// Readers is the interpreter of the environment that `make venv` makes, with pyarrow, polars, duckdb, fastparquet and
// pandas. A test that calls it is skipped where there is none. MATRIX_PYTHON names another one, which must be there.
func Readers(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("MATRIX_PYTHON"); p != "" {
		if _, err := os.Stat(p); err != nil {
			t.Fatalf("MATRIX_PYTHON: %v", err)
		}
		return p
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("there is no go.mod above this test")
		}
	}
	p := filepath.Join(dir, "bin", "venv", "bin", "python")
	if _, err := os.Stat(p); err != nil {
		t.Skip("there is no bin/venv: make venv")
	}
	return p
}
