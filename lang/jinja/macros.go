package jinja

import (
	"errors"
	"fmt"
)

// macro is {% macro %}, or the body of {% call %} as what it calls sees it.
type macro struct {
	at              int // its name
	name            string
	params          []param
	rest, options   int  // numbers of the names of the arguments beyond params; -1: it takes none
	calls           bool // it names its caller
	caller          int  // the number of that name
	varargs, kwargs int
	body            []step
}

type param struct {
	name      string
	number    int
	otherwise eval // nil: none
}

// sees notes that the body looks at a name. Where that is varargs or kwargs, the
// macro takes more arguments than those of params.
func (m *macro) sees(name string) {
	switch {
	case name == "caller":
		m.calls = true
	case name == "varargs" && m.rest < 0:
		m.rest = m.varargs
	case name == "kwargs" && m.options < 0:
		m.options = m.kwargs
	}
}

func (p *parser) newMacro(name token) *macro {
	return &macro{at: name.at, name: name.val, rest: -1, options: -1,
		caller: p.define("caller"), varargs: p.define("varargs"), kwargs: p.define("kwargs")}
}

func (p *parser) macro() step {
	name := p.wantName("the name of the macro")
	number := p.define(name.val)
	m := p.newMacro(name)
	p.parameters(m)
	p.over()
	p.function(m, "endmacro")
	return func(r *rendering) error {
		r.scope.set(number, &closure{m, r.scope})
		return nil
	}
}

// call is {% call %}: it prints what a macro makes of its body.
func (p *parser) call(tag token) step {
	at := p.tag.at
	m := p.newMacro(token{at: tag.at, val: "caller"})
	if p.now().is("(") {
		p.parameters(m)
	}
	e := p.whole()
	p.function(m, "endcall")
	return func(r *rendering) error {
		r.caller = &closure{m, r.scope}
		v, err := e(r)
		lost := r.caller != nil
		r.caller = nil
		switch {
		case err != nil:
			return err
		case lost:
			return placed(at, errors.New("no macro is called: the body of {% call %} would be lost"))
		}
		return r.print(at, v)
	}
}

// parameters parses the names of the arguments, brackets included.
func (p *parser) parameters(m *macro) {
	p.want("(")
	for p.err == nil && !p.now().is(")") {
		star := p.now()
		if star.is("*", "**") {
			p.i++
		}
		name := p.wantName("the name of an argument")
		number := p.define(name.val)
		switch {
		case star.is("*") && m.rest < 0:
			m.rest = number
		case star.is("**") && m.options < 0:
			m.options = number
		case star.is("*", "**"):
			p.fail(star.at, "a macro has at most one argument with %s", star.val)
		case p.take("="):
			m.params = append(m.params, param{name.val, number, p.perhaps(p.expression)})
		default:
			m.params = append(m.params, param{name.val, number, nil})
		}
		if !p.take(",") {
			break
		}
	}
	if t := p.now(); p.err == nil && !t.is(")") {
		p.unexpected("a comma or )")
	}
	p.i++
}

// function makes the body of a macro.
func (p *parser) function(m *macro, end string) {
	loops, asks := p.loops, p.asks
	p.loops, p.asks = 0, false
	p.macros = append(p.macros, m)
	p.made++
	p.unsure++
	m.body = p.last(end)
	p.unsure--
	p.macros = p.macros[:len(p.macros)-1]
	p.loops, p.asks = loops, asks
}

// closure is a macro as a value: it sees the names of where it was made.
type closure struct {
	*macro
	scope *scope
}

// Kind names the type.
func (*closure) Kind() string { return "a function" }

// attribute is what a template may ask a macro.
func (c *closure) attribute(name string) (any, bool) {
	switch name {
	case "name":
		return c.name, true
	case "arguments":
		names := make(Tuple, len(c.params))
		for i, p := range c.params {
			names[i] = p.name
		}
		return names, true
	case "catch_varargs":
		return c.rest >= 0, true
	case "catch_kwargs":
		return c.options >= 0, true
	case "caller":
		return c.calls, true
	}
	return nil, false
}

// nested counts how deep macros and recursive loops are in each other.
func (r *rendering) nested(f func() (string, error)) (any, error) {
	r.depth++
	defer func() { r.depth-- }()
	err := r.countRound()
	if r.depth > maxMacros {
		err = fatal(fmt.Errorf("macros and recursive loops call each other more than %d deep", maxMacros))
	}
	if err != nil {
		return nil, err
	}
	return f()
}

// call runs the macro in a scope of its own. Nothing guards against an error of
// its body, or against a limit.
func (c *closure) call(r *rendering, a *Args) (any, error) {
	caller := r.caller
	r.caller = nil
	s := &scope{outer: c.scope}
	out, err := r.nested(func() (string, error) {
		if err := c.bind(r, s, a); err != nil {
			return "", err
		}
		if caller != nil {
			if !c.calls {
				return "", fmt.Errorf("macro '%s' does not print caller(): the body of {%% call %%} would be lost", c.name)
			}
			s.set(c.macro.caller, caller)
		}
		text, err := r.capture(s, c.body)
		return text, fatal(err)
	})
	if isFatal(err) {
		return nil, placed(c.at, err)
	}
	return out, err
}

// bind gives the arguments their names.
func (c *closure) bind(r *rendering, s *scope, a *Args) error {
	rest := Tuple{}
	for i, v := range a.List {
		if i < len(c.params) {
			s.set(c.params[i].number, v)
		} else {
			rest = append(rest, v)
		}
	}
	if len(rest) > 0 && c.rest < 0 {
		return fmt.Errorf("macro '%s' received %d arguments but expected only %d", c.name, len(a.List), len(c.params))
	}
	options := NewDict()
	for _, n := range a.Named {
		options.Set(n.Name, n.Value)
	}
	for i, p := range c.params {
		v, named := options.get(p.name)
		if named {
			options.remove(p.name)
		}
		switch {
		case i < len(a.List) && named:
			return fmt.Errorf("macro '%s' received '%s' argument twice", c.name, p.name)
		case i < len(a.List):
		case named:
			s.set(p.number, v)
		case p.otherwise == nil:
			s.set(p.number, fmt.Errorf("macro '%s' is called without its argument %s", c.name, p.name))
		default:
			v, err := r.valueIn(s, p.otherwise)
			if err != nil {
				return fatal(err)
			}
			s.set(p.number, v)
		}
	}
	if options.Len() > 0 && c.options < 0 {
		return fmt.Errorf("macro '%s' takes no keyword argument '%s'", c.name, options.names()[0])
	}
	if c.rest >= 0 {
		s.set(c.rest, rest)
	}
	if c.options >= 0 {
		s.set(c.options, options)
	}
	return nil
}
