package lang

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"matrix"
)

// differences are the templates of testdata/jinja.json that mean something else
// here, on purpose: what they render, or "!" and a part of the error.
var differences = map[string]string{
	`{{ "%s"|format(none) }}`:              "!%s wants a value, got nothing (none)",
	`{{ "%s"% none }}`:                     "!%s wants a value, got nothing (none)",
	`{{ None }}`:                           "",
	`{{ true and none }}`:                  "",
	`{{ item.d.items()|list }}`:            `[['a', None], ['b', "it's"]]`,
	`{{ item.d|items|list }}`:              `[['a', None], ['b', "it's"]]`,
	`{{ item.d.get("a") }}`:                "",
	`{{ item.d.get("z") }}`:                "",
	`{{ item.n|upper }}`:                   "",
	`{{ item.n|default("z") }}`:            "z",
	`{{ item.d|tojson }}`:                  `{"a": null, "b": "it's"}`,
	`{{ 10000000000 * 10000000000 }}`:      "!too large to keep",
	`{{ 9223372036854775807 + 1 }}`:        "!too large to keep",
	`{{ "a" ~ 1 ~ none ~ true ~ 1.5 }}`:    "a1True1.5",
	`{{ loop is defined }}`:                "!unknown name loop",
	`{{ item.n and item.n > 3 }}`:          "",
	`{{ "12345678901234567890"|int }}`:     "!too large to keep",
	`{{ "99999999999999999999"|int(7) }}`:  "!too large to keep",
	`{{ "-99999999999999999999"|int(7) }}`: "!too large to keep",
	`{{ "1e30"|int }}`:                     "!too large to keep",
	`{{ "1e400"|float }}`:                  "!too large to keep",
	`{{ "inf"|float }}`:                    "!no numbers to calculate with",
	`{{ "nan"|float }}`:                    "!no numbers to calculate with",
}

// TestAgainstJinja compares with what Jinja2 itself makes of the same templates;
// testdata/jinja.py wrote it down.
func TestAgainstJinja(t *testing.T) {
	raw, err := os.ReadFile("testdata/jinja.json")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Item  json.RawMessage `json:"item"`
		Cases [][2]*string    `json:"cases"`
	}
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	item, err := matrix.ParseValue(table.Item)
	if err != nil {
		t.Fatal(err)
	}
	task := &matrix.Task{ID: "x", Item: item}
	for _, c := range table.Cases {
		want, fails := c[1], ""
		if other, ok := differences[*c[0]]; ok {
			want = &other
			if msg, isError := strings.CutPrefix(other, "!"); isError {
				want, fails = nil, msg
			}
		}
		tpl, err := CompileTemplate(*c[0], nil)
		got := ""
		if err == nil {
			got, err = tpl.Render(task, nil)
		}
		var own *Error
		switch {
		case want == nil && (!errors.As(err, &own) || own.Line == 0 || own.Column == 0 || !strings.Contains(own.Msg, fails)):
			t.Errorf("%s: got %q, %v, want an error with its place: %s", *c[0], got, err, fails)
		case want != nil && (err != nil || got != *want):
			t.Errorf("%s: got %q, %v, want %q", *c[0], got, err, *want)
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

// TestEveryMethodAndFilter calls all that are there, with as few arguments as
// Python wants: none may panic or fail for their number.
func TestEveryMethodAndFilter(t *testing.T) {
	var calls []string
	for name, m := range textMethods {
		arg := map[string]string{"join": `["a"]`, "center": "5", "ljust": "5", "rjust": "5", "zfill": "5", "index": `"b"`, "rindex": `"b"`}[name]
		args := []string{}
		for range m.min {
			if arg == "" {
				arg = `"a"`
			}
			args = append(args, arg)
		}
		calls = append(calls, `"abc".`+name+"("+strings.Join(args, ", ")+")")
	}
	for _, c := range []string{"index(1)", "count(1)", "append(1)", "extend([1])", "insert(0, 1)", "remove(1)", "pop()", "reverse()", "copy()", "clear()"} {
		calls = append(calls, "l."+c)
	}
	for _, c := range []string{"keys()", "values()", "items()", "get('a')", "pop('a')", "setdefault('a')", "update({})", "copy()", "clear()"} {
		calls = append(calls, "d."+c)
	}
	for _, name := range filterNames() {
		on := map[string]string{"abs": "1", "round": "1", "int": "1", "float": "1", "items": "d", "dictsort": "d", "xmlattr": "d", "filesizeformat": "1",
			"join": "l", "sum": "l", "min": "l", "max": "l", "map": "l", "groupby": "[{'a': 1}]", "selectattr": "[{'a': 1}]", "rejectattr": "[{'a': 1}]",
			"batch": "l", "slice": "l", "sort": "l", "unique": "l", "select": "l", "reject": "l", "attr": "d"}[name]
		if on == "" {
			on = "'abc'"
		}
		args := map[string]string{"attr": "('a')", "batch": "(2)", "groupby": "('a')", "slice": "(2)", "replace": "('a', 'b')", "map": "('string')",
			"selectattr": "('a')", "rejectattr": "('a')"}[name]
		calls = append(calls, on+" | "+name+args)
	}
	for _, c := range calls {
		tpl, err := CompileTemplate("{% set l = [1, 2] %}{% set d = {'a': 1} %}{{ "+c+" }}", nil)
		if err == nil {
			_, err = tpl.Render(nil, nil)
		}
		if err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

func TestSub(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{`sub("a1b2", "([a-z])([0-9])", "$1x")`, "axbx"},
		{`sub("a1b2", "([a-z])([0-9])", "$2$1")`, "1a2b"},
		{`sub("a1", "([a-z])", "<$0>")`, "<a>1"},
		{`sub("a1", "[0-9]", "$$")`, "a$"},
		{`sub("a1", "[0-9]", "$x ${1} $")`, "a$x ${1} $"},
		{`sub("ab", "(x)?b", "[$1]")`, "a[]"},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if got, err := e.Eval(debate(t)); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %s", tt.src, got, err, tt.want)
		}
	}
	for _, src := range []string{`sub(item.question, "(a)", "$2")`, `sub(item.question, "a", "$1")`, `toJSON(item)`, `fromJSON("1")`} {
		var own *Error
		if _, err := CompileExpr(src, nil); !errors.As(err, &own) || own.Column == 0 {
			t.Errorf("%s: got %v, want an error with its place", src, err)
		} else {
			t.Log(own)
		}
	}
}
