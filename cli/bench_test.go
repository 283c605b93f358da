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

// Row by row or in batches, the work is the same: the measurement itself checks it.
func TestBenchCuration(t *testing.T) {
	dir := t.TempDir()
	b, err := process(t, "bench", "curation", "--rows", "60", "--live", "30", "--slots", "16", "--document-bytes", "300", "--score-tokens", "20",
		"--question-tokens", "30", "--pass-filter", "0.5", "--documents", "400", "--dir", dir, "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r bench.CurationResult
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for _, x := range []bench.CurationRun{r.Row, r.Batch} {
		if x.Calls < 60 || x.Calls > 180 || x.Tokens <= x.Calls || x.TokensPerS <= 0 || x.Share <= 0 || x.Share > 1 {
			t.Errorf("got %+v, want figures of 60 documents", x)
		}
	}
	if r.Filters == nil || r.Filters.Documents != 400 || r.Quarter.Documents != 100 || r.Filters.DocumentsPerS <= 0 || r.Filters.RSS == 0 || r.Filters.CPU <= 0 {
		t.Errorf("got %s, want figures of the filters", b)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	matrixCmd("bench", "curation", "--rows", "0").want(t, exitUsage, "must be more than 0")
	matrixCmd("bench", "curation", "--pass-score", "2").want(t, exitUsage, "from 0 to 1")
}

func TestBenchCluster(t *testing.T) {
	dir := t.TempDir()
	b, err := process(t, "bench", "cluster", "--seconds", "0.5", "--live", "100", "--dir", dir, "--profile", dir, "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r bench.ClusterResult
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for _, h := range []bench.ClusterHops{r.Stays, r.Moved} {
		if h.HopsPerS <= 0 || h.HeadCPU <= 0 || h.WorkerCPU <= 0 || h.From < float64(r.Record) || h.RSS == 0 {
			t.Errorf("got %+v, want figures, and every record on its way to the head", h)
		}
	}
	// A task has 10 hops: a past of 2048 bytes and 4.5 records on the mean.
	if r.Moved.Read < 0.9 || r.Moved.To < 2048+3*1843 || r.Stays.Read > 0.5 || r.Stays.To > r.Moved.To/2 {
		t.Errorf("got %s, want all pasts over the network where tasks move, and few where they stay", b)
	}
	profiles, _ := filepath.Glob(filepath.Join(dir, "*.prof"))
	if left, _ := os.ReadDir(dir); len(profiles) != 6 || len(left) != 6 {
		t.Errorf("left behind: %v, want profiles of 6 processes", left)
	}
	matrixCmd("bench", "cluster", "--workers", "1").want(t, exitUsage, "2 or more")
	matrixCmd("bench", "part").want(t, 1, "EOF")
}

func TestBenchClusterIdle(t *testing.T) {
	b, err := process(t, "bench", "cluster", "--idle", "5", "--seconds", "0.5", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r bench.IdleResult
	if err := json.Unmarshal(b, &r); err != nil || r.Workers != 5 || r.Head <= 0 || r.Fakes <= 0 || r.HeadRSS == 0 {
		t.Errorf("got %s (%v), want figures of 5 workers", b, err)
	}
}

func TestBenchScale(t *testing.T) {
	dir := t.TempDir()
	b, err := process(t, "bench", "scale", "--live", "20", "--workers", "2", "--latency", "200ms", "--seconds", "1", "--dir", dir, "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r bench.ScaleResult
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for _, x := range []bench.ScaleRun{r.Batch, r.One, r.Many} {
		if x.CallsPerS <= 0 || x.InFlight <= 0 || x.WorkerCPU <= 0 {
			t.Errorf("got %+v, want figures", x)
		}
	}
	if !r.One.Verified || !r.Many.Verified || r.One.InFlight > 10.5 || r.Many.Live > 20 {
		t.Errorf("got %s, want one worker with 10 calls at the most, and both runs verified", b)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
