package dataset_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"matrix"
	"matrix/dataset"
	"matrix/matrixtest"
)

var compressions = []string{"none", "gzip", "zstd"}

// folder is an output on disk. With an epoch each Open has a later one.
type folder struct {
	dir string
	o   *dataset.SinkOptions
}

func (f folder) Open(checkpoint []byte) (matrix.Sink, error) {
	return openSink(dataset.OS{}, f.dir, f.o, checkpoint)
}

func openSink(fsys dataset.FS, dir string, o *dataset.SinkOptions, checkpoint []byte) (matrix.Sink, error) {
	if o.Epoch > 0 {
		o.Epoch++
	}
	s, err := dataset.OpenSink(fsys, dir, *o, checkpoint)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (f folder) Read(g func(part, line int, raw []byte) error) error {
	return dataset.ReadOpen(f.dir, g)
}

func (f folder) newest(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(f.dir, "part-*"))
	open, _ := filepath.Glob(filepath.Join(f.dir, ".open-*", "part-*"))
	if found = append(found, open...); err != nil || len(found) == 0 {
		t.Fatalf("no parts: %v", err)
	}
	return slices.MaxFunc(found, byPart)
}

func (f folder) Parse(raw []byte) (*matrix.Task, error) { return dataset.ParseTask(raw) }

