package route

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestText(t *testing.T) {
	config, env := coral()
	config.OnError = map[string]Rules{"teacher": {{When: "rounds('teacher') < 3", To: "teacher"}, {Fail: "teacher is stuck"}}}
	got := mustGraph(t, config, env).Flow().Text()
	want := `
open   student: "I'm trying to solve: {{ item.question }}"
start
  └──> teacher
teacher  chat
  ├───────────────────────────────────> extract
  ├─ on error: rounds('teacher') < 3 ─> teacher
  └─ on error: otherwise ─────────────> failed: teacher is stuck
extract  compute, inline
  └──> match
match    compute, inline
  ├─ last.data.agreed || rounds('match') >= params.rounds ─> done: last.data.correct
  ├─ rounds('match') % 2 == 1 ─────────────────────────────> student
  └─ otherwise ────────────────────────────────────────────> teacher
student  chat
  └──> extract
`
	if diff := cmp.Diff(want, "\n"+got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// sequence is drawn in each language below.
func sequence(t *testing.T) Flow {
	t.Helper()
	s, err := NewSequence([]Step{
		{Role: "filter", Stop: "!last.data.keep"},
		{Role: "score", Stop: "last.data.score < 3 && last.data.language != 'a rather long name of a language'", Fail: "too low"},
		{Role: "ask"},
	}, Env{Roles: map[string]Role{"filter": {Kind: "chat"}, "score": {Kind: "command"}, "ask": {Kind: "compute", Inline: true}}})
	if err != nil {
		t.Fatal(err)
	}
	return s.Flow()
}

func TestTextOfASequence(t *testing.T) {
	want := `
start
  └──> filter
filter  chat
  ├─ !last.data.keep ─> dropped
  └─ otherwise ───────> score
score   command
  ├─ last.data.score < 3 && last.data.language != 'a rather long name of a language'
  │  └─> failed: too low
  └─ otherwise ─> ask
ask     compute, inline
  └──> done
`
	if diff := cmp.Diff(want, "\n"+sequence(t).Text()); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

func TestMermaid(t *testing.T) {
	want := `
flowchart TD
  start([start])
  role0["filter<br/>chat"]
  role1["score<br/>command"]
  role2("ask<br/>compute, inline")
  start --> role0
  end1(["dropped"])
  role0 -->|"!last.data.keep"| end1
  role0 -->|"otherwise"| role1
  end3(["failed: too low"])
  role1 -->|"last.data.score #60; 3 #38;#38; last.data.language != 'a rather long name of a language'"| end3
  role1 -->|"otherwise"| role2
  end5(["done"])
  role2 --> end5
`
	if diff := cmp.Diff(want, "\n"+sequence(t).Mermaid()); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

func TestDOT(t *testing.T) {
	want := `
digraph flow {
  node [shape=box];
  start [shape=circle, label="start"];
  role0 [label="filter\nchat"];
  role1 [label="score\ncommand"];
  role2 [label="ask\ncompute, inline", style=rounded];
  start -> role0;
  end1 [shape=ellipse, peripheries=2, label="dropped"];
  role0 -> end1 [label="!last.data.keep"];
  role0 -> role1 [label="otherwise"];
  end3 [shape=ellipse, peripheries=2, label="failed: too low"];
  role1 -> end3 [label="last.data.score < 3 && last.data.language != 'a rather long name of a language'"];
  role1 -> role2 [label="otherwise"];
  end5 [shape=doublecircle, label="done"];
  role2 -> end5;
}
`
	if diff := cmp.Diff(want, "\n"+sequence(t).DOT()); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// Labels that would end a string or a statement stay text.
func TestLabelsAreEscaped(t *testing.T) {
	evil := `last.text == "a\\\"]; x -->|b| <script> #35; '` + "`c`  end'\""
	g := mustGraph(t, GraphConfig{
		Start: to("end"),
		After: map[string]Rules{"end": {{When: evil, Finish: ptr("")}, {Fail: `"quoted" \`}}},
	}, roles("end"))
	for _, line := range strings.Split(g.Flow().Mermaid(), "\n") {
		if n := strings.Count(line, `"`); n%2 != 0 || n > 2 {
			t.Errorf("got %d quotes in a line of Mermaid: %s", n, line)
		}
		if strings.ContainsAny(line, "<`") && !strings.Contains(line, "<br/>") {
			t.Errorf("got markup in a line of Mermaid: %s", line)
		}
	}
	dot := g.Flow().DOT()
	if want := `label="last.text == \"a\\\\\\\"]; x -->|b| <script> #35; '` + "`c` end'" + `\""`; !strings.Contains(dot, want) {
		t.Errorf("got %s, want it to have %s", dot, want)
	}
	if want := `label="failed: \"quoted\" \\"`; !strings.Contains(dot, want) {
		t.Errorf("got %s, want it to have %s", dot, want)
	}
}

func TestFlowOfASequence(t *testing.T) {
	s, err := NewSequence([]Step{{Role: "a", Stop: "trial > 0"}, {Role: "b", Finish: "id"}}, roles("a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	want := Flow{
		Nodes: []Node{{Role: "a", Kind: "compute", Inline: true}, {Role: "b", Kind: "compute", Inline: true}},
		Edges: []Edge{
			{To: "a"},
			{From: "a", When: "trial > 0", End: &End{Status: "dropped"}},
			{From: "a", To: "b"},
			{From: "b", End: &End{Status: "done", Text: "id"}},
		},
	}
	if diff := cmp.Diff(want, s.Flow()); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}
