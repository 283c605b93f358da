package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"matrix"
)

// TestAgainstLibrary compares with what was written down of these templates over a
// task: the text, or "!" and the error with its place.
func TestAgainstLibrary(t *testing.T) {
	raw, err := os.ReadFile("testdata/library.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases [][2]string
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	params := Params{"x": 1, "style": "short", "tags": []any{"a", "b"}, "deep": map[string]any{"x": 1}}
	item := `{"id": 70, "question": "What is 2+2?", "answer": "B", "none": null, "ok": true, "score": 7.5, "options": ["3", "4"],
		"meta": {"lang": "en"}, "people": [{"name": "Ann"}, {"name": "Bob"}], "title": "x"}`
	task := &matrix.Task{ID: "q70#1", Row: "q70", Trial: 1, Seed: 42, Item: matrix.RawValue([]byte(item)), Turns: []matrix.Turn{
		{Role: "student", Text: "I think the answer is (A)."},
		{Role: "teacher", Text: "No", Samples: []matrix.Sample{{Text: "a"}, {Text: "b"}}},
		{Role: "match", Data: matrix.RawValue([]byte(`{"answer": "B", "agreed": false, "list": [1, 2, 3], "deep": {"x": 1}}`))}}}
	for _, c := range cases {
		tpl, err := CompileTemplate(c[0], params, "extra")
		for again := range 2 {
			got := ""
			if err == nil || again > 0 && tpl != nil {
				got, err = tpl.Render(task, map[string]any{"extra": "e"})
			}
			var own *Error
			if errors.As(err, &own) {
				got = fmt.Sprintf("!%d:%d %s", own.Line, own.Column, own.Msg)
			}
			if got != c[1] {
				t.Errorf("%q: got %q, want %q", c[0], got, c[1])
			}
		}
	}
}

func TestTags(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"none in a namespace", "{% set ns = namespace() %}{% set ns.x = none %}[{{ ns.x }}]", "[]"},
		{"a call inside a condition", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% if true %}{% call m() %}x{% endcall %}{% endif %}", "<x>"},
		{"a call inside a loop", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% for i in [1, 2] %}{% call m() %}{{ i }}{% endcall %}{% endfor %}", "<1><2>"},
		{"one name in brackets", "{% set (a) = 1 %}{{ a }}", "1"},
		{"an element by an expression", "{% set ns = namespace() %}{% set ns[item.answer] = 1 %}{{ ns.B }}", "1"},
		{"a list of the namespace", "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [ns.l] %}{% set a = namespace(ns=ns) %}{{ a.ns.l }}", "[[]]"},
		{"many errors that are guarded", "{% macro m() %}{% endmacro %}{% for i in range(150) %}{{ m(1) | default('') }}{% endfor %}{{ m() }}ok", "ok"},
		{"a row's list grows by its name here", "{% set l = item.options %}{% for i in [1, 2] %}{% do l.append(i) %}{% endfor %}{{ l }}{{ item.options }}", "['3', '4', 1, 2]['3', '4']"},
		{"the row in a loop", "{% for i in [1, 2] %}{% do item.update({'id': i}) %}{% endfor %}{{ item.id }}", "2"},
		{"a second name for a list", "{% set a = [1] %}{% set b = a %}{% do b.append(2) %}{{ a }}{{ b }}", "[1, 2][1, 2]"},
		{"a second name for a row's list", "{% set a = item.options %}{% set b = a %}{% do b.append(2) %}{{ a }}{{ b }}", "['3', '4']['3', '4', 2]"},
		{"an argument for a list", "{% macro m(l) %}{% do l.append(2) %}{% endmacro %}{% set a = [1] %}{% do m(a) %}{{ a }}", "[1, 2]"},
		{"a list in a list", "{% set a = [1] %}{% set d = {'l': [a]} %}{% do d.l[0].append(2) %}{{ a }}", "[1, 2]"},
		{"an argument that changes the list", "{% set l = [1, 2] %}{% do l.append(l.pop()) %}{{ l }}", "[1, 2]"},
		{"a list of many", "{% set l = [] %}{% for i in range(100000) %}{% do l.append(i) %}{% endfor %}{{ l | length }}", "100000"},
		{"a row's list in a namespace", "{% set ns = namespace(l=item.options) %}{% for i in range(2) %}{% do ns.l.append(i) %}{% endfor %}{{ ns.l }}{{ item.options }}", "['3', '4', 0, 1]['3', '4']"},
		{"a field that is no list", "{% set ns = namespace(l=(1,)) %}{% do ns.l.append(2) %}{{ ns.l }}", "[1, 2]"},
		{"an empty raw block", "a{% raw %}{% endraw %}b", "ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tpl, err := CompileTemplate(tt.src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := tpl.Render(debate(t), nil); err != nil || got != tt.want {
				t.Errorf("%s: got %q, %v, want %q", tt.src, got, err, tt.want)
			}
		})
	}
}

