package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/internal/standing"
	"matrix/matrixtest"
)

// standingBed is a standing head, its workers and clients, in a folder.
type standingBed struct {
	*crashBed
	runs string // folder of the head
	port int
}

func (h *standingBed) head() *process {
	return h.begin("head", "head", "--dir", h.runs, "--serve", fmt.Sprint(h.port))
}

func (h *standingBed) worker(name string) *process {
	return h.begin(name, "worker", "--join", h.runs, "--name", name, "--slots", "6")
}

// says types a command of a client, and returns what it says; with another exit code than
// is wanted the test fails.
func (h *standingBed) says(want int, args ...string) string {
	h.Helper()
	cmd := exec.Command(h.bin, args...)
	cmd.Env = append(os.Environ(), "MATRIX_CLUSTER="+h.runs)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		h.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		h.Fatalf("matrix %s: exit %d, want %d\n%s", strings.Join(args, " "), code, want, out)
	}
	return string(out)
}

// submit submits the config under a name, and does not look on.
func (h *standingBed) submit(want int, name string, args ...string) string {
	h.Helper()
	return h.says(want, append([]string{"run", h.dir, "name=" + name, "--cluster", h.runs, "--detach", "models.a.delay=40ms", "grace=1s"}, args...)...)
}

// until waits until the head tells of a run what is wanted.
func (h *standingBed) until(what, name string, is func(standing.Info) bool) standing.Info {
	h.Helper()
	var out []byte
	for end := time.Now().Add(patience); time.Now().Before(end); {
		out, _ = exec.Command(h.bin, "runs", "--cluster", h.runs, "--json").Output()
		var all []standing.Info
		if json.Unmarshal(out, &all) != nil {
			continue // it is not there yet
		}
		for _, x := range all {
			if x.Name == name && is(x) {
				return x
			}
			if x.Name == name && x.State == standing.Finished {
				h.Fatalf("%s came to its end before %s: %+v\n%s", name, what, x, out)
			}
		}
	}
	h.Fatalf("waited %v for %s of %s; the head says %s", patience, what, name, out)
	return standing.Info{}
}

func state(want string) func(standing.Info) bool {
	return func(x standing.Info) bool { return x.State == want }
}

