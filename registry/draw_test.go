package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A pool that nothing can be drawn from is told before the run.
func TestPoolWithoutRows(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.jsonl")
	if err := os.WriteFile(empty, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_, _, err := build(t, `
dataset: {path: rows.jsonl, id: id}
roles: {a: {compute: {x: "draw(pool.seeds, 2)"}}}
flow: [a]
pool: {seeds: `+empty+`}
`)
	if err == nil || !strings.Contains(err.Error(), "config.yaml:5:15: pool.seeds: "+empty+": there is no row to draw") {
		t.Errorf("got %v", err)
	}
}
