package jinja

import (
	"fmt"
	"slices"
	"strconv"

	"matrix/lang/internal/calc"
)

// parser makes steps of a template, and evals of the expressions in its tags.
type parser struct {
	lexer  *lexer
	lang   *Language
	pieces []piece
	next   int // piece
	tag    piece
	i      int // the next token of the tag
	err    *Error

	names map[string]*known

	depth   int      // tags around
	loops   int      // of these, those that break and continue may mean
	unsure  int      // of what is around, how much may not be evaluated
	asks    bool     // inside the condition of an if
	macros  []*macro // around
	made    int      // macros so far
	uses    []*Use
	changed []token // names of which a field is set
}

// known is a name in a template.
type known struct {
	number int
	tagged bool // a tag sets it
	set    bool // a tag or a method sets it, which is known at the end
}

func newParser(src string, l *Language) *parser {
	return &parser{lexer: newLexer(src), lang: l, names: map[string]*known{}}
}

func (p *parser) named(name string) *known {
	k := p.names[name]
	if k == nil {
		k = &known{number: len(p.names)}
		p.names[name] = k
	}
	return k
}

// define notes that a tag sets the name, and returns its number.
func (p *parser) define(name string) int {
	k := p.named(name)
	k.tagged, k.set = true, true
	return k.number
}

func (p *parser) at(i int) token {
	if p.err != nil || i < 0 || i >= len(p.tag.tokens) {
		return token{at: p.tag.end}
	}
	return p.tag.tokens[i]
}

func (p *parser) now() token { return p.at(p.i) }

func (t token) is(vals ...string) bool { return t.kind == symbol && slices.Contains(vals, t.val) }

func (t token) word(vals ...string) bool { return t.kind == name && slices.Contains(vals, t.val) }

// take goes past the current token if it is the symbol.
func (p *parser) take(val string) bool {
	if !p.now().is(val) {
		return false
	}
	p.i++
	return true
}

// takeWord goes past the current token if it is the word.
func (p *parser) takeWord(val string) bool {
	if !p.now().word(val) {
		return false
	}
	p.i++
	return true
}

func (p *parser) want(val string) token {
	t := p.now()
	if !t.is(val) {
		p.unexpected(val)
	}
	p.i++
	return t
}

func (p *parser) wantName(what string) token {
	t := p.now()
	if t.kind != name {
		p.unexpected(what)
	}
	p.i++
	return t
}

// unexpected says that something else was wanted here.
func (p *parser) unexpected(want string) {
	t := p.now()
	switch t.kind {
	case none:
		p.fail(t.at, "the tag ends too early: %s is missing", want)
	case text:
		p.fail(t.at, "the text %.40q is unexpected here, want %s", t.val, want)
	default:
		p.fail(t.at, "%q is unexpected here, want %s", t.val, want)
	}
}

func (p *parser) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = p.lexer.errorAt(at, format, args...)
	}
}

// end wants the tag to be over.
func (p *parser) end(what string) {
	if p.err == nil && p.now().kind != none {
		p.unexpected(what)
	}
}

// whole parses a tuple up to the end of the tag.
func (p *parser) whole() eval {
	e := p.tuple()
	p.end("an operator or the end of the tag")
	return e
}

// perhaps parses what may not be evaluated.
func (p *parser) perhaps(f func() eval) eval {
	p.unsure++
	e := f()
	p.unsure--
	return e
}

func constantly(v any) eval {
	return func(*rendering) (any, error) { return v, nil }
}

// tuple is a, b, c without brackets, or a single expression.
func (p *parser) tuple() eval {
	first := p.expression()
	if !p.now().is(",") {
		return first
	}
	all := []eval{first}
	for p.take(",") && p.now().kind != none && !p.now().is("]", ")") {
		all = append(all, p.expression())
	}
	return tupled(all)
}

