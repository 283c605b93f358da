package lang

import (
	"fmt"
	"slices"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// macro is {% macro %}.
type macro struct {
	name          string
	params        []param
	rest, options string // names of *args and **kwargs, if it has them
	body          []step
}

type param struct {
	name      string
	otherwise eval // nil: it must be given
}

// caller prints the body of {% call %}.
type caller = func(*exec.VarArgs) *exec.Value

func (b *builder) macro(p *exprs) step {
	m := &macro{name: p.want(tokens.Name, "the name of the macro").Val}
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
	p.whole(func() eval { return nil })
	m.body = b.last(p, "endmacro")
	return func(r *rendering) error {
		scope := r.scope()
		scope.Set(m.name, exec.Macro(func(va *exec.VarArgs) *exec.Value { return m.call(r, scope, va) }))
		return nil
	}
}

// call runs the macro in a scope inside the one that it was made in.
func (m *macro) call(r *rendering, outer *exec.Context, va *exec.VarArgs) *exec.Value {
	scope := outer.Inherit()
	if err := m.bind(r, outer, scope, va); err != nil {
		return exec.AsValue(err)
	}
	if r.caller != nil {
		scope.Set("caller", r.caller)
		r.caller = nil
	}
	if r.depth++; r.depth > maxMacros {
		return exec.AsValue(fmt.Errorf("macros call each other more than %d deep", maxMacros))
	}
	if err := r.countRound(); err != nil {
		return exec.AsValue(err)
	}
	text, err := r.capture(scope, m.body)
	if err != nil {
		return exec.AsValue(err)
	}
	r.depth-- // not after an error: who guards against it must not begin anew
	return exec.AsSafeValue(text)
}

// bind gives the arguments their names.
func (m *macro) bind(r *rendering, outer, scope *exec.Context, va *exec.VarArgs) error {
	if len(va.Args) > len(m.params) && m.rest == "" {
		return fmt.Errorf("macro '%s' received %d arguments but expected only %d", m.name, len(va.Args), len(m.params))
	}
	rest, options := []any{}, map[string]any{}
	for i, a := range va.Args {
		if i < len(m.params) {
			scope.Set(m.params[i].name, a)
		} else {
			rest = append(rest, a.Interface())
		}
	}
	for name, a := range va.KwArgs {
		i := slices.IndexFunc(m.params, func(p param) bool { return p.name == name })
		switch {
		case i >= 0 && i < len(va.Args):
			return fmt.Errorf("macro '%s' received '%s' argument twice", m.name, name)
		case i >= 0:
			scope.Set(name, a)
		case m.options != "":
			options[name] = a.Interface()
		default:
			return fmt.Errorf("macro '%s' takes no keyword argument '%s'", m.name, name)
		}
	}
	for _, p := range m.params[min(len(va.Args), len(m.params)):] {
		if va.KwArgs[p.name] != nil {
			continue
		}
		if p.otherwise == nil {
			return fmt.Errorf("macro '%s' is called without its argument %s", m.name, p.name)
		}
		inner := r.environment.Context
		r.environment.Context = outer
		v, err := r.value(p.otherwise)
		r.environment.Context = inner
		if err != nil {
			return err
		}
		scope.Set(p.name, v)
	}
	if m.rest != "" {
		scope.Set(m.rest, rest)
	}
	if m.options != "" {
		scope.Set(m.options, options)
	}
	return nil
}

// call is {% call %}: it prints what a macro makes of its body.
func (b *builder) call(p *exprs) step {
	if p.is(tokens.LeftParenthesis) {
		p.fail(p.at(p.i), "{% call(x) ... %} is not supported: the body is given no values")
	}
	at := p.at(0)
	e := p.whole(p.tuple)
	steps := b.last(p, "endcall")
	return func(r *rendering) error {
		scope := r.scope()
		r.caller = func(*exec.VarArgs) *exec.Value {
			text, err := r.capture(scope.Inherit(), steps)
			if err != nil {
				return exec.AsValue(err)
			}
			return exec.AsSafeValue(text)
		}
		v, err := r.value(e)
		r.caller = nil
		if err != nil {
			return err
		}
		return r.print(at, v)
	}
}
