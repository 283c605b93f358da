package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
)

// filled makes a queue of n tasks in a folder, each with a record of its seed
// and one of a hop, and commits each hop by itself. Half of them are moved to
// tables, and the queue is left as a kill leaves it: in a copy, while it is open.
func filled(t *testing.T, n int) string {
	t.Helper()
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	for half := range 2 {
		q, err := local.Open(dir, local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := n / 2
		for i := range left {
			seed := matrix.Seed{Task: fmt.Sprintf("t%d", half*left+i), Row: int64(half*left + i), Role: "a", Record: bytes.Repeat([]byte{byte(i)}, 600)}
			if _, err := q.Seed(ctx, []matrix.Seed{seed}, map[string][]byte{"feed": fmt.Append(nil, i), fmt.Sprint("totals", half): bytes.Repeat([]byte{byte(i)}, 600)}); err != nil {
				t.Fatal(err)
			}
		}
		err = matrix.Consume(ctx, q, "a", matrix.Slots(1), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
			if left--; left == 0 {
				cancel()
			}
			return matrix.Step{Role: "b", Record: bytes.Repeat([]byte(m.Task+" "), 300)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if half == 1 {
			if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return killed
}

// readAll reads all that a queue holds. The error is the first.
func readAll(dir string, o local.Options) (tasks int, err error) {
	q, err := local.Open(dir, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	err = q.Walk(context.Background(), func(id string, _ matrix.Fate) error {
		m, ok, err := q.Peek(context.Background(), id)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%s is there: %v", id, ok))
		}
		if _, err = m.Log(context.Background(), 0); err == nil {
			tasks++
		}
		return err
	})
	return tasks, err
}

func glob(t *testing.T, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return slices.MaxFunc(names, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return int(x.Size() - y.Size())
	})
}

// Whatever has become of a file of the store, who opens and reads it comes back
// with what was written, or an error that says what is damaged.
func TestDamage(t *testing.T) {
	const tasks = 600
	whole := filled(t, tasks)
	if n, err := readAll(whole, local.Options{ReadOnly: true}); n != tasks || err != nil {
		t.Fatalf("before: %d tasks, %v", n, err)
	}
	damages := map[string]func(b []byte) []byte{
		"flip": func(b []byte) []byte { b[rand.IntN(len(b))] ^= 1 << rand.IntN(8); return b },
		"cut":  func(b []byte) []byte { return b[:rand.IntN(len(b))] },
		"zero": func(b []byte) []byte { at := rand.IntN(len(b)); clear(b[at:min(len(b), at+4096)]); return b },
		"gone": func([]byte) []byte { return nil },
	}
	for _, pattern := range []string{"*.sst", "*.blob", "*.log", "MANIFEST-*", "OPTIONS-*", "marker.manifest.*"} {
		for name, damage := range damages {
			t.Run(name+" "+pattern, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "q")
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				file := glob(t, dir, pattern)
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if b = bytes.TrimRight(b, "\x00"); len(b) == 0 && name != "gone" {
					t.Skip("empty")
				}
				if b = damage(b); b == nil {
					err = os.Remove(file)
				} else {
					err = os.WriteFile(file, b, 0o666)
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range []local.Options{{ReadOnly: true, Existing: true}, {Existing: true}} {
					n, err := readAll(dir, o)
					var d *local.DamagedError
					switch {
					case errors.As(err, &d):
						if !strings.HasPrefix(d.File, dir) {
							t.Errorf("got %v, want the name of a file", err)
						}
					case err != nil:
						t.Errorf("got %v, want a DamagedError", err)
					case n < tasks && pattern != "*.log": // of which the end may be torn
						t.Errorf("%d tasks of %d, and no error", n, tasks)
					}
				}
			})
		}
	}
}

// What a damaged block of records holds is all that is lost: what stands after it
// can be salvaged.
func TestSalvageAfterDamagedRecords(t *testing.T) {
	dir := filled(t, 100)
	name := glob(t, dir, "*.blob")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 4
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	q, err := local.Open(dir, local.Options{ReadOnly: true, Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := q.Counts().Live; n != 100 {
		t.Errorf("%d tasks are live, want 100, whether they can be read or not", n)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	rest, err := local.Salvage(dir, dir+".salvage")
	if err != nil {
		t.Fatal(err)
	}
	tasks := 0
	err = rest.Tasks(func(matrix.Seed, []matrix.Step, int, bool) error { tasks++; return nil })
	if err := errors.Join(err, rest.Close()); err != nil {
		t.Fatal(err)
	}
	if tasks < 85 || len(rest.Faults) == 0 {
		t.Errorf("%d tasks of 100 are left, and %d faults were met; want all but those of one block", tasks, len(rest.Faults))
	}
}

// Wherever a bit of a table has flipped, who opens the queue to write to it is
// told, before a compaction meets it, and what is left of it can be salvaged.
func TestEveryBlockOfTables(t *testing.T) {
	t.Parallel()
	whole := filled(t, 100)
	tables, err := filepath.Glob(filepath.Join(whole, "*.sst"))
	if err != nil || len(tables) < 2 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for at := 3; at < len(b)-60; at += max(len(b)/12, 70) { // the end is the footer
			dir := filepath.Join(t.TempDir(), "q")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			flipped := slices.Clone(b)
			flipped[at] ^= 4
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(table)), flipped, 0o666); err != nil {
				t.Fatal(err)
			}
			q, err := local.Open(dir, local.Options{Existing: true})
			var d *local.DamagedError
			if !errors.As(err, &d) || !strings.HasSuffix(d.File, ".sst") {
				t.Errorf("%s, byte %d: got %v, want that it is damaged", filepath.Base(table), at, err)
			}
			if err == nil {
				_ = q.Close()
			}
			if q, err := local.Open(dir, local.Options{ReadOnly: true, Existing: true}); err == nil {
				if err := q.Check(); !errors.As(err, &d) {
					t.Errorf("%s, byte %d: Check: %v", filepath.Base(table), at, err)
				}
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}
			rest, err := local.Salvage(dir, dir+".salvage")
			if err != nil {
				t.Fatalf("%s, byte %d: %v", filepath.Base(table), at, err)
			}
			tasks := 0
			err = rest.Tasks(func(matrix.Seed, []matrix.Step, int, bool) error { tasks++; return nil })
			if err := errors.Join(err, rest.Close()); err != nil {
				t.Errorf("%s, byte %d: %v", filepath.Base(table), at, err)
			}
			if tasks < 49 { // those that stand in the log, but for one next to the block
				t.Errorf("%s, byte %d: %d tasks are left", filepath.Base(table), at, tasks)
			}
		}
	}
}

// Whatever is left of a blob file, the rest of the queue can be salvaged.
func TestEveryCutOfBlobs(t *testing.T) {
	whole := filled(t, 100)
	name := filepath.Base(glob(t, whole, "*.blob"))
	b, err := os.ReadFile(filepath.Join(whole, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []int{0, 1, 8, len(b) / 4, len(b) / 2, len(b) - 100, len(b) - 40, len(b) - 8, len(b) - 1} {
		dir := filepath.Join(t.TempDir(), "q")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), int64(left)); err != nil {
			t.Fatal(err)
		}
		rest, err := local.Salvage(dir, dir+".salvage")
		if err != nil {
			t.Fatalf("%d bytes left: %v", left, err)
		}
		tasks := 0
		err = rest.Tasks(func(matrix.Seed, []matrix.Step, int, bool) error { tasks++; return nil })
		_, _ = rest.Checkpoint(context.Background(), "totals0") // of the table alone
		if err := errors.Join(err, rest.Close()); err != nil {
			t.Errorf("%d bytes left: %v", left, err)
		}
		if tasks < 50 || len(rest.Faults) == 0 { // those that stand in the log
			t.Errorf("%d bytes left: %d tasks, and %d faults were met", left, tasks, len(rest.Faults))
		}
	}
}

// A value of a blob file with a flipped bit is an error, and never another value.
func TestFlippedBlobs(t *testing.T) {
	t.Parallel()
	whole := filled(t, 100)
	name := filepath.Base(glob(t, whole, "*.blob"))
	b, err := os.ReadFile(filepath.Join(whole, name))
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for at := 0; at < len(b); at += max(1, len(b)/150) {
		dir := filepath.Join(t.TempDir(), "q")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(b)
		flipped[at] ^= 4
		if err := os.WriteFile(filepath.Join(dir, name), flipped, 0o666); err != nil {
			t.Fatal(err)
		}
		q, err := local.Open(dir, local.Options{ReadOnly: true, Existing: true})
		if err != nil {
			told++
			continue
		}
		switch v, err := q.Checkpoint(t.Context(), "totals0"); {
		case err != nil:
			told++
		case len(v) != 600:
			t.Errorf("byte %d: a value of %d bytes, want 600 or an error", at, len(v))
		}
		_ = q.Close()
	}
	if told == 0 {
		t.Error("no flip was told: nothing is tested")
	}
}

// A hole in the middle of a log is refused, and named; the end of one may be torn.
func TestLogWithHole(t *testing.T) {
	dir, whole := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint(i), Role: "a", Record: make([]byte, 600)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.CopyFS(whole, os.DirFS(dir)), q.Close()); err != nil {
		t.Fatal(err)
	}
	name := glob(t, whole, "*.log")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b = bytes.TrimRight(b, "\x00"); len(b) < 100_000 {
		t.Fatalf("the log has %d bytes: too few for a hole", len(b))
	}
	for at, want := range map[int]bool{len(b) / 3: true, len(b) / 2: true, len(b) - 20: false} {
		torn := bytes.Clone(b)
		torn[at] ^= 4
		if err := os.WriteFile(name, torn, 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := readAll(whole, local.Options{ReadOnly: true})
		var d *local.DamagedError
		if got := errors.As(err, &d); got != want || want && d.File != name {
			t.Errorf("a bit flipped at %d of %d: got %v, want an error: %v", at, len(b), err, want)
		}
	}
}

// Whatever bit of a manifest flips, the tasks are there or the file is named; one
// that was torn as it was written is none.
func TestManifestFlipped(t *testing.T) {
	const tasks = 20
	dir := filled(t, tasks)
	name := glob(t, dir, "MANIFEST-*")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += 1 + len(b)/40 {
		flipped := bytes.Clone(b)
		flipped[at] ^= 1 << (at % 8)
		if err := os.WriteFile(name, flipped, 0o666); err != nil {
			t.Fatal(err)
		}
		n, err := readAll(dir, local.Options{ReadOnly: true})
		if !errors.As(err, new(*local.DamagedError)) && (err != nil || n != tasks) {
			t.Errorf("a bit flipped at %d of %d: %d tasks of %d, %v", at, len(b), n, tasks, err)
		}
	}
	if err := os.WriteFile(name, append(b, "\x12\x34\x56\x78\xff\x00\x01half"...), 0o666); err != nil {
		t.Fatal(err)
	}
	if n, err := readAll(dir, local.Options{ReadOnly: true}); n != tasks || err != nil {
		t.Errorf("an edit torn: %d tasks of %d, %v", n, tasks, err)
	}
}

// A queue that was closed does not need its log; one that was not is refused
// without, where the caller knows that it was used.
func TestLogGone(t *testing.T) {
	dir := filled(t, 100)
	if n, err := readAll(dir, local.Options{}); n != 100 || err != nil { // opened to write, and closed
		t.Fatalf("got %d tasks, %v", n, err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	var d *local.DamagedError
	if _, err := readAll(dir, local.Options{ReadOnly: true, Existing: true}); !errors.As(err, &d) {
		t.Errorf("without its log: got %v, want a DamagedError", err)
	}
	if n, err := readAll(dir, local.Options{ReadOnly: true}); n != 100 || err != nil {
		t.Errorf("without its log: got %d tasks, %v, want 100", n, err)
	}
}

// unmade is a file system on which some files cannot be made.
type unmade struct {
	vfs.FS
	part string
}

func (u unmade) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.Contains(name, u.part) {
		return nil, &os.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
	}
	return u.FS.Create(name, c)
}

// A store that gives up as it is opened ends the call, not its caller.
func TestOpenGivesUp(t *testing.T) {
	for _, part := range []string{"marker", "MANIFEST", ".log"} {
		_, err := local.Open(t.TempDir(), local.Options{FS: unmade{vfs.Default, part}})
		if !errors.Is(err, syscall.EMFILE) || errors.As(err, new(*local.DamagedError)) {
			t.Errorf("no %s can be made: got %v, want %v", part, err, syscall.EMFILE)
		}
	}
}

// Clear deletes the queue's files alone, and one that was cut short is known.
func TestClear(t *testing.T) {
	dir := filled(t, 100)
	for _, name := range []string{"notes.log", "000001.sst.bak", "MANIFEST"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "mine"), 0o777); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("killed")
	for _, before := range []error{stop, nil} {
		h, err := local.LockDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Clear(func() error { return before }); !errors.Is(err, before) {
			t.Errorf("got %v, want %v", err, before)
		}
		if got, want := local.Clearing(dir), before != nil; got != want {
			t.Errorf("clearing: got %v, want %v", got, want)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"000001.sst.bak", "LOCK", "MANIFEST", "RUNNING", "mine", "notes.log"}; !slices.Equal(names, want) {
		t.Errorf("left: got %q, want %q", names, want)
	}
}

// Whoever writes waits for whoever only reads, and not for another writer.
func TestHoldWaits(t *testing.T) {
	dir := filled(t, 2)
	reader, err := local.Open(dir, local.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		h, err := local.LockDir(dir)
		if err == nil {
			err = h.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("got %v while somebody reads, want to wait", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	h, err := local.LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := local.LockDir(dir); !errors.Is(err, local.ErrLocked) || time.Since(began) > 9*time.Second { // of 10, for which who reads is waited for
		t.Errorf("while somebody writes: got %v after %v, want %v at once", err, time.Since(began), local.ErrLocked)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadersSideBySide: those who only read a queue do so side by side, and
// whoever wants to write waits for the last of them.
func TestReadersSideBySide(t *testing.T) {
	dir := t.TempDir()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(dir, local.Options{ReadOnly: true}); !errors.Is(err, local.ErrLocked) {
		t.Errorf("beside a writer: got %v, want %v", err, local.ErrLocked)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	var readers []*local.Queue
	for range 3 {
		r, err := local.Open(dir, local.Options{ReadOnly: true})
		if err != nil {
			t.Fatalf("beside %d readers: %v", len(readers), err)
		}
		readers = append(readers, r)
	}
	got := make(chan error, 1)
	go func() {
		h, err := local.LockDir(dir)
		if err == nil {
			err = h.Close()
		}
		got <- err
	}()
	for i, r := range readers {
		select {
		case err := <-got:
			t.Fatalf("got %v while %d read, want to wait", err, len(readers)-i)
		default:
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Nothing is written through a link.
func TestHoldRefusesLinks(t *testing.T) {
	for _, name := range []string{"LOCK", "RUNNING"} {
		dir := t.TempDir()
		precious := filepath.Join(t.TempDir(), "precious")
		if err := os.WriteFile(precious, []byte("gold"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(precious, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := local.Open(dir, local.Options{}); err == nil {
			t.Errorf("%s is a link: got no error", name)
		}
		if b, err := os.ReadFile(precious); string(b) != "gold" {
			t.Errorf("%s is a link: what it leads to is %q, %v", name, b, err)
		}
	}
}

// A file of values that cannot be opened is an error of whoever wants one of
// them, and no panic.
func TestValuesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("x"), 2000)
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "t", Role: "a", Record: long}}, map[string][]byte{"m": long}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "*.blob"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("there are no files of values: %v, %v", blobs, err)
	}
	for _, name := range blobs {
		if err := os.Truncate(name, 100); err != nil {
			t.Fatal(err)
		}
	}
	q, err = local.Open(dir, local.Options{ReadOnly: true})
	if err == nil {
		defer q.Close()
		_, err = q.Checkpoint(context.Background(), "m")
		if m, ok, lost := q.Peek(context.Background(), "t"); lost == nil && ok {
			if _, lost = m.Log(context.Background(), 0); !errors.As(lost, new(*local.DamagedError)) {
				t.Errorf("the log of a task: got %v, want a DamagedError", lost)
			}
		}
	}
	if !errors.As(err, new(*local.DamagedError)) {
		t.Errorf("a checkpoint: got %v, want a DamagedError", err)
	}
}
