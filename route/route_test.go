package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"matrix"
	"matrix/lang"
)

// roles is an Env of compute roles with these names.
func roles(names ...string) Env {
	env := Env{Roles: map[string]Role{}, Params: lang.Params{"rounds": 3}}
	for _, n := range names {
		env.Roles[n] = Role{Kind: "compute", Inline: true}
	}
	return env
}

func ptr(s string) *string { return &s }

func to(role string) Rules { return Rules{{To: role}} }

// task makes a task with an item and turns.
func task(item string, turns ...matrix.Turn) *matrix.Task {
	return &matrix.Task{ID: "q1", Row: "q1", Item: matrix.RawValue([]byte(item)), Turns: turns}
}

func turn(role, text, data string) matrix.Turn {
	t := matrix.Turn{Role: role, Text: text}
	if data != "" {
		t.Data = matrix.RawValue([]byte(data))
	}
	return t
}

func broken(role, cause string) matrix.Turn { return matrix.Turn{Role: role, Error: cause} }

// show writes a decision on one line.
func show(d matrix.Decision) string {
	var b strings.Builder
	for _, o := range d.Open {
		fmt.Fprintf(&b, "%s says %s; ", o.Role, o.Text)
	}
	switch {
	case d.Outcome == nil:
		b.WriteString("to " + d.Role)
	case d.Outcome.Status == matrix.Failed:
		b.WriteString("failed: " + d.Outcome.Cause)
	default:
		what := d.Outcome.Value.String()
		if d.Outcome.Status == matrix.Dropped {
			what = d.Outcome.Cause
		}
		b.WriteString(string(d.Outcome.Status) + ": " + what)
		if by := d.Outcome.Stopped; by != "" {
			b.WriteString(" (stopped at " + by + ")")
		}
	}
	return b.String()
}

// coral is the flow of the README's example.
func coral() (GraphConfig, Env) {
	env := Env{Params: lang.Params{"rounds": 2}, Roles: map[string]Role{
		"teacher": {Kind: "chat"},
		"student": {Kind: "chat"},
		"extract": {Kind: "compute", Inline: true},
		"match":   {Kind: "compute", Inline: true},
	}}
	return GraphConfig{
		Open:  []Opening{{Role: "student", Text: "I'm trying to solve: {{ item.question }}"}},
		Start: to("teacher"),
		After: map[string]Rules{
			"teacher": to("extract"),
			"student": to("extract"),
			"extract": to("match"),
			"match": {
				{When: "last.data.agreed || rounds('match') >= params.rounds", Finish: ptr("last.data.correct")},
				{When: "rounds('match') % 2 == 1", To: "student"},
				{To: "teacher"},
			},
		},
	}, env
}

func mustGraph(t testing.TB, c GraphConfig, env Env) *Graph {
	t.Helper()
	g, err := NewGraph(c, env)
	if err != nil {
		t.Fatalf("NewGraph: %v", err)
	}
	return g
}

