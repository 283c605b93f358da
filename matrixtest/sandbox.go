package matrixtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"matrix/sandbox"
)

// Sandboxes is a kind of pools under test.
type Sandboxes struct {
	// Open makes a pool. The suite checks and closes it.
	Open func(c sandbox.Config, o sandbox.Options) (sandbox.Pool, error)

	Spec     sandbox.Spec // what every lease is made of, such as an image
	Isolated bool         // from this machine: its files, users and network
	Disk     bool         // files can be kept: restore: disk
	Limited  bool         // limits of memory and processes can be kept here
	Bounded  bool         // a limit of what is written can be kept
	Root     bool         // commands are root inside, without what root may
	Slow     bool         // a start takes more than 0.1 s: fewer of them

	// Processes are those that start and hold the sandboxes of a run. Nil: the children of this process.
	Processes func(t *testing.T, run string) []int
}

// Sandbox runs the suite that every kind of pools must pass.
func Sandbox(t *testing.T, s Sandboxes) {
	tests := []struct {
		name string
		run  func(*testing.T, Sandboxes)
		when bool
	}{
		{"state", testSandboxState, true},
		{"files", testSandboxFiles, true},
		{"streams", testSandboxStreams, true},
		{"bad commands", testSandboxBad, true},
		{"time-out", testSandboxTimeout, true},
		{"output", testSandboxOutput, true},
		{"daemons", testSandboxDaemons, true},
		{"setup", testSandboxSetup, true},
		{"clean environment", testSandboxEnvironment, true},
		{"isolation", testSandboxIsolation, s.Isolated},
		{"links", testSandboxLinks, true},
		{"fork bomb", testSandboxForkBomb, s.Limited},
		{"memory", testSandboxMemory, s.Limited},
		{"disk full", testSandboxDiskFull, s.Bounded},
		{"another past", testSandboxPast, true},
		{"fence", testSandboxFence, true},
		{"in doubt", testSandboxDoubt, true},
		{"none restored", testSandboxNone, true},
		{"later process", testSandboxLater, true},
		{"layers", testSandboxLayers, s.Disk},
		{"room", testSandboxRoom, true},
		{"parked", testSandboxParked, true},
		{"kept for a call", testSandboxCall, true},
		{"kept for the run", testSandboxRun, true},
		{"release", testSandboxRelease, true},
		{"sweep", testSandboxSweep, s.Disk},
	}
	for _, c := range tests {
		if c.when {
			t.Run(c.name, func(t *testing.T) { c.run(t, s) })
		}
	}
}

// SandboxConfig is a config as YAML without keys gives.
func SandboxConfig() sandbox.Config {
	return sandbox.Config{Keep: sandbox.KeepTask, Enforce: sandbox.Strict, Restore: sandbox.RestoreReplay, InDoubt: sandbox.Rewind,
		Park: 10 * time.Second, TTL: 2 * time.Hour, Limits: sandbox.Limits{Files: 1024, Timeout: time.Minute, Output: 64 << 10}}
}

// sandboxes is a pool and what a task does in it.
type sandboxes struct {
	*testing.T
	sandbox.Pool
	spec sandbox.Spec
	run  string
}

func (s Sandboxes) open(t *testing.T, c sandbox.Config) *sandboxes {
	t.Helper()
	o := sandbox.Options{Run: t.Name(), Folder: t.TempDir()}
	nothingLeft(t, o.Run)
	return s.openIn(t, c, o)
}

func (s Sandboxes) openIn(t *testing.T, c sandbox.Config, o sandbox.Options) *sandboxes {
	t.Helper()
	o.Pool, o.Log = "box", func(line string) { t.Log(line) }
	p, err := s.Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &sandboxes{t, p, s.Spec, o.Run}
}

// nothingLeft fails the test where something of a run is left at its end.
func nothingLeft(t *testing.T, run string) {
	t.Cleanup(func() {
		if left := SandboxesLeft(run); len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	})
}

