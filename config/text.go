package config

import (
	"os"
	"reflect"
	"slices"
	"strings"
)

// LoadText makes a config of a text that no file holds: name is what messages
// call it, and paths in it are relative to the working directory. parts stand at
// keys of their own beside what the text says, with the places that they were
// written at. Overrides apply as in Load, but there are no groups. Its errors are
// Errors.
func LoadText(name, text string, parts map[string]*Section, overrides []string) (*Tree, error) {
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
	keys := make([]string, 0, len(parts))
	for key := range parts {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		s := parts[key]
		root.set(entry{name: key, pos: s.keyPos, node: s.nodeOrNull()})
	}
	for _, o := range list {
		if e := o.apply(root, reflect.TypeFor[Run]()); e != nil {
			errs = append(errs, e)
		}
	}
	if errs = append(errs, interpolate(root)...); len(errs) > 0 {
		return nil, errs
	}
	return &Tree{root: root, file: name}, nil
}
