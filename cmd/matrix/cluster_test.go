package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/session"
)

// process is a command that goes on beside the test.
type process struct {
	*testing.T
	cmd  *exec.Cmd
	log  string
	over chan struct{}
}

// begin types a command.
func (h *crashBed) begin(name string, args ...string) *process {
	h.Helper()
	return h.beginIn("", name, args...)
}

// beginIn types a command in a network namespace.
func (h *crashBed) beginIn(space, name string, args ...string) *process {
	h.Helper()
	cmd := exec.Command(h.bin, args...)
	if space != "" { // nsenter becomes the command
		cmd = exec.Command("nsenter", append([]string{"--net=/run/netns/" + space, h.bin}, args...)...)
	}
	p := &process{T: h.T, cmd: cmd, log: filepath.Join(h.dir, name+".log"), over: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(h.dir, "cache"))
	if err := p.cmd.Start(); err != nil {
		h.Fatal(err)
	}
	go func() {
		defer close(p.over)
		_ = p.cmd.Wait()
	}()
	h.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.over
	})
	return p
}

// ends waits for the end of the process, with an exit code; -1 of one that was killed.
func (p *process) ends(want int) {
	p.Helper()
	select {
	case <-p.over:
	case <-time.After(patience):
		p.Fatalf("%s goes on:\n%s", p.cmd, p.said())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.Fatalf("%s: exit %d, want %d\n%s", p.cmd, got, want, p.said())
	}
}

func (p *process) said() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// status waits until the head of the run tells what is wanted.
func (h *crashBed) status(what string, is func(*session.Snapshot) bool) *session.Snapshot {
	h.Helper()
	said := []byte("nothing")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		out, err := exec.Command(h.bin, "cluster", "status", h.out, "--json").Output()
		if err != nil {
			continue // it is not there yet
		}
		said = out
		var v session.Snapshot
		if err := json.Unmarshal(out, &v); err != nil {
			h.Fatalf("%v\n%s", err, out)
		}
		if is(&v) {
			return &v
		}
	}
	h.Fatalf("waited %v for %s; the head says %s", patience, what, said)
	return nil
}

// A run over a head and workers, each of which is killed, comes to what one process
// comes to. A head that begins again is the one that workers know, and they go on by
// themselves.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	t.Parallel()
	h := &crashBed{T: t, bin: buildMatrix(t), dir: t.TempDir(), shards: 2}
	h.write(fmt.Sprintf(crashConfig, "none"), 600)
	h.out = filepath.Join(h.dir, "alone")
	if code := h.run(0); code != 0 {
		t.Fatalf("undisturbed run: exit %d\n%s", code, h.log())
	}
	want := h.output()

	h.out = filepath.Join(h.dir, "many")
	head := func(args ...string) *process {
		return h.begin("head", append([]string{"run", h.dir, "out=" + h.out, "shards=2", "models.a.delay=60ms", "grace=1s", "display=plain", "--serve"}, args...)...)
	}
	worker := func(name string, args ...string) *process {
		return h.begin(name, append([]string{"worker", "--join", filepath.Join(h.out, "join"), "--name", name}, args...)...)
	}
	working := func(name string) func(*session.Snapshot) bool {
		return func(v *session.Snapshot) bool {
			for _, w := range v.Workers {
				if strings.HasPrefix(w.ID, name+"-") && w.State == "working" {
					return true
				}
			}
			return false
		}
	}
	done := func(n int64) func(*session.Snapshot) bool {
		return func(v *session.Snapshot) bool { return v.Done >= n }
	}

	first := head("--no-work")
	v := h.status("the head", func(*session.Snapshot) bool { return true })
	for _, role := range v.Roles {
		if unserved := !role.Inline && role.Waiting > 0 && len(v.Workers) == 0; role.Unserved != unserved {
			t.Errorf("role %s without workers: unserved is %t", role.Name, role.Unserved)
		}
	}
	one := worker("one")
	h.status("a worker", working("one"))
	two := worker("two", "--slots", "100")
	h.status("a second worker", working("two"))
	h.status("tasks that are done", done(100))
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	one.ends(-1)
	four := worker("four", "--slots", "10")
	h.status("a worker for the one that was killed", working("four"))
	h.status("more tasks that are done", done(300))
	line, err := os.ReadFile(filepath.Join(h.out, "join"))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.ends(-1)
	if err := four.cmd.Process.Signal(syscall.SIGTERM); err != nil { // what it holds cannot be handed over
		t.Fatal(err)
	}
	four.ends(0)

	second := head()
	h.status("the worker to be there again", working("two"))
	if again, err := os.ReadFile(filepath.Join(h.out, "join")); err != nil || string(again) != string(line) {
		t.Errorf("the line to join by is %q after a restart (%v), and was %q", again, err, line)
	}
	three := worker("three")
	h.status("a third worker", working("three"))
	if err := two.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	two.ends(0)
	second.ends(0)
	three.ends(0)
	for _, p := range []*process{first, two, three, four} {
		t.Logf("%s", p.said())
	}
	if out, err := exec.Command(h.bin, "verify", h.out, "--complete").CombinedOutput(); err != nil {
		t.Errorf("verify --complete: %v\n%s", err, out)
	}
	if got := h.output(); !maps.Equal(got, want) {
		t.Errorf("the output differs from that of one process:\n%s", difference(got, want))
	}
	if _, err := os.Stat(filepath.Join(h.out, "join")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the line to join by outlives the run: %v", err)
	}
}
