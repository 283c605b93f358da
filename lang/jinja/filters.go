package jinja

import (
	"errors"
	"slices"

	"matrix/lang/internal/calc"
)

// filter is a filter: f takes a bare value and its arguments in their places.
type filter struct {
	min, max int // arguments
	names    []string
	notNull  bool // nothing (none) is an error
	f        func(r *rendering, in any, g *boundArgs) (any, error)
	raw      func(r *rendering, in any, a *Args) (any, error) // in the place of f: takes everything as it is
}

// filterNamed finds a filter.
func filterNamed(name string) (filter, bool) {
	for _, table := range []map[string]filter{numberFilters, textFilters, listFilters, htmlFilters} {
		if f, ok := table[name]; ok {
			return f, true
		}
	}
	f, ok := valueFilters()[name]
	return f, ok
}

func filterNames() []string {
	return slices.Sorted(slices.Values(slices.Concat(keysOf(numberFilters), keysOf(textFilters), keysOf(listFilters), keysOf(htmlFilters), keysOf(valueFilters()))))
}

// valueFilters are those of any value, and those that know other filters or tests.
func valueFilters() map[string]filter {
	fallback := filter{max: 2, names: []string{"default_value", "boolean"}, raw: defaultFilter}
	return map[string]filter{
		"default": fallback, "d": fallback,
		"attr": {min: 1, max: 1, names: []string{"name"}, notNull: true, f: func(_ *rendering, in any, g *boundArgs) (any, error) { return fieldOf(in, g.text(0, "")) }},
		"tojson": {max: 3, names: []string{"indent", "ensure_ascii", "sort_keys"}, f: func(_ *rendering, in any, g *boundArgs) (any, error) {
			w := &jsonWriter{indent: g.number(0, -1), ascii: g.flag(1), unsorted: g.value(2) != nil && !g.flag(2)}
			s, err := w.text(in)
			return safe(s), err
		}},
		"pprint":     {max: 1, f: func(_ *rendering, in any, _ *boundArgs) (any, error) { return (&jsonWriter{indent: 2}).text(in) }},
		"map":        {max: -1, notNull: true, raw: mapped},
		"select":     {max: -1, notNull: true, raw: selecting(true, false)},
		"reject":     {max: -1, notNull: true, raw: selecting(false, false)},
		"selectattr": {max: -1, notNull: true, raw: selecting(true, true)},
		"rejectattr": {max: -1, notNull: true, raw: selecting(false, true)},
	}
}

var errNone = errors.New("there is nothing (none); give a value for it: x | default(...)")

func (f *filter) call(r *rendering, in any, a *Args) (any, error) {
	if f.notNull && bare(in) == nil {
		return nil, errNone
	}
	if f.raw != nil {
		return f.raw(r, in, a)
	}
	g, err := bind(a, f.names, f.min, f.max)
	if err != nil {
		return nil, err
	}
	out, err := f.f(r, bare(in), g)
	if err == nil {
		err = g.err
	}
	return out, err
}

// filter parses a filter from its name on.
func (p *parser) filter(in eval) eval {
	t := p.wantName("the name of a filter")
	f, ok := filterNamed(t.val)
	if !ok && p.err == nil {
		p.fail(t.at, "%s", unknown("filter", t.val, filterNames()))
	}
	var args arguments
	if p.take("(") {
		p.checkNamed(t.val)
		args = p.arguments()
	}
	if msg := f.unfit(&args); msg != "" {
		p.fail(t.at, "the filter %s %s", t.val, msg)
	}
	lenient := t.word("default", "d")
	return func(r *rendering) (any, error) {
		v, a, err := r.operands(in, &args, lenient)
		if err != nil {
			return nil, err
		}
		if err := r.spend(filterCost(t.val, v)); err != nil {
			return nil, placed(t.at, err)
		}
		out, err := f.call(r, v, a)
		if err == nil {
			err = r.spend(filterCost(t.val, out))
		}
		return out, placed(t.at, err)
	}
}

// operands are what a filter or a test works on. Of one that is lenient, what cannot
// be had is absent.
func (r *rendering) operands(in eval, args *arguments, lenient bool) (v any, a *Args, err error) {
	if v, err = in(r); err != nil {
		if !lenient || isFatal(err) {
			return nil, nil, err
		}
		v = Absent
	}
	a, err = args.values(r)
	return v, a, err
}

