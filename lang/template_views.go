package lang

import (
	"errors"
	"fmt"
	"reflect"

	"matrix"
	"matrix/internal/jsontext"
	"matrix/lang/internal/calc"
	"matrix/lang/jinja"
)

// What templates see of a task: its objects and lists as they are, looked into
// when a template does.

// origin is the JSON that objects and lists are of.
type origin struct {
	value   *matrix.Value // nil: the keys of its objects are in alphabetical order
	lenient bool          // an agent produced it: what is missing is absent, and so is null
	order   *keyOrder
}

// keyOrder are the keys of objects as they are written, by the object, of the values
// of which somebody has asked so far.
type keyOrder struct {
	read map[*matrix.Value]bool
	keys map[uintptr][]string
}

// view is a value of the JSON as templates see it.
func (o *origin) view(v any) any {
	switch v := v.(type) {
	case nil:
		if o.lenient {
			return jinja.Absent
		}
	case map[string]any:
		return &object{"the object", v, o}
	case []any:
		return &list{v, o}
	case *matrix.Value:
		return o.order.produced(v)
	case string, bool, int, float64:
	default: // of a type that is not promised
		parts := calc.MaxParts
		if p, err := plain(v, &parts); err == nil {
			return o.view(p)
		}
	}
	return v
}

// foreign is a value that who renders brings.
func foreign(v any) any { return (&origin{}).view(v) }

// produced is a value that an agent produced.
func (k *keyOrder) produced(v *matrix.Value) any {
	return (&origin{value: v, lenient: true, order: k}).view(v.Any())
}

// lenient is a value of which what is missing is absent.
func (k *keyOrder) lenient(v any) any { return (&origin{lenient: true, order: k}).view(v) }

func (o *origin) missing(err error) (any, error) {
	if o.lenient {
		return jinja.Absent, nil
	}
	return nil, err
}

// keysOf are the keys of an object in the order of the JSON.
func (o *origin) keysOf(m map[string]any) []string {
	if o.value == nil {
		return sortedKeys(m)
	}
	k := o.order
	if !k.read[o.value] {
		if k.read == nil {
			k.read, k.keys = map[*matrix.Value]bool{}, map[uintptr][]string{}
		}
		k.read[o.value] = true
		r := jsontext.New(string(o.value.Raw()))
		k.note(&r, o.value.Any())
	}
	if keys := k.keys[reflect.ValueOf(m).Pointer()]; len(keys) == len(m) {
		return keys
	}
	return sortedKeys(m)
}

// note notes the keys of the objects in v, which r is about to read.
func (k *keyOrder) note(r *jsontext.Reader, v any) {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range r.Object {
			keys = append(keys, key)
			k.note(r, v[key])
		}
		k.keys[reflect.ValueOf(v).Pointer()] = keys
	case []any:
		rest := v
		for range r.List {
			var e any
			if len(rest) > 0 {
				e, rest = rest[0], rest[1:]
			}
			k.note(r, e)
		}
	default:
		r.Skip()
	}
}

// object is an object of the row, of the params, or of what an agent produced.
type object struct {
	name   string // in the error of a missing field
	fields map[string]any
	origin *origin
}

var (
	_ jinja.Object   = (*object)(nil)
	_ jinja.Object   = turnView{}
	_ jinja.Sequence = (*list)(nil)
	_ jinja.Sequence = (*turnList)(nil)
)

func (o *object) Len() int       { return len(o.fields) }
func (o *object) Keys() []string { return o.origin.keysOf(o.fields) }
func (o *object) Plain() any     { return o.fields }
func (*object) Kind() string     { return "an object" }

// Get returns a field.
func (o *object) Get(key string) (any, bool) {
	v, ok := o.fields[key]
	if !ok {
		return nil, false
	}
	return o.origin.view(v), true
}

// Missing is an error of the row, and absent of what an agent produced.
func (o *object) Missing(key any) (any, error) {
	if name, ok := key.(string); ok {
		return o.origin.missing(errors.New(calc.NoField(o.name, name, sortedKeys(o.fields))))
	}
	return o.origin.missing(errors.New(o.name + " has fields, no elements"))
}

// list is a list of the row, of the params, or of what an agent produced.
type list struct {
	items  []any
	origin *origin
}

