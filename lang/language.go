package lang

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
)

const (
	maxRange  = 100_000
	maxRounds = 200_000
	maxMacros = 100
	maxGrown  = 4 * maxParts
)

// language is what templates are made of. Each template has its own, because
// the library locks its sets on every use.
type language struct {
	config  *config.Config
	filters *exec.FilterSet
	tests   *exec.TestSet
	globals map[string]any // functions that need no task
}

func newLanguage() *language {
	c := config.New()
	c.StrictUndefined = true
	return &language{config: c, filters: filters(), tests: tests(), globals: globals()}
}

// globals are the functions that need no task.
func globals() map[string]any {
	g := map[string]any{"range": rangeList, "cycler": newCycler}
	g["joiner"], _ = builtins.GlobalFunctions.Get("joiner")
	g["namespace"] = func(va *exec.VarArgs) space { return space(namedValues(va)) }
	g["dict"] = func(va *exec.VarArgs) map[string]any { return namedValues(va) }
	for _, table := range []map[string]function{textFunctions(), valueFunctions()} {
		for name, f := range table {
			g[name] = f.global(name)
		}
	}
	return g
}

// namedValues are the named arguments, on top of the objects that come without a
// name.
func namedValues(va *exec.VarArgs) map[string]any {
	m := map[string]any{}
	for _, a := range va.Args {
		if o, ok := unwrap(a).(map[string]any); ok {
			maps.Copy(m, o)
		}
	}
	for k, v := range va.KwArgs {
		m[k] = v.Interface()
	}
	return m
}

// global is f as templates call it.
func (f function) global(name string) func(*exec.VarArgs) (*exec.Value, error) {
	return func(va *exec.VarArgs) (*exec.Value, error) {
		if len(va.KwArgs) > 0 {
			return nil, fmt.Errorf("%s takes no named arguments", name)
		}
		if len(va.Args) < f.min || len(va.Args) > f.max {
			return nil, fmt.Errorf("%s takes %d arguments, got %d", name, f.max, len(va.Args))
		}
		args := make([]any, len(va.Args))
		for i, a := range va.Args {
			args[i] = unwrap(a)
		}
		out, err := f.call(args)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return exec.ToValue(agentValue(out)), nil
	}
}

func rangeList(va *exec.VarArgs) ([]int, error) {
	n := make([]int, len(va.Args))
	for i, a := range va.Args {
		if !a.IsInteger() {
			return nil, errors.New("range wants whole numbers")
		}
		n[i] = a.Integer()
	}
	var start, stop int
	step := 1
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, errors.New("range wants (stop), (start, stop) or (start, stop, step)")
	}
	if step == 0 {
		return nil, errors.New("the step of range must not be 0")
	}
	list := []int{}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(list) == maxRange {
			return nil, fmt.Errorf("range has more than %d elements", maxRange)
		}
		list = append(list, i)
		if i+step > i != (step > 0) {
			break // beyond 64 bits
		}
	}
	return list, nil
}

func filterDefault(_ *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	by := exec.AsValue("")
	if len(p.Args) > 0 {
		by = p.Args[0]
	} else if v, ok := p.KwArgs["default_value"]; ok {
		by = v
	}
	boolean := p.KwArgs["boolean"]
	if len(p.Args) > 1 {
		boolean = p.Args[1]
	}
	if in.IsError() || isAbsent(in) || in.IsNil() || boolean != nil && boolean.IsTrue() && !in.IsTrue() {
		return by
	}
	return in
}

func filterToJSON(_ *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := p.KwArgs["indent"]
	if len(p.Args) > 0 {
		indent = p.Args[0]
	}
	n := 0
	if indent != nil && indent.IsInteger() {
		n = indent.Integer()
	}
	s, err := toJSON(unwrap(in), n)
	if err != nil {
		return exec.AsValue(err)
	}
	if n <= 0 {
		s = spaced(s)
	}
	return exec.AsSafeValue(s)
}

// spaced puts a space after each comma and colon of compact JSON, as Python
// writes it.
func spaced(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/8)
	quoted := false
	for i := 0; i < len(s); i++ {
		b.WriteByte(s[i])
		switch {
		case quoted && s[i] == '\\':
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			quoted = !quoted
		case !quoted && (s[i] == ',' || s[i] == ':'):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func filterRandom(e *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	if in.Len() == 0 {
		return exec.AsValue(absent{})
	}
	return in.Index(of(e).random(in.Len()))
}

func tests() *exec.TestSet {
	set := exec.NewTestSet(map[string]exec.TestFunction{}).Update(builtins.Tests)
	defined := func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
		return !in.IsError() && !isAbsent(in), nil
	}
	for name, f := range map[string]exec.TestFunction{
		"defined": defined,
		"undefined": func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
			return in.IsError() || isAbsent(in), nil
		},
		"none": func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
			return in.IsNil() || isAbsent(in), nil
		},
		"odd":         divides(func(n, _ int) bool { return n%2 != 0 }),
		"even":        divides(func(n, _ int) bool { return n%2 == 0 }),
		"divisibleby": divides(func(n, by int) bool { return by != 0 && n%by == 0 }),
		"sameas":      relation("=="), "eq": relation("=="), "==": relation("=="), "equalto": relation("=="), "ne": relation("!="), "!=": relation("!="),
		"lt": relation("<"), "<": relation("<"), "lessthan": relation("<"), "le": relation("<="), "<=": relation("<="),
		"gt": relation(">"), ">": relation(">"), "greaterthan": relation(">"), "ge": relation(">="), ">=": relation(">="),
		"in": relation("in"),
		"sequence": func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
			return in.IsList() || in.IsString() || in.IsDict(), nil
		},
		"filter": func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
			return slices.Contains(filterNames(), in.String()), nil
		},
		"test": func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
			return builtins.Tests.Exists(in.String()), nil
		},
	} {
		if err := set.Replace(name, f); err != nil {
			panic(err) // the library has these tests
		}
	}
	return set
}

type testFunction = func(*exec.Context, *exec.Value, *exec.VarArgs) (bool, error)

// relation is a comparison as a test.
func relation(op string) testFunction {
	return func(_ *exec.Context, in *exec.Value, va *exec.VarArgs) (bool, error) {
		return related(op, unwrap(in), unwrap(va.First()))
	}
}

// divides is a test of a whole number.
func divides(f func(n, by int) bool) testFunction {
	return func(_ *exec.Context, in *exec.Value, va *exec.VarArgs) (bool, error) {
		n, ok := unwrap(in).(int)
		if !ok {
			return false, fmt.Errorf("want a whole number, got %s", operand(unwrap(in)))
		}
		by, ok := unwrap(va.First()).(int)
		if len(va.Args) > 0 && (!ok || by == 0) {
			return false, fmt.Errorf("want a whole number other than 0, got %s", operand(unwrap(va.First())))
		}
		return f(n, by), nil
	}
}
