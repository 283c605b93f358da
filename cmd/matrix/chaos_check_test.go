package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"matrix/dataset"
	"matrix/internal/sim"
)

// chaosFatal is what a Go program says that must not go on.
var chaosFatal = regexp.MustCompile(`(?m)^(panic|fatal error|WARNING: DATA RACE)`)

// chaosTask is a line of the output.
type chaosTask struct {
	ID      string      `json:"id"`
	Turns   []chaosTurn `json:"turns"`
	Outcome struct {
		Status string `json:"status"`
	} `json:"outcome"`
}

// check proves from what is left of a run that it is whole.
func (c *chaos) check() {
	if out, err := exec.Command(c.bin, "verify", c.out, "--complete").CombinedOutput(); err != nil {
		c.Errorf("verify --complete: %v\n%s", err, out)
	}
	var summary struct {
		Done, Failed int
		Finished     bool
	}
	if b, err := os.ReadFile(filepath.Join(c.out, "summary.json")); err != nil || json.Unmarshal(b, &summary) != nil || !summary.Finished || summary.Done+summary.Failed != c.rows {
		c.Errorf("summary.json says %+v of %d rows, %v", summary, c.rows, err)
	}
	tasks, calls := c.tasks(), c.histories()
	prompts := map[string]int{}      // of committed turns of the model
	committed := map[string]string{} // by nonce: the turn of the program that has it
	for n := range c.rows {
		id := fmt.Sprint("q", n)
		t, ok := tasks[id]
		if !ok {
			c.Errorf("%s is lost", id)
			continue
		}
		c.checkTask(t, n, prompts, committed, calls)
	}
	if len(tasks) > c.rows {
		c.Errorf("the output has %d tasks, and the dataset %d rows", len(tasks), c.rows)
	}
	c.checkSet(tasks)
	again := map[string]int{} // calls that came to nothing, by the process that made them
	lost := 0
	for nonce, call := range calls {
		if t, ok := tasks[call.ID]; !ok || call.Turns > len(t.Turns) || call.Log != chaosHash(t.Turns[:call.Turns]) {
			c.Errorf("a program was asked about a log that %s never had: %+v", call.ID, call)
		}
		if committed[nonce] == "" {
			lost++
			again[call.By]++
			c.Logf("%5.1fs %s made a call that came to nothing: %s with %d turns", call.At.Sub(c.began).Seconds(), call.By, call.ID, call.Turns)
		}
	}
	asked := map[string]int{}
	eachLine(c, c.calls, func(call *sim.Entry) {
		if prompts[call.Prompt] == 0 {
			c.Errorf("the model was asked %q, which no log leads to", call.Prompt)
		}
		if call.Worked > 0 {
			asked[call.Prompt]++
		}
	})
	for prompt := range prompts {
		lost += max(0, asked[prompt]-1)
		if asked[prompt] == 0 {
			c.Errorf("the model was never asked %q", prompt)
		}
	}
	most := 0
	by := map[string]int{}
	for _, f := range c.log {
		most += f.loses
		by[f.who] += f.loses
		for _, worker := range f.with {
			most += chaosSlots
			by[worker] += chaosSlots
		}
	}
	for who, n := range again {
		if n > by[who] {
			c.Errorf("%d calls by %s came to nothing, want %d at most", n, who, by[who])
		}
	}
	if lost > most {
		c.Errorf("%d calls were made again, want %d at most", lost, most)
	}
	c.Logf("%d calls of the program and %d of the model were committed, %d were made again, of %d at most; by %v", len(committed), len(prompts), lost, most, again)
	c.checkLogs()
}

// checkTask proves that the turns of a task are those that its row leads to, each made
// from the log before it, and notes those of the model and of the program.
func (c *chaos) checkTask(t chaosTask, n int, prompts map[string]int, committed map[string]string, calls map[string]chaosCall) {
	path := chaosPath(n)
	if len(t.Turns) != len(path) {
		c.Errorf("%s has %d turns, want %d, of %v", t.ID, len(t.Turns), len(path), path)
		return
	}
	nonce := "begins"
	for i, turn := range t.Turns {
		where := fmt.Sprintf("%s turn %d, hop %d of %s", t.ID, i, turn.Hop, turn.Role)
		if turn.Role != path[i] || i > 0 && turn.Hop <= t.Turns[i-1].Hop {
			c.Errorf("%s: want %s, and a hop behind that of the turn before", where, path[i])
		}
		switch turn.Role {
		case "ask":
			prompt := fmt.Sprint(t.ID, " ", i/3, " ", nonce)
			if prompts[prompt]++; turn.Text != prompt {
				c.Errorf("%s says %q, want %q", where, turn.Text, prompt)
			}
		case "work":
			nonce, _ = turn.Data["nonce"].(string)
			if other := committed[nonce]; other != "" {
				c.Errorf("%s has the nonce of %s", where, other)
			}
			committed[nonce] = where
			call, ok := calls[nonce]
			if hash := chaosHash(t.Turns[:i]); !ok || call.ID != t.ID || call.Turns != i || call.Log != hash || turn.Data["log"] != hash {
				c.Errorf("%s has data %v; want the hash %s of the log before it, and the nonce of a call about it (%+v)", where, turn.Data, hash, call)
			}
		case "judge":
			if turn.Data["nonce"] != nonce {
				c.Errorf("%s has data %v, want the nonce %s", where, turn.Data, nonce)
			}
		}
	}
}

