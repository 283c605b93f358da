package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"matrix/internal/workers"
)

// gate is a model service on loopback that answers once it may.
type gate struct {
	*httptest.Server
	asked atomic.Int64
	may   chan struct{}
}

func newGate(t *testing.T) *gate {
	h := &gate{may: make(chan struct{})}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/chat/completions") {
			http.NotFound(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // else the end of its client is not seen
		h.asked.Add(1)
		select {
		case <-h.may:
		case <-r.Context().Done():
			return
		}
		fmt.Fprint(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}))
	t.Cleanup(h.Close)
	return h
}

// untilSo waits for something to be so.
func untilSo(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A run that does nothing itself is done by workers that are started for it, ended in the
// middle of it, and started again.
func TestClusterAdd(t *testing.T) {
	service := newGate(t)
	config := strings.Replace(strings.Replace(echo, `{kind: scripted, reply: "you said {{ prompt }}"}`, `{model: m, base_url: "`+service.URL+`/v1", concurrency: 4}`, 1), "metrics:", "#", 1)
	dir := files(t, map[string]string{"rows.jsonl": rows(12), "config.yaml": config})
	out := filepath.Join(dir, "out")
	matrixCmd("cluster", "add", dir, "--on", "local").want(t, 2, "has no line to join by", "matrix run CONFIG --serve")

	head := process(t, "run", dir, "-o", out, "--serve", "--no-work")
	log, err := os.Create(filepath.Join(dir, "head.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	head.Stdout, head.Stderr = log, log
	if err := head.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- head.Wait() }()
	untilSo(t, "the run is served", func() bool { _, err := os.Stat(filepath.Join(out, "join")); return err == nil })

	t.Setenv(beProgram, "1") // what is started is this program, too
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Cleanup(func() { matrixCmd("cluster", "down", out, "--grace", "1ms") })
	matrixCmd("cluster", "add", out, "--on", "local", "--workers", "2", "--roles", "sya")
	untilSo(t, "both are told to have ended, and why", func() bool {
		list := matrixCmd("cluster", "list", out).out
		return strings.Count(list, "failed: exit status 2") == 2 && strings.Count(list, `the run has no role "sya"`) == 2
	})
	matrixCmd("cluster", "down", out).want(t, 0, "is down. Its logs are in "+filepath.Join(out, "workers", "local-"))
	matrixCmd("cluster", "down", out).want(t, 0, "All that was started is down")
	if logs, _ := filepath.Glob(filepath.Join(out, "workers", "*", "0.log")); len(logs) != 1 || !strings.Contains(read(t, logs[0]), `no role "sya"`) {
		t.Errorf("what a worker said is not in %q any more", logs)
	}
	r := matrixCmd("cluster", "add", out, "--on", "local", "--workers", "2", "--label", "gpu=none").want(t, 0, "Started local-", "of them joined so far")
	untilSo(t, "both have joined", func() bool {
		return strings.Count(matrixCmd("cluster", "status", out).out, "gpu=none") == 2
	})
	untilSo(t, "the model is asked", func() bool { return service.asked.Load() > 0 })
	secret := strings.TrimSpace(read(t, out, "join"))
	if shown := matrixCmd("cluster", "join", out).want(t, 0).out; strings.TrimSpace(shown) != secret {
		t.Errorf("got %q, want the line %q", shown, secret)
	}
	token, _, _ := strings.Cut(strings.TrimPrefix(secret, "matrix://"), "@")
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ", filepath.Join(out, "workers/*/*")} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if b, _ := os.ReadFile(name); strings.Contains(string(b), token) {
				t.Errorf("%s has the token of the run", name)
			}
		}
	}
	if strings.Contains(r.out, token) {
		t.Errorf("the token of the run is shown: %s", r.out)
	}
	var groups []struct {
		ID      string
		Workers []workers.Unit
	}
	if err := json.Unmarshal([]byte(matrixCmd("cluster", "list", out, "--json").want(t, 0).out), &groups); err != nil || len(groups) != 2 || len(groups[0].Workers) != 0 || len(groups[1].Workers) != 2 || groups[1].Workers[0].State != workers.Running {
		t.Errorf("got %+v and %v, want a group that was ended, and one of two workers that are running", groups, err)
	}

	down := make(chan result, 1)
	go func() { down <- matrixCmd("cluster", "down", out) }()
	untilSo(t, "who has a call under way drains", func() bool {
		return strings.Contains(matrixCmd("cluster", "status", out).out, "draining")
	})
	close(service.may) // what is under way lands
	(<-down).want(t, 0, groups[1].ID+" on local is down")
	matrixCmd("cluster", "list", out).want(t, 0, groups[0].ID+" on local, started ", groups[1].ID+" on local, started ", ", ended ", "Its logs are in ")

	matrixCmd("cluster", "add", out, "--on", "local").want(t, 0, "Started local-")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the run: %v\n%s", err, read(t, dir, "head.log"))
		}
	case <-time.After(time.Minute):
		t.Fatalf("the run has not ended within a minute:\n%s", read(t, dir, "head.log"))
	}
	matrixCmd("verify", out, "--complete").want(t, 0, "12")
	if n := service.asked.Load(); n != 12 {
		t.Errorf("the model was asked %d times for 12 rows: what was under way did not land", n)
	}
	untilSo(t, "the worker ends with the run", func() bool {
		return strings.Contains(matrixCmd("cluster", "list", out).out, "ended: exit status 0")
	})
	matrixCmd("cluster", "down", out).want(t, 0, "is down")
}

func TestClusterUsage(t *testing.T) {
	dir := files(t, map[string]string{
		"join": "matrix://ABCDEFGHIJKLMNOPQRSTUVWXYZ@127.0.0.1:1/abcdefgh\n", "bad": "nats://x\n", "hosts": "a slots=none\n",
	})
	join := filepath.Join(dir, "join")
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{2, []string{join}, "say where: --on local, ssh:FILE"},
		{2, []string{join, "--on", "slrum"}, `--on "slrum": there is no kind "slrum" (did you mean slurm?)`},
		{2, []string{join, "--on", "local", "--workers", "0"}, "--workers 0: want 1 or more"},
		{2, []string{join, "--on", "local", "--slots", "0"}, "--slots 0: want 1 or more"},
		{2, []string{join, "--on", "local", "--label", "gpu"}, `label "gpu": want key=value`},
		{2, []string{join, "--on", "k8s:data"}, "needs --image"},
		{2, []string{filepath.Join(dir, "bad"), "--on", "local"}, "it does not begin with matrix://"},
		{2, []string{filepath.Join(dir, "none"), "--on", "local"}, "there is no "},
		{1, []string{join, "--on", "ssh:" + filepath.Join(dir, "none")}, "no such file"},
		{1, []string{join, "--on", "ssh:" + filepath.Join(dir, "hosts")}, "hosts:1: slots=none: want"},
	} {
		r := matrixCmd(append([]string{"cluster", "add"}, c.args...)...).want(t, c.code, c.want)
		if away := strings.Contains(strings.Join(c.args, " "), "ssh:"); away != strings.Contains(r.err, "Warning: the run can be joined at 127.0.0.1:1 only") {
			t.Errorf("%q: got %s, want a warning: %v", c.args, r.err, away)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.workers", "*")); len(left) > 0 {
		t.Errorf("%q are left of what was refused", left)
	}
	matrixCmd("cluster", "down", join).want(t, 0, "Nothing was started")
}