func (f folder) Tear(t *testing.T, b []byte) {
	t.Helper()
	file, err := os.OpenFile(f.newest(t), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func (f folder) Shorten(t *testing.T, n int64) {
	t.Helper()
	name := f.newest(t)
	i, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, i.Size()-n); err != nil {
		t.Fatal(err)
	}
}

// memory is an output on a crashFS.
type memory struct {
	fs *crashFS
	o  *dataset.SinkOptions
}

func (m memory) Open(checkpoint []byte) (matrix.Sink, error) {
	return openSink(m.fs, "out", m.o, checkpoint)
}

func (m memory) Read(g func(part, line int, raw []byte) error) error {
	return dataset.ReadPartsFS(m.fs.snapshot("out"), g)
}

func (m memory) Parse(raw []byte) (*matrix.Task, error) { return dataset.ParseTask(raw) }

func (m memory) Tear(t *testing.T, b []byte) {
	f := m.fs.newest("out")
	f.data = append(f.data, b...)
}

func (m memory) Shorten(t *testing.T, n int64) {
	f := m.fs.newest("out")
	f.data = f.data[:int64(len(f.data))-n]
}

// A part that is removed or replaced while it is written is told when it is full,
// and at the end; so is one that was written before.
func TestSinkPartGone(t *testing.T) {
	tasks := make([]*matrix.Task, 3)
	for i := range tasks {
		tasks[i] = &matrix.Task{ID: fmt.Sprint(i), Item: matrix.RawValue([]byte("{}")), Outcome: &matrix.Outcome{Status: matrix.Done}}
	}
	for name, c := range map[string]struct {
		rows   int // in a part
		change func(dir string) error
	}{
		"the folder":    {100, os.RemoveAll},
		"the part":      {100, func(dir string) error { return os.Remove(filepath.Join(dir, "part-00000.jsonl")) }},
		"one before it": {2, func(dir string) error { return os.Remove(filepath.Join(dir, "part-00000.jsonl")) }},
		"at a roll":     {3, os.RemoveAll},
		"replaced": {100, func(dir string) error {
			part := filepath.Join(dir, "part-00000.jsonl")
			return errors.Join(os.Rename(part, part+".old"), os.WriteFile(part, nil, 0o666))
		}},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{RowsPerPart: c.rows}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Write(t.Context(), tasks); err != nil {
			t.Fatal(err)
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		if c.rows == len(tasks) {
			_, _, err = s.Write(t.Context(), tasks)
			if closed := s.Close(); closed != nil {
				t.Errorf("%s: close: %v", name, closed)
			}
		} else {
			err = s.Close()
		}
		if !errors.Is(err, dataset.ErrChanged) {
			t.Errorf("%s: got %v, want %v", name, err, dataset.ErrChanged)
		}
	}
}

func TestSink(t *testing.T) {
	t.Parallel()
	for _, c := range compressions {
		for _, epoch := range []uint64{0, 1} {
			t.Run(fmt.Sprint("disk/", c, "/", epoch), func(t *testing.T) {
				matrixtest.Sink(t, func(t *testing.T, rows int) matrixtest.Output {
					return folder{filepath.Join(t.TempDir(), "a", "b", "data"), &dataset.SinkOptions{Compress: c, RowsPerPart: rows, Epoch: epoch}}
				})
			})
			t.Run(fmt.Sprint("memory/", c, "/", epoch), func(t *testing.T) {
				matrixtest.Sink(t, func(t *testing.T, rows int) matrixtest.Output {
					return memory{newCrashFS(1), &dataset.SinkOptions{Compress: c, RowsPerPart: rows, Epoch: epoch}}
				})
			})
		}
	}
}

func tasks(first, n int) []*matrix.Task {
	ts := make([]*matrix.Task, n)
	for i := range ts {
		id := fmt.Sprintf("t%d", first+i)
		ts[i] = &matrix.Task{ID: id, Row: id, Item: matrix.RawValue([]byte(`{}`)), Turns: []matrix.Turn{{Role: "r", Text: strings.Repeat("x", (first+i)%50)}}}
	}
	return ts
}

func ids(first, n int) []string {
	var s []string
	for _, t := range tasks(first, n) {
		s = append(s, t.ID)
	}
	return s
}

func readIDs(out interface {
	Read(f func(part, line int, raw []byte) error) error
}) ([]string, error) {
	var got []string
	err := out.Read(func(part, line int, raw []byte) error {
		var t struct{ ID string }
		if err := json.Unmarshal(raw, &t); err != nil {
			return err
		}
		got = append(got, t.ID)
		return nil
	})
	return got, err
}

// Power may go at any operation, and again while the sink is being opened
// anew: what a checkpoint that was kept says is always there, and nothing else.
func TestSinkSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	for _, c := range compressions {
		t.Run(c, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				fsys := newCrashFS(rapid.Uint64().Draw(t, "seed"))
				epoch := rapid.Uint64Range(0, 1).Draw(t, "epoch")
				out := memory{fsys, &dataset.SinkOptions{Compress: c, RowsPerPart: rapid.IntRange(1, 7).Draw(t, "rows per part"), Epoch: epoch}}
				var checkpoint []byte
				kept, next := []string(nil), 0
				var s matrix.Sink
				for range rapid.IntRange(1, 12).Draw(t, "steps") {
					if rapid.IntRange(0, 2).Draw(t, "power") == 0 {
						fsys.failAt, fsys.fail = fsys.ops+rapid.IntRange(1, 15).Draw(t, "operation"), errCrash
					}
					var err error
					if s == nil {
						s, err = out.Open(checkpoint)
					}
					if err == nil {
						n := rapid.IntRange(0, 10).Draw(t, "tasks")
						var m []byte
						_, m, err = s.Write(t.Context(), tasks(next, n))
						if err == nil && rapid.IntRange(0, 3).Draw(t, "ledger") > 0 { // else power goes before the ledger has it
							checkpoint, kept = m, append(kept, ids(next, n)...)
							next += n
							s.(matrix.Sealer).Committed()
							continue
						}
					}
					if err != nil && !errors.Is(err, errCrash) {
						t.Fatalf("got %v, want only what the disk says", err)
					}
					if s != nil && err != nil {
						if _, _, again := s.Write(t.Context(), tasks(next, 1)); again == nil {
							t.Fatal("a sink whose write failed takes another")
						}
					}
					fsys.crash()
					s = nil
				}
				fsys.crash()
				if s, err := out.Open(checkpoint); err != nil {
					t.Fatalf("open with checkpoint %s: %v", checkpoint, err)
				} else if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if got, err := readIDs(out); err != nil || !slices.Equal(got, kept) {
					t.Fatalf("got %v, %v, want %v", got, err, kept)
				}
				if epoch == 0 {
					return
				}
				plain, err := dataset.SealOutput(fsys, "out", *out.o, checkpoint)
				if err == nil {
					err = dataset.RemoveOpen(fsys, "out")
				}
				if err != nil {
					t.Fatal(err)
				}
				out.o.Epoch = 0
				if s, err = out.Open(plain); err != nil {
					t.Fatal(err)
				}
				if _, _, err = s.Write(t.Context(), tasks(next, 3)); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, ids(next, 3)...)
				if got, err := readIDs(out); err != nil || !slices.Equal(got, kept) {
					t.Fatalf("sealed: got %v, %v, want %v", got, err, kept)
				}
			})
		})
	}
}

