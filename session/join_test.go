package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

// lines are what a session or a worker told a person.
type lines struct {
	mu  sync.Mutex
	all []string
	new chan struct{}
}

func newLines() *lines { return &lines{new: make(chan struct{}, 1)} }

func (l *lines) tell(line string) {
	l.mu.Lock()
	l.all = append(l.all, line)
	l.mu.Unlock()
	select {
	case l.new <- struct{}{}:
	default:
	}
}

// wait waits until something is told that has a text in it.
func (l *lines) wait(t *testing.T, text string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		all := strings.Join(l.all, "\n")
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-l.new:
		case <-late:
			t.Fatalf("waited a minute for %q; told:\n%s", text, all)
		}
	}
}

// served is a session that workers can join.
type served struct {
	*session.Session
	lines
	ended chan error
}

// serveRun opens the run of a config, which leaves all steps to workers, and begins it.
func serveRun(t *testing.T, path, out string, overrides ...string) *served {
	t.Helper()
	return serveAs(t, "v1", path, out, overrides...)
}

// serveAs is serveRun of another version of the program.
func serveAs(t *testing.T, version, path, out string, overrides ...string) *served {
	t.Helper()
	c, err := spec.Load(path, append([]string{"cluster.serve=0", "cluster.no_work=true"}, overrides...))
	if err != nil {
		t.Fatal(err)
	}
	s := &served{lines: lines{new: make(chan struct{}, 1)}, ended: make(chan error, 1)}
	if s.Session, err = session.Open(t.Context(), registry.New(), c, session.Options{Dir: out, Version: version, Tell: s.tell}); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.Run(t.Context()) }()
	return s
}

// end waits for the end of the run, and closes the session.
func (s *served) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return err
	case <-time.After(time.Minute):
		t.Fatal("the run does not end")
		return nil
	}
}

func lineOf(t *testing.T, out string) natsnet.Join {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(out, rundir.JoinFile))
	if err != nil {
		t.Fatal(err)
	}
	line, err := natsnet.ParseJoin(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// joinRun has a worker join and act; over is told how it ends.
func joinRun(t *testing.T, line natsnet.Join, o session.JoinOptions) (told *lines, over chan error) {
	t.Helper()
	told, over = newLines(), make(chan error, 1)
	o.Line, o.Tell, o.Cache = line, told.tell, t.TempDir()
	if o.Version == "" {
		o.Version = "v1"
	}
	go func() {
		j, err := session.Join(t.Context(), registry.New(), o)
		if err == nil {
			err = j.Run(t.Context())
			j.Close()
		}
		over <- err
	}()
	return told, over
}

func await(t *testing.T, what string, c chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute for %s", what)
		return nil
	}
}

// manyRows are n rows.
func manyRows(n int) string {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "{\"id\":\"q%d\",\"text\":\"question %d\"}\n", i, i)
	}
	return b.String()
}

