package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/dataset"
	"matrix/lang"
	"matrix/llm"
)

// logbook gathers logged lines.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// pythonPath is the interpreter itself: what PATH has may be a slow wrapper.
var pythonPath = sync.OnceValue(func() string {
	out, _ := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out))
})

// python makes an agent whose children run a program, in which task is the
// object that came in and answer writes one.
func python(t testing.TB, c Command, log func(string), program string) *CommandAgent {
	t.Helper()
	exe := pythonPath()
	if exe == "" {
		t.Skip("python3 is not there")
	}
	file := filepath.Join(t.TempDir(), "agent.py")
	head := "import sys, json, os, time\ndef answer(**a): print(json.dumps(a), flush=True)\nn = 0\nfor line in sys.stdin:\n    n += 1\n    task = json.loads(line)\n"
	if err := os.WriteFile(file, []byte(head+"    "+strings.ReplaceAll(program, "\n", "\n    ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Run = []string{exe, file}
	return command(t, c, log)
}

func command(t testing.TB, c Command, log func(string)) *CommandAgent {
	t.Helper()
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	a, err := NewCommand("tool", c, lang.Params{"limit": 3}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestCommand(t *testing.T) {
	a := python(t, Command{Env: map[string]string{"GREETING": "hi"}}, nil, `
keys = ",".join(task)
t = task["turns"][0]
answer(id=task["id"], text=os.environ["GREETING"] + " " + task["item"]["answer"] + " " + keys,
       data={"n": n, "first": t["role"] + ": " + t["text"], "limit": task["params"]["limit"], "role": task["role"]})`)
	for n := 1; n <= 3; n++ {
		turn, err := a.Act(t.Context(), task(t))
		if err != nil {
			t.Fatal(err)
		}
		if want := "hi B seq,id,row,trial,seed,role,params,item,turns"; turn.Text != want {
			t.Errorf("got %+v, want %s", turn, want)
		}
		if got, want := turn.Data.String(), fmt.Sprintf(`{"n": %d, "first": "student: I say (A).", "limit": 3, "role": "tool"}`, n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestCommandReadsWholeTurns: a child reads the fields of an output line in every
// turn, and data and arguments as they are.
func TestCommandReadsWholeTurns(t *testing.T) {
	a := python(t, Command{}, nil, `answer(text=json.dumps(task["turns"]))`)
	tk := task(t)
	tk.Turns = []matrix.Turn{
		{Role: "count", Data: value(t, `[1, 2]`)},
		{Role: "ask", Text: "two\nlines", ToolCalls: []matrix.ToolCall{{ID: "c1", Name: "add", Arguments: value(t, `{"a":1}`)}}},
	}
	turn, err := a.Act(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(turn.Text), &got); err != nil {
		t.Fatal(err)
	}
	var line struct{ Turns []map[string]any }
	if err := json.Unmarshal(dataset.AppendTask(nil, tk), &line); err != nil {
		t.Fatal(err)
	}
	want := line.Turns
	want[0]["data"], want[0]["opaque"], want[1]["opaque"] = []any{1.0, 2.0}, nil, nil
	want[1]["tool_calls"].([]any)[0].(map[string]any)["arguments"] = map[string]any{"a": 1.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}

func TestCommandTools(t *testing.T) {
	a := python(t, Command{}, nil, `
calls = task["turns"][-1]["tool_calls"]
answer(tool_results=[{"id": c["id"], **{"add": lambda a, b: {"content": str(a + b)}, "list": lambda n: {"content": list(range(n))},
       "none": lambda: {"content": None, "error": "no"}, "new": lambda: {"content": "no such city", "is_error": True}}[c["name"]](**c["arguments"])} for c in calls])`)
	tk := task(t)
	tk.Turns = append(tk.Turns, matrix.Turn{Role: "teacher", ToolCalls: []matrix.ToolCall{
		{ID: "c1", Name: "add", Arguments: value(t, `{"a":1,"b":2}`)}, {ID: "c2", Name: "list", Arguments: value(t, `{"n":2}`)}, {ID: "c3", Name: "none", Arguments: value(t, `{}`)}, {ID: "c4", Name: "new", Arguments: value(t, `{}`)}}})
	turn, err := a.Act(t.Context(), tk)
	want := []matrix.ToolResult{{ID: "c1", Name: "add", Content: "3"}, {ID: "c2", Name: "list", Content: "[0, 1]"}, {ID: "c3", Name: "none", Content: "error: no", IsError: true}, {ID: "c4", Name: "new", Content: "no such city", IsError: true}}
	if err != nil || !reflect.DeepEqual(turn.ToolResults, want) || turn.Text != "" || turn.Error != "" {
		t.Errorf("got %+v, %v, want %+v", turn, err, want)
	}
}

func TestCommandAnswers(t *testing.T) {
	a := python(t, Command{}, nil, `print(task["item"], flush=True)`)
	for _, tt := range []struct {
		out  string
		turn matrix.Turn
		fail string
	}{
		{`{"error": "too hard"}`, matrix.Turn{Error: "too hard"}, ""},
		{`{"text": "a\nb"}`, matrix.Turn{Text: "a\nb"}, ""},
		{`{"data": null, "text": "x"}`, matrix.Turn{Text: "x", Data: value(t, `null`)}, ""},
		{`{"fail": "no words"}`, matrix.Turn{}, "no words"},
		{`{"seq": 5, "fail": "no"}`, matrix.Turn{}, "no"},
		{`{"seq": 6, "txt": "x"}`, matrix.Turn{}, `printed {"seq": 6, "txt": "x"}, which is not an answer, want {"text", "data", "tool_results", "error", "calls"} or {"fail"}, with what is your own inside data: unknown field "txt"`},
		{`{"seq": 7, "text": 1}`, matrix.Turn{}, `"text" is a number, want a text`},
		{`{"seq": 8}`, matrix.Turn{}, `which has none of text, data, tool_results, error and fail`},
		{`{"seq": 9, "tool_results": [{"id": "c9", "content": "x"}]}`, matrix.Turn{}, `answered the tool call "c9", and there is no such call in the task`},
		{`{"seq": 10, "tool_results": [{"id": "c9", "text": "x"}]}`, matrix.Turn{}, `of which tool_results[0] is no result, want {"id", "content", "is_error"}: unknown field "text"`},
		{`{"seq": 11, "text": "x", "data": {"a": "\ud83d", "b": 2, "b": 3}}`, matrix.Turn{Text: "x", Data: value(t, `{"a":"�","b":3}`)}, ""},
		{`{"seq": 12, "text": "x", "calls": [{"name": "m", "tokens": 1}]}`, matrix.Turn{}, `of which calls[0] is no call, whose fields are those of calls in the output: unknown field "tokens"`},
		{`{"seq": 13, "text": "x", "calls": [{"kind": "model"}]}`, matrix.Turn{}, `of which calls[0] has no name`},
		{`{"seq": 14, "text": "x", "calls": [{"name": "m"}, {"name": "m", "usd": -1}]}`, matrix.Turn{}, `of which calls[1] has usd -1, want 0 to 1e+12`},
		{`{"seq": 15, "text": "x", "calls": [{"name": "m", "kind": "llm"}]}`, matrix.Turn{}, `of which calls[0] has the kind "llm", want model, tool or sandbox`},
		{`{"seq": 16, "calls": [{"name": "m"}]}`, matrix.Turn{}, `which has none of text, data, tool_results, error and fail`},
		{`{"seq": 17, "data": {"a": 1e400}}`, matrix.Turn{}, `which is not an answer, want {"text", "data", "tool_results", "error", "calls"} or {"fail"}, with what is your own inside data: "a" has the number 1e400`},
		{`{"seq": 18, "text": "x", "calls": {}}`, matrix.Turn{}, `"calls" is an object, want a list`},
		{`{"seq": 19, "text": "x", "calls": [3]}`, matrix.Turn{}, `of which calls[0] is no call, whose fields are those of calls in the output: it is a number, want an object`},
		{`{"seq": 20, "text": "x", "calls": [{"name": "m", "prompt_tokens": 1.5}]}`, matrix.Turn{}, `"prompt_tokens" is the number 1.5, want a whole number`},
		{`{"seq": 21, "text": "x", "calls": [{"name": "m", "usd": "1"}]}`, matrix.Turn{}, `"usd" is a text, want a number`},
		{`{"seq": 22, "tool_results": [{"id": "c", "error": true}]}`, matrix.Turn{}, `of which tool_results[0] is no result, want {"id", "content", "is_error"}: "error" is true or false, want a text`},
	} {
		tk := task(t)
		tk.Item, _ = matrix.NewValue(tt.out)
		turn, err := a.Act(t.Context(), tk)
		if tt.fail != "" {
			var fail *matrix.FailError
			if !errors.As(err, &fail) || !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("%s: got %v, want a FailError: %s", tt.out, err, tt.fail)
			}
			continue
		}
		if err != nil || turn.Text != tt.turn.Text || turn.Error != tt.turn.Error || turn.Data.String() != tt.turn.Data.String() {
			t.Errorf("%s: got %+v, %v, want %+v", tt.out, turn, err, tt.turn)
		}
	}
}

// Calls that a child reports stand in its turn, in an answer and in a failure, and
// are charged.
func TestCommandCalls(t *testing.T) {
	a := python(t, Command{}, nil, `print(task["item"], flush=True)`)
	var paid float64
	a.Charge(func(c *matrix.Call) { paid += c.USD })
	calls := `"calls": [{"kind": "model", "name": "helper", "model": "h-1", "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": null, "usd": 0.25, "took_ms": 7.5, "params": {"temperature": 0}, "error": ""}, {"kind": "tool", "name": "search"}]`
	want := []matrix.Call{
		{Kind: matrix.KindModel, Name: "helper", Model: "h-1", Tokens: matrix.Tokens{PromptTokens: 10, CompletionTokens: 5}, USD: 0.25, TookMS: 7.5},
		{Kind: matrix.KindTool, Name: "search"},
	}
	for i, answer := range []string{`"text": "x"`, `"fail": "no"`} {
		tk := task(t)
		tk.Item, _ = matrix.NewValue(fmt.Sprintf(`{"seq": %d, %s, %s}`, i+1, answer, calls))
		turn, err := a.Act(t.Context(), tk)
		if len(turn.Calls) == 0 || turn.Calls[0].Params.String() != `{"temperature": 0}` {
			t.Fatalf("%s: got %+v, %v, want calls with their params", answer, turn, err)
		}
		turn.Calls[0].Params = matrix.Value{}
		var fail *matrix.FailError
		if errors.As(err, &fail) != (i == 1) || !reflect.DeepEqual(turn.Calls, want) {
			t.Errorf("%s: got %+v, %v, want the calls %+v", answer, turn.Calls, err, want)
		}
	}
	if paid != 0.5 {
		t.Errorf("got %v USD paid, want 0.5", paid)
	}
}

// shell is a shell child that answers each question with the item, a number, and
// then runs more.
func shell(t testing.TB, c Command, more string) *CommandAgent {
	c.Run = []string{"sh", "-c", `while read -r line; do
  item=${line#*\"item\":}; item=${item%%,*}; seq=${line#*\"seq\":}; seq=${seq%%,*}
  ` + more + `
done`}
	return command(t, c, nil)
}

// TestCommandKeepsRowsApart asks children that print more than one line about
// many rows: an answer on another's row is the one thing that must not happen.
func TestCommandKeepsRowsApart(t *testing.T) {
	t.Parallel()
	answer, numbered := `echo "{\"data\":$item}"`, `echo "{\"seq\":$seq,\"data\":$item}"`
	log := `echo "{\"level\":\"info\"}"`
	for _, tt := range []struct {
		name, program, want string
		rows                int
	}{
		{"twice", answer + "; " + answer, "printed more than one line for one task; print diagnostics to stderr, or return seq", 200},
		{"log line after", answer + "; " + log, "printed more than one line", 200},
		{"log line before", log + "; " + answer, "printed more than one line", 200},
		{"half a line after", answer + "; printf '{'", "printed more than one line", 2},
		{"seq, twice", numbered + "; " + numbered, "", 200},
		{"seq, log line after", numbered + "; " + log, "", 200},
		{"seq, as it should be", numbered, "-", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := shell(t, Command{Workers: 2}, tt.program)
			a.quiet = [2]time.Duration{time.Second, time.Second} // ends as soon as more comes
			var refused atomic.Int64
			var wg sync.WaitGroup
			for w := range 2 {
				wg.Go(func() {
					for i := range tt.rows {
						tk := &matrix.Task{ID: "x"}
						tk.Item, _ = matrix.NewValue(1000*w + i)
						turn, err := a.Act(t.Context(), tk)
						var fail *matrix.FailError
						switch {
						case errors.As(err, &fail), err != nil && !strings.Contains(err.Error(), tt.want):
							t.Errorf("got %T %v, want a plain error: %s", err, err, tt.want)
						case err != nil:
							refused.Add(1)
						case turn.Data.String() != tk.Item.String():
							t.Errorf("row %s got the answer %s", tk.Item, turn.Data)
						}
					}
				})
			}
			wg.Wait()
			if n := refused.Load(); tt.want == "-" && n > 0 || len(tt.want) > 1 && int(n) != 2*tt.rows {
				t.Errorf("got %d answers refused of %d", n, 2*tt.rows)
			}
		})
	}
}

func TestCommandSeq(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ program, want string }{
		{`answer(seq=task["seq"]+1, text="x")`, "answered with seq 2 to the question with seq 1: it printed more than one line for a task before, or mixed them up"},
		{`answer(seq="1", text="x")`, `answered with seq "1" to the question with seq 1`},
		{`answer(**({"seq": 1} if n == 1 else {}), text="x")`, `printed "{\"text\": \"x\"}" without the seq that it returned before`},
		{`answer(id="other", text="x")`, `was asked about task "q7#1" and answered for "other"`},
		{`answer(txt="x")`, `printed {"txt": "x"}, which is not an answer`},
	} {
		a := python(t, Command{}, nil, tt.program)
		_, err := a.Act(t.Context(), task(t))
		if err == nil {
			_, err = a.Act(t.Context(), task(t))
		}
		var fail *matrix.FailError
		if err == nil || errors.As(err, &fail) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want a plain error: %s", tt.program, err, tt.want)
		}
		if len(a.idle) > 0 && a.idle[0].seq > 0 { // it was asked something
			t.Errorf("%s: the child is kept", tt.program)
		}
	}
}

// TestCommandSaysItOnce: what children end with is logged once, though each row
// makes a new one end with it; what else they say is logged each time.
func TestCommandSaysItOnce(t *testing.T) {
	t.Parallel()
	var log logbook
	a := python(t, Command{}, log.add, `
print("row", task["item"], file=sys.stderr, flush=True)
if task["item"] == 3: answer(text="x")
else: raise KeyError("word")`)
	for i := range 4 {
		tk := task(t)
		tk.Item, _ = matrix.NewValue(i)
		if _, err := a.Act(t.Context(), tk); (err == nil) != (i == 3) {
			t.Fatalf("row %d: got %v", i, err)
		}
	}
	for _, want := range []string{"tool: Traceback", "tool: KeyError: 'word'", "tool: row 0", "tool: row 1", "tool: row 3"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%q is logged %d times, want once, in:\n%s", want, n, log.String())
		}
	}
}

// TestCommandSecrets: what a child tells of itself, on stderr, in what it prints
// beside answers and in why it cannot answer, holds no secret; its data does.
func TestCommandSecrets(t *testing.T) {
	var log logbook
	a := python(t, Command{Env: map[string]string{"KEY": "sk-secret-42"}}, log.add, `
key, how = os.environ["KEY"], task["item"]
print("calling with " + key, file=sys.stderr, flush=True)
print("got " + json.dumps(json.dumps({"k": key})).replace("-", "\\u002d"), file=sys.stderr, flush=True)
if how == "die": raise KeyError(key)
if how == "print": print("key is " + key, flush=True)
if how == "odd": answer(seq=task["seq"], key=key)
if how == "fail": answer(seq=task["seq"], fail="refused: " + key)
if how == "error": answer(seq=task["seq"], error="refused: " + key)
if how == "text": answer(seq=task["seq"], text=key)`)
	var secrets llm.Secrets
	secrets.Add("sk-secret-42")
	a.Conceal(secrets)
	for _, how := range []string{"die", "print", "odd", "fail", "error", "text"} {
		tk := task(t)
		tk.Item, _ = matrix.NewValue(how)
		turn, err := a.Act(t.Context(), tk)
		if err == nil && how != "error" && how != "text" {
			t.Errorf("%s: got no error", how)
		}
		text := fmt.Sprint(err, turn.Error)
		if strings.Contains(text, "secret") || how != "text" && !strings.Contains(text, "***") {
			t.Errorf("%s: got %s, want *** for the secret", how, text)
		}
		if how == "text" && turn.Text != "sk-secret-42" {
			t.Errorf("got the text %q, want it as it was answered", turn.Text)
		}
	}
	if s := log.String(); strings.Contains(s, "secret") || !strings.Contains(s, "calling with ***") || !strings.Contains(s, `got "{\"k\": \"***\"}"`) {
		t.Errorf("logged:\n%s", s)
	}
}

// mode runs one child that misbehaves as the item says, and then asks again:
// the pool must have recovered.
func TestCommandMisbehaves(t *testing.T) {
	t.Parallel()
	var log logbook
	a := python(t, Command{Timeout: 5 * time.Second}, log.add, `
mode = task["item"]
if mode == "die":
    print("about to die", file=sys.stderr, flush=True)
    os._exit(3)
if mode == "leave": sys.exit(0)
if mode == "kill": os.kill(os.getpid(), 9)
if mode == "hang": time.sleep(1000)
if mode == "print": print("loading...", flush=True)
if mode == "empty": print("", flush=True)
if mode == "list": print("[1]", flush=True)
if mode == "deep": print('{"data": ' + "[" * 20000 + "]" * 20000 + "}", flush=True); time.sleep(1000)
if mode == "half": print('{"text": "x"', end="", flush=True); os._exit(0)
if mode == "two": sys.stdout.write('{"text": "x"}\n{"text": "y"}\n'); sys.stdout.flush()
elif mode == "nan": answer(data={"reward": float("nan")})
elif mode == "close": os.close(1); time.sleep(1000)
elif mode == "grandchild":
    import subprocess
    subprocess.Popen(["sleep", "1000"]); os._exit(4)
answer(text="pid", data=os.getpid())`)
	for _, tt := range []struct{ mode, want string }{
		{"die", "ended without an answer: exit status 3; its stderr ends with: about to die"},
		{"leave", "ended without an answer: exit status 0"},
		{"kill", "ended without an answer: signal: killed"},
		{"hang", "gave no answer within 5s"},
		{"print", `printed "loading...", which is not a JSON object; print diagnostics to stderr`},
		{"empty", `printed an empty line, which is not a JSON object`},
		{"list", `printed "[1]", which is not a JSON object`},
		{"half", `printed "{\"text\": \"x\"", which is not a JSON object: unexpected end of JSON input`},
		{"deep", `exceeded max depth`},
		{"nan", `JSON has no NaN and no Infinity: print null`},
		{"two", `printed more than one line for one task`},
		{"close", `closed its stdout without an answer`},
		{"grandchild", `without an answer`},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			tk := task(t)
			tk.Item, _ = matrix.NewValue(tt.mode)
			turn, err := a.Act(t.Context(), tk)
			var fail *matrix.FailError
			var stop *matrix.StopError
			if err == nil || errors.As(err, &fail) || errors.As(err, &stop) || !strings.Contains(err.Error(), tt.want) || tt.mode != "nan" && strings.Contains(err.Error(), "NaN") {
				t.Fatalf("got %+v, %v, want a plain error: %s", turn, err, tt.want)
			}
			tk.Item, _ = matrix.NewValue("fine")
			if turn, err = a.Act(t.Context(), tk); err != nil || turn.Text != "pid" {
				t.Errorf("afterwards: got %+v, %v", turn, err)
			}
		})
	}
	if got, want := log.String(), "tool: about to die"; got != want {
		t.Errorf("log: got %q, want %q", got, want)
	}
}

func TestCommandSpeaksUnasked(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	a := python(t, Command{Env: map[string]string{"FIFO": fifo}}, nil, `
answer(data=os.getpid())
if n == 1 and task["item"] == "odd": open(os.environ["FIFO"]).read(); answer(data="stale")`)
	tk := task(t)
	tk.Item, _ = matrix.NewValue("odd")
	first, err := a.Act(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fifo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	p := a.idle[0]
	a.mu.Unlock()
	for p.ready() { // takes the line, which is as good as finding it later
		runtime.Gosched()
	}
	p.Kill()
	tk.Item, _ = matrix.NewValue("even")
	second, err := a.Act(t.Context(), tk)
	if err != nil || second.Data.String() == first.Data.String() || second.Data.String() == `"stale"` {
		t.Errorf("got %s, %v after %s, want another process", second.Data, err, first.Data)
	}
}

func TestCommandDeadWhileIdle(t *testing.T) {
	a := python(t, Command{}, nil, `answer(data=os.getpid())`)
	turn, err := a.Act(t.Context(), task(t))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(turn.Data.String())
	a.mu.Lock()
	p := a.idle[0]
	a.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Gone()
	if again, err := a.Act(t.Context(), task(t)); err != nil || again.Data.String() == turn.Data.String() {
		t.Errorf("got %+v, %v, want an answer of another process", again, err)
	}
}

func TestCommandCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var log logbook
	a := python(t, Command{}, func(line string) { log.add(line); cancel() }, `print("sleeping", file=sys.stderr, flush=True); time.sleep(1000)`)
	if _, err := a.Act(ctx, task(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if got, want := log.String(), "tool: sleeping"; got != want {
		t.Errorf("log: got %q, want %q", got, want)
	}
}

func TestCommandWorkers(t *testing.T) {
	a := python(t, Command{Workers: 3}, nil, `answer(data=os.getpid())`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	pids := map[string]int{}
	for range 60 {
		wg.Go(func() {
			turn, err := a.Act(t.Context(), task(t))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			pids[turn.Data.String()]++
		})
	}
	wg.Wait()
	if len(pids) < 1 || len(pids) > 3 {
		t.Errorf("got %d processes, want at most 3: %v", len(pids), pids)
	}
}

func TestCommandHugeLines(t *testing.T) {
	t.Parallel()
	a := python(t, Command{}, nil, `answer(text="x" * task["item"]["n"])`)
	tk := task(t)
	tk.Item = value(t, `{"n": 20000000, "pad": "`+strings.Repeat("é", 4<<20)+`"}`)
	turn, err := a.Act(t.Context(), tk)
	if err != nil || len(turn.Text) != 20000000 {
		t.Errorf("got %d bytes, %v, want 20000000", len(turn.Text), err)
	}
	tk.Item = value(t, `{"n": 70000000}`)
	if _, err := a.Act(t.Context(), tk); err == nil || !strings.Contains(err.Error(), "wrote a line of more than 64 MiB") {
		t.Errorf("got %v, want a complaint about the line", err)
	}
}

func TestCommandClose(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ended")
	a := python(t, Command{Workers: 2, Env: map[string]string{"FILE": file}}, nil,
		`answer(data=os.getpid())
import atexit; atexit.register(lambda: open(os.environ["FILE"], "w").close())`)
	if _, err := a.Act(t.Context(), task(t)); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the child was not let end by itself: %v", err)
	}
	if _, err := a.Act(t.Context(), task(t)); err == nil || !strings.Contains(err.Error(), "the agent is closed") {
		t.Errorf("got %v, want that it is closed", err)
	}
}

func TestCommandCloseKillsTheStubborn(t *testing.T) {
	a := command(t, Command{Run: []string{"sh", "-c", `read x; echo "{\"data\": $$}"; trap "" TERM; while :; do sleep 1; done`}}, nil)
	turn, err := a.Act(t.Context(), task(t))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(turn.Data.String())
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: got %v, want that it is gone", pid, err)
	}
}

func TestCommandConfigErrors(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Command
		want string
	}{
		{Command{Workers: 1, Timeout: 1}, "run"},
		{Command{Run: []string{"no-such-program"}, Workers: 1, Timeout: 1}, "run"},
		{Command{Run: []string{plain}, Workers: 1, Timeout: 1}, "run"},
		{Command{Run: []string{"sh"}, Dir: dir + "/none", Workers: 1, Timeout: 1}, "dir"},
		{Command{Run: []string{"sh"}, Dir: plain, Workers: 1, Timeout: 1}, "dir"},
		{Command{Run: []string{"sh"}, Env: map[string]string{"A=B": "x"}}, "workers timeout env"},
	} {
		_, err := NewCommand("r", tt.c, nil, nil)
		if fields(err) != tt.want {
			t.Errorf("%+v: got %v, want an error at %s", tt.c, err, tt.want)
		}
	}
	script := filepath.Join(dir, "run.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread x; echo '{\"text\": \"ok\"}'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := command(t, Command{Run: []string{"./run.sh"}, Dir: dir}, nil)
	if turn, err := a.Act(t.Context(), task(t)); err != nil || turn.Text != "ok" {
		t.Errorf("got %+v, %v", turn, err)
	}
	if err := os.Remove(script); err != nil {
		t.Fatal(err)
	}
	var stop *matrix.StopError
	tried := 0
	for _, err := a.Act(t.Context(), task(t)); !errors.As(err, &stop); _, err = a.Act(t.Context(), task(t)) {
		if tried++; tried > 3 {
			t.Fatalf("got %v, want a StopError once the program is gone", err)
		}
	}
}

// TestNoOrphans kills a process that holds children with SIGKILL.
func TestNoOrphans(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a child ends when it reads the end of stdin")
	}
	cmd := exec.Command(os.Args[0], "hold-children")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("got %q, want a process id", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlived its parent", pid)
		}
	}
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// holdChildren is the process that TestNoOrphans kills: its child ignores the
// end of stdin.
func holdChildren() {
	a, err := NewCommand("r", Command{Workers: 1, Timeout: time.Minute,
		Run: []string{"sh", "-c", `read x; echo "{\"data\": $$}"; exec sleep 1000 </dev/null`}}, nil, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	turn, err := a.Act(context.Background(), &matrix.Task{ID: "x"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 100 { // threads of Go come and go
		go func() { runtime.LockOSThread() }()
	}
	fmt.Println(turn.Data)
	select {}
}

func BenchmarkCommand(b *testing.B) {
	b.Run("seq", func(b *testing.B) { benchmarkCommand(b, `print('{"text": "x", "seq": %d}' % task["seq"], flush=True)`) })
	b.Run("no seq", func(b *testing.B) { benchmarkCommand(b, `print('{"text": "x"}', flush=True)`) })
}

func benchmarkCommand(b *testing.B, program string) {
	a := python(b, Command{}, nil, program)
	t := task(b)
	for b.Loop() {
		if _, err := a.Act(b.Context(), t); err != nil {
			b.Fatal(err)
		}
	}
}
