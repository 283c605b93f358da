package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"matrix/internal/jsontext"
)

// values are an Env of what stands under each name.
type values map[string]any

func (v values) Lookup(name string) (any, bool) { x, ok := v[name]; return x, ok }
func (v values) Seed() (uint64, uint64)         { return 1, 2 }

func render(src string, v values) (string, error) {
	t, err := Compile(src, &Language{Names: keysOf(v)})
	if err != nil {
		return "", err
	}
	return t.Render(v)
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
	for _, c := range []string{"index(1)", "count(1)", "append(1)", "extend([1])", "insert(0, 1)", "remove(1)", "pop()", "reverse()", "copy()", "clear()", "sort()"} {
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
		if _, err := render("{% set l = [1, 2] %}{% set d = {'a': 1} %}{{ "+c+" }}", nil); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// decoded is a JSON value as a template would make it.
func decoded(raw []byte) any {
	r := jsontext.New(string(raw))
	var value func() any
	value = func() any {
		switch r.Next() {
		case '"':
			return r.Text()
		case '{':
			d := NewDict()
			for key := range r.Object {
				d.Set(key, value())
			}
			return d
		case '[':
			l := NewList()
			for range r.List {
				l.items = append(l.items, value())
			}
			return l
		case 't', 'f':
			return r.Bool()
		case 'n':
			r.Null()
			return nil
		}
		if s, whole := r.Number(); whole {
			n, _ := strconv.Atoi(s)
			return n
		} else {
			f, _ := strconv.ParseFloat(s, 64)
			return f
		}
	}
	return value()
}

// differences are the templates of testdata/jinja.json that mean something else
// here, on purpose: what they render, or "!" and a part of the error.
var differences = map[string]string{
	`{{ "%s"|format(none) }}`:              "!%s wants a value, got nothing (none)",
	`{{ "%s"% none }}`:                     "!%s wants a value, got nothing (none)",
	`{{ None }}`:                           "",
	`{{ true and none }}`:                  "",
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
	`{{ "inf"|float }}`:                    "!not numbers to calculate with",
	`{{ "nan"|float }}`:                    "!not numbers to calculate with",
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
	env := values{"item": decoded(table.Item)}
	for _, c := range table.Cases {
		want, fails := c[1], ""
		if other, ok := differences[*c[0]]; ok {
			want = &other
			if msg, isError := strings.CutPrefix(other, "!"); isError {
				want, fails = nil, msg
			}
		}
		got, err := render(*c[0], env)
		var own *Error
		switch {
		case want == nil && (!errors.As(err, &own) || own.Line == 0 || own.Column == 0 || !strings.Contains(own.Msg, fails)):
			t.Errorf("%s: got %q, %v, want an error with its place: %s", *c[0], got, err, fails)
		case want != nil && (err != nil || got != *want):
			t.Errorf("%s: got %q, %v, want %q", *c[0], got, err, *want)
		}
	}
}

func TestUses(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{"{{ a.b['c'][0].d }}", "1:4 a.b.c.#.d sure"},
		{"{{ a.b.upper() }}{{ a.upper().b }}", "1:4 a.b method sure, 1:21 a method sure"},
		{"{{ a[b].c }}", "1:4 a sure, 1:6 b sure"},
		{"{{ a.b | default(c) }}{{ a.b is not defined }}", "1:4 a.b guarded sure, 1:18 c sure, 1:26 a.b guarded sure"},
		{"{{ a and b }}{{ c if d else e }}", "1:4 a sure, 1:10 b, 1:17 c, 1:22 d, 1:29 e"},
		{"{% if a %}{{ b }}{% elif c %}{% endif %}{{ d }}", "1:7 a asks sure, 1:14 b, 1:26 c asks, 1:44 d sure"},
		{"{% for x in a if b %}{{ x.y }}{% endfor %}", "1:13 a sure, 1:18 b, 1:25 x.y set"},
		{"{{ f('r').b == 't' }}{{ f(a) }}", "1:4 f('r').b is 't' sure, 1:25 f() sure, 1:27 a sure"},
		{"{{ 'k' in a }}{{ 'k' in a.b }}", "1:11 'k' in a sure, 1:25 a.b sure"},
	} {
		tpl, err := Compile(tt.src, &Language{Names: []string{"a", "b", "c", "d", "e", "f"}})
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		var all []string
		for _, u := range tpl.Uses() {
			s := u.Name
			if u.In != "" {
				s = "'" + u.In + "' in " + s
			}
			switch {
			case u.Argument != "":
				s += "('" + u.Argument + "')"
			case u.Called:
				s += "()"
			}
			for _, step := range u.Path {
				s += "." + step.Name
			}
			if u.Is != nil {
				s += " is '" + u.Is.Text + "'"
			}
			for _, flag := range []struct {
				is   bool
				word string
			}{{u.Method, " method"}, {u.Asks, " asks"}, {u.Guarded, " guarded"}, {u.Sure, " sure"}, {u.Set, " set"}} {
				if flag.is {
					s += flag.word
				}
			}
			all = append(all, strconv.Itoa(u.Line)+":"+strconv.Itoa(u.Column)+" "+s)
		}
		if got := strings.Join(all, ", "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.src, got, tt.want)
		}
	}
}