// A run begun alone goes on with workers, is stopped, goes on with another config, for
// which the worker begins anew, is stopped again, and ends alone.
func TestServedAndNot(t *testing.T) {
	t.Parallel()
	const n = 300
	path, out := config(t, echo+"live: 10\n", manyRows(n)), filepath.Join(t.TempDir(), "out")
	stop := func(s *session.Session, work func() error, after int64) {
		t.Helper()
		over := make(chan error, 1)
		go func() { over <- work() }()
		for s.Progress().Done < after {
			select {
			case err := <-over:
				t.Fatalf("ended with %d done: %v", s.Progress().Done, err)
			case <-time.After(time.Millisecond):
			}
		}
		s.Stop()
		if err := await(t, "the stop", over); err != run.ErrStopped {
			t.Fatalf("stopped: got %v", err)
		}
	}
	alone := open(t, path, out, "models.m.delay=5ms")
	stop(alone, func() error { return alone.Run(t.Context()) }, 20)
	if alone.JoinFile() != "" {
		t.Errorf("nobody can join, and there is a line to do so: %s", alone.JoinFile())
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}

	first := serveRun(t, path, out, "models.m.delay=5ms")
	line := lineOf(t, out)
	if info, err := os.Stat(filepath.Join(out, rundir.JoinFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the line to join by: %v, %v; want mode 0600", info.Mode(), err)
	}
	told, over := joinRun(t, line, session.JoinOptions{Name: "w"})
	told.wait(t, "Serving say.")
	first.wait(t, "has joined: say.")
	v, err := session.Status(t.Context(), line)
	if err != nil || len(v.Workers) != 1 || v.Workers[0].State != "working" || v.Workers[0].Version != "v1" || v.Roles[0].Unserved {
		t.Errorf("status: got %+v, %v", v, err)
	}
	stop(first.Session, func() error { return first.end(t) }, 100)
	told.wait(t, "stops, with tasks pending")

	second := serveRun(t, path, out, "models.m.delay=6ms")
	if again := lineOf(t, out); again.String() != line.String() {
		t.Errorf("the line to join by is %s now, and was %s", again, line)
	}
	told.wait(t, "beginning anew")
	stop(second.Session, func() error { return second.end(t) }, 150)

	alone = open(t, path, out)
	if err := alone.Run(t.Context()); err != nil || alone.Progress().Done != n {
		t.Errorf("at the end: %v, %d done", err, alone.Progress().Done)
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := session.OpenDir(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if a, err := session.Verify(t.Context(), d); err != nil || !a.OK {
		t.Errorf("verify: %+v, %v", a, err)
	}
	select {
	case err := <-over:
		t.Errorf("the worker ended: %v", err)
	default: // it waits for a head
	}
}

// Who is not to join, or can do nothing here, is told why.
func TestJoinRefused(t *testing.T) {
	path, out := config(t, `
name: keys
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  say: {where: 'gpu == "h100"', chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
`, rows), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out)
	line := lineOf(t, out)
	for late := time.Now().Add(time.Minute); !s.Snapshot().Roles[0].Unserved; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("nobody is there: got %+v", s.Snapshot().Roles[0])
		}
	}
	_, over := joinRun(t, line, session.JoinOptions{Version: "v2"})
	var version *session.VersionError
	if err := await(t, "the refusal", over); !errors.As(err, &version) || version.Worker != "v2" || version.Head != "v1" {
		t.Errorf("another version: got %v", err)
	}
	_, over = joinRun(t, line, session.JoinOptions{Labels: map[string]string{"gpu": "l4"}})
	if err := await(t, "the refusal", over); !errors.As(err, new(*session.LackingError)) {
		t.Errorf("labels for which no role is: got %v", err)
	}
	_, over = joinRun(t, line, session.JoinOptions{Labels: map[string]string{"gpu": "h100"}, Roles: []string{"sya"}})
	if err := await(t, "the refusal", over); !errors.As(err, new(*spec.UsageError)) {
		t.Errorf("a role that there is not: got %v", err)
	}
	wrong := line
	wrong.Token = "a" + wrong.Token[1:]
	if wrong.Token == line.Token {
		wrong.Token = "b" + wrong.Token[1:]
	}
	_, over = joinRun(t, wrong, session.JoinOptions{})
	if err := await(t, "the refusal", over); !errors.As(err, new(*natsnet.RefusedError)) {
		t.Errorf("another token: got %v", err)
	}
	_, over = joinRun(t, line, session.JoinOptions{Labels: map[string]string{"gpu": "h100"}, Slots: 1})
	if err := s.end(t); err != nil {
		t.Errorf("the run: got %v", err)
	}
	if err := await(t, "the end", over); err != nil {
		t.Errorf("a worker at the end of its run: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(out, rundir.JoinFile)); !os.IsNotExist(err) {
		t.Errorf("the line to join by outlives the run: %v", err)
	}
}

// A worker at which all goes wrong stops the run, with what it has found.
func TestWorkerHalts(t *testing.T) {
	path, out := config(t, `
name: wrong
dataset: {path: rows.jsonl, id: id}
roles:
  number: {inline: false, compute: {n: int(item.text)}}
flow: [number]
`, manyRows(300)), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out)
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{})
	var many *run.TooManyFailed
	if err := s.end(t); !errors.As(err, &many) || many.Role != "number" || many.Ended {
		t.Errorf("the run: got %v, want that too many failed", err)
	}
	if err := await(t, "the worker", over); !errors.As(err, &many) {
		t.Errorf("the worker: got %v, want that too many failed", err)
	}
}

