package lang

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// builder makes the steps of a template from its tokens.
type builder struct {
	s     *scan
	i     int // the next token
	depth int // tags around
	loops int // of these, those that break and continue may mean
	err   *Error
}

func (s *scan) build() ([]step, error) {
	b := &builder{s: s}
	steps, _ := b.body(&exprs{s: s})
	if b.err != nil {
		return nil, b.err
	}
	return steps, nil
}

// body makes the steps behind the tag p, up to the next tag that until names,
// and returns that tag.
func (b *builder) body(p *exprs, until ...string) ([]step, *exprs) {
	var steps []step
	if b.depth++; b.depth > maxNesting {
		p.fail(p.at(0), fmt.Sprintf("tags are nested more than %d deep", maxNesting))
	}
	defer func() { b.depth-- }()
	for b.err = p.err; b.err == nil && b.i < len(b.s.all); {
		t := b.s.all[b.i]
		b.i++
		switch t.Type {
		case tokens.Data:
			steps = append(steps, literal(b.trimmed(t)))
		case tokens.CommentBegin:
			for b.i < len(b.s.all) && b.s.all[b.i].Type != tokens.CommentEnd {
				b.i++
			}
		case tokens.VariableBegin:
			p = b.exprs(t)
			steps = append(steps, output(p))
			b.err = p.err
		case tokens.BlockBegin:
			p = b.exprs(t)
			name := p.want(tokens.Name, "the name of a tag")
			if slices.Contains(until, name.Val) {
				return steps, p
			}
			steps = append(steps, b.tag(p, name))
			if b.err == nil {
				b.err = p.err
			}
		}
	}
	if b.err == nil && len(until) > 0 {
		b.err = b.s.unclosed(strings.Join(until, " or "))
	}
	return steps, &exprs{s: b.s, err: b.err}
}

// last is body up to the only tag that can end it.
func (b *builder) last(p *exprs, end string) []step {
	steps, p := b.body(p, end)
	b.end(p)
	return steps
}

// end wants the tag to be over.
func (b *builder) end(p *exprs) {
	if !p.is(tokens.EOF) {
		p.unexpected("the end of the tag")
	}
	if b.err == nil {
		b.err = p.err
	}
}

// exprs takes the tag that begins with t.
func (b *builder) exprs(t *tokens.Token) *exprs {
	from := b.i - 1
	for b.i < len(b.s.all) && b.s.all[b.i].Type != tokens.VariableEnd && b.s.all[b.i].Type != tokens.BlockEnd {
		b.i++
	}
	return &exprs{s: b.s, t: b.s.all[from:b.i], i: 1, end: b.s.ends[t]}
}

// trimmed is a text without the white space that the tags around it cut off.
// The next token is the one behind it.
func (b *builder) trimmed(t *tokens.Token) string {
	const space = " \r\n\t"
	text := t.Val
	if b.i >= 2 && strings.HasPrefix(b.s.all[b.i-2].Val, "-") {
		text = strings.TrimLeft(text, space)
	}
	if b.i < len(b.s.all) && strings.HasSuffix(b.s.all[b.i].Val, "-") {
		text = strings.TrimRight(text, space)
	}
	return text
}

func literal(text string) step {
	return func(r *rendering) error { return r.write(text) }
}

// output is an expression that is printed.
func output(p *exprs) step {
	if len(p.t) == 1 {
		p.unexpected("a value")
	}
	at := p.at(0)
	e := p.whole(p.tuple)
	return func(r *rendering) error {
		v, err := r.value(e)
		if err != nil {
			return err
		}
		return r.print(at, v)
	}
}

// tagError is an error of a tag whose place in it is not known.
type tagError struct {
	at  int // offset of its name
	err error
}

func (e *tagError) Error() string { return e.err.Error() }
func (e *tagError) Unwrap() error { return e.err }

// tag makes the step of a tag after its name.
func (b *builder) tag(p *exprs, name *tokens.Token) step {
	do := b.plainTag(p, name)
	return func(r *rendering) error {
		if err := do(r); err != nil {
			return &tagError{name.Pos, err}
		}
		return nil
	}
}

// plainTag is tag, but for the place of its errors.
func (b *builder) plainTag(p *exprs, name *tokens.Token) step {
	switch name.Val {
	case "if":
		return b.condition(p)
	case "for":
		return b.loop(p)
	case "set":
		return b.set(p)
	case "do":
		e := p.whole(p.tuple)
		return func(r *rendering) error { _, err := r.value(e); return err }
	case "with":
		return b.with(p)
	case "macro":
		return b.macro(p)
	case "call":
		return b.call(p)
	case "filter":
		return b.filter(p)
	case "raw":
		b.end(p)
		text := ""
		for b.i < len(b.s.all) && b.s.all[b.i].Type != tokens.BlockBegin {
			t := b.s.all[b.i]
			if b.i++; t.Type == tokens.Data {
				text += b.trimmed(t)
			}
		}
		b.last(p, "endraw")
		return literal(text)
	case "break", "continue":
		b.end(p)
		if b.loops == 0 {
			p.fail(name, fmt.Sprintf("{%% %s %%} is not inside of a loop", name.Val))
		}
		err := map[string]error{"break": errBreak, "continue": errContinue}[name.Val]
		return func(*rendering) error { return err }
	}
	p.fail(name, fmt.Sprintf("{%% %s %%} has no tag before it that it belongs to", name.Val))
	return nil
}

