package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

// span is the part of s that two bounds name, by characters.
func (g *boundArgs) span(s string, i int) (part string, from int) {
	r := []rune(s)
	bound := func(n int) int {
		if n < 0 {
			n += len(r)
		}
		return min(max(n, 0), len(r))
	}
	from, to := bound(g.number(i, 0)), bound(g.number(i+1, len(r)))
	return string(r[from:max(from, to)]), from
}

// textMethod is a method of texts, as Python has it.
type textMethod struct {
	min, max int
	names    []string // of the arguments
	f        func(s string, g *boundArgs) any
}

func plainMethod(f func(string) any) textMethod {
	return textMethod{f: func(s string, _ *boundArgs) any { return f(s) }}
}

func every(ok func(rune) bool) textMethod {
	return plainMethod(func(s string) any { return s != "" && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 })
}

var textMethods = map[string]textMethod{
	"lower":      plainMethod(func(s string) any { return strings.ToLower(s) }),
	"casefold":   plainMethod(func(s string) any { return strings.ReplaceAll(strings.ToLower(s), "ß", "ss") }),
	"upper":      plainMethod(func(s string) any { return calc.Upper(s) }),
	"title":      plainMethod(func(s string) any { return title(s) }),
	"capitalize": plainMethod(func(s string) any { return capitalize(s) }),
	"swapcase": plainMethod(func(s string) any {
		var b strings.Builder
		for _, r := range s {
			if unicode.IsUpper(r) {
				b.WriteRune(unicode.ToLower(r))
			} else {
				b.WriteString(calc.Upper(string(r)))
			}
		}
		return b.String()
	}),
	"isalnum":     every(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
	"isalpha":     every(unicode.IsLetter),
	"isdecimal":   every(unicode.IsDigit),
	"isdigit":     every(unicode.IsDigit),
	"isnumeric":   every(unicode.IsNumber),
	"isspace":     every(unicode.IsSpace),
	"isprintable": plainMethod(func(s string) any { return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 }),
	"isascii":     plainMethod(func(s string) any { return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0 }),
	"islower":     plainMethod(func(s string) any { return s == strings.ToLower(s) && s != calc.Upper(s) }),
	"isupper":     plainMethod(func(s string) any { return s == calc.Upper(s) && s != strings.ToLower(s) }),
	"istitle":     plainMethod(func(s string) any { return s == title(s) && strings.ToLower(s) != strings.ToUpper(s) }),
	"strip":       {0, 1, []string{"chars"}, func(s string, g *boundArgs) any { return stripLeft(stripRight(s, g), g) }},
	"lstrip":      {0, 1, []string{"chars"}, func(s string, g *boundArgs) any { return stripLeft(s, g) }},
	"rstrip":      {0, 1, []string{"chars"}, func(s string, g *boundArgs) any { return stripRight(s, g) }},
	"removeprefix": {1, 1, nil, func(s string, g *boundArgs) any {
		return strings.TrimPrefix(s, g.text(0, ""))
	}},
	"removesuffix": {1, 1, nil, func(s string, g *boundArgs) any {
		return strings.TrimSuffix(s, g.text(0, ""))
	}},
	"replace": {2, 3, []string{"old", "new", "count"}, func(s string, g *boundArgs) any {
		old, by, n := g.text(0, ""), g.text(1, ""), g.number(2, -1)
		times := strings.Count(s, old)
		if n >= 0 {
			times = min(times, n)
		}
		if err := calc.Fits(len(s), times, len(by)-len(old)); err != nil {
			g.err = err
			return nil
		}
		return strings.Replace(s, old, by, n)
	}},
	"count": {1, 3, nil, func(s string, g *boundArgs) any {
		part, _ := g.span(s, 1)
		return strings.Count(part, g.text(0, ""))
	}},
	"startswith": {1, 3, nil, func(s string, g *boundArgs) any { return begins(s, g, strings.HasPrefix) }},
	"endswith":   {1, 3, nil, func(s string, g *boundArgs) any { return begins(s, g, strings.HasSuffix) }},
	"find":       {1, 3, nil, func(s string, g *boundArgs) any { return where(s, g, strings.Index, false) }},
	"rfind":      {1, 3, nil, func(s string, g *boundArgs) any { return where(s, g, strings.LastIndex, false) }},
	"index":      {1, 3, nil, func(s string, g *boundArgs) any { return where(s, g, strings.Index, true) }},
	"rindex":     {1, 3, nil, func(s string, g *boundArgs) any { return where(s, g, strings.LastIndex, true) }},
	"split":      {0, 2, []string{"sep", "maxsplit"}, func(s string, g *boundArgs) any { return splitText(s, g, false) }},
	"rsplit":     {0, 2, []string{"sep", "maxsplit"}, func(s string, g *boundArgs) any { return splitText(s, g, true) }},
	"splitlines": {0, 1, []string{"keepends"}, func(s string, g *boundArgs) any {
		keep := len(g.args) > 0 && g.args[0] == true
		if g.err = calc.Splits(s, "\n"); g.err != nil {
			return nil
		}
		out := &List{}
		for line := range strings.Lines(strings.ReplaceAll(s, "\r\n", "\n")) {
			if !keep {
				line = strings.TrimSuffix(line, "\n")
			}
			out.items = append(out.items, line)
		}
		return out
	}},
	"partition": {1, 1, nil, func(s string, g *boundArgs) any {
		before, after, ok := strings.Cut(s, g.text(0, ""))
		if !ok {
			return Tuple{s, "", ""}
		}
		return Tuple{before, g.text(0, ""), after}
	}},
	"rpartition": {1, 1, nil, func(s string, g *boundArgs) any {
		sep := g.text(0, "")
		i := strings.LastIndex(s, sep)
		if i < 0 {
			return Tuple{"", "", s}
		}
		return Tuple{s[:i], sep, s[i+len(sep):]}
	}},
	"join": {1, 1, nil, func(s string, g *boundArgs) any {
		l, err := listOf(g.args[0])
		if err == nil && g.args[0] == nil {
			err = fmt.Errorf("want a list of texts, got %s", calc.Operand(nil))
		}
		for _, v := range l {
			if _, ok := bare(v).(string); !ok && err == nil {
				err = fmt.Errorf("want a list of texts, it holds %s", calc.Operand(bare(v)))
			}
		}
		if g.err = err; err != nil {
			return nil
		}
		out, err := calc.Joined(l, s, show)
		g.err = err
		return out
	}},
	"center": {1, 2, nil, func(s string, g *boundArgs) any { return padded(s, g, 2) }},
	"ljust":  {1, 2, nil, func(s string, g *boundArgs) any { return padded(s, g, 0) }},
	"rjust":  {1, 2, nil, func(s string, g *boundArgs) any { return padded(s, g, 1) }},
	"zfill": {1, 1, nil, func(s string, g *boundArgs) any {
		sign := ""
		if s != "" && (s[0] == '+' || s[0] == '-') {
			sign, s = s[:1], s[1:]
		}
		n := max(g.number(0, 0)-len(sign)-utf8.RuneCountInString(s), 0)
		if err := calc.Fits(len(s), n, 1); err != nil {
			g.err = err
			return nil
		}
		return sign + strings.Repeat("0", n) + s
	}},
	"expandtabs": {0, 1, []string{"tabsize"}, func(s string, g *boundArgs) any {
		size := g.number(0, 8)
		if err := calc.Fits(len(s), strings.Count(s, "\t"), size); err != nil {
			g.err = err
			return nil
		}
		var b strings.Builder
		at := 0
		for _, r := range s {
			switch {
			case r == '\t' && size > 0:
				n := size - at%size
				b.WriteString(strings.Repeat(" ", n))
				at += n
			case r == '\t':
			case r == '\n':
				at = 0
				b.WriteRune(r)
			default:
				at++
				b.WriteRune(r)
			}
		}
		return b.String()
	}},
}

func title(s string) string {
	var b strings.Builder
	inWord := false
	for _, r := range s {
		if inWord {
			b.WriteRune(unicode.ToLower(r))
		} else {
			b.WriteString(titled(r))
		}
		inWord = unicode.IsLetter(r)
	}
	return b.String()
}

// titled is a letter as a word begins with it: some are several.
func titled(r rune) string {
	if large := calc.Upper(string(r)); utf8.RuneCountInString(large) > 1 {
		return head(large, 1) + strings.ToLower(large[len(head(large, 1)):])
	}
	return string(unicode.ToTitle(r))
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return titled(r) + strings.ToLower(s[n:])
}

func stripLeft(s string, g *boundArgs) string {
	if g.value(0) == nil {
		return strings.TrimLeftFunc(s, unicode.IsSpace)
	}
	return strings.TrimLeft(s, g.text(0, ""))
}

func stripRight(s string, g *boundArgs) string {
	if g.value(0) == nil {
		return strings.TrimRightFunc(s, unicode.IsSpace)
	}
	return strings.TrimRight(s, g.text(0, ""))
}

func begins(s string, g *boundArgs, has func(s, part string) bool) any {
	part, _ := g.span(s, 1)
	if isList(g.args[0]) {
		l, _ := itemsOf(g.args[0])
		return slices.ContainsFunc(l, func(v any) bool {
			end, ok := bare(v).(string)
			return ok && has(part, end)
		})
	}
	return has(part, g.text(0, ""))
}

func where(s string, g *boundArgs, index func(s, sub string) int, must bool) any {
	part, from := g.span(s, 1)
	i := index(part, g.text(0, ""))
	if i < 0 {
		if must && g.err == nil {
			g.err = fmt.Errorf("the text has no %q", g.text(0, ""))
		}
		return -1
	}
	return from + utf8.RuneCountInString(part[:i])
}

func splitText(s string, g *boundArgs, fromRight bool) any {
	n := g.number(1, -1)
	if len(g.args) > 0 && g.args[0] != nil {
		sep := g.text(0, "")
		if g.err == nil {
			g.err = calc.Splits(s, sep)
		}
		switch {
		case g.err != nil:
			return nil
		case sep == "":
			g.err = errors.New("the separator is empty")
			return nil
		case n < 0:
			return texts(strings.Split(s, sep))
		case !fromRight:
			return texts(strings.SplitN(s, sep, n+1))
		}
		parts := strings.Split(s, sep)
		if k := len(parts) - n; k > 1 {
			parts = append([]string{strings.Join(parts[:k], sep)}, parts[k:]...)
		}
		return texts(parts)
	}
	if g.err = calc.Wordy(s); g.err != nil {
		return nil
	}
	if n < 0 {
		return texts(strings.Fields(s))
	}
	var out []any // what is not split keeps its outer spaces on the far side
	if fromRight {
		for s = strings.TrimRightFunc(s, unicode.IsSpace); s != ""; n-- {
			i := strings.LastIndexFunc(s, unicode.IsSpace)
			if n == 0 || i < 0 {
				out = append(out, s)
				break
			}
			_, size := utf8.DecodeRuneInString(s[i:])
			out = append(out, s[i+size:])
			s = strings.TrimRightFunc(s[:i], unicode.IsSpace)
		}
		slices.Reverse(out)
		return &List{out}
	}
	for s = strings.TrimLeftFunc(s, unicode.IsSpace); s != ""; n-- {
		i := strings.IndexFunc(s, unicode.IsSpace)
		if n == 0 || i < 0 {
			out = append(out, s)
			break
		}
		out = append(out, s[:i])
		s = strings.TrimLeftFunc(s[i:], unicode.IsSpace)
	}
	return &List{out}
}

// padded fills s up to a width: on the right (0), the left (1), or both (2).
func padded(s string, g *boundArgs, side int) any {
	width, fill := g.number(0, 0), g.text(1, " ")
	if utf8.RuneCountInString(fill) != 1 && g.err == nil {
		g.err = errors.New("the fill is one character")
	}
	return pad(s, width, fill, side, g)
}

// textMethod calls a method of a text.
func (r *rendering) textMethod(s, name string, a *Args) (any, error) {
	if err := r.spend(textCost(s)); err != nil {
		return nil, err
	}
	switch name {
	case "format":
		names := NewDict()
		for _, n := range a.Named {
			names.Set(n.Name, n.Value)
		}
		return braces(s, a.List, names)
	case "format_map":
		g, err := bind(a, nil, 1, 1)
		if err != nil {
			return nil, err
		}
		if _, _, ok := fieldsOf(g.args[0]); !ok {
			return nil, errors.New("takes one object")
		}
		return braces(s, nil, g.args[0])
	}
	m, ok := textMethods[name]
	if !ok {
		return nil, errors.New("a text has no method of that name" + calc.DidYouMean(name, append(keysOf(textMethods), "format")))
	}
	g, err := bind(a, m.names, m.min, m.max)
	if err != nil {
		return nil, err
	}
	out := m.f(s, g)
	return out, g.err
}

// texts are a list.
func texts(all []string) *List {
	l := &List{make([]any, len(all))}
	for i, s := range all {
		l.items[i] = s
	}
	return l
}

// pad fills s up to a width: on the right (0), the left (1), or both (2), as
// Python's ljust, rjust and center do.
func pad(s string, width int, fill string, side int, g *boundArgs) string {
	n := width - utf8.RuneCountInString(s)
	if n <= 0 || g.err != nil {
		return s
	}
	if g.err = calc.Fits(len(s), n, len(fill)); g.err != nil {
		return ""
	}
	left := []int{0, n, n/2 + n&width&1}[side]
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}
