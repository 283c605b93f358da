package config

import (
	"reflect"
	"slices"
	"strings"
)

// Part is what a Section holds, known to others than config.
type Part struct {
	At      string // where the section stands, with * for a name: models.*, roles.*.chat, flow
	Kind    string // the value of its key `kind`, where several types share a place
	Default bool   // the kind may be left out
	Type    any    // a value of its type; only the type counts
	Doc     string // one sentence
}

// partsAt are the parts for the section at a path, or a pattern of one.
func partsAt(parts []Part, path string) []Part {
	var out []Part
	for _, p := range parts {
		a, b := strings.Split(p.At, "."), strings.Split(path, ".")
		if slices.EqualFunc(a, b, func(x, y string) bool { return x == y || x == "*" || y == "*" }) {
			out = append(out, p)
		}
	}
	return out
}

// Free reports whether a resumed run may change the key at a dotted path of the
// config: the key, or one around it, is tagged free. A key in a section is free
// when it is in every part of the section's kind that has it.
func (t *Tree) Free(key string, parts ...Part) bool {
	known, free := t.freeIn(t.typ, strings.Split(key, "."), "", parts)
	return known && free
}

func (t *Tree) freeIn(typ reflect.Type, steps []string, path string, parts []Part) (known, free bool) {
	for typ.Kind() == reflect.Pointer && typ != sectionType {
		typ = typ.Elem()
	}
	if typ == sectionType {
		all := true
		kind := ""
		if n, _ := t.root.find(path); n != nil && n.get("kind") != nil {
			kind = n.get("kind").text
		}
		for _, p := range partsAt(parts, path) {
			if p.Kind != kind && !(kind == "" && p.Default) {
				continue
			}
			if k, f := t.freeIn(reflect.TypeOf(p.Type), steps, path, parts); k {
				known, all = true, all && f
			}
		}
		return known, known && all
	}
	if len(steps) == 0 {
		return true, false
	}
	at := Join(path, steps[0])
	switch typ.Kind() {
	case reflect.Struct:
		s := structOf(typ)
		f, ok := s.field(steps[0])
		if ok && f.free {
			return true, true
		}
		if ok {
			return t.freeIn(f.typ, steps[1:], at, parts)
		}
		if s.rest != nil {
			return t.freeIn(s.rest.typ.Elem(), steps[1:], at, parts)
		}
	case reflect.Map, reflect.Slice:
		return t.freeIn(typ.Elem(), steps[1:], at, parts)
	}
	return false, false
}
