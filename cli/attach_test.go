package cli

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"

	"matrix/internal/monitor"
	"matrix/internal/rundir"
)

// underWay is a command that has begun.
type underWay struct {
	interrupts chan os.Signal
	seen       chan struct{} // closed once stderr has what was waited for
	done       chan result

	mu   sync.Mutex
	errs bytes.Buffer
}

// begin begins a command in this process, and returns once its stderr has pattern.
func begin(t *testing.T, pattern string, args ...string) *underWay {
	t.Helper()
	u := &underWay{interrupts: make(chan os.Signal, 2), seen: make(chan struct{}), done: make(chan result, 1)}
	want := regexp.MustCompile(pattern)
	var once sync.Once
	var out bytes.Buffer
	p := Program{interrupts: u.interrupts, every: time.Millisecond, In: strings.NewReader(""), Out: &out}
	p.Err = writerFunc(func(b []byte) (int, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.errs.Write(b); want.Match(u.errs.Bytes()) {
			once.Do(func() { close(u.seen) })
		}
		return len(b), nil
	})
	go func() {
		code := p.Main(args)
		u.done <- result{code, out.String(), u.stderr()}
	}()
	select {
	case <-u.seen:
	case r := <-u.done:
		t.Fatalf("%v has ended before it said %q: %v", args, pattern, r)
	case <-time.After(time.Minute):
		t.Fatalf("%v does not say %q, but:\n%s", args, pattern, u.stderr())
	}
	return u
}

func (u *underWay) stderr() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.errs.String()
}

// end is what came of it.
func (u *underWay) end(t *testing.T) result {
	t.Helper()
	select {
	case r := <-u.done:
		return r
	case <-time.After(time.Minute):
		t.Fatalf("it does not end:\n%s", u.stderr())
		return result{}
	}
}

// held is a service whose calls wait until answer is called, and then are answered by f.
func held(t *testing.T, f http.HandlerFunc) (url string, answer func()) {
	release := make(chan struct{})
	url = service(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
			f(w, r)
		case <-r.Context().Done():
		}
	})
	return url, sync.OnceFunc(func() { close(release) })
}

// Who is attached sees what the run shows, its end included, and exits as it does.
func TestAttach(t *testing.T) {
	for name, c := range map[string]struct {
		reply http.HandlerFunc
		code  int
		out   string
		err   string
	}{
		"finished": {func(w http.ResponseWriter, _ *http.Request) { reply(w, "fine") }, 0, "done 5", ""},
		"failed": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":{"message":"no such key"}}`, http.StatusUnauthorized)
		}, 1,
			"pending 5", "no such key"},
	} {
		t.Run(name, func(t *testing.T) {
			url, answer := held(t, c.reply)
			dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
			out := filepath.Join(dir, "out")
			run := begin(t, ` live 5`, "run", dir, "-o", out)
			one, two := begin(t, `Attached[^\n]*\n[^\n]* live 5`, "attach", out), begin(t, ` live 5`, "attach", out)
			one.interrupts <- os.Interrupt
			one.end(t).want(t, 4, "Attached to "+out, "The run goes on; 'matrix attach "+out+"' shows it again.")
			answer()
			r := run.end(t).want(t, c.code, c.out, c.err)
			a := two.end(t).want(t, c.code, c.out, c.err)
			if r.out != a.out {
				t.Errorf("attached: got\n%s\nwant what the run printed:\n%s", a.out, r.out)
			}
			last := func(s string) string { return s[strings.LastIndex(s, "Error: ")+1:] }
			if c.code != 0 && last(r.err) != last(a.err) {
				t.Errorf("attached: got\n%s\nwant what the run said:\n%s", a.err, r.err)
			}
			if _, err := os.Lstat(filepath.Join(out, monitor.SocketFile)); !os.IsNotExist(err) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

func TestStop(t *testing.T) {
	url, answer := held(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, "fine") })
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(20)})
	out := filepath.Join(dir, "out")

	// What is under way lands.
	run := begin(t, ` live 5`, "run", dir, "-o", out, "live=5")
	viewer := begin(t, ` live 5`, "attach", out)
	stop := begin(t, `Stopping `, "stop", out)
	<-begin(t, `Stopping; nothing is lost`, "attach", out).seen
	answer()
	run.end(t).want(t, 4, "Stopping; nothing is lost", "Stopped.")
	stop.end(t).want(t, 0, "Stopped. ", "tasks are pending; the same command goes on:", "run "+dir)
	viewer.end(t).want(t, 4, "Stopping; nothing is lost. Steps under way may take up to 30s more.", "!Ctrl-C again", "Stopped. ")
	if c := counts(t, out); c[0] == 0 || c[0]+c[2] != 20 {
		t.Errorf("done, failed, pending: got %v, want some done, 20 in all", c)
	}

	// With --now it does not.
	stuck, _ := held(t, nil)
	run = begin(t, ` live 5`, "run", dir, "-o", out, "live=5", "models.m.base_url="+stuck, "--accept-changes")
	matrixCmd("stop", out, "--now").want(t, 0, "Stopped. ")
	run.end(t).want(t, 4, "Stopping now.")
	matrixCmd("stop", out).want(t, 0, "No process is running in "+out)
	matrixCmd("attach", out).want(t, 4, "No process is running in "+out, "tasks are pending: ", "The command of the run goes on.")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 20")
	matrixCmd("attach", out).want(t, 0, out+" is finished: 20 done, 0 failed.")
	matrixCmd("stop", out).want(t, 0, out+" is finished")
}

