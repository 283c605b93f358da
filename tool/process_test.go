package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// counters is a pool of testdata/counter.py.
func counters(t *testing.T, change func(*ProcessConfig)) *Process {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("needs python3: ", err)
	}
	return pool(t, func(c *ProcessConfig) {
		c.Run = []string{"python3", "testdata/counter.py"}
		if change != nil {
			change(c)
		}
	})
}

func pool(t *testing.T, change func(*ProcessConfig)) *Process {
	t.Helper()
	c := ProcessConfig{Workers: 2, Leases: 8, Score: Scorers{1}, Timeout: time.Minute, TTL: time.Hour, Park: time.Hour, Restore: "replay", Output: 1 << 20}
	change(&c)
	p := NewProcess("counter", c, func(s string) string { return strings.ReplaceAll(s, "sesame", "***") }, func(line string) { t.Log(line) })
	t.Cleanup(func() { p.Close() })
	if err := p.Open(t.Context(), "run", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return p
}

// life is a task as its engine has it: what is committed, and what is asked next.
type life struct {
	*testing.T
	pool *Process
	id   string
	past []Request
	sum  int
}

func (l *life) task() Task {
	return Task{ID: l.id, Row: json.RawMessage(`{"start": 0, "goal": 3}`), Seed: 1, Past: func() []Request { return l.past }}
}

// add makes a call of the next step, and commits it where commit says so.
func (l *life) add(n int, commit bool) Result {
	l.Helper()
	r := Request{Key: fmt.Sprintf("%d/0", len(l.past)+1), Name: "add", Arguments: fmt.Appendf(nil, `{"n": %d}`, n)}
	res, err := l.pool.Call(l.Context(), l.task(), r)
	if err != nil {
		l.Fatalf("task %s, call %s: %v", l.id, r.Key, err)
	}
	if want := strconv.Itoa(l.sum + n); res.Content != want {
		l.Fatalf("task %s, call %s: got %s, want %s", l.id, r.Key, res.Content, want)
	}
	if commit {
		r.Content, r.Changed = res.Content, res.Changed
		l.past, l.sum = append(l.past, r), l.sum+n
	}
	return res
}

func TestStateLives(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	if r := l.add(1, true).Trace; r.Restored != Fresh || r.Generation != 1 {
		t.Errorf("first call: got %+v, want a fresh state", r)
	}
	if r := l.add(2, true).Trace; r.Restored != Live || r.Generation != 1 {
		t.Errorf("second call: got %+v, want the same state", r)
	}
	if err := p.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if r := l.add(3, true).Trace; r.Restored != Replay {
		t.Errorf("after its release: got %+v, want one that was made again", r)
	}
}

func TestSameKeySameAnswer(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	l.add(1, true)
	l.add(5, false)
	l.add(5, false) // the step is done again: it was not committed
	l.add(7, false) // and comes to another call: the state with 5 is not the task's
	l.add(7, true)
	l.add(1, true)
	if s := p.Stats(); s.Made != 2 || s.Calls != 4 {
		t.Errorf("got %+v, want 2 states and 4 calls", s)
	}
}

// TestSameCallInOtherOrder has the past tell a call with its arguments in another order
// than the model wrote them.
func TestSameCallInOtherOrder(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	asked := Request{Key: "1/0", Name: "add", Arguments: json.RawMessage(`{"n": 1, "a": 0}`)}
	if _, err := p.Call(t.Context(), l.task(), asked); err != nil {
		t.Fatal(err)
	}
	asked.Arguments, asked.Content, asked.Changed = json.RawMessage(`{"a":0,"n":1}`), "1", true
	l.past, l.sum = append(l.past, asked), 1
	if r := l.add(1, true).Trace; r.Restored != Live {
		t.Errorf("got %+v, want the state as it was", r)
	}
}

// TestElsewhere has a task act in another process meanwhile, and come back.
func TestElsewhere(t *testing.T) {
	here, there := counters(t, nil), counters(t, nil)
	l := &life{T: t, pool: here, id: "a"}
	l.add(1, true)
	l.pool = there
	l.add(2, true)
	l.pool = here
	if r := l.add(3, true).Trace; r.Restored != Replay || r.Generation != 2 {
		t.Errorf("got %+v, want a state that was made again", r)
	}
}

func TestBadCallIsAnswered(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	for _, r := range []Request{{Key: "1/0", Name: "fly", Arguments: json.RawMessage(`{}`)}, {Key: "1/1", Name: "add", Arguments: json.RawMessage(`{"n": "x"}`)}} {
		res, err := p.Call(t.Context(), l.task(), r)
		if err != nil || !res.IsError || !strings.HasPrefix(res.Content, "Error: ") || res.Changed {
			t.Errorf("%s: got %+v, %v, want an answer that is an error", r.Name, res, err)
		}
	}
}

// TestStorm kills the processes of a pool at random under many tasks.
func TestStorm(t *testing.T) {
	p := counters(t, func(c *ProcessConfig) { c.Leases = 16; c.Park = 5 * time.Millisecond })
	var acting sync.WaitGroup
	stop := make(chan struct{})
	killed := make(chan int)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
			s := p.keepers[n%2]
			s.mu.Lock()
			if s.now != nil && !gone(s.now) {
				_ = syscall.Kill(s.now.Process().PID(), syscall.SIGKILL)
				n++
			}
			s.mu.Unlock()
		}
	}()
	for i := range 48 {
		acting.Go(func() {
			l := &life{T: t, pool: p, id: strconv.Itoa(i)}
			for n := range 20 {
				l.add(n, true)
			}
			if err := p.Release(t.Context(), l.id); err != nil {
				t.Error(err)
			}
		})
	}
	acting.Wait()
	close(stop)
	if n := <-killed; n == 0 {
		t.Error("nothing was killed")
	}
	s := p.Stats()
	t.Logf("%+v", s)
	if s.Held != 0 || s.Waiting != 0 || len(p.leases) != 0 {
		t.Errorf("got %+v and %d leases, want nothing held", s, len(p.leases))
	}
}