// condition is {% if %}, with its branches: one for each expression and, where
// none of them holds, the one behind.
func (b *builder) condition(p *exprs) step {
	var conditions []eval
	var branches [][]step
	for p.at(1).Val != "else" && p.at(1).Val != "endif" && b.err == nil {
		conditions = append(conditions, p.whole(p.tuple))
		var steps []step
		steps, p = b.body(p, "elif", "else", "endif")
		branches = append(branches, steps)
	}
	b.end(p)
	if p.at(1).Val == "else" {
		branches = append(branches, b.last(p, "endif"))
	}
	return func(r *rendering) error {
		for i, c := range conditions {
			v, err := r.value(c)
			if err != nil {
				return err
			}
			if truthy(v) {
				return r.run(branches[i])
			}
		}
		if len(branches) > len(conditions) {
			return r.run(branches[len(conditions)])
		}
		return nil
	}
}

// set is {% set x = value %}, of one name or several, or of a block.
func (b *builder) set(p *exprs) step {
	at := p.at(p.i)
	brackets := p.take(tokens.LeftParenthesis)
	targets := []setter{p.target(!brackets)}
	for p.take(tokens.Comma) {
		targets = append(targets, p.target(false))
	}
	if brackets {
		p.want(tokens.RightParenthesis, ")")
	}
	assign := func(r *rendering, target setter, v any) error {
		if err := target(r, v); err != nil {
			return r.fail(placed(at, exec.AsValue(err)))
		}
		return nil
	}
	one := len(targets) == 1
	switch {
	case one && (p.is(tokens.EOF) || p.is(tokens.Pipe)):
		block := b.block(p, blockText, "endset")
		return func(r *rendering) error {
			v, err := block(r)
			if err != nil {
				return err
			}
			return assign(r, targets[0], v.Interface())
		}
	}
	p.want(tokens.Assign, "=")
	from := p.at(p.i)
	value := p.whole(p.tuple)
	return func(r *rendering) error {
		v, err := r.value(value)
		if err != nil {
			return err
		}
		if one {
			return assign(r, targets[0], v.Interface())
		}
		list, err := partsOf(unwrap(v))
		if err != nil {
			return r.fail(failure(from, err))
		}
		if len(list) != len(targets) {
			return r.fail(failure(from, fmt.Errorf("%d names cannot take %s of %d elements", len(targets), operand(unwrap(v)), len(list))))
		}
		for i, target := range targets {
			if err := assign(r, target, rowValue(bareOf(list[i]))); err != nil {
				return err
			}
		}
		return nil
	}
}

// target is what {% set %} sets: a name or, where fields may be, a field of a
// namespace.
func (p *exprs) target(fields bool) setter {
	t := p.want(tokens.Name, "a name")
	if slices.Contains(constants, t.Val) {
		p.fail(t, t.Val+" cannot be set")
	}
	set := setName(t.Val)
	for owner := p.variable(t); fields; {
		at := p.at(p.i)
		var key eval
		switch {
		case p.take(tokens.Dot):
			key = constantly(p.want(tokens.Name, "the name of a field").Val)
		case p.take(tokens.LeftBracket):
			key = p.expression()
			p.want(tokens.RightBracket, "]")
		default:
			return set
		}
		set, owner = setItem(owner, key), getItem(owner, key, at)
	}
	return set
}

func (b *builder) with(p *exprs) step {
	var names []string
	var values []eval
	for !p.is(tokens.EOF) {
		names = append(names, p.want(tokens.Name, "a name").Val)
		p.want(tokens.Assign, "=")
		values = append(values, p.expression())
		if !p.take(tokens.Comma) {
			break
		}
	}
	p.whole(func() eval { return nil })
	steps := b.last(p, "endwith")
	return func(r *rendering) error {
		scope := r.scope().Inherit()
		for i, e := range values {
			v, err := r.value(e)
			if err != nil {
				return err
			}
			let(scope, names[i], v)
		}
		return r.within(scope, steps)
	}
}

func (b *builder) filter(p *exprs) step {
	at := p.at(0)
	block := b.block(p, p.filter(blockText), "endfilter")
	return func(r *rendering) error {
		v, err := block(r)
		if err != nil {
			return err
		}
		return r.print(at, v)
	}
}

func blockText(x *rendering) *exec.Value { return exec.AsValue(x.block) }

// block is a block of text, which e and the filters in the rest of the tag take.
func (b *builder) block(p *exprs, e eval, end string) func(*rendering) (*exec.Value, error) {
	for p.take(tokens.Pipe) {
		e = p.filter(e)
	}
	steps := b.last(p, end)
	return func(r *rendering) (*exec.Value, error) {
		text, err := r.capture(r.scope().Inherit(), steps)
		if err != nil {
			return nil, err
		}
		r.block = text
		return r.value(e)
	}
}

var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)
