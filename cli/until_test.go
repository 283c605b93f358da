package cli

import (
	"path/filepath"
	"testing"
)

const goal = `
name: goal
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "{{ item.text }} of {{ seed }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
  judge: {compute: {good: "seed % 3 == 0", kind: item.n % 2}}
flow:
  - say
  - {role: judge, stop: not last.data.good, drop: not good}
until: {kept: 20}
`

// A run ends with so many, says what was dropped and left, and a larger goal goes on.
func TestUntil(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"config.yaml": goal, "rows.jsonl": rows(300)})
	out := filepath.Join(dir, "out")
	for _, kept := range []string{"20", "30"} {
		matrixCmd("run", dir, "-o", out, "until.kept="+kept).want(t, 0, "done "+kept, "unused", "The goal is met: "+kept+" kept.", "x not good")
		matrixCmd("verify", out, "--complete").want(t, 0, "300 tasks = "+kept+" done", "0 pending", "unused")
		matrixCmd("run", dir, "-o", out, "until.kept="+kept).want(t, 0, "is finished: "+kept+" done")
	}
	matrixCmd("plan", dir).want(t, 0, "The run ends once 20 tasks are kept")

	per := filepath.Join(dir, "per")
	matrixCmd("run", dir, "-o", per, "until.per=item.n % 2", "until.kept=5").want(t, 0, "done 10", "The goal is met: 10 kept.")
	matrixCmd("verify", per, "--complete").want(t, 0, "300 tasks = 10 done", "unused")
	matrixCmd("stats", per).want(t, 0, "done 10", "not good")

	// What cannot be reached is said, with the rate and after how many rows.
	few := filepath.Join(dir, "few")
	for range 2 {
		matrixCmd("run", dir, "-o", few, "dataset.limit=30", "until.kept=200").want(t, 4, "The goal was missed.", "of 200 are kept", "% of 30 tasks", "--accept-changes")
	}
	matrixCmd("verify", few, "--complete").want(t, 0, "30 tasks =", "0 pending")
	again := filepath.Join(dir, "again")
	matrixCmd("run", dir, "-o", again, "dataset.limit=9", "trials=until", "until.most=3").want(t, 4, "of 20 are kept", "of 27 tasks", "no row may come again", "until.most=6")
	matrixCmd("run", dir, "-o", again, "dataset.limit=9", "trials=until", "until.most=60").want(t, 0, "The goal is met: 20 kept.")
	matrixCmd("verify", again, "--complete").want(t, 0, "20 done", "0 pending")
	matrixCmd("run", dir, "-o", again, "dataset.limit=9", "trials=until", "until.most=60", "--retry-failed").want(t, 0, "is finished")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "budget"), "budget.tokens=150").want(t, 4, "Stopped before the goal", "Kept are", "of 20")
}
