package dataset_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"matrix"
	"matrix/dataset"
	"matrix/internal/python"
)

// Small files of several writers, and what pyarrow reads in them:
// testdata/values.py made the values.
func TestParquetFilesAndTheirValues(t *testing.T) {
	compareParquet(t, filepath.Join("testdata", "parquet"))
}

// What pyarrow, polars, duckdb, fastparquet and pandas write, in every codec,
// version of pages, encoding and type that they have, against what pyarrow
// reads. MATRIX_PARQUET_FILES names a folder of others, such as the data of
// apache/parquet-testing.
func TestParquetOfTheFieldsWriters(t *testing.T) {
	interpreter := python.Readers(t)
	dirs := filepath.SplitList(os.Getenv("MATRIX_PARQUET_FILES"))
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), interpreter, filepath.Join("testdata", "write.py"), dir, "300").CombinedOutput(); err != nil {
		t.Fatalf("write.py: %v\n%s", err, out)
	}
	for _, dir := range append(dirs, dir) {
		if out, err := exec.CommandContext(t.Context(), interpreter, filepath.Join("testdata", "values.py"), dir).CombinedOutput(); err != nil {
			t.Fatalf("values.py: %v\n%s", err, out)
		}
		compareParquet(t, dir)
	}
}

// compareParquet reads each Parquet file of dir. It must have the values that
// stand beside it, or be refused: never other values.
func compareParquet(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files in %s, %v", len(files), dir, err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, err := os.ReadFile(path + ".values")
			if errors.Is(err, fs.ErrNotExist) && strings.Contains(path, "duckdb") { // the same rows; pyarrow stumbles over blocks without bits
				want, err = os.ReadFile(strings.Replace(path, "-V2", "-V1", 1) + ".values")
			}
			unread := errors.Is(err, fs.ErrNotExist)
			if err != nil && !unread {
				t.Fatal(err)
			}
			var rows []matrix.Row
			s, err := dataset.Open(dataset.Options{Paths: []string{path}})
			if err == nil {
				rows, err = rowsAndError(t, s, matrix.Position{})
			}
			if err != nil {
				if !unread && len(want) == 0 {
					return // columns alone are refused
				}
				if unread {
					t.Skipf("pyarrow does not read it either: %v", err)
				}
				t.Fatal(err)
			}
			if unread {
				t.Skipf("pyarrow does not read it: %d rows", len(rows))
			}
			lines := bytes.Split(bytes.TrimSuffix(want, []byte("\n")), []byte("\n"))
			if len(want) == 0 {
				lines = nil
			}
			if len(rows) != len(lines) {
				t.Fatalf("got %d rows, want %d", len(rows), len(lines))
			}
			for i, r := range rows {
				if got, want := plainJSON(t, r.Item.Raw()), plainJSON(t, lines[i]); r.Err != nil || !reflect.DeepEqual(got, want) {
					t.Fatalf("row %d: %v\ngot  %s\nwant %s", i+1, r.Err, r.Item, lines[i])
				}
			}
			if len(rows) > 2 { // and from the middle on
				at := len(rows) * 2 / 3
				rest := rowsOf(t, s, rows[at].Next)
				if len(rest) != len(rows)-at-1 || len(rest) > 0 && rest[0].Item.String() != rows[at+1].Item.String() {
					t.Errorf("after row %d: got %d rows", at+1, len(rest))
				}
			}
		})
	}
}

// plainJSON is a value in which numbers that are written as floats are floats.
func plainJSON(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return floats(v)
}

func floats(v any) any {
	switch x := v.(type) {
	case json.Number:
		if strings.ContainsAny(x.String(), ".eE") {
			f, _ := x.Float64()
			return f
		}
		return x.String()
	case []any:
		for i := range x {
			x[i] = floats(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = floats(x[k])
		}
	}
	return v
}