// checkNamed checks the filter or the test that a filter is given by name: map('upper'),
// selectattr('x', 'defined').
func (p *parser) checkNamed(filter string) {
	i := p.i
	switch filter {
	case "map", "select", "reject":
	case "selectattr", "rejectattr":
		if p.at(i).kind != text || !p.at(i+1).is(",") {
			return
		}
		i += 2
	default:
		return
	}
	t := p.at(i)
	if t.kind != text || !p.at(i+1).is(",", ")") { // more is made of the text
		return
	}
	if _, ok := filterNamed(t.val); !ok && filter == "map" {
		p.fail(t.at, "%s", unknown("filter", t.val, filterNames()))
	}
	if _, ok := testNamed(t.val); !ok && filter != "map" {
		p.fail(t.at, "%s", unknown("test", t.val, testNames()))
	}
}

// unfit says what is wrong with the arguments, as far as their number tells.
func (f *filter) unfit(a *arguments) string {
	if f.max < 0 || a.open {
		return ""
	}
	for _, n := range a.named {
		if !slices.Contains(f.names, n.name) {
			return "takes no argument named " + n.name + calc.DidYouMean(n.name, f.names)
		}
	}
	if n := len(a.list) + len(a.named); n < f.min || n > f.max {
		return takes(f.min, f.max, n)
	}
	return ""
}

// filterCost is what a filter of that name takes over a value, going in or coming
// out: those that only look at its ends take nothing.
func filterCost(name string, v any) int {
	switch name {
	case "length", "count", "first", "last", "default", "d", "random":
		return 1
	}
	return cost(v)
}

// defaultFilter is default(default_value, boolean).
func defaultFilter(_ *rendering, in any, a *Args) (any, error) {
	var by any = ""
	if v, ok := a.get("default_value"); ok {
		by = v
	} else if len(a.List) > 0 {
		by = a.List[0]
	}
	boolean, _ := a.get("boolean")
	if len(a.List) > 1 {
		boolean = a.List[1]
	}
	if bare(in) == nil || truthy(boolean) && !truthy(in) {
		return by, nil
	}
	return in, nil
}

// mapped is map(attribute=..., default=...) or map("filter", ...).
func mapped(r *rendering, in any, a *Args) (any, error) {
	l, err := listOf(bare(in))
	if err != nil {
		return nil, err
	}
	one := func(v any) (any, error) { return nil, errors.New("map wants the name of a filter, or attribute=...") }
	if path, ok := a.get("attribute"); ok {
		instead, has := a.get("default")
		one = func(v any) (any, error) {
			v, err := attribute(v, bare(path))
			if has && (err != nil || v == Absent) {
				return instead, nil
			}
			return v, err
		}
	} else if len(a.List) > 0 {
		name, _ := bare(a.List[0]).(string)
		f, ok := filterNamed(name)
		if !ok {
			return nil, errors.New(unknown("filter", name, filterNames()))
		}
		given := &Args{List: a.List[1:], Named: a.Named}
		one = func(v any) (any, error) { return f.call(r, v, given) }
	}
	out := make([]any, len(l))
	for i, v := range l {
		if out[i], err = one(v); err != nil {
			return nil, err
		}
		if err := r.spend(cost(out[i])); err != nil {
			return nil, err
		}
	}
	return &List{out}, nil
}

// selecting is select and reject, which keep the elements of which a test holds or
// does not hold, and selectattr and rejectattr, which test a field of them. Without
// a test, the value itself counts. A missing field is none.
func selecting(keep, field bool) func(r *rendering, in any, a *Args) (any, error) {
	return func(r *rendering, in any, a *Args) (any, error) {
		args := a.List
		var path any
		if field {
			if len(args) == 0 {
				return nil, errors.New("it wants the name of a field")
			}
			path, args = bare(args[0]), args[1:]
		}
		holds, asks := func(v any) (bool, error) { return truthy(v), nil }, false
		if len(args) > 0 {
			name, _ := bare(args[0]).(string)
			t, ok := testNamed(name)
			if !ok {
				return nil, errors.New(unknown("test", name, testNames()))
			}
			var with any
			if len(args) > 1 {
				with = bare(args[1])
			}
			holds = func(v any) (bool, error) { return t.f(r, v, with) }
			asks = name == "defined" || name == "undefined"
		}
		l, err := listOf(bare(in))
		if err != nil {
			return nil, err
		}
		var out []any
		for _, v := range l {
			x := v
			if field {
				if x, err = attribute(v, path); err != nil {
					if x = nil; asks {
						x = Absent
					}
				}
			}
			is, err := holds(x)
			if err != nil {
				return nil, err
			}
			if is == keep {
				out = append(out, v)
			}
		}
		return &List{out}, nil
	}
}
