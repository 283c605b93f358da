package grammar

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	deepest = 1000    // groups and repetitions inside each other
	maxOnes = 1 << 20 // the largest number in {m,n}
)

// rule is a rule as it was read.
type rule struct {
	name string
	at   int  // where the name stands
	body node // nil: it is only referred to so far
}

// node is a part of a rule.
type node interface{}

type (
	literal []rune
	class   struct {
		text  string // as it was written
		ascii [2]uint64
		runes []rune // pairs, from and to, in order
	}
	reference struct{ rule int }
	sequence  []node
	choice    []node
	repeat    struct {
		of    node
		least int
		most  int // -1: no end
	}
)

type parser struct {
	text   string
	at     int
	depth  int
	rules  []rule
	index  map[string]int // rules by name
	dotted map[string]bool
}

// bad says what is wrong at a byte of the text.
func (p *parser) bad(at int, format string, args ...any) error {
	line, char := place(p.text, at)
	return &Error{Line: line, Char: char, Msg: fmt.Sprintf(format, args...)}
}

// foreign says that something at a byte of the text is not read here.
func (p *parser) foreign(at int, format string, args ...any) error {
	line, char := place(p.text, at)
	return &Error{Line: line, Char: char, Msg: fmt.Sprintf(format, args...), Foreign: true}
}

var (
	dottedRule = regexp.MustCompile(`([\w.-]*\.[\w.-]*)\s*::=`)
	attributed = regexp.MustCompile(`^\[[^\]\n]*\]\s*::=`)
	larkRule   = regexp.MustCompile(`(?m)^\s*[?!]*[A-Za-z_]\w*(\.\d+)?(\{[^}\n]*\}|\[[^\]\n]*\])?\s*:`)
)

func parse(text string) (*parser, error) {
	p := &parser{text: text, index: map[string]int{}, dotted: map[string]bool{}}
	for at, c := range text {
		if _, size := utf8.DecodeRuneInString(text[at:]); c == utf8.RuneError && size == 1 {
			return nil, p.bad(at, "the grammar is not valid UTF-8")
		}
	}
	if m := larkRule.FindStringIndex(text); m != nil && !strings.Contains(text, "::=") {
		at := m[0] + len(text[m[0]:m[1]]) - len(strings.TrimLeft(text[m[0]:m[1]], " \t\r\n"))
		return nil, p.foreign(at, "this is Lark's notation (NAME: ...), want NAME ::= ...")
	}
	for _, m := range dottedRule.FindAllStringSubmatch(text, -1) {
		p.dotted[m[1]] = true
	}
	for p.space(); p.at < len(text); p.space() {
		at := p.at
		name := p.name()
		p.space()
		if err := p.attributes(); err != nil {
			return nil, err
		}
		if name == "" || !p.take("::=") {
			return nil, p.bad(at, "want NAME ::= ...")
		}
		i := p.rule(name, at)
		if p.rules[i].body != nil {
			return nil, p.bad(at, "there is a rule %q already", name)
		}
		body, err := p.choice()
		if err != nil {
			return nil, err
		}
		if p.at < len(text) && text[p.at] == ')' {
			return nil, p.bad(p.at, "this ) ends no group")
		}
		p.rules[i].body = body
	}
	if _, ok := p.index["root"]; !ok {
		return nil, p.bad(0, "there is no rule \"root\", which is the whole reply: want root ::= ...")
	}
	for _, r := range p.rules {
		if r.body == nil {
			if slices.Contains([]string{"TagDispatch", "TokenTagDispatch", "Token", "ExcludeToken", "Regex"}, r.name) {
				return nil, p.foreign(r.at, "there is no rule %q, and xgrammar's macro of that name is not understood", r.name)
			}
			return nil, p.bad(r.at, "there is no rule %q", r.name)
		}
	}
	return p, nil
}

// rule is the number of a rule, which stands at a place for the first time.
func (p *parser) rule(name string, at int) int {
	i, ok := p.index[name]
	if !ok {
		i = len(p.rules)
		p.index[name] = i
		p.rules = append(p.rules, rule{name: name, at: at})
	}
	return i
}

// space skips blanks and comments.
func (p *parser) space() {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			p.at++
		case c == '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *parser) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) name() string {
	from := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if c != '_' && c != '-' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
		p.at++
	}
	s := p.text[from:p.at]
	if dot := strings.IndexByte(s, '.'); dot >= 0 && !p.dotted[s] {
		p.at = from + dot
	}
	return p.text[from:p.at]
}

