package lang

import (
	"fmt"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// eval is a compiled expression of a template. What goes wrong is an error as
// value, so that `default` and `is defined` can look at it.
type eval func(*rendering) *exec.Value

// exprs parses the expressions of a tag as Jinja2 does. The library's parser and
// evaluator are not used for them: they take nulls and texts for numbers.
type exprs struct {
	s   *scan
	t   []*tokens.Token // of the tag, the opening one included
	i   int
	end int // where the tag ends in the source
	err *Error
}

func (p *exprs) at(i int) *tokens.Token {
	if p.err != nil || i >= len(p.t) {
		return &tokens.Token{Type: tokens.EOF, Pos: p.end}
	}
	return p.t[i]
}

func (p *exprs) is(types ...tokens.Type) bool {
	now := p.at(p.i).Type
	for _, t := range types {
		if now == t {
			return true
		}
	}
	return false
}

func (p *exprs) word(w string) bool {
	t := p.at(p.i)
	return t.Type == tokens.Name && t.Val == w
}

// take goes past the current token if it is of the type.
func (p *exprs) take(typ tokens.Type) bool {
	if !p.is(typ) {
		return false
	}
	p.i++
	return true
}

func (p *exprs) want(typ tokens.Type, what string) *tokens.Token {
	t := p.at(p.i)
	if t.Type != typ {
		p.unexpected(what)
	}
	p.i++
	return t
}

// unexpected says that something else was wanted here.
func (p *exprs) unexpected(want string) {
	t := p.at(p.i)
	if t.Type == tokens.EOF {
		p.fail(t, "the tag ends too early: "+want+" is missing")
		return
	}
	p.fail(t, fmt.Sprintf("%s is unexpected here, want %s", shown(t), want))
}

func shown(t *tokens.Token) string {
	if t.Type == tokens.String {
		return fmt.Sprintf("the text %.40q", t.Val)
	}
	return fmt.Sprintf("%q", t.Val)
}

func (p *exprs) fail(t *tokens.Token, msg string) {
	if p.err == nil {
		p.err = p.s.errorAt(t, msg)
	}
}

// whole parses up to the end of the tag.
func (p *exprs) whole(f func() eval) eval {
	e := f()
	if !p.is(tokens.EOF) {
		p.unexpected("an operator or the end of the tag")
	}
	return e
}

// tuple is a, b, c without brackets, or a single expression.
func (p *exprs) tuple() eval {
	first := p.expression()
	if !p.is(tokens.Comma) {
		return first
	}
	all := []eval{first}
	for p.take(tokens.Comma) && !p.is(tokens.EOF) {
		all = append(all, p.expression())
	}
	return tupled(list(all))
}

func (p *exprs) expression() eval {
	e := p.or()
	for p.word("if") {
		p.i++
		cond, yes := p.or(), e
		no := constantly(absent{})
		if p.word("else") {
			p.i++
			no = p.expression()
		}
		e = func(x *rendering) *exec.Value {
			c := cond(x)
			switch {
			case c.IsError():
				return c
			case truthy(c):
				return yes(x)
			}
			return no(x)
		}
	}
	return e
}

func (p *exprs) or() eval  { return p.lazy(tokens.Or, p.and, true) }
func (p *exprs) and() eval { return p.lazy(tokens.And, p.not, false) }

// lazy parses `or` and `and`, whose value is that of one side.
func (p *exprs) lazy(typ tokens.Type, next func() eval, decides bool) eval {
	e := next()
	for p.take(typ) {
		left, right := e, next()
		e = func(x *rendering) *exec.Value {
			if v := left(x); v.IsError() || truthy(v) == decides {
				return v
			}
			return right(x)
		}
	}
	return e
}

func (p *exprs) not() eval {
	if !p.take(tokens.Not) {
		return p.compare()
	}
	e := p.not()
	return func(x *rendering) *exec.Value {
		v := e(x)
		if v.IsError() {
			return v
		}
		return exec.AsValue(!truthy(v))
	}
}

// compare parses comparisons; a < b < c holds where both do.
func (p *exprs) compare() eval {
	e := p.sum()
	var holds []eval
	for left := e; ; {
		t := p.at(p.i)
		op, negate := t.Val, false
		switch t.Type {
		case tokens.Equals, tokens.Ne, tokens.LowerThan, tokens.LowerThanOrEqual, tokens.GreaterThan, tokens.GreaterThanOrEqual, tokens.In:
		case tokens.Not:
			if p.at(p.i+1).Type != tokens.In {
				p.unexpected("an operator")
				return e
			}
			p.i++
			op, negate = "in", true
		default:
			if len(holds) == 0 {
				return e
			}
			return all(holds)
		}
		p.i++
		right := p.sum()
		holds = append(holds, p.strict(t, func(a, b any) (any, error) {
			ok, err := related(op, a, b)
			return ok != negate, err
		}, left, right))
		left = right
	}
}

func all(holds []eval) eval {
	if len(holds) == 1 {
		return holds[0]
	}
	return func(x *rendering) *exec.Value {
		for _, h := range holds {
			if v := h(x); v.IsError() || !truthy(v) {
				return v
			}
		}
		return exec.AsValue(true)
	}
}

func (p *exprs) sum() eval {
	return p.operators(p.concat, tokens.Addition, tokens.Subtraction)
}

func (p *exprs) concat() eval { return p.operators(p.product, tokens.Tilde) }

func (p *exprs) product() eval {
	return p.operators(p.power, tokens.Multiply, tokens.Division, tokens.FloorDivision, tokens.Modulo)
}

func (p *exprs) power() eval {
	return p.operators(func() eval { return p.unary(true) }, tokens.Power)
}

func (p *exprs) operators(next func() eval, types ...tokens.Type) eval {
	e := next()
	for p.is(types...) {
		t := p.at(p.i)
		p.i++
		op := t.Val
		e = p.strict(t, func(a, b any) (any, error) { return operate(op, a, b) }, e, next())
	}
	return e
}

// strict is an operator over plain values; its errors tell its place.
func (p *exprs) strict(t *tokens.Token, f func(a, b any) (any, error), left, right eval) eval {
	return func(x *rendering) *exec.Value {
		a := left(x)
		if a.IsError() {
			return a
		}
		b := right(x)
		if b.IsError() {
			return b
		}
		y := unwrap(b)
		if of, ok := b.Interface().(tuple); ok && t.Type == tokens.Modulo {
			y = of
		}
		if v := x.spent(t, operatorCost(t.Type, a, b)); v != nil {
			return v
		}
		v, err := f(unwrap(a), y)
		if err != nil {
			return failure(t, err)
		}
		if v := x.spent(t, cost(v)); v != nil {
			return v
		}
		return exec.AsValue(v)
	}
}

func (p *exprs) unary(filtered bool) eval {
	t := p.at(p.i)
	if t.Type == tokens.Subtraction || t.Type == tokens.Addition {
		p.i++
		zero := constantly(0)
		e := p.strict(t, func(_, b any) (any, error) { return signed(t.Val, b) }, zero, p.unary(false))
		if filtered {
			return p.filters(e)
		}
		return e
	}
	e := p.operand()
	if filtered {
		return p.filters(e)
	}
	return e
}

// filters parses the filters and tests behind an operand.
func (p *exprs) filters(e eval) eval {
	for {
		switch {
		case p.take(tokens.Pipe):
			e = p.filter(e)
		case p.take(tokens.Is):
			e = p.test(e)
		default:
			return e
		}
	}
}

func (p *exprs) filter(in eval) eval {
	t := p.want(tokens.Name, "the name of a filter")
	var args arguments
	if p.take(tokens.LeftParenthesis) {
		args = p.arguments()
	}
	if p.err == nil {
		if msg := filterArity(t.Val, &args); msg != "" {
			p.fail(t, msg)
		}
	}
	lenient := t.Val == "default" || t.Val == "d"
	f, _ := p.s.lang.filters.Get(t.Val)
	return func(x *rendering) *exec.Value {
		v := in(x)
		if v.IsError() && !lenient {
			return v
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		if v := x.spent(t, filterCost(t.Val, v)); v != nil {
			return v
		}
		out := f(&x.Evaluator, v, va)
		if v := x.spent(t, filterCost(t.Val, out)); v != nil {
			return v
		}
		if err, ok := out.Interface().(error); ok && out.IsError() {
			return placed(t, exec.AsValue(fmt.Errorf("%s: %w", t.Val, err)))
		}
		return out
	}
}

func (p *exprs) test(in eval) eval {
	negate := p.take(tokens.Not)
	t := p.at(p.i)
	name := t.Val
	switch t.Type {
	case tokens.Name, tokens.In:
		p.i++
	default:
		p.unexpected("the name of a test")
	}
	var args arguments
	switch {
	case p.take(tokens.LeftParenthesis):
		args = p.arguments()
	case p.is(tokens.String, tokens.Integer, tokens.Float, tokens.LeftBracket, tokens.LeftBrace),
		p.is(tokens.Name) && !p.word("if") && !p.word("else") && !p.word("recursive"):
		args.list = []eval{p.operand()}
	}
	if p.err == nil {
		if msg := testArity(name, &args); msg != "" {
			p.fail(t, msg)
		}
	}
	lenient := name == "defined" || name == "undefined"
	f, _ := p.s.lang.tests.Get(name)
	return func(x *rendering) *exec.Value {
		v := in(x)
		if v.IsError() && !lenient {
			return v
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		for _, a := range va.Args {
			if v := x.spent(t, cost(a)); v != nil {
				return v
			}
		}
		holds, err := x.test(f, v, va)
		if err != nil {
			return failure(t, fmt.Errorf("invalid call to test '%s': %s", name, err.Error()))
		}
		return exec.AsValue(holds != negate)
	}
}

// arguments are those of a call.
type arguments struct {
	list  []eval
	named []named
}

type named struct {
	name string
	eval eval
}

func (a *arguments) values(x *rendering) (*exec.VarArgs, *exec.Value) {
	caller := x.caller
	x.caller = nil // it is not that of a macro called in here
	defer func() { x.caller = caller }()
	va := &exec.VarArgs{Args: make([]*exec.Value, 0, len(a.list))}
	for _, e := range a.list {
		v := e(x)
		if v.IsError() {
			return nil, v
		}
		va.Args = append(va.Args, v)
	}
	if len(a.named) > 0 {
		va.KwArgs = make(map[string]*exec.Value, len(a.named))
	}
	for _, n := range a.named {
		v := n.eval(x)
		if v.IsError() {
			return nil, v
		}
		va.KwArgs[n.name] = v
	}
	return va, nil
}

// arguments parses up to the closing bracket.
func (p *exprs) arguments() (a arguments) {
	for !p.take(tokens.RightParenthesis) && p.err == nil {
		if t := p.at(p.i); t.Type == tokens.Name && p.at(p.i+1).Type == tokens.Assign {
			p.i += 2
			a.named = append(a.named, named{t.Val, p.expression()})
		} else {
			if len(a.named) > 0 {
				p.fail(t, "an argument without a name cannot come after one with a name")
			}
			a.list = append(a.list, p.expression())
		}
		if !p.take(tokens.Comma) && !p.is(tokens.RightParenthesis) {
			p.unexpected("a comma or )")
		}
	}
	return a
}
