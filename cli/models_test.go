package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/launch"
	"matrix/registry"
	"matrix/spec"
)

// listing is a server that has a model and answers nothing else.
func listing(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"object":"list","data":[{"id":%q,"object":"model","owned_by":"vllm","max_model_len":8192}]}`, name)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1"
}

const models = `
dataset: {path: rows.jsonl, id: id}
roles: {say: {chat: {model: m, prompt: hello}}}
flow: [say]
models:
`

func TestModels(t *testing.T) {
	up := listing(t, "org/m")
	gone := httptest.NewServer(nil)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<html><title>Error response</title></html>")
	}))
	defer site.Close()
	several := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"data":[{"id":"a","max_model_len":1},{"id":"b"},{"id":"c"},{"id":"d"},{"id":"e","max_model_len":5000}]}`)
	}))
	defer several.Close()
	gone.Close() // the last: else its port may be another's
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := files(t, map[string]string{"list.txt": up + "\nlocalhost\n", "noted.yaml": models + `
  m: {endpoints: {file: list.txt}}
  e: {endpoints: {command: ["true"]}}
`, "site.yaml": models + `
  m: {base_url: "` + site.URL + `"}
`, "rows.jsonl": rows(1), "ok.yaml": models + `
  m: {model: org/m, endpoints: [` + up + `, ` + gone.URL + `/v1], rpm: 60, concurrency: 8}
  s: {kind: scripted, reply: x}
`, "bad.yaml": models + `
  m: {model: org/other, base_url: ` + up + `}
  n: {serve: {command: [sleep, "1"]}}
  f: {endpoints: {file: nowhere.txt}}
`, "wrong.yaml": models + `
  m: {base_url: "localhost:8000"}
  n: {serve: {engine: vllm, gpus: -1}}
`, "none.yaml": `{dataset: {path: rows.jsonl}, roles: {say: {compute: {a: "1"}}}, flow: [say]}`})
	matrixCmd("models", filepath.Join(dir, "ok.yaml")).want(t, 0,
		"m "+up+" ready", "org/m (vllm) 8,192 8 at once, 60 rpm", gone.URL+"/v1 down", "m at "+gone.URL, "connection refused", "scripted, no service")
	matrixCmd("models", filepath.Join(dir, "bad.yaml")).want(t, 1,
		`does not serve "org/other"`, "it serves org/m", "f: has no endpoints now", "nowhere.txt is not there yet", "n: its servers are not up: matrix models up "+filepath.Join(dir, "bad.yaml"))
	matrixCmd("models", filepath.Join(dir, "noted.yaml")).want(t, 1, "m "+up+" ready", `list.txt, line 2: "localhost" has no scheme`, "e: has no endpoints now: command true prints no base URL")
	matrixCmd("models", filepath.Join(dir, "site.yaml")).want(t, 1, "m "+site.URL+" down", "no model server", "check base_url")
	matrixCmd("models", filepath.Join(dir, "wrong.yaml")).want(t, 2, `models.m.base_url: "localhost:8000" has no scheme`, "wrong.yaml", "models.n.serve.gpus: got -1, want 0 or more")
	matrixCmd("models", filepath.Join(dir, "none.yaml")).want(t, 2, "has no models")
	matrixCmd("models").want(t, 2, "needs CONFIG")

	matrixCmd("models", up).want(t, 0, "model "+up+" ready", "org/m (vllm) 8,192")
	matrixCmd("models", up, "models.model.model=org/other").want(t, 1, `does not serve "org/other"`)
	matrixCmd("models", gone.URL).want(t, 1, "model "+gone.URL+" down", "connection refused")
	matrixCmd("models", "sim:8b").want(t, 0, "model", "ready")
	matrixCmd("models", "127.0.0.1:8000").want(t, 2, "write http://127.0.0.1:8000")
	matrixCmd("models", up, "live=3").want(t, 2, "live=3: unknown key")
	matrixCmd("models", up, "more").want(t, 2, `"more" is not an override`)
	matrixCmd("models", several.URL).want(t, 0, "\n b", "\n d", "\n e 5,000\n", "!more")

	r := matrixCmd("models", filepath.Join(dir, "ok.yaml"), "--json").want(t, 0)
	var all []registry.ModelStatus
	if err := json.Unmarshal([]byte(r.out), &all); err != nil {
		t.Fatal(err)
	}
	if e := all[0].Endpoints; len(e) != 2 || !e[0].OK || e[1].OK || e[1].Error == "" || e[0].Serves[0] != (registry.ServedModel{Name: "org/m", Owner: "vllm", Context: 8192}) {
		t.Errorf("got %+v, want one that serves org/m and one that is down", e)
	}
}

