package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"matrix/dataset"
)

// MakeSecret makes a file in the folder of a run, and the folder where there is none,
// that only the run's user may read. Of several processes that do so at once one makes
// it, and all get what it holds.
func MakeSecret(dir, name string, content []byte) (stands []byte, err error) {
	if err := (dataset.OS{}).Mkdir(dir); err != nil {
		return nil, fmt.Errorf("out: %w", err)
	}
	path := filepath.Join(dir, name)
	stands, err = os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return stands, err
	}
	f, err := os.CreateTemp(dir, name+".*.tmp") // mode 0600
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return nil, err
	}
	if err := (dataset.OS{}).SyncDir(dir); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}
