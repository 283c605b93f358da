package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

// setter puts another value in the place of what an operand stands for.
type setter func(r *rendering, v any) error

// operand parses a value and what follows it: fields, elements, slices, calls.
func (p *parser) operand() eval {
	first, from := p.now(), len(p.uses)
	e := p.primary()
	noted := &Use{} // of the name that the operand begins with
	var set setter
	if first.kind == name && len(p.uses) > from {
		noted = p.uses[from]
		set = changeName(p.named(first.val).number)
	}
	use := noted                                 // as long as the path is literal
	var owner, ownerSet = eval(nil), setter(nil) // of the method that e may be
	field := ""
	for p.err == nil {
		t := p.now()
		switch {
		case t.is("."):
			p.i++
			key := p.now()
			p.i++
			switch key.kind {
			case name:
				if p.now().is("(") {
					if use == noted && len(use.Path) == 0 && first.kind == name {
						p.named(first.val).set = true // by the method
					}
					use.Method = true
					use = &Use{}
				} else {
					use.step(p, key.val, key.at)
				}
				owner, ownerSet, field = e, set, key.val
				set = setItem(e, constantly(key.val))
				e = getField(e, key)
			case integer:
				use.step(p, "#", key.at)
				n, _ := strconv.Atoi(key.val)
				owner, set = nil, nil
				e = getItem(e, constantly(n), key.at)
			default:
				p.i--
				p.unexpected("the name of a field")
			}
		case t.is("["):
			p.i++
			key := p.now()
			literal := p.at(p.i + 1).is("]")
			switch {
			case literal && key.kind == text:
				use.step(p, key.val, key.at)
			case literal && key.kind == integer:
				use.step(p, "#", key.at)
			default:
				use = &Use{}
			}
			owner, set = nil, nil
			e = p.subscript(e, t.at)
		case t.is("("):
			if len(use.Path) == 0 && use.Name != "" {
				use.Called = true
				if p.at(p.i+1).kind == text && p.at(p.i+2).is(")") {
					use.Argument = p.at(p.i + 1).val
				}
			}
			p.i++
			args := p.arguments()
			if owner != nil {
				e = callMethod(owner, ownerSet, field, args, t.at)
			} else {
				e = callValue(e, args, t.at)
			}
			owner, set = nil, nil
		default:
			p.follows(noted)
			return e
		}
	}
	return e
}

// changeName puts another value in the place of a name, wherever a tag has set it.
func changeName(number int) setter {
	return func(r *rendering, v any) error {
		r.change(number, v)
		return nil
	}
}

// setItem sets an element of what owner evaluates to.
func setItem(owner, key eval) setter {
	return func(r *rendering, v any) error {
		o, err := owner(r)
		if err != nil {
			return err
		}
		k, err := key(r)
		if err != nil {
			return err
		}
		ns, ok := o.(namespace)
		if !ok {
			return errors.New("it is not a namespace, it cannot change; copy it first: {% set x = ... %}")
		}
		name, ok := bare(k).(string)
		if !ok {
			return fmt.Errorf("%s is not the name of a field", calc.Operand(bare(k)))
		}
		if err := r.put(v, ns.Dict); err != nil {
			return err
		}
		ns.Set(name, v)
		return nil
	}
}

func getField(e eval, t token) eval {
	return then(t.at, e, func(_ *rendering, v any) (any, error) { return fieldOf(v, t.val) })
}

// attributes are what has fields, but is not an object.
type attributes interface{ attribute(name string) (any, bool) }

func fieldOf(v any, name string) (any, error) {
	switch o := v.(type) {
	case nil:
		return nil, fmt.Errorf("none has no field %q", name)
	case absent:
		return Absent, nil
	case Object:
		if out, ok := o.Get(name); ok {
			return out, nil
		}
		return o.Missing(name)
	case *Dict:
		return dictField(o, name)
	case namespace:
		return dictField(o.Dict, name)
	case Sequence:
		return o.Missing(name)
	case attributes:
		if out, ok := o.attribute(name); ok {
			return out, nil
		}
		return nil, fmt.Errorf("it has no field %q", name)
	}
	return nil, fmt.Errorf("%s has no field %q", calc.Kind(bare(v)), name)
}

func dictField(d *Dict, name string) (any, error) {
	if out, ok := d.get(name); ok {
		return out, nil
	}
	return nil, errors.New(calc.NoField("the object", name, d.names()))
}

func getItem(e, key eval, at int) eval {
	return binary(at, func(r *rendering, v, k any) (any, error) {
		if s, ok := v.(string); ok {
			if err := r.spend(textCost(s)); err != nil {
				return nil, err
			}
		}
		return element(v, bare(k))
	}, e, key)
}

