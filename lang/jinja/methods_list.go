package jinja

import (
	"errors"
	"fmt"
	"slices"

	"matrix/lang/internal/calc"
)

// arity is how many arguments a method takes.
type arity struct{ min, max int }

var listMethods = map[string]arity{"append": {1, 1}, "extend": {1, 1}, "insert": {2, 2}, "remove": {1, 1}, "pop": {0, 1},
	"reverse": {}, "sort": {}, "copy": {}, "clear": {}, "index": {1, 1}, "count": {1, 1}}

var dictMethods = map[string]arity{"keys": {}, "values": {}, "items": {}, "copy": {}, "clear": {},
	"get": {1, 2}, "pop": {1, 2}, "setdefault": {1, 2}, "update": {0, 1}}

// readingMethods are those that change nothing.
var readingMethods = []string{"copy", "count", "index", "keys", "values", "items", "get"}

// listMethod calls a method of a list. What takes time that its length tells counts
// as work.
func (r *rendering) listMethod(l *List, name string, a *Args) (any, error) {
	n, ok := listMethods[name]
	if !ok {
		return nil, errors.New("a list has no method of that name" + calc.DidYouMean(name, keysOf(listMethods)))
	}
	g, err := bind(a, nil, n.min, n.max)
	if err != nil {
		return nil, err
	}
	if name != "append" && name != "pop" && name != "extend" && name != "clear" {
		if err := r.spend(cost(l)); err != nil {
			return nil, err
		}
	}
	find := func(v any) (int, error) {
		i := slices.IndexFunc(l.items, func(e any) bool { return r.equal(e, v) })
		if i < 0 {
			return 0, fmt.Errorf("%s is not in the list", calc.Operand(v))
		}
		return i, nil
	}
	switch name {
	case "copy":
		return &List{slices.Clone(l.items)}, nil
	case "count":
		n := 0
		for _, e := range l.items {
			if r.equal(e, g.args[0]) {
				n++
			}
		}
		return n, nil
	case "index":
		return find(g.args[0])
	case "append":
		return nil, r.insert(l, len(l.items), a.List[0])
	case "insert":
		i := g.number(0, 0)
		if i < 0 {
			i += len(l.items)
		}
		if g.err != nil {
			return nil, g.err
		}
		return nil, r.insert(l, min(max(i, 0), len(l.items)), a.List[1])
	case "extend":
		more, err := listOf(g.args[0])
		if err == nil && g.args[0] == nil {
			err = errors.New("want a list, got nothing (none)")
		}
		if err == nil {
			err = r.spend(len(more) * calc.ElementWork)
		}
		if err == nil && len(l.items)+len(more) > calc.MaxParts {
			err = calc.ManyParts("the list")
		}
		if err == nil {
			err = r.put(Tuple(more), l)
		}
		if err == nil {
			l.items = append(l.items, more...)
		}
		return nil, err
	case "remove":
		i, err := find(g.args[0])
		if err == nil {
			l.items = slices.Delete(l.items, i, i+1)
		}
		return nil, err
	case "pop":
		return r.pop(l, g)
	case "reverse":
		slices.Reverse(l.items)
	case "sort":
		sorted, err := r.sorted(l.items, nil, true, false)
		if err == nil {
			l.items = sorted.(*List).items
		}
		return nil, err
	case "clear":
		l.items = nil
	}
	return nil, nil
}

func (r *rendering) insert(l *List, i int, v any) error {
	if len(l.items) >= calc.MaxParts {
		return calc.ManyParts("the list")
	}
	if err := r.put(v, l); err != nil {
		return err
	}
	l.items = slices.Insert(l.items, i, v)
	return nil
}

// pop takes an element out, at an end of the list without moving the others.
func (r *rendering) pop(l *List, g *boundArgs) (any, error) {
	n := len(l.items)
	i := g.number(0, n-1)
	if i < 0 {
		i += n
	}
	if g.err != nil {
		return nil, g.err
	}
	if i < 0 || i >= n {
		return nil, fmt.Errorf("the list has %d elements", n)
	}
	v := l.items[i]
	switch i {
	case n - 1:
		l.items = l.items[:i]
	case 0:
		l.items = l.items[1:]
	default:
		if err := r.spend(cost(l)); err != nil {
			return nil, err
		}
		l.items = slices.Delete(l.items, i, i+1)
	}
	return v, nil
}

// read is what the methods return that change nothing.
func read(o any, name string, g *boundArgs) (any, error) {
	all, n, _ := fieldsOf(o)
	out := make([]any, 0, n)
	switch name {
	case "get":
		if v, ok := valueAt(o, g.args[0]); ok {
			return v, nil
		}
		return g.value(1), nil
	case "copy":
		d := NewDict()
		for k, v := range all {
			_ = d.set(k, v)
		}
		return d, nil
	case "keys":
		for k := range all {
			out = append(out, k)
		}
	case "values":
		for _, v := range all {
			out = append(out, v)
		}
	case "items":
		for k, v := range all {
			out = append(out, Tuple{k, v})
		}
	}
	return &List{out}, nil
}

// dictMethod calls a method of an object: one that changes something of a *Dict alone.
func (r *rendering) dictMethod(o any, name string, a *Args) (any, error) {
	n, ok := dictMethods[name]
	if !ok {
		return nil, errors.New("an object has no method of that name" + calc.DidYouMean(name, keysOf(dictMethods)))
	}
	named := a.Named
	if name == "update" {
		a = &Args{List: a.List}
	}
	g, err := bind(a, []string{"key", "default"}, n.min, n.max)
	if err != nil {
		return nil, err
	}
	if slices.Contains(readingMethods, name) {
		if name != "get" {
			err = r.spend(cost(o))
		}
		if err != nil {
			return nil, err
		}
		return read(o, name, g)
	}
	d := o.(*Dict)
	switch name {
	case "clear":
		*d = *NewDict()
	case "setdefault":
		if old, has := d.get(g.args[0]); has {
			return old, nil
		}
		return g.value(1), r.setKey(d, g.args[0], g.value(1))
	case "pop":
		old, has := d.get(g.args[0])
		switch {
		case has:
			d.remove(g.args[0])
			return old, nil
		case len(g.args) > 1:
			return g.args[1], nil
		}
		_, err := element(d, g.args[0])
		return nil, err
	case "update":
		if len(g.args) > 0 {
			all, n, ok := fieldsOf(g.args[0])
			if !ok {
				return nil, fmt.Errorf("want an object, got %s", calc.Operand(g.args[0]))
			}
			if err := r.spend(n * calc.ElementWork); err != nil {
				return nil, err
			}
			for k, v := range all {
				if err := r.setKey(d, k, v); err != nil {
					return nil, err
				}
			}
		}
		for _, n := range named {
			if err := r.setKey(d, n.Name, n.Value); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (r *rendering) setKey(d *Dict, key, v any) error {
	if len(d.pairs) >= calc.MaxParts {
		return calc.ManyParts("the object")
	}
	if err := r.put(v, d); err != nil {
		return err
	}
	return d.set(key, v)
}
