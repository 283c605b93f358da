package local_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
)

// sick is a file system whose writes and syncs fail once so many have gone
// well, and that does not know how to allocate in advance.
type sick struct {
	vfs.FS
	left *atomic.Int64
}

type sickFile struct {
	vfs.File
	left *atomic.Int64
}

var errSick = &os.PathError{Op: "write", Path: "a file", Err: syscall.EIO}

func (s sick) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return sickFile{f, s.left}, err
}

func (s sick) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(from, to, c)
	return sickFile{f, s.left}, err
}

func (f sickFile) Write(p []byte) (int, error) {
	if f.left.Add(-1) < 0 {
		return 0, errSick
	}
	return f.File.Write(p)
}

func (f sickFile) Sync() error {
	if f.left.Add(-1) < 0 {
		return errSick
	}
	return f.File.Sync()
}

func (f sickFile) SyncData() error                { return f.Sync() }
func (f sickFile) Preallocate(int64, int64) error { return syscall.EOPNOTSUPP }

// TestStoreFails lets the disk fail in the middle of everything. Every call
// returns the fault, nothing that was let go is missing afterwards, and the
// folder can be opened again.
func TestStoreFails(t *testing.T) {
	for round := range 12 {
		mem := vfs.NewCrashableMem()
		var left atomic.Int64
		left.Store(1 << 40)
		q, err := local.Open("/q", local.Options{FS: sick{mem, &left}})
		if err != nil {
			t.Fatal(err)
		}
		left.Store(int64(20 + rand.IntN(800)))
		var mu sync.Mutex
		seen := map[string]int{} // the hop at which each was last delivered
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i, role := range []string{"a", "b"} {
			wg.Go(func() {
				errs[i] = matrix.Consume(t.Context(), q, role, matrix.Slots(8), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
					mu.Lock()
					seen[m.Task] = m.Hop
					mu.Unlock()
					to := []string{"a", "b"}[rand.IntN(2)]
					return matrix.Step{Role: to, Record: make([]byte, rand.IntN(60<<10))}, nil
				})
			})
		}
		wg.Go(func() {
			errs[2] = q.Collect(t.Context(), "done", 10, func(context.Context, []*matrix.Message) (matrix.Settlement, error) {
				return matrix.Settlement{}, errors.New("nobody is done")
			})
		})
		wg.Go(func() {
			for i := 0; errs[3] == nil; i++ {
				_, errs[3] = q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint(i % 300), Role: "a"}}, map[string][]byte{"n": fmt.Append(nil, i)})
			}
		})
		wg.Wait()
		for i, err := range errs {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("round %d, call %d: got %v, want %v", round, i, err, syscall.EIO)
			}
		}
		if err := q.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("close: got %v, want %v", err, syscall.EIO)
		}
		q, err = local.Open("/q", local.Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatal(err)
		}
		for id, hop := range seen {
			m, ok, err := q.Peek(context.Background(), id)
			if err != nil || !ok || m.Hop < hop {
				t.Errorf("round %d: %s was delivered at hop %d, and now there is %+v, %v, %v", round, id, hop, m, ok, err)
			}
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A file system that cannot allocate in advance is good enough.
func TestNoPreallocate(t *testing.T) {
	var left atomic.Int64
	left.Store(1 << 40)
	q, err := local.Open(t.TempDir(), local.Options{FS: sick{vfs.Default, &left}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, nil); err != nil {
		t.Error(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := local.Open(dir, local.Options{ReadOnly: readOnly}); !errors.Is(err, local.ErrLocked) {
			t.Errorf("open twice: got %v, want %v", err, local.ErrLocked)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("v"), binary.AppendUvarint(nil, local.Version+1), pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(dir, local.Options{}); err == nil || !strings.Contains(err.Error(), "use a newer Matrix") {
		t.Errorf("a newer state: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(filepath.Join(dir, "file"), local.Options{}); err == nil || errors.Is(err, local.ErrLocked) {
		t.Errorf("a file for a folder: got %v", err)
	}
}

// A handler that stops the consume is not called again and again meanwhile, and
// its error is told although the consume is ending anyway.
func TestStopEndsConsume(t *testing.T) {
	q, err := local.Open("", local.Options{Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var seeds []matrix.Seed
	for i := range 2000 {
		seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(i), Role: "a"})
	}
	if _, err := q.Seed(t.Context(), seeds, nil); err != nil {
		t.Fatal(err)
	}
	wrong := &matrix.StopError{Err: errors.New("wrong key")}
	var calls atomic.Int64
	err = matrix.Consume(t.Context(), q, "a", matrix.Slots(4), func(context.Context, *matrix.Message) (matrix.Step, error) {
		calls.Add(1)
		return matrix.Step{}, wrong
	})
	if !errors.Is(err, wrong) || calls.Load() > 4 {
		t.Errorf("got %v after %d calls, want %v after at most 4", err, calls.Load(), wrong)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = matrix.Consume(ctx, q, "a", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
		cancel()
		return matrix.Step{}, wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("while ending: got %v, want %v", err, wrong)
	}
}

// A free retry that names no time does not spin.
func TestFreeRetryWaits(t *testing.T) {
	q, err := local.Open("", local.Options{Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err = matrix.Consume(ctx, q, "a", matrix.Slots(1), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
		if calls++; calls < 3 {
			return matrix.Step{}, &matrix.RetryError{Err: errors.New("not yet"), Free: true}
		}
		if m.Delayed != 2*matrix.FreeRetry || m.Attempt != 0 {
			t.Errorf("got %v delayed and %d attempts, want %v and 0", m.Delayed, m.Attempt, 2*matrix.FreeRetry)
		}
		cancel()
		return matrix.Step{Role: "b"}, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A message that comes back in an hour does not hold up a Close.
func TestCloseWhileDelayed(t *testing.T) {
	q, err := local.Open("", local.Options{Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = matrix.Consume(ctx, q, "a", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
		cancel()
		return matrix.Step{}, &matrix.RetryError{Err: errors.New("later"), After: time.Hour}
	})
	if n := q.Counts(); err != nil || n.Waiting["a"] != 1 || len(n.Waiting) != 1 || n.Live != 1 {
		t.Errorf("got %v, %+v; want one task that waits for a", err, n)
	}
	var wg sync.WaitGroup
	for range 2 { // at once
		wg.Go(func() {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// foreign is a file system on which nothing can be locked.
type foreign struct{ vfs.FS }

func (foreign) Lock(name string) (io.Closer, error) {
	return nil, &os.PathError{Op: "open", Path: name, Err: syscall.EACCES}
}

// Who may read a run and not write it can look at it.
func TestReadOnlyWithoutLock(t *testing.T) {
	dir := t.TempDir()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(dir, local.Options{FS: foreign{vfs.Default}}); !errors.Is(err, syscall.EACCES) {
		t.Errorf("to write: got %v, want %v", err, syscall.EACCES)
	}
	q, err = local.Open(dir, local.Options{FS: foreign{vfs.Default}, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := q.Peek(context.Background(), "x"); !ok || err != nil {
		t.Errorf("peek: got %v, %v", ok, err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
