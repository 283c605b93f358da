package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"matrix/dataset"
	"matrix/internal/rundir"
)

// crashConfig is a debate with compute steps that pay hops and some that do
// not, failing tasks, and a metric. What a task becomes depends on its row, its
// seed and params.broken alone, with which a step fails of every eleventh row.
const crashConfig = `
name: crash
seed: 11
live: 300
trials: 2
params: {broken: false}
dataset: {path: rows.jsonl, id: id}
output:
  rows_per_part: 700
  compress: %s
  export: {format: messages, assistant: teacher, columns: {id: id, turns: len(turns)}, sort: id, split: {train: 0.9, test: 0.1}}
models:
  a: {kind: scripted, reply: "{{ role }} of {{ item.id }}, trial {{ trial }}, turn {{ nth }}: {{ prompt | length }} characters. The answer is ({{ 'ABCD'[(item.n + nth) %% 4] }})."}
roles:
  teacher: {chat: {model: a, prompt: "{{ item.text }} {{ last.text }}"}}
  student: {chat: {model: a, prompt: "{{ item.text }} Teacher: {{ last.text }}"}}
  read: {compute: {answer: 'params.broken && item.n %% 11 == 3 && rounds("read") == item.n %% 3 ? item.n + "x" : find(last.text, "answer is \\(([A-D])\\)")'}}
  judge: {inline: false, compute: {ends: 'last.data.answer == item.stop'}}
flow:
  start: teacher
  after:
    teacher: read
    student: read
    read: judge
    judge:
      - {when: "item.n %% 97 == 0 && rounds('judge') == 2", fail: "row {{ item.n }} fails"}
      - {when: "last.data.ends || rounds('judge') >= 6", finish: "rounds('judge')"}
      - {when: "rounds('judge') %% 2 == 1", to: student}
      - {to: teacher}
metrics: {rounds: "rounds('judge')"}
`

// TestCrash kills the program at random moments with SIGKILL, types the same
// command again, and in the end compares the output with that of a run that
// nobody disturbed. MATRIX_CRASH_KILLS says how many times; 20 when it is not
// set.
func TestCrash(t *testing.T) {
	t.Parallel()
	kills := crashKills(t)
	bin := buildMatrix(t)
	const rows = 4000
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance starts from %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var want, wantSet map[string]string
	killed := 0
	for round := 0; killed < kills; round++ {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir(), shards: 1 + round%2*2}
		h.write(fmt.Sprintf(crashConfig, []string{"none", "zstd"}[round%2]), rows)
		if want == nil {
			h.out = filepath.Join(h.dir, "undisturbed")
			if code := h.run(0); code != 0 {
				t.Fatalf("undisturbed run: exit %d\n%s", code, h.log())
			}
			want, wantSet = h.output(), h.set()
			if len(want) != 2*rows {
				t.Fatalf("undisturbed run: %d tasks, want %d", len(want), 2*rows)
			}
		}
		h.out = filepath.Join(h.dir, "crashed")
		// First a step fails some tasks, and trying them again does not help; then it
		// is fixed.
		left := kills - killed
		if round == 0 { // the others are those of another round
			left = (left + 1) / 2
		}
		begun := h.crash((left+1)/2, "broken=true", "max_failed=none")
		h.fixed = true
		killed += begun + h.crash(left-begun, "--accept-changes", "max_failed=none") // some rows fail each time
		if out, err := exec.Command(bin, "verify", h.out, "--complete").CombinedOutput(); err != nil {
			t.Fatalf("verify --complete: %v\n%s", err, out)
		}
		got := h.output()
		if !maps.Equal(got, want) {
			t.Errorf("after %d kills the output differs from an undisturbed run's:\n%s", killed, difference(got, want))
		}
		if got := h.set(); !maps.Equal(got, wantSet) {
			t.Errorf("after %d kills the training set differs from an undisturbed run's: got %v, want %v", killed, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(wantSet)))
		}
	}
	t.Logf("%d kills, %d tasks each round: nothing lost, nothing doubled", killed, 2*rows)
}

