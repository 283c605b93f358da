package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/dataset"
	"matrix/matrixtest"
	"matrix/session"
)

// logged is a process of this program whose output goes to a file.
type logged struct {
	*exec.Cmd
	log   string
	ended chan struct{}
}

func beginLogged(t *testing.T, log string, args ...string) *logged {
	t.Helper()
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &logged{process(t, args...), log, make(chan struct{})}
	p.Stdout, p.Stderr = f, f
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.Wait() // how it ended its state tells
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill() // it may have ended
		<-p.ended
		if t.Failed() {
			b, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", log, b)
		}
	})
	return p
}

func (p *logged) says(t *testing.T, text string) bool { return strings.Contains(read(t, p.log), text) }

// wantEnd waits for its end.
func (p *logged) wantEnd(t *testing.T, code int, text string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: not ended within two minutes", p.log)
	}
	if got := p.ProcessState.ExitCode(); got != code || !p.says(t, text) {
		t.Fatalf("%s: got exit code %d, want %d and %q", p.log, got, code, text)
	}
}

// threeHeads are the heads of a run at loopback, each a process.
type threeHeads struct {
	t     *testing.T
	dir   string // with the config
	out   string
	ports []int
	all   []*logged
	n     int // begun so far
}

func newHeads(t *testing.T, dir string) *threeHeads {
	return &threeHeads{t: t, dir: dir, out: filepath.Join(dir, "out"), all: make([]*logged, 3), ports: matrixtest.Ports(t, 3)}
}

func (h *threeHeads) name(i int) string { return fmt.Sprint("127.0.0.1:", h.ports[i]) }

// begin begins a head, for the first time or again; more are overrides of the config.
func (h *threeHeads) begin(i int, more ...string) {
	h.t.Helper()
	h.n++
	args := append([]string{"run", h.dir, "-o", h.out, "display=plain"}, more...)
	h.all[i] = beginLogged(h.t, filepath.Join(h.dir, fmt.Sprintf("head-%d-%d.log", i, h.n)), append(args,
		"--serve", h.name(i), "--peers", strings.Join([]string{h.name(0), h.name(1), h.name(2)}, ","), "--store", filepath.Join(h.dir, "store", fmt.Sprint(i)))...)
}

// status is how the run stands, as its leader tells; nil where nobody leads.
func (h *threeHeads) status() *session.Snapshot {
	r := matrixCmd("cluster", "status", h.out, "--json")
	var v session.Snapshot
	if r.code != 0 || json.Unmarshal([]byte(r.out), &v) != nil {
		return nil
	}
	return &v
}

// leader waits until a head leads that is not the one before, so many tasks are done, and
// the other heads that are there stand by.
func (h *threeHeads) leader(before int, done int64, standby int) (i int) {
	h.t.Helper()
	untilLong(h.t, fmt.Sprintf("another head than %d leads, %d tasks are done and %d heads stand by", before, done, standby), func() bool {
		v := h.status()
		if v == nil || v.Done != done {
			return false
		}
		i = -1
		stand := 0
		for _, x := range v.Heads {
			switch {
			case x.State == "standby" && x.Away == "":
				stand++
			case x.State == "leading":
				for k := range h.ports {
					if x.Name == h.name(k) {
						i = k
					}
				}
			}
		}
		return i >= 0 && i != before && stand == standby
	})
	return i
}

func untilLong(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within three minutes", what)
		}
	}
}

func (h *threeHeads) append(from, n int) {
	h.t.Helper()
	all := strings.SplitAfter(rows(from+n), "\n")
	f, err := os.OpenFile(filepath.Join(h.dir, "rows.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strings.Join(all[from:], ""))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	f.Close()
}

// A run that one process began goes on with three heads: when the one that leads is killed,
// and when it is stopped; all can be stopped, and go on; and in the end all is as one process
// leaves it.
func TestThreeHeads(t *testing.T) {
	t.Parallel()
	dir, inbox := following(t, 20)
	h := newHeads(t, dir)
	alone := beginLogged(t, filepath.Join(dir, "alone.log"), "run", dir, "-o", h.out, "display=plain")
	untilLong(t, "20 tasks are done", func() bool {
		b, _ := os.ReadFile(filepath.Join(h.out, "data", "part-00000.jsonl"))
		return strings.Count(string(b), "\n") == 20
	})
	if err := alone.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	alone.wantEnd(t, exitStopped, "")
	for i := range h.all {
		h.begin(i)
	}
	first := h.leader(-1, 20, 2)
	worker := beginLogged(t, filepath.Join(dir, "worker.log"), "worker", "--join", filepath.Join(h.out, "join"), "--cache", filepath.Join(dir, "cache"))
	untilSo(t, "the worker serves", func() bool { return worker.says(t, "Serving say") })

	if err := h.all[first].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.append(20, 20)
	second := h.leader(first, 40, 1)
	matrixCmd("run", dir, "-o", h.out).want(t, 2, "has a run whose state is with its heads ("+h.name(0), "heads.json")
	matrixCmd("verify", h.out).want(t, 1, "its state is with its heads", "!another process")
	matrixCmd("show", h.out, "q39").want(t, 0, "q39")
	matrixCmd("cluster", "status", h.out).want(t, 0, h.name(second), "leading", "standby", "away", "Logs: ")
	h.begin(first)
	h.leader(first, 40, 2)

	if err := h.all[second].Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	h.all[second].wantEnd(t, exitStopped, "Stopped. The run goes on at 127.0.0.1:")
	h.append(40, 20)
	h.leader(second, 60, 1)
	h.begin(second)
	h.leader(second, 60, 2)

	matrixCmd("stop", h.out).want(t, 0, "Stopped.")
	for _, p := range h.all {
		p.wantEnd(t, exitStopped, "Stopped. It was waiting for rows")
	}
	write(t, inbox+dataset.EndSuffix, "")
	for i := range h.all {
		h.begin(i)
	}
	for _, p := range h.all {
		p.wantEnd(t, 0, "")
	}
	worker.wantEnd(t, 0, "The run is finished.")
	matrixCmd("verify", h.out, "--complete").want(t, 0, "60 done", "OK")
	for _, gone := range []string{filepath.Join(dir, "store", "0"), filepath.Join(dir, "store", "1"), filepath.Join(dir, "store", "2"), filepath.Join(h.out, "join"), filepath.Join(h.out, "heads.json")} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is left", gone)
		}
	}
}

