package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/internal/rundir"
)

const halves = `
name: halves
params: {least: 0}
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, reply: "{{ item.id }} says {{ prompt }}"}}
roles:
  say: {chat: {model: m, prompt: "hello {{ item.n }}"}}
  half: {compute: {half: 'item.n >= params.least ? item.n / 2 : item.n + "x"'}}
flow:
  start: say
  after: {say: half, half: [{when: item.n == 7, fail: "seven is bad"}, {finish: last.data.half}]}
`

// TestRunRetryFailed: failed tasks are counted by cause, looked at, and tried
// again; those of the flow where they are named.
func TestRunRetryFailed(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": halves, "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "least=5").want(t, 0, "done 24", "failed 6", "failed, by cause", "5 x half: cannot compute half:", "1 x seven is bad (q7)")
	causes, _ := summaryOf(t, out)["causes"].([]any)
	if len(causes) != 2 || causes[0].(map[string]any)["count"] != 5.0 || causes[1].(map[string]any)["cause"] != "seven is bad" {
		t.Errorf("causes in the summary: got %v", causes)
	}
	matrixCmd("run", dir, "-o", out, "--where", "true").want(t, 2, "give --retry-failed, too")
	matrixCmd("run", dir, "-o", out, "--retry-failed", "--fresh").want(t, 2, "give one of them")
	matrixCmd("run", dir, "-o", out, "least=5", "--retry-failed", "--where", "item.n = 3").want(t, 2, "--where item.n = 3")
	matrixCmd("run", dir, "-o", out, "least=5", "--retry-failed", "--where", "item.tetx == 'x' || turn('hal').text == ''").want(t, 2, `there is no role "hal" (did you mean "half"?)`, `no row has the field "tetx" (did you mean "text"?)`)
	matrixCmd("run", dir, "-o", out, "least=5", "--retry-failed", "--where", `fault == "setp"`).want(t, 2, `fault is never "setp" (did you mean "step"?); it is one of step, limit, router, flow, row`)
	matrixCmd("run", dir, "-o", out, "least=5", "--retry-failed", "--where", `fault in ["step", "steps"] || last.role == "hal"`).want(t, 2, `fault is never "steps" (did you mean "step"?)`, `there is no role "hal" (did you mean "half"?)`)
	matrixCmd("run", dir, "-o", out, "least=5", "--retry-failed", "--where", "item.n < 2").want(t, 0, "failed 6", "Tried again: 2 failed tasks. Left: 1, which the flow itself failed", "Left: 3, which --where does not name")
	matrixCmd("run", dir, "-o", out, "--retry-failed").want(t, 2, "params.least", "--accept-changes")
	matrixCmd("run", dir, "-o", out, "--retry-failed", "--accept-changes").want(t, 0, "done 29", "failed 1", "Tried again: 5 failed tasks.")
	matrixCmd("verify", out, "--complete").want(t, 0, "30 tasks = 29 done + 1 failed + 0 pending")
	matrixCmd("show", out, "q2").want(t, 0, "hello 2")
	matrixCmd("show", out, "q7").want(t, 0, "seven is bad")
	matrixCmd("show", out, "--failed").want(t, 0, "seven is bad")
	matrixCmd("run", dir, "-o", out, "--retry-failed", "--where", "item.n == 7").want(t, 0, "Left: 1, which the flow itself failed")
	matrixCmd("run", dir, "-o", out, "--retry-failed", "--where", `fault == "flow"`).want(t, 0, "failed 1", "Tried again: 1 failed task.")
	matrixCmd("verify", out, "--complete").want(t, 0, "30 tasks = 29 done + 1 failed + 0 pending")
	calls := summaryOf(t, out)["usage"].(map[string]any)["m"].(map[string]any)["calls"]
	if calls != 30.0 {
		t.Errorf("calls: got %v, want 30: the turns before the one that failed are kept", calls)
	}
}

// TestRunRetryLeavesNothing: of the parts that a retry has gone through none is
// left, wherever its batches ended, so that no task stands in data and in failed.
func TestRunRetryLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, live := range []string{"1", "7", "10", "30", "100"} {
		dir := files(t, map[string]string{"config.yaml": halves, "rows.jsonl": rows(30)})
		out := filepath.Join(dir, "out")
		args := []string{"run", dir, "-o", out, "live=" + live, "output.rows_per_part=10"}
		matrixCmd(append(args, "least=1000", "max_failed=none")...).want(t, 0, "failed 30")
		matrixCmd(append(args, "--retry-failed", "--accept-changes", "--where", "item.n >= 0")...).want(t, 0, "done 29", "failed 1")
		if left, err := filepath.Glob(filepath.Join(out, rundir.FailedDir, "retry-*")); err != nil || len(left) > 0 {
			t.Errorf("live=%s: %v is left, %v", live, left, err)
		}
		matrixCmd("verify", out, "--complete").want(t, 0)
	}
}

