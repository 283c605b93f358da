package lang

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// tuple is a list in round brackets: it is a list in all but the way it is
// printed, and that % takes each of its elements for a value.
type tuple []any

// operate is an arithmetic operator of templates, as Python has it: numbers with
// numbers, + on two texts or two lists, * of a text or a list with a whole
// number, % of a text with what it prints. What is missing is no number.
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
		if x, y, ok := both[[]any](a, b); ok {
			if len(x)+len(y) > maxParts {
				return nil, manyParts("the list")
			}
			return slices.Concat(x, y), nil
		}
	case "*":
		if n, ok := b.(int); ok {
			if out, ok, err := repeat(a, n); ok {
				return out, err
			}
		}
		if n, ok := a.(int); ok {
			if out, ok, err := repeat(b, n); ok {
				return out, err
			}
		}
	case "%":
		if format, ok := a.(string); ok {
			if args, ok := b.(tuple); ok {
				return printf(format, args, nil)
			}
			if m, ok := b.(map[string]any); ok {
				return printf(format, []any{b}, m)
			}
			return printf(format, []any{b}, nil)
		}
	}
	x, isX := numeral(a)
	y, isY := numeral(b)
	if !isX || !isY {
		return nil, fmt.Errorf("cannot calculate %s %s %s", operand(a), op, operand(b))
	}
	if m, ok := x.(int); ok {
		if n, ok := y.(int); ok {
			return whole(op, m, n)
		}
	}
	f, _ := float(x)
	g, _ := float(y)
	return real(op, f, g)
}

func operand(v any) string {
	if v == nil {
		return "nothing (none)"
	}
	return kind(v)
}

func both[T any](a, b any) (x, y T, ok bool) {
	x, isX := a.(T)
	y, isY := b.(T)
	return x, y, isX && isY
}

func glue(x, y string) (any, error) {
	if len(x)+len(y) > maxText {
		return nil, errTooLong
	}
	return x + y, nil
}

func repeat(v any, n int) (out any, ok bool, err error) {
	n = max(n, 0)
	switch v := v.(type) {
	case string:
		if len(v) > 0 && n > maxText/len(v) {
			return nil, true, errTooLong
		}
		return strings.Repeat(v, n), true, nil
	case []any:
		if len(v) > 0 && n > maxParts/len(v) {
			return nil, true, manyParts("the list")
		}
		return slices.Repeat(v, n), true, nil
	}
	return nil, false, nil
}

