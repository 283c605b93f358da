package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"matrix/dataset"
)

// fenced is a ledger that one writer at a time commits to.
type fenced struct {
	mu         sync.Mutex
	writer     uint64
	checkpoint []byte
	rows       int // committed: t0 to t(rows-1)
}

var errFenced = errors.New("another one is the writer")

// claim makes an epoch the writer, and says what stands.
func (l *fenced) claim(epoch uint64) (checkpoint []byte, rows int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writer = max(l.writer, epoch)
	return l.checkpoint, l.rows
}

func (l *fenced) commit(epoch uint64, checkpoint []byte, rows int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writer != epoch {
		return errFenced
	}
	l.checkpoint, l.rows = checkpoint, rows
	return nil
}

// head writes an output as the process of an epoch does: what there is, up to so many rows,
// and ends it then. each is called after each batch.
func (l *fenced) head(fsys dataset.FS, o dataset.SinkOptions, most int, ends bool, each func()) error {
	checkpoint, rows := l.claim(o.Epoch)
	s, err := dataset.OpenSink(fsys, "out", o, checkpoint)
	if err != nil {
		return err
	}
	defer s.Close()
	for rows < most {
		n := min(5, most-rows)
		_, checkpoint, err := s.Write(context.Background(), tasks(rows, n))
		if err != nil {
			return err
		}
		if err := l.commit(o.Epoch, checkpoint, rows+n); err != nil {
			return err
		}
		rows += n
		s.Committed()
		each()
	}
	if !ends {
		return nil
	}
	checkpoint, _ = l.claim(0)
	if _, err = dataset.SealOutput(fsys, "out", o, checkpoint); err != nil {
		return err
	}
	return dataset.RemoveOpen(fsys, "out")
}

// stopFS is a file system on which a process stops before its n-th operation, and goes on
// when it is woken.
type stopFS struct {
	dataset.FS
	n       int
	stopped chan struct{}
	wake    chan struct{}
}

func (s *stopFS) op() {
	if s.n--; s.n == 0 {
		close(s.stopped)
		<-s.wake
	}
}

func (s *stopFS) Mkdir(dir string) error { s.op(); return s.FS.Mkdir(dir) }
func (s *stopFS) List(dir string) ([]string, error) {
	s.op()
	return s.FS.List(dir)
}
func (s *stopFS) Create(name string) (dataset.File, error) {
	s.op()
	f, err := s.FS.Create(name)
	return &stopFile{f, s}, err
}
func (s *stopFS) Append(name string) (dataset.File, error) {
	s.op()
	f, err := s.FS.Append(name)
	return &stopFile{f, s}, err
}
func (s *stopFS) Holds(name string, f dataset.File) (bool, error) {
	s.op()
	return s.FS.Holds(name, f.(*stopFile).File)
}
func (s *stopFS) Open(name string) (io.ReadCloser, error) { s.op(); return s.FS.Open(name) }
func (s *stopFS) Rename(from, to string) error            { s.op(); return s.FS.Rename(from, to) }
func (s *stopFS) Remove(name string) error                { s.op(); return s.FS.Remove(name) }
func (s *stopFS) SyncDir(dir string) error                { s.op(); return s.FS.SyncDir(dir) }

type stopFile struct {
	dataset.File
	fs *stopFS
}

func (f *stopFile) Write(b []byte) (int, error) { f.fs.op(); return f.File.Write(b) }
func (f *stopFile) Truncate(n int64) error      { f.fs.op(); return f.File.Truncate(n) }
func (f *stopFile) Sync() error                 { f.fs.op(); return f.File.Sync() }

// TestZombie stops the process that writes an output at each operation of the file system,
// has another one take over, wakes the first one at each batch of the other, or when all is
// over, and finds what was committed, once, and nothing else.
func TestZombie(t *testing.T) {
	t.Parallel()
	const before, most = 13, 40
	for _, c := range compressions {
		after := []int{0, 1, 3, 6} // batches of the other; 0: when all is over
		if c != "none" {
			after = after[2:3]
		}
		for _, wakes := range after {
			for at := 1; ; at++ {
				fsys := newCrashFS(uint64(at))
				o := dataset.SinkOptions{Compress: c, RowsPerPart: 7, Epoch: 1}
				l := &fenced{}
				if err := l.head(fsys, o, before, false, func() {}); err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("%s, stopped at operation %d, woken after %d batches", c, at, wakes)
				zombie := &stopFS{fsys, at, make(chan struct{}), make(chan struct{})}
				ended := make(chan error, 1)
				o.Epoch = 2
				second := o
				go func() { ended <- l.head(zombie, second, most, true, func() {}) }()
				select {
				case <-zombie.stopped:
				case err := <-ended:
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
				}
				over := len(ended) > 0 || zombie.n > 0
				wake := func() {
					if over {
						return
					}
					over = true
					close(zombie.wake)
					if err := <-ended; err != nil && !errors.Is(err, errFenced) && !errors.Is(err, dataset.ErrTakenOver) && !errors.Is(err, dataset.ErrChanged) {
						t.Errorf("%s: the zombie ends with %v", name, err)
					}
				}
				o.Epoch = 3
				batches, finished := 0, over
				err := l.head(fsys, o, most, true, func() {
					if batches++; batches == wakes {
						wake()
					}
				})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				wake()
				files := fsys.snapshot("out")
				maps.DeleteFunc(files, func(file string, _ *fstest.MapFile) bool { return strings.HasPrefix(file, ".open-2") }) // nobody reads what it leaves
				if got, err := readIDs(sealed{fsys}); err != nil || !slices.Equal(got, ids(0, most)) {
					t.Fatalf("%s: got %v, %v, want %d rows", name, got, err, most)
				}
				if want := (most + 6) / 7; len(files) != want {
					t.Fatalf("%s: got files %v, want %d", name, slices.Collect(maps.Keys(files)), want)
				}
				if t.Failed() {
					return
				}
				if finished {
					t.Logf("%s, %d: %d operations", c, wakes, at)
					break
				}
			}
		}
	}
}

