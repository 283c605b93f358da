package lang

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// Filters that set out texts and lists. How large their result becomes is known,
// and refused where it is too large, before there is any of it.

// fits reports whether a text of size bytes and n times each more is not too long.
func fits(size, n, each int) error {
	if n > 0 && each > 0 && (size > maxText || n > (maxText-size)/each) {
		return errTooLong
	}
	return nil
}

func manyParts(what string) error {
	return fmt.Errorf("%s would have more than %d elements", what, maxParts)
}

// partsOf is anyList, of texts that are not too long to be taken apart.
func partsOf(v any) ([]any, error) {
	if s, ok := v.(string); ok && len(s) > maxParts && utf8.RuneCountInString(s) > maxParts {
		return nil, manyParts("the text, taken apart,")
	}
	return anyList(v), nil
}

var layoutFilters = map[string]filter{
	"batch": {1, 2, []string{"linecount", "fill_with"}, func(in any, g *given) (any, error) {
		n, l, err := cut(in, g)
		if err != nil {
			return nil, err
		}
		out := []any{}
		for len(l) > 0 {
			row := append([]any{}, l[:min(n, len(l))]...)
			l = l[len(row):]
			for len(g.args) > 1 && g.args[1] != nil && len(row) < n {
				row = append(row, g.args[1])
			}
			out = append(out, row)
		}
		return out, nil
	}},
	"slice": {1, 2, []string{"slices", "fill_with"}, func(in any, g *given) (any, error) {
		n, l, err := cut(in, g)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		each, longer := len(l)/n, len(l)%n
		for i := range out {
			size := each
			if i < longer {
				size++
			}
			column := append([]any{}, l[:size]...)
			l = l[size:]
			if i >= longer && len(g.args) > 1 && g.args[1] != nil {
				column = append(column, g.args[1])
			}
			out[i] = column
		}
		return out, nil
	}},
	"indent":   {0, 3, []string{"width", "first", "blank"}, indent},
	"center":   ofText(0, 1, []string{"width"}, func(s string, g *given) any { return pad(s, g.number(0, 80), " ", 2, g) }),
	"truncate": ofText(0, 4, []string{"length", "killwords", "end", "leeway"}, truncate),
	"wordwrap": ofText(0, 4, []string{"width", "break_long_words", "wrapstring", "break_on_hyphens"}, wordwrap),
	"wordcount": ofText(0, 0, nil, func(s string, _ *given) any {
		n, inside := 0, false
		for _, r := range s {
			if wordly(r) && !inside {
				n++
			}
			inside = wordly(r)
		}
		return n
	}),
	"title": ofText(0, 0, nil, func(s string, _ *given) any {
		begins := true
		return strings.Map(func(r rune) rune {
			was := begins
			if begins = unicode.IsSpace(r) || strings.ContainsRune("-({[<", r); was {
				return unicode.ToTitle(r)
			}
			return unicode.ToLower(r)
		}, s)
	}),
	"pprint":         {0, 1, nil, func(in any, _ *given) (any, error) { return toJSON(in, 2) }},
	"filesizeformat": {0, 1, []string{"binary"}, fileSize},
	"forceescape":    {f: escapeHTML},
}

// flag is argument i as true or false.
func (g *given) flag(i int) bool {
	return i < len(g.args) && truthy(exec.AsValue(g.args[i]))
}

// cut is the list that is to be cut up, and the number that says how.
func cut(in any, g *given) (int, []any, error) {
	n := g.number(0, 0)
	l, err := partsOf(in)
	switch {
	case g.err != nil:
		return 0, nil, g.err
	case err != nil:
		return 0, nil, err
	case l == nil && in != nil:
		return 0, nil, fmt.Errorf("%s is no list", operand(in))
	case n < 1:
		return 0, nil, fmt.Errorf("want a number above 0, got %d", n)
	case n > maxParts:
		return 0, nil, manyParts("the list")
	}
	return n, l, nil
}

// pad fills s up to a width: on the right (0), the left (1), or both (2), as
// Python's ljust, rjust and center do.
func pad(s string, width int, fill string, side int, g *given) string {
	n := width - utf8.RuneCountInString(s)
	if n <= 0 || g.err != nil {
		return s
	}
	if g.err = fits(len(s), n, len(fill)); g.err != nil {
		return ""
	}
	left := []int{0, n, n/2 + n&width&1}[side]
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}

func indent(in any, g *given) (any, error) {
	s, ok := in.(string)
	if !ok && in != nil {
		return nil, fmt.Errorf("want a text, got %s", operand(in))
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	lines := strings.Count(s, "\n") + 1
	by, isText := append(g.args, nil)[0].(string)
	if !isText {
		n := max(g.number(0, 4), 0)
		if g.err != nil {
			return nil, g.err
		}
		if err := fits(len(s), lines, n); err != nil {
			return nil, err
		}
		by = strings.Repeat(" ", n)
	}
	if err := fits(len(s), lines, len(by)); err != nil {
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

func truncate(s string, g *given) any {
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
func wordwrap(s string, g *given) any {
	width, by := g.number(0, 79), g.text(2, "\n")
	long := len(g.args) < 2 || g.args[1] == nil || g.flag(1)
	hyphens := len(g.args) < 4 || g.args[3] == nil || g.flag(3)
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
			if g.err = fits(b.Len()+len(line), 1, len(by)); g.err != nil {
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

// head is the first n characters of s, or s.
func head(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
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

// fileSize is a number of bytes as people write it.
func fileSize(in any, g *given) (any, error) {
	var n float64
	if s, ok := in.(string); ok {
		var err error
		if n, ok, err = parseFloat(s); err != nil || !ok {
			return nil, errors.Join(err, notNumber(in))
		}
	} else if v, ok := numeral(in); ok {
		n, _ = float(v)
	} else {
		return nil, notNumber(in)
	}
	base, suffix := 1000.0, "B"
	prefixes := []string{"k", "M", "G", "T", "P", "E", "Z", "Y"}
	if g.flag(0) {
		base, suffix, prefixes[0] = 1024, "iB", "K"
	}
	switch {
	case n == 1:
		return "1 Byte", nil
	case n < base:
		return fmt.Sprintf("%.0f Bytes", math.Trunc(n)), nil
	}
	i := 0
	for n /= base; n >= base && i+1 < len(prefixes); i++ {
		n /= base
	}
	return fmt.Sprintf("%.1f %s%s", n, prefixes[i], suffix), nil
}

var html = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escapeHTML(in any, _ *given) (any, error) {
	s, err := show(in)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range len(s) {
		if strings.IndexByte(`&<>'"`, s[i]) >= 0 {
			n++
		}
	}
	if err := fits(len(s), n, 4); err != nil {
		return nil, err
	}
	return html.Replace(s), nil
}