// element is v[key].
func element(v, key any) (any, error) {
	if o, ok := v.(*Dict); ok {
		if out, ok := o.get(key); ok {
			return out, nil
		}
	}
	switch v.(type) {
	case absent:
		return Absent, nil
	case nil:
		return nil, fmt.Errorf("none has no elements")
	}
	if name, ok := key.(string); ok {
		return fieldOf(v, name)
	}
	i, ok := key.(int)
	if !ok {
		return nil, fmt.Errorf("%s is neither the name of a field nor the number of an element", calc.Kind(key))
	}
	var n int
	var at func(k int) any
	switch o := bare(v).(type) {
	case string:
		n = utf8.RuneCountInString(o)
		at = func(k int) any { return head(o[len(head(o, k)):], 1) }
	case *List:
		n, at = len(o.items), func(k int) any { return o.items[k] }
	case Tuple:
		n, at = len(o), func(k int) any { return o[k] }
	case Sequence:
		n, at = o.Len(), o.At
	case Object:
		return o.Missing(i)
	case *Dict:
		return nil, fmt.Errorf("the object has no element %d", i)
	default:
		return nil, fmt.Errorf("%s has no elements", calc.Kind(bare(v)))
	}
	k := i
	if k < 0 {
		k += n
	}
	if k >= 0 && k < n {
		return at(k), nil
	}
	switch o := v.(type) {
	case Sequence:
		return o.Missing(i)
	case string, safe:
		return nil, fmt.Errorf("the text has no character %d, it has %d", i, n)
	}
	return nil, fmt.Errorf("the list has no element %d, it has %d elements", i, n)
}

// attribute is what of a value a filter looks at: fields and elements by a path
// such as "a.b.0", or one element by its number.
func attribute(v, path any) (any, error) {
	s, ok := path.(string)
	if !ok {
		return element(v, path)
	}
	for part := range strings.SplitSeq(s, ".") {
		var err error
		if n, bad := strconv.Atoi(part); bad == nil {
			v, err = element(v, n)
		} else {
			v, err = fieldOf(v, part)
		}
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

// subscript parses v[i] and v[from:to:step] after the bracket.
func (p *parser) subscript(e eval, at int) eval {
	nothing := constantly(nil)
	parts := []eval{nothing}
	for {
		if !p.now().is(":", "]") {
			parts[len(parts)-1] = p.tuple()
		}
		if len(parts) == 3 || !p.take(":") {
			break
		}
		parts = append(parts, nothing)
	}
	p.want("]")
	if len(parts) == 1 {
		return getItem(e, parts[0], at)
	}
	for len(parts) < 3 {
		parts = append(parts, nothing)
	}
	return then(at, e, func(r *rendering, v any) (any, error) {
		bounds, err := valuesOf(r, parts)
		if err == nil {
			err = r.spend(cost(v))
		}
		if err != nil {
			return nil, err
		}
		return sliced(bare(v), bounds)
	})
}

// sliced is v[from:to:step] as Python has it; nothing of nothing.
func sliced(v any, bounds []any) (any, error) {
	if v == nil {
		return nil, nil
	}
	s, isText := v.(string)
	runes, items := []rune(s), []any(nil)
	if !isText {
		if !isList(v) {
			return nil, fmt.Errorf("cannot take a slice of %s", calc.Kind(v))
		}
		items, _ = itemsOf(v)
	}
	n := len(runes) + len(items)
	step := 1
	if b := bare(bounds[2]); b != nil {
		var ok bool
		if step, ok = b.(int); !ok || step == 0 {
			return nil, fmt.Errorf("the step of a slice is a whole number other than 0, this is %s", calc.Kind(b))
		}
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	bound := func(b any, otherwise int) (int, error) { return calc.Bound(bare(b), otherwise, n, low, high) }
	from, to := low, high
	if step < 0 {
		from, to = high, low
	}
	from, err := bound(bounds[0], from)
	if err != nil {
		return nil, err
	}
	if to, err = bound(bounds[1], to); err != nil {
		return nil, err
	}
	if isText {
		return string(stepped(runes, from, to, step)), nil
	}
	out := stepped(items, from, to, step)
	if _, ok := v.(Tuple); ok {
		return Tuple(out), nil
	}
	return &List{out}, nil
}

// stepped copies every so many elements from one up to another.
func stepped[T any](all []T, from, to, step int) []T {
	if step == 1 {
		return slices.Clone(all[min(from, to):to])
	}
	out := []T{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if out = append(out, all[i]); step > len(all) || step < -len(all) {
			break
		}
	}
	return out
}

// head is the first n characters of s, or s.
func head(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