// Two runs share the workers of a standing head. Head, a run's process and a worker are
// killed, the client that submitted goes, and both come to what one process alone comes
// to; a flood does not keep the other from its share.
func TestStanding(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	c := &crashBed{T: t, bin: buildMatrix(t), dir: t.TempDir()}
	h := &standingBed{crashBed: c, runs: filepath.Join(c.dir, "runs"), port: matrixtest.Ports(t, 1)[0]}
	h.write(strings.Replace(fmt.Sprintf(crashConfig, "none"), "name: crash\n", "", 1), 300)
	h.out = filepath.Join(h.dir, "alone")
	if code := h.run(0); code != 0 {
		t.Fatalf("undisturbed run: exit %d\n%s", code, h.log())
	}
	want := h.output()
	kill := func(p *process) {
		t.Helper()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.ends(-1)
	}
	t.Cleanup(func() { // runs outlive their head
		for _, file := range glob(t, filepath.Join(h.runs, ".head", "runs", "*", "run.json")) {
			var r struct{ PID int }
			if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &r) == nil && r.PID != 0 {
				_ = syscall.Kill(r.PID, syscall.SIGKILL)
			}
		}
	})

	head := h.head()
	for len(glob(t, filepath.Join(h.runs, "clients"))) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	join, err := os.ReadFile(filepath.Join(h.runs, "join"))
	if err != nil {
		t.Fatal(err)
	}
	one, two := h.worker("one"), h.worker("two")
	viewer := h.begin("viewer", "run", h.dir, "name=flood", "--cluster", h.runs, "models.a.delay=40ms", "grace=1s")
	h.until("work", "flood", func(x standing.Info) bool { return x.Done > 20 && x.Workers == 2 })

	// The same config is the run that there is; another one is refused, with what differs.
	if says := h.submit(0, "flood"); !strings.Contains(says, "running already") {
		t.Errorf("submitted twice: %s", says)
	}
	if says := h.submit(2, "flood", "live=17"); !strings.Contains(says, "live") {
		t.Errorf("another config is refused without the key that differs: %s", says)
	}
	kill(viewer) // the laptop is closed

	// A smaller run of more weight gets the larger part of what the flood had.
	h.submit(0, "small", "dataset.limit=120", "--weight", "3")
	h.until("its share", "small", func(x standing.Info) bool { return x.Acting >= 8 && x.Weight == 3 })
	if top := h.says(0, "top"); !strings.Contains(top, "flood,small") {
		t.Errorf("top does not show a worker of both runs:\n%s", top)
	}
	h.until("its end", "small", state(standing.Finished))
	h.until("work", "flood", state(standing.Running))
	h.says(0, "attach", "small")

	// The head dies, and then a run's process, and a worker.
	kill(head)
	pid := h.kept("flood").PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	kill(one)
	head = h.head()
	x := h.until("another process", "flood", func(x standing.Info) bool { return x.State == standing.Running && x.PID != pid && x.Workers == 1 })
	if again, err := os.ReadFile(filepath.Join(h.runs, "join")); err != nil || string(again) != string(join) {
		t.Errorf("the line to join by is %q after a restart (%v), and was %q", again, err, join)
	}

	// The head dies, and the run goes on.
	kill(head)
	head = h.head()
	y := h.until("work again", "flood", func(y standing.Info) bool { return y.Workers == 1 && y.Done > x.Done })
	if y.PID != x.PID {
		t.Errorf("the run's process is %d, and was %d: it is to outlive the head", y.PID, x.PID)
	}
	three := h.worker("three")

	// Stopped, and gone on with; then killed beside its head.
	h.says(0, "stop", "flood")
	h.until("its stop", "flood", state(standing.Stopped))
	if says := h.submit(0, "flood"); !strings.Contains(says, "goes on") {
		t.Errorf("submitted again: %s", says)
	}
	z := h.until("work", "flood", func(x standing.Info) bool { return x.State == standing.Running && x.PID != 0 })
	if err := syscall.Kill(z.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}

	// One that is cancelled stays so.
	h.submit(0, "gone", "trials=30", "--priority", "bulk")
	h.until("work", "gone", func(x standing.Info) bool { return x.Acting > 0 })
	if says := h.says(0, "cancel", "gone"); !strings.Contains(says, "cancelled") {
		t.Errorf("cancel: %s", says)
	}
	if says := h.submit(2, "gone"); !strings.Contains(says, "--fresh") {
		t.Errorf("what was cancelled is refused without the way on: %s", says)
	}
	if says := h.says(0, "logs", "gone"); !strings.Contains(says, "Running gone") {
		t.Errorf("logs of a run: %s", says)
	}
	if says := h.says(0, "logs", "three"); !strings.Contains(says, "gone: Serving") {
		t.Errorf("logs of a worker: %s", says)
	}

	h.says(0, "attach", "flood")
	for _, p := range []*process{two, three} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.ends(0)
	}
	if err := head.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	head.ends(0)
	t.Logf("%s", head.said())
	for name, rows := range map[string]int{"flood": 300, "small": 120} {
		h.out = filepath.Join(h.runs, name)
		if out, err := exec.Command(h.bin, "verify", h.out, "--complete").CombinedOutput(); err != nil {
			t.Errorf("verify --complete: %v\n%s", err, out)
		}
		w := maps.Clone(want)
		maps.DeleteFunc(w, func(id, _ string) bool {
			var n int
			_, err := fmt.Sscanf(id, "q%d", &n)
			return err != nil || n >= rows
		})
		if got := h.output(); !maps.Equal(got, w) {
			t.Errorf("the output of %s differs from that of one process:\n%s", name, difference(got, w))
		}
	}
}

// kept is what the head keeps of a run.
func (h *standingBed) kept(name string) (r struct{ PID int }) {
	h.Helper()
	b, err := os.ReadFile(filepath.Join(h.runs, ".head", "runs", name, "run.json"))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		h.Fatal(err)
	}
	return r
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}
