package jinja

import (
	"errors"
	"fmt"
	"slices"

	"matrix/lang/internal/calc"
)

// loop is {% for %}.
type loop struct {
	at         int // where it says in
	names      []int
	info       int // the number of the name loop
	over       eval
	where      eval // nil: all
	body, none []step
	keeps      bool // a macro or a call inside may hold on to the scope of a round
}

func (p *parser) loop() step {
	l := &loop{info: p.define("loop")}
	brackets := p.take("(")
	for {
		l.names = append(l.names, p.define(p.wantName("a name").val))
		if !p.take(",") || p.now().word("in") {
			break
		}
	}
	if brackets {
		p.want(")")
	}
	in := p.now()
	if l.at = in.at; !p.takeWord("in") {
		p.unexpected("in")
	}
	l.over = p.or()
	if p.now().is(",") {
		all := []eval{l.over}
		for p.take(",") {
			all = append(all, p.or())
		}
		l.over = tupled(all)
	}
	if p.takeWord("if") {
		l.where = p.perhaps(p.expression)
	}
	p.takeWord("recursive") // any loop can be called
	p.over()
	p.unsure++
	p.loops++
	macros := p.made
	body, closing := p.body("else", "endfor")
	l.body, l.keeps = body, p.made > macros
	p.loops--
	p.over()
	if closing.val == "else" {
		l.none = p.last("endfor")
	}
	p.unsure--
	return func(r *rendering) error {
		over, err := l.over(r)
		if err != nil {
			return err
		}
		return l.run(r, over, r.scope, 1)
	}
}

func (l *loop) run(r *rendering, over any, outer *scope, depth int) error {
	items, err := l.items(r, over, outer)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return r.within(&scope{outer: outer}, l.none)
	}
	if err := r.spend(len(items) * calc.ElementWork); err != nil {
		return err
	}
	info := &loopInfo{loop: l, items: items, outer: outer, depth: depth}
	var s *scope
	for i := range items {
		if err := r.countRound(); err != nil {
			return err
		}
		info.at = i
		if s == nil || l.keeps {
			s = &scope{outer: outer, vars: make([]variable, 0, len(l.names)+2)}
		}
		s.vars = append(s.vars[:0], variable{l.info, info})
		if err := l.name(s, items[i]); err != nil {
			return err
		}
		err := r.within(s, l.body)
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// items are those that the loop takes, before its first round: of an object its
// keys or, with two names, its keys and values.
func (l *loop) items(r *rendering, over any, outer *scope) ([]any, error) {
	if over == Absent {
		return nil, nil
	}
	over = bare(over)
	var items []any
	all, n, isObject := fieldsOf(over)
	switch {
	case isObject && len(l.names) == 2:
		items = make([]any, 0, n)
		for k, v := range all {
			items = append(items, Tuple{k, v})
		}
	default:
		var err error
		if _, ok := itemsOf(over); !ok {
			err = fmt.Errorf("%s is nothing to loop over", calc.Operand(over))
		} else {
			items, err = listOf(over)
		}
		if err != nil {
			return nil, placed(l.at, err)
		}
		if _, own := over.(*List); own {
			items = slices.Clone(items) // the body may change the list
		}
	}
	if l.where == nil {
		return items, nil
	}
	var taken []any
	for _, it := range items {
		s := &scope{outer: outer}
		if err := l.name(s, it); err != nil {
			return nil, err
		}
		v, err := r.valueIn(s, l.where)
		if err != nil {
			return nil, err
		}
		if truthy(v) {
			taken = append(taken, it)
		} else if err := r.countRound(); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

func (l *loop) name(s *scope, item any) error {
	if len(l.names) == 1 {
		s.set(l.names[0], item)
		return nil
	}
	parts, err := unpacked(item, len(l.names))
	if err != nil {
		return placed(l.at, err)
	}
	for i, n := range l.names {
		s.set(n, parts[i])
	}
	return nil
}

// loopInfo is the name loop inside of a loop.
type loopInfo struct {
	loop  *loop
	items []any
	outer *scope
	at    int
	depth int
	seen  []any // by changed
}

// Kind names the type.
func (*loopInfo) Kind() string { return "a loop" }

// attribute is what a template may ask a loop.
func (l *loopInfo) attribute(name string) (any, bool) {
	n := len(l.items)
	switch name {
	case "index":
		return l.at + 1, true
	case "index0":
		return l.at, true
	case "revindex":
		return n - l.at, true
	case "revindex0":
		return n - l.at - 1, true
	case "first":
		return l.at == 0, true
	case "last":
		return l.at == n-1, true
	case "length":
		return n, true
	case "depth":
		return l.depth, true
	case "depth0":
		return l.depth - 1, true
	case "previtem":
		return l.item(l.at - 1), true
	case "nextitem":
		return l.item(l.at + 1), true
	case "cycle":
		return Func(func(a *Args) (any, error) {
			if len(a.List) == 0 {
				return "", nil
			}
			return a.List[l.at%len(a.List)], nil
		}), true
	case "changed":
		return method(l.changed), true
	}
	return nil, false
}

func (l *loopInfo) item(i int) any {
	if i < 0 || i >= len(l.items) {
		return Absent
	}
	return l.items[i]
}

// method is a function that needs the rendering.
type method func(r *rendering, a *Args) (any, error)

func (m method) call(r *rendering, a *Args) (any, error) { return m(r, a) }

// changed reports whether the values differ from those of the last call.
func (l *loopInfo) changed(r *rendering, a *Args) (any, error) {
	same := l.seen != nil && r.equal(Tuple(l.seen), Tuple(a.List))
	l.seen = append([]any{}, a.List...)
	return !same, nil
}

// call runs the loop over what is inside of an element, and returns its text.
func (l *loopInfo) call(r *rendering, a *Args) (any, error) {
	if len(a.List) != 1 || len(a.Named) > 0 {
		return nil, errors.New("loop takes what it is to go over")
	}
	return r.nested(func() (string, error) {
		return r.captured(func() error { return l.loop.run(r, a.List[0], l.outer, l.depth+1) })
	})
}
