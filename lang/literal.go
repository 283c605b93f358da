package lang

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

func constantly(v any) eval {
	return func(*rendering) *exec.Value { return exec.AsValue(v) }
}

func (p *exprs) primary() eval {
	t := p.at(p.i)
	p.i++
	switch t.Type {
	case tokens.Name:
		switch t.Val {
		case "true", "True":
			return constantly(true)
		case "false", "False":
			return constantly(false)
		case "none", "None", "nil":
			return constantly(nil)
		case "if", "else":
			p.i--
			p.unexpected("a value")
		}
		return p.variable(t)
	case tokens.String:
		s := p.text(t)
		for p.is(tokens.String) {
			s += p.text(p.at(p.i))
			p.i++
		}
		return constantly(s)
	case tokens.Integer:
		n, err := strconv.ParseInt(strings.ReplaceAll(t.Val, "_", ""), 0, 64)
		if err != nil {
			p.fail(t, "this is no number that can be used: "+t.Val)
		}
		return constantly(int(n))
	case tokens.Float:
		f, err := strconv.ParseFloat(strings.ReplaceAll(t.Val, "_", ""), 64)
		if err != nil {
			p.fail(t, "this is no number that can be used: "+t.Val)
		}
		return constantly(f)
	case tokens.LeftParenthesis:
		if p.take(tokens.RightParenthesis) {
			return tupled(list(nil))
		}
		e := p.expression()
		if p.is(tokens.Comma) {
			all := []eval{e}
			for p.take(tokens.Comma) && !p.is(tokens.RightParenthesis) {
				all = append(all, p.expression())
			}
			e = tupled(list(all))
		}
		p.want(tokens.RightParenthesis, ")")
		return e
	case tokens.LeftBracket:
		var all []eval
		for !p.take(tokens.RightBracket) && p.err == nil {
			all = append(all, p.expression())
			if !p.take(tokens.Comma) && !p.is(tokens.RightBracket) {
				p.unexpected("a comma or ]")
			}
		}
		return list(all)
	case tokens.LeftBrace:
		return p.dict()
	}
	p.i--
	p.unexpected("a value")
	return constantly(nil)
}

func (p *exprs) dict() eval {
	var keys, values []eval
	for !p.take(tokens.RightBrace) && p.err == nil {
		keys = append(keys, p.expression())
		p.want(tokens.Colon, "a colon")
		values = append(values, p.expression())
		if !p.take(tokens.Comma) && !p.is(tokens.RightBrace) {
			p.unexpected("a comma or }")
		}
	}
	return func(x *rendering) *exec.Value {
		d := exec.NewDict()
		for i := range keys {
			k := keys[i](x)
			if k.IsError() {
				return k
			}
			v := values[i](x)
			if v.IsError() {
				return v
			}
			d.Pairs = append(d.Pairs, &exec.Pair{Key: k, Value: v})
		}
		return exec.AsValue(d)
	}
}

func list(all []eval) eval {
	return func(x *rendering) *exec.Value {
		out := make([]any, len(all))
		for i, e := range all {
			v := e(x)
			if v.IsError() {
				return v
			}
			out[i] = v.Interface()
		}
		return exec.AsValue(out)
	}
}

func tupled(e eval) eval {
	return func(x *rendering) *exec.Value {
		v := e(x)
		if l, ok := v.Interface().([]any); ok {
			return exec.AsValue(tuple(l))
		}
		return v
	}
}

var escapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"", '\n': "", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v"}

// text is a literal as Python reads it: an escape that it does not know stays.
func (p *exprs) text(t *tokens.Token) string {
	src := p.s.src
	if t.Pos >= len(src) || src[t.Pos] != '"' && src[t.Pos] != '\'' {
		return t.Val
	}
	var b strings.Builder
	quote := src[t.Pos]
	for i := t.Pos + 1; i < len(src) && src[i] != quote; i++ {
		if src[i] != '\\' || i+1 >= len(src) {
			b.WriteByte(src[i])
			continue
		}
		i++
		if s, ok := escapes[src[i]]; ok {
			b.WriteString(s)
			continue
		}
		if n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[src[i]]; n > 0 && i+n < len(src) {
			if r, err := strconv.ParseUint(src[i+1:i+1+n], 16, 32); err == nil && utf8.ValidRune(rune(r)) {
				b.WriteRune(rune(r))
				i += n
				continue
			}
		}
		b.WriteByte('\\')
		b.WriteByte(src[i])
	}
	return b.String()
}
