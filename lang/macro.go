package lang

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// macro is {% macro %}, or the body of {% call %} as what it calls sees it.
type macro struct {
	at            *tokens.Token // its name
	name          string
	params        []param
	rest, options string // names of the arguments beyond params, if it takes them
	calls         bool   // it names its caller
	body          []step
}

type param struct {
	name      string
	otherwise eval // nil: none
}

func (b *builder) macro(p *exprs) step {
	name := p.want(tokens.Name, "the name of the macro")
	m := &macro{at: name, name: name.Val}
	p.params(m)
	p.whole(func() eval { return nil })
	b.function(m, p, "endmacro")
	return func(r *rendering) error {
		r.scope().Set(m.name, m.made(r))
		return nil
	}
}

// call is {% call %}: it prints what a macro makes of its body.
func (b *builder) call(p *exprs) step {
	at := p.at(0)
	m := &macro{at: p.at(1), name: "caller"}
	if p.is(tokens.LeftParenthesis) {
		p.params(m)
	}
	e := p.whole(p.tuple)
	b.function(m, p, "endcall")
	return func(r *rendering) error {
		r.caller = m.made(r)
		v, err := r.value(e)
		lost := r.caller != nil
		r.caller = nil
		switch {
		case err != nil:
			return err
		case lost:
			return r.fail(failure(at, errors.New("no macro is called: the body of {% call %} would be lost")))
		}
		return r.print(at, v)
	}
}

// params parses the names of the arguments, brackets included.
func (p *exprs) params(m *macro) {
	p.want(tokens.LeftParenthesis, "(")
	for p.err == nil && !p.is(tokens.RightParenthesis) {
		star := p.at(p.i)
		if p.is(tokens.Multiply, tokens.Power) {
			p.i++
		}
		name := p.want(tokens.Name, "the name of an argument")
		switch {
		case star.Type == tokens.Multiply && m.rest == "":
			m.rest = name.Val
		case star.Type == tokens.Power && m.options == "":
			m.options = name.Val
		case star != name:
			p.fail(star, "a macro has at most one argument with "+star.Val)
		case p.take(tokens.Assign):
			m.params = append(m.params, param{name.Val, p.expression()})
		default:
			m.params = append(m.params, param{name.Val, nil})
		}
		if !p.take(tokens.Comma) {
			break
		}
	}
	p.want(tokens.RightParenthesis, ")")
}

// function makes the body of a macro. Where it names varargs or kwargs, it takes
// more arguments than those of params.
func (b *builder) function(m *macro, p *exprs, end string) {
	from, loops := b.i, b.loops
	b.loops = 0
	m.body = b.last(p, end)
	b.loops = loops
	for _, t := range b.s.all[from:b.i] {
		switch {
		case t.Type != tokens.Name:
		case t.Val == "caller":
			m.calls = true
		case t.Val == "varargs" && m.rest == "":
			m.rest = t.Val
		case t.Val == "kwargs" && m.options == "":
			m.options = t.Val
		}
	}
}

// made is the macro as a value; it sees the names of where it is made.
func (m *macro) made(r *rendering) exec.Macro {
	scope := r.scope()
	return func(va *exec.VarArgs) *exec.Value { return m.call(r, scope.Inherit(), va) }
}

// call runs the macro in a scope of its own. Nothing guards against an error of
// its body, or against a limit.
func (m *macro) call(r *rendering, scope *exec.Context, va *exec.VarArgs) *exec.Value {
	caller := r.caller
	r.caller = nil
	r.depth++
	defer func() { r.depth-- }()
	if r.failed != nil {
		return r.failed
	}
	err := r.countRound()
	if r.depth > maxMacros {
		err = fmt.Errorf("macros call each other more than %d deep", maxMacros)
	}
	if err != nil {
		return exec.AsValue(r.fail(failure(m.at, err)))
	}
	if err := m.bind(r, scope, va); err != nil {
		return exec.AsValue(err)
	}
	if caller != nil {
		if !m.calls {
			return exec.AsValue(fmt.Errorf("macro '%s' does not print caller(): the body of {%% call %%} would be lost", m.name))
		}
		scope.Set("caller", caller)
	}
	text, err := r.capture(scope, m.body)
	if err != nil {
		return exec.AsValue(r.fail(exec.AsValue(err)))
	}
	return exec.AsSafeValue(text)
}

// bind gives the arguments their names.
func (m *macro) bind(r *rendering, scope *exec.Context, va *exec.VarArgs) error {
	rest := []any{}
	for i, a := range va.Args {
		if i < len(m.params) {
			let(scope, m.params[i].name, a)
		} else {
			rest = append(rest, a.Interface())
		}
	}
	if len(rest) > 0 && m.rest == "" {
		return fmt.Errorf("macro '%s' received %d arguments but expected only %d", m.name, len(va.Args), len(m.params))
	}
	options := map[string]any{}
	for name, a := range va.KwArgs {
		options[name] = a.Interface()
	}
	for i, p := range m.params {
		a := va.KwArgs[p.name]
		delete(options, p.name)
		switch {
		case i < len(va.Args) && a != nil:
			return fmt.Errorf("macro '%s' received '%s' argument twice", m.name, p.name)
		case i < len(va.Args):
		case a != nil:
			let(scope, p.name, a)
		case p.otherwise == nil:
			scope.Set(p.name, exec.AsValue(&missingError{field: p.name, msg: fmt.Sprintf("macro '%s' is called without its argument %s", m.name, p.name)}))
		default:
			v, err := r.valueIn(scope, p.otherwise)
			if err != nil {
				return err
			}
			let(scope, p.name, v)
		}
	}
	if len(options) > 0 && m.options == "" {
		return fmt.Errorf("macro '%s' takes no keyword argument '%s'", m.name, slices.Min(slices.Collect(maps.Keys(options))))
	}
	if m.rest != "" {
		let(scope, m.rest, tuple(rest))
	}
	if m.options != "" {
		let(scope, m.options, options)
	}
	return nil
}
