package dataset_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing/fstest"

	"matrix/dataset"
)

// crashFS is a file system in memory that forgets what was not synced when it
// crashes: of the bytes written since the last sync it keeps none, some or
// all, a truncation may come back, and so may a removed file, while a new file
// whose folder was not synced may be gone. It can fail at an operation of the
// test's choice.
type crashFS struct {
	dirs    map[string]bool
	files   map[string]*crashFile // what programs see
	durable map[string]*crashFile // names that are on disk
	renamed map[string]string     // names that files have had since their folder was synced
	rand    *rand.Rand

	ops    int
	failAt int   // fail at the operation of this number, and at all after it; 0 never
	fail   error // with this
	full   int64 // bytes that the disk can take; 0 no limit
	used   int64
}

type crashFile struct {
	data   []byte
	synced []byte
}

func newCrashFS(seed uint64) *crashFS {
	return &crashFS{
		dirs: map[string]bool{".": true}, files: map[string]*crashFile{}, durable: map[string]*crashFile{}, renamed: map[string]string{},
		rand: rand.New(rand.NewPCG(seed, 1)),
	}
}

func (c *crashFS) op() error {
	c.ops++
	if c.failAt > 0 && c.ops >= c.failAt {
		return c.fail
	}
	return nil
}

// crash loses what was not synced, and lets operations succeed again.
func (c *crashFS) crash() {
	for _, to := range slices.Sorted(maps.Keys(c.renamed)) { // whole, or not at all
		from := c.renamed[to]
		switch f := c.files[to]; {
		case f == nil:
		case c.rand.IntN(2) == 0:
			c.durable[to] = c.durable[from]
			delete(c.durable, from)
		default:
			c.files[from] = f
			delete(c.files, to)
			if was := c.durable[to]; was != nil && was != f { // it was in the place of another
				c.files[to] = was
			}
		}
	}
	c.renamed = map[string]string{}
	names := map[string]bool{}
	for n := range c.files {
		names[n] = true
	}
	for n := range c.durable {
		names[n] = true
	}
	after := map[string]*crashFile{}
	for _, n := range slices.Sorted(keys(names)) {
		now, before := c.files[n], c.durable[n]
		f := before
		if now != before && c.rand.IntN(2) == 0 {
			f = now // its making or removal had reached the disk
		}
		if f == nil {
			continue
		}
		data := f.synced
		switch {
		case len(f.data) >= len(f.synced) && string(f.data[:len(f.synced)]) == string(f.synced):
			data = f.data[:len(f.synced)+c.rand.IntN(len(f.data)-len(f.synced)+1)]
			if tail := len(data) - len(f.synced); tail > 0 && c.rand.IntN(4) == 0 { // blocks that were never filled
				data = append(slices.Clone(f.synced), make([]byte, tail)...)
			}
		case c.rand.IntN(2) == 0:
			data = f.data
		}
		after[n] = &crashFile{data: slices.Clone(data), synced: slices.Clone(data)}
		c.dirs[path.Dir(n)] = true
	}
	c.files, c.durable = after, map[string]*crashFile{}
	for n, f := range after {
		c.durable[n] = f
	}
	c.failAt = 0
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// snapshot is what programs see of a folder, and of those in it.
func (c *crashFS) snapshot(dir string) fstest.MapFS {
	m := fstest.MapFS{}
	for n, f := range c.files {
		if name, ok := strings.CutPrefix(n, dir+"/"); ok {
			m[name] = &fstest.MapFile{Data: f.data}
		}
	}
	for n := range c.dirs {
		if name, ok := strings.CutPrefix(n, dir+"/"); ok {
			m[name] = &fstest.MapFile{Mode: fs.ModeDir}
		}
	}
	return m
}

func (c *crashFS) newest(dir string) *crashFile {
	var names []string
	for n := range c.files {
		if strings.HasPrefix(n, dir+"/") && strings.HasPrefix(path.Base(n), "part-") {
			names = append(names, n)
		}
	}
	return c.files[slices.MaxFunc(names, byPart)]
}

// byPart orders paths of parts by their number, then by what folder they are in.
func byPart(a, b string) int {
	return cmp.Or(strings.Compare(path.Base(a), path.Base(b)), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func (c *crashFS) Mkdir(dir string) error {
	for ; !c.dirs[dir]; dir = path.Dir(dir) {
		c.dirs[dir] = true
	}
	return c.op()
}

func (c *crashFS) List(dir string) ([]string, error) {
	if err := c.op(); err != nil {
		return nil, err
	}
	if !c.dirs[dir] {
		return nil, fs.ErrNotExist
	}
	var names []string
	for n := range c.files {
		if path.Dir(n) == dir {
			names = append(names, path.Base(n))
		}
	}
	for n := range c.dirs {
		if path.Dir(n) == dir && n != dir {
			names = append(names, path.Base(n))
		}
	}
	return names, nil
}

func (c *crashFS) Create(name string) (dataset.File, error) {
	if err := c.op(); err != nil {
		return nil, err
	}
	if c.files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if !c.dirs[path.Dir(name)] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	c.files[name] = &crashFile{}
	return &openCrashFile{c, c.files[name]}, nil
}

func (c *crashFS) Append(name string) (dataset.File, error) {
	if err := c.op(); err != nil {
		return nil, err
	}
	if c.files[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &openCrashFile{c, c.files[name]}, nil
}

func (c *crashFS) Holds(name string, f dataset.File) (bool, error) {
	return c.files[name] == f.(*openCrashFile).f, c.op()
}

func (c *crashFS) Open(name string) (io.ReadCloser, error) {
	if err := c.op(); err != nil {
		return nil, err
	}
	if c.files[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(c.files[name].data)), nil
}

func (c *crashFS) Rename(from, to string) error {
	if err := c.op(); err != nil {
		return err
	}
	if c.files[from] == nil || !c.dirs[path.Dir(to)] {
		return fs.ErrNotExist
	}
	c.files[to] = c.files[from]
	c.renamed[to] = from
	delete(c.files, from)
	return nil
}

func (c *crashFS) Remove(name string) error {
	if err := c.op(); err != nil {
		return err
	}
	if c.dirs[name] {
		for n := range c.files {
			if path.Dir(n) == name {
				return syscall.ENOTEMPTY
			}
		}
		delete(c.dirs, name)
		return nil
	}
	if c.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(c.files, name)
	return nil
}

func (c *crashFS) SyncDir(dir string) error {
	if err := c.op(); err != nil {
		return err
	}
	maps.DeleteFunc(c.renamed, func(to, _ string) bool { return path.Dir(to) == dir })
	for n := range c.durable {
		if path.Dir(n) == dir && c.files[n] == nil {
			delete(c.durable, n)
		}
	}
	for n, f := range c.files {
		if path.Dir(n) == dir {
			c.durable[n] = f
		}
	}
	return nil
}

type openCrashFile struct {
	fs *crashFS
	f  *crashFile
}

func (o *openCrashFile) Write(p []byte) (int, error) {
	if err := o.fs.op(); err != nil {
		n := o.fs.rand.IntN(len(p) + 1) // a part of it may have been written
		o.f.data = append(o.f.data, p[:n]...)
		return n, err
	}
	if o.fs.full > 0 && o.fs.used+int64(len(p)) > o.fs.full {
		n := o.fs.full - o.fs.used
		o.f.data = append(o.f.data, p[:n]...)
		o.fs.used = o.fs.full
		return int(n), &fs.PathError{Op: "write", Path: "part", Err: syscall.ENOSPC}
	}
	o.fs.used += int64(len(p))
	o.f.data = append(o.f.data, p...)
	return len(p), nil
}

func (o *openCrashFile) Size() (int64, error) { return int64(len(o.f.data)), o.fs.op() }

func (o *openCrashFile) Truncate(n int64) error {
	if err := o.fs.op(); err != nil {
		return err
	}
	if n > int64(len(o.f.data)) {
		return fmt.Errorf("truncate to %d of %d", n, len(o.f.data))
	}
	o.f.data = slices.Clone(o.f.data[:n])
	return nil
}

func (o *openCrashFile) Sync() error {
	if err := o.fs.op(); err != nil {
		return err
	}
	o.f.synced = slices.Clone(o.f.data)
	return nil
}

func (o *openCrashFile) Close() error { return nil }

var errCrash = errors.New("power is off")
