package sim

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"
)

// grammar writes texts of an EBNF grammar in the form that xgrammar and
// llama.cpp read: rules NAME ::= ..., of which root is the first, with "texts",
// [classes], groups, |, *, + and ?.
type grammar struct{ rules map[string]term }

// term writes itself; depth counts the rules around it.
type term interface {
	write(b *strings.Builder, g *grammar, r *random, depth int)
}

type (
	literal  string
	class    struct{ ranges []rune }
	sequence []term
	choices  []term
	rule     string
	repeated struct {
		of    term
		least int
		most  int
	}
)

func (t literal) write(b *strings.Builder, _ *grammar, _ *random, _ int) { b.WriteString(string(t)) }

func (t class) write(b *strings.Builder, _ *grammar, r *random, _ int) {
	b.WriteRune(drawRune(t.ranges, r))
}

func (t sequence) write(b *strings.Builder, g *grammar, r *random, depth int) {
	for _, x := range t {
		x.write(b, g, r, depth)
	}
}

func (t choices) write(b *strings.Builder, g *grammar, r *random, depth int) {
	if depth > 20 { // the first alternative is taken to be the one that ends
		t[0].write(b, g, r, depth)
		return
	}
	t[r.below(len(t))].write(b, g, r, depth)
}

func (t rule) write(b *strings.Builder, g *grammar, r *random, depth int) {
	if depth < 200 && b.Len() < 1<<20 {
		g.rules[string(t)].write(b, g, r, depth+1)
	}
}

func (t repeated) write(b *strings.Builder, g *grammar, r *random, depth int) {
	n := t.least
	if depth <= 20 && t.most > t.least {
		n += r.below(t.most - t.least + 1)
	}
	for range n {
		t.of.write(b, g, r, depth)
	}
}

// write writes a text of the grammar.
func (g *grammar) write(r *random) string {
	var b strings.Builder
	rule("root").write(&b, g, r, 0)
	return b.String()
}

func newGrammar(text string) (*grammar, error) {
	p := &grammarParser{text: text}
	g := &grammar{rules: map[string]term{}}
	for p.space(); p.at < len(p.text); p.space() {
		name := p.name()
		p.space()
		if name == "" || !p.take("::=") {
			return nil, p.fail("want NAME ::= ...")
		}
		t, err := p.alternatives()
		if err != nil {
			return nil, err
		}
		g.rules[name] = t
	}
	if g.rules["root"] == nil {
		return nil, errors.New(`grammar: there is no rule "root"`)
	}
	for _, n := range p.used {
		if g.rules[n] == nil {
			return nil, fmt.Errorf("grammar: there is no rule %q", n)
		}
	}
	return g, nil
}

type grammarParser struct {
	text string
	at   int
	used []string
}

func (p *grammarParser) fail(what string) error {
	line := 1 + strings.Count(p.text[:p.at], "\n")
	return fmt.Errorf("grammar: line %d: %s", line, what)
}

// space skips blanks and comments.
func (p *grammarParser) space() {
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

func (p *grammarParser) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *grammarParser) name() string {
	from := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
		p.at++
	}
	return p.text[from:p.at]
}

func (p *grammarParser) alternatives() (term, error) {
	var all choices
	for {
		s, err := p.sequence()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		if !p.take("|") {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

func (p *grammarParser) sequence() (term, error) {
	var s sequence
	for {
		p.space()
		t, err := p.item()
		if err != nil {
			return nil, err
		}
		if t == nil {
			return s, nil
		}
		switch {
		case p.take("*"):
			t = repeated{t, 0, mostRepeats}
		case p.take("+"):
			t = repeated{t, 1, 1 + mostRepeats}
		case p.take("?"):
			t = repeated{t, 0, 1}
		}
		s = append(s, t)
	}
}

// item reads one item; nil where there is none.
func (p *grammarParser) item() (term, error) {
	if p.at >= len(p.text) {
		return nil, nil
	}
	switch c := p.text[p.at]; {
	case c == '"':
		end := p.at + 1
		for end < len(p.text) && p.text[end] != '"' {
			if p.text[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(p.text) {
			return nil, p.fail("the text does not end")
		}
		s, err := strconv.Unquote(p.text[p.at : end+1])
		if err != nil {
			return nil, p.fail("the text cannot be read")
		}
		p.at = end + 1
		return literal(s), nil
	case c == '[':
		end := strings.IndexByte(p.text[p.at:], ']')
		for end > 0 && p.text[p.at+end-1] == '\\' {
			next := strings.IndexByte(p.text[p.at+end+1:], ']')
			if next < 0 {
				end = -1
				break
			}
			end += 1 + next
		}
		if end < 0 {
			return nil, p.fail("the class does not end")
		}
		t, err := syntax.Parse(p.text[p.at:p.at+end+1], syntax.Perl)
		if err != nil {
			return nil, p.fail(err.Error())
		}
		p.at += end + 1
		if t.Op == syntax.OpLiteral {
			return literal(string(t.Rune)), nil
		}
		return class{t.Rune}, nil
	case c == '(':
		p.at++
		t, err := p.alternatives()
		if err != nil {
			return nil, err
		}
		p.space()
		if !p.take(")") {
			return nil, p.fail("want )")
		}
		return t, nil
	}
	from := p.at
	n := p.name()
	if n == "" {
		if strings.ContainsRune("|)", rune(p.text[p.at])) {
			return nil, nil
		}
		return nil, p.fail(fmt.Sprintf("cannot read %q", p.text[p.at]))
	}
	end := p.at
	p.space()
	if strings.HasPrefix(p.text[p.at:], "::=") { // the next rule
		p.at = from
		return nil, nil
	}
	p.at = end
	p.used = append(p.used, n)
	return rule(n), nil
}
