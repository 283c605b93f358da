package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix"
)

func TestRender(t *testing.T) {
	params := Params{"style": "short", "tags": []any{"a", "b"}, "deep": map[string]any{"x": 1}}
	for _, tt := range []struct{ src, want string }{
		{"plain", "plain"},
		{"one newline at the end goes\n", "one newline at the end goes"},
		{"a\r\nb", "a\nb"},
		{"{{ item.id }} {{ true }} {{ item.ok }} {{ item.score }} {{ 1.0 }}", "70 True True 7.5 1.0"},
		{"{{ item.question }}", "What is 2+2?"},
		{"{{ item['question'] | upper }}", "WHAT IS 2+2?"},
		{"{{ item.options | join(', ') }}", "3, 4"},
		{"{{ item.options }}", "['3', '4']"},
		{"{{ item.meta }}", "{'lang': 'en'}"},
		{"{{ item.meta.lang }}", "en"},
		{"{{ item.none }}|{{ item.none is none }}", "|True"},
		{"{{ item.keys() | list }}{{ item.people[1] }}", "['id', 'question', 'options', 'answer', 'ok', 'none', 'score', 'meta', 'people']{'name': 'Bob'}"},
		{"{% for k, v in last.data.items() %}{{ k }} {% endfor %}{{ last.data }}", "agreed answer list deep {'agreed': False, 'answer': 'B', 'list': [1, 2, 3], 'deep': {'x': 1}}"},
		{"{{ json('{\"b\": 1.0, \"a\": {\"d\": 2, \"c\": 3}}') }}{{ params }}{{ turns[0] | list | first }}", "{'b': 1.0, 'a': {'d': 2, 'c': 3}}{'deep': {'x': 1}, 'style': 'short', 'tags': ['a', 'b']}role"},
		{"{{ item | tojson(sort_keys=false) | truncate(30) }}", `{"id": 70, "question":...`},
		{"{{ item | tojson }}", `{"answer": "B", "id": 70, "meta": {"lang": "en"}, "none": null, "ok": true, "options": ["3", "4"], "people": [{"name": "Ann"}, {"name": "Bob"}], "question": "What is 2+2?", "score": 7.5}`},
		{`{{ {"a": "it's <b> é", "b": [1, 2.5]} | tojson }}`, `{"a": "it's <b> é", "b": [1, 2.5]}`},
		{"{{ [1, 2] | tojson(indent=2) }}", "[\n  1,\n  2\n]"},
		{"{% for o in item.options %}{{ loop.index }}. {{ o }}{% if not loop.last %}; {% endif %}{% endfor %}", "1. 3; 2. 4"},
		{"{% for o in item.options %}{{ 'ABCDEF'[loop.index0] }} {{ o }} {% endfor %}", "A 3 B 4 "},
		{"{% for p in item.people %}{{ p.name }} {% endfor %}", "Ann Bob "},
		{"{% for k, v in item.meta.items() %}{{ k }}={{ v }}{% endfor %}", "lang=en"},
		{"{% for i in range(3) %}{{ i }}{% endfor %}", "012"},
		{"{% for i in range(10) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"},
		{"{{ item.missing | default('none') }}", "none"},
		{"{{ item.missing is defined }} {{ item.id is defined }} {{ item.none is defined }}", "False True True"},
		{"{% if 'missing' in item %}{{ item.missing }}{% endif %}ok", "ok"},
		{"{{ item.get('missing', 'x') }}", "x"},
		{"{{ last.role }} {{ last.data.answer }}", "match B"},
		{"[{{ last.data.x }}{{ last.data.x.y.z }}{{ last.data.list[9] }}]", "[]"},
		{"{{ last.data.list[0] }}{{ last.data.list[-1] }}{{ last.data.list | sum }}", "136"},
		{"{% if last.data.x %}yes{% else %}no{% endif %}", "no"},
		{"{% for x in last.data.x %}{{ x }}{% else %}none{% endfor %}", "none"},
		{"{{ last.data.x | default('d') }} {{ last.data.x is defined }} {{ last.data.x or 'e' }} {{ last.data.x == 'A' }}", "d False e False"},
		{"{{ last.data | tojson }} {{ last.data.x | tojson }}", `{"agreed": false, "answer": "B", "deep": {"x": 1}, "list": [1, 2, 3]} null`},
		{"{{ turns | length }} {{ turns[0].role }} {{ turns[-1].role }}", "3 student match"},
		{"{% for t in turns %}{{ t.role }}: {{ t.text }}\n{% endfor %}", "student: I think the answer is (A).\nteacher: No, the answer is (B).\nmatch: \n"},
		{"{{ turns | selectattr('role', 'equalto', 'student') | map(attribute='text') | join('|') }}", "I think the answer is (A)."},
		{"{{ rounds('student') }} {{ turn('teacher').text }} {{ turn('nobody').text }}{{ turn('nobody').data.x }}", "1 No, the answer is (B). "},
		{"{{ first('student').role }} {{ turns_of('teacher') | length }}", "student 1"},
		{"{{ turn('teacher').samples[1].text }}", "It is B"},
		{"{{ find(turns[0].text, 'answer is \\\\(([A-J])') }}", "A"},
		{"{{ words('a b c') | length }} {{ extract_json('x {\"a\": 1} y').a }} {{ hash('x') }} {{ similarity('a b', 'A  B') }}", "3 1 2d711642b726b044 1.0"},
		{"{{ params.style }} {{ params.tags | join }} {{ params.deep.x }}", "short ab 1"},
		{"{{ id }} {{ row }} {{ trial }} {{ seed }}", "q70#1 q70 1 42"},
		{"{{ x }}", "extra"},
		{"{% set a = item.id + 1 %}{{ a }}", "71"},
		{"{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"},
		{"{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, b=3) }}", "1-2 1-3"},
		{"{% with a = 1 %}{{ a }}{% endwith %}", "1"},
		{"{% raw %}{{ not.a.name }}{% endraw %}", "{{ not.a.name }}"},
		{"{# a comment about foo #}x", "x"},
		{"{{ '  a ' | trim }}{{ 'abc'.upper() }}{{ 'a,b'.split(',') | last }}", "aABCb"},
		{"{{ 'yes' if item.ok else 'no' }}", "yes"},
		{"{{ [1,2,3] | random == ([1,2,3] | random) or true }}", "True"},
		{"{% set l = [] %}{% for i in range(2) %}{% do l.append(i) %}{% endfor %}{{ l }}", "[0, 1]"},
		{"{%- if true -%}\n x \n{%- endif -%}", "x"},
		{"{{ item.title is defined and item.title }}", "False"},
		{"{{ '%s is %d' | format('x', 3) }}", "x is 3"},
		{"{{ item.people | map(attribute='name') | join(' & ') }}", "Ann & Bob"},
		{"{{ 'a' ~ 1 ~ true }}", "a1True"},
		{"{{ join(item.options, '+') }} {{ lower('ABC') }} {{ to_json(item.meta) }}", `3+4 abc {"lang":"en"}`},
	} {
		tpl, err := CompileTemplate(tt.src, params, "x")
		if err != nil {
			t.Errorf("CompileTemplate(%q): %v", tt.src, err)
			continue
		}
		got, err := tpl.Render(debate(t), map[string]any{"x": "extra"})
		if err != nil || got != tt.want {
			t.Errorf("Render(%q): got %q, %v, want %q", tt.src, got, err, tt.want)
		}
	}
}

