package jinja

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

// Filters of texts. How large a result becomes is known, and refused where that is
// too large, before there is any of it.

var textFilters = map[string]filter{
	"string":     ofText(0, nil, func(s string, _ *boundArgs) any { return s }),
	"lower":      ofText(0, nil, func(s string, _ *boundArgs) any { return strings.ToLower(s) }),
	"upper":      ofText(0, nil, func(s string, _ *boundArgs) any { return calc.Upper(s) }),
	"capitalize": ofText(0, nil, func(s string, _ *boundArgs) any { return capitalize(s) }),
	"trim":       ofText(1, []string{"chars"}, func(s string, g *boundArgs) any { return stripLeft(stripRight(s, g), g) }),
	"replace":    {min: 2, max: 3, names: []string{"old", "new", "count"}, f: textual(textMethods["replace"].f)},
	"center":     ofText(1, []string{"width"}, func(s string, g *boundArgs) any { return pad(s, g.number(0, 80), " ", 2, g) }),
	"format":     {max: -1, raw: formatFilter},
	"indent":     {max: 3, names: []string{"width", "first", "blank"}, notNull: true, f: indent},
	"truncate":   notNull(ofText(4, []string{"length", "killwords", "end", "leeway"}, truncate)),
	"wordwrap":   notNull(ofText(4, []string{"width", "break_long_words", "wrapstring", "break_on_hyphens"}, wordwrap)),
	"wordcount": notNull(ofText(0, nil, func(s string, _ *boundArgs) any {
		n, inside := 0, false
		for _, r := range s {
			if wordly(r) && !inside {
				n++
			}
			inside = wordly(r)
		}
		return n
	})),
	"title": ofText(0, nil, func(s string, _ *boundArgs) any {
		var b strings.Builder
		begins := true
		for _, r := range s {
			if begins {
				b.WriteString(calc.Upper(string(r)))
			} else {
				b.WriteRune(unicode.ToLower(r))
			}
			begins = unicode.IsSpace(r) || strings.ContainsRune("-({[<", r)
		}
		return b.String()
	}),
}

// ofText is a filter that takes anything that can be printed.
func ofText(most int, names []string, f func(s string, g *boundArgs) any) filter {
	return filter{max: most, names: names, f: textual(f)}
}

func textual(f func(s string, g *boundArgs) any) func(*rendering, any, *boundArgs) (any, error) {
	return func(_ *rendering, in any, g *boundArgs) (any, error) {
		s, err := show(in)
		if err != nil {
			return nil, err
		}
		return f(s, g), g.err
	}
}

// notNull is f, as a filter that does not take null.
func notNull(f filter) filter {
	f.notNull = true
	return f
}

func formatFilter(_ *rendering, in any, a *Args) (any, error) {
	format, ok := bare(in).(string)
	if !ok {
		return nil, fmt.Errorf("want a format as text, got %s", calc.Operand(bare(in)))
	}
	if len(a.Named) == 0 {
		return printf(format, a.List, nil)
	}
	names := NewDict()
	for _, n := range a.Named {
		names.Set(n.Name, n.Value)
	}
	return printf(format, a.List, names)
}

