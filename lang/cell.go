package lang

import (
	"fmt"
	"slices"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// cell is what a name stands for where that is a list or an object: methods
// change it wherever the name was set.
type cell struct {
	v   any
	own bool // v is a list that nothing else appends to
}

// value is what everybody else may have: what is appended to it is not in the cell.
func (c *cell) value() any {
	if l, ok := c.v.([]any); ok {
		return slices.Clip(l)
	}
	return c.v
}

func let(scope *exec.Context, name string, v any) {
	switch exec.ToValue(v).Interface().(type) {
	case nil, string, bool, int, float64, space:
	default:
		v = &cell{v: v}
	}
	scope.Set(name, v)
}

// change is what a method does to what a name stands for.
func change(name string) setter {
	return func(x *rendering, v any) error {
		old, ok := x.scope().Get(name)
		if c, is := old.(*cell); is {
			*c = cell{v: v}
		} else if !ok { // of the row, or of the task
			let(x.outermost, name, v)
		} else {
			let(x.scope(), name, v)
		}
		return nil
	}
}

// appendTo is name.append(x), in time that the length of the list does not tell;
// where the name stands for no list of the template, it is what otherwise does.
func appendTo(name string, otherwise eval, args arguments, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		v, _ := x.scope().Get(name)
		c, _ := v.(*cell)
		if c == nil || len(args.list) != 1 || len(args.named) > 0 {
			return otherwise(x)
		}
		if _, ok := exec.ToValue(c.v).Interface().([]any); !ok {
			return otherwise(x)
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		err := x.grow(va)
		l, _ := exec.ToValue(c.v).Interface().([]any) // the argument may have changed it
		if len(l) >= maxParts {
			err = manyParts("the list")
		}
		if err != nil {
			return failure(t, fmt.Errorf("append: %w", err))
		}
		if !c.own {
			l = slices.Clip(l)
		}
		c.v, c.own = append(l, unwrap(va.Args[0])), true
		return exec.AsValue(nil)
	}
}