func (p *parser) expression() eval {
	from := len(p.uses)
	e := p.or()
	for p.takeWord("if") {
		cond, yes, no := p.or(), e, constantly(Absent)
		if p.takeWord("else") {
			no = p.expression()
		}
		for _, u := range p.uses[from:] {
			u.Sure = false
		}
		e = func(r *rendering) (any, error) {
			c, err := cond(r)
			switch {
			case err != nil:
				return nil, err
			case truthy(c):
				return yes(r)
			}
			return no(r)
		}
	}
	return e
}

func (p *parser) or() eval  { return p.lazy("or", p.and, true) }
func (p *parser) and() eval { return p.lazy("and", p.not, false) }

// lazy parses `or` and `and`, whose value is that of one side.
func (p *parser) lazy(op string, next func() eval, decides bool) eval {
	e := next()
	for p.takeWord(op) {
		left, right := e, p.perhaps(next)
		e = func(r *rendering) (any, error) {
			if v, err := left(r); err != nil || truthy(v) == decides {
				return v, err
			}
			return right(r)
		}
	}
	return e
}

func (p *parser) not() eval {
	if !p.takeWord("not") {
		return p.comparison()
	}
	e := p.not()
	return func(r *rendering) (any, error) {
		v, err := e(r)
		return !truthy(v), err
	}
}

// comparison parses comparisons; a < b < c holds where both do.
func (p *parser) comparison() eval {
	e := p.sum()
	var all []eval
	for left := e; ; {
		t := p.now()
		op, negate := t.val, false
		switch {
		case t.is("==", "!=", "<", "<=", ">", ">="), t.word("in"):
		case t.word("not") && p.at(p.i+1).word("in"):
			p.i++
			op, negate = "in", true
		default:
			switch len(all) {
			case 0:
				return e
			case 1:
				return all[0]
			}
			return conjunction(all)
		}
		asked, from := p.at(p.i-1), len(p.uses)
		p.i++
		right := p.sum()
		if op == "in" && !negate && asked.kind == text && len(p.uses) == from+1 && p.at(p.i-1).kind == name && len(p.uses[from].Path) == 0 {
			p.uses[from].In = asked.val
		}
		all = append(all, binary(t.at, func(r *rendering, a, b any) (any, error) {
			ok, err := r.related(op, bare(a), bare(b))
			return ok != negate, err
		}, left, right))
		left = right
	}
}

func conjunction(all []eval) eval {
	return func(r *rendering) (any, error) {
		for _, e := range all {
			if v, err := e(r); err != nil || !truthy(v) {
				return v, err
			}
		}
		return true, nil
	}
}

func (p *parser) sum() eval     { return p.operators(p.concat, "+", "-") }
func (p *parser) concat() eval  { return p.operators(p.product, "~") }
func (p *parser) product() eval { return p.operators(p.power, "*", "/", "//", "%") }
func (p *parser) power() eval {
	return p.operators(func() eval { return p.unary(true) }, "**")
}

func (p *parser) operators(next func() eval, ops ...string) eval {
	e := next()
	for p.now().is(ops...) {
		t := p.now()
		p.i++
		e = binary(t.at, func(r *rendering, a, b any) (any, error) {
			a, b = bare(a), bare(b)
			if err := r.spend(cost(a) + cost(b)); err != nil {
				return nil, err
			}
			v, err := operate(t.val, a, b)
			if err != nil {
				return nil, err
			}
			return v, r.spend(cost(v))
		}, e, next())
	}
	return e
}

// binary is what f makes of two values; its errors tell its place.
func binary(at int, f func(r *rendering, a, b any) (any, error), left, right eval) eval {
	return func(r *rendering) (any, error) {
		a, err := left(r)
		if err != nil {
			return nil, err
		}
		b, err := right(r)
		if err != nil {
			return nil, err
		}
		v, err := f(r, a, b)
		return v, placed(at, err)
	}
}

// then is what f makes of a value.
func then(at int, of eval, f func(r *rendering, v any) (any, error)) eval {
	return func(r *rendering) (any, error) {
		v, err := of(r)
		if err != nil {
			return nil, err
		}
		v, err = f(r, v)
		return v, placed(at, err)
	}
}