// numeral is v as int or float64; true and false are 1 and 0, as in Python.
func numeral(v any) (any, bool) {
	switch v := v.(type) {
	case int, float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	f, ok := float(v)
	return f, ok
}

var (
	errZero  = errors.New("cannot divide by zero")
	errLarge = errors.New("the result is a number too large to keep")
)

func whole(op string, a, b int) (any, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
		return nil, errLarge
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
		return nil, errLarge
	case "*":
		return times(a, b)
	case "/":
		if b == 0 {
			return nil, errZero
		}
		return float64(a) / float64(b), nil
	case "//", "%":
		if b == 0 {
			return nil, errZero
		}
		if a == math.MinInt && b == -1 {
			return nil, errLarge
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) { // towards minus infinity, as Python does
			q, r = q-1, r+b
		}
		if op == "%" {
			return r, nil
		}
		return q, nil
	case "**":
		if b < 0 {
			return real(op, float64(a), float64(b))
		}
		out := 1
		for n := b; n > 0; n >>= 1 {
			var err error
			if n&1 == 1 {
				if out, err = times(out, a); err != nil {
					return nil, err
				}
			}
			if n > 1 {
				if a, err = times(a, a); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("unknown operator %s", op)
}

func times(a, b int) (int, error) {
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if hi != 0 || lo > math.MaxInt {
		return 0, errLarge
	}
	return a * b, nil
}

func magnitude(n int) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

func real(op string, a, b float64) (any, error) {
	var out float64
	switch op {
	case "+":
		out = a + b
	case "-":
		out = a - b
	case "*":
		out = a * b
	case "/", "//", "%":
		if b == 0 {
			return nil, errZero
		}
		switch op {
		case "/":
			out = a / b
		case "//":
			out = math.Floor(a / b)
		default:
			out = math.Mod(a, b)
			if out != 0 && (out < 0) != (b < 0) {
				out += b
			}
		}
	case "**":
		if a == 0 && b < 0 {
			return nil, errZero
		}
		out = math.Pow(a, b)
	default:
		return nil, fmt.Errorf("unknown operator %s", op)
	}
	if math.IsInf(out, 0) {
		return nil, errLarge
	}
	if math.IsNaN(out) {
		return nil, fmt.Errorf("%v %s %v is no number", a, op, b)
	}
	return out, nil
}

// signed is +v or -v.
func signed(op string, v any) (any, error) {
	n, ok := numeral(v)
	if !ok {
		return nil, fmt.Errorf("%s is no number, it has no sign", operand(v))
	}
	if op == "+" {
		return n, nil
	}
	if i, ok := n.(int); ok {
		return whole("-", 0, i)
	}
	f, _ := float(n)
	return -f, nil
}

// related is a comparison of templates. What is missing is neither less nor
// greater than anything, as in expressions.
func related(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(b, a)
	}
	c, ok, err := order(a, b)
	if err != nil {
		x, isX := asList(a)
		y, isY := asList(b)
		if !isX || !isY {
			return false, err
		}
		c, ok, err = orderLists(x, y)
		if err != nil {
			return false, err
		}
	}
	if !ok {
		return false, nil
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

func asList(v any) ([]any, bool) {
	l, ok := v.([]any)
	return l, ok
}

func orderLists(x, y []any) (int, bool, error) {
	for i := range min(len(x), len(y)) {
		if equal(x[i], y[i]) {
			continue
		}
		return order(x[i], y[i])
	}
	return compare(len(x), len(y)), true, nil
}

// equal compares by value; 1, 1.0 and true are the same number.
func equal(a, b any) bool {
	if x, ok := numeral(a); ok {
		y, ok := numeral(b)
		if !ok {
			return false
		}
		if m, n, ok := both[int](x, y); ok {
			return m == n
		}
		f, _ := float(x)
		g, _ := float(y)
		return f == g
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, func(a, b any) bool { return equal(bareOf(a), bareOf(b)) })
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			if w, ok := y[k]; !ok || !equal(bareOf(v), bareOf(w)) {
				return false
			}
		}
		return true
	}
	return false
}

func bareOf(v any) any { out, _ := bareOne(v); return out }

func contains(v, x any) (bool, error) {
	switch v := v.(type) {
	case nil:
		return false, nil // what is missing has no elements
	case string:
		s, ok := x.(string)
		if !ok {
			return false, fmt.Errorf("only a text can be in a text, this is %s", operand(x))
		}
		return strings.Contains(v, s), nil
	case map[string]any:
		k, ok := x.(string)
		_, has := v[k]
		return ok && has, nil
	}
	l := anyList(v)
	if l == nil {
		return false, fmt.Errorf("nothing can be in %s", kind(v))
	}
	return slices.ContainsFunc(l, func(e any) bool { return equal(bareOf(e), x) }), nil
}

// show is v as templates print it: as Python does, but nothing for None alone.
func show(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	}
	var b strings.Builder
	parts := maxParts
	err := repr(&b, v, &parts)
	return b.String(), err
}

// repr writes v as Python's repr does.
func repr(b *strings.Builder, v any, parts *int) error {
	if *parts--; *parts < 0 {
		return fmt.Errorf("the value has more than %d parts", maxParts)
	}
	if b.Len() > maxText {
		return errTooLong
	}
	each := func(n int, begin, end string, f func(i int) error) error {
		b.WriteString(begin)
		for i := range n {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := f(i); err != nil {
				return err
			}
		}
		b.WriteString(end)
		return nil
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
		return nil
	case string:
		b.WriteString(quoted(v))
		return nil
	case []any:
		return each(len(v), "[", "]", func(i int) error { return repr(b, v[i], parts) })
	case tuple:
		end := ")"
		if len(v) == 1 {
			end = ",)"
		}
		return each(len(v), "(", end, func(i int) error { return repr(b, v[i], parts) })
	case map[string]any:
		keys := sortedKeys(v)
		return each(len(keys), "{", "}", func(i int) error {
			b.WriteString(quoted(keys[i]) + ": ")
			return repr(b, v[keys[i]], parts)
		})
	case *exec.Dict:
		return each(len(v.Pairs), "{", "}", func(i int) error {
			if err := repr(b, v.Pairs[i].Key.Interface(), parts); err != nil {
				return err
			}
			b.WriteString(": ")
			return repr(b, v.Pairs[i].Value.Interface(), parts)
		})
	case *exec.Value:
		return repr(b, v.Interface(), parts)
	case bool, int, float64:
		b.WriteString(exec.AsValue(v).String())
		return nil
	}
	if l := anyList(v); l != nil {
		return repr(b, l, parts)
	}
	switch u := unwrap(exec.AsValue(v)).(type) {
	case nil, string, bool, int, float64, []any, map[string]any:
		return repr(b, u, parts)
	}
	if _, ok := float(v); ok {
		b.WriteString(exec.AsValue(v).String())
		return nil
	}
	return fmt.Errorf("%s cannot be printed", kind(v))
}

var pythonEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// quoted is s between quotes, as Python prints it inside a list.
func quoted(s string) string {
	s = pythonEscapes.Replace(s)
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `\'`) + "'"
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
