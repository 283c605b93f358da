package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix/lang/internal/calc"
)

var tagNames = []string{"if", "elif", "else", "endif", "for", "endfor", "break", "continue", "set", "endset", "with", "endwith",
	"macro", "endmacro", "call", "endcall", "filter", "endfilter", "do", "raw", "endraw", "generation", "endgeneration"}

// refused are the tags of Jinja2 that templates do without.
var refused = map[string]string{
	"include": "a template cannot read other files", "import": "a template cannot read other files",
	"from": "a template cannot read other files", "extends": "a template cannot read other files",
	"block": "blocks need a parent template, and a template cannot read other files",
	"trans": "it is not supported", "autoescape": "prompts are not HTML, nothing is escaped",
}

// body makes the steps behind a tag, up to the next tag that until names, and
// returns the name of that tag, whose rest is parsed next.
func (p *parser) body(until ...string) ([]step, token) {
	opened := p.at(0)
	if p.depth++; p.depth > maxNesting {
		p.fail(opened.at, "tags are nested more than %d deep", maxNesting)
	}
	defer func() { p.depth-- }()
	var steps []step
	for p.err == nil && p.next < len(p.pieces) {
		p.tag, p.i = p.pieces[p.next], 0
		p.next++
		switch p.tag.kind {
		case data:
			steps = append(steps, literal(p.tag.text))
		case output:
			at := p.tag.at
			if len(p.tag.tokens) == 0 {
				p.unexpected("a value")
			}
			steps = append(steps, printing(at, p.whole()))
		case block:
			name := p.wantName("the name of a tag")
			if slices.Contains(until, name.val) {
				return steps, name
			}
			steps = append(steps, p.step(name))
		}
	}
	if p.err == nil && len(until) > 0 {
		p.fail(opened.at, "{%% %s %%} is never closed: {%% %s %%} is missing", opened.val, strings.Join(until, " %} or {% "))
	}
	return steps, token{}
}

// last is body up to the only tag that can end it.
func (p *parser) last(end string) []step {
	steps, _ := p.body(end)
	p.over()
	return steps
}

// over wants the tag to be over.
func (p *parser) over() { p.end("the end of the tag") }

func literal(text string) step {
	return func(r *rendering) error { return r.write(text) }
}

func printing(at int, e eval) step {
	return func(r *rendering) error {
		v, err := e(r)
		if err != nil {
			return err
		}
		return r.print(at, v)
	}
}

// step makes the step of a tag after its name.
func (p *parser) step(name token) step {
	do := p.tagStep(name)
	return func(r *rendering) error {
		if err := do(r); err != nil {
			return &placedError{name.at, false, err}
		}
		return nil
	}
}

func (p *parser) tagStep(name token) step {
	switch name.val {
	case "if":
		return p.condition()
	case "for":
		return p.loop()
	case "set":
		return p.set()
	case "do":
		e := p.whole()
		return func(r *rendering) error { _, err := e(r); return err }
	case "with":
		return p.with()
	case "macro":
		return p.macro()
	case "call":
		return p.call(name)
	case "filter":
		at := p.tag.at
		return blockStep(p.block(p.filter(blockText), "endfilter"), func(r *rendering, v any) error { return r.print(at, v) })
	case "generation": // marks what the model has said, where a chat is trained on
		p.over()
		steps := p.last("endgeneration")
		return func(r *rendering) error { return r.within(r.inner(), steps) }
	case "raw": // with something behind it
		p.over()
	case "break", "continue":
		p.over()
		if p.loops == 0 {
			p.fail(name.at, "{%% %s %%} is not inside of a loop", name.val)
		}
		err := map[string]error{"break": errBreak, "continue": errContinue}[name.val]
		return func(*rendering) error { return err }
	}
	switch why, ok := refused[name.val]; {
	case ok:
		p.fail(name.at, "{%% %s %%}: %s", name.val, why)
	case slices.Contains(tagNames, name.val):
		p.fail(name.at, "{%% %s %%} has no tag before it that it belongs to", name.val)
	default:
		p.fail(name.at, "%s", unknown("tag", name.val, tagNames))
	}
	return nil
}