// TestRunStopsWhereAllFail: a config that fails every row stops, and says how to
// go on.
func TestRunStopsWhereAllFail(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": halves, "rows.jsonl": rows(300)})
	out := filepath.Join(dir, "out")
	r := matrixCmd("run", dir, "-o", out, "least=1000")
	r.want(t, 1, "role half: the last 100 steps all failed their tasks, the last one with: cannot compute half:", "max_failed=none", "200 tasks are pending",
		"run "+shellWord(dir)+" least=1000 -o "+shellWord(out)+" --retry-failed")
	matrixCmd("verify", out).want(t, 0, "300 tasks = 0 done + 100 failed + 200 pending")
	matrixCmd("run", dir, "-o", out, "--retry-failed", "--accept-changes").want(t, 0, "done 299", "failed 1", "Tried again: 100 failed tasks.")
	if got, want := counts(t, out), [3]int64{299, 1, 0}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
	out += "2"
	matrixCmd("run", dir, "-o", out, "least=1000", "max_failed=none").want(t, 0, "failed 300")
	matrixCmd("run", dir, "-o", out+"3", "max_failed=half").want(t, 2, "max_failed", "want a share such as 50%")
}

// TestRunThatMadeNothing: a run that comes to its end with no task done, or with a
// role that failed all of its steps, is not a success, however few rows it has.
func TestRunThatMadeNothing(t *testing.T) {
	t.Parallel()
	command := func(answer string) string {
		return `
dataset: {path: rows.jsonl, id: id}
roles: {tool: {command: {run: [sh, -c, 'while read x; do n=$((n+1)); echo "` + strings.ReplaceAll(answer, `"`, `\"`) + `"; done']}}}
flow: [tool]
`
	}
	branch := func(when string) string { // some rows go by a role that fails them all
		return `
dataset: {path: rows.jsonl, id: id}
roles:
  say: {compute: {n: item.n}}
  odd: {compute: {n: 'item.n + "x"'}}
flow: {start: say, after: {say: [{when: ` + when + `, to: odd}, {finish: last.data.n}], odd: [{finish: last.data.n}]}}
`
	}
	for name, c := range map[string]struct {
		config string
		rows   int
		code   int
		want   []string
	}{
		"errors of a command":   {command(`{"seq":$n,"error":"no such table"}`), 5, 1, []string{"Error: no task is done, the last one failed with: tool: no such table"}},
		"nonsense of a command": {command(`{"seq":$n,"txt":1}`), 12, 1, []string{"Error: role tool: all of its 12 steps failed their tasks, the last one with: sh printed"}},
		"a command gives up":    {command(`{"seq":$n,"fail":"no such table"}`), 1, 1, []string{"no task is done"}},
		"ten of thirty":         {branch("item.n < 10"), 30, 1, []string{"done 20", "failed 10", "Error: role odd: all of its 10 steps failed their tasks, the last one with: cannot compute n"}},
		"nine of thirty":        {branch("item.n < 9"), 30, 0, []string{"done 21", "failed 9"}},
		"one bad row":           {branch("item.n == 1"), 2, 0, []string{"done 1", "failed 1"}},
		"what the flow fails":   {"dataset: {path: rows.jsonl, id: id}\nroles: {n: {compute: {n: item.n}}}\nflow: [{role: n, stop: 'true', fail: odd}]\n", 12, 0, []string{"failed 12"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"rows.jsonl": rows(c.rows), "config.yaml": c.config})
			out := filepath.Join(dir, "out")
			if c.code == 1 {
				c.want = append(c.want, "run "+shellWord(dir)+" -o "+shellWord(out)+" --retry-failed", "show "+shellWord(out)+" --failed")
			}
			matrixCmd("run", dir, "-o", out).want(t, c.code, c.want...)
			matrixCmd("verify", out, "--complete").want(t, 0)
			matrixCmd("run", dir, "-o", out).want(t, 0, "is finished")
			matrixCmd("run", dir, "-o", out, "--fresh", "max_failed=none").want(t, 0)
		})
	}
}