// SandboxesLeft waits a while for nothing of a run to be left on this machine, and
// returns what is: processes that see mounts of it, control groups, folders.
func SandboxesLeft(run string) (left []string) {
	prefix := sandbox.Key{Run: run}.Name()[:len("mx-00000000")]
	for end := time.Now().Add(10 * time.Second); ; {
		left = nil
		procs, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
		for _, p := range procs {
			for _, file := range []string{p, filepath.Join(filepath.Dir(p), "cgroup"), filepath.Join(filepath.Dir(p), "cmdline")} {
				if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(prefix)) {
					left = append(left, file)
				}
			}
		}
		for _, glob := range []string{filepath.Join(os.TempDir(), prefix+"*"), "/sys/fs/cgroup/" + prefix + "*", "/sys/fs/cgroup/*/" + prefix + "*", "/sys/fs/cgroup/*/*/*/" + prefix + "*"} {
			found, _ := filepath.Glob(glob)
			left = append(left, found...)
		}
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
		time.Sleep(10 * time.Millisecond) // processes that end, which tell nobody here
	}
}

func (s *sandboxes) key(task string) sandbox.Key {
	return sandbox.Key{Run: s.run, Pool: "box", Task: task}
}

func (s *sandboxes) lease(task string, past ...sandbox.Command) sandbox.Lease {
	s.Helper()
	l, err := s.Lease(s.Context(), s.key(task), s.spec, sandbox.Past{Calls: past})
	if err != nil {
		s.Fatal(err)
	}
	return l
}

func shell(key, text string) sandbox.Command { return sandbox.Command{Key: key, Shell: text} }

func (s *sandboxes) exec(l sandbox.Lease, c sandbox.Command) sandbox.Result {
	s.Helper()
	r, err := l.Exec(s.Context(), c)
	if err != nil {
		s.Fatalf("%s %q: %v", c.Key, c.Shell, err)
	}
	return r
}

// says fails where the command does not end with code 0 and this output.
func (s *sandboxes) says(l sandbox.Lease, c sandbox.Command, want string) sandbox.Result {
	s.Helper()
	r := s.exec(l, c)
	if got := strings.TrimSpace(string(r.Out)); r.Code != 0 || got != want {
		s.Fatalf("%s %q: got %q (stderr %q, code %d), want %q", c.Key, c.Shell, got, r.Err, r.Code, want)
	}
	return r
}

// endProcesses kills those that start and hold sandboxes.
func (s Sandboxes) endProcesses(t *testing.T, run string) {
	t.Helper()
	find := s.Processes
	if find == nil {
		find = children
	}
	n := 0
	for _, pid := range find(t, run) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	if n == 0 {
		t.Fatal("there is no process to kill")
	}
}

// children are those of this process.
func children(*testing.T, string) (all []int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				all = append(all, pid)
			}
		}
	}
	return all
}

func testSandboxState(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	first := shell("1/0", "echo x >> log; cat log; echo err >&2; exit 3")
	r := p.exec(l, first)
	if r.Code != 3 || string(r.Out) != "x\n" || string(r.Err) != "err\n" || r.Replayed || r.Took <= 0 {
		t.Fatalf("got %+v", r)
	}
	if i := l.Info(); i.Generation != 1 || i.Restored != sandbox.Fresh || i.Name != p.key("a").Name() {
		t.Fatalf("got %+v", i)
	}
	l.Done()
	// The same step again: its command is answered from the record.
	l = p.lease("a")
	if r := p.exec(l, first); r.Code != 3 || string(r.Out) != "x\n" || !r.Replayed {
		t.Fatalf("the same key again: got %+v", r)
	}
	p.says(l, shell("1/1", "cat log"), "x")
	l.Done()
	l = p.lease("a", first, shell("1/1", "cat log"))
	if i := l.Info(); i.Generation != 1 || i.Restored != sandbox.Live {
		t.Fatalf("got %+v", i)
	}
	p.says(l, shell("2/0", "echo y >> log; cat log"), "x\ny")
	l.Done()
	other := p.lease("b")
	defer other.Done()
	if r := p.exec(other, shell("1/0", "cat log")); r.Code == 0 {
		t.Fatalf("another task sees what this one wrote: %q", r.Out)
	}
	c := sandbox.Command{Key: "2/0", Args: []string{"sh", "-c", `cat; echo "$1 $X"`, "sh", "a b"}, Stdin: []byte("in "), Env: map[string]string{"X": "y"}, Dir: "/tmp", Merge: true}
	p.says(other, c, "in a b y")
}

