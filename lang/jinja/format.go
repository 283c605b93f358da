package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

// printf is Python's format % args. Names, as in %(name)s, are looked up in m.
func printf(format string, args []any, m any) (string, error) {
	var b strings.Builder
	used, named := 0, false
	next := func() (any, error) {
		if used >= len(args) {
			return nil, fmt.Errorf("the format %q wants more than the %d values that are there", format, len(args))
		}
		used++
		return bare(args[used-1]), nil
	}
	for rest := format; ; {
		before, after, found := strings.Cut(rest, "%")
		b.WriteString(before)
		if !found {
			break
		}
		s, n, byName, err := directive(after, next, m)
		if err != nil {
			return "", err
		}
		named = named || byName
		if b.Len()+len(s) > calc.MaxText {
			return "", calc.ErrTooLong
		}
		b.WriteString(s)
		rest = after[n:]
	}
	if used < len(args) && !named && !(m != nil && used == 0) {
		return "", fmt.Errorf("the format %q prints %d of %d values", format, used, len(args))
	}
	return b.String(), nil
}

// layout is how a value is set out.
type layout struct {
	minus, plus, space, zero, alt bool
	width, precision              int // precision -1: not given
}

const maxWidth = 10_000

// directive prints what stands behind a %; n is its length.
func directive(s string, next func() (any, error), m any) (out string, n int, named bool, err error) {
	var v any
	if strings.HasPrefix(s, "(") {
		name, _, ok := strings.Cut(s[1:], ")")
		if !ok || m == nil {
			return "", 0, true, errors.New("%(name)s wants an object, as in \"%(a)s\" % {\"a\": 1}")
		}
		if v, ok = valueAt(m, name); !ok {
			_, err := fieldOf(m, name)
			return "", 0, true, err
		}
		v, named = bare(v), true
		n = len(name) + 2
	}
	l := layout{precision: -1}
flags:
	for ; n < len(s); n++ {
		switch s[n] {
		case '-':
			l.minus = true
		case '+':
			l.plus = true
		case ' ':
			l.space = true
		case '0':
			l.zero = true
		case '#':
			l.alt = true
		default:
			break flags
		}
	}
	number := func() int {
		from := n
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		i, err := strconv.Atoi(s[from:n])
		if err != nil && n > from {
			return maxWidth + 1
		}
		return i
	}
	l.width = number()
	if n < len(s) && s[n] == '.' {
		n++
		l.precision = number()
	}
	if n >= len(s) {
		return "", 0, named, errors.New("the format ends within a %...; write %% for a percent sign")
	}
	if l.width > maxWidth || l.precision > maxWidth {
		return "", 0, named, fmt.Errorf("a format is wider than %d", maxWidth)
	}
	verb := s[n]
	n++
	if verb == '%' {
		return "%", n, named, nil
	}
	if !named {
		if v, err = next(); err != nil {
			return "", 0, false, err
		}
	}
	out, err = l.print(verb, v)
	return out, n, named, err
}

