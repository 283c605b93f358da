package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The embedded supervisors are of the sources beside them.
func TestBinaryIsOfItsSources(t *testing.T) {
	var files []string
	for _, glob := range []string{"../cmd/inside/*.go", "inside/*.go"} {
		list, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(list)
		files = append(files, list...)
	}
	h := sha256.New()
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(text)
	}
	want := hex.EncodeToString(h.Sum(nil))
	for _, arch := range []string{"amd64", "arm64"} {
		got, err := os.ReadFile("embedded/" + arch + "/sources")
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("embedded/%s is of other sources: make inside", arch)
		}
		if _, err := os.Stat("embedded/" + arch + "/inside.gz"); err != nil {
			t.Errorf("%v: make inside", err)
		}
	}
}

func TestBinary(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	path, err := Binary(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(path)
	if err != nil || first.Mode() != 0o555 {
		t.Fatalf("%v, %v", first.Mode(), err)
	}
	if again, err := Binary(dir); err != nil || again != path {
		t.Fatalf("got %s, %v; want %s", again, err, path)
	}
	if second, err := os.Stat(path); err != nil || !os.SameFile(first, second) {
		t.Fatalf("it was written again; %v", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Binary(dir); err != nil {
		t.Fatal(err)
	}
	if mended, err := os.Stat(path); err != nil || mended.Size() != first.Size() {
		t.Fatalf("damage was not mended: %v", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Fatalf("left over: %v", list)
	}
}
