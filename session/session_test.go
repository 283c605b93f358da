package session_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

const echo = `
name: echo
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
`

// config writes a config and rows, and gives the path of the config.
func config(t *testing.T, text, rows string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"config.yaml": text, "rows.jsonl": rows} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const rows = `{"id":"a","text":"one"}
{"id":"b","text":"two"}
{"id":"c","text":"three"}
`

// open opens a session over what a config says.
func open(t *testing.T, path, out string, overrides ...string) *session.Session {
	t.Helper()
	c, err := spec.Load(path, overrides)
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSession(t *testing.T) {
	path, out := config(t, echo, rows), filepath.Join(t.TempDir(), "out")
	s := open(t, path, out)
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := s.Snapshot()
	if v.Name != "echo" || v.Done != 3 || v.Pending != 0 || !v.Finished || len(v.Models) != 1 || v.Models[0].Calls != 3 || v.Roles[0].Name != "say" {
		t.Errorf("got %+v", v)
	}
	if b, err := os.ReadFile(filepath.Join(out, rundir.SummaryFile)); err != nil || !strings.Contains(string(b), `"done": 3`) {
		t.Errorf("summary: %s, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	d, err := rundir.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	said := map[string]string{}
	for r, err := range d.Tasks(t.Context(), matrix.Done) {
		if err != nil {
			t.Fatal(err)
		}
		said[r.Task.ID] = r.Task.Last().Text
	}
	if len(said) != 3 || said["b"] != "you said two" {
		t.Errorf("got %v", said)
	}
	if r, err := d.Find(t.Context(), "c"); err != nil || r.Where != "data/part-00000.jsonl:3" {
		t.Errorf("got %+v, %v", r, err)
	}
	var unknown *rundir.UnknownTask
	if _, err := d.Find(t.Context(), "cc"); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
	if a, err := session.Verify(t.Context(), d); err != nil || !a.OK || a.Done != 3 {
		t.Errorf("got %+v, %v", a, err)
	}
}

// A session that was stopped leaves tasks pending, and the next one goes on.
func TestStopAndGoOn(t *testing.T) {
	path, out := config(t, echo, rows), filepath.Join(t.TempDir(), "out")
	s := open(t, path, out, "live=1")
	s.Stop()
	err := s.Run(t.Context())
	if !errors.Is(err, run.ErrStopped) {
		t.Fatalf("got %v, want that it was stopped", err)
	}
	if p := s.Progress(); p.Pending != 3 { // counted, though the feeder never came to the end
		t.Errorf("pending: got %d, want 3", p.Pending)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = open(t, path, out, "live=1")
	defer s.Close()
	if err := s.Run(t.Context()); err != nil || s.Progress().Done != 3 {
		t.Errorf("got %v and %d done, want 3", err, s.Progress().Done)
	}
}

func TestOutOfBudget(t *testing.T) {
	path, out := config(t, echo, rows), filepath.Join(t.TempDir(), "out")
	for range 2 { // the second is out of budget before it begins
		c, err := spec.Load(path, []string{"live=1", "budget.tokens=10"})
		if err != nil {
			t.Fatal(err)
		}
		heard := ""
		s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out, OnSpent: func(why string) { heard += why }})
		if err != nil {
			t.Fatal(err)
		}
		before := s.Spent()
		err = s.Run(t.Context())
		var spent *session.OutOfBudget
		if !errors.As(err, &spent) || !errors.Is(err, run.ErrStopped) || spent.Why != before+heard || !strings.HasPrefix(spent.Raise, "budget.tokens=") {
			t.Errorf("got %v (%+v), and heard %q", err, spent, heard)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefused(t *testing.T) {
	path, out := config(t, echo, rows), filepath.Join(t.TempDir(), "out")
	s := open(t, path, out)
	refused := func(want string, overrides ...string) error {
		t.Helper()
		c, err := spec.Load(path, overrides)
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.Open(t.Context(), registry.New(), c, session.Options{Dir: out})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		return err
	}
	_ = refused("another process is running in")
	if err := errors.Join(s.Run(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	err := refused("These keys differ:\n  seed", "seed=7")
	var usage *spec.UsageError
	var why *session.RefusedError
	if !errors.As(err, &usage) || !errors.As(err, &why) || why.Cause != session.ConfigChanged || why.Dir != out || !slices.Equal(why.Keys, []string{"seed"}) {
		t.Errorf("got %+v, want what differs", why)
	}
	if _, err := spec.Load(path, []string{"sede=7"}); !errors.As(err, &usage) {
		t.Errorf("got %v", err)
	}
	if _, err := rundir.Open(path); !errors.As(err, &usage) {
		t.Errorf("got %v", err)
	}
}
