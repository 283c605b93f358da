package session_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// counted is a service that never says the same again, and counts its calls.
type counted struct {
	*httptest.Server
	calls atomic.Int64
}

func newCounted(t *testing.T) *counted {
	s := &counted{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   "test",
			"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": fmt.Sprint("reply ", s.calls.Add(1))}, "finish_reason": "stop"}},
			"usage":   map[string]any{"prompt_tokens": 10, "completion_tokens": 5},
		})
	}))
	t.Cleanup(s.Close)
	return s
}

const asking = `
name: asking
dataset: {path: rows.jsonl, id: id}
models:
  m: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}, temperature: 0.5}
roles:
  ask: {chat: {model: m, prompt: "{{ item.text }}"}}
  judge: {chat: {model: m, prompt: "How good is: {{ turn('ask').text }}"}}
flow: [ask, judge]
`

// done are the tasks that a run has done, by id.
func done(t *testing.T, out string) map[string]*matrix.Task {
	t.Helper()
	d, err := rundir.OpenOutput(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all := map[string]*matrix.Task{}
	for r, err := range d.Tasks(t.Context(), matrix.Done) {
		if err != nil {
			t.Fatal(err)
		}
		all[r.Task.ID] = r.Task
	}
	return all
}

// complete runs a config to its end.
func complete(t *testing.T, path, out string, overrides ...string) *session.Snapshot {
	t.Helper()
	s := open(t, path, out, overrides...)
	defer s.Close()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.Snapshot()
}

// A run of other roles and another flow is given what the one before was answered, and
// pays for the rest.
func TestReuse(t *testing.T) {
	service := newCounted(t)
	old, out := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "new")
	text := fmt.Sprintf(asking, service.URL)
	complete(t, config(t, text, rows), old)
	was := done(t, old)

	other := strings.NewReplacer("name: asking", "name: other", "ask:", "first:", "turn('ask')", "turn('first')", "How good", "How bad", "[ask", "[first").Replace(text)
	path := config(t, other, rows+`{"id":"d","text":"four"}`+"\n")
	before := service.calls.Load()
	v := complete(t, path, out, "reuse="+old, "+budget={usd: 1000}")
	if asked := service.calls.Load() - before; asked != 5 {
		t.Errorf("asked %d times, want 4 of judges and 1 of a new row", asked)
	}
	if reused, calls := v.Reused(); reused != 3 || calls != 8 || v.Usage["m"].PromptTokens != 50 || v.Usage["m"].USD != 0.075 || v.Spending.USD != 0.075 {
		t.Errorf("got %d of %d calls, %+v, %+v", reused, calls, v.Usage["m"], v.Spending)
	}
	for id, x := range done(t, out) {
		c := x.Turns[0].Calls[0]
		if id == "d" {
			if c.Reused != nil {
				t.Errorf("d: got %+v", c.Reused)
			}
			continue
		}
		if x.Turns[0].Text != was[id].Turns[0].Text || c.Reused == nil || *c.Reused != (matrix.Reused{Run: old, Task: id}) || c.PromptTokens != 0 || c.USD != 0 || c.Model != "test" || c.Finish != "stop" || *c.Seed != *was[id].Turns[0].Calls[0].Seed {
			t.Errorf("%s: got %q, %+v", id, x.Turns[0].Text, c)
		}
	}
	if b, err := os.ReadFile(filepath.Join(out, rundir.SummaryFile)); err != nil || !strings.Contains(string(b), `"reused": 3`) {
		t.Errorf("summary: %s, %v", b, err)
	}

	// What was reused can be reused, also where the first run is gone.
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	before = service.calls.Load()
	last := filepath.Join(t.TempDir(), "last")
	complete(t, path, last, "reuse="+out)
	if asked := service.calls.Load() - before; asked != 0 {
		t.Errorf("asked %d times what is all there", asked)
	}
	// And a run that was begun goes on without those that it took replies from.
	if err := os.RemoveAll(out); err != nil {
		t.Fatal(err)
	}
	complete(t, path, last, "reuse="+out)
}

// Workers are given replies by the head, long ones too.
func TestReuseAtWorkers(t *testing.T) {
	service := newCounted(t)
	long := strings.Repeat("long ", 1<<19) // more than a frame
	text := strings.Replace(fmt.Sprintf(asking, service.URL), "roles:", "  s: {kind: scripted, reply: \""+"{{ 'long ' * 524288 }}"+"\"}\nroles:\n  tell: {chat: {model: s, prompt: tell}}", 1)
	text = strings.Replace(text, "flow: [", "flow: [tell, ", 1)
	path := config(t, text, rows)
	old, out := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "new")
	complete(t, path, old)
	before := service.calls.Load()
	s := serveRun(t, path, out, "reuse="+old)
	_, over := joinRun(t, lineOf(t, out), session.JoinOptions{Name: "w"})
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the worker", over); err != nil {
		t.Error(err)
	}
	if asked := service.calls.Load() - before; asked != 0 {
		t.Errorf("asked %d times", asked)
	}
	for id, x := range done(t, out) {
		if x.Turns[0].Text != long || x.Turns[0].Calls[0].Reused == nil || x.Turns[1].Calls[0].Reused == nil {
			t.Errorf("%s: got %d bytes, %+v", id, len(x.Turns[0].Text), x.Turns[1])
		}
	}
}

