// Package calc is what expressions and templates calculate alike: numbers as
// Python has them, the bounds of what one of them may build and do, and the words
// of their errors. It knows neither of them.
package calc

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
	"unicode"
)

func Float(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	case nil, string, bool, map[string]any, []any:
		return 0, false
	}
	switch r := reflect.ValueOf(v); {
	case r.CanInt():
		return float64(r.Int()), true
	case r.CanUint():
		return float64(r.Uint()), true
	case r.CanFloat():
		return r.Float(), true
	}
	return 0, false
}

// Number is v as int or float64; true and false are 1 and 0, as in Python.
func Number(v any) (any, bool) {
	switch v := v.(type) {
	case int, float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	f, ok := Float(v)
	return f, ok
}

var (
	errZero      = errors.New("cannot divide by zero")
	ErrLarge     = errors.New("the result is a number too large to keep")
	ErrNotFinite = errors.New("inf and nan are not numbers to calculate with")
)

// Numbers is an arithmetic operator on two numbers: whole ones stay whole, but for
// /, and % has the sign of the right side. A result that does not fit is an error.
func Numbers(op string, a, b any) (any, error) {
	x, isX := Number(a)
	y, isY := Number(b)
	if !isX || !isY {
		return nil, fmt.Errorf("cannot calculate %s %s %s", Operand(a), op, Operand(b))
	}
	m, isM := x.(int)
	n, isN := y.(int)
	if isM && isN {
		return whole(op, m, n)
	}
	f, _ := Float(x)
	g, _ := Float(y)
	return real(op, f, g)
}

func whole(op string, a, b int) (any, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
		return nil, ErrLarge
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
		return nil, ErrLarge
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
			return nil, ErrLarge
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
	hi, lo := bits.Mul64(Magnitude(a), Magnitude(b))
	if hi != 0 || lo > math.MaxInt {
		return 0, ErrLarge
	}
	return a * b, nil
}

func Magnitude(n int) uint64 {
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
		rest := math.Mod(a, b)
		if rest == 0 {
			rest = math.Copysign(0, b)
		} else if (rest < 0) != (b < 0) {
			rest += b
		}
		switch op {
		case "/":
			out = a / b
		case "//": // as Python has it: 100 // 0.1 is 999, since 0.1 is a little more
			out = math.Round((a - rest) / b)
		default:
			out = rest
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
		return nil, ErrLarge
	}
	if math.IsNaN(out) {
		return nil, fmt.Errorf("%v %s %v is not a number", a, op, b)
	}
	return out, nil
}

// Signed is +v or -v.
func Signed(op string, v any) (any, error) {
	n, ok := Number(v)
	if !ok {
		return nil, fmt.Errorf("%s is not a number, it has no sign", Operand(v))
	}
	if op == "+" {
		return n, nil
	}
	if i, ok := n.(int); ok {
		return whole("-", 0, i)
	}
	f, _ := Float(n)
	return -f, nil
}

func Compare[T int | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func Truncated(f float64) (any, error) {
	if f >= -1<<63 && f < 1<<63 {
		return int(f), nil
	}
	return nil, ErrLarge
}

// RoundEven rounds to a number of decimal digits, halves to even, by the value
// that the number has in binary: as Python's round does.
func RoundEven(f float64, digits int) float64 {
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

// RoundWhole is RoundEven of a whole number, which it stays.
func RoundWhole(n, digits int) (any, error) {
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
	if twice := 2 * Magnitude(rest); twice < uint64(unit) || twice == uint64(unit) && down/unit%2 == 0 {
		return down, nil
	}
	if n < 0 {
		return whole("-", down, unit)
	}
	return whole("+", down, unit)
}

// ParseInt reads a whole number; ok is false where s is none of this base.
func ParseInt(s string, base int) (n int, ok bool, err error) {
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
		return 0, false, ErrLarge
	}
	return int(i), err == nil, nil
}

// ParseFloat reads a number; ok is false where s is none, and what is one in name
// only, or too large to keep, is an error.
func ParseFloat(s string) (f float64, ok bool, err error) {
	s, ok = ascii(s, unicode.IsDigit)
	if !ok || strings.ContainsAny(s, "xXpP") {
		return 0, false, nil
	}
	f, err = strconv.ParseFloat(s, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, false, ErrLarge
	case err != nil:
		return 0, false, nil
	case math.IsInf(f, 0) || math.IsNaN(f):
		return 0, false, ErrNotFinite
	}
	return f, true, nil
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
	n := rune(0)
	for unicode.IsDigit(r - n - 1) {
		n++
	}
	return '0' + n%10
}

// Bound is a bound of a slice of n parts, as one from low to high: negative ones
// count from the end, and nil is otherwise.
func Bound(b any, otherwise, n, low, high int) (int, error) {
	if b == nil {
		return otherwise, nil
	}
	i, ok := b.(int)
	if !ok {
		return 0, fmt.Errorf("the bounds of a slice are whole numbers, this is %s", Kind(b))
	}
	if i < 0 {
		i += n
	}
	return min(max(i, low), high), nil
}
