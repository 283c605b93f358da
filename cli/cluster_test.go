package cli

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/cluster/natsnet"
	"matrix/run"
	"matrix/session"
)

// The address behind --serve may be there or not, and is no override.
func TestServeArgs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "7070")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given   string
		args    []string
		rest    []string
		address string
	}{
		{"", []string{"c", ":7070"}, []string{"c", ":7070"}, ""},
		{anyPort, []string{"c", "live=1"}, []string{"c", "live=1"}, anyPort},
		{anyPort, []string{"c", ":7070", "live=1"}, []string{"c", "live=1"}, ":7070"},
		{anyPort, []string{"7070", "c"}, []string{"c"}, "7070"},
		{anyPort, []string{"head.example:7070", "c"}, []string{"c"}, "head.example:7070"},
		{anyPort, []string{"[::1]:7070", "c"}, []string{"c"}, "[::1]:7070"},
		{anyPort, []string{file, "c"}, []string{file, "c"}, anyPort},
		{anyPort, []string{"c", "foo:bar"}, []string{"c"}, "foo:bar"},
		{anyPort, []string{"c", "k=a:b", "b/c:d"}, []string{"c", "k=a:b", "b/c:d"}, anyPort},
		{":1", []string{"c", ":7070"}, []string{"c", ":7070"}, ":1"},
	} {
		rest, address := (&serveOptions{address: c.given}).split(c.args)
		if !slices.Equal(rest, c.rest) || address != c.address {
			t.Errorf("--serve=%q %v: got %v at %q, want %v at %q", c.given, c.args, rest, address, c.rest, c.address)
		}
	}
}

// What is wrong with a command line is said before anybody is asked.
func TestWorkerUsage(t *testing.T) {
	t.Setenv("MATRIX_JOIN", "")
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3), "line": "matrix://x\n"})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	matrixCmd("worker").want(t, 2, "--join is missing")
	matrixCmd("worker", "--join", filepath.Join(dir, "nothing")).want(t, 2, "no such file", "--serve")
	matrixCmd("worker", "--join", out).want(t, 2, "no such file", "--serve")
	matrixCmd("worker", "--join", filepath.Join(dir, "line")).want(t, 2, "line: it has no token")
	matrixCmd("worker", "--join", "matrix://x").want(t, 2, "the line to join by: it has no token")
	matrixCmd("worker", "--join", "-").want(t, 2, "the first line of stdin")
	matrixCmd("worker", "--join", out, "--slots", "0").want(t, 2, "--slots 0")
	matrixCmd("worker", "--join", out, "--label", "gpu").want(t, 2, "key=value")
	matrixCmd("worker", "--join", out, "--head-timeout", "-1s").want(t, 2, "--head-timeout -1s")
	nobody := natsnet.Join{Token: strings.Repeat("t", 32), Addresses: []string{"127.0.0.1:1"}, Run: "aaaaaaaa"}.String()
	matrixCmd("worker", "--join", nobody, "--head-timeout", "10ms").want(t, 1, "127.0.0.1:1", "could not be reached for 10ms")
	matrixCmd("worker", "more").want(t, 2)
	matrixCmd("cluster", "status", out).want(t, 2, "no such file")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--no-work").want(t, 2, "cluster.serve")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--serve=nowhere").want(t, 2, "nowhere", "HOST:PORT")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--serve", "foo:bar").want(t, 2, `cluster.serve: got "foo:bar"`, "HOST:PORT")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--advertise", "h").want(t, 2, "--advertise", "without --serve")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := taken.Addr().String()
	matrixCmd("run", dir, "-o", filepath.Join(dir, "other"), "--serve", at).want(t, 2, "cluster.serve: "+at+": ", "in use", "Another program has that port")
	if _, err := os.Stat(filepath.Join(dir, "other", "state")); err == nil {
		t.Error("a run that could not be served has left its state")
	}
}

// A run that leaves all to workers ends by one, which ends with it.
func TestServe(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": twice, "rows.jsonl": rows(50)})
	out := filepath.Join(dir, "out")
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	head := make(chan result, 1)
	go func() { head <- matrixCmd("run", dir, "-o", out, "--serve", "127.0.0.1:0", "--no-work") }()
	status := result{}
	for end := time.Now().Add(time.Minute); !strings.Contains(status.out, "nobody"); {
		if status = matrixCmd("cluster", "status", out); time.Now().After(end) {
			t.Fatalf("status: %+v", status)
		}
	}
	status.want(t, 0, "No worker is there", "say", "nobody who is there serves it")
	t.Setenv("MATRIX_JOIN", out)
	matrixCmd("worker", "--slots", "3").want(t, 0, "Joined run twice", "Serving say, again.", "The run is finished.")
	(<-head).want(t, 0, "Workers join at 127.0.0.1:")
	matrixCmd("verify", out, "--complete").want(t, 0, "OK")
}

// The table has the head, where it acts, and says for how long who does not say anything
// is silent.
func TestStatusTable(t *testing.T) {
	steps := func(n int) map[string]run.RoleProgress {
		return map[string]run.RoleProgress{"say": {Acting: n, Hops: 10}, "check": {Acting: 7, Inline: true}}
	}
	v := &session.Snapshot{
		Name: "r", Progress: run.Progress{Live: 3},
		Roles: []session.RoleSnapshot{{Name: "say", RoleProgress: run.RoleProgress{Waiting: 4, Acting: 3, Hops: 30}}, {Name: "check", RoleProgress: run.RoleProgress{Inline: true}}},
		Head:  &session.WorkerState{ID: "head", Host: "h0", State: "working", Roles: []string{"say"}, Steps: steps(1)},
		Workers: []session.WorkerState{
			{ID: "w1", Host: "h1", State: "working", Roles: []string{"say"}, Steps: steps(2), Slots: 8},
			{ID: "w2", Host: "h2", State: "silent", Silent: 6.4, Roles: []string{"say"}, Steps: steps(0)},
		},
	}
	var b bytes.Buffer
	printCluster(&b, v)
	const want = `r: 0 done, 0 failed, 0 pending, 3 under way

role  waiting  acting  steps  workers
say         4       3     30        2

worker  host  state      acting  steps  slots  roles  labels
head    h0    working         1     10      -  say
w1      h1    working         2     10      8  say
w2      h2    silent 6s       0     10      -  say
`
	if got := regexp.MustCompile(` +\n`).ReplaceAllString(b.String(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What workers say of themselves cannot do anything to the terminal of who looks at it.
func TestStatusOfLiars(t *testing.T) {
	const bad = "x\x1b[2Jy\nz"
	v := &session.Snapshot{Roles: []session.RoleSnapshot{{Name: "say"}}, Workers: []session.WorkerState{{
		ID: bad, Host: bad, State: bad, Why: bad, Roles: []string{bad}, Labels: map[string]string{bad: bad},
	}}}
	var b strings.Builder
	printCluster(&b, v)
	if s := b.String(); strings.ContainsRune(s, 0x1b) || strings.Count(s, "\n") != 8 {
		t.Errorf("got %q", s)
	}
}
