package examples_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tau2 is the interpreter that has the environment.
func tau2(t *testing.T) string {
	t.Helper()
	python, err := filepath.Abs("../bin/tau2/bin/python")
	if err == nil {
		_, err = os.Stat(python)
	}
	if err != nil {
		t.Skip("needs the environment of tau2: run scripts/tau2-env: ", err)
	}
	return python
}

// jsonLines reads a file of JSON lines.
func jsonLines[T any](t *testing.T, paths ...string) (all []T) {
	t.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			var v T
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			all = append(all, v)
		}
		f.Close()
	}
	return all
}

type tau2Turn struct {
	Role string
	Data struct {
		Reason   string
		Reward   float64
		Messages int
	}
	Results []struct{ Content string } `json:"tool_results"`
	Calls   []struct{ Trace *struct{ Restored string } }
}

// TestTau2Mock has scripted sides do what the gold actions of the mock domain are.
func TestTau2Mock(t *testing.T) {
	python := tau2(t)
	for name, c := range map[string]struct {
		args   []string
		reason string
		ones   int // rewards
		all    int
	}{
		"with a user": {nil, "user_stop", 8, 9},                 // one has no gold actions, and an assertion that then fails,
		"solo":        {[]string{"--solo"}, "agent_stop", 5, 6}, // one wants to be told something, and nobody is told,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(python, append([]string{"tau2/tau2_server.py", "rows", "mock"}, c.args...)...)
			cmd.Stderr = os.Stderr
			rows, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var replies bytes.Buffer
			say := func(id, role string, n int, text string, calls []any) {
				if err := json.NewEncoder(&replies).Encode(map[string]any{"id": id, "role": role, "n": n, "text": text, "tool_calls": calls}); err != nil {
					t.Fatal(err)
				}
			}
			for line := range bytes.Lines(rows) {
				var row struct {
					ID   string
					Solo bool
					Task struct {
						Criteria struct {
							Communicate []string `json:"communicate_info"`
							Actions     []struct {
								Name      string
								Requestor string
								Arguments any
							}
						} `json:"evaluation_criteria"`
					}
				}
				if err := json.Unmarshal(line, &row); err != nil {
					t.Fatal(err)
				}
				var calls []any
				for i, a := range row.Task.Criteria.Actions {
					calls = append(calls, map[string]any{"id": "gold" + strconv.Itoa(i), "name": a.Name, "arguments": a.Arguments})
				}
				n, agent := 0, "agent"
				if row.Solo {
					agent = "solo"
				}
				if len(calls) > 0 {
					say(row.ID, agent, 0, "", calls)
					n = 1
				}
				if row.Solo {
					say(row.ID, agent, n, "", []any{map[string]any{"id": "end", "name": "done", "arguments": map[string]any{}}})
					continue
				}
				say(row.ID, agent, n, "All of that is done. "+strings.Join(row.Task.Criteria.Communicate, " "), nil)
				say(row.ID, "user", 0, "Please do what I came for.", nil)
				say(row.ID, "user", 1, "Thank you. ###STOP###", nil)
			}
			out := filepath.Join(dir, "out")
			for path, b := range map[string][]byte{"rows.jsonl": rows, "replies.jsonl": replies.Bytes()} {
				if err := os.WriteFile(filepath.Join(dir, path), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			command(t, "run", "tau2/replay.yaml", "out="+out, "dataset.path="+filepath.Join(dir, "rows.jsonl"), "models.recorded.path="+filepath.Join(dir, "replies.jsonl"))
			command(t, "verify", out, "--complete")
			ones, all := 0, 0
			for _, task := range jsonLines[struct {
				ID    string
				Turns []tau2Turn
			}](t, filepath.Join(out, "data", "part-00000.jsonl")) {
				all++
				end := slices.IndexFunc(task.Turns, func(u tau2Turn) bool { return u.Role == "end" })
				last := task.Turns[len(task.Turns)-1].Data
				if reason := task.Turns[end].Data.Reason; reason != c.reason {
					t.Errorf("%s: ended by %s, want %s", task.ID, reason, c.reason)
				}
				if last.Reward == 1 {
					ones++
				} else {
					t.Logf("%s: reward %v", task.ID, last.Reward)
				}
			}
			if ones != c.ones || all != c.all {
				t.Errorf("got a reward of 1 for %d of %d, want %d of %d", ones, all, c.ones, c.all)
			}
		})
	}
}

