//go:build linux

package inside_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"matrix/sandbox/inside"
)

// TestMain is the supervisor, too, in a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervisor" {
		o, err := inside.ParseArgs(os.Args[2:])
		if err == nil {
			err = inside.Serve(os.Stdin, os.Stdout, o)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A box is a supervisor that is a plain child of the test.
type box struct {
	*inside.Conn
	cmd  *exec.Cmd
	dir  string // it works in
	done chan struct{}
}

func start(t testing.TB, o inside.Options) *box {
	t.Helper()
	b := &box{dir: t.TempDir(), done: make(chan struct{})}
	if o.Root == "" {
		o.Root = b.dir
	}
	b.cmd = exec.Command(os.Args[0], append([]string{"supervisor"}, o.Args()...)...)
	b.cmd.Dir, b.cmd.Stderr = b.dir, os.Stderr
	b.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OURS=yes"}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := b.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.Conn = inside.NewConn(pipe{out, in})
	t.Cleanup(func() {
		b.Close()
		b.ended(t)
	})
	go func() {
		<-b.Lost()
		b.cmd.Wait()
		close(b.done)
	}()
	if err := b.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

type pipe struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipe) Close() error { return p.WriteCloser.Close() }

// ended waits for the supervisor.
func (b *box) ended(t testing.TB) {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(20 * time.Second):
		b.cmd.Process.Kill()
		t.Fatal("the supervisor does not end")
	}
}

func (b *box) shell(t testing.TB, line string) inside.Result {
	t.Helper()
	r, err := b.Exec(t.Context(), inside.Command{Shell: line})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return r
}

func wantCode(t *testing.T, err error, want inside.Code) {
	t.Helper()
	var e *inside.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Fatalf("got error %v, want one with code %d", err, want)
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d goes on", pid)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func (b *box) number(t *testing.T, file string) int {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(b.dir, file))
		if n, e := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && e == nil {
			return n
		}
		if time.Now().After(end) {
			t.Fatalf("no number in %s: %q, %v", file, text, err)
		}
	}
}

func TestExec(t *testing.T) {
	b := start(t, inside.Options{})
	for _, c := range []struct {
		name     string
		cmd      inside.Command
		code     int
		signal   string
		out, err string
	}{
		{"arguments", inside.Command{Args: []string{"printf", "%s|", "a b", "c"}}, 0, "", "a b|c|", ""},
		{"shell", inside.Command{Shell: "echo out; echo err >&2; exit 3"}, 3, "", "out\n", "err\n"},
		{"merged", inside.Command{Shell: "echo 1; echo 2 >&2; echo 3", Merge: true}, 0, "", "1\n2\n3\n", ""},
		{"input", inside.Command{Args: []string{"cat"}, Stdin: []byte("x\ny")}, 0, "", "x\ny", ""},
		{"no input", inside.Command{Args: []string{"cat"}}, 0, "", "", ""},
		{"folder", inside.Command{Shell: "pwd", Dir: "/"}, 0, "", "/\n", ""},
		{"environment", inside.Command{Shell: "echo $A $OURS", Env: map[string]string{"A": "b", "OURS": "no"}}, 0, "", "b no\n", ""},
		{"signal", inside.Command{Shell: "kill -SEGV $$"}, 139, "SIGSEGV", "", ""},
		{"no such program", inside.Command{Args: []string{"no-such-program"}}, 127, "", "", "no-such-program: not found\n"},
		{"no such path", inside.Command{Args: []string{"./none"}}, 127, "", "", "./none: not found\n"},
		{"no program", inside.Command{Args: []string{"/etc/passwd"}}, 126, "", "", "/etc/passwd: permission denied\n"},
		{"no such folder", inside.Command{Shell: "true", Dir: "/none"}, 126, "", "", "cannot enter /none: no such directory\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := b.Exec(t.Context(), c.cmd)
			if err != nil {
				t.Fatal(err)
			}
			if r.Code != c.code || r.Signal != c.signal || string(r.Out) != c.out || string(r.Err) != c.err {
				t.Fatalf("got code %d, signal %q, out %q, err %q; want %d, %q, %q, %q", r.Code, r.Signal, r.Out, r.Err, c.code, c.signal, c.out, c.err)
			}
		})
	}
	r := b.shell(t, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	if r.CPU <= 0 || r.Took < r.CPU/4 || r.Peak < 100<<10 {
		t.Errorf("got CPU %v, took %v, peak %d", r.CPU, r.Took, r.Peak)
	}
	for name, cmd := range map[string]inside.Command{
		"nothing":       {},
		"both":          {Shell: "true", Args: []string{"true"}},
		"output":        {Shell: "true", Output: 1 << 40},
		"far too large": {Args: []string{"echo", strings.Repeat("x", 1<<20)}},
	} {
		_, err := b.Exec(t.Context(), cmd)
		t.Run(name, func(t *testing.T) { wantCode(t, err, inside.Invalid) })
	}
}

