package cli

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix/internal/rundir"
	"matrix/local"
)

func TestRunFinishes(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "out="+out).want(t, 0, "done 30", "metric", "show "+out, "verify "+out)

	if got := len(ids(t, out, "data/part-00000.jsonl")); got != 30 {
		t.Errorf("rows in the output: got %d, want 30", got)
	}
	s := summaryOf(t, out)
	if seconds, ok := s["seconds"].(float64); !ok || seconds <= 0 {
		t.Errorf("seconds: got %v, want more than 0", s["seconds"])
	}
	delete(s, "seconds")
	spent, _ := s["spending"].(map[string]any)
	if spent["tokens"] != 240.0 || spent["usd"] != 0.0 || spent["models"].(map[string]any)["m"].(map[string]any)["tokens"] != 240.0 {
		t.Errorf("spending: got %v, want 240 tokens", spent)
	}
	delete(s, "spending")
	usage, _ := s["usage"].(map[string]any)["m"].(map[string]any)
	want := map[string]any{
		"name": "echo", "tasks": 30.0, "done": 30.0, "dropped": 0.0, "expanded": 0.0, "failed": 0.0, "owed": 0.0, "live": 0.0, "hops": 30.0, "finished": true, "causes": []any{}, "reasons": []any{},
		"metrics": map[string]any{
			"long": map[string]any{"count": 30.0, "sum": 20.0, "mean": 2.0 / 3},
			"n":    map[string]any{"count": 30.0, "sum": 435.0, "mean": 14.5},
		},
		"usage": map[string]any{"m": map[string]any{
			"calls": 30.0, "retries": 0.0, "prompt_tokens": usage["prompt_tokens"], "completion_tokens": usage["completion_tokens"],
		}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("summary: got %v, want %v", s, want)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	matrixCmd("verify", out, "--complete").want(t, 0, "30 tasks = 30 done + 0 failed + 0 pending")
}

func TestRunAgainIsFinished(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	before := read(t, out, "data/part-00000.jsonl")
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished: 3 done, 0 failed")
	if got := read(t, out, "data/part-00000.jsonl"); got != before {
		t.Errorf("the output changed:\n%s\nwant\n%s", got, before)
	}
	if err := os.Remove(filepath.Join(out, rundir.SummaryFile)); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out, "live=7").want(t, 0, "is finished")
	if got := summaryOf(t, out)["done"]; got != 3.0 {
		t.Errorf("done in the summary: got %v, want 3", got)
	}
}

func TestRunDefaultFolder(t *testing.T) {
	dir := files(t, map[string]string{"my/config.yaml": strings.Replace(echo, "name: echo\n", "", 1), "rows.jsonl": rows(2)})
	t.Chdir(dir)
	matrixCmd("run", "my", "dataset.path=rows.jsonl").want(t, 0, "show runs/my")
	matrixCmd("verify", "runs/my").want(t, 0, "2 tasks")
}

func TestRunChangedConfig(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)

	before := read(t, out, rundir.ConfigFile)
	matrixCmd("run", dir, "-o", out, "seed=7", "metrics.n=1", "live=2").want(t, 2, "These keys differ", "\n seed\n", "\n metrics.n\n", "!\n live\n", "--accept-changes")
	if got := read(t, out, rundir.ConfigFile); got != before {
		t.Errorf("a refused config was written:\n%s", got)
	}
	matrixCmd("run", dir, "-o", out, "seed=7", "--accept-changes").want(t, 0)
	if got := read(t, out, rundir.ConfigFile); !strings.Contains(got, "seed: 7") {
		t.Errorf("the accepted config was not written:\n%s", got)
	}
	if got, want := counts(t, out), [3]int64{5, 0, 0}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
}

func TestRunFreeChanges(t *testing.T) {
	for _, change := range []string{"live=2", "display=plain", "grace=1s", "models.m.delay=1ms", "+roles.say.concurrency=3"} {
		t.Run(change, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3)})
			out := filepath.Join(dir, "out")
			stopped(t, dir, out)
			matrixCmd("run", dir, "-o", out, change).want(t, 0)
		})
	}
}

