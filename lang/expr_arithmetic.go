package lang

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/vm/runtime"

	"matrix/lang/internal/calc"
)

// operators are those of expressions that calculate as templates do. What is
// no number there is an error here.
var operators = map[string]string{"+": hiddenAdd, "-": "@subtract", "*": "@multiply", "/": "@divide", "%": "@modulo", "**": "@power", "^": "@power"}

// calculate is an operator on two numbers: whole ones stay whole, but for /, and
// % has the sign of the right side. A result that does not fit is an error.
func calculate(op string, a, b any) (any, error) {
	if isTime(a) || isTime(b) {
		return calculateTime(op, a, b)
	}
	_, isX := calc.Float(a)
	_, isY := calc.Float(b)
	switch {
	case isX && isY:
	case op == "+":
		return nil, fmt.Errorf("cannot add %s and %s", calc.Kind(a), calc.Kind(b))
	default:
		return nil, fmt.Errorf("cannot calculate %s %s %s", calc.Operand(a), op, calc.Operand(b))
	}
	return calc.Numbers(op, a, b)
}

func isTime(v any) bool {
	switch v.(type) {
	case time.Time, time.Duration:
		return true
	}
	return false
}

func calculateTime(op string, a, b any) (out any, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("cannot calculate %s %s %s", calc.Operand(a), op, calc.Operand(b))
		}
	}()
	switch op {
	case "+":
		return runtime.Add(a, b), nil
	case "-":
		return runtime.Subtract(a, b), nil
	case "*":
		return runtime.Multiply(a, b), nil
	case "/":
		return runtime.Divide(a, b), nil
	}
	return nil, fmt.Errorf("cannot calculate %s %s %s", calc.Operand(a), op, calc.Operand(b))
}

// total is the sum of a list; 0 of none.
func total(v any) (any, error) {
	l := anyList(v)
	if _, isText := v.(string); isText || l == nil {
		return nil, fmt.Errorf("sum: want a list, got %s", calc.Operand(v))
	}
	var sum any = 0
	for _, e := range l {
		var err error
		if sum, err = calculate("+", sum, e); err != nil {
			return nil, fmt.Errorf("sum: %w", err)
		}
	}
	return sum, nil
}

// numbersIn are the numbers in the arguments of mean and median, and in lists of them.
func numbersIn(list []float64, v any) ([]float64, error) {
	if f, ok := calc.Float(v); ok {
		return append(list, f), nil
	}
	l := anyList(v)
	switch v.(type) {
	case string, map[string]any:
		l = nil
	}
	if l == nil {
		return nil, calc.NotNumber(v)
	}
	var err error
	for _, e := range l {
		if list, err = numbersIn(list, e); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func mean(list []float64) (any, error) {
	sum := 0.0
	for _, f := range list {
		sum += f
	}
	return finite(sum / float64(len(list)))
}

func median(list []float64) (any, error) {
	slices.Sort(list)
	n := len(list)
	if n%2 == 1 {
		return finite(list[n/2])
	}
	return finite((list[n/2-1] + list[n/2]) / 2)
}

func finite(f float64) (any, error) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, calc.ErrLarge
	}
	return f, nil
}