func TestInputAndOutput(t *testing.T) {
	b := start(t, inside.Options{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB: more than a window
	r, err := b.Exec(t.Context(), inside.Command{Args: []string{"cat"}, Stdin: big, Output: 4 << 20})
	if err != nil || !bytes.Equal(r.Out, big) || r.Cut != 0 {
		t.Fatalf("cat of 2 MiB: %d bytes, cut %d, %v", len(r.Out), r.Cut, err)
	}
	if r, err = b.Exec(t.Context(), inside.Command{Args: []string{"true"}, Stdin: big}); err != nil || r.Code != 0 {
		t.Fatalf("input that nobody reads: %+v, %v", r, err)
	}
	r, err = b.Exec(t.Context(), inside.Command{Shell: "echo begin; head -c 100000000 /dev/zero | tr '\\0' x; echo end", Output: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(100_000_000 + 10 - 1000); r.Cut != want || len(r.Out) > 1060 || !bytes.HasPrefix(r.Out, []byte("begin\nxxx")) || !bytes.HasSuffix(r.Out, []byte("xend\n")) {
		t.Fatalf("cut %d, want %d; %q", r.Cut, want, r.Out)
	}
	if want := fmt.Sprintf("\n[... %d bytes cut ...]\n", r.Cut); !bytes.Contains(r.Out, []byte(want)) {
		t.Fatalf("no %q in %q", want, r.Out)
	}
}

func TestTimeoutKillsAll(t *testing.T) {
	b := start(t, inside.Options{})
	begun := time.Now()
	r, err := b.Exec(t.Context(), inside.Command{Timeout: 300 * time.Millisecond, Shell: `
		sleep 1000 & echo $! > child
		setsid sh -c 'echo $$ > session; exec sleep 1000' &
		(setsid sh -c '(echo $(exec sh -c "echo \$PPID") > daemon; sleep 1000) & exit' &)
		echo waits; sleep 1000`})
	if err != nil {
		t.Fatal(err)
	}
	if !r.TimedOut || r.Signal != "SIGKILL" || string(r.Out) != "waits\n" || time.Since(begun) > 10*time.Second {
		t.Fatalf("got %+v after %v", r, time.Since(begun))
	}
	for _, file := range []string{"child", "session", "daemon"} {
		gone(t, b.number(t, file))
	}
	if r := b.shell(t, "echo well"); string(r.Out) != "well\n" {
		t.Fatalf("afterwards: %+v", r)
	}
}

func TestDaemonsDieWithTheLease(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(b *box)
	}{
		{"closed", func(b *box) { b.Close() }},
		{"told to end", func(b *box) { b.cmd.Process.Signal(syscall.SIGTERM) }},
	} {
		t.Run(end.name, func(t *testing.T) {
			b := start(t, inside.Options{})
			other := exec.Command("sleep", "1000")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer other.Wait()
			defer other.Process.Kill()
			begun := time.Now()
			r := b.shell(t, `setsid sh -c '(echo $(exec sh -c "echo \$PPID") > daemon; trap "" TERM HUP; env -i sleep 1000) & exit'; sleep 1000 & echo $! > child`)
			if r.Code != 0 || time.Since(begun) > 5*time.Second {
				t.Fatalf("%+v after %v", r, time.Since(begun))
			}
			pids := []int{b.number(t, "daemon"), b.number(t, "child")}
			for _, pid := range pids {
				if !alive(pid) {
					t.Fatalf("process %d has ended with its command", pid)
				}
			}
			end.do(b)
			b.ended(t)
			for _, pid := range pids {
				gone(t, pid)
			}
			if !alive(other.Process.Pid) {
				t.Fatal("a process of somebody else was killed")
			}
			var lost *inside.LostError
			if _, err := b.Exec(t.Context(), inside.Command{Shell: "true"}); !errors.As(err, &lost) {
				t.Fatalf("got %v, want a LostError", err)
			}
		})
	}
}

func TestSilenceEndsTheLease(t *testing.T) {
	cmd := exec.Command(os.Args[0], append([]string{"supervisor"}, inside.Options{TTL: 100 * time.Millisecond}.Args()...)...)
	in, _ := cmd.StdinPipe()
	defer in.Close()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err == nil {
		t.Fatal("no error")
	}
	b := start(t, inside.Options{TTL: 200 * time.Millisecond}) // a Conn is not silent
	if r := b.shell(t, "sleep 1; echo here"); string(r.Out) != "here\n" {
		t.Fatalf("got %+v", r)
	}
}

func TestCancel(t *testing.T) {
	b := start(t, inside.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		b.number(t, "begun")
		cancel()
	}()
	if _, err := b.Exec(ctx, inside.Command{Shell: "sleep 1000 & echo $! > child; echo $$ > begun; sleep 1000"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	gone(t, b.number(t, "begun"))
	gone(t, b.number(t, "child"))
}

func TestFiles(t *testing.T) {
	b := start(t, inside.Options{})
	ctx := t.Context()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(path string, most int64) (string, error) {
		r, err := b.Get(ctx, path, most)
		if err != nil {
			return "", err
		}
		defer r.Close()
		text, err := io.ReadAll(r)
		return string(text), err
	}
	big := strings.Repeat("content of a file. ", 1<<17)
	for _, path := range []string{"a", "deep/er/b", filepath.Join(b.dir, "c")} {
		for _, text := range []string{big, "", "new"} {
			if err := b.Put(ctx, path, 0o751, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			if got, err := get(path, 1<<30); err != nil || got != text {
				t.Fatalf("%s: got %d bytes, want %d; %v", path, len(got), len(text), err)
			}
		}
	}
	if r := b.shell(t, "stat -c %a a; ls -A . deep/er | grep put"); string(r.Out) != "751\n" {
		t.Fatalf("got %q", r.Out)
	}
	_, err := get("none", 1)
	if wantCode(t, err, inside.NotExist); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
	_, err = get("a", 2)
	wantCode(t, err, inside.TooLarge)
	_, err = get("deep", 1<<20)
	wantCode(t, err, inside.Failed)

	b.shell(t, "ln -s "+outside+" link; ln -s "+filepath.Dir(outside)+" folder; ln -s ../../../../../../.. up; ln -s a inner; mkfifo fifo; ln -s /proc/self/fd fds; ln -s loop loop")
	for _, path := range []string{"link", "folder/secret", "up/etc/passwd", "fds/0", "fifo", "loop", "/etc/passwd", "../x", "/dev/zero"} {
		if text, err := get(path, 1<<20); err == nil {
			t.Errorf("%s: got %q", path, text)
		}
	}
	for _, path := range []string{"folder/new", "up/tmp/new", "/etc/new", "../new", "fds/1", ".", "deep"} {
		if err := b.Put(ctx, path, 0o600, strings.NewReader("x")); err == nil {
			t.Errorf("%s was put", path)
		}
	}
	if list, _ := os.ReadDir(filepath.Dir(outside)); len(list) != 1 {
		t.Errorf("outside: %v", list)
	}
	if text, err := get("inner", 10); err != nil || text != "new" {
		t.Errorf("a link that stays inside: %q, %v", text, err)
	}
	if err := b.Put(ctx, "link", 0o600, strings.NewReader("own")); err != nil { // replaces the link
		t.Error(err)
	}
	if text, _ := os.ReadFile(outside); string(text) != "secret" {
		t.Errorf("outside is %q now", text)
	}
	failing := io.MultiReader(strings.NewReader(big), brokenReader{})
	if err := b.Put(ctx, "a", 0o600, failing); err == nil || err.Error() != "broken" {
		t.Errorf("got %v", err)
	}
	for {
		if r := b.shell(t, "ls -A | grep -c put-"); strings.TrimSpace(string(r.Out)) == "0" {
			break
		}
	}
	if text, err := get("a", 10); err != nil || text != "new" {
		t.Errorf("after a broken put: %q, %v", text, err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestStreams(t *testing.T) {
	b := start(t, inside.Options{})
	ctx := t.Context()
	s, err := b.Open(ctx, inside.Command{Shell: `while read line; do echo "got $line"; echo note >&2; done; exit 5`})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for i := range 3 {
		fmt.Fprintf(s, "line %d\n", i)
		n, err := io.ReadFull(s, buf[:11])
		if want := fmt.Sprintf("got line %d\n", i); err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	s.CloseWrite()
	if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
		t.Fatalf("got %q, %v", rest, err)
	}
	if notes, err := io.ReadAll(s.Stderr()); err != nil || string(notes) != "note\nnote\nnote\n" {
		t.Fatalf("got %q, %v", notes, err)
	}
	if r, err := s.Wait(ctx); err != nil || r.Code != 5 {
		t.Fatalf("got %+v, %v", r, err)
	}

	stalled, err := b.Open(ctx, inside.Command{Shell: "echo $$ > stalled; exec yes"}) // and nobody reads it
	if err != nil {
		t.Fatal(err)
	}
	pid := b.number(t, "stalled")
	r, err := b.Exec(ctx, inside.Command{Shell: "head -c 20000000 /dev/zero", Output: 32 << 20})
	if err != nil || len(r.Out) != 20_000_000 {
		t.Fatalf("beside a stalled stream: %d bytes, %v", len(r.Out), err)
	}
	stalled.Close()
	gone(t, pid)

	quick, err := b.Open(ctx, inside.Command{Args: []string{"no-such-program"}})
	if err != nil {
		t.Fatal(err)
	}
	if notes, err := io.ReadAll(quick.Stderr()); err != nil || string(notes) != "no-such-program: not found\n" {
		t.Fatalf("got %q, %v", notes, err)
	}
	if r, err := quick.Wait(ctx); err != nil || r.Code != 127 {
		t.Fatalf("got %+v, %v", r, err)
	}
}

func TestDial(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to listen inside")
	}
	b := start(t, inside.Options{})
	ctx := t.Context()
	server, err := b.Open(ctx, inside.Command{Args: []string{python, "-c", `
import socket, sys, threading
def serve(l):
    while True:
        c, _ = l.accept()
        def echo(c=c):
            while (d := c.recv(65536)): c.sendall(d)
            c.close()
        threading.Thread(target=echo, daemon=True).start()
t = socket.socket(); t.bind(("127.0.0.1", 0)); t.listen()
u = socket.socket(socket.AF_UNIX); u.bind("sock"); u.listen()
threading.Thread(target=serve, args=(u,), daemon=True).start()
print(t.getsockname()[1], flush=True); serve(t)`}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var port int
	if _, err := fmt.Fscanln(server, &port); err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("over and over again "), 1<<16)
	for name, dial := range map[string]func() (*inside.Stream, error){
		"tcp":  func() (*inside.Stream, error) { return b.Dial(ctx, port) },
		"unix": func() (*inside.Stream, error) { return b.DialUnix(ctx, filepath.Join(b.dir, "sock")) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			go func() {
				s.Write(sent)
				s.CloseWrite()
			}()
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d of %d bytes, %v", len(got), len(sent), err)
			}
		})
	}
	_, err = b.DialUnix(ctx, "/none")
	wantCode(t, err, inside.Failed)
}

func TestManyAtOnce(t *testing.T) {
	b := start(t, inside.Options{})
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			text := strings.Repeat(strconv.Itoa(i)+" ", 1000)
			r, err := b.Exec(t.Context(), inside.Command{Shell: "cat; cat >&2 < /dev/null; exit $N", Stdin: []byte(text), Env: map[string]string{"N": strconv.Itoa(i % 100)}})
			if err != nil || string(r.Out) != text || r.Code != i%100 {
				t.Errorf("%d: code %d, %d bytes, %v", i, r.Code, len(r.Out), err)
			}
		})
	}
	all.Wait()
}

func TestKilledSupervisor(t *testing.T) {
	b := start(t, inside.Options{})
	go func() {
		b.number(t, "pid")
		b.cmd.Process.Kill()
	}()
	var lost *inside.LostError
	if _, err := b.Exec(t.Context(), inside.Command{Shell: "echo $$ > pid; exec sleep 1000"}); !errors.As(err, &lost) {
		t.Fatalf("got %v, want a LostError", err)
	}
	gone(t, b.number(t, "pid"))
}

func TestFilter(t *testing.T) {
	b := start(t, inside.Options{Seccomp: true, Drop: true, Files: 50})
	r := b.shell(t, "grep -E 'CapEff|NoNewPrivs|^Seccomp:' /proc/self/status; ulimit -n; ulimit -c")
	if want := "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n50\n0\n"; string(r.Out) != want {
		t.Errorf("got %q, want %q", r.Out, want)
	}
	for _, line := range []string{"unshare -U true", "unshare -m true", "nsenter -t 1 -m true", "strace -f true"} {
		if _, err := exec.LookPath(strings.Fields(line)[0]); err != nil {
			continue
		}
		if r := b.shell(t, line+" 2>&1"); r.Code == 0 {
			t.Errorf("%s: %+v", line, r)
		}
	}
	if python, err := exec.LookPath("python3"); err == nil { // threads and children go on
		r, err := b.Exec(t.Context(), inside.Command{Args: []string{python, "-c", "import threading, subprocess; t = threading.Thread(target=print, args=('thread',)); t.start(); t.join(); print(subprocess.check_output(['echo', 'child']))"}})
		if err != nil || string(r.Out) != "thread\nb'child\\n'\n" {
			t.Errorf("got %+v, %v", r, err)
		}
	}
}

func TestCannotWork(t *testing.T) {
	cmd := exec.Command(os.Args[0], append([]string{"supervisor"}, inside.Options{Dir: "/dev/null/x"}.Args()...)...)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	c := inside.NewConn(pipe{out, in})
	defer c.Close()
	if err := c.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("got %v, want what was wrong", err)
	}
}

func TestNotASupervisor(t *testing.T) {
	for _, says := range []string{"", "Error: no such image\n", "\x10\x00\x00\x00\x01\x00matrix inside 9", strings.Repeat("\xff", 100)} {
		c := inside.NewConn(pipe{io.NopCloser(strings.NewReader(says)), nowhere{}})
		var lost *inside.LostError
		if err := c.Ready(t.Context()); !errors.As(err, &lost) {
			t.Errorf("%q: got %v, want a LostError", says, err)
		}
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

func TestArgs(t *testing.T) {
	want := inside.Options{Dir: "/d", FD: 3, Root: "/r", TTL: time.Minute, Drop: true, Seccomp: true, Data: 1, Procs: 2, FileSize: 3, Files: 4}
	got, err := inside.ParseArgs(want.Args())
	if err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range [][]string{{"-nothing"}, {"-root"}, {"-ttl", "x"}, {"-files", "-1"}} {
		if _, err := inside.ParseArgs(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

// Over a plain child process: what a sandbox adds to starting a program is what this takes more than fork and exec.
func BenchmarkExec(b *testing.B) {
	x := start(b, inside.Options{})
	for _, c := range []struct {
		name string
		cmd  inside.Command
	}{{"true", inside.Command{Args: []string{"/bin/true"}}}, {"shell", inside.Command{Shell: "echo hi"}}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := x.Exec(b.Context(), c.cmd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("true, 16 at once", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := x.Exec(b.Context(), inside.Command{Args: []string{"/bin/true"}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
