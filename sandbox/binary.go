package sandbox

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Binary writes the supervisor of sandboxes (cmd/inside) for this machine into dir, where it is not there, and returns its
// path. Its name tells its content, so many processes and versions may share dir. Empty: a folder of the user's cache.
func Binary(dir string) (string, error) {
	packed, err := fs.ReadFile(embedded, "embedded/"+runtime.GOARCH+"/inside.gz")
	if err != nil {
		return "", &ImageError{"sandboxes", errors.New("this binary of Matrix has no supervisor for " + runtime.GOOS + "/" + runtime.GOARCH + ": sandboxes are of Linux, on amd64 and arm64")}
	}
	unpack, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	program, err := io.ReadAll(unpack)
	if err != nil {
		return "", err
	}
	if dir == "" {
		if dir, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("where the supervisor of sandboxes is to be: %w", err)
		}
		dir = filepath.Join(dir, "matrix")
	}
	sum := sha256.Sum256(program)
	path := filepath.Join(dir, "inside-"+hex.EncodeToString(sum[:8]))
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, program) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "inside-*.new")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(program)
	err = errors.Join(err, f.Chmod(0o555), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return path, err
}