func TestSinkOnFullDisk(t *testing.T) {
	for _, c := range compressions {
		fsys := newCrashFS(1)
		out := memory{fsys, &dataset.SinkOptions{Compress: c, RowsPerPart: 3}}
		s, err := out.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, checkpoint, err := s.Write(t.Context(), tasks(0, 5))
		if err != nil {
			t.Fatal(err)
		}
		fsys.full = fsys.used + 40
		_, _, err = s.Write(t.Context(), tasks(5, 9))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("%s: got %v, want what to do about %v", c, err, syscall.ENOSPC)
		}
		fsys.full = 0
		if _, _, err := s.Write(t.Context(), tasks(5, 1)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: the next write: got %v, want to be refused", c, err)
		}
		if s, err = out.Open(checkpoint); err != nil {
			t.Fatal(err)
		}
		if _, _, err = s.Write(t.Context(), tasks(5, 9)); err != nil {
			t.Fatal(err)
		}
		if got, err := readIDs(out); err != nil || !slices.Equal(got, ids(0, 14)) {
			t.Errorf("%s: got %v, %v, want %v", c, got, err, ids(0, 14))
		}
	}
}

func TestSinkInReadOnlyFolder(t *testing.T) {
	fsys := newCrashFS(1)
	fsys.failAt, fsys.fail = 1, syscall.EROFS
	_, err := dataset.OpenSink(fsys, "out", dataset.SinkOptions{}, nil)
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "make the folder writable") {
		t.Errorf("got %v, want what to do about %v", err, syscall.EROFS)
	}

	if os.Getuid() == 0 {
		t.Log("not as root: nothing is read-only to it")
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{}, nil)
	if err == nil {
		_, _, err = s.Write(t.Context(), tasks(0, 1))
	}
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want no permission for %s", err, dir)
	}
}

func TestSinkWhereAFileIsInTheWay(t *testing.T) {
	file := writeFile(t, t.TempDir(), "file", "x")
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{}, nil); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want an error that names it", dir, err)
		}
	}
}

func TestSinkLeavesOtherFilesAlone(t *testing.T) {
	dir := t.TempDir()
	others := []string{"notes.txt", "part-1.jsonl", "part-00000.jsonl.bak", "part-00000.csv", "part-00000.jsonl.lz4", "part-000001.jsonl", "xpart-00000.jsonl", "part--0001.jsonl", "part-00000"}
	for _, name := range others {
		writeFile(t, dir, name, "mine")
	}
	for _, name := range []string{"part-00000.jsonl", "part-00001.jsonl.gz", "part-00002.jsonl.zst", "part-123456.jsonl"} {
		writeFile(t, dir, name, "old")
	}
	s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(others)
	if !slices.Equal(got, others) {
		t.Errorf("got %v, want %v", got, others)
	}
}

func TestSinkWithOtherCompression(t *testing.T) {
	dir := t.TempDir()
	var checkpoint []byte
	for i, c := range []string{"none", "gzip", "gzip", "zstd", "none"} {
		s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{Compress: c, RowsPerPart: 100}, checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		if _, checkpoint, err = s.Write(t.Context(), tasks(3*i, 3)); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	if got, err := readIDs(folder{dir, nil}); err != nil || !slices.Equal(got, ids(0, 15)) {
		t.Errorf("got %v, %v, want %v", got, err, ids(0, 15))
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "part-*")); len(found) != 4 {
		t.Errorf("got %v, want 4 parts", found)
	}
}

