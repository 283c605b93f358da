package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix/internal/export"
	"matrix/internal/python"
)

// several draws three replies to each row, and a judge scores them by their length.
const several = `
name: several
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: replay, path: replies.jsonl, key: id}
roles:
  say: {chat: {model: m, system: "Repeat.", prompt: "{{ item.text }}", n: 3}}
  judge: {compute: {scores: 'item.n == 1 ? [1, 1, 1] : map(turn("say").samples, len(.text))'}}
flow: [say, judge]
`

// severalReplies are those of the three rows of several.
const severalReplies = `{"id": "q0", "text": "one"}
{"id": "q0", "text": "the longest"}
{"id": "q0", "text": "two"}
{"id": "q1", "text": "one"}
{"id": "q1", "text": "three"}
{"id": "q1", "text": "seven"}
{"id": "q2", "text": "quite long"}
{"id": "q2", "text": "long"}
{"id": "q2", "text": "middling"}
`

// ran runs a config with rows into a folder of the test, which it gives.
func ran(t *testing.T, config, rows string) string {
	t.Helper()
	dir := files(t, map[string]string{"config.yaml": config, "rows.jsonl": rows, "replies.jsonl": severalReplies})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	return out
}

// example runs an example, and gives the folder of its run.
func example(t *testing.T, name string) string {
	t.Helper()
	if name == "tools" {
		if _, err := exec.LookPath("python3"); err != nil {
			t.Skip("there is no python3, which the example needs")
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	matrixCmd("run", "../examples/"+name, "-o", out).want(t, 0)
	return out
}

// golden compares a file with the one of that name in testdata/export.
// MATRIX_UPDATE=1 writes the latter anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "export", name)
	if os.Getenv("MATRIX_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, path); got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// Each format of a run is what stands in testdata/export.
func TestExportFormats(t *testing.T) {
	t.Parallel()
	best := ran(t, several, rows(3))
	for _, c := range []struct {
		run   string
		name  string
		flags []string
	}{
		{"coral", "messages.jsonl", []string{"--assistant", "teacher", "--where", "metrics.agreement == 1 && value", "--column", "id=id"}},
		{"tools", "tools.jsonl", nil},
		{"tools", "sharegpt.jsonl", []string{"--format", "sharegpt"}},
		{"tools", "prompt-completion.jsonl", []string{"--format", "prompt-completion"}},
		{"curation", "alpaca.jsonl", []string{"--format", "alpaca", "--assistant", "question"}},
		{"curation", "columns.jsonl", []string{"--format", "columns", "--column", "url=item.metadata.url", "--column", "score=metrics.score", "--column", "value=value"}},
		{"curation", "columns.csv", []string{"--format", "columns", "--column", "url=item.metadata.url", "--column", "score=metrics.score", "--column", "value=value"}},
		{"", "dpo.jsonl", []string{"--format", "dpo", "--score", `turn("judge").data.scores[index]`}},
		{"", "kto.jsonl", []string{"--format", "kto", "--label", `len(sample.text) > 4`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := best
			if c.run != "" {
				dir = example(t, c.run)
			}
			out := filepath.Join(t.TempDir(), c.name)
			r := matrixCmd(append([]string{"export", dir, "-o", out, "--sort", "id"}, c.flags...)...).want(t, 0, "rows", "!Warning")
			if c.name == "dpo.jsonl" {
				r.want(t, 0, "2 rows", "1 whose replies all have the same score")
			}
			golden(t, c.name, read(t, out))
		})
	}
}

// The format tasks is what the output holds.
func TestExportTasks(t *testing.T) {
	dir := ran(t, echo, rows(5))
	out := filepath.Join(t.TempDir(), "tasks.jsonl")
	matrixCmd("export", dir, "-o", out, "--format", "tasks").want(t, 0, "5 rows")
	if got, want := read(t, out), read(t, dir, "data", "part-00000.jsonl"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A row keeps its split when there are more rows, and its trials are together.
func TestExportSplits(t *testing.T) {
	splits := func(n int) map[string]string {
		dir := ran(t, echo+"trials: 2\n", rows(n))
		out := filepath.Join(t.TempDir(), "set")
		matrixCmd("export", dir, "-o", out, "--format", "columns", "--column", "id=row", "--column", "task=id", "--split", "train=0.7,test=0.3", "--shuffle").want(t, 0, "train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl")
		of := map[string]string{}
		for _, name := range []string{"train", "test"} {
			for _, id := range ids(t, out, "data", name+"-00000-of-00001.jsonl") {
				if was := of[id]; was != "" && was != name {
					t.Errorf("row %s is in %s and %s", id, was, name)
				}
				of[id] = name
			}
		}
		if len(of) != n {
			t.Fatalf("got %d rows, want %d", len(of), n)
		}
		return of
	}
	few, many := splits(20), splits(60)
	for id, name := range few {
		if many[id] != name {
			t.Errorf("row %s was in %s and is in %s", id, name, many[id])
		}
	}
	n := 0
	for _, name := range many {
		if name == "test" {
			n++
		}
	}
	if n < 9 || n > 27 {
		t.Errorf("%d of 60 rows are in test, want about 18", n)
	}
}

// Rows are sorted by an expression, or shuffled the same way each time.
func TestExportOrder(t *testing.T) {
	t.Parallel()
	dir := ran(t, echo, rows(30))
	order := func(flags ...string) string {
		out := filepath.Join(t.TempDir(), "a.jsonl.zst")
		matrixCmd(append([]string{"export", dir, "-o", out, "--format", "columns", "--column", "id=id"}, flags...)...).want(t, 0, "30 rows")
		plain := filepath.Join(t.TempDir(), "again")
		echoOf := strings.Replace(echo, "rows.jsonl", out, 1) // our own reader takes it
		config := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(config, []byte(strings.Replace(echoOf, "item.text", "item.id", 1)), 0o666); err != nil {
			t.Fatal(err)
		}
		matrixCmd("run", config, "-o", plain, "live=1", "~metrics").want(t, 0, "done 30")
		return strings.Join(ids(t, plain, "data", "part-00000.jsonl"), " ")
	}
	var want []string
	for i := 29; i >= 0; i-- {
		want = append(want, fmt.Sprintf("q%d", i))
	}
	if got := order("--sort", "-item.n"); got != strings.Join(want, " ") {
		t.Errorf("sorted: got %s", got)
	}
	one, other := order("--shuffle"), order("--shuffle", "--seed", "1")
	if one != order("--shuffle") {
		t.Error("a shuffle is another one each time")
	}
	slices.Sort(want)
	for _, got := range []string{one, other} {
		words := strings.Fields(got)
		slices.Sort(words)
		if one == other || !slices.Equal(words, want) {
			t.Errorf("got %s and %s", one, other)
		}
	}
}

// What is wrong is said, and leaves what was there.
func TestExportRefuses(t *testing.T) {
	dir := ran(t, echo, rows(4))
	empty := t.TempDir()
	work := t.TempDir()
	there := filepath.Join(work, "there.jsonl")
	if err := os.WriteFile(there, []byte("kept\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	columns := []string{"--format", "columns", "--column", "id=id"}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{append([]string{empty, "-o", "a.jsonl"}, columns...), 2, "is not the folder of a run"},
		{[]string{dir}, 2, "-o is missing"},
		{[]string{dir, "-o", "a.txt"}, 2, "the ending of a file is one of .jsonl"},
		{[]string{dir, "-o", "a.json"}, 2, ".json is one object, for swebench-preds alone: write .jsonl"},
		{[]string{dir, "-o", "a.jsonl", "--format", "chatml"}, 2, "want one of messages sharegpt"},
		{[]string{dir, "-o", there}, 2, "is there already: --force"},
		{[]string{dir, "-o", work}, 2, "is a folder that is not empty: --force"},
		{[]string{dir, "-o", filepath.Join(dir, "data", "part-00000.jsonl"), "--force"}, 2, "a place of the run's own"},
		{[]string{dir, "-o", "a.csv"}, 2, "CSV holds columns alone"},
		{[]string{dir, "-o", "a.jsonl", "--assistant", "judge"}, 2, `there is no role "judge"; there are say`},
		{[]string{dir, "-o", "a.jsonl", "--format", "dpo"}, 2, "dpo needs a score"},
		{[]string{dir, "-o", "a.jsonl", "--label", "true"}, 2, "a label is for kto"},
		{[]string{dir, "-o", "a.jsonl", "--column", "messages=id"}, 2, "choose another name"},
		{[]string{dir, "-o", "a.jsonl", "--column", "x"}, 2, "want name=EXPR"},
		{[]string{dir, "-o", "a.jsonl", "--where", "nobody"}, 2, "where nobody"},
		{[]string{dir, "-o", "a.jsonl", "--sort", "id", "--shuffle"}, 2, "not both"},
		{[]string{dir, "-o", "a.jsonl", "--split", "train=0.5,test=0.5"}, 2, "name a folder"},
		{append([]string{dir, "-o", "set", "--split", "train=0.5,test=0.4"}, columns...), 2, "add up to 0.9: name the rest, such as rest=0.1"},
		{append([]string{dir, "-o", "set", "--split", "train=0.5,test=0.6"}, columns...), 2, "add up to 1.1, which is more than 1"},
		{append([]string{dir, "-o", "set", "--split", "train,test"}, columns...), 2, "want name=share"},
		{append([]string{dir, "-o", there, "--force", "--where", "item.n > 9"}, columns...), 1, "none of 4 finished tasks gives a row, and nothing was written. Left out: 4 for which where is not true"},
		{append([]string{dir, "-o", there, "--force", "--column", `x=item.n == 3 ? "three" : item.n`}, columns...), 1, `in task "q3": a column has one type`},
		{append([]string{dir, "-o", there, "--force", "--sort", `item.n == 3 ? "three" : item.n`}, columns...), 1, `in task "q3": a column has one type`},
		{append([]string{dir, "-o", there, "--force", "--where", "item.n"}, columns...), 1, "must be true or false, this is the number"},
	} {
		r := matrixCmd(append([]string{"export"}, c.args...)...)
		r.want(t, c.code, c.want)
	}
	if got := read(t, there); got != "kept\n" {
		t.Errorf("got %q, want what was there", got)
	}
	for _, name := range []string{"a.jsonl", "a.csv", "set"} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if entries, _ := os.ReadDir(work); len(entries) != 1 {
		t.Errorf("got %v, want nothing but what was there", entries)
	}
	matrixCmd(append([]string{"export", dir, "-o", there, "--force"}, columns...)...).want(t, 0, "4 rows")
	two := strings.Replace(echo, "flow:", `  again: {chat: {model: m, prompt: "again"}}`+"\nflow:", 1)
	two = strings.Replace(two, "[say]", "[say, again]", 1)
	matrixCmd("export", ran(t, two, rows(1)), "-o", "a.jsonl").want(t, 2, "several roles ask a model: again, say", "--assistant again")
}

// A run that is not finished says so, and so does one whose prompts have changed.
func TestExportUnfinished(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	run := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", run, "dataset.limit=3").want(t, 0)
	changed := strings.Replace(echo, "{{ item.text }}", "now {{ item.text }}", 1)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(changed), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", run, "--accept-changes").want(t, 0, "done 5")
	out := filepath.Join(dir, "a.jsonl")
	matrixCmd("export", run, "-o", out).want(t, 0, "5 rows", "the templates of say have changed since 3 rows")

	lease := read(t, run, "summary.json")
	lease = strings.Replace(strings.Replace(lease, `"finished": true`, `"finished": false`, 1), `"owed": 0`, `"owed": 2`, 1)
	if err := os.WriteFile(filepath.Join(run, "summary.json"), []byte(lease), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("export", run, "-o", out, "--force").want(t, 0, "The run is not finished: 2 tasks are pending")
}

// What is exported, the field's readers load, each format as JSON Lines and as
// Parquet, with the same rows.
func TestReadersLoadExports(t *testing.T) {
	t.Parallel()
	interpreter := python.Readers(t)
	best := ran(t, several, rows(3))
	work := t.TempDir()
	n := 0
	pair := func(dir string, flags ...string) {
		n++
		for _, ending := range []string{".jsonl", ".parquet"} {
			out := filepath.Join(work, fmt.Sprintf("%d%s", n, ending))
			matrixCmd(append([]string{"export", dir, "-o", out, "--sort", "id"}, flags...)...).want(t, 0)
		}
	}
	for _, format := range export.Formats {
		f := []string{"--format", string(format)}
		switch format {
		case export.Columns:
			f = append(f, "--column", "id=id", "--column", "n=item.n", "--column", "half=item.n / 2", "--column", "some=item.n > 1 ? [1, 2] : nil", "--column", "none=nil", "--column", `deep=[{"a": [item.n > 0 ? [] : [id]]}]`)
		case export.DPO:
			f = append(f, "--score", `turn("judge").data.scores[index]`)
		case export.KTO:
			f = append(f, "--label", "index == 0")
		case export.ATIF, export.MiniSWE, export.Predictions:
			continue // trajectories are no tables
		}
		pair(best, f...)
	}
	tools := example(t, "tools")
	for _, format := range []string{"messages", "sharegpt", "prompt-completion"} {
		pair(tools, "--format", format)
	}
	pair(example(t, "coral"), "--format", "tasks")
	cmd := exec.CommandContext(t.Context(), interpreter, "testdata/exports.py", work)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var files int
	if err := json.Unmarshal(out[strings.LastIndex(strings.TrimSpace(string(out)), "\n")+1:], &files); err != nil || files != n {
		t.Errorf("got %s, want %d files", out, n)
	}
}

// Trajectories hold to the rules of their formats: steps are numbered from 1, what a tool
// answered is an observation of the step that asked, and only the agent's steps have calls.
func TestExportTrajectories(t *testing.T) {
	run := example(t, "tools")
	out := filepath.Join(t.TempDir(), "t.jsonl")
	matrixCmd("export", run, "-o", out, "--format", "atif").want(t, 0)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	observed := 0
	for line := range strings.Lines(string(b)) {
		var x struct {
			SchemaVersion string `json:"schema_version"`
			Agent         struct{ Name, Version string }
			Steps         []struct {
				StepID    int `json:"step_id"`
				Source    string
				Message   *string
				Metrics   any
				ToolCalls []struct {
					ToolCallID string `json:"tool_call_id"`
				} `json:"tool_calls"`
				Observation *struct {
					Results []struct {
						SourceCallID string `json:"source_call_id"`
						Content      string
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		if x.SchemaVersion != "ATIF-v1.8" || x.Agent.Name == "" || x.Agent.Version == "" || len(x.Steps) < 3 {
			t.Fatalf("got %s", line)
		}
		for i, st := range x.Steps {
			if st.StepID != i+1 || !slices.Contains([]string{"system", "user", "agent"}, st.Source) || st.Message == nil ||
				st.Source != "agent" && (st.Metrics != nil || st.ToolCalls != nil) {
				t.Fatalf("step %d: got %+v in %s", i+1, st, line)
			}
			if st.Observation == nil {
				continue
			}
			for _, r := range st.Observation.Results {
				observed++
				if !slices.ContainsFunc(st.ToolCalls, func(c struct {
					ToolCallID string `json:"tool_call_id"`
				}) bool {
					return c.ToolCallID == r.SourceCallID
				}) {
					t.Errorf("step %d observes %q, which it did not call: %s", i+1, r.SourceCallID, line)
				}
			}
		}
	}
	if observed == 0 {
		t.Errorf("no observation in\n%s", b)
	}
	matrixCmd("export", run, "-o", out, "--force", "--format", "mini-swe").want(t, 0)
	var mini struct {
		Messages []struct {
			Role  string
			Extra map[string]any
		}
		Format string `json:"trajectory_format"`
	}
	if b, err = os.ReadFile(out); err == nil {
		first, _, _ := strings.Cut(string(b), "\n")
		err = json.Unmarshal([]byte(first), &mini)
	}
	if n := len(mini.Messages); err != nil || n < 3 || mini.Format != "mini-swe-agent-1.1" || mini.Messages[n-1].Role != "exit" || mini.Messages[n-1].Extra["exit_status"] == "" {
		t.Errorf("got %+v, %v", mini, err)
	}
	preds := filepath.Join(t.TempDir(), "preds.json")
	matrixCmd("export", run, "-o", preds, "--format", "swebench-preds").want(t, 0)
	var all map[string]struct {
		InstanceID string `json:"instance_id"`
		Model      string `json:"model_name_or_path"`
	}
	if b, err = os.ReadFile(preds); err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil || len(all) == 0 {
		t.Errorf("got %s, %v", b, err)
	}
	for id, p := range all {
		if p.InstanceID != id || p.Model == "" {
			t.Errorf("%s: got %+v", id, p)
		}
	}
	matrixCmd("export", run, "-o", filepath.Join(t.TempDir(), "x.json"), "--format", "atif").want(t, 2)
	matrixCmd("export", run, "-o", filepath.Join(t.TempDir(), "x.parquet"), "--format", "atif").want(t, 2)
}