func TestWaitsForAPlace(t *testing.T) {
	p := counters(t, func(c *ProcessConfig) { c.Workers, c.Leases = 1, 1 })
	a, b := &life{T: t, pool: p, id: "a"}, &life{T: t, pool: p, id: "b"}
	a.add(1, true)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Call(short, b.task(), Request{Key: "1/0", Name: "show", Arguments: json.RawMessage(`{}`)})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the end of its ctx", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); b.add(1, true) }()
	if err := p.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	<-done
	if s := p.Stats(); s.Held != 1 {
		t.Errorf("got %+v, want one held", s)
	}
}

func TestIdleStatesGiveWay(t *testing.T) {
	p := counters(t, func(c *ProcessConfig) { c.Workers, c.Leases, c.Park = 1, 2, time.Millisecond })
	var lives []*life
	for i := range 6 {
		lives = append(lives, &life{T: t, pool: p, id: strconv.Itoa(i)})
	}
	for range 3 {
		for _, l := range lives {
			l.add(1, true)
		}
	}
	if s := p.Stats(); s.Parked == 0 || s.Held > 2 {
		t.Errorf("got %+v, want some parked", s)
	}
}

func TestConstantsAreAskedOnce(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	tools, err := p.Tools(t.Context(), l.task())
	if err != nil || len(tools) != 2 || tools[0].Name != "add" {
		t.Fatalf("got %v, %v, want two tools", tools, err)
	}
	kept, err := os.ReadFile(filepath.Join(p.dir, "tools-1.json"))
	if err != nil || !json.Valid(kept) {
		t.Errorf("got %s, %v, want the tools in a file", kept, err)
	}
	o, _, err := p.State(t.Context(), l.task())
	if err != nil || string(o.Data) != `{"goal": 3}` {
		t.Errorf("got %s, %v, want the goal of the row", o.Data, err)
	}
}

func TestScore(t *testing.T) {
	p := counters(t, nil)
	l := &life{T: t, pool: p, id: "a"}
	got, err := p.Score(t.Context(), l.task(), Scoring{Turns: json.RawMessage(`[{"tool_results": [{"content": "3"}]}]`), Reason: "end"})
	if err != nil || string(got) != `{"reward": 1.0}` {
		t.Errorf("got %s, %v, want a reward of 1", got, err)
	}
}

// TestFates has programs do what they should not.
func TestFates(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("needs python3: ", err)
	}
	const head = "import json,sys,os,time\nfor line in sys.stdin:\n  q=json.loads(line)\n  a={'seq':q['seq']}\n"
	const tail = "\n  print(json.dumps(a),flush=True)\n"
	var broken *BrokenError
	var task *TaskError
	for name, c := range map[string]struct {
		run  []string
		want any
		says string
	}{
		"no such program":      {[]string{"no-such-program-here"}, &broken, "no-such-program-here"},
		"ends as it starts":    {[]string{"python3", "-c", "import sys; sys.exit('no sesame today')"}, &broken, "no *** today"},
		"says what is no JSON": {[]string{"python3", "-c", "print('welcome', flush=True); input(); input()"}, &broken, "welcome"},
		"not deterministic":    {[]string{"python3", "-c", head + "  a['data']={'deterministic':False}" + tail}, &broken, "restore: none"},
		"refuses the row":      {[]string{"python3", "-c", head + "  if q['op']=='open': a['error']='no such row'" + tail}, &task, "no such row"},
		"dies of one call":     {[]string{"python3", "-c", head + "  if q['op']=='call': os._exit(3)" + tail}, &task, "exit status 3"},
		"says no content":      {[]string{"python3", "-c", head + "  pass" + tail}, &task, "without content"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pool(t, func(pc *ProcessConfig) { pc.Run = c.run })
			_, err := p.Call(t.Context(), Task{ID: "a", Row: json.RawMessage(`{}`)}, Request{Key: "1/0", Name: "x", Arguments: json.RawMessage(`{}`)})
			if !errors.As(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %T %v, want %T that says %q", err, err, c.want, c.says)
			}
		})
	}
}

// TestOneBadCallHarmsNobody has one task whose call kills its process each time, among
// others.
func TestOneBadCallHarmsNobody(t *testing.T) {
	src, err := os.ReadFile("testdata/counter.py")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "counter.py")
	if err := os.WriteFile(path, []byte(strings.Replace(string(src), "    if name == \"add\":", "    if name == \"die\":\n        import os; os._exit(1)\n    if name == \"add\":", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := counters(t, func(c *ProcessConfig) { c.Run = []string{"python3", path} })
	var acting sync.WaitGroup
	for i := range 10 {
		acting.Go(func() {
			l := &life{T: t, pool: p, id: strconv.Itoa(i)}
			for n := range 30 {
				l.add(n, true)
			}
		})
	}
	_, err = p.Call(t.Context(), Task{ID: "bad", Row: json.RawMessage(`{}`)}, Request{Key: "1/0", Name: "die", Arguments: json.RawMessage(`{}`)})
	var task *TaskError
	if !errors.As(err, &task) {
		t.Errorf("got %v, want the task's fault", err)
	}
	acting.Wait()
}

func TestLongAnswersAreCut(t *testing.T) {
	p := &Process{config: ProcessConfig{Output: 10}}
	if got, want := p.cut("0123456789abcdef"), "01234\n[6 bytes left out]\nbcdef"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