// stopped leaves a run of dir in out, with rows fed and none done.
func stopped(t *testing.T, dir, out string, more ...string) {
	t.Helper()
	p := Program{interrupts: make(chan os.Signal, 2), every: time.Millisecond, In: strings.NewReader(""), Out: io.Discard}
	fed := regexp.MustCompile(` live [1-9]`)
	var once sync.Once
	p.Err = writerFunc(func(b []byte) (int, error) {
		if fed.Match(b) {
			once.Do(func() {
				p.interrupts <- os.Interrupt
				p.interrupts <- os.Interrupt
			})
		}
		return len(b), nil
	})
	if code := p.Main(append([]string{"run", dir, "-o", out, "models.m.delay=1h"}, more...)); code != 4 {
		t.Fatalf("stopped run: got exit code %d, want 4", code)
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestRunLostConfig(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)
	if err := os.Remove(filepath.Join(out, rundir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 2, "config.yaml is gone", "--accept-changes")
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0)
}

func TestRunFresh(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "--fresh").want(t, 0)
	if err := os.WriteFile(filepath.Join(out, "notes.txt"), []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out, "--fresh", "dataset.limit=2", "seed=9").want(t, 0, "done 2")
	if got := ids(t, out, "data/part-00000.jsonl"); len(got) != 2 {
		t.Errorf("tasks after --fresh: got %v, want 2", got)
	}
	if got := read(t, out, "notes.txt"); got != "mine" {
		t.Errorf("notes.txt: got %q", got)
	}
	matrixCmd("verify", out, "--complete").want(t, 0)
	// A config that is wrong costs no data.
	matrixCmd("run", dir, "-o", out, "--fresh", "seeed=9").want(t, 2, "seeed")
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestRunForeignFolder(t *testing.T) {
	for name, content := range map[string]map[string]string{
		"config of a person": {"out/config.yaml": "name: x\n"},
		"data":               {"out/data/part-00000.jsonl": "{}\n"},
		"state":              {"out/state/notes": ""},
	} {
		t.Run(name, func(t *testing.T) {
			content["config.yaml"], content["rows.jsonl"] = echo, rows(2)
			dir := files(t, content)
			out := filepath.Join(dir, "out")
			matrixCmd("run", dir, "-o", out).want(t, 2, "is not the folder of a run")
			matrixCmd("run", dir, "-o", out, "--fresh").want(t, 2, "is not the folder of a run", "--fresh deletes what a run has made, and nothing else")
			for name, text := range content {
				if got := read(t, dir, name); got != text {
					t.Errorf("%s: got %q, want %q", name, got, text)
				}
			}
		})
	}
	t.Run("other files", func(t *testing.T) {
		dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(2), "out/thesis.tex": "x"})
		matrixCmd("run", dir, "-o", filepath.Join(dir, "out"), "--fresh").want(t, 2, "thesis.tex")
	})
}

func TestRunSecondProcess(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)
	q, err := local.Open(filepath.Join(out, rundir.StateDir), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run", dir, "-o", out}, {"run", dir, "-o", out, "--fresh"}, {"run", dir, "-o", out, "seed=3"}} {
		begin := time.Now()
		matrixCmd(args...).want(t, 1, "another process is running in "+out)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%v took %v, want an answer at once", args, d)
		}
	}
	for _, command := range []string{"verify", "repair"} {
		matrixCmd(command, out).want(t, 1, out, "another process is using it", "Wait until it has ended, or stop it first: nothing is lost")
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 0)
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestRunPlainDisplay(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(20)})
	out := filepath.Join(dir, "out")
	r := program(Program{every: time.Millisecond}, "run", dir, "-o", out, "models.m.delay=30ms", "live=4").want(t, 0)
	line := regexp.MustCompile(`(?m)^\d+s  \d+/20 \(\d+%\) · [^·]+ · (.* left · )?live \d+ · pending \d+ · failed 0`)
	if !line.MatchString(r.err) {
		t.Errorf("got %q, want a line like %v", r.err, line)
	}
	if strings.Contains(r.err, "\x1b") {
		t.Errorf("escape sequences where there is no terminal: %q", r.err)
	}
	r = matrixCmd("run", dir, "-o", out, "--fresh", "display=none").want(t, 0)
	if r.out+r.err != "" {
		t.Errorf("display=none: got %q, want nothing", r.out+r.err)
	}
}

