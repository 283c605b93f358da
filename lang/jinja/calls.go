package jinja

import (
	"errors"
	"fmt"
	"slices"

	"matrix/lang/internal/calc"
)

// arguments are those of a call, to be evaluated.
type arguments struct {
	list  []argument
	named []argument
	open  bool // there are *list or **object, so that their number is not known
}

type argument struct {
	name string
	eval eval
	all  bool // its elements are the arguments
}

// arguments parses up to the closing bracket.
func (p *parser) arguments() (a arguments) {
	p.elements(")", func() eval {
		t := p.now()
		switch {
		case p.take("*"):
			a.list = append(a.list, argument{eval: p.expression(), all: true})
			a.open = true
		case p.take("**"):
			a.named = append(a.named, argument{eval: p.expression(), all: true})
			a.open = true
		case t.kind == name && p.at(p.i+1).is("="):
			p.i += 2
			a.named = append(a.named, argument{name: t.val, eval: p.expression()})
		default:
			if len(a.named) > 0 {
				p.fail(t.at, "an argument without a name cannot come after one with a name")
			}
			a.list = append(a.list, argument{eval: p.expression()})
		}
		return nil
	})
	return a
}

var noArgs Args // which nobody changes

func (a *arguments) values(r *rendering) (*Args, error) {
	caller := r.caller
	r.caller = nil // it is not that of a macro called in here
	defer func() { r.caller = caller }()
	if len(a.list)+len(a.named) == 0 {
		return &noArgs, nil
	}
	out := &Args{}
	out.List = out.few[:0]
	for _, arg := range a.list {
		v, err := arg.eval(r)
		switch {
		case err != nil:
			return nil, err
		case !arg.all:
			out.List = append(out.List, v)
			continue
		}
		items, err := listOf(bare(v))
		if err != nil {
			return nil, err
		}
		if err := r.spend(cost(v)); err != nil {
			return nil, err
		}
		out.List = append(out.List, items...)
	}
	for _, arg := range a.named {
		v, err := arg.eval(r)
		switch {
		case err != nil:
			return nil, err
		case !arg.all:
			out.Named = append(out.Named, Named{arg.name, v})
			continue
		}
		all, _, ok := fieldsOf(bare(v))
		if !ok {
			return nil, fmt.Errorf("%s is not an object of named arguments", calc.Operand(bare(v)))
		}
		for k, e := range all {
			name, ok := k.(string)
			if !ok {
				return nil, fmt.Errorf("%s is not the name of an argument", calc.Operand(k))
			}
			out.Named = append(out.Named, Named{name, e})
		}
	}
	return out, nil
}

// boundArgs are the arguments of a method or a filter, in their places, all of them
// bare. The first that is not of the wanted kind makes err.
type boundArgs struct {
	args []any
	err  error
}

// bind puts the arguments into their places and counts.
func bind(a *Args, names []string, least, most int) (*boundArgs, error) {
	g := &boundArgs{}
	for _, v := range a.List {
		g.args = append(g.args, bare(v))
	}
	for _, n := range a.Named {
		i := slices.Index(names, n.Name)
		if i < 0 {
			return nil, fmt.Errorf("takes no argument named %s", n.Name)
		}
		for len(g.args) <= i {
			g.args = append(g.args, nil)
		}
		g.args[i] = bare(n.Value)
	}
	if n := len(g.args); n < least || n > most {
		return nil, errors.New(takes(least, most, n))
	}
	return g, nil
}

func takes(least, most, got int) string {
	want := fmt.Sprint(least)
	if most != least {
		want = fmt.Sprintf("%d to %d", least, most)
	}
	noun := "arguments"
	if most == 1 && least == 1 {
		noun = "argument"
	}
	return fmt.Sprintf("takes %s %s, got %d", want, noun, got)
}

// value is argument i, or nil.
func (g *boundArgs) value(i int) any {
	if i >= len(g.args) {
		return nil
	}
	return g.args[i]
}