// simmed is a config whose model is served by this program's simulator.
func simmed(t *testing.T) (config string, state launch.State) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := files(t, map[string]string{"rows.jsonl": rows(20), "config.yaml": models + fmt.Sprintf(`
  m:
    max_tokens: 50
    serve: {command: [%q, sim, --port, "{port}", --preset, slots, --latency, 10ms, --reply, echo], replicas: 2}
  broken: {serve: {env: {KEY: sk-of-the-weights}, command: [sh, -c, "printenv KEY; echo the weights are not there; exit 7"]}}
`, exe)})
	config = filepath.Join(dir, "config.yaml")
	if state, err = launch.StateOf(config); err != nil {
		t.Fatal(err)
	}
	return config, state
}

// spoken collects what a process says.
type spoken struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *spoken) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func startProcess(t *testing.T, args ...string) (*exec.Cmd, *spoken) {
	t.Helper()
	cmd, out := process(t, args...), &spoken{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = filepath.Dir(args[2])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// endpoints are where the servers of m are.
func endpoints(state launch.State) []string {
	b, _ := os.ReadFile(state.Endpoints("m"))
	var all []string
	for _, l := range strings.Fields(string(b)) {
		if strings.HasPrefix(l, "http://") {
			all = append(all, l)
		}
	}
	return all
}

// down reports whether nothing answers any more.
func down(urls []string) bool {
	for _, u := range urls {
		res, err := http.Get(u + "/models")
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			return false
		}
	}
	return true
}

func TestModelsUp(t *testing.T) {
	config, state := simmed(t)
	cmd, out := startProcess(t, "models", "up", config, "m")
	until(t, "ready", func() bool { return strings.Contains(out.String(), "All are ready") })
	urls := endpoints(state)
	if len(urls) != 2 {
		t.Fatalf("got endpoints %q, want 2\n%s", urls, out)
	}
	matrixCmd("models", config).want(t, 1, "m "+urls[0]+" ready", urls[1]+" ready", "broken none down")
	matrixCmd("run", config, "-o", filepath.Join(t.TempDir(), "out")).want(t, 0, "done 20")
	if r, err := process(t, "models", "up", config, "m").CombinedOutput(); err == nil || !strings.Contains(string(r), "is up already, kept by process "+strconv.Itoa(cmd.Process.Pid)) || !strings.Contains(string(r), "or end it with 'matrix models down'") {
		t.Errorf("a second time: got %v and %s", err, r)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !down(urls) {
		t.Errorf("after Ctrl-C: got %v, want exit 0 and nothing up\n%s", err, out)
	}
}

func TestModelsDetach(t *testing.T) {
	config, state := simmed(t)
	b, err := process(t, "models", "up", config, "m", "--detach").CombinedOutput()
	if err != nil || !strings.Contains(string(b), "All are ready, kept by process") {
		t.Fatalf("got %v and %s", err, b)
	}
	urls := endpoints(state)
	if len(urls) != 2 || down(urls) {
		t.Errorf("got endpoints %q, want 2 that answer", urls)
	}
	matrixCmd("models", "down", config).want(t, 0, "m is down")
	if !down(urls) {
		t.Error("after down: something answers")
	}
	matrixCmd("models", "down", config).want(t, 0, "Nothing was up")

	// Whoever kept them was killed: the list of endpoints is stale.
	if err := os.WriteFile(state.Endpoints("m"), []byte(strings.Join(urls, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := matrixCmd("models", config).want(t, 1, "m none down", "m: its servers are not up: matrix models up "+config)
	if strings.Contains(r.out, urls[0]) {
		t.Errorf("got %s, want no endpoint that is gone", r.out)
	}
	if err := os.Remove(state.Endpoints("m")); err != nil {
		t.Fatal(err)
	}
	matrixCmd("models", "down", config, "x").want(t, 2, `has no model "x"`)

	bad := process(t, "models", "up", config, "--detach")
	var errs strings.Builder
	bad.Stderr = &errs
	out, err := bad.Output()
	if bad.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "Error: model \"broken\"") ||
		!strings.Contains(errs.String(), "the weights are not there") || strings.Contains(string(out), "Error") {
		t.Errorf("one that dies: got %v, %s and on stderr %s; want exit code 1, and why on stderr", err, out, errs.String())
	}
	if all := string(out) + errs.String(); strings.Contains(all, "sk-of-the-weights") || !strings.Contains(all, "***\n") {
		t.Errorf("the end of its log shows a secret:\n%s", all)
	}
	if urls := endpoints(state); len(urls) > 0 {
		t.Errorf("one that dies: got endpoints %q, want none", urls)
	}
}

// Ctrl-C before the servers are ready ends them, and leaves nothing behind.
func TestModelsUpStopped(t *testing.T) {
	for _, flag := range []string{"--detach=false", "--detach"} {
		t.Run(flag, func(t *testing.T) {
			config, state := simmed(t)
			cmd, out := startProcess(t, "models", "up", config, "m", "models.m.serve.command=[sh, -c, 'echo begun; sleep 1000']", flag)
			until(t, "starts", func() bool {
				return strings.Contains(out.String(), "m/1  starting") && strings.Contains(out.String(), "m/0  starting")
			})
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != exitStopped || !strings.Contains(out.String(), "\nStopped before all were ready.") {
				t.Errorf("got exit code %d, want %d\n%s", got, exitStopped, out)
			}
			if k, up := state.Owner("m"); up {
				t.Errorf("process %d still keeps the servers", k.PID)
			}
		})
	}
}

func TestModelsUpWrong(t *testing.T) {
	config, _ := simmed(t)
	t.Setenv("CUDA_VISIBLE_DEVICES", "0")
	matrixCmd("models", "up", config, "x").want(t, 2, `has no model "x"; of its models, broken, m can be started`)
	matrixCmd("models", "up", config, "m", "+models.m.serve.gpus=1").want(t, 1, "2 GPUs are asked for", "one is visible here (0)")
	matrixCmd("models", "up", config, "m", "models.m.serve.command=[no-such-server]").want(t, 1, "no-such-server is not installed")
	matrixCmd("models", "up", config, "m", "+models.m.serve.port=99999").want(t, 2, "want 0, or ports up to 65535")
	matrixCmd("models", "up", filepath.Join(files(t, map[string]string{"rows.jsonl": rows(1), "config.yaml": echo}), "config.yaml")).want(t, 2, "no model of", "serve: {engine: vllm")
}

func TestRunUp(t *testing.T) {
	config, state := simmed(t)
	out := filepath.Join(t.TempDir(), "out")
	matrixCmd("run", config, "-o", out, "~models.broken", "live=0").want(t, 2, "The servers of m are not up", "models up "+config, "or this command with --up")
	b, err := process(t, "run", "--up", config, "~models.broken", "-o", out).CombinedOutput()
	if err != nil || !strings.Contains(string(b), "m/1  ready at http://") {
		t.Fatalf("got %v and %s", err, b)
	}
	if got, want := counts(t, out), [3]int64{20, 0, 0}; got != want {
		t.Errorf("got %v done, failed, pending, want %v", got, want)
	}
	if e := endpoints(state); len(e) > 0 {
		t.Errorf("got endpoints %q after the run, want none", e)
	}
}

// A run whose servers have ended hears of it.
func TestRunUpEndsEarly(t *testing.T) {
	config, _ := simmed(t)
	t.Setenv(beProgram, "1") // of the supervisors
	var out bytes.Buffer
	p := Program{Registry: registry.New(), Out: &out, Err: &out}
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	j := &job{Program: p, cmd: cmd}
	var err error
	if j.config, err = spec.Load(config, []string{"~models.broken"}); err != nil {
		t.Fatal(err)
	}
	err = j.served(true, func() error {
		matrixCmd("models", "down", config).want(t, 0, "m is down")
		select {
		case <-j.down:
		case <-time.After(10 * time.Second):
			t.Error("the run goes on without servers")
		}
		return nil
	})
	if err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
}

// What servers do while a run is displayed is said by the display, which draws
// over what others write.
func TestAside(t *testing.T) {
	var errs bytes.Buffer
	j := &job{Program: Program{Err: &errs}, spoken: make(chan string, 2)}
	fmt.Fprint(aside{j}, "before\n")
	j.shown.Store(true)
	fmt.Fprint(aside{j}, "one\ntwo\nthree is too many\n")
	j.shown.Store(false)
	fmt.Fprint(aside{j}, "after\n")
	if got, want := errs.String(), "before\nafter\n"; got != want {
		t.Errorf("stderr: got %q, want %q", got, want)
	}
	if a, b := <-j.spoken, <-j.spoken; a != "one" || b != "two" {
		t.Errorf("display: got %q and %q, want one and two", a, b)
	}
}

// A run that is stopped or killed leaves no servers behind.
func TestRunUpEnds(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "kill -9": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("no signals")
			}
			config, state := simmed(t)
			cmd, out := startProcess(t, "run", "--up", config, "~models.broken", "grace=0s",
				"models.m.serve.command.7=1h", "-o", filepath.Join(t.TempDir(), "out"))
			until(t, "runs", func() bool { return strings.Contains(out.String(), "Running") })
			urls := endpoints(state)
			if len(urls) != 2 || down(urls) {
				t.Fatalf("got endpoints %q, want 2 that answer\n%s", urls, out)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if name == "Ctrl-C" && !strings.Contains(out.String(), " --up\n") {
				t.Error("the command that goes on is not named with --up")
			}
			until(t, "nothing answers", func() bool { return down(urls) })
		})
	}
}
