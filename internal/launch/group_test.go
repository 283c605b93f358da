package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	background = context.Background()
	hasty      = pace{look: 5 * time.Millisecond, first: 5 * time.Millisecond, most: 20 * time.Millisecond, quick: time.Minute, never: 2, ever: 3}
)

// running is a Group that runs.
type running struct {
	*testing.T
	State
	events chan Event
	ready  chan struct{}
	over   chan error
	stop   context.CancelFunc
}

func run(t *testing.T, models ...Model) *running {
	t.Helper()
	s := State{t.TempDir()}
	r := &running{T: t, State: s, events: make(chan Event, 1000), ready: make(chan struct{}), over: make(chan error, 1)}
	g := &Group{Launcher: local(t, s, models...), State: s, Models: models, Event: func(e Event) { r.events <- e }, pace: hasty}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.over <- g.Run(ctx, func() { close(r.ready) })
	}()
	t.Cleanup(func() {
		r.stop()
		<-ended
		if left := alive(s); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	return r
}

func (r *running) isReady() {
	r.Helper()
	select {
	case <-r.ready:
	case err := <-r.over:
		r.Fatalf("ended before it was ready: %v", err)
	case <-time.After(10 * time.Second):
		r.Fatal("not ready within 10 s")
	}
}

func (r *running) ended() error {
	r.Helper()
	select {
	case err := <-r.over:
		return err
	case <-time.After(10 * time.Second):
		r.Fatal("not over within 10 s")
		return nil
	}
}

// pid asks a server who it is.
func pid(t *testing.T, url string) int {
	t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	n, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatalf("got %q", b)
	}
	return n
}

func TestUp(t *testing.T) {
	a, b := fake("a", "late"), fake("b/c")
	a.Serve.Replicas = 2
	r := run(t, a, b)
	r.isReady()
	if got := published(r.State, "a"); len(got) != 2 || got[0] == got[1] {
		t.Fatalf("got endpoints %q, want two", got)
	}
	for _, u := range append(published(r.State, "a"), published(r.State, "b/c")...) {
		pid(t, u)
	}
	if k, up := r.Owner("a"); !up || k.PID != os.Getpid() {
		t.Errorf("got owner %v, %v, want this process", k, up)
	}
	var taken *UpError
	if err := (&Group{Launcher: local(t, r.State, a), State: r.State, Models: []Model{a}}).Run(t.Context(), nil); !errors.As(err, &taken) {
		t.Errorf("a second time: got %v, want that it is up already", err)
	}
	if up, err := r.Down(t.Context(), "a", 10*time.Second); !up || err != nil {
		t.Errorf("down: got %v and %v", up, err)
	}
	if left := published(r.State, "a"); left != nil {
		t.Errorf("after down: got endpoints %q", left)
	}
	pid(t, published(r.State, "b/c")[0]) // goes on
	r.stop()
	if err := r.ended(); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	if up, err := r.Down(t.Context(), "b/c", time.Second); up || err != nil {
		t.Errorf("down when nothing is up: got %v and %v", up, err)
	}
}

