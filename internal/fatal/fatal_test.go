package fatal_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"matrix/internal/fatal"
)

// Who waits for a store whose disk fails is told why, and so is who comes later.
func TestGuard(t *testing.T) {
	g := fatal.New()
	full := errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			return syscall.ENOSPC
		}
		return nil
	})}
	db, err := pebble.Open("", &pebble.Options{FS: errorfs.Wrap(vfs.NewMem(), &full), Logger: g})
	if err != nil {
		t.Fatal(err)
	}
	set := func() error { return g.Do(func() error { return db.Set([]byte("a"), nil, pebble.Sync) }) }
	if err := set(); err != nil || g.Err() != nil {
		t.Fatalf("got %v and %v", err, g.Err())
	}
	full.On()
	for range 2 {
		if err := set(); !errors.Is(err, syscall.ENOSPC) || !errors.Is(g.Err(), syscall.ENOSPC) {
			t.Errorf("got %v and %v, want %v", err, g.Err(), syscall.ENOSPC)
		}
	}
	if err := g.Do(db.Close); err == nil {
		t.Error("a store that has failed was closed")
	}
}