func (l *list) Len() int     { return len(l.items) }
func (l *list) At(i int) any { return l.origin.view(l.items[i]) }
func (l *list) Plain() any   { return l.items }
func (*list) Kind() string   { return "a list" }

// Missing is an error of the row, and absent of what an agent produced.
func (l *list) Missing(key any) (any, error) { return l.origin.missing(noElement(key, len(l.items))) }

func noElement(key any, n int) error {
	if i, ok := key.(int); ok {
		return fmt.Errorf("the list has no element %d, it has %d elements", i, n)
	}
	return fmt.Errorf("a list has no field %q", key)
}

// turnView is a turn: a field that no turn has is an error.
type turnView struct {
	*matrix.Turn
	order *keyOrder
}

func (k *keyOrder) turn(t *matrix.Turn) turnView {
	if t == nil { // there is none, which is empty
		t = &matrix.Turn{}
	}
	return turnView{t, k}
}

func (turnView) Len() int       { return len(turnFields) }
func (turnView) Keys() []string { return turnFields }
func (turnView) Kind() string   { return "an object" }

// Plain is the turn with all of its fields; a lone call stands in call alone.
func (t turnView) Plain() any {
	v := viewTurn(t.Turn)
	all := make(map[string]any, len(turnFields))
	for _, name := range turnFields {
		if name != "calls" || len(t.Calls) > 1 {
			all[name], _ = v.field(name)
		}
	}
	return all
}

// Get returns a field.
func (t turnView) Get(key string) (any, bool) {
	switch key {
	case "role":
		return t.Role, true
	case "text":
		return t.Text, true
	case "data":
		return t.order.produced(&t.Data), true
	case "error":
		return t.Error, true
	case "reasoning":
		return t.Reasoning, true
	case "logprobs":
		return t.order.produced(&t.Logprobs), true
	case "tool_calls":
		return t.order.lenient(lazyToolCalls(t.ToolCalls)), true
	case "samples":
		all := make([]any, len(t.Samples))
		for i := range t.Samples {
			s := &t.Samples[i]
			m := map[string]any{"text": s.Text, "data": &s.Data}
			more(m, s.Reasoning, lazyToolCalls(s.ToolCalls), later(&s.Logprobs))
			all[i] = m
		}
		return t.order.lenient(all), true
	case "tool_results":
		v := viewTurn(t.Turn)
		return t.order.lenient(v.ToolResults), true
	case "call":
		if len(t.Calls) == 0 {
			return jinja.Absent, true
		}
		return t.order.lenient((*call)(t.Turn).plain()), true
	case "calls":
		all := make([]any, len(t.Calls))
		for i := range t.Calls {
			all[i] = oneCall{&t.Calls[i]}.plain()
		}
		return t.order.lenient(all), true
	}
	return nil, false
}

// lazyToolCalls are tool calls as objects, their arguments not yet parsed.
func lazyToolCalls(calls []matrix.ToolCall) []any {
	list := make([]any, len(calls))
	for i := range calls {
		list[i] = map[string]any{"id": calls[i].ID, "name": calls[i].Name, "arguments": &calls[i].Arguments}
	}
	return list
}

// Missing is an error.
func (t turnView) Missing(key any) (any, error) {
	name, ok := key.(string)
	if !ok {
		return nil, fmt.Errorf("a turn has fields, no elements")
	}
	return nil, errors.New(calc.NoField("a turn", name, turnFields))
}

// turnList is a list of turns.
type turnList struct {
	turns []*matrix.Turn
	order *keyOrder
}

func (k *keyOrder) turns(t *matrix.Task, is func(*matrix.Turn) bool) *turnList {
	l := &turnList{order: k}
	for i := range t.Turns {
		if is(&t.Turns[i]) {
			l.turns = append(l.turns, &t.Turns[i])
		}
	}
	return l
}

func (l *turnList) Len() int     { return len(l.turns) }
func (l *turnList) At(i int) any { return turnView{l.turns[i], l.order} }
func (*turnList) Kind() string   { return "a list" }

// Plain is a list of objects.
func (l *turnList) Plain() any {
	all := make([]any, len(l.turns))
	for i, t := range l.turns {
		all[i] = turnView{t, l.order}.Plain()
	}
	return all
}

// Missing is an error.
func (l *turnList) Missing(key any) (any, error) { return nil, noElement(key, len(l.turns)) }