func TestCompileTemplateErrors(t *testing.T) {
	for _, tt := range []struct {
		src          string
		line, column int
		want         string
	}{
		{"{{ itm.x }}", 1, 4, "unknown name itm, did you mean item?"},
		{"é\nß {{ foo }}", 2, 6, "unknown name foo"},
		{"{{ last.txt }}", 1, 9, "a turn has no txt, did you mean text?"},
		{"{{ params.stlye }}", 1, 11, "params has no stlye, did you mean style?"},
		{"{{ item.x | uper }}", 1, 13, "unknown filter uper, did you mean upper?"},
		{"{{ item.x is definde }}", 1, 14, "unknown test definde, did you mean defined?"},
		{"{% include '/etc/passwd' %}", 1, 4, "include %}: a template cannot read other files"},
		{"{% import 'x' as y %}", 1, 4, "cannot read other files"},
		{"{% extends 'x' %}", 1, 4, "cannot read other files"},
		{"{% block a %}{% endblock %}", 1, 4, "cannot read other files"},
		{"{% from 'x' import y %}", 1, 4, "cannot read other files"},
		{"a\n{% if item.x %}b", 2, 4, "{% if %} is never closed: {% elif %} or {% else %} or {% endif %} is missing"},
		{"{% for a in turns %}{% if a %}x{% endif %}", 1, 4, "{% for %} is never closed"},
		{"{% endif %}", 1, 4, "{% endif %} has no tag before it that it belongs to"},
		{"{% fro a in turns %}{% endfor %}", 1, 4, "unknown tag fro, did you mean for?"},
		{"{{ item.x | rond }}", 1, 13, "unknown filter rond, did you mean round?"},
		{"{{ item.x | map('uper') | join }}", 1, 17, "unknown filter uper, did you mean upper?"},
		{"{{ item.x | select('defind') }}", 1, 20, "unknown test defind, did you mean defined?"},
		{"{{ item.x | rejectattr('y', 'equaltoo', 1) }}", 1, 29, "unknown test equaltoo, did you mean equalto?"},
		{"{% filter uper %}{% endfilter %}", 1, 11, "unknown filter uper, did you mean upper?"},
		{"{{ item.x | replace('a') }}", 1, 13, "the filter replace takes 2 to 3 arguments, got 1"},
		{"{{ item.x | round(digits=1) }}", 1, 13, "the filter round takes no argument named digits"},
		{"{{ item.x is divisibleby }}", 1, 14, "the test divisibleby takes 1 argument, got 0"},
		{"{{ item.x is odd(1) }}", 1, 14, "the test odd takes 0 arguments, got 1"},
		{"{{ item.x + }}", 1, 13, "the tag ends too early: a value is missing"},
		{"{{ }}", 1, 4, "a value is missing"},
		{"{{ item.a item.b }}", 1, 11, `"item" is unexpected here, want an operator or the end of the tag`},
		{"{{ item.a & item.b }}", 1, 11, `unexpected "&"`},
		{"{{ item.a ? 1 }}", 1, 11, `unexpected "?"`},
		{"{{ (item.a }}", 1, 12, ""},
		{"{% if %}{% endif %}", 1, 7, "a value is missing"},
		{"{% set a, b %}{% endset %}", 1, 13, "the tag ends too early: = is missing"},
		{"{{ x[0.𝤯 y] }}", 1, 8, `unexpected "𝤯"`},
		{"{{ 1é }}", 1, 4, "not a number that can be used: 1é"},
		{"{{ 007 }}", 1, 4, "not a number that can be used: 007"},
		{"{% autoescape true %}{% endautoescape %}", 1, 4, "nothing is escaped"},
		{"{{ item.x", 1, 0, ""},
		{"{{ 'abc }}", 1, 0, ""},
		{"{{ 1 + }}", 1, 0, ""},
		{"{% frobnicate %}", 1, 4, "unknown tag frobnicate"},
		{"{% set item.x = 1 %}", 1, 8, "cannot set a field of item"},
		{"{{ " + strings.Repeat("(", 300), 1, 0, ""},
		{"{{ " + strings.Repeat("(", 300) + " }}", 1, 204, "nested more than 200 deep"},
		{strings.Repeat("{% if true %}", 300), 1, 0, "nested more than 200 deep"},
		{"\xff", 0, 0, "not valid UTF-8"},
	} {
		_, err := CompileTemplate(tt.src, Params{"style": 1})
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("CompileTemplate(%.40q): got %v, want an *Error", tt.src, err)
			continue
		}
		if !strings.Contains(e.Msg, tt.want) || e.Msg == "" || e.Line != tt.line || (tt.column > 0 && e.Column != tt.column) {
			t.Errorf("CompileTemplate(%.40q): got %d:%d %s, want %d:%d %s", tt.src, e.Line, e.Column, e.Msg, tt.line, tt.column, tt.want)
		}
	}
}