func (l layout) print(verb byte, v any) (string, error) {
	switch verb {
	case 's', 'r', 'a':
		if v == nil {
			return "", fmt.Errorf("%%%c wants a value, got %s", verb, calc.Operand(v))
		}
		out, err := show(v)
		if verb != 's' {
			var b strings.Builder
			parts := calc.MaxParts
			err = repr(&b, v, &parts)
			out = b.String()
		}
		if l.precision >= 0 {
			out = head(out, l.precision)
		}
		l.zero = false
		return l.pad("", out), err
	case 'c':
		if s, ok := v.(string); ok && utf8.RuneCountInString(s) == 1 {
			return l.pad("", s), nil
		}
		if n, ok := v.(int); ok && utf8.ValidRune(rune(n)) {
			return l.pad("", string(rune(n))), nil
		}
		return "", fmt.Errorf("%%c wants one character, got %s", calc.Operand(v))
	}
	n, ok := calc.Number(v)
	if !ok {
		return "", fmt.Errorf("%%%c wants a number, got %s", verb, calc.Operand(v))
	}
	switch verb {
	case 'd', 'i', 'u', 'x', 'X', 'o':
		i, ok := n.(int)
		if f, isFloat := n.(float64); isFloat {
			if verb == 'x' || verb == 'X' || verb == 'o' || f > 1<<62 || f < -1<<62 {
				return "", fmt.Errorf("%%%c wants a whole number, got %s", verb, calc.Kind(v))
			}
			i, ok = int(f), true
		}
		if !ok {
			return "", fmt.Errorf("%%%c wants a whole number, got %s", verb, calc.Kind(v))
		}
		base, prefix := 10, ""
		switch verb {
		case 'x', 'X':
			base, prefix = 16, "0"+string(verb)
		case 'o':
			base, prefix = 8, "0o"
		}
		digits := strconv.FormatUint(calc.Magnitude(i), base)
		if verb == 'X' {
			digits = strings.ToUpper(digits)
		}
		if more := l.precision - len(digits); more > 0 {
			digits = strings.Repeat("0", more) + digits
		}
		if !l.alt {
			prefix = ""
		}
		return l.pad(l.sign(i < 0)+prefix, digits), nil
	case 'f', 'F', 'e', 'E', 'g', 'G':
		f, _ := calc.Float(n)
		return l.pad(l.sign(f < 0), floatDigits(f, verb, l.precision)), nil
	}
	return "", fmt.Errorf("%%%c is not a format; there are %%s %%r %%d %%i %%f %%e %%g %%x %%o %%c and %%%%", verb)
}

func floatDigits(f float64, verb byte, precision int) string {
	if f < 0 {
		f = -f
	}
	if precision < 0 {
		precision = 6
	}
	switch verb {
	case 'F':
		verb = 'f'
	case 'g', 'G':
		precision = max(precision, 1)
	}
	return strconv.FormatFloat(f, verb, precision, 64)
}

func (l layout) sign(negative bool) string {
	switch {
	case negative:
		return "-"
	case l.plus:
		return "+"
	case l.space:
		return " "
	}
	return ""
}

func (l layout) pad(sign, s string) string {
	missing := l.width - utf8.RuneCountInString(sign) - utf8.RuneCountInString(s)
	switch {
	case missing <= 0:
		return sign + s
	case l.minus:
		return sign + s + strings.Repeat(" ", missing)
	case l.zero:
		return sign + strings.Repeat("0", missing) + s
	}
	return strings.Repeat(" ", missing) + sign + s
}

