package jinja

import (
	"fmt"
	"slices"
	"strings"

	"matrix/lang/internal/calc"
)

// operate is an arithmetic operator, as Python has it: numbers with numbers, + on
// two texts or two lists, * of a text or a list with a whole number, % of a text
// with what it prints, ~ on anything. What is missing is not a number.
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
		return concat(x, y)
	case "+":
		if x, y, ok := both[string](a, b); ok {
			return concat(x, y)
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

func concat(x, y string) (any, error) {
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

// equal compares by value; 1, 1.0 and true are the same number. It counts as work:
// where that is too much the rendering ends, whatever is returned.
func (r *rendering) equal(a, b any) bool {
	a, b = bare(a), bare(b)
	if x, ok := calc.Number(a); ok {
		y, ok := calc.Number(b)
		return ok && order(x, y) == 0
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && r.spend(textCost(x)) == nil && x == y
	case Func:
		return false
	}
	if isList(a) {
		_, isTuple := a.(Tuple)
		if _, other := b.(Tuple); !isList(b) || isTuple != other {
			return false
		}
		x, _ := itemsOf(a)
		y, _ := itemsOf(b)
		return len(x) == len(y) && slices.EqualFunc(x, y, func(a, b any) bool { return r.spend(calc.ElementWork) == nil && r.equal(a, b) })
	}
	x, n, ok := fieldsOf(a)
	if !ok {
		return a == b
	}
	if _, m, ok := fieldsOf(b); !ok || m != n {
		return false
	}
	for k, v := range x {
		if w, ok := valueAt(b, k); !ok || r.spend(calc.ElementWork) != nil || !r.equal(v, w) {
			return false
		}
	}
	return true
}

// order is that of two numbers.
func order(a, b any) int {
	if x, ok := a.(int); ok {
		if y, ok := b.(int); ok {
			return calc.Compare(x, y)
		}
	}
	x, _ := calc.Float(a)
	y, _ := calc.Float(b)
	return calc.Compare(x, y)
}

// compare orders numbers, texts and lists; ok is false where one of them is nothing.
func (r *rendering) compare(a, b any) (c int, ok bool, err error) {
	a, b = bare(a), bare(b)
	if a == nil || b == nil {
		return 0, false, nil
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), true, r.spend(textCost(x))
		}
	}
	x, isX := calc.Number(a)
	y, isY := calc.Number(b)
	if isX && isY {
		return order(x, y), true, nil
	}
	if isList(a) && isList(b) {
		x, _ := itemsOf(a)
		y, _ := itemsOf(b)
		for i := range min(len(x), len(y)) {
			if !r.equal(x[i], y[i]) {
				return r.compare(x[i], y[i])
			}
		}
		return calc.Compare(len(x), len(y)), true, r.spend(calc.ElementWork)
	}
	return 0, false, fmt.Errorf("cannot compare %s with %s", calc.Kind(a), calc.Kind(b))
}

// contains reports whether x is in v.
func (r *rendering) contains(v, x any) (bool, error) {
	switch v := v.(type) {
	case nil:
		return false, nil // what is missing has no elements
	case string:
		s, ok := x.(string)
		if !ok {
			return false, fmt.Errorf("only a text can be in a text, this is %s", calc.Operand(x))
		}
		return strings.Contains(v, s), r.spend(textCost(v))
	case *Dict, Object:
		_, ok := valueAt(v, x)
		return ok, nil
	case Sequence, *List, Tuple:
		l, _ := itemsOf(v)
		return slices.ContainsFunc(l, func(e any) bool { return r.spend(calc.ElementWork) == nil && r.equal(e, x) }), nil
	}
	return false, fmt.Errorf("nothing can be in %s", calc.Kind(v))
}
