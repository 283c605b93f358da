package lang

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"

	"matrix"
)

// step does a part of a rendering. Its error ends the rendering, but for that
// of break and continue, which ends a round of a loop.
type step func(*rendering) error

// rendering is one call of Render: what expressions and steps see, and the text
// that they have made.
type rendering struct {
	exec.Evaluator // what the library's filters and tests take
	environment    exec.Environment
	names          map[string]any // that tags have set, outside of all scopes
	outermost      *exec.Context  // over names
	page           bytes.Buffer

	t      *Template
	task   *matrix.Task
	extra  map[string]any
	turns  []turnObject // nil until somebody asks
	last   turnObject   // nil until somebody asks
	out    *bytes.Buffer
	before int // bytes of text that blocks around it have made
	rounds int // of loops
	work   int
	grown  int          // parts that methods have put into lists and objects
	ends   map[*any]int // the length of each list that append has made, by its first element
	depth  int          // of macros
	caller exec.Macro   // of the macro that is called next; nil where it has none
	block  string       // that filters are given
	rand   *rand.Rand   // nil until somebody asks
	failed *exec.Value  // the first error of a whole expression
}

// stateName is where filters find the rendering; no template can name it.
const stateName = "@state"

const maxPage = 1 << 20 // bytes of text whose memory is kept for the next rendering

var renderings = sync.Pool{New: func() any {
	r := &rendering{names: map[string]any{}}
	r.names[stateName] = r
	r.outermost = exec.NewContext(r.names)
	return r
}}

func (r *rendering) begin(t *Template, task *matrix.Task, extra map[string]any) {
	if task == nil {
		task = &matrix.Task{}
	}
	r.t, r.task, r.extra, r.out = t, task, extra, &r.page
	r.environment = exec.Environment{Context: r.outermost, Filters: t.lang.filters, Tests: t.lang.tests}
	r.Evaluator = exec.Evaluator{Config: t.lang.config, Environment: &r.environment}
}

// release drops what the rendering held on to, but keeps the memory of its text.
func (r *rendering) release() {
	if r.page.Cap() > maxPage {
		return
	}
	if len(r.names) > 1 {
		clear(r.names)
		r.names[stateName] = r
	}
	r.page.Reset()
	r.t, r.task, r.extra, r.turns, r.last, r.rand, r.failed, r.ends = nil, nil, nil, nil, nil, nil, nil, nil
	r.rounds, r.work, r.grown, r.depth, r.before, r.block = 0, 0, 0, 0, 0, ""
	renderings.Put(r)
}

// of is the rendering that a filter works for.
func of(e *exec.Evaluator) *rendering {
	v, _ := e.Environment.Context.Get(stateName)
	return v.(*rendering)
}

func (r *rendering) random(n int) int {
	if r.rand == nil {
		r.rand = rand.New(rand.NewPCG(uint64(r.task.Seed), uint64(len(r.task.Turns))))
	}
	return r.rand.IntN(n)
}

func (r *rendering) run(steps []step) error {
	for _, s := range steps {
		if err := s(r); err != nil {
			return err
		}
	}
	return nil
}

// scope holds the names that tags have set.
func (r *rendering) scope() *exec.Context { return r.environment.Context }

// within runs the steps in a scope of their own.
func (r *rendering) within(scope *exec.Context, steps []step) error {
	outer := r.environment.Context
	r.environment.Context = scope
	err := r.run(steps)
	r.environment.Context = outer
	return err
}

// capture is within, and returns the text instead of adding it to the page.
func (r *rendering) capture(scope *exec.Context, steps []step) (string, error) {
	outer, before := r.out, r.before
	r.out, r.before = new(bytes.Buffer), before+outer.Len()
	err := r.within(scope, steps)
	text := r.out.String()
	r.out, r.before = outer, before
	return text, err
}

func (r *rendering) write(s string) error {
	if r.before+r.out.Len()+len(s) > maxText {
		return errTooLong
	}
	if err := r.spend(cost(s)); err != nil {
		return err
	}
	r.out.WriteString(s)
	return nil
}

// print writes a value as templates do.
func (r *rendering) print(at *tokens.Token, v *exec.Value) error {
	if v.IsNil() || isAbsent(v) {
		return nil
	}
	if v.IsString() {
		return r.write(v.String())
	}
	s, err := show(v.Interface())
	if err != nil {
		return r.fail(failure(at, err))
	}
	return r.write(s)
}

// value is that of a whole expression.
func (r *rendering) value(e eval) (*exec.Value, error) {
	v := e(r)
	if v.IsError() {
		return nil, r.fail(v)
	}
	return v, nil
}

// truthy reports whether a value counts as true; a macro or a function does.
func truthy(v *exec.Value) bool { return v.IsTrue() || v.IsCallable() }

// valueIn is that of a whole expression in a scope of its own.
func (r *rendering) valueIn(scope *exec.Context, e eval) (*exec.Value, error) {
	outer := r.environment.Context
	r.environment.Context = scope
	v, err := r.value(e)
	r.environment.Context = outer
	return v, err
}