// braces is Python's format.format(*args, **names): {}, {0}, {name}, each with a
// format such as {:.2f}, {:>10} or {:,}.
func braces(format string, args []any, names any) (string, error) {
	var b strings.Builder
	auto := 0
	for i := 0; i < len(format); {
		c := format[i]
		switch {
		case (c == '{' || c == '}') && i+1 < len(format) && format[i+1] == c:
			b.WriteByte(c)
			i += 2
			continue
		case c == '}':
			return "", errors.New("the format has a } without its {; write }} for one")
		case c != '{':
			b.WriteByte(c)
			i++
			continue
		}
		body, _, ok := strings.Cut(format[i+1:], "}")
		if !ok {
			return "", errors.New("the format has a { without its }; write {{ for one")
		}
		i += len(body) + 2
		key, spec, _ := strings.Cut(body, ":")
		key, as, converts := strings.Cut(key, "!")
		var v any
		if n, err := strconv.Atoi(key); err == nil || key == "" {
			if key == "" {
				n = auto
				auto++
			}
			if n < 0 || n >= len(args) {
				return "", fmt.Errorf("the format wants value %d, %d are there", n, len(args))
			}
			v = args[n]
		} else if v, ok = valueAt(names, key); !ok {
			return "", fmt.Errorf("the format wants a value named %q", key)
		}
		v = bare(v)
		if converts {
			if len(as) != 1 || !strings.Contains("sra", as) {
				return "", fmt.Errorf("behind ! stands s, r or a, not %q", as)
			}
			text, err := layout{precision: -1}.print(as[0], v)
			if err != nil {
				return "", err
			}
			v = text
		}
		s, err := formatted(v, spec)
		if err != nil {
			return "", err
		}
		if b.Len()+len(s) > calc.MaxText {
			return "", calc.ErrTooLong
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// formatted is Python's format(v, spec).
func formatted(v any, spec string) (string, error) {
	if spec == "" {
		if v == nil {
			return "", fmt.Errorf("{} wants a value, got %s", calc.Operand(v))
		}
		return show(v)
	}
	bad := func() (string, error) { return "", fmt.Errorf("%q is not a format of %s", spec, calc.Operand(v)) }
	rest := []rune(spec)
	fill, align := ' ', rune(0)
	if len(rest) > 1 && strings.ContainsRune("<>^=", rest[1]) {
		fill, align, rest = rest[0], rest[1], rest[2:]
	} else if strings.ContainsRune("<>^=", rest[0]) {
		align, rest = rest[0], rest[1:]
	}
	l := layout{precision: -1}
	comma := false
	for len(rest) > 0 && strings.ContainsRune("+- ", rest[0]) {
		l.plus, l.space = rest[0] == '+', rest[0] == ' '
		rest = rest[1:]
	}
	if len(rest) > 0 && rest[0] == '0' {
		if align == 0 {
			fill, align = '0', '='
		}
		rest = rest[1:]
	}
	digits := func() int {
		n := 0
		for len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
			n = min(n*10+int(rest[0]-'0'), maxWidth+1)
			rest = rest[1:]
		}
		return n
	}
	width := digits()
	if len(rest) > 0 && (rest[0] == ',' || rest[0] == '_') {
		comma, rest = true, rest[1:]
	}
	if len(rest) > 0 && rest[0] == '.' {
		rest = rest[1:]
		l.precision = digits()
	}
	if width > maxWidth || l.precision > maxWidth || len(rest) > 1 {
		return bad()
	}
	verb := byte(0)
	if len(rest) == 1 {
		if rest[0] > 127 {
			return bad()
		}
		verb = byte(rest[0])
	}
	var sign, body string
	if s, ok := v.(string); ok {
		if verb != 0 && verb != 's' || comma {
			return bad()
		}
		body = s
		if l.precision >= 0 {
			body = head(s, l.precision)
		}
		align = cmp.Or(align, '<')
	} else {
		n, ok := calc.Number(v)
		if !ok {
			return bad()
		}
		f, _ := calc.Float(n)
		sign = l.sign(f < 0)
		i, isInt := n.(int)
		switch {
		case verb == '%':
			body = floatDigits(f*100, 'f', l.precision) + "%"
		case isInt && (verb == 0 || verb == 'd') && l.precision < 0:
			body = strconv.FormatUint(calc.Magnitude(i), 10)
		case isInt && (verb == 'x' || verb == 'X' || verb == 'o' || verb == 'b'):
			body = strconv.FormatUint(calc.Magnitude(i), map[byte]int{'x': 16, 'X': 16, 'o': 8, 'b': 2}[verb])
			if verb == 'X' {
				body = strings.ToUpper(body)
			}
		case verb == 0 && l.precision < 0:
			s, _ := show(n)
			body = strings.TrimPrefix(s, "-")
		case verb == 0:
			body = floatDigits(f, 'g', l.precision)
		case strings.IndexByte("fFeEgG", verb) >= 0:
			body = floatDigits(f, verb, l.precision)
		default:
			return bad()
		}
		if comma {
			body = thousands(body)
		}
		align = cmp.Or(align, '>')
	}
	missing := width - utf8.RuneCountInString(sign) - utf8.RuneCountInString(body)
	if missing <= 0 {
		return sign + body, nil
	}
	pad := func(n int) string { return strings.Repeat(string(fill), n) }
	switch align {
	case '<':
		return sign + body + pad(missing), nil
	case '^':
		return pad(missing/2) + sign + body + pad(missing-missing/2), nil
	case '=':
		return sign + pad(missing) + body, nil
	}
	return pad(missing) + sign + body, nil
}

func thousands(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	var b strings.Builder
	for i, r := range s[:end] {
		if i > 0 && (end-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(r)
	}
	return b.String() + s[end:]
}
