package lang

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nikolalohinski/gonja/v2/exec"
)

func callList(l []any, name string, g *given, va *exec.VarArgs, set func(any) error) (any, error) {
	n := map[string][2]int{"append": {1, 1}, "extend": {1, 1}, "insert": {2, 2}, "remove": {1, 1}, "pop": {0, 1},
		"reverse": {}, "copy": {}, "clear": {}, "index": {1, 1}, "count": {1, 1}}
	arity, ok := n[name]
	if !ok {
		return nil, errors.New("a list has no method of that name" + didYouMean(name, []string{"append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse"}))
	}
	if err := bind(g, va, nil, arity[0], arity[1]); err != nil {
		return nil, err
	}
	at := func(v any) int {
		return slices.IndexFunc(l, func(e any) bool { return equal(bareOf(e), v) })
	}
	switch name {
	case "copy":
		return slices.Clone(l), nil
	case "count":
		c := 0
		for _, e := range l {
			if equal(bareOf(e), g.args[0]) {
				c++
			}
		}
		return c, nil
	case "index":
		if i := at(g.args[0]); i >= 0 {
			return i, nil
		}
		return nil, fmt.Errorf("%s is not in the list", operand(g.args[0]))
	}
	l = slices.Clone(l)
	var out any
	switch name {
	case "append":
		l = append(l, g.args[0])
	case "extend":
		more, err := partsOf(g.args[0])
		if err != nil {
			return nil, err
		}
		if more == nil {
			return nil, fmt.Errorf("want a list, got %s", operand(g.args[0]))
		}
		l = append(l, more...)
	case "insert":
		i := g.number(0, 0)
		if i < 0 {
			i += len(l)
		}
		l = slices.Insert(l, min(max(i, 0), len(l)), g.args[1])
	case "remove":
		i := at(g.args[0])
		if i < 0 {
			return nil, fmt.Errorf("%s is not in the list", operand(g.args[0]))
		}
		l = slices.Delete(l, i, i+1)
	case "pop":
		i, ok := index(any(g.number(0, -1)), len(l))
		if !ok {
			return nil, fmt.Errorf("the list has %d elements", len(l))
		}
		out = l[i]
		l = slices.Delete(l, i, i+1)
	case "reverse":
		slices.Reverse(l)
	case "clear":
		l = []any{}
	}
	if len(l) > maxParts {
		return nil, manyParts("the list")
	}
	if g.err != nil {
		return nil, g.err
	}
	return out, set(l)
}

func callDict(m map[string]any, name string, g *given, va *exec.VarArgs, set func(any) error) (any, error) {
	n := map[string][2]int{"keys": {}, "values": {}, "items": {}, "copy": {}, "clear": {},
		"get": {1, 2}, "pop": {1, 2}, "setdefault": {1, 2}, "update": {0, 1}}
	arity, ok := n[name]
	if !ok {
		return nil, errors.New("an object has no method of that name" + didYouMean(name, sortedKeys(map[string]any{"keys": 0, "values": 0, "items": 0, "get": 0, "pop": 0, "update": 0, "setdefault": 0, "copy": 0, "clear": 0})))
	}
	named := va.KwArgs
	if name == "update" {
		va = &exec.VarArgs{}
	}
	if err := bind(g, va, []string{"key", "default"}, arity[0], arity[1]); err != nil {
		return nil, err
	}
	rest := []any{}
	switch name {
	case "copy":
		return cloneMap(m), nil
	case "keys":
		return anyList(m), nil
	case "values":
		for _, k := range sortedKeys(m) {
			rest = append(rest, m[k])
		}
		return rest, nil
	case "items":
		for _, k := range sortedKeys(m) {
			rest = append(rest, tuple{k, m[k]})
		}
		return rest, nil
	}
	key := ""
	if name != "clear" && name != "update" {
		key = g.text(0, "")
		if g.err != nil {
			return nil, g.err
		}
	}
	old, has := m[key]
	otherwise := append(g.args, nil, nil)[1]
	if name == "get" || name == "setdefault" && has {
		if !has {
			return otherwise, nil
		}
		return old, nil
	}
	m = cloneMap(m)
	var out any
	switch name {
	case "clear":
		m = map[string]any{}
	case "setdefault":
		out, m[key] = otherwise, otherwise
	case "pop":
		if !has && len(g.args) < 2 {
			return nil, errors.New(noField("the object", key, m))
		}
		out = old
		if !has {
			out = otherwise
		}
		delete(m, key)
	case "update":
		if len(g.args) > 0 {
			more, ok := g.args[0].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("want an object, got %s", operand(g.args[0]))
			}
			for k, v := range more {
				m[k] = v
			}
		}
		for k, v := range named {
			m[k] = unwrap(v)
		}
	}
	return out, set(m)
}

func cloneMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