func TestOnlyNamespacesChange(t *testing.T) {
	for _, src := range []string{
		"{% set ns = namespace(r=item) %}{% set ns.r.id = 1 %}",
		"{% set ns = namespace(p=params) %}{% set ns.p.x = 1 %}",
		"{% for p in item.people %}{% set ns = namespace(p=p) %}{% set ns.p.name = 'z' %}{% endfor %}",
	} {
		params := Params{"x": 0}
		tpl, err := CompileTemplate(src, params)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		task := debate(t)
		before, _ := json.Marshal(task.Item.Any())
		var own *Error
		if _, err := tpl.Render(task, nil); !errors.As(err, &own) || own.Column == 0 || !strings.Contains(own.Msg, "not a namespace") {
			t.Errorf("%s: got %v, want an error with its place", src, err)
		}
		if after, _ := json.Marshal(task.Item.Any()); string(after) != string(before) || params["x"] != 0 {
			t.Errorf("%s: changed the row to %s, or the params to %v", src, after, params)
		}
	}
}

// TestListsGrowInPlace checks that append does not copy the list that it makes
// longer, of a name as of a namespace.
func TestListsGrowInPlace(t *testing.T) {
	for _, src := range []string{
		"{% set l = [] %}{% for i in range(5000) %}{% do l.append(i) %}{% endfor %}{{ l | length }}",
		"{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% do ns.l.append(i) %}{% endfor %}{{ ns.l | length }}",
	} {
		tpl, err := CompileTemplate(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := tpl.Render(nil, nil)
		runtime.ReadMemStats(&after)
		if made := (after.TotalAlloc - before.TotalAlloc) >> 20; got != "5000" || err != nil || made > 50 {
			t.Errorf("%s: got %s, %v and took %d MiB of memory, want at most 50", src, got, err, made)
		}
	}
}

// What would not end, or takes too much, is an error with its line, whatever
// guards there are.
func TestWhatDoesNotEnd(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"a macro by its default", "{% macro m(a=m()) %}{% endmacro %}{{ m() }}", "more than 100 deep"},
		{"a caller of itself", "{% set ns = namespace() %}{% macro m() %}{% set ns.c = caller %}{{ caller() }}{% endmacro %}{% call m() %}{{ ns.c() }}{% endcall %}",
			"more than 100 deep"},
		{"a guarded macro", "{% macro m() %}{{ m() | default('x') }}{{ m() | default('x') }}{% endmacro %}{{ m() | default('x') }}", "more than 100 deep"},
		{"guarded rounds", "{% macro m() %}{% for i in range(99999) %}{% for j in range(3) %}{% endfor %}{% endfor %}{% endmacro %}{{ m() | default('x') }}",
			"more than 200000 rounds"},
		{"rounds that are left out", "{% for i in range(3) %}{% for j in range(99999) if j is not defined %}{% endfor %}{% endfor %}", "more than 200000 rounds"},
		{"a namespace in itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == ns }}", "cannot hold itself"},
		{"a namespace in its own list", "{% set ns = namespace() %}{% set ns.x = [1, {'a': (ns,)}] %}{{ ns | tojson }}", "cannot hold itself"},
		{"namespaces in each other", "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = dict(b=b) %}{{ a }}", "cannot hold itself"},
		{"a value of many parts", "{% set ns = namespace() %}{% for i in range(99) %}{% set ns.x = [ns.x | default(1), ns.x | default(1)] %}{% endfor %}", "more than 1048576 parts"},
		{"a list that is too long", "{% set l = [1] * 1048576 %}{% do l.append(1) %}", "more than 1048576 elements"},
		{"a list in itself", "{% set a = [1] %}{% do a.append({'x': a}) %}", "a list cannot hold itself"},
		{"an object in itself", "{% set a = {} %}{% set b = [a] %}{% do a.update(x=b) %}", "cannot hold itself"},
		{"lists in lists, over and over", "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}", "more than 1048576 parts"},
		{"lists of the same lists", "{% macro m(a, b, n) %}{% if n %}{{ m([a, a], [b, b], n - 1) }}{% else %}{{ a == b }}{% endif %}{% endmacro %}{{ m([1], [1], 60) }}", "computes too much"},

		{"a namespace of many texts", "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% do ns.l.append('x' * 9999999) %}{% endfor %}", "computes too much"},
		{"a namespace in its list", "{% set ns = namespace(l=[]) %}{% do ns.l.append(1) %}{% do ns.l.append({'a': [ns]}) %}{{ ns }}", "cannot hold itself"},
		{"tags in tags", strings.Repeat("{% with %}", 9999) + strings.Repeat("{% endwith %}", 9999), "nested more than 200 deep"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tpl, err := CompileTemplate(tt.src, nil)
			got := ""
			if err == nil {
				got, err = tpl.Render(debate(t), nil)
			}
			var own *Error
			if !errors.As(err, &own) || own.Line == 0 || !strings.Contains(own.Msg, tt.want) {
				t.Errorf("got %.40q, %v, want an error with its line: %s", got, err, tt.want)
			}
		})
	}
}

