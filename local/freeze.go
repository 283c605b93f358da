package local

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// freezer stands between Pebble and its file system. Pebble panics where its
// log cannot be written (a full disk), at places where nobody can recover. So
// the first write that fails is told to the queue, which ends, and from then on
// nothing reaches the disk and every write seems well: the disk stays as it was
// at that moment, as after a power cut, which the next Open knows how to read.
// What seemed well is never let go, because the queue has failed before. A folder
// that is gone is such a failure: Pebble ends the process (Fatalf) where it cannot
// make its next log, and holds a lock then which is not to be left.
type freezer struct {
	vfs.FS
	fail   func(error)
	armed  atomic.Bool // the store is open
	frozen atomic.Bool
	void   *vfs.MemFS // for files made while frozen
}

func newFreezer(fs vfs.FS, fail func(error)) *freezer {
	return &freezer{FS: fs, fail: fail, void: vfs.NewMem()}
}

// do changes the disk, unless it is frozen. While the store is being opened
// Pebble returns errors and need not be kept from them.
func (f *freezer) do(change func() error) error {
	if f.frozen.Load() {
		return nil
	}
	return f.check(f.armed.Load(), change())
}

// write is a change of a file's content. That of a flush is tried again for
// ever, while the store is being opened too.
func (f *freezer) write(change func() error) error {
	if f.frozen.Load() {
		return nil
	}
	return f.check(true, change())
}

// check freezes the disk at its first error, if it may.
func (f *freezer) check(may bool, err error) error {
	if err == nil || !may || errors.Is(err, fs.ErrExist) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = &DamagedError{Err: err}
	}
	f.fail(err) // first: what seems well from now on must not be believed
	f.frozen.Store(true)
	return nil
}

func (f *freezer) file(may bool, make func() (vfs.File, error)) (vfs.File, error) {
	if !f.frozen.Load() {
		file, err := make()
		if err == nil {
			return &freezerFile{file, f}, nil
		}
		if err = f.check(may, err); err != nil {
			return nil, err
		}
	}
	return f.void.Create("void", vfs.WriteCategoryUnspecified)
}

func (f *freezer) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	flushed := strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
	return f.file(flushed || f.armed.Load(), func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *freezer) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(f.armed.Load(), func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *freezer) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(f.armed.Load(), func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f *freezer) OpenDir(name string) (vfs.File, error) {
	return f.file(f.armed.Load(), func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f *freezer) Link(from, to string) error {
	return f.do(func() error { return f.FS.Link(from, to) })
}

func (f *freezer) Rename(from, to string) error {
	return f.do(func() error { return f.FS.Rename(from, to) })
}

func (f *freezer) Remove(name string) error {
	if f.frozen.Load() {
		return nil
	}
	err := f.FS.Remove(name)
	if errors.Is(err, fs.ErrNotExist) { // as Pebble expects it
		return err
	}
	return f.check(f.armed.Load(), err)
}

func (f *freezer) RemoveAll(name string) error {
	return f.do(func() error { return f.FS.RemoveAll(name) })
}

func (f *freezer) Unwrap() vfs.FS { return f.FS }

// freezerFile is a file that is written to.
type freezerFile struct {
	vfs.File
	f *freezer
}

func (x *freezerFile) Write(p []byte) (n int, err error) {
	n = len(p)
	err = x.f.write(func() (err error) { n, err = x.File.Write(p); return err })
	if err == nil {
		n = len(p)
	}
	return n, err
}

func (x *freezerFile) WriteAt(p []byte, at int64) (n int, err error) {
	n = len(p)
	err = x.f.write(func() (err error) { n, err = x.File.WriteAt(p, at); return err })
	if err == nil {
		n = len(p)
	}
	return n, err
}

// Preallocate does nothing: Pebble would take the size of a memtable for each of
// its logs, however little is written to it, and never give it back.
func (x *freezerFile) Preallocate(offset, length int64) error { return nil }

func (x *freezerFile) Sync() error     { return x.f.write(x.File.Sync) }
func (x *freezerFile) SyncData() error { return x.f.write(x.File.SyncData) }
func (x *freezerFile) Close() error    { return x.f.check(true, x.File.Close()) }

func (x *freezerFile) SyncTo(length int64) (full bool, err error) {
	full = true
	err = x.f.write(func() (err error) { full, err = x.File.SyncTo(length); return err })
	return full, err
}

// logger turns Pebble's last words into a failed queue. Pebble does not expect
// Fatalf to return, so the goroutine ends there.
type logger struct{ q *Queue }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}
func (l logger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			l.q.fail(fmt.Errorf("%w", err))
		}
	}
	l.q.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}