// addNumbers puts functions in the place of the library's, which wrap around,
// make 0 of nothing, or count bytes.
func addNumbers(c *conf.Config) {
	replace := func(name string, most int, f func(a []any) (any, error)) {
		own := *builtin.Builtins[builtin.Index[name]]
		check := own.Validate
		own.Fast, own.Safe = nil, nil
		own.Func = func(a ...any) (any, error) {
			out, err := f(a)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			return out, err
		}
		own.Types, own.Validate = nil, validated(check, most)
		delete(c.Builtins, name)
		c.Disabled[name] = true
		c.Functions[name] = &own
	}
	over := func(f func([]float64) (any, error)) func(a []any) (any, error) {
		return func(a []any) (any, error) {
			list, err := numbersIn(nil, a)
			if err != nil || len(list) == 0 {
				return nil, err
			}
			return f(list)
		}
	}
	replace("mean", -1, over(mean))
	replace("median", -1, over(median))
	replace("abs", 1, func(a []any) (any, error) {
		f, ok := calc.Float(a[0])
		if !ok {
			return nil, calc.NotNumber(a[0])
		}
		if f < 0 {
			return calc.Signed("-", a[0])
		}
		return a[0], nil
	})
	replace("int", 1, func(a []any) (any, error) {
		if s, ok := a[0].(string); ok {
			n, ok, err := calc.ParseInt(s, 10)
			if err == nil && !ok {
				err = calc.NotNumber(a[0])
			}
			return n, err
		}
		f, ok := calc.Float(a[0])
		if n, isInt := a[0].(int); isInt || !ok {
			return n, errIf(!ok, calc.NotNumber(a[0]))
		}
		return calc.Truncated(f)
	})
	replace("float", 1, func(a []any) (any, error) {
		if s, ok := a[0].(string); ok {
			f, ok, err := calc.ParseFloat(s)
			if err == nil && !ok {
				err = calc.NotNumber(a[0])
			}
			return f, err
		}
		f, ok := calc.Float(a[0])
		return f, errIf(!ok, calc.NotNumber(a[0]))
	})
	for name, round := range map[string]func(float64) float64{"round": func(f float64) float64 { return calc.RoundEven(f, 0) }, "floor": math.Floor, "ceil": math.Ceil} {
		replace(name, 1, func(a []any) (any, error) {
			f, ok := calc.Float(a[0])
			if n, isInt := a[0].(int); isInt || !ok {
				return n, errIf(!ok, calc.NotNumber(a[0]))
			}
			if f = round(f) + 0; f >= math.MinInt && f < math.MaxInt { // + 0: never -0
				return int(f), nil
			}
			return f, nil
		})
	}
	replace("indexOf", 2, func(a []any) (any, error) { return position(a[0], a[1], false) })
	replace("lastIndexOf", 2, func(a []any) (any, error) { return position(a[0], a[1], true) })
	replace("repeat", 2, func(a []any) (any, error) {
		s, err := text(a[0])
		n, ok := a[1].(int)
		switch {
		case err != nil:
			return nil, err
		case !ok || n < 0:
			return nil, fmt.Errorf("want a whole number of times, got %s", calc.Operand(a[1]))
		}
		return calc.Repeat(s, n)
	})
	replace("uniq", 1, func(a []any) (any, error) { return distinct(a[0]) })
}

func errIf(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

// position is where x first or last is in v, a list or a text, of which the
// characters are counted; -1 where it is not.
func position(v, x any, last bool) (any, error) {
	switch v := v.(type) {
	case nil:
		return -1, nil
	case string:
		s, ok := x.(string)
		if !ok {
			return nil, fmt.Errorf("only a text can be in a text, this is %s", calc.Operand(x))
		}
		i := strings.Index(v, s)
		if last {
			i = strings.LastIndex(v, s)
		}
		if i < 0 {
			return i, nil
		}
		return utf8.RuneCountInString(v[:i]), nil
	case map[string]any:
		return nil, fmt.Errorf("want a list or a text, got %s", calc.Operand(v))
	}
	l := anyList(v)
	if l == nil {
		return nil, fmt.Errorf("want a list or a text, got %s", calc.Operand(v))
	}
	at := -1
	for i, e := range l {
		if runtime.Equal(e, x) {
			if at = i; !last {
				break
			}
		}
	}
	return at, nil
}

// distinct are the elements of a list, each once.
func distinct(v any) (any, error) {
	l := anyList(v)
	if _, isText := v.(string); isText || l == nil {
		return nil, fmt.Errorf("want a list, got %s", calc.Operand(v))
	}
	out, seen := []any{}, map[any]bool{}
	for _, e := range l {
		key := e
		switch e := e.(type) {
		case nil, bool, int, string:
		case float64:
			if e == math.Trunc(e) && math.Abs(e) < 1<<63 {
				key = int(e)
			}
		default:
			s, err := toJSON(e, 0)
			if err != nil {
				return nil, err
			}
			key = [1]string{s}
		}
		if !seen[key] {
			seen[key] = true
			out = append(out, e)
		}
	}
	return out, nil
}

// validated checks the arguments of a function as the library does; what it
// returns may be nil. Without a check it takes so many of any type.
func validated(check func([]reflect.Type) (reflect.Type, error), n int) func([]reflect.Type) (reflect.Type, error) {
	return func(args []reflect.Type) (reflect.Type, error) {
		t := reflect.TypeFor[any]()
		if check != nil {
			_, err := check(args)
			return t, err
		}
		if len(args) != n {
			return t, fmt.Errorf("want %d arguments, got %d", n, len(args))
		}
		return t, nil
	}
}

// cost is what it takes to go through v once, not into what its elements hold.
func cost(v any) int {
	switch v := v.(type) {
	case nil, bool, int, float64:
		return 1
	case string:
		return len(v)/calc.TextWork + 1
	case []any:
		return len(v) * calc.ElementWork
	case map[string]any:
		return len(v) * calc.ElementWork
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return r.Len() * calc.ElementWork
	case reflect.String:
		return r.Len()/calc.TextWork + 1
	}
	return 1
}
