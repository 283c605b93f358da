package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"matrix"
	"matrix/agent"
	"matrix/lang"
	"matrix/sandbox"
)

// plainPool is a pool of plain processes, open.
func plainPool(t *testing.T, change func(c *sandbox.Plain)) *agent.Sandboxes {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("sandboxes are of Linux")
	}
	c := sandbox.Plain{Config: sandbox.Config{Keep: sandbox.KeepTask, Size: 4, Restore: sandbox.RestoreReplay, InDoubt: sandbox.Rewind, Enforce: sandbox.BestEffort,
		Limits: sandbox.Limits{Timeout: 20 * time.Second, Output: 64 << 10}, Park: time.Minute, TTL: time.Hour}}
	if change != nil {
		change(&c)
	}
	dir := t.TempDir()
	p, err := agent.NewSandboxes("box", c.Keep, agent.SandboxContents{Contents: c.Contents, Code: ".code"}, nil, func(run, _ string) (sandbox.Pool, error) {
		return sandbox.NewPlain(c, sandbox.Options{Run: run, Pool: "box", Folder: dir})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Open(t.Context(), t.Name(), dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func newTask(t *testing.T, id, row string) *matrix.Task {
	t.Helper()
	item, err := matrix.ParseValue([]byte(row))
	if err != nil {
		t.Fatal(err)
	}
	return &matrix.Task{ID: id, Row: id, Item: item, Seed: 7}
}

// take has an agent act, as a role, and adds its turn.
func take(t *testing.T, task *matrix.Task, role string, a matrix.Agent) *matrix.Turn {
	t.Helper()
	turn, err := a.Act(t.Context(), task)
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	turn.Role, turn.Hop = role, len(task.Turns)+1
	task.Turns = append(task.Turns, turn)
	return task.Last()
}

func newExec(t *testing.T, pool agent.Pool, c agent.Exec) matrix.Agent {
	t.Helper()
	a, err := agent.NewExec(c, pool, lang.Params{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func dataOf(t *testing.T, turn *matrix.Turn) map[string]any {
	t.Helper()
	m, ok := turn.Data.Any().(map[string]any)
	if !ok {
		t.Fatalf("data is %s, want an object", turn.Data.Raw())
	}
	return m
}

func TestExec(t *testing.T) {
	pool := plainPool(t, nil)
	for name, tt := range map[string]struct {
		exec agent.Exec
		text string
		data map[string]any // some of it
	}{
		"what it writes": {agent.Exec{Run: []string{"echo", "{{ item.word }}"}}, "hello", map[string]any{"code": 0.0, "out": "hello\n", "err": "", "timed_out": false, "cut": 0.0, "files": nil, "tests": nil}},
		"an exit code":   {agent.Exec{Shell: "echo no >&2; exit 3"}, "no\n(exit code 3)", map[string]any{"code": 3.0, "err": "no\n"}},
		"no output":      {agent.Exec{Run: []string{"true"}}, "(no output)", map[string]any{"code": 0.0}},
		"standard input": {agent.Exec{Run: []string{"cat"}, Stdin: "{{ item.word }}!"}, "hello!", nil},
		"merged":         {agent.Exec{Shell: "echo a; echo b >&2; echo c", Merge: true}, "a\nb\nc", map[string]any{"out": "a\nb\nc\n", "err": ""}},
		"files there and back": {agent.Exec{Shell: "tr a-z A-Z < in.txt > out.txt", Files: map[string]string{"in.txt": "{{ item.word }}"}, Get: []string{"out.txt", "none.txt"}},
			"(no output)", map[string]any{"files": map[string]any{"out.txt": "HELLO", "none.txt": nil}}},
		"a time limit": {agent.Exec{Run: []string{"sleep", "60"}, Timeout: 200 * time.Millisecond}, "(ran into the time limit)", map[string]any{"timed_out": true}},
		"shown":        {agent.Exec{Shell: "echo x; exit 2", Show: "<code>{{ code }}</code>{{ out | trim }}"}, "<code>2</code>x", nil},
		"tests": {agent.Exec{Shell: `printf '<testsuites><testsuite><testcase classname="t" name="a"/><testcase classname="t" name="b"><failure/></testcase></testsuite></testsuites>' > r.xml`, JUnit: "r.xml"},
			"(no output)", map[string]any{"tests": map[string]any{"passed": []any{"t::a"}, "failed": []any{"t::b"}, "skipped": []any{}}, "files": nil}},
		"no tests": {agent.Exec{Run: []string{"true"}, JUnit: "r-none.xml"}, "(no output)", map[string]any{"tests": nil}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.exec.Pool = "box"
			task := newTask(t, name, `{"word":"hello"}`)
			turn := take(t, task, "shell", newExec(t, pool, tt.exec))
			if turn.Text != tt.text || turn.Error != "" {
				t.Errorf("text is %q, error %q; want %q", turn.Text, turn.Error, tt.text)
			}
			got := dataOf(t, turn)
			for k, want := range tt.data {
				a, _ := json.Marshal(got[k])
				b, _ := json.Marshal(want)
				if string(a) != string(b) {
					t.Errorf("data.%s is %s, want %s", k, a, b)
				}
			}
			if len(turn.Calls) != 1 || turn.Calls[0].Kind != matrix.KindSandbox || turn.Calls[0].Name != "box" || turn.Calls[0].Trace == nil || turn.Calls[0].Trace.Lease == "" {
				t.Errorf("calls are %+v, want one of the sandbox box with its trace", turn.Calls)
			}
			if err := pool.Release(t.Context(), name); err != nil {
				t.Errorf("release: %v", err)
			}
		})
	}
}

// What a task did to its sandbox is there again in another process, which knows its
// turns alone; a step that is made again is answered as before.
func TestExecReplays(t *testing.T) {
	task := newTask(t, "t1", `{}`)
	step := agent.Exec{Pool: "box", Shell: "echo {{ turns | length }} >> log; cat log", Files: map[string]string{"f{{ x }}": ""}}
	step.Files = map[string]string{"f.txt": "{{ turns | length }}"}
	first := plainPool(t, nil)
	for range 3 {
		take(t, task, "shell", newExec(t, first, step))
	}
	if got := task.Last().Text; got != "0\n1\n2" {
		t.Fatalf("got %q, want all three lines", got)
	}
	again := *task
	again.Turns = slices.Clone(task.Turns[:2]) // the third was not committed
	if got := take(t, &again, "shell", newExec(t, first, step)).Text; got != "0\n1\n2" {
		t.Errorf("the step made again: got %q, want it answered from the record", got)
	}
	second := plainPool(t, nil)
	other := *task
	other.Turns = slices.Clone(task.Turns)
	if got := take(t, &other, "shell", newExec(t, second, step)); got.Text != "0\n1\n2\n3" || got.Calls[0].Trace.Restored != "replay" {
		t.Errorf("elsewhere: got %q, %+v; want the four lines, by replay", got.Text, got.Calls[0].Trace)
	}
	fresh := step
	fresh.Fresh = true
	if got := take(t, &other, "grade", newExec(t, second, fresh)); got.Text != "4" {
		t.Errorf("a fresh sandbox: got %q, want its own line alone", got.Text)
	}
	if got := take(t, &other, "shell", newExec(t, second, step)); got.Text != "0\n1\n2\n3\n5" {
		t.Errorf("after it: got %q, want what the task's own sandbox had, and one line", got.Text)
	}
}

func TestExecFates(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c *sandbox.Plain)
		row    string
		want   func(err error) bool
		says   string
	}{
		"setup that fails":      {func(c *sandbox.Plain) { c.Setup = []string{"echo broken >&2; exit 4"} }, `{}`, func(err error) bool { return errors.As(err, new(*matrix.FailError)) }, "broken"},
		"a template that fails": {func(c *sandbox.Plain) { c.Setup = []string{"echo {{ item.none }}"} }, `{}`, func(err error) bool { return errors.As(err, new(*matrix.FailError)) }, "pools.box.setup.0"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newExec(t, plainPool(t, tt.change), agent.Exec{Pool: "box", Run: []string{"true"}})
			_, err := a.Act(t.Context(), newTask(t, name, tt.row))
			if err == nil || !tt.want(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %T %v; want the other fate, and %q", err, err, tt.says)
			}
		})
	}
	t.Run("restore: none, and it was elsewhere", func(t *testing.T) {
		pool := plainPool(t, func(c *sandbox.Plain) { c.Restore = sandbox.RestoreNone })
		a, task := newExec(t, pool, agent.Exec{Pool: "box", Run: []string{"true"}}), newTask(t, "t", `{}`)
		take(t, task, "run", a)
		if err := pool.Release(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Act(t.Context(), task); !errors.As(err, new(*matrix.FailError)) {
			t.Errorf("got %T %v, want that the task fails", err, err)
		}
	})
	t.Run("no room until the run stops", func(t *testing.T) {
		pool := plainPool(t, func(c *sandbox.Plain) { c.Size = 1 })
		hold, done, err := pool.Lease(t.Context(), newTask(t, "holder", `{}`), "")
		if err != nil {
			t.Fatal(err)
		}
		_ = hold
		defer done()
		soft, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			_, err := newExec(t, pool, agent.Exec{Pool: "box", Run: []string{"true"}}).Act(matrix.WithStopping(t.Context(), soft), newTask(t, "waits", `{}`))
			over <- err
		}()
		for {
			if s, _ := pool.Stats(); s.Waiting == 1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		stop()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that it gave up", err)
		}
	})
}

func TestCalls(t *testing.T) {
	pool := plainPool(t, func(c *sandbox.Plain) { c.Keep = sandbox.KeepCall })
	find := func(string) (agent.Pool, error) { return pool, nil }
	list := []any{map[string]any{"pool": "box", "code": "bash", "name": "sh"}, map[string]any{"pool": "box", "run": []any{"cat"}, "name": "read"}}
	tools, err := agent.NewTools(list, find, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.NewCalls(agent.Calls{}, nil, map[string]*agent.Tools{"solve": tools})
	if err != nil {
		t.Fatal(err)
	}
	call := func(id, name, args string) matrix.ToolCall {
		v, err := matrix.ParseValue([]byte(args))
		if err != nil {
			t.Fatal(err)
		}
		return matrix.ToolCall{ID: id, Name: name, Arguments: v}
	}
	task := newTask(t, "t", `{}`)
	task.Turns = []matrix.Turn{{Role: "solve", ToolCalls: []matrix.ToolCall{
		call("a", "sh", `{"code":"echo $((6*7))"}`), call("b", "sh", `{"code":"echo bad; exit 1"}`), call("c", "none", `{}`),
		call("d", "sh", `{"cmd":"x"}`), call("e", "read", `{"code":"as it is"}`),
	}}}
	turn := take(t, task, "tools", a)
	want := []matrix.ToolResult{
		{ID: "a", Name: "sh", Content: "42"},
		{ID: "b", Name: "sh", Content: "bad\n(exit code 1)", IsError: true},
		{ID: "c", Name: "none", Content: `there is no tool "none"; there are sh, read`, IsError: true},
		{ID: "d", Name: "sh", Content: `the arguments do not fit: want {"code": TEXT}`, IsError: true},
		{ID: "e", Name: "read", Content: "as it is"},
	}
	if !slices.Equal(turn.ToolResults, want) {
		t.Errorf("got  %+v\nwant %+v", turn.ToolResults, want)
	}
	if len(turn.Calls) != 3 || turn.Calls[0].Trace.ID != "a" || !turn.Calls[1].Trace.IsError {
		t.Errorf("calls are %+v, want the three that were made, with their traces", turn.Calls)
	}
	if turn := take(t, task, "tools", a); !strings.Contains(turn.Error, "calls no tool") {
		t.Errorf("after a turn without calls: got %+v, want a turn with an error", turn)
	}
}

// A call whose arguments do not fit is no command, and counts as none: the sandbox goes on
// with its state after it.
func TestCallsMisfit(t *testing.T) {
	pool := plainPool(t, func(c *sandbox.Plain) { c.Restore = sandbox.RestoreNone })
	tools, err := agent.NewTools([]any{map[string]any{"pool": "box", "code": "bash", "name": "sh"}}, func(string) (agent.Pool, error) { return pool, nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.NewCalls(agent.Calls{}, nil, map[string]*agent.Tools{"solve": tools})
	if err != nil {
		t.Fatal(err)
	}
	task := newTask(t, "t", `{}`)
	for i, calls := range [][]string{{`{"cmd":"x"}`, `{"code":"echo a >> log"}`}, {`{"code":"cat log"}`}} {
		turn := matrix.Turn{Role: "solve"}
		for k, args := range calls {
			v, err := matrix.ParseValue([]byte(args))
			if err != nil {
				t.Fatal(err)
			}
			turn.ToolCalls = append(turn.ToolCalls, matrix.ToolCall{ID: fmt.Sprint(i, k), Name: "sh", Arguments: v})
		}
		task.Turns = append(task.Turns, turn)
		take(t, task, "tools", a)
	}
	if got := task.Last().ToolResults[0].Content; got != "a" {
		t.Errorf("the second step reads %q, want what the first one wrote", got)
	}
}

// What one sandbox of all tasks is made of cannot be another thing for each of them.
func TestSharedContents(t *testing.T) {
	for src, ok := range map[string]bool{"echo {{ params.word }}": true, "echo hi": true, "echo {{ item.word }}": false, "echo {{ id }}": false} {
		c := agent.SandboxContents{Contents: sandbox.Contents{Setup: []string{src}}}
		if _, err := agent.NewSandboxes("box", sandbox.KeepRun, c, lang.Params{"word": "hi"}, nil); (err == nil) != ok {
			t.Errorf("%s: got %v, want that it is taken: %v", src, err, ok)
		}
	}
}

// A sandbox that all tasks share has so many files; a command that finds none left is
// no answer for a task.
func TestExecShared(t *testing.T) {
	pool := plainPool(t, func(c *sandbox.Plain) { c.Keep, c.Size = sandbox.KeepRun, 1 })
	a := newExec(t, pool, agent.Exec{Pool: "box", Run: []string{"cat"}, Stdin: "{{ id }}"})
	var all errgroup.Group
	for i := range 400 {
		task := newTask(t, fmt.Sprint("t", i), `{}`)
		all.Go(func() error {
			turn, err := a.Act(t.Context(), task)
			if err == nil && turn.Text != task.ID {
				err = fmt.Errorf("task %s: got %q", task.ID, turn.Text)
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}
