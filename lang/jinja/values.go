package jinja

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

// The values of a template are nil, bool, int, float64, string, *List, Tuple,
// *Dict, namespaces, functions (Func and macros), Absent, and what an Env brings:
// the Objects and Sequences of who renders. *List, *Dict and namespaces are what
// a template has made itself: they change in place, whoever holds them. None of
// them holds itself.

// Object is an object of who renders. No template changes it.
type Object interface {
	Len() int
	Keys() []string // in the order in which a loop goes over them
	Get(key string) (v any, ok bool)
	Missing(key any) (any, error) // what stands for a field that it lacks: Absent, or an error
	Plain() any                   // of Go's own types
	Kind() string                 // "an object"
}

// Sequence is a list of who renders. No template changes it.
type Sequence interface {
	Len() int
	At(i int) any // from 0 to Len()-1
	Missing(key any) (any, error)
	Plain() any
	Kind() string
}

// Func is a function that a template may call.
type Func func(a *Args) (any, error)

// Args are the arguments of a call.
type Args struct {
	List  []any
	Named []Named
	few   [2]any // where List begins
}

// Named is an argument with its name.
type Named struct {
	Name  string
	Value any
}

// get returns the named argument, or nil and false.
func (a *Args) get(name string) (any, bool) {
	for _, n := range a.Named {
		if n.Name == name {
			return n.Value, true
		}
	}
	return nil, false
}

// Absent is an empty value that has every field, each absent: it prints nothing,
// is false and has no elements.
var Absent absent

type absent struct{}

// List is a list that the template has made.
type List struct{ items []any }

// NewList is a list of these elements, which it takes over.
func NewList(items ...any) *List { return &List{items} }

// Tuple is a list in round brackets.
type Tuple []any

// Kind names the type.
func (*List) Kind() string { return "a list" }

// Kind names the type.
func (Tuple) Kind() string { return "a list" }

// Dict is an object that the template has made: its keys are in the order in which
// they came.
type Dict struct {
	pairs []pair
	at    map[any]int // by hashed key
}

type pair struct {
	key, value any
	gone       bool
}

// NewDict is an empty object.
func NewDict() *Dict { return &Dict{at: map[any]int{}} }

// Kind names the type.
func (*Dict) Kind() string { return "an object" }

// Len is the number of keys.
func (d *Dict) Len() int { return len(d.at) }

// Set gives a text as key its value.
func (d *Dict) Set(key string, v any) { _ = d.set(key, v) }

func (d *Dict) set(key, v any) error {
	h, err := hashed(key)
	if err != nil {
		return err
	}
	if i, ok := d.at[h]; ok {
		d.pairs[i].value = v
		return nil
	}
	d.at[h] = len(d.pairs)
	d.pairs = append(d.pairs, pair{key: key, value: v})
	return nil
}

func (d *Dict) get(key any) (any, bool) {
	h, err := hashed(key)
	if err != nil {
		return nil, false
	}
	i, ok := d.at[h]
	if !ok {
		return nil, false
	}
	return d.pairs[i].value, true
}

func (d *Dict) remove(key any) {
	h, _ := hashed(key)
	d.pairs[d.at[h]] = pair{gone: true}
	delete(d.at, h)
	if len(d.pairs) > 16 && len(d.pairs) > 2*len(d.at) {
		d.pairs = slices.DeleteFunc(d.pairs, func(p pair) bool { return p.gone })
		for i, p := range d.pairs {
			h, _ := hashed(p.key)
			d.at[h] = i
		}
	}
}

// all are the keys and their values.
func (d *Dict) all(yield func(k, v any) bool) {
	for _, p := range d.pairs {
		if !p.gone && !yield(p.key, p.value) {
			return
		}
	}
}

func (d *Dict) keys() []any {
	keys := make([]any, 0, d.Len())
	for k := range d.all {
		keys = append(keys, k)
	}
	return keys
}

func (d *Dict) names() []string {
	var names []string
	for k := range d.all {
		if s, ok := k.(string); ok {
			names = append(names, s)
		}
	}
	return names
}

// tupleKey stands for a tuple as key.
type tupleKey string

// hashed is what an object finds a key by: 1, 1.0 and true are the same key.
func hashed(key any) (any, error) {
	switch k := key.(type) {
	case nil, string, int:
		return k, nil
	case bool:
		n, _ := calc.Number(k)
		return n, nil
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<62 {
			return int(k), nil
		}
		return k, nil
	case Tuple:
		s, err := show(k)
		return tupleKey(s), err
	}
	return nil, fmt.Errorf("%s cannot be a key", calc.Operand(key))
}

// namespace is what namespace() makes: tags can set its fields.
type namespace struct{ *Dict }

// safe is a text that `e` leaves as it is.
type safe string

// bare is v as operators, filters and functions take it: nil where it is absent.
func bare(v any) any {
	switch v := v.(type) {
	case absent:
		return nil
	case safe:
		return string(v)
	case namespace:
		return v.Dict
	case group:
		return v.Tuple
	}
	return v
}

// truthy reports whether a value counts as true; a macro or a function does.
func truthy(v any) bool {
	switch v := bare(v).(type) {
	case nil:
		return false
	case bool:
		return v
	case int:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.items) > 0
	case Tuple:
		return len(v) > 0
	case interface{ Len() int }:
		return v.Len() > 0
	}
	return true
}

