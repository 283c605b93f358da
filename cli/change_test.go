package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"matrix/internal/config"
	"matrix/internal/rundir"
	"matrix/internal/sim"
	"matrix/local"
	"matrix/registry"
	"matrix/spec"
)

// What is refused has written nothing: the old command goes on.
func TestRefusedChangesWriteNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		code int
		said string
	}{
		"trials":            {[]string{"trials=2"}, 2, "a run of trials=1, and that cannot change\nUse the old value"},
		"trials, accepted":  {[]string{"trials=2", "--accept-changes"}, 2, "a run of trials=1, and that cannot change"},
		"shards":            {[]string{"shards=2"}, 2, "a run of shards=1, and that cannot change\nUse the old value"},
		"shards, accepted":  {[]string{"shards=2", "--accept-changes"}, 2, "a run of shards=1, and that cannot change"},
		"a role is gone":    {[]string{"~roles.say", "+roles.talk.chat={model: m, prompt: x}", "flow=[talk]", "~metrics", "--accept-changes"}, 1, "wait for the role say"},
		"a shorter dataset": {[]string{"dataset.path=DIR/one.jsonl", "seed=7", "--accept-changes"}, 1, "were read before"},
		"and a retry":       {[]string{"dataset.path=DIR/one.jsonl", "seed=7", "--retry-failed", "--accept-changes"}, 1, "were read before"},
		"no dataset":        {[]string{"dataset.path=none.jsonl", "--fresh"}, 2, "none.jsonl"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5), "one.jsonl": rows(1)})
			out := filepath.Join(dir, "out")
			stopped(t, dir, out)
			before := read(t, out, rundir.ConfigFile)
			args := []string{"run", dir, "-o", out}
			for _, arg := range c.args {
				args = append(args, strings.ReplaceAll(arg, "DIR", dir))
			}
			matrixCmd(args...).want(t, c.code, c.said)
			if got := read(t, out, rundir.ConfigFile); got != before {
				t.Errorf("the refused config was written:\n%s", got)
			}
			matrixCmd("verify", out).want(t, 0, "5 tasks = 0 done + 0 failed + 5 pending")
			matrixCmd("run", dir, "-o", out).want(t, 0)
			matrixCmd("verify", out, "--complete").want(t, 0, "5 done")
		})
	}
}

// Each key that docs/config.md calls free may be changed, in each kind that has it, and
// docs/runs.md names it.
func TestEveryFreeKey(t *testing.T) {
	parts := registry.New().Parts()
	n := 0
	b, err := os.ReadFile("../docs/runs.md")
	if err != nil {
		t.Fatal(err)
	}
	_, told, _ := strings.Cut(string(b), "\nFreely changed is")
	told, _, _ = strings.Cut(told, "```")
	check := func(text, key string) {
		if last := key[strings.LastIndexByte(key, '.')+1:]; !strings.HasPrefix(key, "budget.") && !strings.Contains(told, "`"+last+"`") && !strings.Contains(told, "`"+key+"`") {
			t.Errorf("docs/runs.md does not say that %s may be changed", key)
		}
		tree, err := config.LoadText(spec.Run{}, "c", text, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n++; !tree.Free(key, parts...) {
			t.Errorf("%s in %q: a resumed run is refused where it changes", key, text)
		}
	}
	var walk func(typ reflect.Type, text, path string)
	walk = func(typ reflect.Type, text, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case strings.Contains(f.Tag.Get("yaml"), ",inline") && f.Type.Kind() == reflect.Struct:
				walk(f.Type, text, path)
			case f.Tag.Get("free") == "true":
				check(text, config.Join(path, key))
			}
		}
	}
	walk(reflect.TypeFor[spec.Run](), "{}", "")
	walk(reflect.TypeFor[spec.Dataset](), "{}", "dataset")
	walk(reflect.TypeFor[spec.Budget](), "{}", "budget")
	walk(reflect.TypeFor[spec.Role](), "{}", "roles.x")
	for _, p := range parts {
		typ := reflect.TypeOf(p.Type)
		if typ.Kind() != reflect.Struct {
			continue
		}
		at, text := strings.ReplaceAll(p.At, "*", "x"), "{}"
		if p.Kind != "" {
			text = at
			for _, step := range strings.Split(at, ".") {
				text = strings.Replace(text, step+".", step+": {", 1)
			}
			text = "{" + text + ": {kind: " + p.Kind + "}" + strings.Repeat("}", strings.Count(text, "{")) + "}"
		}
		walk(typ, text, at)
	}
	if n < 50 {
		t.Errorf("found %d free keys, want 50 or more: the walk does not see them", n)
	}
}

// A service that moved may be asked at its new address; another one must not mix
// its replies in.
func TestModelMoves(t *testing.T) {
	sims := func(model string) string {
		at, _ := simService(t, sim.Config{Model: model, Latency: sim.Latency{Mean: time.Millisecond}, Preset: "slots"})
		return at
	}
	first, same, other := sims("org/a"), sims("org/a"), sims("org/b")
	dir := files(t, map[string]string{"rows.jsonl": rows(6), "config.yaml": `
dataset: {path: rows.jsonl, id: id, limit: 3}
models: {m: {base_url: "${env:TEST_MODEL_AT}"}}
roles: {say: {chat: {model: m, prompt: "{{ item.id }}"}}}
flow: [say]
`})
	out := filepath.Join(dir, "out")
	begin := []string{"run", dir, "-o", out}
	more := append(begin, "dataset.limit=6", "--accept-changes")
	t.Setenv("TEST_MODEL_AT", first)
	matrixCmd(begin...).want(t, 0, "done 3")
	matrixCmd(more[:len(more)-1]...).want(t, 2, "dataset.limit")

	t.Setenv("TEST_MODEL_AT", other)
	matrixCmd(begin...).want(t, 2, "models.m", "org/a", "org/b", "--accept-changes")
	t.Setenv("TEST_MODEL_AT", same)
	matrixCmd(begin...).want(t, 0, "is finished")
	matrixCmd(append(begin, "models.m.base_url="+same)...).want(t, 0, "is finished")
	matrixCmd(append(begin, "models.m.model=org/b")...).want(t, 2, "models.m.model")
	matrixCmd(append(begin, "models.m.model=org/a")...).want(t, 0, "is finished")
	matrixCmd(more...).want(t, 0, "done 6")
}