// attributes refuses what xgrammar reads behind the name of a rule.
func (p *parser) attributes() error {
	if attributed.MatchString(p.text[p.at:]) {
		return p.foreign(p.at, "attributes of a rule, as [temperature=0.7], are not understood")
	}
	return nil
}

// choice reads alternatives.
func (p *parser) choice() (node, error) {
	if p.depth++; p.depth > deepest {
		return nil, p.foreign(p.at, "more than %d groups inside each other", deepest)
	}
	defer func() { p.depth-- }()
	var all choice
	for {
		s, err := p.sequence()
		if err != nil {
			return nil, err
		}
		if all = append(all, s); !p.take("|") {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

func (p *parser) sequence() (node, error) {
	var s sequence
	for {
		p.space()
		n, err := p.item()
		if err != nil || n == nil {
			return s, err
		}
		for stacked := 0; ; stacked++ {
			p.space()
			r := repeat{of: n}
			switch at := p.at; {
			case p.take("*"):
				r.most = -1
			case p.take("+"):
				r.least, r.most = 1, -1
			case p.take("?"):
				r.most = 1
			case p.take("{"):
				if r.least, r.most, err = p.times(at); err != nil {
					return nil, err
				}
			default:
				r.of = nil
			}
			if r.of == nil {
				break
			}
			if n = r; p.depth+stacked > deepest {
				return nil, p.bad(p.at, "more than %d repetitions of each other", deepest)
			}
		}
		s = append(s, n)
	}
}

// times reads {m,n} behind its brace.
func (p *parser) times(at int) (least, most int, err error) {
	number := func() (n int, ok bool) {
		p.space()
		for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
			n, ok = min(n*10+int(p.text[p.at]-'0'), maxOnes+1), true
			p.at++
		}
		p.space()
		return n, ok
	}
	least, first := number()
	most, second := least, first
	if p.take(",") {
		if most, second = number(); !second {
			most = -1
		}
	}
	switch {
	case !p.take("}") || !first && !second:
		return 0, 0, p.bad(at, "want {m}, {m,}, {m,n} or {,n}")
	case most >= 0 && most < least:
		return 0, 0, p.bad(at, "the repetition is from %d to %d times", least, most)
	case max(least, most) > maxOnes:
		return 0, 0, p.foreign(at, "the repetition is of more than %d times", maxOnes)
	}
	return least, most, nil
}

// item reads one item; nil where there is none.
func (p *parser) item() (node, error) {
	if p.at >= len(p.text) {
		return nil, nil
	}
	at := p.at
	switch p.text[at] {
	case '"':
		return p.literal()
	case '[':
		return p.class()
	case '.':
		if name := p.name(); name != "" { // a rule whose name begins with a dot
			break
		}
		p.at++
		return newClass(".", []rune{0, utf8.MaxRune}, false), nil
	case '(':
		if p.take("(=") {
			return nil, p.foreign(at, "a lookahead (= ...) is not understood")
		}
		p.at++
		n, err := p.choice()
		if err != nil {
			return nil, err
		}
		if !p.take(")") {
			return nil, p.bad(at, "this group has no end: want )")
		}
		return n, nil
	case '|', ')':
		return nil, nil
	case '<', '!':
		return nil, p.foreign(at, "tokens, as <...>, are not understood")
	case '\'':
		return nil, p.bad(at, "a text stands in double quotes")
	case '*', '+', '?', '{':
		return nil, p.bad(at, "there is nothing to repeat before %q", p.text[at])
	}
	p.at = at
	name := p.name()
	if name == "" {
		c, _ := utf8.DecodeRuneInString(p.text[at:])
		return nil, p.bad(at, "cannot read %q", c)
	}
	if err := p.attributes(); err != nil {
		return nil, err
	}
	end := p.at
	p.space()
	if strings.HasPrefix(p.text[p.at:], "::=") { // the next rule
		p.at = at
		return nil, nil
	}
	p.at = end
	return reference{p.rule(name, at)}, nil
}

func (p *parser) literal() (node, error) {
	at := p.at
	p.at++
	var s literal
	for p.at < len(p.text) {
		if p.take(`"`) {
			return s, nil
		}
		c, err := p.char()
		if err != nil {
			return nil, err
		}
		s = append(s, c)
	}
	return nil, p.bad(at, "this text has no end: want \"")
}

func (p *parser) class() (node, error) {
	at := p.at
	p.at++
	negated := p.take("^")
	var ranges []rune
	for p.at < len(p.text) {
		if p.take("]") {
			c := newClass(p.text[at:p.at], ranges, negated)
			if len(c.runes) == 0 {
				return nil, p.bad(at, "no character is in the class %s", c.text)
			}
			return c, nil
		}
		from := p.at
		lo, err := p.char()
		if err != nil {
			return nil, err
		}
		hi := lo
		if rest := p.text[p.at:]; len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
			p.at++
			if hi, err = p.char(); err != nil {
				return nil, err
			}
			if hi < lo {
				return nil, p.bad(from, "the range %s is none", p.text[from:p.at])
			}
		}
		ranges = append(ranges, lo, hi)
	}
	return nil, p.bad(at, "this class has no end: want ]")
}

// char reads a character of a text or a class.
func (p *parser) char() (c rune, err error) {
	at := p.at
	c, size := utf8.DecodeRuneInString(p.text[at:])
	if p.at += size; c != '\\' {
		return c, nil
	}
	if p.at >= len(p.text) {
		return 0, p.bad(at, "there is nothing behind the \\")
	}
	kind := p.text[p.at]
	p.at++
	if digits := strings.IndexByte("..x.u...U", kind); digits > 0 {
		end := p.at + digits
		n, err := strconv.ParseUint(p.text[p.at:min(end, len(p.text))], 16, 32)
		if err != nil || end > len(p.text) {
			return 0, p.bad(at, "want %d hexadecimal digits of a character behind \\%c", digits, kind)
		}
		p.at = end
		if kind == 'x' && end < len(p.text) && strings.IndexByte("0123456789abcdefABCDEF", p.text[end]) >= 0 {
			return 0, p.bad(at, "servers do not agree on how many digits belong to %s: want \\uHHHH or \\UHHHHHHHH", p.text[at:end+1])
		}
		if n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			return 0, p.bad(at, "%s is not a character", p.text[at:end])
		}
		return rune(n), nil
	}
	if i := strings.IndexByte("nrtbfvae0", kind); i >= 0 {
		return rune("\n\r\t\b\f\v\a\x1b\x00"[i]), nil
	}
	if strings.IndexByte("dwsDWS", kind) >= 0 {
		return 0, p.bad(at, "no server reads \\%c: want its characters, as [0-9]", kind)
	}
	if kind > ' ' && kind < 0x7f && (kind|0x20 < 'a' || kind|0x20 > 'z') && (kind < '0' || kind > '9') {
		return rune(kind), nil
	}
	p.at = at + 1
	c, _ = utf8.DecodeRuneInString(p.text[p.at:])
	return 0, p.bad(at, "there is no escape \\%c", c)
}