// fail notes an error that nothing in the template can guard against.
func (r *rendering) fail(v *exec.Value) error {
	if r.failed == nil {
		r.failed = v
	}
	return v
}

func (r *rendering) countRound() error {
	if r.rounds++; r.rounds > maxRounds {
		return fmt.Errorf("the loops take more than %d rounds", maxRounds)
	}
	return r.spend(roundWork)
}

// spend counts work.
func (r *rendering) spend(n int) error {
	if r.work += n; r.work > maxWork {
		return errWork
	}
	return nil
}

// spent is the error of work that is too much, at a place in an expression:
// nothing guards against it.
func (r *rendering) spent(t *tokens.Token, n int) *exec.Value {
	if err := r.spend(n); err != nil {
		v := failure(t, err)
		_ = r.fail(v)
		return v
	}
	return nil
}

// grow counts what a method puts into a list or an object, so that none that is
// put into itself over and over becomes too large to look at; a text is one part
// for each 64 bytes.
func (r *rendering) grow(va *exec.VarArgs) error {
	room, nothing := maxGrown-r.grown, space{}
	fits := true
	for _, a := range va.Args {
		fits = fits && !nothing.in(a, &room)
	}
	for _, a := range va.KwArgs {
		fits = fits && !nothing.in(a, &room)
	}
	if r.grown = maxGrown - room; !fits {
		return fmt.Errorf("lists and objects have grown by more than %d parts or %d MiB", maxGrown, maxText/maxParts*maxGrown>>20)
	}
	return nil
}

// test calls a test of the library or of ours.
func (r *rendering) test(f exec.TestFunction, in *exec.Value, va *exec.VarArgs) (bool, error) {
	switch f := f.(type) {
	case testFunction:
		return f(r.scope(), in, va)
	case func(*exec.Evaluator, *exec.Value, *exec.VarArgs) (bool, error):
		return f(&r.Evaluator, in, va)
	}
	return false, fmt.Errorf("a %T is no test", f)
}

// variable looks a name up when it is needed: a tag may have set it.
func (p *exprs) variable(t *tokens.Token) eval {
	name, settable := t.Val, p.s.sets[t.Val]
	fetch := sourceOf(name)
	if global, ok := p.s.lang.globals[name]; ok && fetch == nil {
		fetch = func(*rendering) any { return global }
	}
	return func(x *rendering) *exec.Value {
		if settable {
			if v, ok := x.scope().Get(name); ok {
				if c, is := v.(*cell); is {
					v = c.v
				}
				return placed(t, exec.ToValue(v))
			}
		}
		if v, ok := x.extra[name]; ok {
			return exec.ToValue(v)
		}
		if fetch == nil {
			return failure(t, &missingError{field: name, msg: name + " has no value here"})
		}
		return exec.AsValue(fetch(x))
	}
}

// source brings a value of a rendering.
type source func(*rendering) any

// sourceOf is the source of a name of the environment; nil for other names.
func sourceOf(name string) source {
	switch name {
	case "id":
		return func(r *rendering) any { return r.task.ID }
	case "row":
		return func(r *rendering) any { return r.task.Row }
	case "trial":
		return func(r *rendering) any { return r.task.Trial }
	case "seed":
		return func(r *rendering) any { return int(r.task.Seed) }
	case "params":
		return func(r *rendering) any { return paramObject(r.t.params) }
	case "item":
		return func(r *rendering) any {
			v := r.task.Item.Any()
			if m, ok := v.(map[string]any); ok {
				return itemObject(m)
			}
			return v
		}
	case "turns":
		return func(r *rendering) any {
			if r.turns == nil {
				r.turns = make([]turnObject, len(r.task.Turns))
				for i := range r.turns {
					v := viewTurn(&r.task.Turns[i])
					r.turns[i] = v.object()
				}
			}
			return r.turns
		}
	case "last":
		return func(r *rendering) any {
			if r.last == nil {
				var v turn
				if t := r.task.Last(); t != nil {
					v = viewTurn(t)
				}
				r.last = v.object()
			}
			return r.last
		}
	case "rounds":
		return ofRole(name, func(t *matrix.Task, role string) any { return t.Rounds(role) })
	case "turn":
		return ofRole(name, func(t *matrix.Task, role string) any { return newest(t, role).object() })
	case "first":
		return ofRole(name, func(t *matrix.Task, role string) any { return oldest(t, role).object() })
	case "turns_of":
		return ofRole(name, func(t *matrix.Task, role string) any { return turnObjects(turnsOf(t, role)) })
	}
	return nil
}

// roleFunction is a function of templates that looks at the task.
type roleFunction func(*matrix.Task, *exec.VarArgs) (*exec.Value, error)

// ofRole is the source of a function that takes the name of a role.
func ofRole(name string, f func(t *matrix.Task, role string) any) source {
	var call any = roleFunction(func(t *matrix.Task, va *exec.VarArgs) (*exec.Value, error) {
		if len(va.Args) != 1 || !va.Args[0].IsString() {
			return nil, fmt.Errorf("%s takes the name of a role", name)
		}
		return exec.AsValue(f(t, va.Args[0].String())), nil
	})
	return func(*rendering) any { return call }
}