func (p *parser) unary(filtered bool) eval {
	t := p.now()
	var e eval
	if t.is("-", "+") {
		p.i++
		e = then(t.at, p.unary(false), func(_ *rendering, v any) (any, error) { return calc.Signed(t.val, bare(v)) })
	} else {
		e = p.operand()
	}
	for filtered {
		switch {
		case p.take("|"):
			e = p.filter(e)
		case p.takeWord("is"):
			e = p.test(e)
		default:
			return e
		}
	}
	return e
}

func (p *parser) primary() eval {
	t := p.now()
	p.i++
	switch t.kind {
	case name:
		switch t.val {
		case "true", "True":
			return constantly(true)
		case "false", "False":
			return constantly(false)
		case "none", "None", "nil":
			return constantly(nil)
		case "if", "else", "in", "is", "and", "or", "not":
			p.i--
			p.unexpected("a value")
		}
		return p.variable(t)
	case text:
		s := t.val
		for p.now().kind == text {
			s += p.now().val
			p.i++
		}
		return constantly(s)
	case integer:
		n, err := strconv.ParseInt(t.val, 0, 64)
		if err != nil {
			p.fail(t.at, "this is not a number that can be used: %s", t.val)
		}
		return constantly(int(n))
	case decimal:
		f, err := strconv.ParseFloat(t.val, 64)
		if err != nil {
			p.fail(t.at, "this is not a number that can be used: %s", t.val)
		}
		return constantly(f)
	}
	switch {
	case t.is("("):
		if p.take(")") {
			return tupled(nil)
		}
		e := p.tuple()
		p.want(")")
		return e
	case t.is("["):
		return list(p.elements("]", func() eval { return p.expression() }))
	case t.is("{"):
		var values []eval
		keys := p.elements("}", func() eval {
			key := p.expression()
			p.want(":")
			values = append(values, p.expression())
			return key
		})
		return dict(t.at, keys, values)
	}
	p.i--
	p.unexpected("a value")
	return constantly(nil)
}

// elements parses what stands between commas up to the closing bracket.
func (p *parser) elements(end string, one func() eval) []eval {
	var all []eval
	for !p.take(end) && p.err == nil {
		all = append(all, one())
		if !p.take(",") && !p.now().is(end) {
			p.unexpected("a comma or " + end)
		}
	}
	return all
}

func dict(at int, keys, values []eval) eval {
	return func(r *rendering) (any, error) {
		d := NewDict()
		for i := range keys {
			k, err := keys[i](r)
			if err != nil {
				return nil, err
			}
			v, err := values[i](r)
			if err != nil {
				return nil, err
			}
			if err := d.set(bare(k), v); err != nil {
				return nil, placed(at, err)
			}
		}
		return d, nil
	}
}

func valuesOf(r *rendering, all []eval) ([]any, error) {
	out := make([]any, len(all))
	for i, e := range all {
		var err error
		if out[i], err = e(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func list(all []eval) eval {
	return func(r *rendering) (any, error) {
		out, err := valuesOf(r, all)
		return &List{out}, err
	}
}

func tupled(all []eval) eval {
	return func(r *rendering) (any, error) {
		out, err := valuesOf(r, all)
		return Tuple(out), err
	}
}

// variable looks a name up when it is needed: a tag may have set it.
func (p *parser) variable(t token) eval {
	p.use(t)
	for _, m := range p.macros {
		m.sees(t.val)
	}
	known := p.named(t.val)
	function := p.lang.Functions[t.val]
	if function == nil {
		function = builtins[t.val]
	}
	if slices.Contains(p.lang.Names, t.val) { // which hides it
		function = nil
	}
	return func(r *rendering) (any, error) {
		if known.set {
			if v, ok := r.scope.get(known.number); ok {
				if err, failed := v.(error); failed {
					return nil, placed(t.at, err)
				}
				return v, nil
			}
		}
		if function != nil {
			return function, nil
		}
		if v, ok := r.env.Lookup(t.val); ok {
			return v, nil
		}
		return nil, placed(t.at, fmt.Errorf("%s has no value here", t.val))
	}
}

func keysOf[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func unknown(what, word string, known []string) string {
	return "unknown " + what + " " + word + calc.DidYouMean(word, known)
}
