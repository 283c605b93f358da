package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"matrix/internal/bench"
	"matrix/internal/rundir"
)

func TestBenchModels(t *testing.T) {
	b, err := process(t, "bench", "models", "--rows", "60", "--slots", "20", "--latency", "20ms", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r bench.ModelsResult
	if err := json.Unmarshal(b, &r); err != nil || r.Done != 60 || r.Wrong+r.Missing != 0 || r.Calls < 60 || r.Share <= 0 || r.RSS == 0 || r.Possible < r.Busy || r.Possible > r.Seconds+0.3 {
		t.Errorf("got %s (%v), want 60 rows done, in no less time than is possible", b, err)
	}
	matrixCmd("bench", "models", "--rows", "0").want(t, exitUsage, "must be more than 0")
	r2, _ := process(t, "bench", "models", "--fault", "hail").CombinedOutput()
	if !strings.Contains(string(r2), "Error: the simulator did not start: --fault") {
		t.Errorf("a fault that is none: got %s", r2)
	}
}

// A measurement that is stopped leaves neither processes nor files.
func TestBenchModelsStopped(t *testing.T) {
	dir := t.TempDir()
	cmd, out := startProcess(t, "bench", "models", "--rows", "100000", "--dir", dir)
	var config string
	until(t, "runs", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "matrix-bench-*", "out", rundir.SummaryFile))
		if len(found) == 0 {
			return false
		}
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(found[0]), "..", "config.yaml"))
		config = string(b)
		return true
	})
	_, url, _ := strings.Cut(config, `endpoints: ["`)
	url, _, _ = strings.Cut(url, `"`)
	if down([]string{url}) {
		t.Fatalf("nothing answers at %q", url)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exitStopped {
		t.Errorf("got exit code %d, want %d\n%s", got, exitStopped, out)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 || !down([]string{url}) {
		t.Errorf("left behind: %v; the simulator answers: %v", left, !down([]string{url}))
	}
}
