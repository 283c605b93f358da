package rundir_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"matrix/internal/rundir"
)

// What comes in by the standard input is there whole, or nothing of it; who waits for more hears
// that the run is to end.
func TestSpool(t *testing.T) {
	for _, ends := range []bool{true, false} {
		dir := t.TempDir()
		claim, err := rundir.NewClaim(dir, rundir.ClaimOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		go func() {
			_, _ = out.Write([]byte("{\"id\": 1}\n"))
			if ends {
				_ = out.Close()
			} else {
				cancel()
			}
		}()
		path, err := claim.Spool(ctx, in)
		if b, _ := os.ReadFile(path); ends && (err != nil || string(b) != "{\"id\": 1}\n") {
			t.Errorf("got %q, %v", b, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); !ends && (!errors.Is(err, context.Canceled) || len(left) > 0) {
			t.Errorf("a run that is to end: got %v, and %q is left", err, left)
		}
		if err := claim.Close(); err != nil {
			t.Error(err)
		}
		_ = in.Close()
		cancel()
	}
}