// condition is {% if %}, with its branches: one for each expression and, where
// none of them holds, the one behind.
func (p *parser) condition() step {
	var conditions []eval
	var branches [][]step
	closing := token{val: "if"}
	for first := true; (closing.val == "if" || closing.val == "elif") && p.err == nil; first = false {
		p.asks = true
		if first {
			conditions = append(conditions, p.whole())
		} else {
			conditions = append(conditions, p.perhaps(p.whole))
		}
		p.asks = false
		p.unsure++
		var steps []step
		steps, closing = p.body("elif", "else", "endif")
		p.unsure--
		branches = append(branches, steps)
	}
	if closing.val == "else" {
		p.over()
		p.unsure++
		branches = append(branches, p.last("endif"))
		p.unsure--
	}
	p.over()
	return func(r *rendering) error {
		for i, c := range conditions {
			v, err := c(r)
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
func (p *parser) set() step {
	at := p.now().at
	brackets := p.take("(")
	targets := []setter{p.target(!brackets)}
	for p.take(",") {
		targets = append(targets, p.target(false))
	}
	if brackets {
		p.want(")")
	}
	one := len(targets) == 1
	assign := func(r *rendering, target setter, v any) error {
		return placed(at, target(r, v))
	}
	if one && (p.now().kind == none || p.now().is("|")) {
		return blockStep(p.block(blockText, "endset"), func(r *rendering, v any) error { return assign(r, targets[0], v) })
	}
	p.want("=")
	from := p.now().at
	value := p.whole()
	return func(r *rendering) error {
		v, err := value(r)
		if err != nil {
			return err
		}
		if one {
			return assign(r, targets[0], v)
		}
		list, err := unpacked(v, len(targets))
		if err != nil {
			return placed(from, err)
		}
		for i, target := range targets {
			if err := assign(r, target, list[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// unpacked are the elements of v for so many names.
func unpacked(v any, names int) ([]any, error) {
	v = bare(v)
	list, ok := itemsOf(v)
	if !ok {
		return nil, fmt.Errorf("%d names cannot take %s", names, calc.Operand(v))
	}
	if len(list) != names {
		return nil, fmt.Errorf("%d names cannot take %s of %d elements", names, calc.Operand(v), len(list))
	}
	return list, nil
}

// target is what {% set %} sets: a name or, where fields may be, a field of a
// namespace.
func (p *parser) target(fields bool) setter {
	t := p.wantName("a name")
	if slices.Contains(constants, t.val) {
		p.fail(t.at, "%s cannot be set", t.val)
	}
	if fields && p.now().is(".", "[") {
		owner := p.variable(t)
		p.changed = append(p.changed, t)
		for p.err == nil {
			at := p.now()
			var key eval
			if p.take(".") {
				key = constantly(p.wantName("the name of a field").val)
			} else {
				p.want("[")
				key = p.expression()
				p.want("]")
			}
			if !p.now().is(".", "[") {
				return setItem(owner, key)
			}
			owner = getItem(owner, key, at.at)
		}
		return nil
	}
	number := p.define(t.val)
	return func(r *rendering, v any) error {
		r.scope.set(number, v)
		return nil
	}
}

func (p *parser) with() step {
	var names []int
	var values []eval
	for p.now().kind != none && p.err == nil {
		names = append(names, p.define(p.wantName("a name").val))
		p.want("=")
		values = append(values, p.expression())
		if !p.take(",") {
			break
		}
	}
	p.over()
	steps := p.last("endwith")
	return func(r *rendering) error {
		s := r.inner()
		for i, e := range values {
			v, err := e(r)
			if err != nil {
				return err
			}
			s.set(names[i], v)
		}
		return r.within(s, steps)
	}
}

func blockText(r *rendering) (any, error) { return r.blockText, nil }

// block is a block of text, which e and the filters in the rest of the tag take.
func (p *parser) block(e eval, end string) eval {
	for p.take("|") {
		e = p.filter(e)
	}
	p.over()
	steps := p.last(end)
	return func(r *rendering) (any, error) {
		text, err := r.capture(r.inner(), steps)
		if err != nil {
			return nil, err
		}
		r.blockText = text
		return e(r)
	}
}

func blockStep(block eval, do func(*rendering, any) error) step {
	return func(r *rendering) error {
		v, err := block(r)
		if err != nil {
			return err
		}
		return do(r, v)
	}
}

var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)