func TestRenderErrors(t *testing.T) {
	for _, tt := range []struct {
		src          string
		line, column int
		want         string
	}{
		{"x\n{{ item.questoin }}", 2, 9, `item has no field "questoin", did you mean "question"?`},
		{"{% if true %}\n{{ item['zzz'] }}{% endif %}", 2, 8, `item has no field "zzz", it has answer, id`},
		{"a\nb {{ item.meta.zzz }}", 2, 16, `the object has no field "zzz", it has lang`},
		{"{% for t in turns %}\n{{ t.txt }}{% endfor %}", 2, 6, `a turn has no field "txt", did you mean "text"?`},
		{"{% for i in range(1000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}", 1, 0, "more than 200000 rounds"},
		{"{{ range(1000000) }}", 1, 9, "more than 100000 elements"},
		{"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", 1, 10, "more than 100 deep"},
		{"{% macro a(f) %}{{ f(f) }}{% endmacro %}{{ a(a) }}", 1, 10, "more than 100 deep"},
		{"{% for i in range(1000) %}{% for j in range(190) %}" + strings.Repeat("x", 1000) + "{% endfor %}{% endfor %}", 1, 0, "longer than 64 MiB"},
		{"{% for t in turns %}{% set t.text = 1 %}{% endfor %}", 1, 28, "it is not a namespace"},
		{"1.é {{ '1.é' }}{# 1.é #}{{ 1.é }}", 1, 30, `the number 1 has no field "é"`},
		{"{% for a, b, c in [item.options] %}{% endfor %}", 1, 16, "3 names cannot take a list of 2 elements"},
		{"{% macro m(x) %}{{ loop(x) }}{% endmacro %}{% for x in [1] %}{{ loop([1, 2]) }}{% endfor %}", 1, 69, "more than 100 deep"},
		{"{{ 1 % 0 }}", 1, 6, "cannot divide by zero"},
		{"{{ find('x', '(') }}", 1, 8, "not a regular expression"},
		{"{{ lower(1, 2) }}", 1, 9, "lower takes 1 arguments, got 2"},
	} {
		tpl, err := CompileTemplate(tt.src, nil)
		if err != nil {
			t.Errorf("CompileTemplate(%q): %v", tt.src, err)
			continue
		}
		got, err := tpl.Render(debate(t), nil)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("Render(%q): got %.40q, %v, want an *Error", tt.src, got, err)
			continue
		}
		if !strings.Contains(e.Msg, tt.want) || e.Line != tt.line || e.Column != tt.column {
			t.Errorf("Render(%.60q): got %d:%d %s, want %d:%d %s", tt.src, e.Line, e.Column, e.Msg, tt.line, tt.column, tt.want)
		}
	}
}

