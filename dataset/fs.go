package dataset

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FS is what a Sink needs of a file system. Names are paths.
type FS interface {
	// Mkdir makes a folder, and those above it, durably; one that exists is
	// left alone.
	Mkdir(dir string) error
	// List returns the names, without the folder, of what a folder holds.
	List(dir string) ([]string, error)
	// Create makes a new, empty file. It fails where there is one.
	Create(name string) (File, error)
	// Open opens a file to read it.
	Open(name string) (io.ReadCloser, error)
	// Rename gives a file another name, in place of one that has it.
	Rename(from, to string) error
	// Append opens a file to write at its end.
	Append(name string) (File, error)
	// Holds reports whether name is that of a file which it has opened to write.
	Holds(name string, f File) (bool, error)
	// Remove removes a file, or an empty folder.
	Remove(name string) error
	// SyncDir makes durable which files a folder holds.
	SyncDir(dir string) error
}

// File is a file open to write at its end.
type File interface {
	Write(p []byte) (int, error)
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes durable what the file holds.
	Sync() error
	Close() error
}

// OS is the file system of the machine.
type OS struct{}

var _ FS = OS{}

// Mkdir implements FS.
func (o OS) Mkdir(dir string) error {
	switch i, err := os.Stat(dir); {
	case err == nil && i.IsDir():
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	up := filepath.Dir(filepath.Clean(dir))
	if up != dir {
		if err := o.Mkdir(up); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	} else if i, statErr := os.Stat(dir); statErr == nil && !i.IsDir() {
		return err // a file is in the way
	}
	return o.SyncDir(up)
}

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Create implements FS.
func (OS) Create(name string) (File, error) {
	return openFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL)
}

// Append implements FS.
func (OS) Append(name string) (File, error) { return openFile(name, os.O_WRONLY|os.O_APPEND) }

// Holds implements FS.
func (OS) Holds(name string, f File) (bool, error) {
	there, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	open, err := f.(osFile).Stat()
	return err == nil && os.SameFile(there, open), err
}

func openFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o666)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open implements FS.
func (OS) Open(name string) (io.ReadCloser, error) { return os.Open(name) }

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	i, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return i.Size(), nil
}
