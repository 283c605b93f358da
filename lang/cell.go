package lang

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// cell is what a name stands for where that is a list or an object: methods
// change it wherever the name was set.
type cell struct{ v any }

func let(scope *exec.Context, name string, v any) {
	what := v
	if e, ok := v.(*exec.Value); ok {
		what = e.Interface()
	}
	switch what.(type) {
	case nil, string, bool, int, float64, space:
	default:
		v = &cell{v}
	}
	scope.Set(name, v)
}

// change is what a method does to what a name stands for.
func change(name string) setter {
	return func(x *rendering, v any) error {
		old, ok := x.scope().Get(name)
		if c, is := old.(*cell); is {
			c.v = v
		} else if !ok { // of the row, or of the task
			let(x.outermost, name, v)
		} else {
			let(x.scope(), name, v)
		}
		return nil
	}
}

// listPlace is where the template keeps a list: set puts another there, home is the
// namespace that it is in, if any. list is nil where there is no list.
type listPlace func(x *rendering) (list []any, home space, set func([]any))

// listNamed is the place of what a name stands for.
func listNamed(name string) listPlace {
	return func(x *rendering) (list []any, home space, set func([]any)) {
		v, _ := x.scope().Get(name)
		if c, ok := v.(*cell); ok {
			list, _ = exec.ToValue(c.v).Interface().([]any)
			set = func(l []any) { c.v = l }
		}
		return list, nil, set
	}
}

// listIn is the place of a field of a namespace.
func listIn(owner eval, field string) listPlace {
	return func(x *rendering) (list []any, home space, set func([]any)) {
		if home, _ = owner(x).Interface().(space); home != nil {
			list, _ = exec.ToValue(home[field]).Interface().([]any)
		}
		return list, home, func(l []any) { home[field] = l }
	}
}

// appendTo is at.append(x), in time that the length of the list does not tell;
// where there is no list of the template, it is what otherwise does.
func appendTo(at listPlace, otherwise eval, args arguments, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		if l, _, _ := at(x); l == nil || len(args.list) != 1 || len(args.named) > 0 {
			return otherwise(x)
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		err := x.grow(va)
		l, home, set := at(x) // the argument may have changed it
		parts := maxParts
		switch {
		case err != nil:
		case len(l) >= maxParts:
			err = manyParts("the list")
		case home != nil && home.in(va.Args[0], &parts):
			err = errors.New("a namespace cannot hold itself")
		}
		if err != nil {
			return failure(t, fmt.Errorf("append: %w", err))
		}
		set(x.appended(l, unwrap(va.Args[0])))
		return exec.AsValue(nil)
	}
}

// appended is l and v. It takes the memory behind l where an earlier append made
// that and nothing was put there since: whoever has l has it unchanged.
func (r *rendering) appended(l []any, v any) []any {
	if len(l) == 0 || r.ends[&l[0]] != len(l) {
		l = slices.Clip(l)
	} else {
		delete(r.ends, &l[0])
	}
	l = append(l, v)
	if r.ends == nil {
		r.ends = map[*any]int{}
	}
	r.ends[&l[0]] = len(l)
	return l
}