// TestTau2Recorded drives simulations that were recorded through the flow: what
// upstream's own runner came to comes out again. KILLS has the run killed so often.
func TestTau2Recorded(t *testing.T) {
	tau2(t)
	data := filepath.Join("..", "..", "shared", "data", "tau2", "recorded")
	if _, err := os.Stat(data); err != nil {
		t.Skip("needs recorded simulations: ", err)
	}
	kills, _ := strconv.Atoi(os.Getenv("KILLS"))
	if os.Getenv("MATRIX_TEST_TAU2") == "" {
		t.Skip("a minute of both cores: set MATRIX_TEST_TAU2=1, and KILLS=20 for a storm")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "matrix")
	if b, err := exec.Command("go", "build", "-o", program, "../cmd/matrix").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	out, log, live := filepath.Join(dir, "out"), &bytes.Buffer{}, "64"
	delay, killed := "0s", 0
	if kills > 0 {
		live, delay = "8", "700ms" // each session comes to some calls before it is killed, and none to the end of all
	}
	for n := 0; ; n++ {
		cmd := exec.Command(program, "run", "tau2/replay.yaml", "out="+out, "live="+live, "models.recorded.delay="+delay, "dataset.path="+filepath.Join(data, "rows.jsonl"), "models.recorded.path="+filepath.Join(data, "replies.jsonl"))
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var late <-chan time.Time
		if n < kills {
			late = time.After(time.Duration(6000+n*1370%5000) * time.Millisecond)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
		case <-late:
			_ = cmd.Process.Kill()
			<-ended
			killed++
			continue
		}
		break
	}
	type recorded struct {
		Reward   float64
		Reason   string `json:"termination_reason"`
		Messages int
		Outputs  []string `json:"tool_outputs"`
	}
	want := map[string]recorded{}
	for _, row := range jsonLines[struct {
		ID       string
		Recorded recorded
	}](t, filepath.Join(data, "rows.jsonl")) {
		want[row.ID] = row.Recorded
	}
	calls, restored := 0, 0
	parts, _ := filepath.Glob(filepath.Join(out, "data", "*.jsonl"))
	for _, task := range jsonLines[struct {
		ID    string
		Turns []tau2Turn
	}](t, parts...) {
		var got recorded
		for _, u := range task.Turns {
			for _, r := range u.Results {
				got.Outputs = append(got.Outputs, r.Content)
			}
			for _, c := range u.Calls {
				if c.Trace != nil {
					calls++
					if c.Trace.Restored == "replay" {
						restored++
					}
				}
			}
			switch u.Role {
			case "end":
				got.Reason = u.Data.Reason
			case "reward":
				got.Reward, got.Messages = u.Data.Reward, u.Data.Messages
			}
		}
		w := want[task.ID]
		delete(want, task.ID)
		if got.Reward != w.Reward || got.Reason != w.Reason || got.Messages != w.Messages || !slices.Equal(got.Outputs, w.Outputs) {
			t.Errorf("%s: got reward %v, %s, %d messages, %d outputs; want %v, %s, %d, %d", task.ID, got.Reward, got.Reason, got.Messages, len(got.Outputs), w.Reward, w.Reason, w.Messages, len(w.Outputs))
		}
	}
	if len(want) > 0 {
		t.Errorf("%d tasks are missing", len(want))
	}
	t.Logf("%d calls, %d met a state that was made again, %d kills", calls, restored, killed)
	if kills == 0 && restored*50 > calls || kills > 0 && (killed == 0 || restored < killed) {
		t.Errorf("%d of %d calls met a state that was made again after %d kills, want less than 2%% without any, and some with them", restored, calls, killed)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range procs { // children have a mark, and run our server
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		here, _ := filepath.Abs("tau2")
		if strings.Contains(string(line), "tau2_server.py") && cwd == here {
			t.Errorf("a process is left: %s", path)
		}
	}
}