func testSandboxFiles(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	c := shell("1/0", "cat in/a.txt; printf out > out.txt; chmod 600 out.txt")
	c.Files, c.Get = map[string][]byte{"in/a.txt": []byte("text")}, []string{"out.txt", "none.txt"}
	r := p.says(l, c, "text")
	if len(r.Files) != 1 || string(r.Files["out.txt"]) != "out" {
		t.Fatalf("got files %q", r.Files)
	}
	if err := l.Put(t.Context(), "b.txt", 0o755, strings.NewReader("#!/bin/sh\necho put\n")); err != nil {
		t.Fatal(err)
	}
	p.says(l, shell("1/1", "./b.txt"), "put")
	f, err := l.Get(t.Context(), "out.txt", 100)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "out" {
		t.Fatalf("got %q, %v", b, err)
	}
	f.Close()
	if _, err := l.Get(t.Context(), "none.txt", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that is not there: %v", err)
	}
}

func testSandboxStreams(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	st, err := l.Open(t.Context(), sandbox.Command{Shell: `echo begun >&2; while read x; do echo "got $x"; done; exit 4`})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := io.WriteString(st, "a\nb\n"); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(st); err != nil || string(b) != "got a\ngot b\n" {
		t.Fatalf("got %q, %v", b, err)
	}
	if r, err := st.Wait(t.Context()); err != nil || r.Code != 4 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if got := st.Stderr(); got != "begun\n" {
		t.Fatalf("got %q on stderr", got)
	}
	if _, err := l.Dial(t.Context(), 1); err == nil {
		t.Fatal("nobody listens there")
	}
}

func testSandboxBad(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	if r := p.exec(l, sandbox.Command{Key: "1/0", Args: []string{"no-such-program"}}); r.Code != 127 {
		t.Fatalf("no such program: got %+v", r)
	}
	if r := p.exec(l, shell("1/1", "kill -9 $$")); r.Code != 137 || r.Signal != "SIGKILL" {
		t.Fatalf("got %+v", r)
	}
	for _, key := range []string{"", "1", "x/0"} {
		if _, err := l.Exec(t.Context(), shell(key, "true")); err == nil {
			t.Fatalf("key %q: no error", key)
		}
	}
	if _, err := l.Exec(t.Context(), sandbox.Command{Key: "1/2"}); err == nil {
		t.Fatal("no program: no error")
	}
	p.says(l, shell("1/2", "echo well"), "well")
}

func testSandboxTimeout(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Limits.Timeout = 300 * time.Millisecond
	p := s.open(t, c)
	l := p.lease("a")
	defer l.Done()
	begin := time.Now()
	r := p.exec(l, shell("1/0", "echo a; (sleep 100; echo b)& setsid sleep 100; echo c"))
	if took := time.Since(begin); !r.TimedOut || r.Code == 0 || string(r.Out) != "a\n" || took > 20*time.Second {
		t.Fatalf("got %+v after %s", r, took)
	}
	short := shell("1/1", "sleep 100")
	short.Timeout = 10 * time.Millisecond
	if r := p.exec(l, short); !r.TimedOut || r.Took > 200*time.Millisecond {
		t.Fatalf("got %+v", r)
	}
	long := shell("1/2", "sleep 100")
	long.Timeout = time.Hour
	if r := p.exec(l, long); !r.TimedOut {
		t.Fatalf("a command's time-out is more than the pool's: got %+v", r)
	}
	if s.Isolated {
		p.says(l, shell("1/3", "grep -l slee[p] /proc/[0-9]*/comm 2>/dev/null | wc -l"), "0")
	}
}

func testSandboxOutput(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	size := 1 << 30
	if testing.Short() {
		size = 1 << 26
	}
	r := p.exec(l, shell("1/0", "echo first; head -c "+strconv.Itoa(size)+" /dev/zero; echo last"))
	if len(r.Out) > 65<<10 || r.Cut < int64(size)-(64<<10) || !bytes.HasPrefix(r.Out, []byte("first\n")) || !bytes.HasSuffix(r.Out, []byte("last\n")) {
		t.Fatalf("got %d bytes, %d cut", len(r.Out), r.Cut)
	}
}