// crashKills is how many times a test shall kill.
func crashKills(t *testing.T) int {
	t.Helper()
	s := os.Getenv("MATRIX_CRASH_KILLS")
	if s == "" && testing.Short() {
		t.Skip("short")
	}
	kills, err := strconv.Atoi(cmp.Or(s, "20"))
	if err != nil || kills < 1 {
		t.Fatalf("MATRIX_CRASH_KILLS=%s: want a number from 1 on", s)
	}
	return kills
}

// buildMatrix gives the path of the program, which is built once for all tests.
func buildMatrix(t *testing.T) string {
	t.Helper()
	bin, err := matrixBinary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var matrixBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(binaries, "matrix")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		return bin, fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})

// crashOutputs are the folders that a task may end in.
var crashOutputs = []string{rundir.DataDir, rundir.DroppedDir, rundir.ExpandedDir, rundir.FailedDir}

type crashBed struct {
	*testing.T
	bin, dir, out string
	rng           *rand.Rand
	fixed         bool
	shards        int
}

// write makes the folder of a config, with its rows.
func (h *crashBed) write(config string, rows int) {
	var b bytes.Buffer
	for i := range rows {
		fmt.Fprintf(&b, `{"id":"q%d","n":%d,"text":%q,"stop":"%c"}`+"\n", i, i, strings.Repeat("word ", i%60), 'A'+i%5)
	}
	for name, content := range map[string]string{"rows.jsonl": b.String(), "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o666); err != nil {
			h.Fatal(err)
		}
	}
}

// run types the command and kills the process after a while; 0 is never. It
// returns the exit code, -1 when it was killed.
func (h *crashBed) run(after time.Duration, args ...string) int {
	h.Helper()
	logFile, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		h.Fatal(err)
	}
	defer logFile.Close()
	if h.shards > 1 {
		args = append(args, fmt.Sprint("shards=", h.shards))
	}
	cmd := exec.Command(h.bin, append([]string{"run", h.dir, "out=" + h.out}, args...)...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func (h *crashBed) log() string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(b)
}

// crash kills and reruns until the run is over, with at most so many kills, and
// says how many there were. Now and then it has the failed tasks tried again; once
// they are fixed, until none is left but those that the flow fails.
func (h *crashBed) crash(most int, args ...string) (kills int) {
	for {
		command := args
		if h.fixed && h.broken() > 0 || h.rng.IntN(3) == 0 {
			command = append([]string{"--retry-failed"}, args...)
		}
		var after time.Duration
		if kills < most {
			after = time.Duration(10+h.rng.IntN(400)) * time.Millisecond
		}
		switch code := h.run(after, command...); code {
		case 0:
			if h.fixed && h.broken() > 0 {
				continue
			}
			return kills
		case -1:
			kills++
		default:
			h.Fatalf("after %d kills: exit %d\n%s", kills, code, h.log())
		}
		h.once()
		switch h.rng.IntN(4) {
		case 0:
			h.tear()
		case 1:
			h.verify()
		}
	}
}

// verify: the ledger closes after a kill too, before anything is fixed.
func (h *crashBed) verify() {
	if _, err := os.Stat(filepath.Join(h.out, "config.yaml")); err != nil {
		return // killed before there was a run
	}
	if out, err := exec.Command(h.bin, "verify", h.out).CombinedOutput(); err != nil {
		h.Fatalf("verify after a kill: %v\n%s", err, out)
	}
}

// broken counts the tasks that stand among the failed ones through a step.
func (h *crashBed) broken() (n int) {
	for _, line := range h.lines("failed") {
		if strings.Contains(line, "cannot compute answer") {
			n++
		}
	}
	return n
}

