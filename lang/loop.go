package lang

import (
	"errors"
	"fmt"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// loop is {% for %}.
type loop struct {
	key, value string // value is empty where the loop has one name
	over       eval
	where      eval // nil: all
	body, none []step
}

func (b *builder) loop(p *exprs) step {
	var l loop
	brackets := p.take(tokens.LeftParenthesis)
	l.key = p.want(tokens.Name, "a name").Val
	if p.take(tokens.Comma) {
		l.value = p.want(tokens.Name, "a name").Val
	}
	if p.is(tokens.Comma) {
		p.fail(p.at(p.i), "a loop has one name or two; take more apart with {% set a, b, c = x %}")
	}
	if brackets {
		p.want(tokens.RightParenthesis, ")")
	}
	at := p.want(tokens.In, "in")
	over := p.or()
	if p.is(tokens.Comma) {
		all := []eval{over}
		for p.take(tokens.Comma) {
			all = append(all, p.or())
		}
		over = list(all)
	}
	l.over = func(x *rendering) *exec.Value { return iterable(at, over(x)) }
	if p.word("if") {
		p.i++
		l.where = p.expression()
	}
	if p.word("recursive") {
		p.fail(p.at(p.i), "recursive loops are not supported")
	}
	p.whole(func() eval { return nil })
	b.loops++
	l.body, p = b.body(p, "else", "endfor")
	b.loops--
	b.end(p)
	if p.at(1).Val == "else" {
		l.none = b.last(p, "endfor")
	}
	return l.run
}

// iterable is what a loop goes over: the characters of a text, not its bytes.
func iterable(at *tokens.Token, v *exec.Value) *exec.Value {
	if v.IsError() || isAbsent(v) {
		return v
	}
	if v.IsString() {
		l, err := partsOf(v.String())
		if err != nil {
			return failure(at, err)
		}
		return exec.AsValue(l)
	}
	if v.IsList() || v.IsDict() {
		return v
	}
	return failure(at, fmt.Errorf("%s is nothing to loop over", operand(unwrap(v))))
}

func (l *loop) run(r *rendering) error {
	items, err := l.items(r)
	if err != nil {
		return err
	}
	outer := r.scope()
	if len(items) == 0 {
		return r.within(outer.Inherit(), l.none)
	}
	if err := r.spend(len(items) * elementWork); err != nil {
		return err
	}
	info := &loopInfo{items: items}
	for i := range items {
		if err := r.countRound(); err != nil {
			return err
		}
		info.at = i
		scope := outer.Inherit()
		l.name(scope, &items[i])
		scope.Set("loop", info)
		err := r.within(scope, l.body)
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// items are those that the loop takes, before its first round.
func (l *loop) items(r *rendering) (items []exec.Pair, err error) {
	over, err := r.value(l.over)
	if err != nil {
		return nil, err
	}
	over.Iterate(func(_, _ int, key, value *exec.Value) bool {
		it := exec.Pair{Key: key, Value: value}
		if l.value != "" && !key.IsString() && key.Len() == 2 {
			it = exec.Pair{}
			key.Iterate(func(i, _ int, part, _ *exec.Value) bool {
				switch i {
				case 0:
					it.Key = part
				case 1:
					it.Value = part
				}
				return true
			}, func() {})
		}
		take := true
		if l.where != nil {
			take, err = l.takes(r, &it)
		}
		switch {
		case take:
			items = append(items, it)
		case err == nil:
			err = r.countRound()
		}
		return err == nil
	}, func() {})
	return items, err
}

func (l *loop) takes(r *rendering, it *exec.Pair) (bool, error) {
	scope := r.scope().Inherit()
	l.name(scope, it)
	v, err := r.valueIn(scope, l.where)
	return err == nil && truthy(v), err
}

func (l *loop) name(scope *exec.Context, it *exec.Pair) {
	let(scope, l.key, it.Key)
	if it.Value != nil {
		let(scope, l.value, it.Value)
	}
}

// loopInfo is the name loop inside of a loop.
type loopInfo struct {
	items []exec.Pair
	at    int
	seen  *exec.Value // by changed
}

// GetAttribute returns what a template may ask a loop.
func (l *loopInfo) GetAttribute(name string) (*exec.Value, bool) {
	n := len(l.items)
	switch name {
	case "index":
		return exec.AsValue(l.at + 1), true
	case "index0":
		return exec.AsValue(l.at), true
	case "revindex":
		return exec.AsValue(n - l.at), true
	case "revindex0":
		return exec.AsValue(n - l.at - 1), true
	case "first":
		return exec.AsValue(l.at == 0), true
	case "last":
		return exec.AsValue(l.at == n-1), true
	case "length":
		return exec.AsValue(n), true
	case "depth":
		return exec.AsValue(1), true // no loop is recursive
	case "depth0":
		return exec.AsValue(0), true
	case "previtem", "PrevItem":
		return l.item(l.at - 1), true
	case "nextitem", "NextItem":
		return l.item(l.at + 1), true
	case "cycle", "Cycle":
		return exec.AsValue(l.cycle), true
	case "changed", "Changed":
		return exec.AsValue(l.changed), true
	}
	return exec.AsValue(nil), false
}

func (l *loopInfo) item(i int) *exec.Value {
	switch {
	case i < 0 || i >= len(l.items):
		return exec.AsValue(absent{})
	case l.items[i].Value != nil:
		return exec.AsValue([2]*exec.Value{l.items[i].Key, l.items[i].Value})
	}
	return l.items[i].Key
}

func (l *loopInfo) cycle(va *exec.VarArgs) *exec.Value {
	if len(va.Args) == 0 {
		return exec.AsValue("")
	}
	return va.Args[l.at%len(va.Args)]
}

// changed reports whether the values differ from those of the last call.
func (l *loopInfo) changed(va *exec.VarArgs) *exec.Value {
	var now *exec.Value
	if len(va.Args) == 1 {
		now = va.Args[0]
	} else {
		all := make([]any, len(va.Args))
		for i, a := range va.Args {
			all[i] = a.Interface()
		}
		now = exec.AsValue(all)
	}
	same := l.seen != nil && now.EqualValueTo(l.seen)
	l.seen = now
	return exec.AsValue(!same)
}

// cycler is what cycler() makes: its values, one after the other, over and over.
type cycler struct {
	values []*exec.Value
	at     int
}

func newCycler(va *exec.VarArgs) (*cycler, error) {
	if len(va.Args) == 0 {
		return nil, errors.New("cycler wants at least one value")
	}
	return &cycler{values: va.Args}, nil
}

// GetAttribute returns the current value, next and reset.
func (c *cycler) GetAttribute(name string) (*exec.Value, bool) {
	switch name {
	case "current":
		return c.values[c.at], true
	case "next":
		return exec.AsValue(func() *exec.Value {
			now := c.values[c.at]
			c.at = (c.at + 1) % len(c.values)
			return now
		}), true
	case "reset":
		return exec.AsValue(func() { c.at = 0 }), true
	}
	return exec.AsValue(nil), false
}