func TestGraph(t *testing.T) {
	config, env := coral()
	g := mustGraph(t, config, env)
	const item = `{"question": "1+1?"}`
	open := turn("student", "I'm trying to solve: 1+1?", "")

	tests := []struct {
		name string
		d    matrix.Decision
		want string
	}{
		{"start", g.Start(task(item)), "student says I'm trying to solve: 1+1?; to teacher"},
		{"after teacher", g.Next(task(item, open, turn("teacher", "2", ""))), "to extract"},
		{"after extract", g.Next(task(item, turn("extract", "", `{}`))), "to match"},
		{"first rule", g.Next(task(item, turn("match", "", `{"agreed": true, "correct": false}`))), "done: false"},
		{"first rule, by rounds", g.Next(task(item, turn("match", "", ""), turn("match", "", `{"agreed": false, "correct": {"a": [1]}}`))), `done: {"a":[1]}`},
		{"second rule", g.Next(task(item, turn("match", "", `{"agreed": false}`))), "to student"},
		{"a field the data has not", g.Next(task(item, turn("match", "", ""), turn("match", "", `{"agreed": true}`))), "done: null"},
		{"a turn with an error", g.Next(task(item, broken("teacher", "no answer"))), "failed: teacher: no answer"},
		{"a role that is not in the flow", g.Next(task(item, turn("judge", "", ""))), `failed: flow.after does not say who acts after "judge"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := show(test.d); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestGraphStart(t *testing.T) {
	tests := []struct {
		name   string
		config GraphConfig
		item   string
		want   string
	}{
		{"openings see those before", GraphConfig{
			Open: []Opening{{Role: "user", Text: "{{ item.a }}"}, {Role: "a", Text: "you said {{ last.text }}"}}, Start: to("a"),
		}, `{"a": "x"}`, "user says x; a says you said x; to a"},
		{"rules see the openings", GraphConfig{
			Open: []Opening{{Role: "a", Text: "hi"}}, Start: Rules{{When: "rounds('a') == 1", To: "b"}, {To: "a"}},
		}, `{}`, "a says hi; to b"},
		{"a start that ends", GraphConfig{
			Start: Rules{{When: "item.a == 1", Finish: ptr("")}, {To: "a"}},
		}, `{"a": 1}`, "done: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.config.After = map[string]Rules{"a": to("b"), "b": {{When: "rounds('b') < 2", To: "a"}, {Finish: ptr("true")}}}
			g := mustGraph(t, test.config, roles("a", "b"))
			if got := show(g.Start(task(test.item))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A row that an opening turn or a rule cannot work on fails alone, and its
// cause names the place.
func TestGraphCauses(t *testing.T) {
	g := mustGraph(t, GraphConfig{
		Open:  []Opening{{Role: "user", Text: "{{ item.question }}"}},
		Start: to("a"),
		After: map[string]Rules{"a": {
			{When: "item.n > 3", Finish: ptr("item.n / item.by")},
			{When: "item.n == 1", Fail: "one: {{ item.why }}"},
			{When: "item.n == 2", Fail: "  "},
		}},
		OnError: map[string]Rules{"a": {{When: "rounds('a') < 2", To: "a"}, {Fail: "a gave up: {{ last.error }}"}}},
	}, roles("a"))

	if got := show(g.Start(task(`{}`))); !strings.HasPrefix(got, "failed: flow.open.0.text: ") || !strings.Contains(got, "question") {
		t.Errorf("got %s, want a cause that names flow.open.0.text and question", got)
	}
	done := turn("a", "", "")
	tests := []struct {
		name string
		t    *matrix.Task
		want string // prefix
	}{
		{"condition", task(`{"n": "x"}`, done), "failed: flow.after.a.0.when: "},
		{"missing field", task(`{}`, done), "failed: flow.after.a.0.when: "},
		{"value", task(`{"n": 4}`, done), "failed: flow.after.a.0.finish: "},
		{"value that is not JSON", task(`{"n": 4, "by": 0}`, done), "failed: flow.after.a.0.finish: "},
		{"cause", task(`{"n": 1, "why": "because"}`, done), "failed: one: because"},
		{"cause that does not render", task(`{"n": 1}`, done), "failed: flow.after.a.1.fail: "},
		{"empty cause", task(`{"n": 2}`, done), "failed: flow.after.a.2.fail gave an empty cause"},
		{"no rule", task(`{"n": 3}`, done), "failed: no rule of flow.after.a holds: add a last rule without when"},
		{"on error, first rule", task(`{}`, broken("a", "bad")), "to a"},
		{"on error, second rule", task(`{}`, broken("a", "bad"), broken("a", "worse")), "failed: a gave up: worse"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := show(g.Next(test.t)); !strings.HasPrefix(got, test.want) {
				t.Errorf("got %s, want %s...", got, test.want)
			}
		})
	}
}

func TestSequence(t *testing.T) {
	env := roles("filter", "score", "question")
	steps := []Step{
		{Role: "filter", Stop: "!last.data.keep"},
		{Role: "score", Stop: "last.data.score < 2", Finish: "last.data.score"},
		{Role: "question", Stop: "last.text == ''", Fail: "no question for {{ id }}"},
	}
	s, err := NewSequence(steps, env)
	if err != nil {
		t.Fatalf("NewSequence: %v", err)
	}
	kept := turn("filter", "", `{"keep": true}`)
	scored := turn("score", "", `{"score": 5}`)
	tests := []struct {
		name string
		d    matrix.Decision
		want string
	}{
		{"start", s.Start(task(`{}`)), "to filter"},
		{"next", s.Next(task(`{}`, kept)), "to score"},
		{"stop", s.Next(task(`{}`, turn("filter", "", `{"keep": false}`))), "dropped: stopped at filter (stopped at filter)"},
		{"stop with a value", s.Next(task(`{}`, kept, turn("score", "", `{"score": 1}`))), "done: 1 (stopped at score)"},
		{"stop with a cause", s.Next(task(`{}`, kept, scored, turn("question", "", ""))), "failed: no question for q1"},
		{"end", s.Next(task(`{}`, kept, scored, turn("question", "why?", ""))), "done: "},
		{"error", s.Next(task(`{}`, broken("filter", "bad reply"))), "failed: filter: bad reply"},
		{"condition fails", s.Next(task(`{}`, turn("filter", "", ""), turn("score", "", `{"score": "x"}`))), "failed: flow.1.stop: "},
		{"condition without a truth value", s.Next(task(`{}`, turn("filter", "", `{"keep": "x"}`))), "failed: flow.0.stop: "},
		{"a turn out of place", s.Next(task(`{}`, turn("score", "", ""))), `failed: turn 1 is of role "score": the flow does not have it there`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := show(test.d)
			if got != test.want && (!strings.HasSuffix(test.want, ": ") || !strings.HasPrefix(got, test.want)) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestSequenceRepeatsARole(t *testing.T) {
	s, err := NewSequence([]Step{{Role: "draft"}, {Role: "review"}, {Role: "draft", Finish: "rounds('draft')"}}, roles("draft", "review"))
	if err != nil {
		t.Fatal(err)
	}
	tk := task(`{}`)
	var path []string
	d := s.Start(tk)
	for ; d.Outcome == nil; d = s.Next(tk) {
		path = append(path, d.Role)
		tk.Turns = append(tk.Turns, turn(d.Role, "x", ""))
	}
	if got, want := strings.Join(path, " ")+" "+show(d), "draft review draft done: 2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// found lists the errors of a constructor, one a line.
func found(err error) []string {
	var joined interface{ Unwrap() []error }
	if err == nil {
		return nil
	}
	if !errors.As(err, &joined) {
		return []string{err.Error()}
	}
	var all []string
	for _, e := range joined.Unwrap() {
		all = append(all, e.Error())
	}
	return all
}

func TestGraphChecks(t *testing.T) {
	done := Rules{{Finish: ptr("")}}
	tests := []struct {
		name   string
		config GraphConfig
		roles  Env
		want   []string // prefixes, in order
	}{
		{"unknown roles", GraphConfig{
			Open:    []Opening{{Role: "usr", Text: "x"}},
			Start:   to("teachr"),
			After:   map[string]Rules{"teacher": to("nobody"), "studnet": done},
			OnError: map[string]Rules{"x": done},
		}, roles("teacher", "student"), []string{
			`open.0.role: there is no role "usr"`,
			`start.0.to: there is no role "teachr" (did you mean "teacher"?)`,
			`after.studnet: there is no role "studnet" (did you mean "student"?)`,
			`after.teacher.0.to: there is no role "nobody"`,
			`on_error.x: there is no role "x"`,
		}},
		{"no start", GraphConfig{After: map[string]Rules{"a": done}}, roles("a"), []string{
			"start: says nothing",
		}},
		{"unreached", GraphConfig{Start: to("a"), After: map[string]Rules{"a": done, "b": to("c"), "c": to("b")}}, roles("a", "b", "c"), []string{
			"role b: nothing in the flow leads to this role",
			"role c: nothing in the flow leads to this role",
		}},
		{"reached on error only", GraphConfig{
			Start: to("a"), After: map[string]Rules{"a": done, "fix": to("a")}, OnError: map[string]Rules{"a": to("fix")},
		}, roles("a", "fix"), nil},
		{"leads nowhere", GraphConfig{Start: to("a"), After: map[string]Rules{"a": to("b")}}, roles("a", "b"), []string{
			"after: role b leads nowhere",
		}},
		{"no end", GraphConfig{Start: to("a"), After: map[string]Rules{"a": to("b"), "b": to("a")}}, roles("a", "b"), []string{
			"after: no task can ever end",
		}},
		{"no end but limits", GraphConfig{Start: to("a"), After: map[string]Rules{"a": to("b"), "b": to("a")}},
			Env{Roles: roles("a", "b").Roles, Limited: true}, nil},
		{"a trap", GraphConfig{Start: Rules{{When: "trial == 0", To: "a"}, {To: "b"}}, After: map[string]Rules{"a": done, "b": to("c"), "c": to("b")}}, roles("a", "b", "c"), []string{
			"after.b: a task that comes here can never end",
			"after.c: a task that comes here can never end",
		}},
		{"dead rules", GraphConfig{Start: to("a"), After: map[string]Rules{"a": {
			{When: "true", To: "a"}, {When: "trial == 1", Finish: ptr("")}, {Finish: ptr("")},
		}}}, roles("a"), []string{
			"after.a.1: this rule never counts: rule 0 before it has no condition",
			"after.a.2: this rule never counts: rule 0 before it has no condition",
		}},
		{"rules of no or two ways", GraphConfig{Start: to("a"), After: map[string]Rules{"a": {
			{When: "trial == 1"}, {When: "trial == 2", To: "a", Finish: ptr("1")}, {Fail: "x", Finish: ptr("1")},
		}}}, roles("a"), []string{
			"after.a.0: a rule needs exactly one of to, finish, drop and fail",
			"after.a.1: a rule needs exactly one of to, finish, drop and fail",
			"after.a.2: a rule needs exactly one of to, finish, drop and fail",
		}},
		{"sources that do not compile", GraphConfig{
			Open: []Opening{{Role: "a", Text: "{{ item.x "}}, Start: to("a"), After: map[string]Rules{"a": {
				{When: "lst.text == 'x'", Finish: ptr("1 +")}, {Fail: "{% if %}"},
			}},
		}, roles("a"), []string{
			"open.0.text: ", "after.a.0.when: ", "after.a.0.finish: ", "after.a.1.fail: ",
		}},
		{"a role that an expression asks for", GraphConfig{Open: []Opening{{Role: "user", Text: "x"}}, Start: to("judge"), After: map[string]Rules{"judge": {
			{When: "rounds('jugde') > 2 || turn('user').text == ''", Finish: ptr("")}, {To: "judge"},
		}}}, roles("judge"), []string{
			`after.judge.0.when: no role "jugde" ever takes a turn (did you mean "judge"?)`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewGraph(test.config, test.roles)
			check(t, found(err), test.want)
		})
	}
}

func TestSequenceChecks(t *testing.T) {
	tests := []struct {
		name  string
		steps []Step
		env   Env
		want  []string
	}{
		{"empty", nil, roles(), []string{"a flow needs at least one role"}},
		{"unknown and unreached", []Step{{Role: "a"}, {Role: "scroe"}}, roles("a", "score"), []string{
			`1.role: there is no role "scroe" (did you mean "score"?)`,
		}},
		{"unreached", []Step{{Role: "a"}}, roles("a", "b"), []string{"role b: nothing in the flow leads to this role"}},
		{"stop does not compile", []Step{{Role: "a", Stop: "last.data.x =="}}, roles("a"), []string{"0.stop: "}},
		{"ends without stop", []Step{{Role: "a", Finish: "1"}, {Role: "a", Fail: "x"}}, roles("a"), []string{
			"0.finish: only the last role may finish without stop", "1.fail: fail needs stop",
		}},
		{"drop without stop", []Step{{Role: "a", Drop: "x"}}, roles("a"), []string{"0.drop: drop needs stop: say when the task is dropped"}},
		{"both ends", []Step{{Role: "a", Stop: "trial > 1", Finish: "1", Fail: "x"}}, roles("a"), []string{
			"0.fail: a task ends with finish, drop or fail, not with two of them",
		}},
		{"asks for nobody", []Step{{Role: "a", Stop: "rounds('user') > 1"}}, roles("a"), []string{
			`0.stop: no role "user" ever takes a turn`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewSequence(test.steps, test.env)
			check(t, found(err), test.want)
		})
	}
}

func check(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d errors, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %s, want %s...", got[i], want[i])
		}
	}
}

func TestSources(t *testing.T) {
	config, env := coral()
	got := map[string]string{}
	for field, s := range mustGraph(t, config, env).Sources() {
		got[field] = fmt.Sprint(s.Last, s.Fields(), s.Roles(), len(s.TurnRefs()))
	}
	want := map[string]string{"open.0.text": "[question] [] 0", "after.match.0.when": "match[] [match] 1", "after.match.0.finish": "match[] [] 1", "after.match.1.when": "match[] [match] 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// Whatever the task, the same task gets the same decision, nothing of it
// changes, and a decision is one of the three.
func TestRoutersArePure(t *testing.T) {
	config, env := coral()
	config.OnError = map[string]Rules{"teacher": {{When: "rounds('teacher') < 2", To: "teacher"}}}
	graph := mustGraph(t, config, env)
	sequence, err := NewSequence([]Step{
		{Role: "teacher", Stop: "last.data.agreed"}, {Role: "student"}, {Role: "extract", Stop: "item.n > 1", Finish: "item"}, {Role: "match", Finish: "turns"},
	}, env)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tk := randomTask(t)
		for _, r := range []matrix.Router{graph, sequence} {
			before := encode(t, tk)
			first := []matrix.Decision{r.Start(tk), r.Next(tk)}
			again := []matrix.Decision{r.Start(tk), r.Next(tk)}
			if got, want := encode(t, again), encode(t, first); got != want {
				t.Fatalf("got %s, want %s as the first time, for %s", got, want, before)
			}
			if after := encode(t, tk); after != before {
				t.Fatalf("the task has changed: got %s, want %s", after, before)
			}
			for _, d := range first {
				if (d.Role == "") == (d.Outcome == nil) {
					t.Fatalf("got %s, want a role or an outcome", encode(t, d))
				}
				if d.Outcome != nil && (d.Outcome.Status == matrix.Done) == (d.Outcome.Cause != "") {
					t.Fatalf("got %s, want a cause exactly where it failed or was dropped", encode(t, d))
				}
			}
		}
	})
}

func randomTask(t *rapid.T) *matrix.Task {
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	tk := task(pick("item", `{}`, `{"question": "q", "n": 1}`, `{"question": null, "n": 2}`, `{"question": ["<b>"], "n": "x"}`))
	tk.Trial = rapid.IntRange(0, 2).Draw(t, "trial")
	for range rapid.IntRange(0, 6).Draw(t, "turns") {
		tn := turn(pick("role", "teacher", "student", "extract", "match", "stranger"), rapid.String().Draw(t, "text"),
			pick("data", "", `{"agreed": true, "correct": 1.5}`, `{"agreed": false}`, `{"agreed": "x"}`, `[1, {"a": null}]`))
		tn.Error = pick("error", "", "", "no answer")
		tk.Turns = append(tk.Turns, tn)
	}
	return tk
}

func encode(t *rapid.T, x any) string {
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func BenchmarkGraphNext(b *testing.B) {
	config, env := coral()
	g := mustGraph(b, config, env)
	tk := task(`{"question": "q"}`, turn("teacher", "x", ""), turn("extract", "", `{}`), turn("match", "", `{"agreed": false}`))
	b.ReportAllocs()
	for b.Loop() {
		g.Next(tk)
	}
}