// A worker that is drained gives back what it has not begun, lands the rest, and says
// no more of it than that it has left.
func TestDrain(t *testing.T) {
	path, out := config(t, echo+"live: 50\n", manyRows(100)), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out, "models.m.delay=20ms")
	line := lineOf(t, out)
	soft, drain := context.WithCancel(t.Context())
	defer drain()
	told, over := newLines(), make(chan error, 1)
	go func() {
		j, err := session.Join(soft, registry.New(), session.JoinOptions{Line: line, Version: "v1", Slots: 5, Cache: t.TempDir(), Tell: told.tell})
		if err == nil {
			err = j.Run(matrix.WithStopping(t.Context(), soft))
			j.Close()
		}
		over <- err
	}()
	for s.Progress().Done < 10 {
		time.Sleep(time.Millisecond)
	}
	drain()
	if err := await(t, "the drained worker", over); err != nil {
		t.Errorf("drained: got %v", err)
	}
	s.wait(t, "is gone")
	if p := s.Progress(); p.Done == 100 || len(s.Snapshot().Workers) != 0 {
		t.Errorf("after it was drained: %d done, %v there", p.Done, s.Snapshot().Workers)
	}
	_, over = joinRun(t, line, session.JoinOptions{})
	if err := errors.Join(s.end(t), await(t, "the worker", over)); err != nil || s.Progress().Done != 100 {
		t.Errorf("got %v, %d done", err, s.Progress().Done)
	}
}

// A worker hears of a head that went on with another version of the program, hands over
// what it did, and ends.
func TestHeadOfAnotherVersion(t *testing.T) {
	t.Parallel()
	path, out := config(t, echo+"live: 5\n", manyRows(100)), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out, "models.m.delay=20ms")
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{})
	for s.Progress().Done < 10 {
		time.Sleep(time.Millisecond)
	}
	s.Stop()
	if err := s.end(t); err != run.ErrStopped {
		t.Fatalf("stopped: got %v", err)
	}
	s = serveAs(t, "v2", path, out)
	var version *session.VersionError
	if err := await(t, "the worker", over); !errors.As(err, &version) || version.Worker != "v1" || version.Head != "v2" {
		t.Errorf("the head has another version now: got %v", err)
	}
	_, over = joinRun(t, lineOf(t, out), session.JoinOptions{Version: "v2"})
	if err := errors.Join(s.end(t), await(t, "the worker", over)); err != nil || s.Progress().Done != 100 {
		t.Errorf("got %v, %d done", err, s.Progress().Done)
	}
}

// A head that does not come back is not waited for for ever: neither by who would join
// nor by who has joined.
func TestHeadGone(t *testing.T) {
	t.Parallel()
	path, out := config(t, echo+"live: 5\n", manyRows(20)), filepath.Join(t.TempDir(), "out")
	s := serveRun(t, path, out, "models.m.delay=1h", "grace=200ms")
	line := lineOf(t, out)
	told, over := joinRun(t, line, session.JoinOptions{Away: 50 * time.Millisecond})
	told.wait(t, "Serving say.")
	soft, drain := context.WithCancel(t.Context())
	hard, cut := context.WithCancel(t.Context())
	defer cut()
	patient, ended := newLines(), make(chan error, 1)
	go func() {
		j, err := session.Join(soft, registry.New(), session.JoinOptions{Line: line, Version: "v1", Cache: t.TempDir(), Tell: patient.tell})
		if err == nil {
			err = j.Run(matrix.WithStopping(hard, soft))
			j.Close()
		}
		ended <- err
	}()
	patient.wait(t, "Serving say.")
	for s.Progress().Roles["say"].Acting == 0 {
		time.Sleep(time.Millisecond)
	}
	s.Stop()
	if err := s.end(t); err != run.ErrStopped {
		t.Fatalf("stopped: got %v", err)
	}
	var away *session.AwayError
	if err := await(t, "the worker", over); !errors.As(err, &away) {
		t.Errorf("joined: got %v, want that the head is away", err)
	}
	_, over = joinRun(t, line, session.JoinOptions{Away: 50 * time.Millisecond})
	if err := await(t, "the worker", over); !errors.As(err, &away) {
		t.Errorf("joining: got %v, want that the head is away", err)
	}
	patient.wait(t, "cannot be reached")
	drain() // a signal, and the second
	cut()
	if err := await(t, "who is told to end now", ended); err != nil {
		t.Errorf("ended while the head was away: got %v", err)
	}
}

