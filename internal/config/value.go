package config

import (
	"strconv"
	"strings"
	"unicode"
)

// valueParser reads the value of an override: a list [a, b], a map {k: v}, a
// quoted text, or else a plain scalar to the end of the argument.
type valueParser struct {
	src  *source
	line int
	text []rune
	i    int
}

func (p *valueParser) pos() Pos { return p.src.pos(p.line, p.i+1) }

func (p *valueParser) errorf(format string, args ...any) *Error {
	return errorAt(p.pos(), "", format, args...)
}

func (p *valueParser) peek() rune {
	if p.i < len(p.text) {
		return p.text[p.i]
	}
	return 0
}

func (p *valueParser) has(prefix string) bool {
	return strings.HasPrefix(string(p.text[p.i:min(len(p.text), p.i+len(prefix))]), prefix)
}

func (p *valueParser) space() {
	for p.i < len(p.text) && unicode.IsSpace(p.text[p.i]) {
		p.i++
	}
}

func (p *valueParser) top() (*node, *Error) {
	start := p.i
	switch c := p.peek(); {
	case c == '[', c == '{' && !p.has("{{") && !p.has("{%") && !p.has("{#"):
		n, err := p.value()
		if err != nil {
			err.Msg += "; quote a text that begins with a bracket"
			return nil, err
		}
		if p.space(); p.i < len(p.text) {
			return nil, p.errorf("unexpected %q behind the value", string(p.text[p.i:]))
		}
		return n, nil
	case c == '"', c == '\'':
		if n, err := p.quoted(); err == nil && p.i == len(p.text) {
			return n, nil
		}
		p.i = start // an expression such as 'a' in item.x
	}
	n := newNode(String, p.src, p.pos())
	rest := string(p.text[start:])
	if file, ok := strings.CutPrefix(rest, "!file "); ok {
		n.file, n.text = true, strings.TrimSpace(file)
		return n, nil
	}
	if n.setText(rest); rest == "" {
		n.kind = String
	}
	return n, nil
}

func (p *valueParser) value() (*node, *Error) {
	p.space()
	switch p.peek() {
	case '[':
		return p.list()
	case '{':
		return p.mapping()
	case '"', '\'':
		return p.quoted()
	}
	return p.bare(",]}")
}

func (p *valueParser) list() (*node, *Error) {
	n := newNode(List, p.src, p.pos())
	return n, p.each(']', "list", func() *Error {
		item, err := p.value()
		n.items = append(n.items, item)
		return err
	})
}

func (p *valueParser) mapping() (*node, *Error) {
	n := newNode(Map, p.src, p.pos())
	return n, p.each('}', "map", func() *Error {
		var key *node
		var err *Error
		at := p.pos()
		if c := p.peek(); c == '"' || c == '\'' {
			key, err = p.quoted()
		} else {
			key, err = p.bare(":,]}")
		}
		if err != nil {
			return err
		}
		if p.space(); p.peek() != ':' {
			return p.errorf("expected : behind the key %q", key.text)
		}
		if n.get(key.text) != nil {
			return errorAt(at, "", "key %q is given twice", key.text)
		}
		p.i++
		v, err := p.value()
		n.set(entry{name: key.text, pos: at, node: v})
		return err
	})
}

// each has f read what stands between commas in a list or a map, up to its end.
func (p *valueParser) each(end rune, what string, f func() *Error) *Error {
	for p.i++; ; p.i++ {
		if p.space(); p.peek() != end {
			if err := f(); err != nil {
				return err
			}
			p.space()
		}
		switch p.peek() {
		case end:
			p.i++
			return nil
		case ',':
		default:
			return p.errorf("expected , or %c in the %s", end, what)
		}
	}
}

// bare reads up to one of the ends, but over references.
func (p *valueParser) bare(ends string) (*node, *Error) {
	n := newNode(String, p.src, p.pos())
	start, depth := p.i, 0
	for p.i < len(p.text) {
		c := p.text[p.i]
		if p.has("${") {
			depth++
			p.i += 2
			continue
		}
		if depth > 0 {
			if c == '}' {
				depth--
			}
		} else if strings.ContainsRune(ends, c) {
			break
		}
		p.i++
	}
	text := strings.TrimRightFunc(string(p.text[start:p.i]), unicode.IsSpace)
	if text == "" {
		return nil, p.errorf("a value is missing")
	}
	n.setText(text)
	return n, nil
}

// quoted reads '...' with ” for a quote, or "..." with the escapes of YAML.
func (p *valueParser) quoted() (*node, *Error) {
	n := newNode(String, p.src, p.pos())
	quote := p.text[p.i]
	var b strings.Builder
	for p.i++; p.i < len(p.text); p.i++ {
		c := p.text[p.i]
		switch {
		case c == quote && quote == '\'' && p.i+1 < len(p.text) && p.text[p.i+1] == quote:
			p.i++
			b.WriteRune(c)
		case c == quote:
			p.i++
			n.text = b.String()
			return n, nil
		case c == '\\' && quote == '"':
			r, err := p.escape()
			if err != nil {
				return nil, err
			}
			b.WriteRune(r)
		default:
			b.WriteRune(c)
		}
	}
	return nil, errorAt(n.pos, "", "the quote %c is not closed", quote)
}

func (p *valueParser) escape() (rune, *Error) {
	simple := map[rune]rune{'n': '\n', 't': '\t', 'r': '\r', '0': 0, 'a': 7, 'b': 8, 'v': 11, 'f': 12, 'e': 27,
		'"': '"', '\'': '\'', '\\': '\\', '/': '/', ' ': ' '}
	p.i++
	c := p.peek()
	if r, ok := simple[c]; ok && p.i < len(p.text) {
		return r, nil
	}
	if width := map[rune]int{'x': 2, 'u': 4, 'U': 8}[c]; width > 0 && p.i+width < len(p.text) {
		if v, err := strconv.ParseUint(string(p.text[p.i+1:p.i+1+width]), 16, 32); err == nil {
			p.i += width
			return []rune(string(rune(v)))[0], nil
		}
	}
	return 0, p.errorf(`\%c is not an escape; write \\ for a backslash`, c)
}
