package route

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"matrix"
)

// children is a rule that makes some of item.list.
func children(c Children) Rules { return Rules{{To: "ask", Children: c}} }

func TestExpand(t *testing.T) {
	open := GraphConfig{
		Start: to("split"),
		After: map[string]Rules{
			"split": children(Children{Expand: "item.list", As: "x", Most: 3, Carry: []string{"split"}, Omit: []string{"list"}, Then: "sum"}),
			"ask":   {{Finish: ptr("item.x")}}, "sum": {{Finish: ptr("len(children)")}},
		},
	}
	g, err := NewGraph(open, roles("split", "ask", "sum"))
	if err != nil {
		t.Fatal(err)
	}
	for item, want := range map[string]string{
		`{"list":[1,{"a":2},null]}`: `1 {"a":2} null`,
		`{"list":[]}`:               "",
		`{"list":"a, b"}`:           `failed router: flow.after.split.0.expand is the text "a, b"; want a list`,
		`{"list":null}`:             "failed router: flow.after.split.0.expand is nil; want a list",
		`{}`:                        "failed router: flow.after.split.0.expand: item has no field",
		`{"list":[1,2,3,4]}`:        "failed limit: flow.after.split.0.expand has 4 elements, and most is 3: raise it, or take fewer, as in take(item.list, 3)",
	} {
		d := g.Next(task(item, turn("split", "", "{}")))
		got := ""
		switch {
		case d.Outcome != nil:
			got = fmt.Sprintf("%s %s: %s", d.Outcome.Status, d.Outcome.Fault, d.Outcome.Cause)
		case d.Expand == nil:
			got = "no children"
		default:
			for i := range d.Expand.Items {
				got += string(d.Expand.Items[i].Raw()) + " "
			}
			got = strings.TrimSpace(got)
			if x := d.Expand; x.As != "x" || x.Role != "ask" || x.Then != "sum" || fmt.Sprint(x.Carry, x.Omit) != "[split] [list]" {
				t.Errorf("%s: got %+v", item, x)
			}
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", item, got, want)
		}
	}
	parent := task(`{"x":1}`, turn("sum", "", "{}"))
	parent.Children = make([]matrix.Child, 4)
	if got, want := show(g.Next(parent)), "4"; !strings.Contains(got, want) {
		t.Errorf("after the children: got %q, want %q", got, want)
	}
}

// Children that come to their rule again are as deep as the flow says, and it has to.
func TestExpandAgain(t *testing.T) {
	config := GraphConfig{Start: to("ask"), After: map[string]Rules{"ask": children(Children{Expand: "[1]", As: "x"})}}
	const want = "after.ask.0: its children come to ask again, and would have children without end: say how deep at most, as in flow.depth: 3"
	if _, err := NewGraph(config, roles("ask")); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	config.Depth = 2
	g, err := NewGraph(config, roles("ask"))
	if err != nil {
		t.Fatal(err)
	}
	for depth := range 3 {
		x := task(`{}`, turn("ask", "", "{}"))
		x.Path = make([]int, depth)
		d := g.Next(x)
		if deep := depth == 2; deep != (d.Outcome != nil) || deep && d.Outcome.Fault != matrix.FaultLimit {
			t.Errorf("at depth %d: got %+v", depth, d)
		}
	}
}

func TestExpandRefused(t *testing.T) {
	for want, rule := range map[string]Rule{
		"after.ask.0: expand needs to":                        {Children: Children{Expand: "[1]", As: "x"}},
		"expand needs as":                                     {To: "sum", Children: Children{Expand: "[1]"}},
		"after.ask.0.as: as is of a rule with expand":         {To: "sum", Children: Children{As: "x"}},
		"after.ask.0.then: then is of a rule with expand":     {To: "sum", Children: Children{Then: "sum"}},
		"after.ask.0.most: is -1; want 1 to 1048576":          {To: "sum", Children: Children{Expand: "[1]", As: "x", Most: -1}},
		"after.ask.0.carry.0: there is no role \"smu\"":       {To: "sum", Children: Children{Expand: "[1]", As: "x", Carry: []string{"smu"}}},
		"after.ask.0.then: there is no role \"smu\"":          {To: "sum", Children: Children{Expand: "[1]", As: "x", Then: "smu"}},
		"after.ask.0.omit: x is what a child gets":            {To: "sum", Children: Children{Expand: "[1]", As: "x", Omit: []string{"x"}}},
		"after.ask.0: a rule needs exactly one of to, finish": {To: "sum", Finish: ptr("1"), Children: Children{Expand: "[1]", As: "x"}},
		"no task can ever end":                                {To: "sum", Children: Children{Expand: "[1]", As: "x", Then: "loop"}},
	} {
		config := GraphConfig{Start: to("ask"), After: map[string]Rules{"ask": {rule}, "sum": {{Finish: ptr("1")}}, "loop": to("loop")}}
		if _, err := NewGraph(config, roles("ask", "sum", "loop")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// An element takes the memory of its text, and not that of the object that it is parsed.
func TestExpandKeepsText(t *testing.T) {
	const n = 20_000
	g, err := NewGraph(GraphConfig{
		Start: Rules{{To: "ask", Children: Children{Expand: fmt.Sprintf(`map(1..%d, ({"start": #, "end": # + 1}))`, n), As: "x"}}},
		After: map[string]Rules{"ask": {{Finish: ptr("item.x")}}},
	}, roles("ask"))
	if err != nil {
		t.Fatal(err)
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // of pools, too
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	d := g.Next(task(`{}`))
	if got := (heap() - before) / n; d.Expand == nil || len(d.Expand.Items) != n || got > 150 {
		t.Errorf("%d bytes a child of an element of 25 bytes, want 150 at most", got)
	}
	runtime.KeepAlive(d)
}
