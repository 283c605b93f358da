package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

var listFilters = map[string]filter{
	"length": {notNull: true, f: length},
	"count":  {notNull: true, f: length},
	"first": {notNull: true, f: func(_ *rendering, in any, _ *boundArgs) (any, error) {
		return endOf(in, func(l []any) any { return l[0] })
	}},
	"last": {notNull: true, f: func(_ *rendering, in any, _ *boundArgs) (any, error) {
		return endOf(in, func(l []any) any { return l[len(l)-1] })
	}},
	"random": {f: func(r *rendering, in any, _ *boundArgs) (any, error) {
		return endOf(in, func(l []any) any { return l[r.random(len(l))] })
	}},
	"list": ofList(0, nil, func(_ *rendering, l []any, _ *boundArgs) (any, error) { return &List{slices.Clone(l)}, nil }),
	"items": {notNull: true, f: func(_ *rendering, in any, g *boundArgs) (any, error) {
		if _, _, ok := fieldsOf(in); !ok {
			return nil, fmt.Errorf("want an object, got %s", calc.Operand(in))
		}
		return read(in, "items", g)
	}},
	"reverse": {notNull: true, f: func(_ *rendering, in any, _ *boundArgs) (any, error) {
		if s, ok := in.(string); ok {
			r := []rune(s)
			slices.Reverse(r)
			return string(r), nil
		}
		l, err := listOf(in)
		l = slices.Clone(l)
		slices.Reverse(l)
		return &List{l}, err
	}},
	"join": ofList(2, []string{"d", "attribute"}, func(r *rendering, l []any, g *boundArgs) (any, error) {
		by, err := show(g.value(0))
		if err != nil {
			return nil, err
		}
		if l, err = parts(l, g.value(1)); err != nil {
			return nil, err
		}
		return calc.Joined(l, by, show)
	}),
	"sum": ofList(2, []string{"attribute", "start"}, sum),
	"min": ofList(2, []string{"case_sensitive", "attribute"}, func(r *rendering, l []any, g *boundArgs) (any, error) { return r.extreme(l, g, -1) }),
	"max": ofList(2, []string{"case_sensitive", "attribute"}, func(r *rendering, l []any, g *boundArgs) (any, error) { return r.extreme(l, g, 1) }),
	"sort": ofList(3, []string{"reverse", "case_sensitive", "attribute"}, func(r *rendering, l []any, g *boundArgs) (any, error) {
		return r.sorted(l, g.value(2), g.flag(1), g.flag(0))
	}),
	"unique": ofList(2, []string{"case_sensitive", "attribute"}, func(r *rendering, l []any, g *boundArgs) (any, error) {
		keys, err := r.keys(l, g.value(1), g.flag(0))
		seen, out := NewDict(), []any(nil)
		for i, k := range keys {
			if isList(k) { // which cannot be a key
				items, _ := itemsOf(k)
				k = Tuple(items)
			}
			if _, ok := seen.get(k); ok {
				continue
			}
			if err == nil {
				err = seen.set(k, nil)
			}
			out = append(out, l[i])
		}
		return &List{out}, err
	}),
	"dictsort": {max: 3, names: []string{"case_sensitive", "by", "reverse"}, notNull: true, f: func(r *rendering, in any, g *boundArgs) (any, error) {
		by := slices.Index([]string{"key", "value"}, g.text(1, "key"))
		if _, _, ok := fieldsOf(in); !ok || by < 0 {
			return nil, fmt.Errorf("want an object, by \"key\" or \"value\", got %s", calc.Operand(in))
		}
		pairs, err := read(in, "items", g)
		if err != nil {
			return nil, err
		}
		return r.sorted(pairs.(*List).items, by, g.flag(0), g.flag(2))
	}},
	"groupby": {min: 1, max: 3, names: []string{"attribute", "default", "case_sensitive"}, notNull: true, f: groupBy},
	"batch": ofList(2, []string{"linecount", "fill_with"}, func(_ *rendering, l []any, g *boundArgs) (any, error) {
		n, err := cut(g)
		out := []any{}
		for len(l) > 0 && err == nil {
			row := slices.Clone(l[:min(n, len(l))])
			l = l[len(row):]
			for g.value(1) != nil && len(row) < n {
				row = append(row, g.value(1))
			}
			out = append(out, &List{row})
		}
		return &List{out}, err
	}, 1),
	"slice": ofList(2, []string{"slices", "fill_with"}, func(_ *rendering, l []any, g *boundArgs) (any, error) {
		n, err := cut(g)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		each, longer := len(l)/n, len(l)%n
		for i := range out {
			size := each
			if i < longer {
				size++
			}
			column := slices.Clone(l[:size])
			l = l[size:]
			if i >= longer && g.value(1) != nil {
				column = append(column, g.value(1))
			}
			out[i] = &List{column}
		}
		return &List{out}, nil
	}, 1),
}

// ofList is a filter of a list, the characters of a text or the keys of an object.
func ofList(most int, names []string, f func(r *rendering, l []any, g *boundArgs) (any, error), least ...int) filter {
	return filter{min: append(least, 0)[0], max: most, names: names, notNull: true, f: func(r *rendering, in any, g *boundArgs) (any, error) {
		l, err := listOf(in)
		if err != nil {
			return nil, err
		}
		return f(r, l, g)
	}}
}

