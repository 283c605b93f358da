package jinja

import (
	"slices"

	"matrix/lang/internal/calc"
)

// operate is an arithmetic operator, as Python has it: numbers with numbers, + on
// two texts or two lists, * of a text or a list with a whole number, % of a text
// with what it prints, ~ on anything. What is missing is no number.
func operate(op string, a, b any) (any, error) {
	switch op {
	case "~":
		x, err := show(a)
		if err != nil {
			return nil, err
		}
		y, err := show(b)
		if err != nil {
			return nil, err
		}
		return glue(x, y)
	case "+":
		if x, y, ok := both[string](a, b); ok {
			return glue(x, y)
		}
		if isList(a) && isList(b) {
			x, _ := itemsOf(a)
			y, _ := itemsOf(b)
			if len(x)+len(y) > calc.MaxParts {
				return nil, calc.ManyParts("the list")
			}
			if _, _, ok := both[Tuple](a, b); ok {
				return Tuple(slices.Concat(x, y)), nil
			}
			return &List{slices.Concat(x, y)}, nil
		}
	case "*":
		n, times := b.(int)
		v := a
		if m, ok := a.(int); ok && !times {
			n, times, v = m, true, b
		}
		if !times {
			break
		}
		if s, ok := v.(string); ok {
			return calc.Repeat(s, n)
		}
		if isList(v) {
			return repeated(v, max(n, 0))
		}
	case "%":
		if format, ok := a.(string); ok {
			if args, ok := b.(Tuple); ok {
				return printf(format, args, nil)
			}
			if _, _, ok := fieldsOf(b); ok {
				return printf(format, []any{b}, b)
			}
			return printf(format, []any{b}, nil)
		}
	}
	return calc.Numbers(op, a, b)
}

func both[T any](a, b any) (x, y T, ok bool) {
	x, isX := a.(T)
	y, isY := b.(T)
	return x, y, isX && isY
}

func glue(x, y string) (any, error) {
	if len(x)+len(y) > calc.MaxText {
		return nil, calc.ErrTooLong
	}
	return x + y, nil
}

func repeated(v any, n int) (any, error) {
	items, _ := itemsOf(v)
	if len(items) > 0 && n > calc.MaxParts/len(items) {
		return nil, calc.ManyParts("the list")
	}
	items = slices.Repeat(items, n)
	if _, ok := v.(Tuple); ok {
		return Tuple(items), nil
	}
	return &List{items}, nil
}

// related is a comparison. What is missing is neither less nor greater than
// anything, as in expressions.
func (r *rendering) related(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return r.equal(a, b), nil
	case "!=":
		return !r.equal(a, b), nil
	case "in":
		return r.contains(b, a)
	}
	c, ok, err := r.compare(a, b)
	if err != nil || !ok {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}