func TestMissingIsNoNumber(t *testing.T) {
	for _, src := range []string{
		"last.data.absent + 1", "1 - last.data.absent", "last.data.absent * 2", "last.data.absent | round(1)", "last.data.absent | int",
		"last.data.absent | float", "last.data.absent | abs", "-last.data.absent", "'%d' | format(last.data.absent)", "last.data.absent is odd",
		"item.none + 1", "item.none | int", "item.none | round", "item.none | float", "[1, item.none] | sum", "item.none is even",
		"item.none ** 2", "item.none // 1", "item.none % 2", "'{}'.format(item.none)", "'a' * item.none",
	} {
		tpl, err := CompileTemplate("a\n{{ "+src+" }}", nil)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := tpl.Render(debate(t), nil)
		var own *Error
		if !errors.As(err, &own) || own.Line != 2 || own.Column == 0 || !strings.Contains(own.Msg, "nothing (none)") {
			t.Errorf("%s: got %q, %v, want an error in line 2 about nothing", src, got, err)
		}
	}
}

func TestTemplateFieldsAndRoles(t *testing.T) {
	for _, tt := range []struct {
		src           string
		fields, roles []string
	}{
		{"{{ item.a }} {{ item['b'] | upper }} {{ item.c.d }}", []string{"a", "b", "c"}, nil},
		{"{{ item.a | default('') }}{{ item.b is defined }}{{ item.c.d is not defined }}", nil, nil},
		{"{% if item.a %}{{ item.b }}{% else %}{{ item.c }}{% endif %}{{ item.d }}", []string{"a", "d"}, nil},
		{"{% for x in item.list %}{{ item.y }}{% endfor %}", []string{"list"}, nil},
		{"{% if 'a' in item %}x{% endif %}{{ item.a }}", nil, nil},
		{"{{ item.items() }}{{ item.get('x') }}{{ item.t.upper() }}", []string{"t"}, nil},
		{"{{ 'x' if item.a else item.b }}{{ item.c and item.d }}", []string{"c"}, nil},
		{"{{ rounds('a') }}{{ turn('b').text }}", nil, []string{"a", "b"}},
	} {
		tpl, err := CompileTemplate(tt.src, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := tpl.Fields(); !reflect.DeepEqual(got, tt.fields) {
			t.Errorf("Fields(%q): got %v, want %v", tt.src, got, tt.fields)
		}
		if got := tpl.Roles(); !reflect.DeepEqual(got, tt.roles) {
			t.Errorf("Roles(%q): got %v, want %v", tt.src, got, tt.roles)
		}
	}
}

func TestFixed(t *testing.T) {
	for src, want := range map[string]bool{
		"{{ 1 }}{{ params.x }}{{ lower('A') }}": true, "{{ item.a }}": false, "{{ rounds('a') }}": false, "{{ x }}": false,
		"{{ turns }}{% set turns = 1 %}": false, "{% set y = 1 %}{{ y }}": true,
	} {
		tpl, err := CompileTemplate(src, Params{"x": 1}, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got := tpl.Fixed(); got != want {
			t.Errorf("Fixed(%s): got %v, want %v", src, got, want)
		}
	}
}

func TestRenderWithoutTask(t *testing.T) {
	tpl, err := CompileTemplate("{{ error }}: {{ params.x }} {{ last.text }}", Params{"x": 1}, "error")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tpl.Render(nil, map[string]any{"error": "no"}); err != nil || got != "no: 1 " {
		t.Errorf("got %q, %v", got, err)
	}
	if tpl, err = CompileTemplate("{{ words }}", nil, "words"); err != nil { // as a function is called
		t.Fatal(err)
	}
	if got, err := tpl.Render(nil, map[string]any{"words": 3}); err != nil || got != "3" {
		t.Errorf("got %q, %v, want 3", got, err)
	}
}

func TestHash(t *testing.T) {
	a, _ := CompileTemplate("a", nil)
	b, _ := CompileTemplate("b", nil)
	if a.Hash() == b.Hash() || len(a.Hash()) != 12 {
		t.Errorf("got %q and %q, want two of 12 digits", a.Hash(), b.Hash())
	}
}

func TestRenderConcurrently(t *testing.T) {
	tpl, err := CompileTemplate(`{% macro m(x) %}<{{ x }}>{% endmacro %}{% set ns = namespace(n=0) %}
{%- for t in turns %}{% set ns.n = ns.n + 1 %}{{ m(t.role) }}{{ params.list | join }}{% endfor %}{{ ns.n }}{{ item.options | random | length }}`,
		Params{"list": []any{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			task := debate(t)
			for range 50 {
				got, err := tpl.Render(task, nil)
				if want := "<student>ab<teacher>ab<match>ab31"; err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestRenderLeavesTaskAlone(t *testing.T) {
	task := debate(t)
	before, _ := json.Marshal(task.Item.Any())
	for _, src := range []string{
		"{% do item.options.reverse() %}", "{% do item.options.append(1) %}", "{% do item.update({'a': 1}) %}",
		"{% do item.pop('id') %}", "{% do item.meta.clear() %}", "{% set l = item.options %}{% do l.reverse() %}",
		"{% set l = item.options %}{% for i in [1, 2] %}{% do l.append(i) %}{% endfor %}", "{% for l in item.people %}{% do l.update({'name': 'x'}) %}{% endfor %}",
		"{% macro m(l) %}{% do l.clear() %}{% endmacro %}{{ m(item.options) }}{{ m(item.meta) }}{{ m(item) }}",
	} {
		tpl, err := CompileTemplate(src, nil)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		_, _ = tpl.Render(task, nil)
		if after, _ := json.Marshal(task.Item.Any()); string(after) != string(before) {
			t.Errorf("%s changed the row to %s", src, after)
		}
	}
}

// TestTemplates renders the templates of testdata over a task: each has its text, or
// "!" and the error with its place, and has them again.
func TestTemplates(t *testing.T) {
	raw, err := os.ReadFile("testdata/templates.json")
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
		{"a field that is not a list", "{% set ns = namespace(l=(1,)) %}{% do ns.l.append(2) %}{{ ns.l }}", "[1, 2]"},
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

// TestChangesInPlace checks that no method copies what it changes, be it a list or
// an object, of a name or of a namespace.
func TestChangesInPlace(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{"{% set l = [] %}{% for i in range(50000) %}{% do l.append(i) %}{% endfor %}{{ l | length }}", "50000"},
		{"{% set ns = namespace(l=[]) %}{% for i in range(50000) %}{% do ns.l.append(i) %}{% endfor %}{{ ns.l | length }}", "50000"},
		{"{% set l = [] %}{% for i in range(50000) %}{% do l.extend([i, i]) %}{% endfor %}{% for i in range(50000) %}{% do l.pop() %}{% do l.pop(0) %}{% endfor %}{{ l }}", "[]"},
		{"{% set d = {} %}{% for i in range(50000) %}{% do d.update({i: 1}) %}{% endfor %}{% for i in range(49999) %}{% do d.pop(i) %}{% endfor %}{{ d }}", "{49999: 1}"},
		{"{% set l = item.options %}{% for i in range(50000) %}{% do l.append(i) %}{% endfor %}{{ l | length }}", "50002"},
	} {
		tpl, err := CompileTemplate(tt.src, nil)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := tpl.Render(debate(t), nil)
		runtime.ReadMemStats(&after)
		if made := (after.TotalAlloc - before.TotalAlloc) >> 20; got != tt.want || err != nil || made > 100 {
			t.Errorf("%s: got %.40s, %v and took %d MiB of memory, want %s and at most 100", tt.src, got, err, made, tt.want)
		}
	}
}

// What would not end, or takes too much, is an error with its line, whatever
// guards there are.
func TestWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
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

func FuzzCompileTemplate(f *testing.F) {
	for _, s := range []string{"{{ item.a | default(1) }}", "{% for t in turns %}{{ loop.index }}{% endfor %}", "{% if x %}{% elif y %}{% else %}{% endif %}",
		"{% set ns = namespace(a=1) %}{% set ns.a = 2 %}", "{% macro m(a, b=1, *c, **d) %}{{ a }}{% endmacro %}{{ m(1) }}", "{# c #}{% raw %}{{{% endraw %}",
		"{{ [1,2][0:1] }}{{ {'a': 1}.items() }}", "{{ 'a' * 3 }}{{ 1 // 0 }}{{ 2 ** 3 }}", "{% call m() %}x{% endcall %}", "{%- -%}", "{{ \"\\u00e9\" }}",
		"{{ last.data.x.y[0] | tojson }}", "{{ item.options | batch(2) | list }}{{ 'x' | center(20) }}", "{% filter upper %}a{% endfilter %}", "{{ -x.y }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		defer time.AfterFunc(20*time.Second, func() { panic("hangs: " + src) }).Stop()
		tpl, err := CompileTemplate(src, Params{"x": 1})
		var own *Error
		if err != nil {
			if !errors.As(err, &own) || own.Msg == "" {
				t.Fatalf("got %#v, want an *Error", err)
			}
			return
		}
		task := debate(t)
		before, _ := json.Marshal(task.Item.Any())
		if _, err := tpl.Render(task, nil); err != nil && (!errors.As(err, &own) || strings.Contains(own.Msg, "cannot render: ")) {
			t.Fatalf("got %#v, want an *Error", err)
		}
		if after, _ := json.Marshal(task.Item.Any()); string(before) != string(after) {
			t.Fatalf("%q changed the row", src)
		}
	})
}

func BenchmarkRender(b *testing.B) {
	tpl, err := CompileTemplate(`You discuss {{ item.question }} with others.
{% for o in item.options %}{{ 'ABCD'[loop.index0] }}. {{ o }}
{% endfor %}They said: {{ last.text }}`, nil)
	if err != nil {
		b.Fatal(err)
	}
	task := debate(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpl.Render(task, nil); err != nil {
			b.Fatal(err)
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