func testSandboxDaemons(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	p.says(l, shell("1/0", "setsid sh -c 'sleep 1000 & sleep 1000 & touch on; wait' >/dev/null 2>&1 & while [ ! -e on ]; do sleep 0.01; done; echo begun"), "begun")
	p.says(l, shell("1/1", "echo still there"), "still there")
	l.Done()
	if err := p.Release(t.Context(), p.key("a")); err != nil {
		t.Fatal(err)
	}
	if n := p.Stats().Held; n != 0 {
		t.Fatalf("%d are held", n)
	}
}

func testSandboxSetup(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	p.spec.Files, p.spec.Env = map[string][]byte{"a": []byte("file")}, map[string]string{"X": "y"}
	p.spec.Setup = []string{"cat a > b; printf $X >> b"}
	l := p.lease("a")
	p.says(l, shell("1/0", "cat b; echo $X"), "filey"+"y")
	l.Done()
	p.spec.Setup = []string{"true", "echo why >&2; exit 3"}
	_, err := p.Lease(t.Context(), p.key("b"), p.spec, sandbox.Past{})
	var setup *sandbox.SetupError
	if !errors.As(err, &setup) || setup.Result.Code != 3 || !strings.Contains(setup.Error(), "why") {
		t.Fatalf("got %v", err)
	}
	p.spec.Setup = []string{"echo 1 >> b"}
	l = p.lease("b")
	defer l.Done()
	p.says(l, shell("1/0", "cat b"), "1")
}

func testSandboxEnvironment(t *testing.T, s Sandboxes) {
	t.Setenv("MATRIX_TEST_SECRET", "hidden")
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	r := p.exec(l, shell("1/0", "env; cat /proc/1/environ /proc/self/environ 2>/dev/null"))
	if s.Isolated && bytes.Contains(r.Out, []byte("hidden")) {
		t.Fatalf("a variable of this process is there: %s", r.Out)
	}
	p.says(l, shell("1/1", "echo $MATRIX_TEST_SECRET; ls /proc/self/fd | wc -l"), "4")
}

func testSandboxIsolation(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	if got := strings.TrimSpace(string(p.exec(l, shell("1/0", "id -u")).Out)); (got == "0") != s.Root {
		t.Errorf("commands have the user %s", got)
	}
	p.says(l, shell("1/1", "grep -c : /proc/net/dev; grep -c lo: /proc/net/dev"), "1\n1")
	p.says(l, shell("1/2", "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"), "CapEff:\t0000000000000000\nNoNewPrivs:\t1")
	for i, text := range []string{"unshare -Ur true", "mount -t tmpfs none /mnt", "kill -9 1; kill -STOP 1; cat /proc/1/mem", "ls /sys/kernel | grep .", "cat /etc/shadow", "touch /usr/x"} {
		if r := p.exec(l, shell("2/"+strconv.Itoa(i), text)); r.Code == 0 {
			t.Errorf("%q is possible: %s", text, r.Out)
		}
	}
	p.says(l, shell("3/0", "kill -9 -1 2>/dev/null; echo"), "") // all but itself, and process 1
}

func testSandboxLinks(t *testing.T, s Sandboxes) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("hidden"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	defer l.Done()
	p.says(l, shell("1/0", "ln -s "+outside+" abs; ln -s ../../../../../../../.."+outside+" rel; ln -s "+filepath.Dir(outside)+" dir; mkdir -p d; mkfifo fifo; ln -s loop loop; echo ok"), "ok")
	for _, path := range []string{"abs", "rel", "dir/secret", "../../../../../.." + outside, outside, "fifo", "loop", "d"} {
		f, err := l.Get(t.Context(), path, 100)
		if err != nil {
			continue
		}
		if b, _ := io.ReadAll(f); bytes.Contains(b, []byte("hidden")) {
			t.Errorf("Get %s reads a file outside", path)
		}
		f.Close()
	}
	for _, path := range []string{"abs", "rel", "dir/secret"} {
		_ = l.Put(t.Context(), path, 0o644, strings.NewReader("written"))
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "hidden" {
		t.Errorf("Put wrote outside: %q, %v", b, err)
	}
}

func testSandboxForkBomb(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Limits.PIDs, c.Limits.CPU, c.Limits.Timeout = 50, 1, time.Second
	p := s.open(t, c)
	l := p.lease("a")
	defer l.Done()
	p.exec(l, shell("1/0", "b() { b | b & }; b; sleep 10"))
	r := p.exec(l, shell("1/1", "i=0; while [ $i -lt 200 ]; do sleep 2 & i=$((i+1)); done; echo all"))
	if strings.Contains(string(r.Out), "all") {
		t.Fatalf("200 processes are possible: %+v", r)
	}
	for i, end := 2, time.Now().Add(30*time.Second); ; i++ {
		r := p.exec(l, shell("1/"+strconv.Itoa(i), "echo well"))
		if string(r.Out) == "well\n" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing can be started any more: %+v", r)
		}
		time.Sleep(10 * time.Millisecond) // its processes end by themselves
	}
}

