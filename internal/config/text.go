package config

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
)

// Literal writes a text so that it stands for itself in a config: nothing in it
// is a ${reference}.
func Literal(text string) string { return escapeRefs(text) }

// LoadText makes a config of a text that no file holds: name is what messages
// call it, and paths in it are relative to the working directory. parts, which
// stay as they are, stand at keys of their own beside what the text says, or in
// its place, with the places that they were written at. Overrides apply as in
// Load, but there are no groups. Its errors are Errors.
func LoadText(typ any, name, text string, parts map[string]*Section, overrides []string) (*Tree, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, Errors{errorAt(Pos{File: name}, "", "%v", err)}
	}
	list, errs := parseOverrides(overrides)
	if len(errs) > 0 {
		return nil, errs
	}
	root, errs := parseYAML(&source{name: name, dir: dir, lines: strings.Split(text, "\n")}, text)
	if len(errs) > 0 {
		return nil, errs
	}
	budget := maxNodes
	for _, key := range slices.Sorted(maps.Keys(parts)) {
		root.set(entry{name: key, pos: parts[key].Pos(""), node: parts[key].nodeOrNull().clone(&budget)})
	}
	for _, o := range list {
		if e := o.apply(root, reflect.TypeOf(typ)); e != nil {
			errs = append(errs, e)
		}
	}
	if errs = append(errs, interpolate(root)...); len(errs) > 0 {
		return nil, errs
	}
	return &Tree{root: root, typ: reflect.TypeOf(typ), file: name}, nil
}