func TestRunTrialsAndFailures(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(10), "config.yaml": `
name: t
trials: 2
dataset: {path: rows.jsonl, id: id}
roles:
  add: {compute: {n: item.n + 1}, inline: false}
flow:
  start: add
  after: {add: [{when: item.n == 3, fail: "three is bad"}, {finish: last.data.n}]}
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 18", "failed 2", "2 x three is bad", "show "+out+" --failed")
	if got, want := counts(t, out), [3]int64{18, 2, 0}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
	failed := ids(t, out, "failed/part-00000.jsonl")
	slices.Sort(failed)
	if want := []string{"q3", "q3#1"}; !slices.Equal(failed, want) {
		t.Errorf("failed: got %v, want %v", failed, want)
	}
}

func TestUsageErrors(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(2), "row.jsonl": rows(1)})
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no such command":      {[]string{"rum"}, `did you mean "run"`},
		"no config":            {[]string{"run"}, "needs CONFIG"},
		"override first":       {[]string{"run", "seed=3"}, "the first argument is CONFIG"},
		"no override":          {[]string{"run", dir, "seed"}, `"seed" is not an override`},
		"unknown flag":         {[]string{"run", dir, "--frsh"}, "--frsh"},
		"no such config":       {[]string{"run", filepath.Join(dir, "nope.yaml")}, "no such config"},
		"unknown key":          {[]string{"run", dir, "liv=3"}, `did you mean "live"`},
		"wrong type":           {[]string{"run", dir, "live=many"}, "live"},
		"live of nothing":      {[]string{"run", dir, "live=0"}, "want 1 or more"},
		"unknown model":        {[]string{"run", dir, "roles.say.chat.model=mm"}, "mm"},
		"unknown variable":     {[]string{"run", dir, "roles.say.chat.prompt='{{ itm.text }}'"}, "itm"},
		"bad expression":       {[]string{"run", dir, "metrics.n='item.n +'"}, "metrics.n"},
		"dataset for config":   {[]string{"run", filepath.Join(dir, "rows.jsonl")}, "is a dataset, not a config"},
		"one row for config":   {[]string{"plan", filepath.Join(dir, "row.jsonl")}, "row.jsonl' needs no config"},
		"missing dataset":      {[]string{"run", dir, "dataset.path=nope.jsonl"}, "nope.jsonl"},
		"folder for a dataset": {[]string{"run", dir, "dataset.path=" + dir}, "folder"},
		"verify without run":   {[]string{"verify", dir}, "not the folder of a run"},
		"verify nothing":       {[]string{"verify", filepath.Join(dir, "nope")}, "no such folder"},
		"verify two":           {[]string{"verify", dir, dir}, "takes DIR"},
		"preview of nothing":   {[]string{"preview", dir, "-n", "0"}, "-n is 0"},
		"config of nothing":    {[]string{"config"}, "needs CONFIG"},
		"help on nothing":      {[]string{"help", "rum"}, `did you mean "run"`},
		"no such shell":        {[]string{"completion", "zzz"}, "zzz"},
		"two shells":           {[]string{"completion", "bash", "zsh"}, "takes no arguments"},
		"version of something": {[]string{"version", "x"}, "no arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.args[0] == "run" {
				c.args = append(c.args, "-o", filepath.Join(dir, "out"))
			}
			matrixCmd(c.args...).want(t, 2, c.want)
			if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
				t.Error("an output folder was made all the same")
			}
		})
	}
}

func TestHelp(t *testing.T) {
	matrixCmd().want(t, 0, "Available Commands", "verify")
	matrixCmd("version").want(t, 0, "matrix ")
	matrixCmd("completion", "bash").want(t, 0, "bash completion")
	for _, c := range (Program{}).root().Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		r := matrixCmd(c.Name(), "--help").want(t, 0, "Usage:")
		if c.Name() != "version" && !c.HasSubCommands() && !strings.Contains(r.out, "Examples:") {
			t.Errorf("%s --help has no example", c.Name())
		}
	}
}

func TestConfigHidesSecrets(t *testing.T) {
	t.Setenv("MY_KEY", "sk-very-secret")
	dir := files(t, map[string]string{"rows.jsonl": rows(2), "config.yaml": strings.Replace(echo,
		`{kind: scripted, reply: "you said {{ prompt }}"}`, `{base_url: "http://127.0.0.1:1", model: x, api_key: "${env:MY_KEY}"}`, 1)})
	matrixCmd("config", dir, "live=3").want(t, 0, "live: 3", "${env:MY_KEY}", "!sk-very-secret")
}

func TestPreview(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(9)})
	t.Chdir(t.TempDir())
	matrixCmd("preview", dir, "-n", "2").want(t, 0, "q0", "q1", "you said question 1", "!q2")
	matrixCmd("preview", dir).want(t, 0, "q2", "!q3")
	if left, _ := os.ReadDir("."); len(left) > 0 {
		t.Errorf("preview wrote %v", left)
	}
}

// What YAML makes of an expression with a comma in it, and flags that are keys of
// the config, are told with what to write.
func TestRunHabits(t *testing.T) {
	const head = "dataset: {path: rows.jsonl, id: id}\n"
	for _, c := range []struct {
		config string
		args   []string
		want   string
	}{
		{head + "roles: {n: {compute: {a: max(1, 2), b: 1}}}\nflow: [n]\n", nil, "roles.n.compute.2): expected a text, got nothing; inside { } put an expression that has a comma"},
		{head + "roles: {n: {compute: {a: '1'}}}\nflow:\n  start: n\n  after:\n    n: [{when: max(1, 2) > 1, finish: '1'}, {finish: '2'}]\n", nil, "unknown key; inside { } put an expression that has a comma"},
		{echo, []string{"--limit", "3"}, "unknown flag: --limit; keys of the config stand without dashes, such as dataset.limit=10"},
		{echo, []string{"limit=3"}, `did you mean "dataset.limit"?`},
	} {
		dir := files(t, map[string]string{"config.yaml": c.config, "rows.jsonl": rows(5)})
		matrixCmd(append([]string{"run", dir, "-o", filepath.Join(dir, "out")}, c.args...)...).want(t, 2, c.want)
	}
}
