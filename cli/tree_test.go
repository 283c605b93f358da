package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix/internal/rundir"
)

// brood has each row become three tasks, and wait for them.
const brood = `
name: brood
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  split: {compute: {parts: "[1, 2, 3]"}}
  say: {chat: {model: m, prompt: "{{ item.text }}, part {{ item.part }} of {{ parent.count }}"}}
  sum: {compute: {said: "map(children, .value)"}}
flow:
  start: split
  after:
    split: {expand: last.data.parts, as: part, to: say, then: sum}
    say: {finish: item.part}
    sum: {finish: last.data.said}
`

func TestTrees(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": brood, "rows.jsonl": rows(20)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out, "live=5")
	matrixCmd("verify", out).want(t, 0, "OK: nothing is lost")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 80", "of these children 60")
	matrixCmd("verify", out, "--complete").want(t, 0, "80 tasks (20 of rows, 60 of tasks that expanded) = 80 done")
	matrixCmd("stats", out).want(t, 0, "of these children 60 75.0%")
	first := strings.SplitN(lines(t, out, rundir.DataDir, "part-00000.jsonl")[0], `"`, 5)[3]
	child := strings.Split(first, "/")[0] + "/2"
	matrixCmd("show", out, child).want(t, 0, child, "part: 3", "you said")
	parent := strings.Split(first, "/")[0]
	told := []string{"3 children: 3 done", parent + "/0 done 1", parent + "/1 done 2", parent + "/2 done 3"}
	matrixCmd("explain", out, parent).want(t, 0, told...)
	matrixCmd("explain", out, child).want(t, 0, "child 2 of "+parent+", which has 3 and goes on once all have ended")
	matrixCmd("show", out, child+"9").want(t, 1, "has no task", "did you mean")

	// Without its state, all stands in the outputs.
	if err := os.RemoveAll(filepath.Join(out, rundir.StateDir)); err != nil {
		t.Fatal(err)
	}
	matrixCmd("explain", out, parent).want(t, 0, told...)
	matrixCmd("repair", out).want(t, 0, "OK: nothing is lost", "80 done")
	matrixCmd("show", out, child).want(t, 0, child)

	// A row begins again of whose tree a line is lost, and no other.
	change(t, func(b []byte) []byte {
		all := bytes.SplitAfter(b, []byte("\n"))
		i := slices.IndexFunc(all, func(line []byte) bool { return bytes.HasPrefix(line, []byte(`{"id":"`+child+`"`)) })
		return bytes.Join(slices.Delete(all, i, i+1), nil)
	}, out, rundir.DataDir, "part-00000.jsonl")
	matrixCmd("verify", out).want(t, 1, child, "lost")
	matrixCmd("repair", out).want(t, 0, "OK: nothing is lost", "76 done")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 80")
	matrixCmd("verify", out, "--complete").want(t, 0, "80 done")
}
