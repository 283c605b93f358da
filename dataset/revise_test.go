package dataset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"matrix"
	"matrix/dataset"
)

// ledger is what a caller of a Sink has committed.
type ledger struct {
	checkpoint []byte
	places     map[string]matrix.Place // of the rows that the output holds
	taken      map[string]bool         // rows that were taken out of it
	begun      bool
	over       bool
}

// keeps says which rows stay when the output is gone through.
func keeps(id string) bool { return len(id)%2 == 0 || strings.HasSuffix(id, "3") }

// session writes 30 rows, and goes through them all, from where l is on. It
// returns the first error.
func (l *ledger) session(fsys dataset.FS, o dataset.SinkOptions, each func()) error {
	s, err := dataset.OpenSink(fsys, "out", o, l.checkpoint)
	if err != nil {
		return err
	}
	defer s.Close()
	commit := func(ts []*matrix.Task, taken ...string) error {
		places, checkpoint, err := s.Write(context.Background(), ts)
		if err != nil {
			return err
		}
		l.checkpoint = checkpoint
		for _, id := range taken {
			delete(l.places, id)
			l.taken[id] = true
		}
		for i, p := range places {
			l.places[ts[i].ID] = p
		}
		each()
		return nil
	}
	for len(l.places)+len(l.taken) < 30 && !l.begun {
		if err := commit(tasks(len(l.places), 6)); err != nil {
			return err
		}
	}
	if !l.begun {
		checkpoint, err := s.Revise()
		if err != nil {
			return err
		}
		l.checkpoint, l.begun = checkpoint, true
		each()
	}
	for !l.over {
		ts, err := s.Next(4, 1<<20)
		if err != nil {
			return err
		}
		var stay []*matrix.Task
		var taken []string
		for _, t := range ts {
			if keeps(t.ID) {
				stay = append(stay, t)
			} else {
				taken = append(taken, t.ID)
			}
		}
		if err := commit(stay, taken...); err != nil {
			return err
		}
		l.over = len(ts) == 0
	}
	return commit(tasks(100, 1)) // it goes on as any other
}

// check compares the output with the ledger: its rows stand where it says, and
// what is called part holds no row that was taken out.
func (l *ledger) check(t *testing.T, files fstest.MapFS) {
	t.Helper()
	found := map[string]matrix.Place{}
	_ = dataset.ReadOutputFS(files, l.checkpoint, func(part, line int, raw []byte) error {
		var x matrix.Task
		if err := json.Unmarshal(raw, &x); err != nil {
			return err
		}
		p := matrix.Place{Part: part, Line: line}
		if want, ok := l.places[x.ID]; ok && want == p {
			found[x.ID] = p
		}
		return nil
	}) // what a crash tore comes after all that is known
	if !maps.Equal(found, l.places) {
		t.Errorf("checkpoint %s: %d rows stand where the ledger says, of %d", l.checkpoint, len(found), len(l.places))
	}
	for name, f := range files {
		if !strings.HasPrefix(name, "part-") || strings.Contains(name, ".gz") || strings.Contains(name, ".zst") {
			continue
		}
		for id := range l.taken {
			if strings.Contains(string(f.Data), fmt.Sprintf(`{"id":%q,`, id)) {
				t.Errorf("checkpoint %s: %s holds %s, which was taken out", l.checkpoint, name, id)
			}
		}
	}
}

// TestRevise cuts the power at each operation of the file system while an output
// is written and gone through again, and goes on with what is left.
func TestRevise(t *testing.T) {
	t.Parallel()
	for _, c := range compressions {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			for failAt := 0; ; failAt++ {
				disk := newCrashFS(uint64(failAt))
				o := dataset.SinkOptions{Compress: c, RowsPerPart: 7}
				l := &ledger{places: map[string]matrix.Place{}, taken: map[string]bool{}}
				disk.failAt, disk.fail = failAt, errCrash
				err := l.session(disk, o, func() { l.check(t, disk.snapshot("out")) })
				crashed := err != nil
				if crashed {
					disk.crash()
					l.check(t, disk.snapshot("out"))
					if err := l.session(disk, o, func() { l.check(t, disk.snapshot("out")) }); err != nil {
						t.Fatalf("%s, crash at operation %d: %v", c, failAt, err)
					}
				}
				l.check(t, disk.snapshot("out"))
				for name := range disk.snapshot("out") {
					if strings.HasPrefix(name, "retry-") {
						t.Errorf("%s, crash at operation %d: %s is left", c, failAt, name)
					}
				}
				if n := len(l.places) + len(l.taken); n != 31 || len(l.taken) == 0 || len(l.places) < 2 {
					t.Fatalf("%s, crash at operation %d: %d rows stayed and %d were taken, of 31", c, failAt, len(l.places), len(l.taken))
				}
				if t.Failed() {
					t.Fatalf("%s, crash at operation %d", c, failAt)
				}
				if failAt > 0 && !crashed {
					t.Logf("%s: %d operations", c, failAt)
					break
				}
			}
		})
	}
}

