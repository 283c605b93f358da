package dataset

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Bytes changed at random in files of many writers give rows or errors, and
// never a crash, an endless file or more memory than a page may have.
func TestParquetWithRandomDamage(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "parquet", "*.parquet"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	path := filepath.Join(t.TempDir(), "damaged.parquet")
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for _, name := range files {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			b := append([]byte(nil), whole...)
			for range 1 + r.IntN(4) {
				b[r.IntN(len(b))] = byte(r.IntN(256))
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := openParquet(t.Context(), &file{path: path}, 0)
			for n := 0; err == nil; n++ {
				if _, err = p.next(); n > 1000 {
					t.Fatalf("%s: more rows than the file has", name)
				}
			}
			if p != nil {
				p.Close()
			}
			if !errors.Is(err, io.EOF) {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("no damage was found")
	}
}
