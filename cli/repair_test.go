package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/internal/rundir"
	"matrix/local"
)

// twice is a config of two roles, so that a task has turns while it is under way.
const twice = `
name: twice
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
  again: {chat: {model: m, prompt: "{{ last.text }}"}}
flow: [say, again]
`

// remove removes the files of a folder that match, of which there must be some.
func remove(t *testing.T, pattern ...string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil || len(names) == 0 {
		t.Fatalf("%v: %d files, %v", pattern, len(names), err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// change rewrites a file.
func change(t *testing.T, f func(b []byte) []byte, path ...string) {
	t.Helper()
	name := filepath.Join(path...)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, f(b), 0o666); err != nil {
		t.Fatal(err)
	}
}

// copyTo makes a copy of a folder in the place of another.
func copyTo(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// largest is the largest file that matches.
func largest(t *testing.T, pattern ...string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil || len(names) == 0 {
		t.Fatalf("%v: %d files, %v", pattern, len(names), err)
	}
	size := func(name string) int64 {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	return slices.MaxFunc(names, func(a, b string) int { return int(size(a) - size(b)) })
}

// What may become of the folder of a finished run: run refuses in words that lead
// on, verify tells, repair brings back what is good, and the same command makes
// the rest anew. Nothing that was finished and is whole is made twice.
func TestRepairFinished(t *testing.T) {
	t.Parallel()
	const n = 40
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": rows(n)})
	whole := filepath.Join(dir, "whole")
	matrixCmd("run", dir, "-o", whole, "output.rows_per_part=15").want(t, 0)
	flip := func(b []byte) []byte { b[len(b)/3] ^= 1; return b }
	for name, c := range map[string]struct {
		damage func(out string)
		run    string // what the refusal says; empty where the run does not notice
		verify string // likewise
		repair []string
	}{
		"logs deleted": {
			func(out string) { remove(t, out, rundir.StateDir, "*.log") },
			"*.log, which has what was committed last, is gone", "is gone", []string{"Kept: 40 done", "!Lost"},
		},
		"all of state deleted but its lock": {
			func(out string) {
				entries, err := os.ReadDir(filepath.Join(out, rundir.StateDir))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if e.Name() != "LOCK" {
						remove(t, out, rundir.StateDir, e.Name())
					}
				}
			},
			"is gone", "is gone", []string{"Kept: 40 done", "!Lost"},
		},
		"state deleted": {
			func(out string) {
				if err := os.RemoveAll(filepath.Join(out, rundir.StateDir)); err != nil {
					t.Fatal(err)
				}
			},
			"is gone", "is gone", []string{"Kept: 40 done", "!Lost"},
		},
		"a bit of a table": {
			func(out string) { change(t, flip, largest(t, out, rundir.StateDir, "*.sst")) },
			"damaged", "damaged", []string{"Kept: 40 done", "!Lost"},
		},
		"a bit of the manifest": {
			func(out string) { change(t, flip, largest(t, out, rundir.StateDir, "MANIFEST-*")) },
			"damaged", "damaged", []string{"Found:", "Kept: 40 done", "!Lost"},
		},
		"the name of the manifest": {
			func(out string) { remove(t, out, rundir.StateDir, "marker.manifest.*") },
			"is gone", "is gone", []string{"Kept: 40 done", "!Lost"},
		},
		"all of data deleted": {
			func(out string) { remove(t, out, rundir.DataDir, "*") },
			"part 0, which was written before, is missing", "missing", []string{"Kept: 0 done", "Lost: 40 tasks", "q0, q1", "and 20 more"},
		},
		"a part deleted": {
			func(out string) { remove(t, out, rundir.DataDir, "part-00001.jsonl") },
			"part 1, which was written before, is missing", "part 1 is missing", []string{"Kept: 25 done", "Lost: 15 tasks"},
		},
		"a line cut out of the middle": {
			func(out string) {
				change(t, func(b []byte) []byte { return slices.Delete(b, 100, 200) }, out, rundir.DataDir, "part-00000.jsonl")
			},
			"", "not JSON", []string{"Kept: 39 done", "Left out: 1 line is", "Lost: 1 task, which begins again: q"},
		},
		"the last line torn": {
			func(out string) {
				change(t, func(b []byte) []byte { return b[:len(b)-20] }, out, rundir.DataDir, "part-00002.jsonl")
			},
			"bytes, and", "cut short", []string{"Kept: 39 done", "Left out: 1 line is", "Lost: 1 task"},
		},
		"line ends of Windows": {
			func(out string) {
				change(t, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }, out, rundir.DataDir, "part-00002.jsonl")
			},
			"no line ends at byte", "no line ends at byte", []string{"Kept: 40 done", "!Lost"},
		},
		"a line twice, and one of somebody else": {
			func(out string) {
				change(t, func(b []byte) []byte {
					first, _, _ := bytes.Cut(b, []byte("\n"))
					return append(append(b, first...), "\n{\"id\":\"zz\"}\n"...)
				}, out, rundir.DataDir, "part-00002.jsonl")
			},
			"the ledger is older than the output", "zz is not in the ledger", []string{"Kept: 40 done", "Left out: 2 lines are", "!Lost"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(dir, "out")
			copyTo(t, whole, out)
			c.damage(out)
			before := finished(t, out)
			args := []string{"run", dir, "-o", out, "output.rows_per_part=15"}
			if c.run != "" {
				matrixCmd(args...).want(t, 1, c.run, "matrix repair "+out, "--fresh")
			}
			if got := finished(t, out); !slices.Equal(got, before) {
				t.Error("the run that was refused has changed the output")
			}
			matrixCmd("verify", out).want(t, 1, c.verify, "matrix repair "+out)
			matrixCmd("show", out) // whatever it says, it ends
			matrixCmd("repair", out).want(t, 0, append(c.repair, "OK: nothing is lost")...)
			matrixCmd(args...).want(t, 0)
			matrixCmd("verify", out, "--complete").want(t, 0, "40 done + 0 failed")
			after := finished(t, out)
			for _, line := range before {
				if !slices.Contains(after, line) && !strings.Contains(line, "zz") {
					t.Errorf("was finished, and was made again: %.100s", line)
				}
			}
		})
	}
}

// finished are the lines of an output that are tasks, less those there twice.
func finished(t *testing.T, out string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(out, rundir.DataDir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range names {
		for _, l := range lines(t, name) {
			l = strings.TrimSuffix(l, "\r")
			if json.Valid([]byte(l)) && !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	return all
}

// A state that is older than the output is refused, and repair takes the output's
// word: finished tasks are not paid for again, and those under way go on where the
// older state has them.
func TestRepairOlderState(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": rows(40)})
	out, older := filepath.Join(dir, "out"), filepath.Join(dir, "older")
	stopped(t, dir, out, "live=20")
	copyTo(t, filepath.Join(out, rundir.StateDir), older)
	matrixCmd("run", dir, "-o", out, "live=20").want(t, 0)
	before := finished(t, out)
	copyTo(t, older, filepath.Join(out, rundir.StateDir))
	matrixCmd("run", dir, "-o", out).want(t, 1, "the ledger is older than the output", "40 tasks as done", "matrix repair "+out)
	matrixCmd("verify", out).want(t, 1, "NOT OK")
	matrixCmd("repair", out).want(t, 0, "Kept: 40 done", "OK: nothing is lost")
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished: 40 done")
	if after := finished(t, out); !slices.Equal(after, before) {
		t.Errorf("got %d lines, want the %d that were there", len(after), len(before))
	}
}

// A task whose records are damaged is named, and is all that a repair loses.
func TestRepairDamagedTask(t *testing.T) {
	long := strings.ReplaceAll(rows(40), "question", strings.Repeat("question ", 500))
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": long})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out, "live=30")
	change(t, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, largest(t, out, rundir.StateDir, "*.blob"))
	matrixCmd("verify", out).want(t, 1, "the records of task", "cannot be read", "is damaged: pebble: file", "matrix repair "+out)
	matrixCmd("run", dir, "-o", out).want(t, 1, "the records of task", "cannot be read", "matrix repair "+out)
	matrixCmd("repair", out).want(t, 0, "Found: the records of task", "Lost:", "OK: nothing is lost")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 40")
	matrixCmd("verify", out, "--complete").want(t, 0)
}

// --fresh deletes what a run made and nothing else, whatever the state of the
// state; one that was cut short is ended by whoever comes next.
func TestFresh(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	mine := []string{"data/part-00000.jsonl.bak", "data/part-notes.jsonl", "state/mine/x", "state/notes", "failed/part-1.jsonl"}
	for name, damage := range map[string]func(out string){
		"well":               func(string) {},
		"state without lock": func(out string) { remove(t, out, rundir.StateDir, "LOCK") },
		"state damaged": func(out string) {
			change(t, func(b []byte) []byte { clear(b); return b }, largest(t, out, rundir.StateDir, "MANIFEST-*"))
		},
		"state gone": func(out string) {
			if err := os.RemoveAll(filepath.Join(out, rundir.StateDir)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			matrixCmd("run", dir, "-o", out).want(t, 0)
			damage(out)
			for _, name := range mine {
				name = filepath.Join(out, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, []byte("mine"), 0o666)); err != nil {
					t.Fatal(err)
				}
			}
			matrixCmd("run", dir, "-o", out, "--fresh", "dataset.limit=3").want(t, 0, "done 3")
			matrixCmd("verify", out, "--complete").want(t, 0, "3 done")
			for _, name := range mine {
				if got := read(t, out, name); got != "mine" {
					t.Errorf("%s: got %q", name, got)
				}
			}
		})
	}
	t.Run("cut short", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		for _, removed := range []string{"", "data/part-00000.jsonl", rundir.SummaryFile, rundir.ConfigFile, "state/MANIFEST-*", "state/*.sst", "state/marker.*"} {
			matrixCmd("run", dir, "-o", out, "--fresh").want(t, 0)
			if err := os.WriteFile(filepath.Join(out, rundir.StateDir, "CLEARING"), nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if removed != "" {
				remove(t, out, removed)
			}
			for _, cmd := range []string{"verify", "repair"} {
				if removed != rundir.ConfigFile {
					matrixCmd(cmd, out).want(t, 1, "was interrupted", "--fresh had begun that")
				}
			}
			matrixCmd("run", dir, "-o", out, "dataset.limit=4").want(t, 0, "done 4")
			matrixCmd("verify", out, "--complete").want(t, 0, "4 done")
		}
	})
	t.Run("links", func(t *testing.T) {
		for _, name := range []string{rundir.DataDir, rundir.FailedDir, rundir.StateDir} {
			out, other := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "other")
			matrixCmd("run", dir, "-o", out).want(t, 0)
			matrixCmd("run", dir, "-o", other).want(t, 0)
			if err := errors.Join(os.RemoveAll(filepath.Join(out, name)), os.MkdirAll(filepath.Join(other, name), 0o777),
				os.Symlink(filepath.Join(other, name), filepath.Join(out, name))); err != nil {
				t.Fatal(err)
			}
			matrixCmd("run", dir, "-o", out, "--fresh").want(t, 2, "is not a folder but L", "--fresh deletes what a run has made, and nothing else")
			matrixCmd("verify", other, "--complete").want(t, 0)
		}
	})
}

// What is written anew is not written through a link that stands in its place.
func TestNothingThroughLinks(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3), "precious": "gold"})
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{rundir.ConfigFile, rundir.SummaryFile} {
		if err := os.Symlink(filepath.Join(dir, "precious"), filepath.Join(out, name+".tmp")); err != nil {
			t.Fatal(err)
		}
	}
	matrixCmd("run", dir, "-o", out).want(t, 0)
	if got := read(t, dir, "precious"); got != "gold" {
		t.Errorf("got %q behind the links", got)
	}
}