// An output whose parts stand in a folder as one process left them is gone on with by
// processes with epochs, and the other way round. Whoever reads meanwhile has all rows.
func TestEpochsAfterOneProcess(t *testing.T) {
	for _, c := range compressions {
		dir := t.TempDir()
		o := dataset.SinkOptions{Compress: c, RowsPerPart: 4}
		var checkpoint []byte
		rows := 0
		write := func(n int) {
			t.Helper()
			s, err := dataset.OpenSink(dataset.OS{}, dir, o, checkpoint)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, checkpoint, err = s.Write(t.Context(), tasks(rows, n)); err != nil {
					t.Fatal(err)
				}
				s.Committed()
				rows += n
				if got, err := readIDs(folder{dir, &o}); err != nil || !slices.Equal(got, ids(0, rows)) {
					t.Fatalf("%s, epoch %d: got %v, %v, want %d rows", c, o.Epoch, got, err, rows)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		write(3)
		o.Epoch = 5
		write(3)
		o.Epoch = 17
		write(1)
		if _, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{Compress: c, RowsPerPart: 4, Epoch: 5}, checkpoint); !errors.Is(err, dataset.ErrTakenOver) {
			t.Errorf("an epoch before: got %v, want %v", err, dataset.ErrTakenOver)
		}
		if _, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{Compress: c, RowsPerPart: 4}, checkpoint); err == nil {
			t.Error("an output that was not sealed is opened without an epoch")
		}
		var tail int
		if err := dataset.ReadTail(dir, dataset.Shard{}, checkpoint, func([]byte) error { tail++; return nil }); err != nil || tail > 0 {
			t.Errorf("the tail: got %d rows, %v", tail, err)
		}
		var err error
		if checkpoint, err = dataset.SealOutput(dataset.OS{}, dir, o, checkpoint); err != nil {
			t.Fatal(err)
		}
		if err := dataset.RemoveOpen(dataset.OS{}, dir); err != nil {
			t.Fatal(err)
		}
		o.Epoch = 0
		write(3)
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
	}
}

// A part in the folder that the ledger does not know of is not written over.
func TestEpochsOverMore(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "part-00001.jsonl", "{}\n")
	o := dataset.SinkOptions{RowsPerPart: 4, Epoch: 2}
	_, err := dataset.OpenSink(dataset.OS{}, dir, o, nil)
	if !errors.Is(err, dataset.ErrChanged) || !strings.Contains(err.Error(), "part-00001.jsonl") {
		t.Errorf("got %v, want %v that names the part", err, dataset.ErrChanged)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "part-00001.jsonl")); err != nil || string(b) != "{}\n" {
		t.Errorf("the part holds %q, %v", b, err)
	}
}

// What goes wrong where a part is moved the next Write returns.
func TestCommittedFails(t *testing.T) {
	dir := t.TempDir()
	s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{RowsPerPart: 2, Epoch: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Write(t.Context(), tasks(0, 3)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".open-1")); err != nil {
		t.Fatal(err)
	}
	s.Committed()
	if _, _, err := s.Write(t.Context(), tasks(3, 1)); !errors.Is(err, dataset.ErrTakenOver) {
		t.Errorf("got %v, want %v", err, dataset.ErrTakenOver)
	}
}

// sealed is an output that only one process has left.
type sealed struct{ fs *crashFS }

func (s sealed) Read(f func(part, line int, raw []byte) error) error {
	files := s.fs.snapshot("out")
	maps.DeleteFunc(files, func(file string, _ *fstest.MapFile) bool { return strings.HasPrefix(file, ".open-") })
	return dataset.ReadPartsFS(files, f)
}

// One of several outputs has nothing to write for long: that what the others wrote is
// committed says nothing of it.
func TestCommittedWithoutWrite(t *testing.T) {
	dir := t.TempDir()
	o := dataset.SinkOptions{RowsPerPart: 4, Epoch: 1}
	var checkpoint []byte
	for range 4 {
		s, err := dataset.OpenSink(dataset.OS{}, dir, o, checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		if checkpoint == nil {
			if _, checkpoint, err = s.Write(t.Context(), tasks(0, 6)); err != nil {
				t.Fatal(err)
			}
		}
		s.Committed()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.Epoch++
	}
	if _, err := dataset.SealOutput(dataset.OS{}, dir, o, checkpoint); err != nil {
		t.Fatal(err)
	}
	o.Epoch = 0
	if got, err := readIDs(folder{dir, &o}); err != nil || !slices.Equal(got, ids(0, 6)) {
		t.Errorf("got %v, %v, want 6 rows", got, err)
	}
}
