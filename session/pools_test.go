package session_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"matrix/registry"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

const poolsConfig = `
dataset: {path: rows.jsonl, id: id}
pools: {box: {kind: plain, size: 2, enforce: best_effort}}
roles:
  first: {exec: {pool: box, shell: "echo {{ item.id }} >> log"}}
  then: {exec: {pool: box, shell: "cat log; exit {{ item.code }}"}}
flow:
  start: first
  after:
    first: then
    then: [{when: last.data.code == 0, finish: last.data.out}, {when: last.data.code == 1, drop: one}, {fail: two}]
`

// Tasks that hold sandboxes are more than there is room for; each gives its own back
// however it ends, and waiting spends no attempt.
func TestPools(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sandboxes are of Linux")
	}
	dir := t.TempDir()
	var rows strings.Builder
	for i := range 30 {
		rows.WriteString(`{"id": "r` + strings.Repeat("x", i) + `", "code": ` + string(rune('0'+i%3)) + "}\n")
	}
	for name, text := range map[string]string{"config.yaml": poolsConfig, "rows.jsonl": rows.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := spec.Load(filepath.Join(dir, "config.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	wrong := 0
	s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: filepath.Join(dir, "out"), On: func(e run.Event) {
		if e.Kind == run.StepDone && e.Err == nil && e.Role == "then" {
			mu.Lock()
			defer mu.Unlock()
			if e.Turn.Timing.Attempts != 0 || !strings.Contains(e.Turn.Text, e.Task) {
				wrong++
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := s.Progress()
	if p.Done != 10 || p.Dropped != 10 || p.Failed != 10 || wrong > 0 {
		t.Errorf("done %d, dropped %d, failed %d, want 10 each; %d steps were not as they should be", p.Done, p.Dropped, p.Failed, wrong)
	}
	pools := s.Snapshot().Pools
	if len(pools) != 1 || pools[0].Name != "box" || pools[0].Execs < 60 {
		t.Errorf("pools are %+v, want box with 60 commands or more", pools)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