// A run that a killed process left with a torn line goes on, also where a model
// without a name may have answered in it.
func TestTornLineAndUnnamedModel(t *testing.T) {
	at, _ := simService(t, sim.Config{Model: "org/a", Latency: sim.Latency{Mean: time.Millisecond}, Preset: "slots"})
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	unnamed := []string{"+models.other.base_url=" + at, "+roles.ask.chat={model: other, prompt: x}", "flow=[say, ask]"}
	stopped(t, dir, out, unnamed...)
	if err := os.MkdirAll(filepath.Join(out, rundir.DataDir), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, rundir.DataDir, "part-00000.jsonl"), []byte(`{"id":"r`), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd(append([]string{"run", dir, "-o", out}, unnamed...)...).want(t, 0, "done 5")
	matrixCmd("verify", out, "--complete").want(t, 0, "5 done")
}

// A project that was moved goes on, and what was not moved with it is looked for
// where it is now.
func TestProjectMoves(t *testing.T) {
	top := files(t, map[string]string{"a/conf/config.yaml": echo + "params: {more: !file more.txt}\n", "a/conf/more.txt": "x", "a/conf/rows.jsonl": rows(5)})
	a, b := filepath.Join(top, "a"), filepath.Join(top, "b")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(a)
	stopped(t, "conf", "runs/x")
	stopped(t, "conf", filepath.Join(top, "elsewhere"))
	t.Chdir(top)
	move(a, b)
	t.Chdir(b)
	matrixCmd("verify", "runs/x").want(t, 0, "5 pending")
	matrixCmd("run", "conf", "-o", "runs/x").want(t, 0, "done 5")
	matrixCmd("verify", "runs/x", "--complete").want(t, 0, "5 done")
	matrixCmd("run", "conf", "-o", filepath.Join(top, "elsewhere")).want(t, 0, "done 5")

	// Another path to the same content is the same dataset; other content is not.
	move("conf/rows.jsonl", filepath.Join(top, "rows.jsonl"))
	matrixCmd("run", "conf", "-o", "runs/x", "dataset.path="+filepath.Join(top, "rows.jsonl")).want(t, 0, "is finished")
	if err := os.WriteFile("conf/rows.jsonl", []byte(rows(4)), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", "conf", "-o", "runs/x").want(t, 1, "the dataset is not the one")
}

// A flow that goes round for ever ends after 50 rounds; a run that began before
// that was so goes on without.
func TestRoundsByDefault(t *testing.T) {
	t.Parallel()
	const endless = `
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, reply: again}}
roles: {say: {chat: {model: m, prompt: "{{ item.id }}"}}}
flow: {start: say, after: {say: [{when: 'rounds("say") >= 60', finish: 1}, {to: say}]}}
`
	dir := files(t, map[string]string{"config.yaml": endless, "rows.jsonl": rows(1)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 1, "failed 1", "limit: 50 rounds of say; limits.rounds in the config raises it, 0 lifts it")
	matrixCmd("run", dir, "-o", filepath.Join(dir, "more"), "+limits.rounds=0").want(t, 0, "done 1")

	// No way out at all is a mistake, unless somebody says that he means it.
	none := files(t, map[string]string{"config.yaml": strings.Replace(endless, `[{when: 'rounds("say") >= 60', finish: 1}, {to: say}]`, "say", 1), "rows.jsonl": rows(1)})
	matrixCmd("run", none).want(t, 2, "config.yaml:5:27: flow.after: no task can ever end")
	matrixCmd("run", none, "-o", filepath.Join(none, "out"), "+limits.rounds=3").want(t, 1, "failed 1", "limit: 3 rounds")

	out = filepath.Join(dir, "old")
	stopped(t, dir, out)
	q, err := local.Open(filepath.Join(out, rundir.StateDir), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := q.Checkpoint(context.Background(), "feed")
	if err != nil {
		t.Fatal(err)
	}
	var checkpoint map[string]any
	if err := json.Unmarshal(b, &checkpoint); err != nil {
		t.Fatal(err)
	}
	delete(checkpoint, "version")
	if b, err = json.Marshal(checkpoint); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), nil, map[string][]byte{"feed": b}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 1")
}

// A summary that a killed process left is made right by the next start.
func TestSummaryIsMadeRight(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(3)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	want := read(t, out, rundir.SummaryFile)
	stale := strings.NewReplacer(`"finished": true`, `"finished": false`, `"done": 3`, `"done": 0`).Replace(want)
	if err := os.WriteFile(filepath.Join(out, rundir.SummaryFile), []byte(stale), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished")
	took := regexp.MustCompile(`"seconds": .*`)
	if got := read(t, out, rundir.SummaryFile); took.ReplaceAllString(got, "") != took.ReplaceAllString(want, "") {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
