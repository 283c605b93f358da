package lang

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"

	controls "github.com/nikolalohinski/gonja/v2/builtins/control_structures"
)

const (
	maxRange  = 100_000
	maxRounds = 200_000
	maxMacros = 100
)

// stateName is where a rendering keeps its *renderState; no template can name it.
const stateName = "@state"

// renderState belongs to one rendering.
type renderState struct {
	rounds int // of loops
	depth  int // of macros
	rand   *rand.Rand
	err    error // the first of an expression
}

// language is what templates are made of. Each template has its own, because
// the library locks its sets on every use.
type language struct {
	config *config.Config
	env    *exec.Environment
}

func newLanguage() *language {
	c := config.New()
	c.StrictUndefined = true
	return &language{config: c, env: &exec.Environment{
		Context:           exec.NewContext(globals()),
		Filters:           filters(),
		Tests:             tests(),
		ControlStructures: tags(),
	}}
}

// globals are the functions that need no task.
func globals() map[string]any {
	g := map[string]any{"range": rangeList}
	for _, name := range []string{"joiner", "cycler"} {
		g[name], _ = builtins.GlobalFunctions.Get(name)
	}
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
	if in.IsError() || in.Len() == 0 {
		return in
	}
	n := in.Len()
	if st := state(e.Environment); st != nil {
		return in.Index(st.rand.IntN(n))
	}
	return in.Index(0)
}

func state(env *exec.Environment) *renderState {
	v, _ := env.Context.Get(stateName)
	st, _ := v.(*renderState)
	return st
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

// tags are the control structures, those that read other templates left out.
func tags() *exec.ControlStructureSet {
	m := map[string]parser.ControlStructureParser{}
	for _, name := range []string{"filter", "if", "raw", "set", "with", "do", "break", "continue", "call"} {
		m[name], _ = builtins.ControlStructures.Get(name)
	}
	parseFor, _ := builtins.ControlStructures.Get("for")
	m["for"] = func(p, args *parser.Parser) (nodes.ControlStructure, error) {
		cs, err := parseFor(p, args)
		if f, ok := cs.(*controls.ForControlStructure); ok && err == nil {
			if f.Recursive {
				return nil, &Error{Msg: "recursive loops are not supported"}
			}
			f.BodyWrapper.Nodes = append([]nodes.Node{guard(f.BodyWrapper.Location, countRound)}, f.BodyWrapper.Nodes...)
		}
		return cs, err
	}
	parseMacro, _ := builtins.ControlStructures.Get("macro")
	m["macro"] = func(p, args *parser.Parser) (nodes.ControlStructure, error) {
		cs, err := parseMacro(p, args)
		if f, ok := cs.(*controls.MacroControlStructure); ok && err == nil {
			at := f.Wrapper.Location
			f.Wrapper.Nodes = slices.Concat([]nodes.Node{guard(at, enterMacro)}, f.Wrapper.Nodes, []nodes.Node{guard(at, leaveMacro)})
		}
		return cs, err
	}
	return exec.NewControlStructureSet(m)
}

// guardNode does something to the state of the rendering and prints nothing.
type guardNode struct {
	at *tokens.Token
	do func(*renderState) error
}

func guard(at *tokens.Token, do func(*renderState) error) *nodes.ControlStructureBlock {
	return &nodes.ControlStructureBlock{Location: at, Name: "guard", ControlStructure: &guardNode{at, do}}
}

func (g *guardNode) Position() *tokens.Token { return g.at }
func (g *guardNode) String() string          { return "limit" }

func (g *guardNode) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return g.do(state(r.Environment))
}

func countRound(st *renderState) error {
	if st.rounds++; st.rounds > maxRounds {
		return fmt.Errorf("the loops take more than %d rounds", maxRounds)
	}
	return nil
}

func enterMacro(st *renderState) error {
	if st.depth++; st.depth > maxMacros {
		return fmt.Errorf("macros call each other more than %d deep", maxMacros)
	}
	return countRound(st)
}

func leaveMacro(st *renderState) error { st.depth--; return nil }
