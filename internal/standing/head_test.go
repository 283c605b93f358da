package standing

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A head that cannot begin says why, and leaves the folder to others.
func TestOpenRefused(t *testing.T) {
	options := func(dir string) Options {
		return Options{Dir: dir, Host: "127.0.0.1", Version: "test", Tell: func(string) {}}
	}
	dir := t.TempDir()
	h, err := Open(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(options(dir)); !errors.As(err, new(*LockedError)) {
		t.Errorf("a second head of a folder: got %v, want that there is one", err)
	}
	o := options(t.TempDir())
	o.Port = h.server.Port()
	if _, err := Open(o); !errors.As(err, new(*net.OpError)) {
		t.Errorf("a port that is taken: got %v, want an error of the network", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(options(filepath.Join(file, "x"))); err == nil {
		t.Error("a folder in a file: got no error")
	}
	h.Close()
	again, err := Open(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
