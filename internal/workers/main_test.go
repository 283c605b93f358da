package workers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The line by which workers join, in all tests: no process may show it.
const secret = "nats://token-5ECRET@127.0.0.1:4222?ca=5ECRET"

// This program is a keeper or a worker where its first argument says so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keep":
			os.Exit(Keep(os.Stdin, os.Stdout))
		case "worker":
			os.Exit(fakeWorker(os.Args[2], os.Args[3], os.Args[4], os.Args[5:]))
		}
	}
	goleak.VerifyTestMain(m)
}

// fakeWorker reads the line to join by, leaves it in DIR/NAME with its other arguments, waits for
// its end and leaves DIR/NAME.left. It may be
//
//	refused  ends with 3, in words
//	deaf     does not end by itself
//	dropped  ends with 255 the first time, as ssh does without a connection
func fakeWorker(join, name, dir string, args []string) int {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	var line string
	eof := make(chan struct{})
	if join == "-" {
		in := bufio.NewReader(os.Stdin)
		line, _ = in.ReadString('\n')
		go func() {
			_, _ = io.Copy(io.Discard, in)
			close(eof)
		}()
	} else {
		b, err := os.ReadFile(join)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		line = string(b)
	}
	note := filepath.Join(dir, name)
	if err := writeWhole(note, []byte(line+strings.Join(args, "\n")), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("worker", name, "has joined")
	if slices.Contains(args, "refused") {
		fmt.Fprintln(os.Stderr, "the head speaks protocol 2, this worker 1")
		return 3
	}
	if slices.Contains(args, "dropped") {
		if _, err := os.Stat(note + ".dropped"); err != nil {
			_ = os.WriteFile(note+".dropped", nil, 0o600)
			return sshLost
		}
	}
	if slices.Contains(args, "deaf") {
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	select {
	case <-end:
	case <-eof:
	}
	_ = os.WriteFile(note+".left", nil, 0o600)
	return 0
}

// place is where the workers of a test are started.
type place struct {
	*testing.T
	Folder
	Spec
	notes string
}

// newPlace makes one; does is what the workers do.
func newPlace(t *testing.T, does ...string) *place {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &place{T: t, Folder: Folder{filepath.Join(dir, "workers")}, notes: filepath.Join(dir, "notes")}
	if err := os.Mkdir(p.notes, 0o777); err != nil {
		t.Fatal(err)
	}
	join := filepath.Join(dir, "join")
	if err := os.WriteFile(join, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Spec = Spec{Program: exe, Keeper: []string{exe, "keep"}, Join: join, Command: func(w Worker) []string {
		args := []string{"worker", w.Join, w.Name, p.notes, fmt.Sprint("slots ", w.Slots)}
		return slices.Concat(args, w.Labels, does)
	}}
	return p
}

// start starts workers and sees to it that none is left.
func (p *place) start(on string, n int) (Launcher, *Group, error) {
	p.Helper()
	l, err := New(on)
	if err != nil {
		p.Fatal(err)
	}
	g, err := p.New(on)
	if err != nil {
		p.Fatal(err)
	}
	err = l.Start(p.Context(), g, n, p.Spec)
	p.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.Stop(ctx, g)
	})
	return l, g, err
}

// joined waits for workers to have joined, and returns what they were told.
func (p *place) joined(names ...string) []string {
	p.Helper()
	all := make([]string, len(names))
	for i, name := range names {
		until(p.T, name+" joins", func() bool {
			b, err := os.ReadFile(filepath.Join(p.notes, name))
			all[i] = string(b)
			return err == nil
		})
		line, args, _ := strings.Cut(all[i], "\n")
		if line != secret {
			p.Errorf("%s was given %q to join by, want %q", name, line, secret)
		}
		all[i] = args
	}
	return all
}

// left reports whether a worker was told to leave, and did.
func (p *place) left(name string) bool {
	_, err := os.Stat(filepath.Join(p.notes, name+".left"))
	return err == nil
}

// hidden looks for the secret in command lines and environments of all processes, and
// in files that this package writes.
func (p *place) hidden() {
	p.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.Contains(string(b), "5ECRET") {
				p.Errorf("%s has the line to join by: %q", f, b)
			}
		}
	}
	_ = filepath.WalkDir(p.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/bin/matrix-") { // the program: this test, which has it in its text
			return err
		}
		if b, _ := os.ReadFile(path); strings.Contains(string(b), "5ECRET") {
			p.Errorf("%s has the line to join by", path)
		}
		return nil
	})
}

// states of units, as words.
func states(units []Unit) string {
	var all []string
	for _, u := range units {
		all = append(all, string(u.State))
	}
	return strings.Join(all, " ")
}

func (p *place) list(l Launcher, g *Group) []Unit {
	p.Helper()
	all, err := l.List(p.Context(), g)
	if err != nil {
		p.Fatal(err)
	}
	return all
}

// stop ends workers that have time to leave.
func (p *place) stop(l Launcher, g *Group) {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // that of the test has ended at its cleanup
	defer cancel()
	if err := l.Stop(ctx, g); err != nil {
		p.Fatal(err)
	}
	if ctx.Err() != nil {
		p.Fatal("the workers have not ended within a minute")
	}
}

// until waits for something to be so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// script puts a program on PATH.
func script(t *testing.T, name, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}