// A state without its lock is a state, and a run waits for who looks at it.
func TestRunWaitsForReaders(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)
	remove(t, out, rundir.StateDir, "LOCK")
	q, err := local.Open(filepath.Join(out, rundir.StateDir), local.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 5")
}

// A repair that was killed is typed again, wherever it was.
func TestRepairAgain(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": rows(20)})
	whole := filepath.Join(dir, "whole")
	matrixCmd("run", dir, "-o", whole).want(t, 0)
	remove(t, whole, rundir.StateDir, "*.log")
	for name, left := range map[string]func(out string) error{
		"as it built the state": func(out string) error {
			return os.CopyFS(filepath.Join(out, "state.new"), os.DirFS(filepath.Join(out, rundir.DataDir)))
		},
		"between two renamings": func(out string) error {
			matrixCmd("repair", out).want(t, 0)
			return os.Rename(filepath.Join(out, rundir.StateDir), filepath.Join(out, "state.new"))
		},
		"as it salvaged": func(out string) error { return os.MkdirAll(filepath.Join(out, "state.salvage", "x"), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			copyTo(t, whole, out)
			if err := left(out); err != nil {
				t.Fatal(err)
			}
			matrixCmd("repair", out).want(t, 0, "OK: nothing is lost")
			matrixCmd("run", dir, "-o", out).want(t, 0, "is finished: 20 done")
			for _, name := range []string{"state.new", "state.salvage"} {
				if _, err := os.Stat(filepath.Join(out, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", name, err)
				}
			}
		})
	}
}

// Without the dataset as it was nothing is repaired, and nothing is changed.
// Tasks under way are kept where their rows stand at other places than when they
// were fed.
func TestRepairMovedRows(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)
	change(t, func(b []byte) []byte { return append([]byte(`{"id":"q9","text":"question 9","n":9}`+"\n"), b...) }, dir, "rows.jsonl")
	stopped(t, dir, out, "--accept-changes")
	matrixCmd("repair", out).want(t, 0, "5 under way", "!Lost", "OK")
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0, "done 6")
	matrixCmd("verify", out, "--complete").want(t, 0, "6 done")
}

