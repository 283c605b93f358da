package registry

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/llm"
	"matrix/llm/replay"
	"matrix/spec"
)

// note is an agent kind of the tests' own: it says a template.
type note struct {
	Say  string `yaml:"say" required:"true" doc:"Template of what it says."`
	Next string `yaml:"next"`
}

func newNote(b Build, c note) (matrix.Agent, error) {
	var errs []error
	t, err := lang.CompileTemplate(c.Say, b.Params)
	if err != nil {
		errs = append(errs, &lang.FieldError{Field: "say", Err: err})
	}
	if c.Next == "bad" {
		errs = append(errs, &lang.FieldError{Field: "next", Err: errors.New("is bad")})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &noted{b.Name, t}, nil
}

type noted struct {
	role string
	say  *lang.Template
}

func (n *noted) Mentions() []agent.Mention {
	return []agent.Mention{{Key: "say", Source: n.say, Roles: n.say.Roles()}}
}

func (n *noted) Act(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	text, err := n.say.Render(t, nil)
	return matrix.Turn{Role: n.role, Text: text}, err
}

func testRegistry() *Registry {
	r := New()
	Agent(r, "note", newNote, Inline())
	return r
}

const rows = `{"id": "a", "question": "1+1?", "answer": 2}
{"id": "b", "question": "2+2?", "answer": 4, "source": "me"}
`

// build loads config.yaml, with rows.jsonl beside it, and builds it.
func build(t *testing.T, yaml string, overrides ...string) (plan *Plan, dir string, err error) {
	t.Helper()
	return buildWith(t, testRegistry(), yaml, overrides...)
}

func buildWith(t *testing.T, kinds *Registry, yaml string, overrides ...string) (plan *Plan, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "config.yaml", yaml)
	write(t, dir, "rows.jsonl", rows)
	tree, err := config.Load(spec.Run{}, filepath.Join(dir, "config.yaml"), overrides)
	if err != nil {
		return nil, dir, err
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		return nil, dir, err
	}
	plan, err = kinds.Build(tree, &run, ToRun)
	if err == nil {
		t.Cleanup(func() {
			if err := plan.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	return plan, dir, err
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A flow may be one role, and a list of rules one rule.
func TestLoneForms(t *testing.T) {
	for _, flow := range []string{
		"a", "{start: {to: a}, after: {a: {finish: item.id}}}", "{start: a, after: {a: {when: last.text == 'hi', finish: true}}, on_error: {a: {fail: no}}}",
	} {
		plan, _, err := build(t, head+"roles: {a: {note: {say: hi}}}\nflow: "+flow+"\n")
		if err != nil {
			t.Errorf("%s: %v", flow, err)
		} else if d := plan.Router.Start(&matrix.Task{}); d.Role != "a" {
			t.Errorf("%s: got %+v, want a first", flow, d)
		}
	}
}

// Source opens the rows that a plan has, and says which key is at fault.
func TestSource(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "rows.jsonl", rows)
	write(t, dir, "rows.csv", "key\na\n")
	c := spec.Run{Dataset: spec.Dataset{
		Path: spec.Paths{filepath.Join(dir, "rows.jsonl")}, ID: "item.key + 'x'", Where: "item.key != params.no", Rename: map[string]string{"key": "id"},
	}, Params: map[string]any{"no": "a"}}
	src, err := Source(&c)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	if err := src.Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error { ids = append(ids, r.ID); return r.Err }); err != nil || !slices.Equal(ids, []string{"bx"}) {
		t.Errorf("got %q, %v, want bx", ids, err)
	}
	for field, change := range map[string]func(*spec.Dataset){
		"dataset.where": func(d *spec.Dataset) { d.Where = "itm" },
		"dataset.id":    func(d *spec.Dataset) { d.ID = "1 +" },
		"dataset.path":  func(d *spec.Dataset) { d.Path = spec.Paths{"none.jsonl"} },

		"dataset.priority": func(d *spec.Dataset) { d.Priority = "high" },
		"dataset.follow":   func(d *spec.Dataset) { d.Path, d.Follow = spec.Paths{filepath.Join(dir, "rows.csv")}, true },
	} {
		bad := c
		change(&bad.Dataset)
		_, err := Source(&bad)
		var f *lang.FieldError
		if !errors.As(err, &f) || f.Field != field {
			t.Errorf("got %v, want an error of %s", err, field)
		}
	}
}

// A role acts where its condition holds, and one without a condition everywhere.
func TestServes(t *testing.T) {
	plan, _, err := build(t, head+`
params: {region: eu}
models: {m: {kind: scripted, reply: x}}
roles:
  any: {chat: {model: m, prompt: hi}}
  here: {chat: {model: m, prompt: hi}, where: region == params.region}
  gpu: {chat: {model: m, prompt: hi}, where: 'gpu in ["h100", "a100"] and region == "eu"'}
  last: {compute: {x: "1"}}
flow: [any, here, gpu, last]
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		labels map[string]string
		want   []string
	}{
		{nil, []string{"any", "last"}},
		{map[string]string{"gpu": "h100"}, []string{"any", "last"}},
		{map[string]string{"region": "eu", "gpu": "l4"}, []string{"any", "here", "last"}},
		{map[string]string{"region": "eu", "gpu": "a100"}, []string{"any", "gpu", "here", "last"}},
	} {
		serves, err := plan.Serves(tt.labels)
		var got []string
		for role, yes := range serves {
			if yes {
				got = append(got, role)
			}
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, tt.want) || len(serves) != 4 {
			t.Errorf("%v: got %v of %v, %v; want %v", tt.labels, got, serves, err, tt.want)
		}
	}
}

func TestPlan(t *testing.T) {
	plan, dir, err := build(t, head+`
params: {most: 2}
models:
  m: {kind: scripted, reply: "{{ role }} {{ nth }}: {{ prompt }} of {{ item.id }}", record: seen/m.jsonl}
roles:
  a: {note: {say: "{{ item.question }}"}, attempts: 5, concurrency: 7}
  b: {note: {say: "bye"}, inline: false}
flow:
  start: a
  after:
    a: [{when: "rounds('a') < params.most", to: a}, {to: b}]
    b: [{finish: "item.answer"}]
metrics: {turns: "len(turns)"}
`)
	if err != nil {
		t.Fatal(err)
	}
	if a := plan.Roles["a"]; a.Kind != "note" || !a.Inline || a.Attempts != 5 || a.Concurrency != 7 {
		t.Errorf("got %+v, want an inline note of 5 attempts, 7 at once", a)
	}
	if b := plan.Roles["b"]; b.Inline || b.Attempts != 3 || b.Concurrency != 0 {
		t.Errorf("got %+v, want a note that is not inline, 3 attempts", b)
	}
	if got, want := len(plan.Flow.Nodes), 2; got != want {
		t.Errorf("got %d roles in the drawing, want %d", got, want)
	}

	// Run one row by hand.
	var task *matrix.Task
	stop := errors.New("stop")
	err = plan.Source.Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error {
		task = &matrix.Task{ID: r.ID, Row: r.ID, Item: r.Item}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	d := plan.Router.Start(task)
	for ; d.Outcome == nil; d = plan.Router.Next(task) {
		turn, err := plan.Roles[d.Role].Agent.Act(t.Context(), task)
		if err != nil {
			t.Fatal(err)
		}
		task.Turns = append(task.Turns, turn)
	}
	if got, want := d.Outcome.Value.String(), "2"; got != want {
		t.Errorf("got the value %s, want %s", got, want)
	}
	if got, err := plan.Metrics["turns"](task); err != nil || got != 3 {
		t.Errorf("got the metric %v (%v), want 3", got, err)
	}

	reply, err := plan.Models["m"].Do(t.Context(), &llm.Request{
		Messages: []llm.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "hi"}},
		Ask:      llm.Ask{ID: "a", Role: "a", Nth: 1, Item: map[string]any{"id": "a"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := reply.Choices[0].Text, "a 1: hi of a"; got != want {
		t.Errorf("got the reply %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "seen", "m.jsonl")); err != nil {
		t.Errorf("the model records nothing: %v", err)
	}
}

// A command runs in the folder of its config, wherever that is run from.
func TestCommandRunsBesideItsConfig(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh")
	}
	plan, dir, err := build(t, head+`
roles:
  where: {command: {run: [sh, -c, 'read line; echo "{\"text\": \"$PWD\"}"; read line']}}
flow: [where]
`)
	if err != nil {
		t.Fatal(err)
	}
	turn, err := plan.Roles["where"].Agent.Act(t.Context(), &matrix.Task{ID: "a", Row: "a", Item: matrix.RawValue([]byte(`{}`))})
	if err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := filepath.EvalSymlinks(turn.Text); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A plan that is built to check a config leaves nothing behind.
func TestToCheckWritesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", head+`models: {m: {kind: scripted, reply: x, record: m.jsonl}}
roles: {a: {note: {say: x}}}
flow: [a]
`)
	write(t, dir, "rows.jsonl", rows)
	tree, err := config.Load(spec.Run{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	plan, err := testRegistry().Build(tree, &run, ToCheck)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "m.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no file m.jsonl", err)
	}
}

type roundRobin struct {
	Order []string `yaml:"order" required:"true"`
	Times int      `yaml:"times" default:"1"`
}

func (r roundRobin) Start(*matrix.Task) matrix.Decision { return matrix.To(r.Order[0]) }

func (r roundRobin) Next(t *matrix.Task) matrix.Decision {
	if n := len(t.Turns); n < r.Times*len(r.Order) {
		return matrix.To(r.Order[n%len(r.Order)])
	}
	return matrix.Finish(matrix.Value{})
}

// fixed is a model kind of the tests' own.
type fixed struct {
	Text string `yaml:"text" default:"ok"`
}

// A program adds kinds of its own.
func TestOwnKinds(t *testing.T) {
	r := testRegistry()
	Router(r, "round_robin", func(_ Build, c roundRobin) (matrix.Router, error) { return c, nil })
	Model(r, "fixed", func(b Build, c fixed) (llm.Model, error) {
		return replay.NewScripted(b.Name, replay.Scripted{Reply: func(*llm.Request) (llm.Choice, error) { return llm.Choice{Text: c.Text}, nil }})
	})
	dir := t.TempDir()
	write(t, dir, "rows.jsonl", rows)
	write(t, dir, "config.yaml", head+`models: {m: {kind: fixed}}
roles: {a: {note: {say: x}}, b: {note: {say: x}}}
flow: {kind: round_robin, order: [a, b], times: 2}
`)
	tree, err := config.Load(spec.Run{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	plan, err := r.Build(tree, &run, ToRun)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	if got, want := plan.Router, (roundRobin{[]string{"a", "b"}, 2}); !reflect.DeepEqual(got, want) {
		t.Errorf("got the router %v, want %v", got, want)
	}
	reply, err := plan.Models["m"].Do(t.Context(), &llm.Request{})
	if err != nil || reply.Choices[0].Text != "ok" {
		t.Errorf("got %v, %v, want the reply ok", reply, err)
	}
}

// The parts cover every section, and configs of the examples' shape have a
// schema.
func TestParts(t *testing.T) {
	r := testRegistry()
	parts := r.Parts()
	var got []string
	for _, p := range parts {
		if p.Type == nil {
			t.Errorf("part %s %s has no type", p.At, p.Kind)
		}
		got = append(got, strings.TrimSpace(p.At+" "+p.Kind))
	}
	for _, want := range []string{"models.* openai", "models.* scripted", "models.* replay", "roles.*.chat", "roles.*.compute", "roles.*.command", "roles.*.note", "flow", "flow graph"} {
		if !slices.Contains(got, want) {
			t.Errorf("got %v, want it to have %s", got, want)
		}
	}
	if s := string(config.Schema(spec.Run{}, parts...)); !strings.Contains(s, `"const": "scripted"`) || !strings.Contains(s, `"on_error"`) {
		t.Errorf("got %s", s)
	}
	if s := string(config.Reference(spec.Run{}, parts...)); !strings.Contains(s, "kind `openai` (the default)") || !strings.Contains(s, "`finish`") {
		t.Errorf("got %s", s)
	}
}
