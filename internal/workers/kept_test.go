package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLocal(t *testing.T) {
	p := newPlace(t)
	l, g, err := p.start("local", 3)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{g.ID + "-0", g.ID + "-1", g.ID + "-2"}
	p.joined(names...)
	p.hidden()
	if got := states(p.list(l, g)); got != "running running running" {
		t.Errorf("got %s, want three that are running", got)
	}
	groups, err := p.Groups() // as another process finds them
	if err != nil || len(groups) != 1 || groups[0].ID != g.ID || groups[0].On != "local" {
		t.Fatalf("got %v and %v, want the group %s", groups, err, g.ID)
	}
	p.stop(l, groups[0])
	for _, n := range names {
		if !p.left(n) {
			t.Errorf("%s was not told to leave", n)
		}
	}
	if got := p.list(l, g); states(got) != "ended ended ended" || got[0].Text != "exit status 0" {
		t.Errorf("got %v, want three that ended with 0", got)
	}
	p.stop(l, g) // again: nothing is left to do
	if err := p.Remove(g); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Dir); err == nil {
		t.Errorf("%s is left", p.Dir)
	}
}

// A worker that ends by itself is told with how, and the others stay.
func TestLocalEnds(t *testing.T) {
	p := newPlace(t, "refused")
	l, g, err := p.start("local", 1)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the worker ends", func() bool { return states(p.list(l, g)) == "failed" })
	u := p.list(l, g)[0]
	log, _ := os.ReadFile(u.Log)
	if u.Text != "exit status 3" || !strings.Contains(string(log), "speaks protocol 2") {
		t.Errorf("got %+v with log %q, want exit status 3 and why", u, log)
	}
}

// Workers end with the process that holds them.
func TestKeeperKilled(t *testing.T) {
	p := newPlace(t)
	l, g, err := p.start("local", 2)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{g.ID + "-0", g.ID + "-1"}
	p.joined(names...)
	o, err := owner(g)
	if err != nil || o == nil {
		t.Fatalf("got %v and %v, want a keeper", o, err)
	}
	if err := syscall.Kill(o.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the workers leave", func() bool { return p.left(names[0]) && p.left(names[1]) })
	until(t, "their end is told", func() bool { return states(p.list(l, g)) == "failed failed" })
	p.stop(l, g)
}

// Who does not leave in time is ended.
func TestDeaf(t *testing.T) {
	p := newPlace(t, "deaf")
	l, g, err := p.start("local", 1)
	if err != nil {
		t.Fatal(err)
	}
	p.joined(g.ID + "-0")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Stop(ctx, g); err != nil {
		t.Fatal(err)
	}
	if o, err := owner(g); o != nil || err != nil {
		t.Errorf("got %v and %v, want no keeper left", o, err)
	}
	if u := p.list(l, g)[0]; u.State != Ended || u.Text != "signal: killed" {
		t.Errorf("got %+v, want it killed", u)
	}
}

func TestJoinFile(t *testing.T) {
	for text, ok := range map[string]bool{secret: true, secret + "\n": true, "": false, "\n": false, "a\nb\n": false} {
		p := newPlace(t)
		if err := os.WriteFile(p.Join, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.start("local", 1); (err == nil) != ok {
			t.Errorf("%q: got %v", text, err)
		}
	}
	p := newPlace(t)
	p.Join += ".gone"
	if _, _, err := p.start("local", 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the file is not there", err)
	}
}

func TestTargets(t *testing.T) {
	for on, want := range map[string]string{
		"locl":                             `there is no kind "locl" (did you mean local?)`,
		"":                                 "there is no kind",
		"local:x":                          "nothing follows local",
		"ssh":                              "want a file of hosts",
		"ssh:":                             "want a file of hosts",
		"slurm:gpu":                        `"gpu" is no option of sbatch`,
		`slurm:--partition="a`:             "a quote \" is not closed",
		"ray:":                             "want the address of the cluster's dashboard",
		"ray:host:8265":                    "want the address of the cluster's dashboard",
		"ray:http://h:1?GPU=x":             "GPU=x: want how many",
		"k8s:":                             "want the name of a namespace",
		"k8s:a b":                          "want the name of a namespace",
		"local":                            "",
		"slurm":                            "",
		"slurm:--partition=a --gres=gpu:1": "",
		"ray:http://h:8265?GPU=1":          "",
		"k8s:data":                         "",
	} {
		_, err := New(on)
		var target *TargetError
		if (err != nil) != (want != "") || err != nil && (!errors.As(err, &target) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", on, err, want)
		}
	}
}

func TestWords(t *testing.T) {
	got, err := words(` --a=1  '--b=two words' --c="it's" "" x`)
	if want := []string{"--a=1", "--b=two words", "--c=it's", "", "x"}; err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
}

func TestHosts(t *testing.T) {
	read := func(text string) ([]host, error) {
		file := filepath.Join(t.TempDir(), "hosts.txt")
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return readHosts(file)
	}
	got, err := read("# mine\n\ngpu01 slots=64 label gpu=h100 label zone=a # the fast one\nme@10.0.0.7\n")
	if want := "[{gpu01 64 [gpu=h100 zone=a]} {me@10.0.0.7 0 []}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v and %v, want %s", got, err, want)
	}
	for text, want := range map[string]string{
		"":                      "names no host",
		"# none\n":              "names no host",
		"a\n-oProxyCommand=x\n": ":2: \"-oProxyCommand=x\" is no host",
		"slots=3":               ":1: \"slots=3\" is no host",
		"a slots=0":             ":1: slots=0: want",
		"a slots=x":             ":1: slots=x: want",
		"a label":               ":1: label: want KEY=VALUE",
		"a label gpu":           ":1: label: want KEY=VALUE",
		"a b":                   ":1: \"b\": want slots=N",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := readHosts("/nowhere/hosts"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is no file", err)
	}
}