// once: no task ever stands in two outputs.
func (h *crashBed) once() {
	in := map[string]string{}
	for _, name := range crashOutputs {
		for id := range h.lines(name) {
			if was, twice := in[id]; twice {
				h.Errorf("%s stands in %s and in %s", id, was, name)
			}
			in[id] = name
		}
	}
}

// lines reads the parts of an output as a person would, by task, as far as they
// are whole.
func (h *crashBed) lines(name string) map[string]string {
	lines := map[string]string{}
	for k := range max(1, h.shards) {
		_ = dataset.ReadParts(filepath.Join(h.out, name), dataset.Shard{K: k, Of: h.shards}, func(_, _ int, raw []byte) error {
			var t struct{ ID string }
			err := json.Unmarshal(raw, &t)
			lines[t.ID] = string(raw)
			return err
		})
	}
	return lines
}

// tear leaves half a line at the end of the newest part, as a kill in the middle
// of a write may while tasks are pending.
func (h *crashBed) tear() {
	var audit struct{ Owed int }
	out, _ := exec.Command(h.bin, "verify", h.out, "--json").Output()
	if json.Unmarshal(out, &audit) != nil || audit.Owed == 0 {
		return
	}
	parts, _ := filepath.Glob(filepath.Join(h.out, "data", "part-*"))
	if len(parts) == 0 {
		return
	}
	f, err := os.OpenFile(parts[len(parts)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{"id":"q1","row":"q1","trial":0,"it`); err != nil {
		h.Fatal(err)
	}
}

// output reads what the run made, by task, without what differs between two
// runs of the same config.
func (h *crashBed) output() map[string]string {
	h.Helper()
	tasks := map[string]string{}
	for i := range len(crashOutputs) * max(1, h.shards) {
		name := crashOutputs[i%len(crashOutputs)]
		err := dataset.ReadParts(filepath.Join(h.out, name), dataset.Shard{K: i / len(crashOutputs), Of: h.shards}, func(part, line int, raw []byte) error {
			var t map[string]any
			if err := json.Unmarshal(raw, &t); err != nil {
				return err
			}
			for _, x := range t["turns"].([]any) {
				turn := x.(map[string]any)
				delete(turn, "timing")
				delete(turn, "hop") // an inline step that is tried again has one of its own
				for _, call := range turn["calls"].([]any) {
					delete(call.(map[string]any), "wait_ms")
					delete(call.(map[string]any), "took_ms")
				}
			}
			b, err := json.Marshal(t)
			id := t["id"].(string)
			if _, ok := tasks[id]; ok {
				h.Errorf("%s stands in the output twice, the second time in %s part %d line %d", id, name, part, line+1)
			}
			tasks[id] = name + " " + string(b)
			return err
		})
		if err != nil {
			h.Fatal(err)
		}
	}
	return tasks
}

// set reads the training set that the run made, by file: two splits, and a card.
func (h *crashBed) set() map[string]string {
	h.Helper()
	names, err := filepath.Glob(filepath.Join(h.out, "export", "data", "*"))
	if err != nil || len(names) != 2 {
		h.Errorf("the training set has files %v (%v), want one of each of two splits", names, err)
	}
	if left, _ := filepath.Glob(filepath.Join(h.out, "export", "*part-*")); len(left) > 0 {
		h.Errorf("the training set is made, and %v are there still", left)
	}
	set := map[string]string{}
	for _, name := range append(names, filepath.Join(h.out, "export", "README.md")) {
		b, err := os.ReadFile(name)
		if err != nil {
			h.Error(err)
		}
		if filepath.Ext(name) == ".jsonl" {
			set[filepath.Base(name)] = string(b)
		}
	}
	return set
}

func difference(got, want map[string]string) string {
	var b strings.Builder
	n := 0
	for id, w := range want {
		if g := got[id]; g != w && n < 3 {
			fmt.Fprintf(&b, "%s\n  got  %s\n  want %s\n", id, g, w)
			n++
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok && n < 6 {
			fmt.Fprintf(&b, "%s should not be there\n", id)
			n++
		}
	}
	return b.String()
}
