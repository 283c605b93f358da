package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"matrix"
)

// TestCases checks expressions and templates over one row against testdata.
func TestCases(t *testing.T) {
	text, err := os.ReadFile("testdata/expressions.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var c struct {
			Item           json.RawMessage
			Expr, Template string
			Want           json.RawMessage
			Error          bool
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		task := &matrix.Task{Item: matrix.RawValue(c.Item)}
		var got any
		if c.Expr != "" {
			e, err := CompileExpr(c.Expr, nil)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			got, err = e.Eval(task)
			if c.Error != (err != nil) {
				t.Errorf("%s: got %v, %v", line, got, err)
			}
		} else {
			tpl, err := CompileTemplate(c.Template, nil)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			got, err = tpl.Render(task, nil)
			if c.Error != (err != nil) {
				t.Errorf("%s: got %v, %v", line, got, err)
			}
		}
		want := matrix.RawValue(c.Want)
		if v, err := matrix.NewValue(got); !c.Error && (err != nil || !reflect.DeepEqual(v.Any(), want.Any())) {
			t.Errorf("%s: got %v (%T), %v, want %s", line, got, got, err, c.Want)
		}
	}
}

// TestOneArithmetic compares expressions with templates: the same operation on
// the same numbers has the same value, of the same type, or is an error in both.
func TestOneArithmetic(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	operands := []any{0, 1, -1, 2, 3, -7, 10, 62, 63, 64, math.MaxInt, math.MinInt, math.MaxInt - 1, math.MinInt + 1, 1 << 53, 1<<53 + 1, 3037000500, 1 << 32,
		0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e19, -1e19, 9.3e18, 1e300, -1e300, 1e-300, 5e-324, math.MaxFloat64}
	number := func() any {
		switch rnd.IntN(4) {
		case 0:
			return rnd.IntN(100) - 50
		case 1:
			return int(rnd.Uint64())
		case 2:
			return (rnd.Float64() - 0.5) * math.Pow(10, float64(rnd.IntN(40)-10))
		}
		return operands[rnd.IntN(len(operands))]
	}
	type pair struct {
		name     string
		expr     *Expr
		template *Template
		exprSrc  string
	}
	var pairs []pair
	for _, p := range [][2]string{
		{"item.a + item.b", ""}, {"item.a - item.b", ""}, {"item.a * item.b", ""}, {"item.a / item.b", ""}, {"item.a % item.b", ""}, {"item.a ** item.b", ""}, {"-item.a", ""},
		{"item.a + item.b * item.c", ""}, {"item.a - item.b - item.c", ""}, {"(item.a + item.b) % item.c", ""},
		{"abs(item.a)", "item.a | abs"}, {"int(item.a)", "item.a | int"}, {"float(item.a)", "item.a | float"}, {"float(round(item.a)) + 0.0", "(item.a | round) + 0.0"},
		{"sum([item.a, item.b, item.c])", "[item.a, item.b, item.c] | sum"}, {"sum([])", "[] | sum"}, {"min([item.a, item.b])", "[item.a, item.b] | min"}, {"max([item.a, item.b])", "[item.a, item.b] | max"},
		{"item.a < item.b", ""}, {"item.a >= item.b", ""}, {"item.a == item.b", ""},
	} {
		if p[1] == "" {
			p[1] = p[0]
		}
		e, err := CompileExpr("type("+p[0]+") + \" \" + string("+p[0]+")", nil)
		if err != nil {
			t.Fatal(err)
		}
		tpl, err := CompileTemplate("{% set x = "+p[1]+" %}{{ 'bool' if x is boolean else 'int' if x is integer else 'float' if x is float }}", nil)
		if err != nil {
			t.Fatal(err)
		}
		value, err := CompileTemplate("{{ to_json("+p[1]+") }}", nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := CompileExpr("to_json("+p[0]+")", nil)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair{p[0], e, tpl, ""}, pair{p[0], raw, value, ""})
	}
	for range 3000 {
		item, err := matrix.NewValue(map[string]any{"a": number(), "b": number(), "c": number()})
		if err != nil {
			t.Fatal(err)
		}
		task := &matrix.Task{Item: item}
		for _, p := range pairs {
			got, err := p.expr.Eval(task)
			want, err2 := p.template.Render(task, nil)
			kind, _, _ := strings.Cut(fmt.Sprint(got), " ")
			if !strings.HasPrefix(p.expr.String(), "type(") {
				kind = fmt.Sprint(got)
			}
			if (err == nil) != (err2 == nil) || err == nil && kind != want {
				t.Fatalf("%s of %s: the expression gives %v, %v, the template %v, %v", p.name, item, got, err, want, err2)
			}
		}
	}
}

// TestWork checks that what would compute for long is an error within seconds.
func TestWork(t *testing.T) {
	t.Parallel()
	item, err := matrix.NewValue(map[string]any{"s": strings.Repeat("ab ", 300_000), "l": make([]int, 100_000)})
	if err != nil {
		t.Fatal(err)
	}
	task := &matrix.Task{Item: item}
	for _, src := range []string{
		`map(1..900000, sum(item.l))`,
		`filter(item.l, # + 1 in item.l)`,
		`map(1..900000, item.s[#])`,
		`map(1..900000, item.s contains "x")`,
		`map(1..900000, find(item.s, "x$"))`,
		`map(1..900000, item.s matches "[ab ]+x")`,
		`map(1..900000, find("a", "a{999}" + string(#)))`,
		`count(item.l, any(item.l, # == 7))`,
	} {
		e, err := CompileExpr(src, nil)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		var own *Error
		if _, err := e.Eval(task); !errors.As(err, &own) || !strings.Contains(own.Msg, "computes too much") {
			t.Errorf("%s: got %v, want an error of its work", src, err)
		}
	}
	for _, src := range []string{
		"{% for i in range(99999) %}{{ range(100000)|sort|first }}{% endfor %}",
		"{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [[1, 2, 3]] %}{% endfor %}",
		"{% for i in range(99999) %}{% if i in item.l[1:] %}x{% endif %}{% endfor %}",
		"{% for i in range(99999) %}{{ item.s[i] }}{% endfor %}",
		"{% for i in range(99999) %}{{ find(item.s, 'x$') }}{% endfor %}",
		"{% for i in range(99999) %}{% if item.l == item.l %}x{% endif %}{% endfor %}",
		"{% for i in range(99999) %}{% for j in item.l %}{% break %}{% endfor %}{% endfor %}",
		"{{ ([[1]] * 100000) | sum(start=[]) | length }}",
		"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
	} {
		tpl, err := CompileTemplate(src, nil)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		var own *Error
		if _, err := tpl.Render(task, nil); !errors.As(err, &own) || !strings.Contains(own.Msg, "computes too much") && !strings.Contains(own.Msg, "more than") {
			t.Errorf("%s: got %v, want an error of its work", src, err)
		}
	}
}
