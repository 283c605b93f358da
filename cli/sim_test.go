package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"matrix/internal/sim"
)

// startSim runs `matrix sim` as a process, and returns it and its base URLs.
func startSim(t *testing.T, replicas int, args ...string) (*exec.Cmd, *bytes.Buffer, []string) {
	t.Helper()
	cmd := process(t, append([]string{"sim", "--port", "0"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var urls []string
	for in := bufio.NewScanner(out); len(urls) < replicas && in.Scan(); {
		urls = append(urls, in.Text())
	}
	if len(urls) < replicas {
		t.Fatalf("got base URLs %q, want %d\n%s", urls, replicas, &errs)
	}
	return cmd, &errs, urls
}

func TestSimServes(t *testing.T) {
	dir := files(t, map[string]string{"faults.yaml": "- error:1@1h\n"})
	report, log := filepath.Join(dir, "stats.json"), filepath.Join(dir, "calls.jsonl")
	cmd, errs, urls := startSim(t, 2, "--preset", "slots", "--latency", "0.005", "--replicas", "2", "--report", report, "--log", log,
		"--reply", "template:You said {{.Prompt}}", "--faults", filepath.Join(dir, "faults.yaml"), "--fault", "reject@1h", "--step", "300@1h")
	for i, u := range urls {
		for range i + 1 {
			resp, err := http.Post(u+"/chat/completions", "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"yes"}]}`)) //nolint:noctx // the process ends with the test
			if err != nil {
				t.Fatal(err)
			}
			var body bytes.Buffer
			_, _ = body.ReadFrom(resp.Body)
			resp.Body.Close()
			if !strings.Contains(body.String(), `"You said yes"`) {
				t.Errorf("got %s", &body)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("got %v, want exit 0\n%s", err, errs)
	}
	for _, want := range []string{"3 calls in", "3 done", "CPU of the simulator"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q is missing in the summary:\n%s", want, errs)
		}
	}
	var s sim.Stats
	if err := json.Unmarshal([]byte(read(t, report)), &s); err != nil || len(s.Replicas) != 2 || s.Sum().Done != 3 || s.Replicas[1].URL != urls[1] {
		t.Errorf("report: got %+v, %v", s, err)
	}
	lines := strings.Split(strings.TrimSpace(read(t, log)), "\n")
	var call sim.Entry
	if err := json.Unmarshal([]byte(lines[0]), &call); err != nil || len(lines) != 3 || call.Prompt != "yes" || call.End != sim.EndDone || call.Worked <= 0 {
		t.Errorf("log: got %s, %v", lines, err)
	}
}

func TestSimFlags(t *testing.T) {
	_, _, urls := startSim(t, 1)
	_, port, _ := strings.Cut(strings.TrimSuffix(urls[0], "/v1"), "127.0.0.1:")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--preset", "7b"}, `--preset: there is no preset "7b"`},
		{[]string{"--replicas", "-2"}, "--replicas: got -2"},
		{[]string{"--preset", "slots", "--latency", "-2s"}, "--latency: got -2s"},
		{[]string{"--latency", "5s"}, "--latency: is of preset slots alone; how long a call takes with 8b"},
		{[]string{"--preset", "70b", "--sigma", "1"}, "--sigma: is of preset slots alone"},
		{[]string{"--preset", "slots", "--latency", "soon"}, "want a duration, such as 500ms, or seconds"},
		{[]string{"--fault", "regect:0.5"}, `did you mean "reject"`},
		{[]string{"--fault", "reject:x"}, "is not a number"},
		{[]string{"--faults", "nowhere.yaml"}, "no such file"},
		{[]string{"--storm", "hail"}, "--storm"},
		{[]string{"--reply", "ecco"}, `did you mean "echo"`},
		{[]string{"--reply", "file:nowhere.jsonl"}, "--reply: "},
		{[]string{"--step", "20s"}, "SLOTS@TIME"},
		{[]string{"--kv-tokens", "-1"}, "--kv-tokens: got -1"},
		{[]string{"--port", port}, "--port: " + port + " is taken on 127.0.0.1"},
		{[]string{"--port", "70000"}, "--port: got 70000, want 0 to 65535\n"},
		{[]string{"--port", "65535", "--replicas", "2"}, "--port: got 65535 for 2 replicas, each with a port of its own: want 0 to 65534"},
		{[]string{"--report", "nowhere/stats.json"}, "--report: open nowhere/stats.json: no such file"},
		{[]string{"--log", "nowhere/calls.jsonl"}, "--log: open nowhere/calls.jsonl: no such file"},
		{[]string{"now"}, "takes no arguments"},
		{[]string{"8000"}, "takes no arguments, got \"8000\" (did you mean --port 8000?)"},
	} {
		matrixCmd(append([]string{"sim"}, c.args...)...).want(t, exitUsage, c.want)
	}
}
