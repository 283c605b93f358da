package lang

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"matrix"
	"matrix/lang/internal/calc"
)

// env is what expressions are evaluated over.
type env struct {
	Item   any            `expr:"item"`
	Turns  []turn         `expr:"turns"`
	Last   *turn          `expr:"last"`
	Params map[string]any `expr:"params"`
	Trial  int            `expr:"trial"`
	Seed   int            `expr:"seed"`
	ID     string         `expr:"id"`
	Row    string         `expr:"row"`
	Parent any            `expr:"parent"`
	Brood  []any          `expr:"children"`
	Locals []any          `expr:"@locals"`

	task   *matrix.Task
	src    string     // of the expression
	rand   *rand.Rand // as soon as somebody asks
	newest turn
	calc.Work
	built int // bytes of text
}

func (e *env) fill(t *matrix.Task, u uses) {
	e.Last = &e.newest
	if t == nil {
		e.task = &matrix.Task{}
		return
	}
	e.task, e.Trial, e.Seed, e.ID, e.Row = t, t.Trial, int(t.Seed), t.ID, t.Row
	if u.item {
		e.Item = t.Item.Any()
	}
	if u.tree {
		e.Parent, e.Brood = parentOf(t), childrenOf(t, (*matrix.Value).Any)
	}
	if u.turns {
		for i := range t.Turns {
			e.Turns = append(e.Turns, viewTurn(&t.Turns[i]))
		}
	}
	if last := t.Last(); u.last && last != nil {
		e.newest = viewTurn(last)
	}
}

// random is what the expression chooses by.
func (e *env) random() *rand.Rand {
	if e.rand == nil {
		e.rand = seeded(e.task, e.src, len(e.Locals))
	}
	return e.rand
}

// parentOf is what is seen of the task that t is a child of; nil where a row began t.
func parentOf(t *matrix.Task) any {
	if t.Depth() == 0 {
		return nil
	}
	return map[string]any{"id": t.Parent, "index": t.Index(), "count": t.Siblings}
}

// childrenOf are the children that t has waited for, their values as value sees them.
func childrenOf(t *matrix.Task, value func(*matrix.Value) any) []any {
	all := make([]any, len(t.Children))
	for i := range t.Children {
		c := &t.Children[i]
		all[i] = map[string]any{"id": c.ID, "index": c.Index, "status": string(c.Status), "value": value(&c.Value), "cause": c.Cause}
	}
	return all
}

// newestTurn is the newest turn of role, or nil.
func newestTurn(t *matrix.Task, role string) *matrix.Turn {
	for i := len(t.Turns) - 1; i >= 0; i-- {
		if t.Turns[i].Role == role {
			return &t.Turns[i]
		}
	}
	return nil
}

// oldestTurn is the oldest turn of role, or nil.
func oldestTurn(t *matrix.Task, role string) *matrix.Turn {
	for i := range t.Turns {
		if t.Turns[i].Role == role {
			return &t.Turns[i]
		}
	}
	return nil
}

// orEmpty is a turn as expressions see it; an empty one for nil.
func orEmpty(t *matrix.Turn) *turn {
	if t == nil {
		return &turn{}
	}
	v := viewTurn(t)
	return &v
}

func turnsOf(t *matrix.Task, role string) []turn {
	var ts []turn
	for i := range t.Turns {
		if t.Turns[i].Role == role {
			ts = append(ts, viewTurn(&t.Turns[i]))
		}
	}
	return ts
}

// reads counts the work of finding a character of a text.
func (e *env) reads(v any) error {
	if s, ok := v.(string); ok {
		return e.Spend(cost(s))
	}
	return nil
}

// add is + where the types are known only now.
func (e *env) add(a, b any) (any, error) {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			if e.built += len(x) + len(y); e.built > calc.MaxText {
				return nil, calc.ErrTooLong
			}
			return x + y, nil
		}
	}
	return calculate("+", a, b)
}

// truth is the value as a condition.
func truth(v any) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case nil:
		return false, nil
	}
	return false, fmt.Errorf("a condition must be true or false, this is %s", calc.Kind(v))
}

// order compares two values; ok is false where one of them is nil.
func order(a, b any) (c int, ok bool, err error) {
	if a == nil || b == nil {
		return 0, false, nil
	}
	switch x := a.(type) {
	case string:
		if y, is := b.(string); is {
			return strings.Compare(x, y), true, nil
		}
	case time.Time:
		if y, is := b.(time.Time); is {
			return x.Compare(y), true, nil
		}
	case int:
		if y, is := b.(int); is {
			return calc.Compare(x, y), true, nil
		}
	}
	x, isX := calc.Float(a)
	y, isY := calc.Float(b)
	if isX && isY && !math.IsNaN(x) && !math.IsNaN(y) {
		return calc.Compare(x, y), true, nil
	}
	return 0, false, fmt.Errorf("cannot compare %s with %s", calc.Kind(a), calc.Kind(b))
}

// lookup is the lenient v.key or v[key]: nil where there is no such thing.
func lookup(v, key any) any {
	out, _ := fetch(v, key)
	return out
}

// need is the strict v.key or v[key]; name says what v is.
func need(v, key any, name string) (any, error) {
	out, ok := fetch(v, key)
	if ok {
		return out, nil
	}
	switch m := v.(type) {
	case map[string]any:
		if k, ok := key.(string); ok {
			return nil, errors.New(calc.NoField(name, k, sortedKeys(m)))
		}
	case []any:
		if i, ok := key.(int); ok {
			return nil, fmt.Errorf("%s has no element %d, it has %d elements", name, i, len(m))
		}
	}
	return nil, fmt.Errorf("%s is %s, it has no %s", name, calc.Kind(v), field(key))
}

func field(key any) string {
	if k, ok := key.(string); ok {
		return fmt.Sprintf("field %q", k)
	}
	return fmt.Sprintf("element %v", key)
}

func fetch(v, key any) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		if k, ok := key.(string); ok {
			out, ok := v[k]
			return out, ok
		}
		return nil, false
	case []any:
		i, ok := index(key, len(v))
		if !ok {
			return nil, false
		}
		return v[i], true
	case string:
		runes := []rune(v)
		i, ok := index(key, len(runes))
		if !ok {
			return nil, false
		}
		return string(runes[i]), true
	case *turn:
		name, _ := key.(string)
		return v.field(name)
	case turn:
		name, _ := key.(string)
		return v.field(name)
	case sample:
		name, _ := key.(string)
		return v.field(name)
	case *call:
		name, _ := key.(string)
		return v.field(name)
	case oneCall:
		name, _ := key.(string)
		return v.field(name)
	case *matrix.Value:
		return fetch(v.Any(), key)
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array:
		i, ok := index(key, r.Len())
		if !ok {
			return nil, false
		}
		return r.Index(i).Interface(), true
	case reflect.Map:
		k := reflect.ValueOf(key)
		if !k.IsValid() || !k.CanConvert(r.Type().Key()) || !k.Comparable() {
			return nil, false
		}
		out := r.MapIndex(k.Convert(r.Type().Key()))
		if !out.IsValid() {
			return nil, false
		}
		return out.Interface(), true
	}
	return nil, false
}

func index(key any, n int) (int, bool) {
	i, ok := key.(int)
	if !ok {
		f, isFloat := key.(float64)
		if !isFloat || f != math.Trunc(f) || math.Abs(f) > 1<<31 {
			return 0, false
		}
		i = int(f)
	}
	if i < 0 {
		i += n
	}
	return i, i >= 0 && i < n
}