// itemsOf are the elements of a list, the characters of a text and the keys of an
// object; ok is false where v has none. Do not change them.
func itemsOf(v any) (items []any, ok bool) {
	switch v := v.(type) {
	case *List:
		return v.items, true
	case Tuple:
		return v, true
	case string:
		items = make([]any, 0, len(v))
		for _, r := range v {
			items = append(items, string(r))
		}
		return items, true
	case *Dict:
		return v.keys(), true
	case Sequence:
		items = make([]any, v.Len())
		for i := range items {
			items[i] = v.At(i)
		}
		return items, true
	case Object:
		for _, k := range v.Keys() {
			items = append(items, k)
		}
		return items, true
	}
	return nil, false
}

// listOf is itemsOf, of texts that are not too long to be taken apart; of nothing
// there are none.
func listOf(v any) ([]any, error) {
	if s, ok := v.(string); ok && len(s) > calc.MaxParts && utf8.RuneCountInString(s) > calc.MaxParts {
		return nil, calc.ManyParts("the text, taken apart,")
	}
	items, ok := itemsOf(v)
	if !ok && v != nil {
		return nil, fmt.Errorf("%s is not a list", calc.Operand(v))
	}
	return items, nil
}

// isList tells lists and tuples from texts and objects.
func isList(v any) bool {
	switch v.(type) {
	case *List, Tuple, Sequence:
		return true
	}
	return false
}

// fieldsOf goes over the keys and values of an object; ok is false where v is none.
func fieldsOf(v any) (all func(yield func(k, v any) bool), n int, ok bool) {
	switch v := v.(type) {
	case *Dict:
		return v.all, v.Len(), true
	case Object:
		return func(yield func(k, v any) bool) {
			for _, k := range v.Keys() {
				if e, _ := v.Get(k); !yield(k, e) {
					return
				}
			}
		}, v.Len(), true
	}
	return nil, 0, false
}

// valueAt is what an object has under a key.
func valueAt(v, key any) (any, bool) {
	switch v := v.(type) {
	case *Dict:
		return v.get(key)
	case Object:
		if k, ok := key.(string); ok {
			return v.Get(k)
		}
	}
	return nil, false
}

// holds reports whether v is or has in it the container, or more than so many parts;
// a text is one for each 64 bytes.
func holds(v, container any, parts *int) bool {
	if *parts--; *parts < 0 {
		return true
	}
	switch v := bare(v).(type) {
	case string:
		*parts -= len(v) / (calc.MaxText / calc.MaxParts)
		return *parts < 0
	case *List:
		return v == container || slices.ContainsFunc(v.items, func(e any) bool { return holds(e, container, parts) })
	case Tuple:
		return slices.ContainsFunc(v, func(e any) bool { return holds(e, container, parts) })
	case *Dict:
		if v == container {
			return true
		}
		for k, e := range v.all {
			if holds(k, container, parts) || holds(e, container, parts) {
				return true
			}
		}
	}
	return false
}

// put is the error of putting v into the container: what held itself would have no
// end.
func (r *rendering) put(v any, container any) error {
	switch v.(type) {
	case nil, bool, int, float64:
		return nil
	}
	parts := calc.MaxParts
	inside := holds(v, container, &parts)
	if err := r.spend((calc.MaxParts - parts) * calc.ElementWork); err != nil {
		return err
	}
	if inside {
		return fmt.Errorf("%s cannot hold itself, or a value of more than %d parts or %d MiB", nounOf(container), calc.MaxParts, calc.MaxText>>20)
	}
	return nil
}

func nounOf(container any) string {
	if _, ok := container.(*List); ok {
		return "a list"
	}
	return "a namespace or an object"
}

// Plain is v of nil, bool, int, float64, string, []any and map[string]any. What is
// none of these stays as it is.
func Plain(v any) (any, error) {
	parts := calc.MaxParts
	return plain(v, &parts)
}

func plain(v any, parts *int) (any, error) {
	if *parts--; *parts < 0 {
		return nil, fmt.Errorf("the value has more than %d parts", calc.MaxParts)
	}
	switch v := bare(v).(type) {
	case nil, string, bool, int, float64:
		return v, nil
	case Object:
		return v.Plain(), nil
	case Sequence:
		return v.Plain(), nil
	case *List, Tuple:
		items, _ := itemsOf(v)
		out := make([]any, len(items))
		for i, e := range items {
			var err error
			if out[i], err = plain(e, parts); err != nil {
				return nil, err
			}
		}
		return out, nil
	case *Dict:
		out := make(map[string]any, v.Len())
		for k, e := range v.all {
			key, err := keyText(k)
			if err != nil {
				return nil, err
			}
			if out[key], err = plain(e, parts); err != nil {
				return nil, err
			}
		}
		return out, nil
	default:
		return v, nil
	}
}

// keyText is a key as JSON has it.
func keyText(k any) (string, error) {
	switch k := k.(type) {
	case string:
		return k, nil
	case nil:
		return "null", nil
	case bool:
		return strconv.FormatBool(k), nil
	case int, float64:
		return show(k)
	}
	return "", fmt.Errorf("%s cannot be a key of JSON", calc.Kind(k))
}