// checkLogs proves that no process has panicked.
func (c *chaos) checkLogs() {
	logs, err := filepath.Glob(filepath.Join(c.dir, "*.log"))
	if err != nil {
		c.Fatal(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			c.Fatal(err)
		}
		if chaosFatal.Match(b) {
			c.Errorf("%s:\n%s", filepath.Base(path), b)
		}
	}
}

// tasks reads the output, in which no task stands twice.
func (c *chaos) tasks() map[string]chaosTask {
	tasks := map[string]chaosTask{}
	for i := range 2 * c.shards {
		name := []string{"data", "failed"}[i%2]
		err := dataset.ReadParts(filepath.Join(c.out, name), dataset.Shard{K: i / 2, Of: c.shards}, func(part, line int, raw []byte) error {
			var t chaosTask
			d := json.NewDecoder(bytes.NewReader(raw))
			d.UseNumber()
			if err := d.Decode(&t); err != nil {
				return err
			}
			if _, ok := tasks[t.ID]; ok {
				c.Errorf("%s stands in the output twice, the second time in %s part %d line %d", t.ID, name, part, line+1)
			}
			n, _ := strconv.Atoi(strings.TrimPrefix(t.ID, "q"))
			if fails := n%97 == 5; fails != (name == "failed") || fails != (t.Outcome.Status == "failed") {
				c.Errorf("%s stands in %s as %s", t.ID, name, t.Outcome.Status)
			}
			tasks[t.ID] = t
			return nil
		})
		if err != nil {
			c.Fatal(err)
		}
	}
	return tasks
}

// histories reads the calls of the program, by nonce.
func (c *chaos) histories() map[string]chaosCall {
	calls := map[string]chaosCall{}
	files, err := filepath.Glob(filepath.Join(c.history, "*.jsonl"))
	if err != nil {
		c.Fatal(err)
	}
	for _, path := range files {
		eachLine(c, path, func(call *chaosCall) {
			if _, ok := calls[call.Nonce]; ok {
				c.Errorf("the nonce %s was drawn twice", call.Nonce)
			}
			calls[call.Nonce] = *call
		})
	}
	return calls
}

// eachLine reads JSON lines. The last may be torn, of one that was killed.
func eachLine[T any](c *chaos, path string, f func(*T)) {
	c.Helper()
	file, err := os.Open(path)
	if err != nil {
		c.Fatal(err)
	}
	defer file.Close()
	for in := bufio.NewScanner(file); in.Scan(); {
		var v T
		if err := json.Unmarshal(in.Bytes(), &v); err != nil {
			c.Logf("%s: %v in %s", filepath.Base(path), err, in.Bytes())
			continue
		}
		f(&v)
	}
}

// checkSet makes sure that the training set of the run has each task that is done once.
func (c *chaos) checkSet(tasks map[string]chaosTask) {
	names, _ := filepath.Glob(filepath.Join(c.out, "export", "data", "train-*.jsonl"))
	seen := map[string]int{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			c.Error(err)
		}
		for line := range bytes.Lines(b) {
			var row struct{ ID string }
			if err := json.Unmarshal(line, &row); err != nil {
				c.Errorf("%s: %v", name, err)
			}
			seen[row.ID]++
		}
	}
	done := 0
	for id, t := range tasks {
		want := 0
		if t.Outcome.Status == "done" {
			want = 1
			done++
		}
		if seen[id] != want {
			c.Errorf("the training set has %s %d times, want %d", id, seen[id], want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(c.out, "export", "*part-*")); len(seen) != done || len(left) > 0 {
		c.Errorf("the training set has %d tasks of %d that are done, and parts left: %v", len(seen), done, left)
	}
}
