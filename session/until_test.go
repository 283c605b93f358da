package session_test

import (
	"path/filepath"
	"testing"

	"matrix/session"
)

// Where workers elsewhere act, the run ends with exactly as many as it is to have, too, and
// they are told that it has.
func TestUntilWithWorkers(t *testing.T) {
	t.Parallel()
	path, out := config(t, echo+"live: 50\nuntil: {kept: 20}\n", manyRows(300)), filepath.Join(t.TempDir(), "out")
	for _, kept := range []string{"20", "60"} {
		s := serveRun(t, path, out, "models.m.delay=20ms", "until.kept="+kept)
		_, first := joinRun(t, lineOf(t, out), session.JoinOptions{Name: "a"})
		_, second := joinRun(t, lineOf(t, out), session.JoinOptions{Name: "b"})
		if err := s.end(t); err != nil {
			t.Fatal(err)
		}
		p := s.Progress()
		if want := map[string]int64{"20": 20, "60": 60}[kept]; p.Done != want || !p.Met || p.Live != 0 || p.Pending != 0 || p.Unused == 0 {
			t.Errorf("until %s: got %+v", kept, p)
		}
		if err := await(t, "a worker", first); err != nil {
			t.Errorf("a worker ended with %v", err)
		}
		if err := await(t, "a worker", second); err != nil {
			t.Errorf("a worker ended with %v", err)
		}
		d, err := session.OpenDir(out)
		if err != nil {
			t.Fatal(err)
		}
		a, err := session.Verify(t.Context(), d)
		if err != nil || !a.OK || a.Pending != 0 || a.Unused != p.Unused {
			t.Errorf("verify: %+v, %v", a, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
