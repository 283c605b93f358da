package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"matrix/internal/near"
)

// commandLine is how the file of an argument begins: "command line: a.b=3".
const commandLine = "command line"

// IsOverride reports whether an argument of a command has the form of an override.
func IsOverride(arg string) bool {
	return strings.HasPrefix(arg, "~") || strings.Contains(arg, "=")
}

// argumentName is the file of an override. A value that is a text is not shown:
// it may be a secret.
func argumentName(op, key string, value *node) string {
	name := commandLine + ": " + op + key
	switch {
	case value == nil:
		return name
	case value.scalar() && value.kind != String:
		return name + "=" + value.text
	}
	return name + "=..."
}

// sets reports whether the override that file stands for is of that key.
func sets(file, key string) bool {
	_, argument, ok := strings.Cut(file, ": ")
	argument, _, _ = strings.Cut(strings.TrimLeft(argument, "+~"), "=")
	return ok && key != "" && (key == argument || key == "params."+argument)
}

// override is one argument: key=value sets, +key=value adds, ++key=value does
// either, ~key deletes.
type override struct {
	op    string // "", "+", "++" or "~"
	key   string
	value *node // nil: none given
	pos   Pos
	src   *source
}

// parseOverrides reads the arguments of a command line.
func parseOverrides(args []string) ([]override, Errors) {
	cwd, _ := os.Getwd()
	var out []override
	var errs Errors
	for _, arg := range args {
		o, err := parseOverride(&source{name: commandLine, dir: cwd, lines: []string{arg}}, arg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, o)
	}
	return out, errs
}

func parseOverride(src *source, arg string) (override, *Error) {
	o := override{src: src, pos: src.pos(1, 1)}
	arg = strings.ToValidUTF8(arg, "\uFFFD")
	if p := tooDeep(&source{lines: []string{arg}}); p.Line > 0 {
		return o, errorAt(o.pos, "", "nested more than %d deep", maxDepth)
	}
	rest := strings.TrimLeft(arg, "+~")
	o.op = arg[:len(arg)-len(rest)]
	key, value, hasValue := strings.Cut(rest, "=")
	o.key = indexStep.ReplaceAllString(key, ".$1")
	if o.op != "" && o.op != "+" && o.op != "++" && o.op != "~" {
		return o, errorAt(o.pos, "", "%s is not an override; write key=value, +key=value, ++key=value or ~key", strconv.Quote(arg))
	}
	if !hasValue && o.op != "~" {
		return o, errorAt(o.pos, "", "%s has no value; write %s=value", strconv.Quote(arg), rest)
	}
	for _, step := range strings.Split(o.key, ".") {
		if step == "" || strings.IndexFunc(step, func(r rune) bool {
			return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("[]{}'\"$,", r)
		}) >= 0 {
			return o, errorAt(o.pos, "", "%s is not a key; a key is names with dots between them", strconv.Quote(key))
		}
	}
	if !hasValue {
		src.name = argumentName(o.op, key, nil)
		o.pos = src.pos(1, 1)
		return o, nil
	}
	scalar := newNode(String, src, o.pos)
	if scalar.setText(value); value == "" {
		scalar.kind = String
	}
	src.name = argumentName(o.op, key, scalar)
	o.pos = src.pos(1, 1)
	p := &valueParser{src: src, line: 1, text: []rune(arg), i: len([]rune(arg)) - len([]rune(value))}
	n, err := p.top()
	if err != nil {
		err.Key = o.key
		err.Msg = fmt.Sprintf("character %d: %s", err.Column, err.Msg)
		return o, err
	}
	o.value = n
	return o, nil
}

// apply changes the tree by one override. t is the type that root is for.
func (o *override) apply(root *node, t reflect.Type) *Error {
	steps := strings.Split(o.key, ".")
	if _, ok := structOf(t).field(steps[0]); !ok && root.get(steps[0]) == nil {
		if p := root.get("params"); o.op == "+" || o.op == "++" || p != nil && p.get(steps[0]) != nil {
			steps = append([]string{"params"}, steps...)
		}
	}
	old := root
	for _, s := range steps {
		if old = old.child(s); old == nil {
			break
		}
	}
	path := strings.Join(steps, ".")
	switch {
	case o.op == "~":
		return o.remove(root, steps, old)
	case o.op == "+" && old != nil:
		return errorAt(o.pos, path, "is there already; write %s=... to change it", o.key)
	case o.op == "" && old == nil:
		if known, ok := knownIn(t, root, steps); !ok {
			e := errorAt(o.pos, path, "no such key")
			if len(steps) == 1 {
				e.Hint = under(t, steps[0])
			}
			if e.Hint == "" {
				e.Hint = nearestPath(root, steps, known)
			}
			if e.Hint == "" && len(steps) == 1 {
				e.Hint = inside(root, t, steps[0])
			}
			if e.Hint == "" {
				e.Msg += fmt.Sprintf("; write +%s=... to add it", o.key)
			}
			return e
		}
	}
	return o.put(root, steps)
}

