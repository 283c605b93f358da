package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"matrix"
	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/run"
)

// command runs a command in this process.
func command(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Program{In: strings.NewReader(""), Out: &o, Err: &e}.Main(args)
	return code, o.String(), e.String()
}

// runFolderOf makes a run of n rows in a folder: row 1 fails, row 2 is under way
// in a run that stopped, all others are done.
func runFolderOf(t *testing.T, n int, o dataset.SinkOptions) string {
	t.Helper()
	dir := t.TempDir()
	rows := filepath.Join(dir, "rows.jsonl")
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"row-%d","n":%d}`+"\n", i, i)
	}
	if err := os.WriteFile(rows, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := dataset.Open(dataset.Options{Paths: []string{rows}, IDField: "id"})
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "out")
	q, err := local.Open(filepath.Join(dir, rundir.StateDir), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sink := func(name string) run.OpenSink {
		return func(checkpoint []byte) (matrix.Sink, error) {
			return dataset.OpenSink(dataset.OS{}, filepath.Join(dir, name), o, checkpoint)
		}
	}
	say := matrix.AgentFunc(func(_ context.Context, task *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: "I say " + task.ID}, nil
	})
	var r *run.Run
	judge := matrix.AgentFunc(func(ctx context.Context, task *matrix.Task) (matrix.Turn, error) {
		switch task.ID {
		case "row-1":
			return matrix.Turn{}, &matrix.FailError{Err: errors.New("no verdict")}
		case "row-2":
			for p := r.Progress(); p.Done+p.Failed < int64(n-1); p = r.Progress() {
				if ctx.Err() != nil {
					break
				}
			}
			return matrix.Turn{}, &matrix.StopError{Err: errors.New("stopped by the test")}
		}
		return matrix.Turn{Data: matrix.RawValue([]byte(`{"good":true}`))}, nil
	})
	r, err = run.New(context.Background(), run.Config{
		Source: src, Shards: []run.Shard{{Store: q, Outputs: map[matrix.Status]run.OpenSink{matrix.Done: sink(rundir.DataDir), matrix.Failed: sink(rundir.FailedDir)}}}, Router: inTurn{"speaker", "judge"},
		Roles: map[string]matrix.Role{"speaker": {Agent: say}, "judge": {Agent: judge}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil {
		t.Fatal("the run came to its end, want it to stop at row-2")
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inTurn sends a task to one role after the other.
type inTurn []string

func (r inTurn) Start(*matrix.Task) matrix.Decision { return matrix.To(r[0]) }

func (r inTurn) Next(t *matrix.Task) matrix.Decision {
	if len(t.Turns) < len(r) {
		return matrix.To(r[len(t.Turns)])
	}
	return matrix.Finish(matrix.Value{})
}

func TestShow(t *testing.T) {
	for _, compress := range []string{"none", "gzip", "zstd"} {
		t.Run(compress, func(t *testing.T) {
			dir := runFolderOf(t, 12, dataset.SinkOptions{RowsPerPart: 4, Compress: compress})
			for _, test := range []struct {
				args []string
				code int
				want []string // of the output, of the errors where the code is not 0
			}{
				{[]string{dir}, 0, []string{"\nspeaker\n  I say row-", "judge  good: true"}},
				{[]string{dir, "row-9"}, 0, []string{"row-9  done", "row  id: row-9 · n: 9\n", "I say row-9"}},
				{[]string{dir, "row-1"}, 0, []string{"row-1  failed", "judge: no verdict", "error: no verdict"}},
				{[]string{dir, "row-2"}, 0, []string{"row-2  under way", "I say row-2", "waits for judge"}},
				{[]string{dir, "--failed"}, 0, []string{"row-1  failed"}},
				{[]string{dir, "rwo-9"}, 1, []string{`has no task "rwo-9"; did you mean row-9?`}},
				{[]string{dir, "zzz"}, 1, []string{`has no task "zzz"` + "\n"}},
				{[]string{dir, "w-1"}, 1, []string{`did you mean row-1 or row-10 or row-11?`}},
				{[]string{"row-9", dir}, 2, []string{"the folder comes first: write\n  matrix show " + dir + " row-9\n"}},
				{[]string{dir, "row-9", "-n", "2"}, 2, []string{"an ID names one task"}},
				{[]string{dir, "-n", "-1"}, 2, []string{"-n is -1"}},
				{[]string{}, 2, []string{"needs DIR"}},
				{[]string{filepath.Dir(dir)}, 2, []string{"is not the folder of a run", "did you mean " + dir}},
				{[]string{dir + "x"}, 2, []string{"no such folder"}},
				{[]string{filepath.Join(dir, "..", "rows.jsonl")}, 2, []string{"is a file"}},
			} {
				code, out, errs := command(t, append([]string{"show"}, test.args...)...)
				if code != test.code {
					t.Errorf("show %q: exit code %d, want %d: %s", test.args, code, test.code, errs)
				}
				for _, w := range test.want {
					if test.code == 0 && !strings.Contains(out, w) || test.code != 0 && !strings.Contains(errs, w) {
						t.Errorf("show %q has no %q:\n%s%s", test.args, w, out, errs)
					}
				}
				if strings.Contains(out, "\x1b") {
					t.Errorf("show %q has colours in a pipe: %q", test.args, out)
				}
			}
			for n, want := range map[string]int{"1": 1, "5": 5, "0": 10} {
				if _, out, _ := command(t, "show", dir, "-n", n); strings.Count(out, "I say") != want {
					t.Errorf("show -n %s prints %d tasks, want %d", n, strings.Count(out, "I say"), want)
				}
			}
		})
	}
}

// Without its state a folder is searched.
// What is no folder of a run names the one that it may stand for, and an id that looks
// like a flag where it stands.
func TestShowSaysWhatIsMeant(t *testing.T) {
	t.Chdir(files(t, map[string]string{"chat.yaml": strings.Replace(echo, "name: echo\n", "", 1), "named.yaml": echo, "rows.jsonl": `{"id": "-x", "text": "a", "n": 1}` + "\n"}))
	matrixCmd("show", "chat.yaml").want(t, 2, "chat.yaml is a file; give the folder of a run, such as runs/NAME")
	matrixCmd("run", "chat.yaml").want(t, 0)
	matrixCmd("run", "named.yaml").want(t, 0)
	for _, cmd := range []string{"show", "verify"} {
		matrixCmd(cmd, "chat.yaml").want(t, 2, "runs/chat")
		matrixCmd(cmd, "named.yaml").want(t, 2, "runs/echo")
		matrixCmd(cmd, "chat").want(t, 2, "no such folder; give the folder of a run, such as runs/chat")
	}
	matrixCmd("show", "runs/chat", "-x").want(t, 2, "an ID that begins with a dash stands behind --")
	matrixCmd("explain", "runs/chat", "-x").want(t, 2, "an ID that begins with a dash stands behind --")
	matrixCmd("show", "runs/chat", "--", "-x").want(t, 0, "-x")
}

func TestShowWithoutState(t *testing.T) {
	dir := runFolderOf(t, 12, dataset.SinkOptions{RowsPerPart: 4})
	if err := os.RemoveAll(filepath.Join(dir, rundir.StateDir)); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"row-9": "I say row-9", "row-1": "failed"} {
		if code, out, errs := command(t, "show", dir, id); code != 0 || !strings.Contains(out, want) {
			t.Errorf("show %s: exit code %d, got\n%s%s", id, code, out, errs)
		}
	}
	if code, _, errs := command(t, "show", dir, "ROW-3x"); code != 1 || !strings.Contains(errs, "did you mean row-3?") {
		t.Errorf("show of an unknown id: exit code %d and %q", code, errs)
	}
}

// While a process runs in the folder, what is finished can be read.
func TestShowWhileRunning(t *testing.T) {
	t.Parallel()
	for _, compress := range []string{"none", "zstd"} {
		t.Run(compress, func(t *testing.T) {
			dir := runFolderOf(t, 12, dataset.SinkOptions{Compress: compress})
			q, err := local.Open(filepath.Join(dir, rundir.StateDir), local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			tear(t, dir, compress)
			if code, out, errs := command(t, "show", dir, "-n", "0"); code != 0 || strings.Count(out, "I say") != 10 {
				t.Errorf("show: exit code %d, got\n%s%s", code, out, errs)
			}
			if code, out, errs := command(t, "show", dir, "row-9"); code != 0 || !strings.Contains(out, "I say row-9") {
				t.Errorf("show row-9: exit code %d, got\n%s%s", code, out, errs)
			}
			for _, name := range []string{"show", "explain"} {
				code, _, errs := command(t, name, dir, "row-2")
				if want := "once the run has stopped"; code != 1 || !strings.Contains(errs, want) {
					t.Errorf("%s of a task under way: exit code %d and %q, want %q", name, code, errs, want)
				}
			}
		})
	}
}

// tear leaves half a write at the end of the first part.
func tear(t *testing.T, dir, compress string) {
	t.Helper()
	half := []byte(`{"id":"row-2","row":"row-2","tri`)
	name := filepath.Join(dir, rundir.DataDir, "part-00000.jsonl")
	if compress == "zstd" {
		name += ".zst"
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		half = z.EncodeAll(bytes.Repeat(half, 100), nil)
		half = half[:len(half)/2]
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(half); err != nil {
		t.Fatal(err)
	}
}

// A ledger and an output that disagree are for verify to judge.
func TestShowDamaged(t *testing.T) {
	dir := runFolderOf(t, 12, dataset.SinkOptions{RowsPerPart: 4})
	name := filepath.Join(dir, rundir.DataDir, "part-00001.jsonl")
	if err := os.WriteFile(name, []byte("{}\n{}\n{}\nno JSON\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := command(t, "show", dir, "-n", "0"); code != 1 || !strings.Contains(errs, "part-00001.jsonl:4") {
		t.Errorf("show -n 0: exit code %d and %q, want an error with the line", code, errs)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	missing := 0
	for i := range 12 {
		if _, _, errs := command(t, "show", dir, fmt.Sprint("row-", i)); strings.Contains(errs, "matrix verify "+dir) {
			missing++
		}
	}
	if missing != 4 {
		t.Errorf("%d tasks are said to be missing, want the 4 of the part", missing)
	}
}

func TestExplain(t *testing.T) {
	dir := runFolderOf(t, 12, dataset.SinkOptions{RowsPerPart: 4})
	for id, want := range map[string][]string{
		"row-9": {"row-9  done\nfed 20", "\n  1  ", "speaker", "\n  2  ", "judge", "total", "done after ", "stands in data/part-0000"},
		"row-1": {"row-1  failed", "error: no verdict", "failed after ", ": judge: no verdict\n", "stands in failed/part-00000.jsonl:1\n"},
		"row-2": {"row-2  under way", "speaker", "waits for judge since 20"},
	} {
		code, out, errs := command(t, "explain", dir, id)
		if code != 0 {
			t.Errorf("explain %s: exit code %d: %s", id, code, errs)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("explain %s has no %q:\n%s", id, w, out)
			}
		}
	}
	if code, _, errs := command(t, "explain", dir); code != 2 || !strings.Contains(errs, "the ID of a task") {
		t.Errorf("explain without an ID: exit code %d and %q", code, errs)
	}
}

// A step that made several calls has a line for each.
func TestExplainCalls(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	task := &matrix.Task{ID: "q", Row: "q", Turns: []matrix.Turn{
		{Role: "solve", Hop: 1, Timing: matrix.Timing{At: at, TookMS: 3000}, Calls: []matrix.Call{
			{Kind: matrix.KindModel, Name: "big", Model: "llama-70b", Tokens: matrix.Tokens{PromptTokens: 100, CompletionTokens: 7}, USD: 0.25, WaitMS: 50, TookMS: 900, Error: "the reply is not JSON"},
			{Kind: matrix.KindTool, Name: "search", TookMS: 40},
			{Kind: matrix.KindModel, Name: "big", Model: "llama-70b", Tokens: matrix.Tokens{PromptTokens: 120, CompletionTokens: 9}, USD: 0.5, Retries: 1, RetryMS: 500, TookMS: 1500},
		}},
		{Role: "look", Hop: 2, Timing: matrix.Timing{At: at.Add(3 * time.Second), TookMS: 30}, Calls: []matrix.Call{{Kind: matrix.KindTool, Name: "search", TookMS: 30}}},
	}, Outcome: &matrix.Outcome{Status: matrix.Done}}
	var b bytes.Buffer
	if err := explain(&b, &rundir.Record{Task: task, Where: "data/part-00000.jsonl:1"}, color{}); err != nil {
		t.Fatal(err)
	}
	want := `
hop      at  role      slot       retry    took  tokens   USD  model
  1   +0 ms  solve    50 ms  500 ms (1)   2.5 s  220+16  0.75  3 calls
             · model  50 ms              900 ms   100+7  0.25  big
             error: the reply is not JSON
             · tool                       40 ms                search
             · model         500 ms (1)   1.5 s   120+9  0.50  big
  2  +3.0 s  look                         30 ms                tool search
  2          total    50 ms  500 ms (1)   2.5 s  220+16  0.75  4 calls

big is llama-70b
`
	if got := b.String(); !strings.Contains(got, want) {
		t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
	}
}

func TestExplainTable(t *testing.T) {
	var b bytes.Buffer
	if err := explain(&b, &rundir.Record{Task: dialogue(), Where: "data/part-00000.jsonl:8"}, color{}); err != nil {
		t.Fatal(err)
	}
	want := `q-7  done
fed 2026-11-20 12:00:00.000 UTC

hop      at  role     queue       delay    slot      retry     took    tokens  model
      +0 ms  student                                                           (opening)
  1  +20 ms  teacher  20 ms              300 ms  1.5 s (2)    1.1 s  1,234+56  big
     +3.0 s  extract                                        0.05 ms
  2  +4.0 s  student   1 ms  900 ms (2)                        5 ms
             error: the reply is not JSON
  2          total    21 ms  900 ms (2)  300 ms  1.5 s (2)    1.1 s  1,234+56  1 call

big is llama-70b at http://127.0.0.1:8000/v1
done after 4.0 s with the value true
stands in data/part-00000.jsonl:8
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// What is left out is said, beside the output.
func TestShowSaysThatThereAreMore(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(4)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	for n, want := range map[string]string{"3": "There are more: -n 0", "4": "", "0": ""} {
		if r := matrixCmd("show", out, "-n", n).want(t, 0); want == "" && r.err != "" || !strings.Contains(r.err, want) {
			t.Errorf("-n %s: got %q", n, r.err)
		}
	}
}