func TestSinkFindsPartsMissing(t *testing.T) {
	dir := t.TempDir()
	o := dataset.SinkOptions{RowsPerPart: 2}
	s, err := dataset.OpenSink(dataset.OS{}, dir, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, checkpoint, err := s.Write(t.Context(), tasks(0, 7))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, n := range []int{0, 1, 3} {
		name := filepath.Join(dir, fmt.Sprintf("part-%05d.jsonl", n))
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(name)
		_, err = dataset.OpenSink(dataset.OS{}, dir, o, checkpoint)
		if want := fmt.Sprintf("part %d", n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without part %d: got %v, want %q", n, err, want)
		}
		if n < 3 {
			if err := dataset.ReadOutput(dataset.OS{}, dir, dataset.Shard{}, checkpoint, func(int, int, []byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "is missing") {
				t.Errorf("ReadOutput without part %d: got %v", n, err)
			}
		}
		writeFile(t, dir, filepath.Base(name), string(data))
	}
	writeFile(t, dir, "part-00001.jsonl.zst", "")
	if err := dataset.ReadParts(dir, dataset.Shard{}, func(int, int, []byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "two files of part 1") {
		t.Errorf("ReadParts with two files of a part: got %v", err)
	}
	if _, err := dataset.OpenSink(dataset.OS{}, dir, o, checkpoint); err == nil || !strings.Contains(err.Error(), "two files of part 1") {
		t.Errorf("OpenSink with two files of a part: got %v", err)
	}
}

func TestReadParts(t *testing.T) {
	if err := dataset.ReadParts(filepath.Join(t.TempDir(), "none"), dataset.Shard{}, nil); err != nil {
		t.Errorf("no folder: got %v, want no parts", err)
	}
	for _, test := range []struct{ name, text, want string }{
		{"torn", "{\"id\":1}\n{\"id\":", "part-00000.jsonl:2: the line is cut short"},
		{"no newline", "{\"id\":1}", "part-00000.jsonl:1: the line is cut short"},
		{"not JSON", "{}\n{}\nx\n{}\n", "part-00000.jsonl:3: the line is not JSON"},
		{"blank", "{}\n\n{}\n", "part-00000.jsonl:2: the line is not JSON"},
		{"zeros", "{}\n\x00\x00\x00\n", "part-00000.jsonl:2: the line is not JSON"},
	} {
		dir := t.TempDir()
		writeFile(t, dir, "part-00000.jsonl", test.text)
		err := dataset.ReadParts(dir, dataset.Shard{}, func(int, int, []byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	stop := errors.New("stop")
	dir := t.TempDir()
	writeFile(t, dir, "part-00000.jsonl", "{}\n")
	if err := dataset.ReadParts(dir, dataset.Shard{}, func(int, int, []byte) error { return stop }); err != stop {
		t.Errorf("got %v, want %v", err, stop)
	}
}

// A lazy output makes its folder with its first row, and what is not wanted of a task
// is not written.
func TestSinkOfDropped(t *testing.T) {
	tasks := []*matrix.Task{{
		ID: "a", Row: "a", Item: matrix.RawValue([]byte(`{"text":"long"}`)), Turns: []matrix.Turn{{Role: "judge", Text: "no"}},
		Outcome: &matrix.Outcome{Status: matrix.Dropped, Cause: "score 1"},
	}}
	for i, x := range []struct {
		detail dataset.Detail
		item   string
		turns  int
		place  matrix.Place
	}{
		{dataset.Full, `{"text":"long"}`, 1, matrix.Place{}}, {dataset.Turns, "{}", 1, matrix.Place{}}, {dataset.Reason, "{}", 0, matrix.Place{}}, {dataset.None, "", 0, matrix.Place{Part: -1}},
		{dataset.Full, `{"text":"long"}`, 1, matrix.Place{}}, {dataset.None, "", 0, matrix.Place{Part: -1}}, // with epochs
	} {
		epoch := uint64(i / 4)
		dir := filepath.Join(t.TempDir(), "dropped")
		out := folder{dir, &dataset.SinkOptions{Lazy: true, Detail: x.detail, Epoch: epoch}}
		for range 2 { // what was never written to opens again
			s, err := out.Open(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the folder is there before its first row: %v", x.detail, err)
		}
		s, err := out.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		places, checkpoint, err := s.Write(t.Context(), tasks)
		if err != nil || len(places) != 1 || places[0] != x.place {
			t.Errorf("%q: got %v, %v, want %v", x.detail, places, err, x.place)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = out.Open(checkpoint); err != nil {
			t.Fatal(err)
		}
		s.Close()
		_, err = os.Stat(dir)
		if x.detail == dataset.None {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a folder of nothing: %v", err)
			}
			continue
		}
		_ = out.Read(func(_, _ int, raw []byte) error {
			got, err := dataset.ParseTask(raw)
			if err != nil || got.Outcome.Cause != "score 1" || len(got.Turns) != x.turns || string(got.Item.Raw()) != x.item {
				t.Errorf("%q: got %s, %v", x.detail, raw, err)
			}
			return nil
		})
		if string(tasks[0].Item.Raw()) != `{"text":"long"}` || len(tasks[0].Turns) != 1 {
			t.Errorf("%q: the task was changed", x.detail)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Open(checkpoint); !errors.Is(err, dataset.ErrChanged) {
			t.Errorf("%q: without its folder: got %v, want %v", x.detail, err, dataset.ErrChanged)
		}
	}
}
