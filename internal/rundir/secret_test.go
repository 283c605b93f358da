package rundir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"matrix/internal/rundir"
)

// Who makes a secret at the same time as others has the same one.
func TestMakeSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs", "x")
	var all sync.WaitGroup
	got := make([]string, 16)
	for i := range got {
		all.Go(func() {
			b, err := rundir.MakeSecret(dir, "secret", fmt.Append(nil, i))
			if err != nil {
				t.Error(err)
			}
			got[i] = string(b)
		})
	}
	all.Wait()
	for _, s := range got {
		if s != got[0] || s == "" {
			t.Fatalf("got %q, want the same for all", got)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want one file", entries, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file that others cannot read", info, err)
	}
}