func (g *boundArgs) text(i int, otherwise string) string {
	if i >= len(g.args) || g.args[i] == nil && i > 0 {
		return otherwise
	}
	s, ok := g.args[i].(string)
	if !ok && g.err == nil {
		g.err = fmt.Errorf("want a text, got %s", calc.Operand(g.args[i]))
	}
	return s
}

func (g *boundArgs) number(i, otherwise int) int {
	if g.value(i) == nil {
		return otherwise
	}
	n, ok := g.args[i].(int)
	if !ok && g.err == nil {
		g.err = fmt.Errorf("want a whole number, got %s", calc.Operand(g.args[i]))
	}
	return n
}

// flag is argument i as true or false.
func (g *boundArgs) flag(i int) bool { return truthy(g.value(i)) }

// callable is what can be called, beside a Func.
type callable interface {
	call(r *rendering, a *Args) (any, error)
}

func (f Func) call(_ *rendering, a *Args) (any, error) { return f(a) }

// callValue calls a function or a macro.
func callValue(e eval, args arguments, at int) eval {
	return then(at, e, func(r *rendering, v any) (any, error) {
		f, ok := v.(callable)
		if !ok {
			return nil, fmt.Errorf("%s is not a function", calc.Kind(bare(v)))
		}
		a, err := args.values(r)
		if err != nil {
			return nil, err
		}
		for _, v := range a.List {
			if err := r.spend(deepCost(v, calc.MaxWork)); err != nil {
				return nil, err
			}
		}
		return f.call(r, a)
	})
}

// callMethod calls a function that is a field, or a method of a text, a list, an
// object or a number.
func callMethod(owner eval, set setter, name string, args arguments, at int) eval {
	return then(at, owner, func(r *rendering, v any) (any, error) {
		a, err := args.values(r)
		if err != nil {
			return nil, err
		}
		if f, ok := functionOf(v, name); ok {
			return f.call(r, a)
		}
		if err := r.spend(calc.RoundWork); err != nil {
			return nil, err
		}
		return r.method(v, name, a, set)
	})
}

// functionOf is the field of that name where it can be called.
func functionOf(v any, name string) (callable, bool) {
	var field any
	switch o := v.(type) {
	case namespace:
		field, _ = o.get(name)
	case *Dict:
		field, _ = o.get(name)
	case attributes:
		field, _ = o.attribute(name)
	}
	f, ok := field.(callable)
	return f, ok
}

// method calls a method. set puts a list or an object of the template in the place
// of one that never changes: that of a row stays as it is.
func (r *rendering) method(v any, name string, a *Args, set setter) (any, error) {
	changed := func(copied any, call func() (any, error)) (any, error) {
		if err := r.spend(cost(copied)); err != nil {
			return nil, err
		}
		out, err := call()
		switch {
		case err != nil:
			return out, err
		case set == nil:
			return out, fmt.Errorf("%s would change a value that has no name", name)
		}
		return out, set(r, copied)
	}
	reads := slices.Contains(readingMethods, name)
	switch self := v.(type) {
	case absent:
		return Absent, nil
	case string, safe:
		return r.textMethod(bare(self).(string), name, a)
	case *List:
		return r.listMethod(self, name, a)
	case Tuple, Sequence:
		items, _ := itemsOf(self)
		if reads {
			return r.listMethod(&List{items}, name, a)
		}
		l := &List{slices.Clone(items)}
		return changed(l, func() (any, error) { return r.listMethod(l, name, a) })
	case *Dict:
		return r.dictMethod(self, name, a)
	case namespace:
		return r.dictMethod(self.Dict, name, a)
	case Object:
		if reads {
			return r.dictMethod(self, name, a)
		}
		d := NewDict()
		all, _, _ := fieldsOf(self)
		for k, e := range all {
			_ = d.set(k, e)
		}
		return changed(d, func() (any, error) { return r.dictMethod(d, name, a) })
	case float64:
		if name == "is_integer" && len(a.List) == 0 {
			return self == float64(int(self)), nil
		}
	case int:
		if name == "is_integer" && len(a.List) == 0 {
			return true, nil
		}
	}
	return nil, fmt.Errorf("%s has no method of that name", calc.Operand(bare(v)))
}