// A head that leaves all to workers needs neither the keys nor the programs of its run;
// what it leaves out, they have. Its config is checked all the same.
func TestHeadWithoutKeys(t *testing.T) {
	service := newService(t)
	dir := files(t, map[string]string{
		"rows.jsonl": manyRows(20),
		"config.yaml": `
name: keys
dataset: {path: rows.jsonl, id: id}
models:
  seer: {base_url: "` + service.URL + `/v1", model: m, api_key: "${env:A_KEY_OF_WORKERS}", price: {input: 1, output: 1}}
budget: {usd: 100}
roles:
  ask: {chat: {model: seer, prompt: "{{ item.text }}", max_tokens: 50}}
  count: {command: {run: [a-program-of-workers], env: {LEVEL: "${env:A_LEVEL_OF_WORKERS}"}}}
flow: [ask, count]
`,
	})
	path, out := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "out")
	c, err := spec.Load(path, []string{"cluster.serve=0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out}); err == nil || !strings.Contains(err.Error(), "A_KEY_OF_WORKERS is not set") || !strings.Contains(err.Error(), "A_LEVEL_OF_WORKERS is not set") {
		t.Errorf("a head that works: got %v, want what is missing", err)
	}
	for override, want := range map[string]string{"roles.ask.chat.prompt={{ item.txt }}": "txt", "models.seer.model=[]": "models.seer.model"} {
		if c, err = spec.Load(path, []string{"cluster.serve=0", "cluster.no_work=true", override}); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", override, err, want)
		}
	}
	s := serveRun(t, path, out)
	t.Setenv("A_KEY_OF_WORKERS", "sk-of-the-workers")
	t.Setenv("A_LEVEL_OF_WORKERS", "3")
	bin := files(t, map[string]string{"a-program-of-workers": "#!/bin/sh\nwhile read -r task; do echo \"{\\\"text\\\": \\\"$LEVEL\\\"}\"; done\n"})
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{})
	if err := errors.Join(s.end(t), await(t, "the worker", over)); err != nil || s.Progress().Done != 20 {
		t.Errorf("got %v, %d done: %s", err, s.Progress().Done, s.Progress().Failure)
	}
	if key := service.keys[0]; len(service.keys) != 20 || key != "Bearer sk-of-the-workers" {
		t.Errorf("the service was asked %d times, with %q", len(service.keys), key)
	}
	if b, err := os.ReadFile(filepath.Join(out, "config.yaml")); err != nil || strings.Contains(string(b), "sk-of-the-workers") || !strings.Contains(string(b), "A_KEY_OF_WORKERS") {
		t.Errorf("the config that is kept: %v\n%s", err, b)
	}
}

// What is wrong with the section of a config is said.
func TestServeAddress(t *testing.T) {
	path := config(t, echo, rows)
	for address, want := range map[string]string{
		"nowhere": `got "nowhere"`, "host:port": "want HOST:PORT", "1:2:3": "want HOST:PORT", "127.0.0.1:99999": "want HOST:PORT", "192.0.2.1:0": "cannot assign",
	} {
		c, err := spec.Load(path, []string{"cluster.serve=" + address})
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.Open(t.Context(), registry.New(), c, session.Options{Dir: filepath.Join(t.TempDir(), "out")})
		if usage := (*spec.UsageError)(nil); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cluster.serve") {
			t.Errorf("%s: got %v, want %q", address, err, want)
		}
	}
	c, err := spec.Load(path, []string{"cluster.no_work=true"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: filepath.Join(t.TempDir(), "out")}); err == nil || !strings.Contains(err.Error(), "cluster.serve") {
		t.Errorf("no_work alone: got %v", err)
	}
}

// A worker that has never joined keeps nothing and is told what its line is good for. One
// that ends by itself does not say that the head is away.
func TestJoinSays(t *testing.T) {
	path, out := config(t, echo, rows), filepath.Join(t.TempDir(), "out")
	nobody := natsnet.Join{Token: strings.Repeat("t", 32), Addresses: []string{"127.0.0.1:1"}, Run: "aaaaaaaa"}
	told, over := joinRun(t, nobody, session.JoinOptions{Away: 50 * time.Millisecond})
	if err := await(t, "the end", over); !errors.As(err, new(*session.AwayError)) {
		t.Errorf("nobody is there: got %v", err)
	}
	if said := strings.Join(told.all, "\n"); strings.Contains(said, "is kept") || !strings.Contains(said, "for the machine of the head alone") {
		t.Errorf("nobody is there: told %s", said)
	}

	s := serveRun(t, path, out)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	told = newLines()
	j, err := session.Join(t.Context(), registry.New(), session.JoinOptions{Line: lineOf(t, out), Version: "v1", Cache: file, Tell: told.tell})
	if err != nil {
		t.Fatal(err)
	}
	err = j.Run(t.Context())
	j.Close()
	var cache *session.CacheError
	if !errors.As(err, &cache) || cache.Folder != file {
		t.Errorf("a cache that is none: got %v", err)
	}
	told.mu.Lock()
	if said := strings.Join(told.all, "\n"); strings.Contains(said, "cannot be reached") || !strings.Contains(said, "Joined run") {
		t.Errorf("it ends by itself: told %s", said)
	}
	told.mu.Unlock()
	s.Stop()
	if err := s.end(t); err != run.ErrStopped {
		t.Error(err)
	}
}