// TestReviseTwice begins anew in the middle: what was written since is gone
// through, too.
func TestReviseTwice(t *testing.T) {
	dir := t.TempDir()
	s, err := dataset.OpenSink(dataset.OS{}, dir, dataset.SinkOptions{RowsPerPart: 4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	must := func(_ any, _ []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	next := func(n int) (ids []string) {
		t.Helper()
		ts, err := s.Next(n, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range ts {
			ids = append(ids, x.ID)
		}
		return ids
	}
	must(s.Write(t.Context(), tasks(0, 6)))
	if _, err := s.Revise(); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(next(3))
	must(s.Write(t.Context(), tasks(50, 2)))
	if _, err := s.Revise(); err != nil {
		t.Fatal(err)
	}
	for ids := next(2); ids != nil; ids = next(2) {
		got += fmt.Sprint(ids)
		must(s.Write(t.Context(), nil))
	}
	want := ""
	for _, part := range [][]*matrix.Task{tasks(0, 3), tasks(3, 2), append(tasks(5, 1), tasks(50, 1)...), tasks(51, 1)} {
		var ids []string
		for _, x := range part {
			ids = append(ids, x.ID)
		}
		want += fmt.Sprint(ids)
	}
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(s.Write(t.Context(), nil))
	if err := dataset.ReadParts(dir, dataset.Shard{}, func(int, int, []byte) error { return fs.ErrExist }); err != nil {
		t.Errorf("all rows were taken out, and there are some: %v", err)
	}
}

// An output that was being gone through can be made good again and again, as by
// repairs that are killed: what the checkpoint says is over is left out, and no more.
func TestRepairRevised(t *testing.T) {
	for name, o := range map[string]dataset.SinkOptions{"plain": {RowsPerPart: 4}, "zstd": {RowsPerPart: 4, Compress: "zstd"}} {
		for over := range 11 {
			t.Run(fmt.Sprint(name, over), func(t *testing.T) {
				dir := t.TempDir()
				s, err := dataset.OpenSink(dataset.OS{}, dir, o, nil)
				if err != nil {
					t.Fatal(err)
				}
				ctx := context.Background()
				for i := range 5 {
					if _, _, err := s.Write(ctx, tasks(2*i, 2)); err != nil {
						t.Fatal(err)
					}
				}
				checkpoint, err := s.Revise()
				if err == nil && over > 0 {
					if _, err = s.Next(over, 1<<20); err == nil {
						_, checkpoint, err = s.Write(ctx, nil)
					}
				}
				if err = errors.Join(err, s.Close()); err != nil {
					t.Fatal(err)
				}
				for round := range 3 {
					dropped, err := dataset.RepairParts(dir, filepath.Join(t.TempDir(), "old"), dataset.Shard{}, checkpoint, func([]byte) bool { return true })
					if err != nil || dropped != 0 {
						t.Fatalf("round %d: %d lines dropped, %v", round, dropped, err)
					}
					at, err := dataset.CheckpointAt(dir, dataset.Shard{})
					if err != nil {
						t.Fatal(err)
					}
					var left []string
					if err := dataset.ReadOutput(dataset.OS{}, dir, dataset.Shard{}, at, func(_, _ int, raw []byte) error {
						var x matrix.Task
						err := json.Unmarshal(raw, &x)
						left = append(left, x.ID)
						return err
					}); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					if slices.Sort(left); !slices.Equal(left, ids(over, 10-over)) {
						t.Fatalf("round %d: got %v, want t%d and all after it", round, left, over)
					}
					if s, err = dataset.OpenSink(dataset.OS{}, dir, o, at); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}
