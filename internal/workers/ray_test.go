package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A program that is called as ray is: it keeps the files of the job, and refuses others.
const playedRay = `#!/bin/sh
dir=$(dirname "$0")
echo "ray $*" >>"$dir/calls"
while [ $# -gt 0 ]; do
	[ "$1" != --working-dir ] || cp -r "$2" "$dir/files"
	shift
done
[ ! -f "$dir/refuse" ] || { echo "Failed to connect to Ray at address: http://127.0.0.1:1." >&2; exit 1; }
`

func TestRayPlayed(t *testing.T) {
	dir := script(t, "ray", playedRay)
	status := "PENDING"
	dashboard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Who") != "me" || !strings.HasPrefix(r.URL.Path, "/api/jobs/ray-") {
			http.Error(w, "no such thing", http.StatusForbidden)
			return
		}
		if status == "" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"status": status, "message": "the cause"})
	}))
	defer dashboard.Close()
	t.Setenv("RAY_JOB_HEADERS", `{"X-Who": "me"}`)
	p := newPlace(t, "two words")
	l, g, err := p.start("ray:"+dashboard.URL+"/?GPU=0.5&spot=1", 3)
	if err != nil {
		t.Fatal(err)
	}
	p.hidden()
	var job struct {
		ID        string
		N         int
		Join      string
		Resources map[string]float64
		Argv      []string
		Name      string
	}
	b, err := os.ReadFile(filepath.Join(dir, "files", "workers.json"))
	if err == nil {
		err = json.Unmarshal(b, &job)
	}
	if err != nil || job.N != 3 || job.ID != g.ID || job.Join != secret || fmt.Sprint(job.Resources) != "map[GPU:0.5 spot:1]" ||
		fmt.Sprintf("%q", job.Argv) != fmt.Sprintf("%q", []string{"worker", "-", job.Name, p.notes, "slots 0", "two words"}) {
		t.Errorf("got %s and %v", b, err)
	}
	for _, name := range []string{"ray_job.py", "matrix"} {
		if _, err := os.Stat(filepath.Join(dir, "files", name)); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(g.Dir, "job-*")); len(left) > 0 {
		t.Errorf("%q are left, with the line to join by", left)
	}
	for s, want := range map[string]string{"PENDING": "waiting pending", "RUNNING": "running running", "STOPPED": "ended stopped", "SUCCEEDED": "ended succeeded", "FAILED": "failed failed: the cause"} {
		status = s
		if u := p.list(l, g); len(u) != 1 || string(u[0].State)+" "+u[0].Text != want {
			t.Errorf("%s: got %+v, want %s", s, u, want)
		}
	}
	status = "SUCCEEDED"
	p.stop(l, g) // nothing to do
	status = ""
	if u := p.list(l, g); len(u) != 0 {
		t.Errorf("got %+v of a job that is not there", u)
	}
	status = "RUNNING"
	p.stop(l, g)
	calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
	lines := strings.Split(strings.TrimSpace(string(calls)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "ray job submit --address "+dashboard.URL+" --submission-id "+g.ID+" --working-dir "+g.Dir+"/job-") ||
		!strings.HasSuffix(lines[0], " --no-wait -- python3 ray_job.py") || lines[1] != "ray job stop --address "+dashboard.URL+" "+g.ID {
		t.Errorf("got %q, want that a job was submitted and stopped once", lines)
	}
	if err := os.WriteFile(filepath.Join(dir, "refuse"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_, _, err = p.start("ray:"+dashboard.URL, 1)
	if want := "ray job submit: exit status 1: Failed to connect to Ray at address: http://127.0.0.1:1."; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// rayNode starts a node of a cluster on this host, and ends it with the test.
func rayNode(t *testing.T, temp string, args ...string) {
	t.Helper()
	c := exec.Command("ray", append([]string{"start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats"}, args...)...)
	c.Env = append(os.Environ(), "RAY_TMPDIR="+temp)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // what has not heard of it
	})
}

// TestRay submits to a real cluster of two nodes on this host.
func TestRay(t *testing.T) {
	bin := os.Getenv("MATRIX_TEST_RAY")
	if bin == "" {
		t.Skip("MATRIX_TEST_RAY is not set (the bin folder of a Python environment with ray[default]): Ray is played only")
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	temp := t.TempDir()
	began := time.Now()
	rayNode(t, temp, "--head", "--port=26379", "--dashboard-host=127.0.0.1", "--dashboard-port=28265", "--min-worker-port=21000", "--max-worker-port=21100")
	nodes := func(n int) bool {
		out, _ := exec.Command("ray", "list", "nodes", "--address=http://127.0.0.1:28265", "--format=json").Output()
		return strings.Count(string(out), `"ALIVE"`) == n
	}
	until(t, "a head", func() bool { return nodes(1) })
	rayNode(t, temp, "--address=127.0.0.1:26379", "--dashboard-agent-listen-port=52375", "--min-worker-port=21101", "--max-worker-port=21200")
	until(t, "two nodes", func() bool { return nodes(2) })
	t.Logf("a cluster after %v", time.Since(began).Round(time.Millisecond))

	p := newPlace(t)
	l, g, err := p.start("ray:http://127.0.0.1:28265", 2)
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	workers := func(pattern string) []string {
		all, _ := filepath.Glob(filepath.Join(p.notes, g.ID+"-"+pattern))
		return all
	}
	until(t, "two workers join", func() bool { return len(workers("?-??????")) == 2 })
	t.Logf("two workers after %v", time.Since(began).Round(time.Millisecond))
	b, _ := os.ReadFile(workers("0-??????")[0])
	if line, _, _ := strings.Cut(string(b), "\n"); line != secret {
		t.Errorf("got %q to join by", line)
	}
	p.hidden()
	if files, _ := filepath.Glob(filepath.Join(temp, "ray/session*/runtime_resources/working_dir_files/*/workers.json")); len(files) > 0 {
		t.Errorf("%q are left, with the line to join by", files)
	}
	if got := p.list(l, g); states(got) != "running" {
		t.Errorf("got %+v, want a job that is running", got)
	}

	// An actor dies: its worker ends with it, and another is started in its place.
	first := strings.TrimPrefix(filepath.Base(workers("0-??????")[0]), g.ID+"-")
	kill, err := exec.Command("pgrep", "-f", "worker - "+g.ID+"-"+first).Output()
	if err != nil {
		t.Fatalf("find the worker: %v", err)
	}
	var pid, actor int
	if _, err := fmt.Sscan(string(kill), &pid); err != nil {
		t.Fatal(err)
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if _, err := fmt.Sscan(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[1], &actor); err != nil {
		t.Fatal(err)
	}
	process, _ := os.FindProcess(actor)
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "its worker ends", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || p.left(g.ID+"-"+first)
	})
	until(t, "another is started", func() bool { return len(workers("0-??????")) == 2 })

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began = time.Now()
	if err := l.Stop(ctx, g); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %v; %d of 3 workers were told to leave", time.Since(began).Round(time.Millisecond), len(workers("*.left")))
	if got := p.list(l, g); states(got) != "ended" {
		t.Errorf("got %+v, want a job that has ended", got)
	}
	until(t, "no worker is left", func() bool { return exec.Command("pgrep", "-f", "worker - "+g.ID).Run() != nil })
}
