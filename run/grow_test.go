package run_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/run"
)

// inbox is a dataset that grows.
type inbox struct {
	t    testing.TB
	path string
	n    int // rows so far
}

func (in *inbox) source() matrix.Grower {
	in.t.Helper()
	s, err := dataset.Open(dataset.Options{Paths: []string{in.path}, IDField: "id"})
	if err != nil {
		in.t.Fatal(err)
	}
	g, err := dataset.Follow(s)
	if err != nil {
		in.t.Fatal(err)
	}
	return g
}

// push adds n rows, and closes the dataset where last is true.
func (in *inbox) push(n int, last bool) {
	j, err := dataset.OpenJournal(in.path)
	if err != nil {
		in.t.Error(err)
		return
	}
	for range n {
		err = errors.Join(err, j.Append(map[string]any{"id": fmt.Sprint("r", in.n), "n": in.n}))
		in.n++
	}
	if last {
		err = errors.Join(err, j.End())
	}
	if err := errors.Join(err, j.Close()); err != nil {
		in.t.Error(err)
	}
}

// Tasks settle while their dataset waits for rows, whatever the credit; a run that
// was stopped meanwhile goes on over a dataset that has grown; and it ends with the
// last task of one that has been closed.
func TestSourceThatGrows(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 3} {
		for _, trials := range []int{1, 2} {
			t.Run(fmt.Sprintf("shards=%d/trials=%d", shards, trials), func(t *testing.T) { grows(t, shards, trials) })
		}
	}
}

func grows(t *testing.T, shards, trials int) {
	b := newBed(t)
	b.shards = shards
	in := &inbox{t: t, path: filepath.Join(t.TempDir(), "rows.jsonl")}
	in.push(0, false)
	cfg := func() run.Config {
		c := dialogue(3)
		c.Source, c.Trials, c.Live = in.source(), trials, 7
		return c
	}
	until := func(r *run.Run, rows int) {
		for p := r.Progress(); p.Done < int64(rows*trials) || p.Fed < p.Done; p = r.Progress() { // who feeds may be told after who settles
			time.Sleep(time.Millisecond)
		}
		if p := r.Progress(); p.Finished || p.Total != -1 || p.Pending != -1 || p.Fed != int64(rows*trials) || p.Live != 0 {
			t.Errorf("after %d rows: got %+v, want that more may come", rows, p)
		}
	}
	_, err := b.with(cfg(), func(r *run.Run, cancel func()) {
		for range 3 {
			in.push(20, false)
			until(r, in.n)
		}
		r.Stop()
	})
	if !errors.Is(err, run.ErrStopped) {
		t.Fatalf("got %v, want %v", err, run.ErrStopped)
	}
	if a := b.verify(in.source(), trials); !a.OK || a.Done != int64(60*trials) || a.Pending != 0 {
		t.Errorf("got %+v, want 60 rows done", a)
	}
	in.push(11, false)
	if a := b.verify(in.source(), trials); !a.OK || a.Pending != int64(11*trials) {
		t.Errorf("got %+v, want 11 rows pending", a)
	}
	_, err = b.with(cfg(), func(r *run.Run, cancel func()) {
		in.push(4, false)
		cancel() // anywhere
	})
	if !errors.Is(err, run.ErrStopped) {
		t.Fatalf("got %v, want %v", err, run.ErrStopped)
	}
	if a := b.verify(in.source(), trials); !a.OK || a.Tasks != int64(75*trials) {
		t.Errorf("got %+v, want 75 rows", a)
	}
	r, err := b.with(cfg(), func(r *run.Run, cancel func()) {
		until(r, in.n)
		in.push(5, true)
	})
	if p := r.Progress(); err != nil || !p.Finished || p.Total != int64(80*trials) || p.Done != p.Total || p.Pending != 0 {
		t.Fatalf("got %v and %+v, want 80 rows done", err, p)
	}
	if a := b.verify(in.source(), trials); !a.OK || a.Done != int64(80*trials) {
		t.Errorf("got %+v, want 80 rows done", a)
	}
	if p := b.run(cfg()); !p.Finished || p.NewHops != 0 {
		t.Errorf("a finished run went on: %+v", p)
	}
}

// What was fed of a dataset that grows must stay as it was, and one that was closed
// stays as it is.
func TestSourceThatGrewOtherwise(t *testing.T) {
	for _, c := range []struct {
		name  string
		ended bool
		grew  bool
		rows  int // that are put in place of the first 10
		other string
	}{
		{"replaced", false, false, 12, "other"},
		{"shorter", false, false, 5, "r"},
		{"grown behind its end", true, true, 12, "r"},
	} {
		b := newBed(t)
		dir := t.TempDir()
		in := &inbox{t: t, path: filepath.Join(dir, "rows.jsonl")}
		in.push(10, c.ended)
		cfg := dialogue(1)
		cfg.Source = in.source()
		_, err := b.with(cfg, func(r *run.Run, _ func()) {
			for r.Progress().Done < 10 {
				time.Sleep(time.Millisecond)
			}
			r.Stop()
		})
		if err != nil && !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
		then := &inbox{t: t, path: filepath.Join(t.TempDir(), "rows.jsonl")}
		j, err := dataset.OpenJournal(then.path)
		for i := range c.rows {
			err = errors.Join(err, j.Append(map[string]any{"id": fmt.Sprint(c.other, i), "n": i}))
		}
		if c.ended {
			err = errors.Join(err, j.End())
		}
		if err = errors.Join(err, j.Close()); err != nil {
			t.Fatal(err)
		}
		cfg.Source = then.source()
		qs := b.open()
		b.wire(&cfg, qs...)
		_, err = run.New(context.Background(), cfg)
		var changed *run.DatasetChanged
		if !errors.As(err, &changed) || changed.Grew != c.grew {
			t.Errorf("%s: got %v, want that the dataset has changed", c.name, err)
		}
		if err := qs[0].(closer).Close(); err != nil {
			t.Fatal(err)
		}
	}
}