// TestRenderingsAreApart checks that nothing of a rendering, failed or not, is
// seen by the next.
func TestRenderingsAreApart(t *testing.T) {
	sets, err := CompileTemplate(`{% set a = 1 %}{% macro m() %}text{{ item.zz }}{% endmacro %}{% for i in [1] %}{% set b %}{{ m() }}{% endset %}{% endfor %}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	asks, err := CompileTemplate(`{{ a is defined }}{{ b is defined }}{{ x is defined }}{{ turns | length }}{{ last.role }}{% if false %}{% set a = 1 %}{% set b = 1 %}{% endif %}`, nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := sets.Render(debate(t), map[string]any{"x": 1}); err == nil {
			t.Fatal("got no error, want one of item.zz")
		}
		if got, err := asks.Render(nil, nil); err != nil || got != "FalseFalseFalse0" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// BenchmarkTemplate renders what a run renders for each row: a question and its
// round, and a template with tags.
func BenchmarkTemplate(b *testing.B) {
	item, err := matrix.NewValue(map[string]any{
		"id": 70, "text": strings.Repeat("0123456789abcdef", 128), "hint": "none", "options": []any{"3", "4", "5", "6"},
	})
	if err != nil {
		b.Fatal(err)
	}
	task := &matrix.Task{ID: "r70", Row: "70", Item: item, Turns: []matrix.Turn{{Role: "ask", Text: "What?"}}}
	for _, bench := range []struct {
		name    string
		sources []string
	}{
		{"plain", []string{"{{ item.id }} {{ item.text }}", "{{ item.id }} round {{ '%02d' % rounds('ask') }} ."}},
		{"tags", []string{"{% if item.hint %}{{ item.id }}{% else %}none{% endif %}: {% for o in item.options %}{{ loop.index }}. {{ o }}\n{% endfor %}"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var all []*Template
			for _, src := range bench.sources {
				t, err := CompileTemplate(src, nil)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, t)
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, t := range all {
					if _, err := t.Render(task, nil); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