func testSandboxMemory(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Limits.Memory = 64 << 20
	p := s.open(t, c)
	l := p.lease("a")
	defer l.Done()
	r := p.exec(l, shell("1/0", "head -c 200000000 /dev/zero | tail -c 190000000 | wc -c"))
	if !r.OOM && !strings.Contains(string(r.Out), "190000000") {
		p.exec(l, shell("1/1", "exec tail -c 190000000 /dev/zero"))
	}
	r = p.exec(l, shell("1/2", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}"))
	if r.Code == 0 || !r.OOM {
		t.Fatalf("100 MB are possible, or nobody tells: %+v", r)
	}
	if r := p.says(l, shell("1/3", "echo well"), "well"); r.OOM {
		t.Fatal("it is told again")
	}
}

func testSandboxDiskFull(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Limits.Disk = 8 << 20
	p := s.open(t, c)
	l := p.lease("a")
	defer l.Done()
	if r := p.exec(l, shell("1/0", "head -c 20000000 /dev/zero > big")); r.Code == 0 {
		t.Fatalf("20 MB are possible: %+v", r)
	}
	full := shell("1/1", "true")
	full.Files = map[string][]byte{"more": make([]byte, 1<<20)}
	if r := p.exec(l, full); r.Code == 0 || len(r.Err) == 0 {
		t.Fatalf("a file is put where there is no room: %+v", r)
	}
	p.says(l, shell("1/2", "rm big; echo well > a; cat a"), "well")
}

func testSandboxPast(t *testing.T, s Sandboxes) {
	forms := []sandbox.Config{SandboxConfig()}
	if s.Disk {
		for _, in := range []sandbox.InDoubt{sandbox.Rewind, sandbox.Rebuild} {
			c := SandboxConfig()
			c.Restore, c.InDoubt = sandbox.RestoreDisk, in
			forms = append(forms, c)
		}
	}
	for _, c := range forms {
		t.Run(string(c.Restore)+" "+string(c.InDoubt), func(t *testing.T) {
			p := s.open(t, c)
			p.spec.Setup = []string{"echo setup >> log"}
			a, b, x := shell("1/0", "echo a >> log; cat log"), shell("2/0", "echo b >> log; cat log"), shell("2/0", "echo x >> log; cat log")
			l := p.lease("a")
			p.says(l, a, "setup\na")
			p.says(l, b, "setup\na\nb")
			l.Done()
			l = p.lease("a", a) // b was never committed: another one is made in its place
			p.says(l, x, "setup\na\nx")
			l.Done()
			l = p.lease("a", a, b) // it was elsewhere, where b was committed
			p.says(l, shell("3/0", "cat log"), "setup\na\nb")
			if how := l.Info().Restored; how != sandbox.Replay {
				t.Errorf("restored: %s", how)
			}
			l.Done()
			l = p.lease("a", a, b, shell("3/0", "cat log"), shell("4/0", "echo d >> log")) // and somewhere else was done more
			p.says(l, shell("5/0", "cat log"), "setup\na\nb\nd")
			l.Done()
			l = p.lease("b", a, b)
			p.says(l, shell("3/0", "cat log"), "setup\na\nb")
			if i := l.Info(); i.Restored != sandbox.Replay || i.Generation != 1 {
				t.Errorf("got %+v", i)
			}
			l.Done()
			p.spec.Setup = []string{"echo other >> log"}
			l = p.lease("b", a, b)
			p.says(l, shell("3/0", "cat log"), "other\na\nb")
			l.Done()
		})
	}
}

func testSandboxFence(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	a, b := shell("1/0", "echo a >> log"), shell("2/0", "echo b >> log")
	p.exec(l, a)
	p.exec(l, b)
	l.Done()
	l = p.lease("a", a, b)
	p.exec(l, shell("5/0", "echo c >> log"))
	l.Done()
	twin := p.lease("a", a)
	_, err := twin.Exec(t.Context(), shell("2/0", "echo twin >> log"))
	var fenced *sandbox.FencedError
	if !errors.As(err, &fenced) || fenced.Hop != 2 || fenced.At != 5 {
		t.Fatalf("got %v", err)
	}
	twin.Done()
	l = p.lease("a", a, b)
	defer l.Done()
	p.says(l, shell("6/0", "cat log"), "a\nb") // 5/0 was not committed, and is not there
}

func testSandboxDoubt(t *testing.T, s Sandboxes) {
	type doubt struct {
		restore sandbox.Restore
		in      sandbox.InDoubt
		want    string // what the log has after
		turn    bool
	}
	all := []doubt{{sandbox.RestoreReplay, sandbox.Rewind, "a\nb", false}, {sandbox.RestoreReplay, sandbox.Turn, "a\nb", true}}
	if s.Disk {
		all = append(all, doubt{sandbox.RestoreDisk, sandbox.Rewind, "a\nb", false}, doubt{sandbox.RestoreDisk, sandbox.Rebuild, "a\nb", false},
			doubt{sandbox.RestoreDisk, sandbox.Rerun, "a\nb\nb", false}, doubt{sandbox.RestoreDisk, sandbox.Turn, "a\nb", true})
	}
	for _, d := range all {
		t.Run(fmt.Sprintf("%s %s", d.restore, d.in), func(t *testing.T) {
			c := SandboxConfig()
			c.Restore, c.InDoubt = d.restore, d.in
			p := s.open(t, c)
			l := p.lease("a")
			a, b := shell("1/0", "echo a >> log"), shell("1/1", "echo b >> log; touch begun; sleep 0.5")
			p.exec(l, a)
			begun, err := l.Open(t.Context(), sandbox.Command{Shell: "while [ ! -e begun ]; do sleep 0.01; done; echo begun"})
			if err != nil {
				t.Fatal(err)
			}
			defer begun.Close()
			go func() {
				if _, err := io.ReadAll(begun); err == nil {
					s.endProcesses(t, p.run)
				}
			}()
			r, err := l.Exec(t.Context(), b)
			var inDoubt *sandbox.InDoubtError
			if d.turn != errors.As(err, &inDoubt) || !d.turn && (err != nil || r.Code != 0) {
				t.Fatalf("got %+v, %v", r, err)
			}
			begun.Close()
			l.Done()
			for end := time.Now().Add(20 * time.Second); p.Stats().Lost != 1; time.Sleep(time.Millisecond) { // the pool tells nobody
				if time.Now().After(end) {
					t.Fatalf("%d are lost, want 1", p.Stats().Lost)
				}
			}
			l = p.lease("a", a, b)
			p.says(l, shell("2/0", "cat log"), d.want)
			l.Done()
		})
	}
}

func testSandboxNone(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Restore = sandbox.RestoreNone
	p := s.open(t, c)
	l := p.lease("a")
	a := shell("1/0", "echo a >> log")
	p.exec(l, a)
	l.Done()
	l = p.lease("a", a)
	p.says(l, shell("2/0", "cat log"), "a")
	s.endProcesses(t, p.run)
	_, err := l.Exec(t.Context(), shell("2/1", "cat log"))
	var lost *sandbox.LostError
	if !errors.As(err, &lost) {
		t.Fatalf("got %v", err)
	}
	l.Done()
	if _, err := p.Lease(t.Context(), p.key("a"), p.spec, sandbox.Past{Calls: []sandbox.Command{a}}); !errors.As(err, &lost) {
		t.Fatalf("got %v", err)
	}
	if _, err := p.Lease(t.Context(), p.key("b"), p.spec, sandbox.Past{Calls: []sandbox.Command{a}}); !errors.As(err, &lost) {
		t.Fatalf("with a past from elsewhere: got %v", err)
	}
}

// What one process of the run left, a later one goes on with.
func testSandboxLater(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	want := sandbox.Replay
	if s.Disk {
		c.Restore, want = sandbox.RestoreDisk, sandbox.Disk
	}
	o := sandbox.Options{Run: t.Name(), Folder: t.TempDir()}
	nothingLeft(t, o.Run)
	p := s.openIn(t, c, o)
	p.spec.Setup = []string{"echo setup >> log"}
	a, b := shell("1/0", "echo a >> log; echo $RANDOM$$ | tee id"), shell("2/0", "echo b >> log")
	l := p.lease("a")
	id := p.exec(l, a)
	p.exec(l, b)
	l.Done()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	again := s.openIn(t, c, o)
	again.spec = p.spec
	l = again.lease("a", a)
	defer l.Done()
	if how := l.Info().Restored; how != want {
		t.Errorf("restored: %s, want %s", how, want)
	}
	if r := again.exec(l, b); r.Replayed != s.Disk {
		t.Errorf("a command that was not committed: got %+v", r)
	}
	again.says(l, shell("2/1", "cat log"), "setup\na\nb")
	if got := again.exec(l, shell("2/2", "cat id")).Out; s.Disk && !bytes.Equal(got, id.Out) {
		t.Errorf("it was run again: %q, want %q", got, id.Out)
	}
}

// As many commands as become more layers than are kept, with all that layers can say.
func testSandboxLayers(t *testing.T, s Sandboxes) {
	if s.Slow {
		t.Skip("a start for each of 40 commands")
	}
	c := SandboxConfig()
	c.Restore = sandbox.RestoreDisk
	p := s.open(t, c)
	p.spec.Setup = []string{"mkdir -p d/e; echo 0 > d/f; echo 0 > d/e/g"}
	texts := []string{"rm d/f; mkdir d/f; echo %d > d/f/x", "rm -r d; mkdir d; echo %d > d/new", "echo %d >> log; chmod 700 d", "rm -rf d; echo %d > d", "rm -f d; mkdir -p d/e; echo %d > d/f", "mv d/e d/h; echo %d > d/h/g"}
	alike := SandboxConfig() // without layers
	plain := s.openIn(t, alike, sandbox.Options{Run: t.Name() + "/plain"})
	plain.spec = p.spec
	without := plain.lease("a")
	defer without.Done()
	var past []sandbox.Command
	for i := range 40 {
		cmd := shell(strconv.Itoa(i+1)+"/0", fmt.Sprintf(texts[i%len(texts)], i)+"; find . | sort; find . -type f | sort | xargs cat")
		l := p.lease("a", past...)
		got := p.exec(l, cmd)
		l.Done()
		past = append(past, cmd)
		if want := plain.exec(without, cmd); !bytes.Equal(got.Out, want.Out) || got.Code != want.Code {
			t.Fatalf("command %d in layers: got %q, want %q", i, got.Out, want.Out)
		}
	}
}

// As many at once as there may be, in order.
func testSandboxRoom(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Size, c.Park = 3, time.Millisecond
	p := s.open(t, c)
	n := 200
	if s.Slow || testing.Short() {
		n = 20
	}
	var now, most atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			task := strconv.Itoa(i)
			l, err := p.Lease(t.Context(), p.key(task), p.spec, sandbox.Past{})
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Done()
			k := now.Add(1)
			for m := most.Load(); k > m && !most.CompareAndSwap(m, k); m = most.Load() {
			}
			if r, err := l.Exec(t.Context(), shell("1/0", "echo "+task)); err != nil || string(r.Out) != task+"\n" {
				t.Errorf("%s: got %+v, %v", task, r, err)
			}
			now.Add(-1)
		})
	}
	all.Wait()
	if st := p.Stats(); most.Load() > 3 || st.Size != 3 || st.Held > 3 || st.Waiting != 0 || st.Waited == 0 || st.Made < int64(n) {
		t.Errorf("%d at once; %+v", most.Load(), st)
	}
	held := []sandbox.Lease{p.lease("x"), p.lease("y"), p.lease("z")}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Lease(ctx, p.key("w"), p.spec, sandbox.Past{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for _, l := range held {
		l.Done()
	}
	p.lease("w").Done()
}

func testSandboxParked(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Park = 20 * time.Millisecond
	want := sandbox.Live
	c.InDoubt = sandbox.Rebuild
	if s.Disk {
		c.Restore, want = sandbox.RestoreDisk, sandbox.Disk
	}
	p := s.open(t, c)
	l := p.lease("a")
	a := shell("1/0", "echo a >> log")
	p.exec(l, a)
	l.Done()
	for end := time.Now().Add(20 * time.Second); s.Disk && p.Stats().Parked != 1; {
		if time.Now().After(end) {
			t.Fatalf("it is not parked: %+v", p.Stats())
		}
		time.Sleep(time.Millisecond) // the pool tells nobody
	}
	l = p.lease("a", a)
	p.says(l, shell("2/0", "cat log"), "a")
	if i := l.Info(); i.Restored != want || i.Generation != 1 {
		t.Errorf("got %+v, want %s", i, want)
	}
	l.Done()
}

func testSandboxCall(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Keep, c.Size = sandbox.KeepCall, 2
	p := s.open(t, c)
	p.spec.Setup = []string{"echo setup > log"}
	l, again := p.lease("a"), p.lease("a") // as many at once as there is room
	for i := range 2 {
		p.says(l, shell("1/"+strconv.Itoa(i), "echo a >> log; cat log"), "setup\na")
		p.says(again, shell("1/"+strconv.Itoa(i), "echo a >> log; cat log"), "setup\na")
	}
	l.Done()
	again.Done()
	if st := p.Stats(); st.Held != 0 {
		t.Errorf("got %+v", st)
	}
}

func testSandboxRun(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Keep = sandbox.KeepRun
	p := s.open(t, c)
	a, b := p.lease("a"), p.lease("b")
	p.exec(a, shell("1/0", "echo a >> log"))
	p.says(b, shell("1/0", "cat log"), "a")
	a.Done()
	b.Done()
	s.endProcesses(t, p.run)
	var lost *sandbox.LostError
	if _, err := b.Exec(t.Context(), shell("2/0", "cat log")); err != nil && !errors.As(err, &lost) {
		t.Errorf("got %v", err)
	}
	l := p.lease("c")
	defer l.Done()
	p.says(l, shell("1/0", "ls"), "")
}

func testSandboxRelease(t *testing.T, s Sandboxes) {
	p := s.open(t, SandboxConfig())
	l := p.lease("a")
	p.exec(l, shell("1/0", "echo a > log"))
	done := make(chan error, 1)
	go func() { done <- p.Release(t.Context(), p.key("a")) }() // waits for who has it
	l.Done()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.Done()
	for range 2 {
		if err := p.Release(t.Context(), p.key("a")); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Release(t.Context(), p.key("never")); err != nil {
		t.Fatal(err)
	}
	l = p.lease("a")
	defer l.Done()
	p.says(l, shell("1/0", "ls"), "")
}

func testSandboxSweep(t *testing.T, s Sandboxes) {
	c := SandboxConfig()
	c.Restore = sandbox.RestoreDisk
	mine := sandbox.Options{Run: t.Name() + "/mine", Folder: t.TempDir()}
	nothingLeft(t, mine.Run)
	p := s.openIn(t, c, mine)
	other := s.openIn(t, c, sandbox.Options{Run: t.Name() + "/other", Folder: mine.Folder + "-other"})
	twin := s.openIn(t, c, mine) // another process of the run on this machine
	t.Cleanup(func() { os.RemoveAll(mine.Folder + "-other") })
	cmd := shell("1/0", "echo a > log")
	for _, task := range []string{"a", "b"} {
		for _, x := range []*sandboxes{p, other, twin} {
			l := x.lease(task)
			x.exec(l, cmd)
			l.Done()
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = s.openIn(t, c, mine)
	n, err := p.Sweep(t.Context(), func(k sandbox.Key) bool { return k.Task == "a" })
	if err != nil || n != 1 {
		t.Fatalf("swept %d, %v, want 1", n, err)
	}
	for _, x := range []*sandboxes{p, other, twin} {
		l := x.lease("a", cmd)
		x.says(l, shell("2/0", "cat log"), "a")
		if how := l.Info().Restored; how != sandbox.Disk {
			t.Errorf("restored: %s", how)
		}
		l.Done()
	}
	l := p.lease("b")
	p.says(l, shell("1/0", "ls"), "")
	l.Done()
	if n, err := p.Sweep(t.Context(), nil); err != nil || n != 0 {
		t.Errorf("swept %d that are in use, %v", n, err)
	}
}
