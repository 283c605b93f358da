package jinja

import (
	"errors"
	"fmt"

	"matrix/lang/internal/calc"
)

const maxRange = 100_000

// builtins are the functions that every template has.
var builtins = map[string]Func{
	"range": newSpan, "cycler": newCycler, "joiner": newJoiner,
	"dict":      func(a *Args) (any, error) { return namedValues(a) },
	"namespace": func(a *Args) (any, error) { d, err := namedValues(a); return namespace{d}, err },
}

// namedValues are the named arguments, on top of the objects that come without a
// name.
func namedValues(a *Args) (*Dict, error) {
	d := NewDict()
	for _, v := range a.List {
		all, _, ok := fieldsOf(bare(v))
		if !ok {
			return d, fmt.Errorf("want an object, got %s", calc.Operand(bare(v)))
		}
		for k, e := range all {
			if err := d.set(k, e); err != nil {
				return d, err
			}
		}
	}
	for _, n := range a.Named {
		d.Set(n.Name, n.Value)
	}
	return d, nil
}

// span is what range makes.
type span struct{ start, step, n int }

func newSpan(a *Args) (any, error) {
	n := make([]int, len(a.List))
	for i, v := range a.List {
		var ok bool
		if n[i], ok = bare(v).(int); !ok {
			return nil, errors.New("range wants whole numbers")
		}
	}
	var stop int
	s := span{step: 1}
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		s.start, stop = n[0], n[1]
	case 3:
		s.start, stop, s.step = n[0], n[1], n[2]
	default:
		return nil, errors.New("range wants (stop), (start, stop) or (start, stop, step)")
	}
	if s.step == 0 {
		return nil, errors.New("the step of range must not be 0")
	}
	for i := s.start; s.step > 0 && i < stop || s.step < 0 && i > stop; i += s.step {
		if s.n++; s.n > maxRange {
			return nil, fmt.Errorf("range has more than %d elements", maxRange)
		}
		if i+s.step > i != (s.step > 0) {
			break // beyond 64 bits
		}
	}
	return s, nil
}

// Len is the number of elements.
func (s span) Len() int { return s.n }

// At is one of them.
func (s span) At(i int) any { return s.start + i*s.step }

// Missing is an error.
func (s span) Missing(key any) (any, error) {
	if i, ok := key.(int); ok {
		return nil, fmt.Errorf("the list has no element %d, it has %d elements", i, s.n)
	}
	return nil, fmt.Errorf("a list has no field %q", key)
}

// Plain is a list.
func (s span) Plain() any {
	out := make([]any, s.n)
	for i := range out {
		out[i] = s.At(i)
	}
	return out
}

// Kind names the type.
func (s span) Kind() string { return "a list" }

// cycler is what cycler() makes: its values, one after the other, over and over.
type cycler struct {
	values []any
	at     int
}

func newCycler(a *Args) (any, error) {
	if len(a.List) == 0 {
		return nil, errors.New("cycler wants at least one value")
	}
	return &cycler{values: a.List}, nil
}

// attribute is the current value, next and reset.
func (c *cycler) attribute(name string) (any, bool) {
	switch name {
	case "current":
		return c.values[c.at], true
	case "next":
		return Func(func(*Args) (any, error) {
			now := c.values[c.at]
			c.at = (c.at + 1) % len(c.values)
			return now, nil
		}), true
	case "reset":
		return Func(func(*Args) (any, error) { c.at = 0; return nil, nil }), true
	}
	return nil, false
}

// newJoiner makes a function that returns nothing once, and then the separator.
func newJoiner(a *Args) (any, error) {
	g, err := bind(a, []string{"sep"}, 0, 1)
	if err != nil {
		return nil, err
	}
	by, used := g.text(0, ", "), false
	return Func(func(*Args) (any, error) {
		if !used {
			used = true
			return "", nil
		}
		return by, nil
	}), g.err
}