// A run that is killed leaves its socket: who is attached is told, and the next run has
// one of its own.
func TestAttachKilled(t *testing.T) {
	url, answer := held(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, "fine") })
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	cmd := process(t, "run", dir, "-o", out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c, err := monitor.Dial(out)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	viewer := begin(t, ` live 5`, "attach", out)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	viewer.end(t).want(t, 4, "gone away without a last word", "Nothing that was committed is lost; the command of the run goes on.")
	if _, err := os.Lstat(filepath.Join(out, monitor.SocketFile)); err != nil {
		t.Fatalf("the killed run left no socket, so this tests nothing: %v", err)
	}
	matrixCmd("attach", out).want(t, 4, "No process is running in "+out)
	run := begin(t, ` live 5`, "run", dir, "-o", out)
	viewer = begin(t, ` live 5`, "attach", out)
	answer()
	run.end(t).want(t, 0)
	viewer.end(t).want(t, 0, "done 5")
}

func TestAttachWrong(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(2), "out/" + monitor.SocketFile: "mine"})
	for _, command := range []string{"attach", "stop"} {
		matrixCmd(command).want(t, 2, "needs DIR, the folder of a run")
		matrixCmd(command, filepath.Join(dir, "nosuch")).want(t, 2, "no such folder")
		matrixCmd(command, dir).want(t, 2, "is not the folder of a run")
	}
	// A run goes on where it cannot have a socket.
	matrixCmd("run", dir, "-o", filepath.Join(dir, "out")).want(t, 0, "Warning: no other process can look at this run or stop it", "is no socket", "done 2")
	if got := read(t, dir, "out", monitor.SocketFile); got != "mine" {
		t.Errorf("a file of that name: got %q", got)
	}
}

func TestMetricsAddr(t *testing.T) {
	url, answer := held(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, "fine") })
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	run := begin(t, ` live 5`, "run", dir, "-o", out, "--metrics-addr", "0")
	at := regexp.MustCompile(`Metrics at (http://127\.0\.0\.1:\d+)/metrics\n`).FindStringSubmatch(run.stderr())
	if at == nil {
		t.Fatalf("it does not say where:\n%s", run.stderr())
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "running", "/status": `"live":5`} {
		resp, err := http.Get(at[1] + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: got %s %s, want %s", path, resp.Status, b, want)
		}
	}
	resp, err := http.Get(at[1] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := new(expfmt.TextParser).TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if f := all["matrix_tasks_live"]; f == nil || f.Metric[0].Gauge.GetValue() != 5 {
		t.Errorf("matrix_tasks_live: got %v, want 5", f)
	}
	if f := all["matrix_role_steps_acting"]; f == nil || f.Metric[0].Gauge.GetValue() != 5 {
		t.Errorf("matrix_role_steps_acting: got %v, want 5", f)
	}
	port := at[1][strings.LastIndex(at[1], ":")+1:]
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--metrics-addr", port).want(t, 2, "--metrics-addr: ", "Choose another port")
	matrixCmd("run", dir, "-o", out, "--metrics-addr", "nowhere").want(t, 2, `--metrics-addr: "nowhere" is not an address to listen on`)
	matrixCmd("run", dir, "-o", out, "--metrics-addr", "").want(t, 2, "--metrics-addr: ")
	run.interrupts <- os.Interrupt
	<-begin(t, `Stopping`, "attach", out).seen
	if resp, err := http.Get(at[1] + "/readyz"); err != nil || resp.StatusCode != 503 {
		t.Errorf("stopping: got %v, %v, want 503", resp, err)
	}
	answer()
	run.end(t) // with 0 or 4: what was under way may have been all
	if conn, err := net.Dial("tcp", strings.TrimPrefix(at[1], "http://")); err == nil {
		_ = conn.Close()
		t.Error("something listens there after the run")
	}
	if _, err := os.Stat(filepath.Join(out, rundir.SummaryFile)); err != nil {
		t.Error(err)
	}
}
