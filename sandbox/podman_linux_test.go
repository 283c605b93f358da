package sandbox

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/sandbox/inside"
)

// TestImage is the image that NeedPodman makes.
const TestImage = "localhost/matrix-test:busybox"

// NeedPodman makes an image without a registry: busybox, and nothing else.
func NeedPodman(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is not installed")
	}
	if exec.Command("podman", "image", "exists", TestImage).Run() == nil {
		return
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed: of it the image of this test is made (Debian: busybox-static)")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(program[:min(len(program), 4096)], []byte("/ld-linux")) {
		t.Skip("busybox is not static here (Debian: busybox-static)")
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	write := func(h tar.Header, content []byte) {
		if err := errors.Join(w.WriteHeader(&h), func() error { _, err := w.Write(content); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "tmp", "etc", "root", "run", "proc", "sys", "dev"} {
		write(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	write(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))}, program)
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			write(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	write(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: 30}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("podman", "import", "--quiet", "--change", "ENV FROM_IMAGE=yes", "-", TestImage)
	cmd.Stdin = &image
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("podman imports no image here: %v: %s", err, out)
	}
}

// openPodman makes a backend that was checked.
func openPodman(t testing.TB, run string, kind Podman) *podman {
	t.Helper()
	NeedPodman(t)
	p := newPodman(kind, Options{Run: run, Pool: "repo"})
	t.Cleanup(func() { p.close() })
	if _, err := p.check(t.Context()); err != nil {
		var image *ImageError
		if !errors.As(err, &image) {
			t.Fatal(err)
		}
		t.Skipf("podman starts no containers here: %v", err)
	}
	return p
}

func startPodman(t testing.TB, p *podman, s Spec) *box {
	t.Helper()
	s.Image = TestImage
	key := Key{p.options.Run, "repo", t.Name()}
	b, err := p.start(t.Context(), boxSpec{name: key.Name(), spec: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	return b
}

func shell(t testing.TB, b *box, line string) inside.Result {
	t.Helper()
	r, err := b.conn.Exec(t.Context(), inside.Command{Shell: line, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return r
}

func containers(t testing.TB, filter string) string {
	t.Helper()
	out, err := exec.Command("podman", "ps", "--all", "--quiet", "--filter", filter).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestPodman(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{Config: Config{Limits: Limits{Memory: 64 << 20, PIDs: 32, CPU: 1, Files: 100}}})
	t.Setenv("http_proxy", "http://ours.example")
	b := startPodman(t, p, Spec{Dir: "/testbed/here", Env: map[string]string{"OWN": "a\nb", "PATH": "/bin"}})

	r := shell(t, b, `pwd; echo "$OWN|$FROM_IMAGE|$http_proxy|$PATH"; id -u; ulimit -n; grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; ls /sys/class/net; ls -d /proc/[0-9]* | wc -l; echo $PPID`)
	want := "/testbed/here\na\nb|yes||/bin\n0\n100\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000002\nNoNewPrivs:\t1\nlo\n"
	if !strings.HasPrefix(string(r.Out), want) || !strings.HasSuffix(string(r.Out), "\n1\n") {
		t.Errorf("got %s%s, want %s", r.Out, r.Err, want)
	}
	shell(t, b, "echo kept > file; (sleep 1000 &)")
	if r := shell(t, b, "cat file; pidof sleep | wc -w"); string(r.Out) != "kept\n1\n" {
		t.Errorf("got %q", r.Out)
	}

	r = shell(t, b, "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c") // tail holds it in memory
	if !b.oom() {
		t.Errorf("memory ran out, and nobody says so: %+v", r)
	}
	if b.oom() {
		t.Error("it ran out once")
	}
	r, err := b.conn.Exec(t.Context(), inside.Command{Shell: "b() { b | b & }; b; sleep 1000", Timeout: time.Second})
	if err != nil || !r.TimedOut {
		t.Errorf("a fork bomb: %+v, %v", r, err)
	}
	shell(t, b, "kill -TERM 1; kill -SEGV 1; kill -INT 1; kill -HUP 1; kill -9 1; kill -9 -1")
	if r = shell(t, b, "cat file"); string(r.Out) != "kept\n" {
		t.Errorf("after signals to process 1: %+v", r)
	}
	b.kill()
	if list := containers(t, "label="+labelRun+"="+runPrefix(p.options.Run)); list != "" {
		t.Errorf("left over: %s", list)
	}
}

func TestPodmanReadOnly(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{ReadOnly: true})
	b := startPodman(t, p, Spec{})
	r := shell(t, b, "touch /bin/x 2>&1; touch here /tmp/there; ls -a . /tmp")
	if want := "touch: /bin/x: Read-only file system\n.:\n.\n..\nhere\n\n/tmp:\n.\n..\nthere\n"; string(r.Out) != want {
		t.Errorf("got %q %q, want %q", r.Out, r.Err, want)
	}
}

func TestPodmanWithoutImage(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{})
	_, err := p.start(t.Context(), boxSpec{name: "mx-none", spec: Spec{Image: "localhost/no-such-image:1"}})
	var image *ImageError
	if !errors.As(err, &image) || !strings.Contains(err.Error(), "podman pull localhost/no-such-image:1") {
		t.Errorf("got %v, want an ImageError that says what to do", err)
	}
	if _, err = p.start(t.Context(), boxSpec{name: "mx-flag", spec: Spec{Image: "--privileged"}}); !errors.As(err, &image) {
		t.Errorf("got %v, want an ImageError", err)
	}
	broken := newPodman(Podman{Runtime: "no-such-runtime"}, Options{Run: t.Name(), Pool: "repo"})
	defer broken.close()
	if _, err := broken.check(t.Context()); !errors.As(err, &image) {
		t.Errorf("got %v, want an ImageError", err)
	}
	for _, c := range []Config{{Limits: Limits{Disk: 1 << 20}}} {
		strict := newPodman(Podman{Config: c}, Options{Run: t.Name(), Pool: "repo"})
		defer strict.close()
		if _, err := strict.check(t.Context()); !errors.As(err, &image) {
			t.Errorf("%+v: got %v, want an ImageError", c, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := newPodman(Podman{}, Options{}).check(t.Context()); !errors.As(err, &image) || !strings.Contains(err.Error(), "install") {
		t.Errorf("got %v, want an ImageError that says what to install", err)
	}
}

// Whichever of the processes around a container is killed, it is lost, and nothing of it is left.
func TestPodmanKilled(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{})
	other := openPodman(t, "another run of "+t.Name(), Podman{})
	beside := startPodman(t, other, Spec{})
	for _, who := range []string{"supervisor", "conmon"} {
		t.Run(who, func(t *testing.T) {
			c, err := p.run(t.Context(), "mx-killed-"+who, Spec{}, nil, TestImage)
			if err != nil {
				t.Fatal(err)
			}
			b := &box{conn: c.conn, kill: c.kill}
			r := shell(t, b, "setsid sleep 1234 & exit")
			if r.Code != 0 {
				t.Fatalf("got %+v", r)
			}
			pid := map[string]int{"supervisor": c.first.pid, "conmon": c.conmon.pid}[who]
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if who == "supervisor" {
				select {
				case <-b.conn.Lost():
				case <-time.After(10 * time.Second):
					t.Fatal("it is not lost")
				}
				var lost *inside.LostError
				if _, err := b.conn.Exec(t.Context(), inside.Command{Shell: "true"}); !errors.As(err, &lost) {
					t.Fatalf("got %v, want a LostError", err)
				}
			}
			b.kill()
			if list := containers(t, "name="+c.name); list != "" {
				t.Errorf("left over: %s", list)
			}
		})
	}
	if r := shell(t, beside, "echo well"); string(r.Out) != "well\n" {
		t.Errorf("another run's: %+v", r)
	}
}

// A process that dies leaves nothing; what conmon could not remove the next one of the run does, and no other's.
func TestPodmanSweep(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{})
	mine := startPodman(t, p, Spec{})
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	label := func(run, owner string) {
		args := []string{"create", "--pull", "never", "--label", labelRun + "=" + runPrefix(run), "--label", labelPool + "=repo", "--label", labelHost + "=" + hostLabel(),
			"--label", labelOwner + "=" + owner, TestImage, "true"}
		if out, err := exec.Command("podman", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	gone := bootID() + ".1234567.1"
	label(p.options.Run, gone)
	label(p.options.Run, bootID()+"."+strconv.Itoa(os.Getppid())+"."+startTime(os.Getppid()))
	label("another run of "+t.Name(), gone)
	t.Cleanup(func() {
		for _, run := range []string{p.options.Run, "another run of " + t.Name()} {
			if list := containers(t, "label="+labelRun+"="+runPrefix(run)); list != "" {
				exec.Command("podman", append([]string{"rm", "--force", "--time", "0"}, strings.Fields(list)...)...).Run()
			}
		}
	})
	if n, err := p.sweep(t.Context()); n != 1 || err != nil {
		t.Fatalf("swept %d, %v; want 1", n, err)
	}
	if n, err := p.sweep(t.Context()); n != 0 || err != nil {
		t.Fatalf("swept %d again, %v", n, err)
	}
	if list := strings.Fields(containers(t, "label="+labelRun+"="+runPrefix("another run of "+t.Name()))); len(list) != 1 {
		t.Errorf("another run's: %q", list)
	}
	if r := shell(t, mine, "echo well"); string(r.Out) != "well\n" {
		t.Errorf("a live one: %+v", r)
	}
}

func TestPodmanPool(t *testing.T) {
	NeedPodman(t)
	pool, err := NewPodman(Podman{Config: Config{Keep: KeepTask, Size: 2, Restore: RestoreReplay, InDoubt: Rewind, Park: time.Minute, TTL: time.Hour}}, Options{Run: t.Name(), Pool: "repo"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Check(t.Context()); err != nil {
		t.Skipf("podman starts no containers here: %v", err)
	}
	key := Key{t.Name(), "repo", "task"}
	spec := Spec{Image: TestImage, Setup: []string{"echo set up > log"}, Env: map[string]string{"A": "b"}, Dir: "/testbed"}
	for i := range 2 { // the second time from the record
		l, err := pool.Lease(t.Context(), key, spec, Past{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Exec(t.Context(), Command{Key: "1/0", Shell: "echo ran $A $HOME >> log; cat log"})
		if err != nil || string(r.Out) != "set up\nran b /root\n" || r.Replayed != (i > 0) {
			t.Fatalf("got %q, replayed %v, %v", r.Out, r.Replayed, err)
		}
		l.Done()
	}
	if err := pool.Release(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func TestPodmanManyLayers(t *testing.T) {
	p := openPodman(t, "run of "+t.Name(), Podman{Config: Config{Restore: RestoreDisk}})
	if !p.layers() {
		t.Skip("layers need root")
	}
	dir := filepath.Join(t.TempDir(), "a folder, of: a rather long name "+strings.Repeat("x", 100))
	var layers []string
	for i := range 300 {
		layer := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, "layer"), []byte(strconv.Itoa(i)), 0o644); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.start(t.Context(), boxSpec{name: "mx-layers", spec: Spec{Image: TestImage, Env: map[string]string{"OWN": "yes"}}, layers: layers, work: work})
	if err != nil {
		t.Fatal(err)
	}
	r := shell(t, b, "cat /layer; echo $FROM_IMAGE $OWN; echo kept > /new")
	if string(r.Out) != "299yes yes\n" {
		t.Errorf("got %q %q", r.Out, r.Err)
	}
	b.kill()
	if text, err := os.ReadFile(filepath.Join(layers[299], "new")); err != nil || string(text) != "kept\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), p.base) {
		t.Errorf("still mounted:\n%s", mounts)
	}
	if now, err := os.Getwd(); now != before {
		t.Errorf("this process is in %s, %v", now, err)
	}
}

func BenchmarkPodman(b *testing.B) {
	p := openPodman(b, "run of "+b.Name(), Podman{})
	b.Run("start and end", func(b *testing.B) {
		for b.Loop() {
			x := startPodman(b, p, Spec{})
			x.kill()
		}
	})
	x := startPodman(b, p, Spec{})
	b.Run("exec", func(b *testing.B) {
		for b.Loop() {
			if _, err := x.conn.Exec(b.Context(), inside.Command{Args: []string{"/bin/true"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