func newClass(text string, ranges []rune, negated bool) *class {
	c := &class{text: text, runes: normal(ranges, negated)}
	for r := range rune(128) {
		if within(c.runes, r) {
			c.ascii[r>>6] |= 1 << (r & 63)
		}
	}
	return c
}

// normal puts ranges in order, and joins what touches; surrogates, which are no
// characters, are taken out.
func normal(ranges []rune, negated bool) []rune {
	type span struct{ lo, hi rune }
	spans := make([]span, 0, len(ranges)/2+1)
	for i := 0; i < len(ranges); i += 2 {
		spans = append(spans, span{ranges[i], ranges[i+1]})
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.lo - b.lo) })
	var in []span
	for _, s := range spans {
		if n := len(in); n > 0 && s.lo <= in[n-1].hi+1 {
			in[n-1].hi = max(in[n-1].hi, s.hi)
			continue
		}
		in = append(in, s)
	}
	if negated {
		out, next := []span(nil), rune(0)
		for _, s := range in {
			if s.lo > next {
				out = append(out, span{next, s.lo - 1})
			}
			next = s.hi + 1
		}
		if next <= utf8.MaxRune {
			out = append(out, span{next, utf8.MaxRune})
		}
		in = out
	}
	var flat []rune
	for _, s := range in {
		if lo, hi := s.lo, min(s.hi, 0xd7ff); lo <= hi {
			flat = append(flat, lo, hi)
		}
		if lo, hi := max(s.lo, 0xe000), s.hi; lo <= hi {
			flat = append(flat, lo, hi)
		}
	}
	return flat
}

func (c *class) has(r rune) bool {
	if r < 128 {
		return c.ascii[r>>6]>>(r&63)&1 != 0
	}
	return within(c.runes, r)
}

// within reports whether r is in one of the ranges, which are in order.
func within(ranges []rune, r rune) bool {
	i := sort.Search(len(ranges)/2, func(i int) bool { return r <= ranges[2*i+1] })
	return 2*i < len(ranges) && r >= ranges[2*i]
}