// A head with another config is told so when it comes to stand by, and not when it is to
// lead; the others go on, and it stands by once it has the run's.
func TestHeadOfAnotherConfig(t *testing.T) {
	t.Parallel()
	dir, inbox := following(t, 5)
	h := newHeads(t, dir)
	for i := range h.all {
		h.begin(i)
	}
	first := h.leader(-1, 5, 2)
	other := (first + 1) % 3
	if err := h.all[other].Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	h.all[other].wantEnd(t, exitStopped, "Stopped standing by")
	h.begin(other, "roles.say.chat.prompt=other: {{ item.text }}")
	h.all[other].wantEnd(t, 2, "roles.say.chat.prompt")
	h.begin(other)
	h.append(5, 5)
	h.leader(-1, 10, 2)
	write(t, inbox+dataset.EndSuffix, "")
	for _, p := range h.all {
		p.wantEnd(t, 0, "")
	}
	matrixCmd("verify", h.out, "--complete").want(t, 0, "10 done", "OK")
}

// A head that leads while most heads are away can commit nothing, and ends nevertheless when
// it is told to stop. The run goes on once they are there again.
func TestHeadWithoutOthersStops(t *testing.T) {
	t.Parallel()
	dir, inbox := following(t, 5)
	h := newHeads(t, dir)
	for i := range h.all {
		h.begin(i, "grace=1s")
	}
	first := h.leader(-1, 5, 2)
	for i, p := range h.all {
		if i != first {
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.append(5, 5)
	untilLong(t, "it says that it is alone", func() bool { return h.all[first].says(t, "No quorum") })
	if err := h.all[first].Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	h.all[first].wantEnd(t, exitStopped, "Stopped")
	for i := range h.all {
		h.begin(i)
	}
	write(t, inbox+dataset.EndSuffix, "")
	for _, p := range h.all {
		p.wantEnd(t, 0, "")
	}
	matrixCmd("verify", h.out, "--complete").want(t, 0, "10 done", "OK")
}

// A run that comes to the end of its rows before its goal is over for all heads, with the same
// words, and its folder is one of one process again.
func TestHeadsMissTheirGoal(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"config.yaml": echo + "until: {kept: 50}\noutput: {export: {format: messages}}\n", "rows.jsonl": rows(20)})
	h := newHeads(t, dir)
	for i := range h.all {
		h.begin(i)
	}
	for _, p := range h.all {
		p.wantEnd(t, exitStopped, "The goal was missed. until: 20 of 50 are kept")
	}
	for i := range h.all {
		if _, err := os.Stat(filepath.Join(dir, "store", fmt.Sprint(i))); err == nil {
			t.Errorf("head %d has left something in its store", i)
		}
	}
	matrixCmd("verify", h.out).want(t, 0, "20 done", "OK")
	for i := range h.all {
		if h.all[i].says(t, "20 rows") {
			return
		}
	}
	t.Error("no head says that it has made a training set of 20 rows")
}

// What cannot be done with several heads is said before anything is done.
func TestHeadsUsage(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3)})
	out := filepath.Join(dir, "out")
	run := func(args ...string) result { return matrixCmd(append([]string{"run", dir, "-o", out}, args...)...) }
	run("--peers", "a,b,c", "--store", dir).want(t, 2, "cluster.serve")
	run("--serve", ":7070", "--peers", "a,b,c").want(t, 2, "cluster.store")
	run("--serve", ":7070", "--peers", "a,b,c", "--nats", "nats://x", "--store", dir).want(t, 2, "cluster.peers and cluster.nats")
	run("--serve", ":7070", "--peers", "a,b,c", "--store", dir, "--fresh").want(t, 2, "do not start over")
	run("--serve", ":7070", "--peers", "a,b,c", "--store", dir, "--retry-failed").want(t, 2, "once the run has finished")
	run("--serve", ":7070", "--peers", "203.0.113.1,203.0.113.2,203.0.113.3", "--store", dir).want(t, 2, "cluster.peers: none of 203.0.113.1:7070")
	run("--serve", "127.0.0.1:7070", "--peers", "127.0.0.1,b", "--store", dir).want(t, 2, "want 3 or 5")
	run("--serve", "127.0.0.1:7070", "--peers", "127.0.0.1:7070,127.0.0.1:7071,127.0.0.1:7073", "--store", dir).want(t, 2, "leave a port between them")
	run("--serve", "127.0.0.1:0", "--nats", "nats://user:secret@127.0.0.1:1", "--store", dir).want(t, 1, "cluster.nats: nats://...@127.0.0.1:1", "!secret")
}