func indent(_ *rendering, in any, g *boundArgs) (any, error) {
	s, ok := in.(string)
	if !ok && in != nil {
		return nil, fmt.Errorf("want a text, got %s", calc.Operand(in))
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	lines := strings.Count(s, "\n") + 1
	by, isText := g.value(0).(string)
	if !isText {
		n := max(g.number(0, 4), 0)
		if g.err != nil {
			return nil, g.err
		}
		if err := calc.Fits(len(s), lines, n); err != nil {
			return nil, err
		}
		by = strings.Repeat(" ", n)
	}
	if err := calc.Fits(len(s), lines, len(by)); err != nil {
		return nil, err
	}
	var b strings.Builder
	first := true
	for line := range strings.SplitAfterSeq(s, "\n") {
		if first && g.flag(1) || !first && (g.flag(2) || line != "" && line != "\n") {
			b.WriteString(by)
		}
		b.WriteString(line)
		first = false
	}
	return b.String(), nil
}

func truncate(s string, g *boundArgs) any {
	length, end, leeway := g.number(0, 255), g.text(2, "..."), g.number(3, 5)
	room := length - utf8.RuneCountInString(end)
	switch n := utf8.RuneCountInString(s); {
	case g.err != nil:
		return nil
	case room < 0:
		g.err = fmt.Errorf("want a length of at least %d, that of %q, got %d", length-room, end, length)
		return nil
	case leeway < 0:
		g.err = fmt.Errorf("want a leeway of at least 0, got %d", leeway)
		return nil
	case n <= length || n-length <= leeway:
		return s
	}
	s = head(s, room)
	if i := strings.LastIndexByte(s, ' '); i >= 0 && !g.flag(1) {
		s = s[:i]
	}
	return s + end
}

// wordwrap wraps each line as Python's textwrap does.
func wordwrap(s string, g *boundArgs) any {
	width, by := g.number(0, 79), g.text(2, "\n")
	long := g.value(1) == nil || g.flag(1)
	hyphens := g.value(3) == nil || g.flag(3)
	if width < 1 && g.err == nil {
		g.err = fmt.Errorf("want a width above 0, got %d", width)
	}
	if g.err != nil {
		return nil
	}
	var b strings.Builder
	first := true
	write := func(line string) {
		if g.err != nil {
			return
		}
		if !first {
			if g.err = calc.Fits(b.Len()+len(line), 1, len(by)); g.err != nil {
				return
			}
			b.WriteString(by)
		}
		first = false
		b.WriteString(line)
	}
	for line := range strings.Lines(strings.ReplaceAll(s, "\r\n", "\n")) {
		wrapLine(strings.TrimSuffix(line, "\n"), width, long, hyphens, write)
	}
	return b.String()
}

// wrapLine writes the lines that s becomes.
func wrapLine(s string, width int, long, hyphens bool, write func(string)) {
	from, at, used, wrote := 0, 0, 0, false // the line is s[from:at], of used characters
	flush := func(line string) {
		if line != "" {
			write(line)
			wrote = true
		}
		from, used = at, 0
	}
	trimmed := func() string { return strings.TrimRightFunc(s[from:at], unicode.IsSpace) }
	for at < len(s) {
		word := chunk(s, at, hyphens)
		n := utf8.RuneCountInString(word)
		blank := strings.TrimSpace(word) == ""
		if used > 0 && used+n > width && (n <= width || !long) {
			flush(trimmed())
		}
		for long && used+n > width && !(blank && wrote && used == 0) {
			piece := head(word, width-used)
			if i := strings.LastIndexByte(piece, '-'); hyphens && i > 0 && strings.Trim(piece[:i], "-") != "" {
				piece = piece[:i+1]
			}
			at += len(piece)
			word, n = word[len(piece):], n-utf8.RuneCountInString(piece)
			if piece == "" { // Python takes it for the end of the line
				flush(s[from:at])
			} else {
				flush(trimmed())
			}
		}
		at += len(word)
		used += n
		if blank && wrote && used == n {
			from, used = at, 0
		}
	}
	flush(trimmed())
	if !wrote {
		write("")
	}
}

// chunk is what a line does not break in, at the beginning of s[from:]: white
// space, a word, a part of one up to a hyphen between letters, or the hyphens of
// a dash.
func chunk(s string, from int, hyphens bool) string {
	first, _ := utf8.DecodeRuneInString(s[from:])
	space := unicode.IsSpace(first)
	for i, r := range s[from:] {
		at := from + i
		if unicode.IsSpace(r) != space {
			return s[from:at]
		}
		if r != '-' || !hyphens {
			continue
		}
		if n := dash(s, at); n > 0 && i > 0 {
			return s[from:at]
		} else if n > 0 {
			return s[at : at+n]
		}
		if lettered(s[:at], true) && lettered(s[at+1:], false) {
			return s[from : at+1]
		}
	}
	return s[from:]
}

// dash is the length of the hyphens at s[at:] where they are a dash between words;
// 0 where they are none.
func dash(s string, at int) int {
	before, _ := utf8.DecodeLastRuneInString(s[:at])
	if !wordly(before) && !strings.ContainsRune(`!"'&.,?`, before) {
		return 0
	}
	n := len(s[at:]) - len(strings.TrimLeft(s[at:], "-"))
	if after, _ := utf8.DecodeRuneInString(s[at+n:]); n < 2 || !wordly(after) {
		return 0
	}
	return n
}

// wordly reports whether r is part of a word, as regular expressions of Python have it.
func wordly(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }

// lettered reports whether s begins, or ends, with two letters or with two that have
// a hyphen in between.
func lettered(s string, atEnd bool) bool {
	var r [3]rune
	for i := range r {
		if atEnd {
			r[i], _ = utf8.DecodeLastRuneInString(s)
			s = s[:lastRune(s)]
		} else {
			r[i], _ = utf8.DecodeRuneInString(s)
			s = s[len(head(s, 1)):]
		}
	}
	letter := func(r rune) bool { return r == '_' || unicode.IsLetter(r) }
	return letter(r[0]) && (letter(r[1]) || r[1] == '-' && letter(r[2]))
}

func lastRune(s string) int {
	_, n := utf8.DecodeLastRuneInString(s)
	return len(s) - n
}