func TestRestart(t *testing.T) {
	r := run(t, fake("m"))
	r.isReady()
	first := pid(t, published(r.State, "m")[0])
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "started again", func() bool { u := published(r.State, "m"); return len(u) == 1 && pidOf(u[0]) != first })
	for e := range r.events {
		if e.Kind == Died {
			if !strings.Contains(e.Text, "killed") || !strings.Contains(e.Tail, "serving") {
				t.Errorf("got event %+v, want that it was killed, and its log", e)
			}
			break
		}
	}
	once := false // the tail is that of the last server alone
	defer func() {
		for len(r.events) > 0 {
			if e := <-r.events; e.Kind == Died || e.Kind == GaveUp {
				once = true
				if n := strings.Count(e.Tail, "serving"); n > 1 {
					t.Errorf("got the log of %d servers, want that of the last: %s", n, e.Tail)
				}
			}
		}
		if !once {
			t.Error("nothing more was told to have ended")
		}
	}()
	// Again and again: it is given up.
	for last := first; ; {
		u := published(r.State, "m")
		if len(u) == 1 {
			if p := pidOf(u[0]); p > 0 && p != last {
				last = p
				_ = syscall.Kill(p, syscall.SIGKILL)
			}
		}
		select {
		case err := <-r.over:
			if err == nil || !strings.Contains(err.Error(), "ended 3 times") {
				t.Errorf("got %v, want that it ended 3 times", err)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func pidOf(url string) int {
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	n, _ := strconv.Atoi(string(b))
	return n
}

func TestCannotStart(t *testing.T) {
	missing, silent := fake("m"), fake("m", "silent")
	missing.Dir = "/no/such/folder"
	silent.Serve.ReadyTimeout = 50 * time.Millisecond
	for _, c := range []struct {
		name  string
		m     Model
		texts []string
	}{
		{"dies at once", fake("m", "dies"), []string{`model "m", server 0: ended 2 times`, "exit code 3", "cannot load the weights\nout of memory", "replica-0.log"}},
		{"never ready", silent, []string{"not ready within 50ms", "serve.ready_timeout"}},
		{"no folder", missing, []string{"could not be started", "/no/such/folder"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			good := fake("good", "fork", "deaf") // ends with the other
			r := run(t, c.m, good)
			err := r.ended()
			for _, text := range c.texts {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got %v, want %q in it", err, text)
				}
			}
		})
	}
}

func TestNotPossible(t *testing.T) {
	ln, err := net.Listen("tcp", Host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CUDA_VISIBLE_DEVICES", "3, GPU-x,-1,5")
	taken, gpus := fake("taken"), fake("gpus")
	taken.Serve.Port = ln.Addr().(*net.TCPAddr).Port
	three := 3
	gpus.Serve.GPUs = &three
	engine := func(name string) Model { return Model{Name: name, Is: "org/weights", Serve: Serve{Engine: name}} }
	for _, c := range []struct {
		name, text string
		m          Model
	}{
		{"port", "is taken by another program", taken},
		{"gpus", `3 GPUs are asked for (model "gpus" 1 x 3), and 2 are visible here (3,GPU-x)`, gpus},
		{"vllm", "pip install vllm", engine("vllm")},
		{"sglang", "sglang[all]", engine("sglang")},
		{"llama.cpp", "llama-server on PATH", engine("llama.cpp")},
		{"fastgen", "fgserve on PATH", engine("fastgen")},
		{"command", "no-such is not installed", Model{Name: "x", Serve: Serve{Command: []string{"no-such"}}}},
		{"weights", "serve.model is missing", Model{Name: "x", Serve: Serve{Engine: "vllm"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := NewLocal(supervisor(), State{t.TempDir()}, []Model{c.m}); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q in it", err, c.text)
			}
		})
	}
}

func TestGPUs(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
	two, none := 2, 0
	a, b, c := fake("a"), fake("b"), fake("c")
	a.Serve.GPUs, a.Serve.Replicas, b.Serve.GPUs = &two, 2, &none
	r := run(t, a, b, c)
	r.isReady()
	for log, want := range map[string]string{
		r.Log("a", 0): "GPUs 4,5\n", r.Log("a", 1): "GPUs 6,7\n", r.Log("b", 0): "GPUs \n", r.Log("c", 0): "GPUs 4,5,6,7,8\n",
	} {
		if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("got %q and %v, want %q in it", b, err, want)
		}
	}
}

// GPUs of servers that are up, by whichever config, are not given again.
func TestGPUsAreTaken(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
	two, one := 2, 1
	a, b := fake("a"), fake("b")
	a.Serve.GPUs, b.Serve.GPUs = &two, &one
	r := run(t, a)
	r.isReady()
	other := State{r.Dir + "-other"}
	l, err := NewLocal(supervisor(), other, []Model{b})
	if err != nil || !slices.Equal(l.gpus["b"][0], []string{"6"}) {
		t.Errorf("beside another: got %+v and %v, want GPU 6", l, err)
	}
	b.Serve.GPUs = &two
	want := `2 GPUs are asked for (model "b" 1 x 2), and 3 are visible here (4,5,6), of which servers that are up have 2`
	if _, err := NewLocal(supervisor(), other, []Model{b}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("too many: got %v, want %q", err, want)
	}
	r.stop()
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewLocal(supervisor(), other, []Model{b}); err != nil {
		t.Errorf("once the other is down: %v", err)
	}
}

// Whatever is killed, nothing of the server is left: neither its child nor the
// grandchild that has left the group, both of which ignore SIGTERM.
func TestKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux lets us find what left the process group")
	}
	for _, who := range []string{"launcher", "supervisor", "server", "launcher and supervisor"} {
		t.Run(who, func(t *testing.T) {
			s := State{t.TempDir()}
			cmd := exec.Command(supervisor()[0], "up", s.Dir)
			out, err := os.Create(filepath.Join(s.Dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				until(t, "nothing is left", func() bool { return len(alive(s)) == 0 })
			}()
			until(t, "ready, with child and grandchild", func() bool { return len(published(s, "m")) == 1 && len(alive(s)) == 3 })
			before := alive(s)
			first := pid(t, published(s, "m")[0])
			kept := parent(t, first)
			kill := func(pid int) {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			switch who {
			case "launcher":
				kill(cmd.Process.Pid)
			case "supervisor":
				kill(kept)
			case "server":
				kill(first)
			default:
				kill(kept)
				kill(cmd.Process.Pid)
			}
			if strings.HasPrefix(who, "launcher and") { // the next one ends what is left
				_ = cmd.Wait()
				if _, err := s.Down(t.Context(), "m", time.Second); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "all of it is gone", func() bool { return gone(before) })
			if who == "supervisor" || who == "server" {
				until(t, "it is up again", func() bool { return len(published(s, "m")) == 1 && len(alive(s)) == 3 })
			}
		})
	}
}

func gone(pids []int) bool {
	for _, p := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err == nil && !strings.Contains(string(b), ") Z ") {
			return false
		}
	}
	return true
}

// Down ends servers that a stranger keeps, and one that does not listen.
func TestDown(t *testing.T) {
	s := State{t.TempDir()}
	cmd := exec.Command(supervisor()[0], "up", s.Dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(waited) }()
	until(t, "ready", func() bool { return len(published(s, "m")) == 1 })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if up, err := s.Down(t.Context(), "m", 100*time.Millisecond); !up || err != nil {
		t.Errorf("got %v and %v, want true and no error", up, err)
	}
	<-waited
	until(t, "nothing is left", func() bool { return len(alive(s)) == 0 })
}
