package cli

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"matrix/internal/rundir"
)

func TestSweep(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(t.TempDir(), "out")
	r := matrixCmd("run", dir, "-o", out, "-m", "seed=1,2", "dataset.limit=3", "dataset.where=item.n > 0,item.n in [1, 2]").want(t, 0,
		"run values done failed long n", filepath.Join(out, "0")+" seed=1 dataset.where=item.n > 0 3 0", filepath.Join(out, "3")+" seed=2 dataset.where=item.n in [1, 2] 2 0", "Run 4 of 4")
	if _, err := os.Stat(filepath.Join(out, "4")); err == nil {
		t.Errorf("there are more than four runs:\n%s", r)
	}
	// Again, with one that is gone: it is made, and the others stay.
	if err := os.RemoveAll(filepath.Join(out, "2")); err != nil {
		t.Fatal(err)
	}
	before := read(t, out, "1", rundir.DataDir, "part-00000.jsonl")
	again := []string{"run", dir, "-o", out, "-m", "seed=1,2", "dataset.limit=3", "dataset.where=item.n > 0,item.n in [1, 2]"}
	matrixCmd(again...).want(t, 0, "0 is finished", "Running echo in "+filepath.Join(out, "2"), filepath.Join(out, "2")+" seed=2")
	if read(t, out, "1", rundir.DataDir, "part-00000.jsonl") != before {
		t.Error("a run that was finished is another one now")
	}
	// What was dropped is told where there is any.
	matrixCmd("run", dir, "-o", filepath.Join(t.TempDir(), "drops"), "-m", "dataset.limit=3,5", "flow=[{role: say, stop: item.n > 2}]").want(t, 0,
		"run values done failed dropped long n", "dataset.limit=5 3 0 2")
	// What is wrong ends it before anything runs, or at the run.
	matrixCmd("run", dir, "-o", out, "-m", "seed=1").want(t, exitUsage, "no override has several values")
	matrixCmd("run", dir, "-o", filepath.Join(out, "new"), "-m", "live=1,x").want(t, exitUsage, "live")
	if _, err := os.Stat(filepath.Join(out, "new")); err == nil {
		t.Error("a sweep with a config that is wrong has begun")
	}
	matrixCmd("run", dir, "-o", out, "-m", "seed=5,6").want(t, exitUsage, "the config is not the one", "The sweep ends with this run", "Run 1 of 2")
	matrixCmd("run", dir, "-m", "seed="+"1,2,3,4,5,6,7,8,9,10", "live=1,2,3,4,5,6,7,8,9,10", "trials=1,2,3,4,5,6,7,8,9,10", "grace=1s,2s").want(t, exitUsage, "make 2,000 runs, want 1,000 at most")
}

func TestSplitChoices(t *testing.T) {
	for value, want := range map[string][]string{
		"": {""}, "a": {"a"}, "a, b": {"a", "b"}, "[1,2],[3]": {"[1,2]", "[3]"}, `"a,b",c`: {`"a,b"`, "c"}, "{a: 1, b: 2}": {"{a: 1, b: 2}"},
		"f(a, b) > 1": {"f(a, b) > 1"}, "'x,y'": {"'x,y'"}, "1,": {"1", ""},
		"don't,do": {"don't", "do"}, "['a,b', c's],d": {"['a,b', c's]", "d"}, `5" pipe,6" pipe`: {`5" pipe`, `6" pipe`}, "f(x == 'a,b')": {"f(x == 'a,b')"},
	} {
		if got := splitChoices(value); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
	}
}
