package session_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/session"
)

// A program pushes rows into a run that its config describes. What was pushed before
// the run was stopped, while it was, and after, is done once; the run ends when the
// program says so.
func TestRowsFromAProgram(t *testing.T) {
	path, out := config(t, echo+"shards: 2\n", ""), filepath.Join(t.TempDir(), "out")
	rows, err := dataset.OpenJournal(filepath.Join(path, "rows.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	push := func(n int) {
		for range n {
			if err := rows.Append(map[string]any{"id": fmt.Sprint("r", rows.Rows()), "text": "hello"}); err != nil {
				t.Error(err)
			}
		}
	}
	begin := func() (*session.Session, chan error) {
		s := open(t, path, out, "+dataset.follow=true")
		over := make(chan error, 1)
		go func() { over <- s.Run(t.Context()) }()
		return s, over
	}
	until := func(s *session.Session, done int64) {
		for s.Snapshot().Done < done {
			time.Sleep(time.Millisecond)
		}
		if v := s.Snapshot(); v.Total != -1 || v.Pending != -1 || v.Finished {
			t.Errorf("got %+v of a dataset that may grow", v.Progress)
		}
	}
	push(3)
	s, over := begin()
	until(s, 3)
	push(4)
	until(s, 7)
	for s.Waiting() == "" {
		time.Sleep(time.Millisecond)
	}
	s.Stop()
	err = <-over
	if inbox := s.Waiting(); filepath.Base(inbox) != "rows.jsonl" {
		t.Errorf("it waited for rows in %q", inbox)
	}
	if err := errors.Join(err, s.Close()); err == nil {
		t.Error("a run that was stopped has ended")
	}
	if b, err := os.ReadFile(filepath.Join(out, rundir.SummaryFile)); err != nil || !strings.Contains(string(b), `"tasks": null`) || !strings.Contains(string(b), `"owed": null`) || !strings.Contains(string(b), `"done": 7`) {
		t.Errorf("summary: %s, %v", b, err)
	}
	audit := func(done int64, grows bool) {
		t.Helper()
		d, err := session.OpenDir(out)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if a, err := session.Verify(t.Context(), d); err != nil || !a.OK || a.Done != done || a.Tasks != done || a.Pending != 0 || a.Grows != grows {
			t.Errorf("got %+v, %v, want %d tasks that are done, and that rows may come: %v", a, err, done, grows)
		}
	}
	audit(7, true)
	push(2)
	s, over = begin()
	push(1)
	until(s, 10)
	if err := rows.End(); err != nil {
		t.Fatal(err)
	}
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	if v := s.Snapshot(); v.Total != 10 || v.Done != 10 || v.Pending != 0 || !v.Finished || s.Waiting() != "" {
		t.Errorf("got %+v", v.Progress)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	audit(10, false)
}

// A run that is killed while rows come, at any moment, has each of them done once
// when it has gone on.
func TestRowsOverKills(t *testing.T) {
	const name = "RUN_TO_KILL"
	path := os.Getenv(name)
	out := filepath.Join(path, "out")
	if path != "" { // the program
		t.Error(open(t, path, out, "+dataset.follow=true", "models.m.delay=1ms").Run(t.Context()))
		return
	}
	path = config(t, echo+"shards: 2\n", "")
	out = filepath.Join(path, "out")
	rows, err := dataset.OpenJournal(filepath.Join(path, "rows.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for kill := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRowsOverKills$")
		cmd.Env = append(os.Environ(), name+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- cmd.Wait() }()
		// Until something is done beyond what the run before left.
		size := func() (n int64) {
			parts, _ := filepath.Glob(filepath.Join(out, "data", "*"))
			for _, p := range parts {
				if info, err := os.Stat(p); err == nil {
					n += info.Size()
				}
			}
			return n
		}
		for before := size(); size() < before+int64(500*kill); {
			if err := rows.Append(map[string]any{"id": fmt.Sprint("r", rows.Rows()), "text": "hello"}); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-over:
				t.Fatalf("the run ended: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-over
	}
	n := rows.Rows()
	if err := rows.End(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, out, "+dataset.follow=true", "models.m.delay=1ms")
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := session.OpenDir(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if a, err := session.Verify(t.Context(), d); err != nil || !a.OK || a.Done != n || a.Tasks != n {
		t.Errorf("got %+v, %v, want %d done", a, err, n)
	}
}

// A run that is repaired while its dataset may grow goes on with the rows that come.
func TestRepairOfRunThatGrows(t *testing.T) {
	path, out := config(t, echo+"shards: 2\n", ""), filepath.Join(t.TempDir(), "out")
	rows, err := dataset.OpenJournal(filepath.Join(path, "rows.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	push := func(id string) {
		if err := rows.Append(map[string]string{"id": id, "text": "hello"}); err != nil {
			t.Fatal(err)
		}
	}
	push("a")
	push("b")
	s := open(t, path, out, "+dataset.follow=true")
	over := make(chan error, 1)
	go func() { over <- s.Run(t.Context()) }()
	for s.Progress().Done < 2 {
		time.Sleep(time.Millisecond)
	}
	s.Stop()
	if err := errors.Join(<-over, s.Close()); !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	repair := func(done int64) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(out, rundir.StateDir)); err != nil {
			t.Fatal(err)
		}
		d, err := rundir.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := session.Repair(t.Context(), d); err != nil || r.Done != done {
			t.Fatalf("got %+v, %v; want %d tasks that are done", r, err, done)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	repair(2)
	push("c")
	if err := rows.End(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, out, "+dataset.follow=true")
	if err := errors.Join(s.Run(t.Context()), s.Close()); err != nil || s.Progress().Done != 3 {
		t.Fatalf("got %v and %d done; want the row that came, too", err, s.Progress().Done)
	}
	repair(3)
	s = open(t, path, out, "+dataset.follow=true")
	if !s.Progress().Finished {
		t.Error("the dataset has ended, and what was repaired waits for more of it")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