// A repair ends what tried failed tasks again, and says so.
func TestRepairWhileRetrying(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "config.yaml": echo + "params: {bad: true}\n"})
	out := filepath.Join(dir, "out")
	args := []string{"+roles.calc.compute={x: 'params.bad ? int(item.text) : 1'}", "flow=[calc, say]"}
	matrixCmd(append([]string{"run", dir, "-o", out}, args...)...).want(t, 1, "failed 5")
	args = append(args, "bad=false", "--accept-changes", "live=2")
	stopped(t, dir, out, append(args, "--retry-failed")...)
	matrixCmd("repair", out).want(t, 0, "3 failed, 2 under way", "--retry-failed tries those that are left", "OK")
	matrixCmd(append([]string{"run", dir, "-o", out}, args...)...).want(t, 0, "done 2", "failed 3")
	matrixCmd(append([]string{"run", dir, "-o", out, "--retry-failed"}, args...)...).want(t, 0, "done 5")
	matrixCmd("verify", out, "--complete").want(t, 0, "5 done")
}

func TestRepairNeedsTheDataset(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows(4)), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("repair", out).want(t, 1, "the dataset is not the one this run began with")
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows(5)), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("verify", out, "--complete").want(t, 0, "5 done")
	matrixCmd("repair", filepath.Join(dir, "nowhere")).want(t, 2, "no such folder")
}