func length(_ *rendering, in any, _ *boundArgs) (any, error) {
	switch v := in.(type) {
	case string:
		return utf8.RuneCountInString(v), nil
	case *List:
		return len(v.items), nil
	case Tuple:
		return len(v), nil
	case interface{ Len() int }:
		return v.Len(), nil
	}
	return nil, fmt.Errorf("%s has no length", calc.Operand(in))
}

func endOf(in any, pick func([]any) any) (any, error) {
	if s, ok := in.(string); ok && len(s) > 2*utf8.UTFMax { // its ends will do
		in = head(s, 1) + s[lastRune(s):]
	}
	l, err := listOf(in)
	if len(l) == 0 {
		return Absent, err
	}
	return pick(l), nil
}

// parts are the elements, or what a path names of each.
func parts(l []any, path any) ([]any, error) {
	out := make([]any, len(l))
	for i, v := range l {
		var err error
		if path != nil {
			if v, err = attribute(v, path); err != nil {
				return nil, err
			}
		}
		out[i] = bare(v)
	}
	return out, nil
}

// keys are parts to compare by: of texts, case does not count unless it is to.
func (r *rendering) keys(l []any, path any, cased bool) ([]any, error) {
	keys, err := parts(l, path)
	for i, k := range keys {
		if s, ok := k.(string); ok && !cased {
			keys[i] = strings.ToLower(s)
		}
	}
	return keys, err
}

func sum(r *rendering, l []any, g *boundArgs) (any, error) {
	var total any = 0
	if g.value(1) != nil {
		total = g.value(1)
	}
	l, err := parts(l, g.value(0))
	for _, v := range l {
		if _, ok := calc.Number(v); !ok && !isList(v) {
			return nil, calc.NotNumber(v)
		}
		if total, err = operate("+", total, v); err != nil {
			return nil, err
		}
		if err := r.spend(cost(total)); err != nil {
			return nil, err
		}
	}
	return total, err
}

func (r *rendering) extreme(l []any, g *boundArgs, sign int) (any, error) {
	keys, err := r.keys(l, g.value(1), g.flag(0))
	if err != nil || len(keys) == 0 {
		return Absent, err
	}
	best := 0
	for i, k := range keys {
		c, err := r.mustCompare(k, keys[best])
		if err != nil {
			return nil, err
		}
		if c*sign > 0 {
			best = i
		}
	}
	return l[best], nil
}

func (r *rendering) mustCompare(a, b any) (int, error) {
	c, ok, err := r.compare(a, b)
	if err == nil && !ok {
		err = fmt.Errorf("cannot compare %s with %s", calc.Operand(a), calc.Operand(b))
	}
	return c, err
}

// sorted is the list in order, by what a path, or several with commas between them,
// name of each element.
func (r *rendering) sorted(l []any, path any, cased, reverse bool) (any, error) {
	var by [][]any
	paths := []any{path}
	if s, ok := path.(string); ok {
		paths = nil
		for part := range strings.SplitSeq(s, ",") {
			paths = append(paths, part)
		}
	}
	for _, path := range paths {
		keys, err := r.keys(l, path, cased)
		if err != nil {
			return nil, err
		}
		by = append(by, keys)
	}
	places := make([]int, len(l))
	for i := range places {
		places[i] = i
	}
	var failed error
	slices.SortStableFunc(places, func(i, j int) int {
		for _, keys := range by {
			if failed != nil {
				return 0
			}
			c, err := r.mustCompare(keys[i], keys[j])
			if failed = err; c != 0 {
				if reverse {
					c = -c
				}
				return c
			}
		}
		return 0
	})
	out := make([]any, len(l))
	for i, at := range places {
		out[i] = l[at]
	}
	return &List{out}, failed
}

// group is what groupby makes: a key, as grouper, and the list of what has it.
type group struct{ Tuple }

func (g group) attribute(name string) (any, bool) {
	i := slices.Index([]string{"grouper", "list"}, name)
	if i < 0 {
		return nil, false
	}
	return g.Tuple[i], true
}

func groupBy(r *rendering, in any, g *boundArgs) (any, error) {
	l, err := listOf(in)
	if err != nil {
		return nil, err
	}
	keys := make([]any, len(l))
	for i, v := range l {
		if keys[i], err = attribute(v, g.args[0]); err != nil {
			if g.value(1) == nil {
				return nil, err
			}
			keys[i] = g.value(1)
		}
	}
	pairs := make([]any, len(l))
	for i := range l {
		pairs[i] = Tuple{keys[i], l[i]}
	}
	all, err := r.sorted(pairs, 0, g.flag(2), false)
	if err != nil {
		return nil, err
	}
	var out []any
	fold := func(v any) any {
		if s, ok := v.(string); ok && !g.flag(2) {
			return strings.ToLower(s)
		}
		return v
	}
	for _, p := range all.(*List).items {
		key, v := p.(Tuple)[0], p.(Tuple)[1]
		if n := len(out); n > 0 && r.equal(fold(out[n-1].(group).Tuple[0]), fold(key)) {
			members := out[n-1].(group).Tuple[1].(*List)
			members.items = append(members.items, v)
			continue
		}
		out = append(out, group{Tuple{key, &List{[]any{v}}}})
	}
	return &List{out}, nil
}

// cut is the number that says how a list is to be cut up.
func cut(g *boundArgs) (int, error) {
	n := g.number(0, 0)
	switch {
	case g.err != nil:
		return 0, g.err
	case n < 1:
		return 0, fmt.Errorf("want a number above 0, got %d", n)
	case n > calc.MaxParts:
		return 0, calc.ManyParts("the list")
	}
	return n, nil
}