// Each reply is given out once, whenever the run is killed, and none is paid for twice.
func TestReuseOverKills(t *testing.T) {
	const name = "REUSE_TO_KILL"
	path := os.Getenv(name)
	overrides := []string{"trials=150", "live=10", "reuse=" + filepath.Join(path, "old"), "models.w.delay=5ms"}
	if path != "" { // the program
		t.Error(open(t, path, filepath.Join(path, "new"), overrides...).Run(t.Context()))
		return
	}
	service := newCounted(t)
	path = config(t, strings.NewReplacer("  judge: {chat: {model: m, prompt: \"How good is: {{ turn('ask').text }}\"}}\n", "", "models:", "models:\n  w: {kind: scripted, reply: waited}", "roles:", "roles:\n  wait: {chat: {model: w, prompt: wait}}", "[ask, judge]", "[ask, wait]").
		Replace(fmt.Sprintf(asking, service.URL)), `{"id":"a","text":"all the same"}`+"\n")
	old, out := filepath.Join(path, "old"), filepath.Join(path, "new")
	overrides[2] = "reuse=" + old
	complete(t, path, old, "trials=100")
	before := service.calls.Load()
	for kill := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReuseOverKills$")
		cmd.Env = append(os.Environ(), name+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- cmd.Wait() }()
		for lines := 0; lines < 5+20*kill; {
			b, _ := os.ReadFile(filepath.Join(out, rundir.DataDir, "part-00000.jsonl"))
			lines = strings.Count(string(b), "\n")
			select {
			case err := <-over:
				t.Fatalf("the run ended: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-over
	}
	complete(t, path, out, overrides...)
	texts, reused := []string{}, 0
	for _, x := range done(t, out) {
		texts = append(texts, x.Turns[0].Text)
		if x.Turns[0].Calls[0].Reused != nil {
			reused++
		}
	}
	if slices.Sort(texts); len(texts) != 150 || len(slices.Compact(texts)) != 150 {
		t.Errorf("got %d replies, %d of them different, want 150", len(texts), len(slices.Compact(texts)))
	}
	if asked := service.calls.Load() - before; reused != 100 || asked < 50 || asked > 50+4*10 { // a call in flight is lost with its process
		t.Errorf("%d replies are reused, and %d were asked for; want 100, and 50 and those that kills cut off", reused, asked)
	}
}

// Tasks that are tried again are not given the reply again that failed them.
func TestReuseTriesAgain(t *testing.T) {
	service := newCounted(t)
	text := strings.NewReplacer("  judge: {chat: {model: m, prompt: \"How good is: {{ turn('ask').text }}\"}}\n", "", "[ask, judge]", "[ask]", `{{ item.text }}"`, `{{ item.text }}", reask: 0, parse: {regex: "reply (?P<n>[0-9]+)$"}`).Replace(fmt.Sprintf(asking, service.URL))
	old, out := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "new")
	complete(t, config(t, text, rows), old)
	path := config(t, strings.Replace(text, "[0-9]+", "[4-9]", 1), rows) // those that are there will not do
	c, err := spec.Load(path, []string{"reuse=" + old, "max_failed=none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, retry := range []bool{false, true} {
		s, err := session.Open(t.Context(), registry.New(), c, session.Options{Dir: out, Retry: retry})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := s.Progress(); !retry && p.Failed != 3 || retry && p.Done != 3 {
			t.Errorf("retry %v: got %d done, %d failed", retry, p.Done, p.Failed)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := service.calls.Load(); n != 6 {
		t.Errorf("asked %d times, want 3 of the first run and 3 that were tried again", n)
	}
}

// What is no run that can be reused is told, and nothing is begun or deleted for it.
func TestReuseRefused(t *testing.T) {
	service := newCounted(t)
	path := config(t, fmt.Sprintf(asking, service.URL), rows)
	kept := filepath.Join(t.TempDir(), "kept")
	complete(t, path, kept)
	under := open(t, path, filepath.Join(t.TempDir(), "under"))
	defer under.Close()
	empty := t.TempDir()
	for _, tt := range []struct{ dir, want string }{
		{filepath.Join(empty, "nothing"), "no such folder"},
		{empty, "is not the folder of a run"},
		{kept, "is the folder of this run itself"},
		{under.Folder.Path, "is under way: stop it with matrix stop, or wait for its end"},
	} {
		c, err := spec.Load(path, []string{"reuse=" + tt.dir})
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.Open(t.Context(), registry.New(), c, session.Options{Dir: kept, Fresh: true})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, new(*spec.UsageError)) {
			t.Errorf("%s: got %v, want %q", tt.dir, err, tt.want)
		}
	}
	if len(done(t, kept)) != 3 {
		t.Error("the run is not there any more")
	}
}
