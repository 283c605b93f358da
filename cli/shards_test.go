package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix/internal/rundir"
)

// written are the lines of the part files of an output without what differs from run to
// run, in order of the text, and the names of these files.
func written(t *testing.T, dir string) (content, files []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "part-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		files = append(files, filepath.Base(name))
		for line := range strings.Lines(read(t, name)) {
			var task struct {
				ID    string
				Turns []struct{ Role, Text string }
			}
			if err := json.Unmarshal([]byte(line), &task); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			content = append(content, fmt.Sprint(task))
		}
	}
	slices.Sort(content)
	return content, files
}

// A run of several shards comes to what one of a single shard does; whoever reads
// its folder reads all shards; and what is damaged in one is repaired.
func TestShardsOfARun(t *testing.T) {
	t.Parallel()
	const n = 60
	config := twice + "  \n"
	dir := files(t, map[string]string{"config.yaml": config, "rows.jsonl": rows(n)})
	one, four := filepath.Join(dir, "one"), filepath.Join(dir, "four")
	run := func(out string, more ...string) result {
		return matrixCmd(append([]string{"run", dir, "-o", out, "output.rows_per_part=5", "trials=2"}, more...)...)
	}
	run(one).want(t, 0)
	run(four, "shards=4").want(t, 0)
	want, _ := written(t, filepath.Join(one, rundir.DataDir))
	same := func(when string) {
		t.Helper()
		got, parts := written(t, filepath.Join(four, rundir.DataDir))
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d lines, want the %d of one shard", when, len(got), len(want))
		}
		if len(parts) < 4*6 || parts[0] != "part-00000.jsonl" || parts[1] != "part-00001.jsonl" {
			t.Errorf("%s: parts: %v", when, parts)
		}
	}
	same("at first")
	if s, w := summaryOf(t, four), summaryOf(t, one); s["done"] != w["done"] || s["hops"] != w["hops"] || s["finished"] != true {
		t.Errorf("summary: got %v, want %v", s, w)
	}
	matrixCmd("verify", four, "--complete").want(t, 0, "OK: nothing is lost")
	matrixCmd("show", four, "q7#1").want(t, 0, "q7#1")
	matrixCmd("explain", four, "q33").want(t, 0, "q33")
	matrixCmd("show", four, "nobody").want(t, 1, "has no task")
	run(four, "shards=4").want(t, 0, "finished")

	// Another number of shards, and another way to say so.
	run(four, "shards=2").want(t, 2, "shards=4")
	run(four, "shards=2", "--accept-changes").want(t, 2, "shards=4")

	// One shard's ledger is damaged: the others go on as they are.
	state := filepath.Join(four, rundir.StateDir, "shard-00002")
	remove(t, state, "*.log")
	matrixCmd("verify", four).want(t, 1, "shard-00002")
	matrixCmd("repair", four).want(t, 0, "OK: nothing is lost", fmt.Sprintf("Kept: %d done", 2*n))
	matrixCmd("verify", four, "--complete").want(t, 0, "OK")
	same("after the repair")

	// A line is lost of another: its task begins again.
	part := largest(t, four, rundir.DataDir, "part-00001.jsonl")
	change(t, func(b []byte) []byte { return b[strings.IndexByte(string(b), '\n')+1:] }, part)
	matrixCmd("verify", four).want(t, 1, "data part 1 line 1")
	matrixCmd("repair", four).want(t, 0, fmt.Sprintf("Kept: %d done", 2*n-1))
	run(four, "shards=4").want(t, 0)
	matrixCmd("verify", four, "--complete").want(t, 0, "OK")
	same("after the loss of a line")

	run(four, "--fresh").want(t, 0)
	if left, _ := filepath.Glob(filepath.Join(four, rundir.StateDir, "shard-*")); len(left) > 0 {
		t.Errorf("after --fresh with one shard: %v", left)
	}
	if _, err := os.Stat(filepath.Join(four, rundir.DataDir, "part-00023.jsonl")); err != nil {
		t.Errorf("after --fresh with one shard: %v", err)
	}
	matrixCmd("verify", four, "--complete").want(t, 0, "OK")
}

// Failed tasks of all shards are tried again, with little credit for all of them.
func TestRetryOfShards(t *testing.T) {
	const n = 60
	config := `
name: retry
dataset: {path: rows.jsonl, id: id}
params: {broken: true}
roles:
  count: {compute: {number: "params.broken && item.n % 2 == 0 ? int(item.text) : 7"}}
flow: [count]
shards: 3
`
	dir := files(t, map[string]string{"config.yaml": config, "rows.jsonl": rows(n)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "max_failed=none").want(t, 0)
	if s := summaryOf(t, out); s["failed"] != float64(n/2) {
		t.Fatalf("summary: got %v, want %d failed", s, n/2)
	}
	matrixCmd("run", dir, "-o", out, "params.broken=false", "--accept-changes", "--retry-failed", "live=2").want(t, 0)
	if s := summaryOf(t, out); s["failed"] != 0.0 || s["done"] != float64(n) {
		t.Errorf("summary: got %v, want %d done", s, n)
	}
	matrixCmd("verify", out, "--complete").want(t, 0, "OK")
}