// TestRunOfBadRows: rows that cannot be read are not tried again, so no message says
// that they would be.
func TestRunOfBadRows(t *testing.T) {
	for name, c := range map[string]struct {
		rows int
		want []string
	}{
		"to the end": {5, []string{"no task is done", "!are pending"}},
		"too many":   {150, []string{"the last 100 tasks could not begin", "max_failed=none goes on regardless", "50 tasks are pending"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"rows.jsonl": strings.Repeat("{\"id\": 1\n", c.rows), "config.yaml": echo})
			out := filepath.Join(dir, "out")
			matrixCmd("run", dir, "-o", out).want(t, 1, append(c.want, "Fix the dataset", "append the fixed rows", "run "+shellWord(dir)+" -o "+shellWord(out)+" --fresh", "!--retry-failed")...)
		})
	}
}

// TestRunSaysWhatIsNext: where tasks failed, the end of a run and a finished one name
// what tries them again; and a metric that says nothing is told of.
func TestRunSaysWhatIsNext(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(3), "config.yaml": `
dataset: {path: rows.jsonl, id: id}
roles:
  say: {compute: {n: 'item.n == 1 ? item.n + "x" : item.n'}}
flow: [say]
metrics: {wrong: 'last.data.n > 100 ? 1.5 : nil', n: last.data.n}
`})
	out := filepath.Join(dir, "out")
	retry := "run " + shellWord(dir) + " -o " + shellWord(out) + " --retry-failed"
	matrixCmd("run", dir, "-o", out).want(t, 0, retry, "Warning: the metric wrong says nothing of any of the 2 tasks that are done", "!metric n says")
	matrixCmd("run", dir, "-o", out).want(t, 0, "2 done, 1 failed. --retry-failed tries the failed tasks again; --fresh starts over.", retry)
}

// A failed task that --retry-failed leaves is not told to be tried by it: a row that
// could not be read runs once it is appended, repaired.
func TestNextOfWhatIsLeft(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(2) + "{bad\n", "config.yaml": `
dataset: {path: rows.jsonl, id: item.id}
roles:
  say: {compute: {n: item.n}}
flow: {start: say, after: {say: [{when: item.n == 1, fail: "no"}, {finish: last.data.n}]}}
`})
	out := filepath.Join(dir, "out")
	again := "run " + shellWord(dir) + " -o " + shellWord(out)
	for range 2 {
		matrixCmd("run", dir, "-o", out).want(t, 0, again+" --accept-changes", "appended, repaired, to the dataset", "!--retry-failed")
	}
	f, err := os.OpenFile(filepath.Join(dir, "rows.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"id":"q9","n":9}` + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0, "done 2", "failed 2", "!--retry-failed")
	matrixCmd("repair", out).want(t, 0)
	matrixCmd("run", dir, "-o", out).want(t, 0, "2 done, 2 failed. --fresh", "!--retry-failed")
}

// TestRunCommandThatCannotBegin stops at once, with what it wrote to stderr.
func TestRunCommandThatCannotBegin(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(30), "config.yaml": `
dataset: {path: rows.jsonl, id: id}
roles: {tool: {command: {run: [sh, -c, "echo no such module >&2; exit 3"]}}}
flow: [tool]
`})
	out := filepath.Join(dir, "out")
	r := matrixCmd("run", dir, "-o", out)
	r.want(t, 1, "exit status 3, before it was asked anything; its stderr ends with: no such module", "30 tasks are pending")
	if strings.Contains(r.out, "failed, by cause") {
		t.Errorf("tasks have failed:\n%s", r.out)
	}
}

// The kinds of causes are printed in the words of a task, so that what to do can
// be read and copied.
func TestCausesInWords(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(12), "config.yaml": `
dataset: {path: rows.jsonl, id: id}
roles: {n: {compute: {n: item.n}}}
flow: [{role: n, stop: "true", fail: "row {{ item.n }} has no \"x{{ item.n }}\", 0xe{{ item.n % 10 }}: write ` + "`item.x ?? 0`" + ` or iconv -t UTF-8"}]
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "live=1").want(t, 0, "failed 12", "12 x row 0 has no \"x0\", 0xe0: write `item.x ?? 0` or iconv -t UTF-8 (q0)")
	causes := summaryOf(t, out)["causes"].([]any)
	if c := causes[0].(map[string]any); len(causes) != 1 || c["count"] != 12.0 || !strings.HasPrefix(c["words"].(string), "row 0 has") || !strings.HasPrefix(c["cause"].(string), "row # has") {
		t.Errorf("got %v", causes)
	}
}
