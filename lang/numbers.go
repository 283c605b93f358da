package lang

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// toInt is Jinja2's int: what is no number in a text is the default; what is
// missing is an error, unless a default is given.
func toInt(in any, g *given) (any, error) {
	base := g.number(1, 10)
	if g.err != nil {
		return nil, g.err
	}
	switch v := in.(type) {
	case int:
		return v, nil
	case float64:
		if math.Abs(v) < 1<<62 {
			return int(v), nil
		}
		return nil, errLarge
	case bool:
		n, _ := numeral(v)
		return n, nil
	case string:
		s := strings.ReplaceAll(strings.TrimSpace(v), "_", "")
		if base != 10 {
			s = strings.TrimPrefix(strings.ToLower(s), map[int]string{2: "0b", 8: "0o", 16: "0x"}[base])
		}
		if base >= 2 && base <= 36 {
			if n, err := strconv.ParseInt(s, base, 64); err == nil {
				return int(n), nil
			}
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<62 {
			return int(f), nil
		}
		return orDefault(g, 0), nil
	}
	if len(g.args) > 0 {
		return g.args[0], nil
	}
	return nil, notNumber(in)
}

func toFloat(in any, g *given) (any, error) {
	if s, ok := in.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f, nil
		}
		return orDefault(g, 0.0), nil
	}
	if n, ok := numeral(in); ok {
		f, _ := float(n)
		return f, nil
	}
	if len(g.args) > 0 {
		return g.args[0], nil
	}
	return nil, notNumber(in)
}

func orDefault(g *given, otherwise any) any {
	if len(g.args) > 0 {
		return g.args[0]
	}
	return otherwise
}

// roundEven rounds to a number of decimal digits, halves to even, by the value
// that the number has in binary: as Python's round does.
func roundEven(f float64, digits int) float64 {
	if digits > 300 {
		return f
	}
	if digits >= 0 {
		out, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', digits, 64), 64)
		return out
	}
	scale := math.Pow10(-max(digits, -300))
	return math.RoundToEven(f/scale) * scale
}

// elements are those of a list, or the attribute of each that argument i names.
func elements(in any, g *given, i int) ([]any, error) {
	l := anyList(in)
	if l == nil && in != nil {
		return nil, fmt.Errorf("%s is no list", operand(in))
	}
	out := make([]any, len(l))
	for k, v := range l {
		out[k] = bareOf(v)
		if i < len(g.args) && g.args[i] != nil {
			x := exec.ToValue(rowValue(out[k]))
			for _, name := range attributePath(g.args[i]) {
				if x = element(x, name); x.IsError() {
					return nil, x
				}
			}
			out[k] = unwrap(x)
		}
	}
	return out, nil
}

// attributePath is "a.b.0" as its parts.
func attributePath(attribute any) []any {
	s, ok := attribute.(string)
	if !ok {
		return []any{attribute}
	}
	var path []any
	for _, part := range strings.Split(s, ".") {
		if n, err := strconv.Atoi(part); err == nil {
			path = append(path, n)
		} else {
			path = append(path, part)
		}
	}
	return path
}

func extreme(in any, g *given, sign int) (any, error) {
	keys, err := elements(in, g, 1)
	if err != nil {
		return nil, err
	}
	all, _ := elements(in, &given{}, 0)
	fold := len(g.args) == 0 || g.args[0] != true
	best := -1
	for i, k := range keys {
		if s, ok := k.(string); ok && fold {
			keys[i] = strings.ToLower(s)
		}
		if best < 0 {
			best = i
			continue
		}
		c, ok, err := order(keys[i], keys[best])
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("cannot compare %s with %s", operand(keys[i]), operand(keys[best]))
		}
		if c*sign > 0 {
			best = i
		}
	}
	if best < 0 {
		return absent{}, nil
	}
	return rowValue(all[best]), nil
}

func filterFormat(_ *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
	format, ok := unwrap(in).(string)
	if !ok {
		return exec.AsValue(fmt.Errorf("want a format as text, got %s", operand(unwrap(in))))
	}
	args := make([]any, len(va.Args))
	for i, a := range va.Args {
		args[i] = unwrap(a)
	}
	var names map[string]any
	if len(va.KwArgs) > 0 {
		names = map[string]any{}
		for k, v := range va.KwArgs {
			names[k] = unwrap(v)
		}
	}
	s, err := printf(format, args, names)
	if err != nil {
		return exec.AsValue(err)
	}
	return exec.AsValue(s)
}

// filterMap is map(attribute=..., default=...) or map("filter", ...).
func filterMap(e *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
	if in.IsNil() {
		return exec.AsValue(errNone)
	}
	l := anyList(unwrap(in))
	out := make([]any, 0, len(l))
	for _, v := range l {
		x := exec.ToValue(rowValue(bareOf(v)))
		if attribute, ok := va.KwArgs["attribute"]; ok {
			for _, name := range attributePath(unwrap(attribute)) {
				if x = element(x, name); x.IsError() {
					break
				}
			}
			if d, ok := va.KwArgs["default"]; ok && x.IsError() {
				x = d
			}
		} else {
			if len(va.Args) == 0 || !va.Args[0].IsString() {
				return exec.AsValue(errors.New("map wants the name of a filter, or attribute=..."))
			}
			name := va.Args[0].String()
			if !e.Environment.Filters.Exists(name) {
				return exec.AsValue(errors.New("unknown filter " + name))
			}
			x = e.ExecuteFilterByName(name, x, &exec.VarArgs{Args: va.Args[1:], KwArgs: va.KwArgs})
		}
		if x.IsError() {
			return x
		}
		out = append(out, x.Interface())
	}
	return exec.AsValue(out)
}

// filterSelect is select and reject, which keep the elements of which a test
// holds or does not hold, and selectattr and rejectattr, which test a field of
// them. Without a test, the value itself counts. A missing field is none.
func filterSelect(keep, field bool) exec.FilterFunction {
	return func(e *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
		if in.IsNil() {
			return exec.AsValue(errNone)
		}
		args := va.Args
		var path []any
		if field {
			if len(args) == 0 {
				return exec.AsValue(errors.New("it wants the name of a field"))
			}
			path, args = attributePath(unwrap(args[0])), args[1:]
		}
		holds, asks := func(x *exec.Value) (bool, error) { return truthy(x), nil }, false
		if len(args) > 0 {
			name := args[0].String()
			f, ok := e.Environment.Tests.Get(name)
			if !ok {
				return exec.AsValue(errors.New("unknown test " + name + didYouMean(name, testNames())))
			}
			r, given := of(e), &exec.VarArgs{Args: args[1:], KwArgs: va.KwArgs}
			holds = func(x *exec.Value) (bool, error) { return r.test(f, x, given) }
			asks = name == "defined" || name == "undefined"
		}
		out := []any{}
		for _, v := range anyList(unwrap(in)) {
			x := exec.ToValue(rowValue(bareOf(v)))
			for _, name := range path {
				x = element(x, name)
				if x.IsError() {
					break
				}
			}
			if x.IsError() && !asks {
				x = exec.AsValue(nil)
			}
			is, err := holds(x)
			if err != nil {
				return exec.AsValue(err)
			}
			if is == keep {
				out = append(out, v)
			}
		}
		return exec.AsValue(out)
	}
}
