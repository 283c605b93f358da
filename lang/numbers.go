package lang

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// toInt is Jinja2's int: what is no number in a text is the default, what is a
// number too large to keep an error; what is missing is one, too, unless a
// default is given.
func toInt(in any, g *given) (any, error) {
	base := g.number(1, 10)
	if g.err != nil {
		return nil, g.err
	}
	switch v := in.(type) {
	case int:
		return v, nil
	case float64:
		return truncated(v)
	case bool:
		n, _ := numeral(v)
		return n, nil
	case string:
		if n, ok, err := parseInt(v, base); ok || err != nil {
			return n, err
		}
		f, ok, err := parseFloat(v)
		switch {
		case errors.Is(err, errNoNumber) || err == nil && !ok:
			return orDefault(g, 0), nil
		case err != nil:
			return nil, err
		}
		return truncated(f)
	}
	if len(g.args) > 0 {
		return g.args[0], nil
	}
	return nil, notNumber(in)
}

func truncated(f float64) (any, error) {
	if f >= -1<<63 && f < 1<<63 {
		return int(f), nil
	}
	return nil, errLarge
}

func toFloat(in any, g *given) (any, error) {
	if s, ok := in.(string); ok {
		f, ok, err := parseFloat(s)
		if err != nil {
			return nil, err
		}
		if !ok {
			return orDefault(g, 0.0), nil
		}
		return f, nil
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

// ascii is the text of a number as Go reads it: without the space around it and
// the underscores between its digits, and with digits of other scripts as 0 to
// 9. ok is false where an underscore is elsewhere.
func ascii(s string, isDigit func(rune) bool) (string, bool) {
	var b strings.Builder
	var before rune
	for _, r := range strings.TrimSpace(s) {
		if r == '_' && !isDigit(before) || before == '_' && !isDigit(r) {
			return "", false
		}
		if before = r; r != '_' {
			b.WriteRune(digit(r))
		}
	}
	return b.String(), before != '_'
}

func letterOrDigit(r rune) bool { return unicode.IsDigit(r) || unicode.IsLetter(r) }

// digit is r, or 0 to 9 where it is a digit of another script: they come in tens.
func digit(r rune) rune {
	if r < 128 || !unicode.IsDigit(r) {
		return r
	}
	for _, in := range unicode.Nd.R16 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return '0' + (r-rune(in.Lo))%10
		}
	}
	for _, in := range unicode.Nd.R32 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return '0' + (r-rune(in.Lo))%10
		}
	}
	return r
}

// parseInt reads a whole number; ok is false where s is none of this base.
func parseInt(s string, base int) (n int, ok bool, err error) {
	s, ok = ascii(s, letterOrDigit)
	sign, rest := "", s
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, rest = s[:1], s[1:]
	}
	if prefix := map[int]string{2: "0b", 8: "0o", 16: "0x"}[base]; prefix != "" {
		rest = strings.TrimPrefix(strings.ToLower(rest), prefix)
	}
	if !ok || base < 2 || base > 36 || rest == "" || !letterOrDigit(rune(rest[0])) {
		return 0, false, nil
	}
	i, err := strconv.ParseInt(sign+rest, base, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, false, errLarge
	}
	return int(i), err == nil, nil
}

var errNoNumber = errors.New("inf and nan are no numbers to calculate with")

// parseFloat reads a number; ok is false where s is none, and what is one in name
// only, or too large to keep, is an error.
func parseFloat(s string) (f float64, ok bool, err error) {
	s, ok = ascii(s, unicode.IsDigit)
	if !ok || strings.ContainsAny(s, "xXpP") {
		return 0, false, nil
	}
	f, err = strconv.ParseFloat(s, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, false, errLarge
	case err != nil:
		return 0, false, nil
	case math.IsInf(f, 0) || math.IsNaN(f):
		return 0, false, errNoNumber
	}
	return f, true, nil
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

// roundWhole is roundEven of a whole number, which it stays.
func roundWhole(n, digits int) (any, error) {
	if digits >= 0 {
		return n, nil
	}
	if digits < -18 {
		return 0, nil
	}
	unit := 1
	for range -digits {
		unit *= 10
	}
	rest := n % unit
	down := n - rest
	if twice := 2 * magnitude(rest); twice < uint64(unit) || twice == uint64(unit) && down/unit%2 == 0 {
		return down, nil
	}
	if n < 0 {
		return whole("-", down, unit)
	}
	return whole("+", down, unit)
}

// elements are those of a list, or the attribute of each that argument i names.
func elements(in any, g *given, i int) ([]any, error) {
	l, err := partsOf(in)
	if err != nil {
		return nil, err
	}
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
	l, err := partsOf(unwrap(in))
	if err != nil {
		return exec.AsValue(err)
	}
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
				return exec.AsValue(errors.New("unknown filter " + name + didYouMean(name, filterNames())))
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
		l, err := partsOf(unwrap(in))
		if err != nil {
			return exec.AsValue(err)
		}
		out := []any{}
		for _, v := range l {
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