func (o *override) put(root *node, steps []string) *Error {
	at := root
	for i, s := range steps[:len(steps)-1] {
		next := at.child(s)
		if next == nil || next.kind == Null {
			next = newNode(Map, o.src, o.pos)
			if at.kind != Map {
				break
			}
			at.set(entry{name: s, pos: o.pos, node: next})
		} else if next.scalar() {
			return errorAt(o.pos, strings.Join(steps, "."), "%s is %s; it has no keys", strings.Join(steps[:i+1], "."), next.kind)
		}
		at = next
	}
	last := steps[len(steps)-1]
	value := at.child(last).merge(o.value)
	switch i, err := strconv.Atoi(last); {
	case at.kind == Map:
		at.set(entry{name: last, pos: o.pos, node: value})
	case at.kind == List && err == nil && i >= 0 && i < len(at.items):
		at.items[i] = value
	default:
		return errorAt(o.pos, strings.Join(steps, "."), "%s is %s; it has no %s", strings.Join(steps[:len(steps)-1], "."), at.kind, last)
	}
	return nil
}

func (o *override) remove(root *node, steps []string, old *node) *Error {
	path := strings.Join(steps, ".")
	if old == nil {
		e := errorAt(o.pos, path, "no such key, so it cannot be deleted")
		e.Hint = nearestPath(root, steps, nil)
		return e
	}
	if o.value != nil && display(old) != display(o.value) {
		return errorAt(o.pos, path, "is not %s, so it is not deleted", display(o.value))
	}
	at := root
	for _, s := range steps[:len(steps)-1] {
		at = at.child(s)
	}
	if at.kind != Map {
		return errorAt(o.pos, path, "only a key of a map can be deleted")
	}
	at.delete(steps[len(steps)-1])
	return nil
}

// nearestPath corrects the first step that is unknown.
func nearestPath(root *node, steps []string, known []string) string {
	at := root
	for i, s := range steps {
		next := at.child(s)
		if next != nil {
			at = next
			continue
		}
		best := near.Name(s, append(at.names(), known...))
		if best == "" && i == 0 && root.get("params") != nil {
			best = near.Name(s, root.get("params").names())
		}
		if best == "" {
			return ""
		}
		return strings.Join(append(append(steps[:i:i], best), steps[i+1:]...), ".")
	}
	return ""
}

// under is the path of a key with just that name in one of the maps of t.
func under(t reflect.Type, key string) string {
	for _, f := range structOf(t).fields {
		if f.typ.Kind() == reflect.Struct && f.typ != sectionType && slices.Contains(structOf(f.typ).names(), key) {
			return f.name + "." + key
		}
	}
	return ""
}

// inside is where a key with such a name stands in one of the parts that have
// names of their own, as models and roles: the first of them. t is the type that
// root is for.
func inside(root *node, t reflect.Type, key string) string {
	for _, f := range structOf(t).fields {
		part := root.get(f.name)
		if f.typ.Kind() != reflect.Map || part == nil || part.kind != Map {
			continue
		}
		var known []string
		if e := f.typ.Elem(); e.Kind() == reflect.Struct {
			known = structOf(e).names()
		}
		for _, name := range part.names() {
			if best := near.Name(key, append(part.child(name).names(), known...)); best != "" {
				return f.name + "." + name + "." + best
			}
		}
	}
	return ""
}

// knownIn reports whether the type t of n has a place for the key at steps, and
// if not, which keys there are where the first unknown step stands.
func knownIn(t reflect.Type, n *node, steps []string) ([]string, bool) {
	for t.Kind() == reflect.Pointer && t != sectionType {
		t = t.Elem()
	}
	if len(steps) == 0 || t == sectionType {
		return nil, true
	}
	var child *node
	if n != nil {
		child = n.child(steps[0])
	}
	switch t.Kind() {
	case reflect.Struct:
		s := structOf(t)
		if f, ok := s.field(steps[0]); ok {
			return knownIn(f.typ, child, steps[1:])
		}
		if s.rest != nil && child != nil {
			return knownIn(s.rest.typ.Elem(), child, steps[1:])
		}
		return s.names(), false
	case reflect.Map, reflect.Slice:
		if child != nil {
			return knownIn(t.Elem(), child, steps[1:])
		}
	}
	return nil, child != nil && len(steps) == 1
}
