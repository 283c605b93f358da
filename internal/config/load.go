// Package config reads a YAML config: it composes files as Hydra does, applies
// overrides from the command line, puts values in the place of ${references},
// and decodes the result strictly into the struct that the caller gives. Every
// value remembers the place it was written at, and every error names it.
//
// It knows nothing of what a config is for: parts of it whose type only others
// know stay Sections, which they decode later.
//
// Tags of a struct, read by the decoder, the JSON Schema and the reference in
// docs/:
//
//	yaml     the key; ",inline" lifts the fields of a struct into its parent
//	doc      one sentence for the reference
//	default  what holds when the key is absent: the decoder sets it. A text that
//	         is not a value of the field's type is for the reference only
//	required "true": the key must be there
//	enum     the values it may have, with commas between them
//	path     "true": the value is a path, relative to the file it is written in;
//	         "here": and what is there stays on this machine, where the config
//	         goes to another one
//	secret   "true": the value is never shown; "named": of a map, the values whose
//	         names say so, such as vendor_key
//	filled   "true": the value is not empty where the key is there
//	free     a resumed run may change it: it cannot alter the data
package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"matrix/internal/near"
)

// Tree is a config with its files composed, overrides applied, and references
// resolved.
type Tree struct {
	root *node
	typ  reflect.Type // that it is decoded into
	file string
}

// Name is what to call a run whose config has no name: that of its file, or of
// the folder of config.yaml.
func (t *Tree) Name() string {
	file, err := filepath.Abs(t.file)
	if err != nil {
		file = t.file
	}
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if name == "config" {
		name = filepath.Base(filepath.Dir(file))
	}
	return name
}

// File is the absolute path of the main file of the config.
func (t *Tree) File() string { return t.file }

// Dir is the folder that paths in the config's file are relative to.
func (t *Tree) Dir() string { return t.root.dir }

// Load reads path, a YAML file or a folder that holds config.yaml, and applies
// overrides: key=value, +key=value to add, ++key=value for either, ~key to
// delete, group=option to choose another file of a group. typ is a value of the
// struct that the config is decoded into; only its type counts, which tells an
// override of a key that is not there from one of a key that is unknown. Its
// errors are Errors.
//
// An environment variable that is not set is an error only once the value is
// decoded.
func Load(typ any, path string, overrides []string) (*Tree, error) {
	file, e := findConfig(path)
	if e != nil {
		return nil, Errors{e}
	}
	list, errs := parseOverrides(overrides)
	if len(errs) > 0 {
		return nil, errs
	}
	full, err := filepath.Abs(file)
	if err != nil {
		return nil, Errors{errorAt(Pos{File: file}, "", "%v", err)}
	}
	c := &composer{src: &source{name: file, dir: filepath.Dir(full)}, choices: map[string]*choice{}, chosen: map[string]wanted{}}
	list = c.groups(list)
	if d := c.readMain(); d != nil {
		c.add(d, "", Pos{File: file})
	}
	c.unused()
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	root := c.merged()
	for _, o := range list {
		if ch := c.choices[o.key]; ch != nil && ch.used && ch.command {
			continue
		}
		if e := o.apply(root, reflect.TypeOf(typ)); e != nil {
			if o.op == "" && o.value.kind == String && c.isOption(o.key, o.value.text) {
				e.Msg, e.Hint = "no defaults list has this group; write +"+o.key+"="+o.value.text+" to add it", ""
			}
			errs = append(errs, e)
		}
	}
	errs = append(errs, interpolate(root)...)
	if len(errs) > 0 {
		return nil, errs
	}
	return &Tree{root: root, typ: reflect.TypeOf(typ), file: full}, nil
}

// findConfig is the file that path means.
func findConfig(path string) (string, *Error) {
	at := Pos{File: path}
	info, err := os.Stat(path)
	if err != nil {
		e := errorAt(at, "", "no such config; give a YAML file, or a folder that holds config.yaml")
		if !os.IsNotExist(err) {
			e.Msg = reason(err).Error()
			return "", e
		}
		if _, err := os.Stat(path + ".yaml"); err == nil {
			e.Hint = path + ".yaml"
			return "", e
		}
		var names []string
		dir, _ := os.ReadDir(filepath.Dir(path))
		for _, d := range dir {
			names = append(names, d.Name())
		}
		if near := near.Name(filepath.Base(path), names); near != "" {
			e.Hint = filepath.Join(filepath.Dir(path), near)
		}
		return "", e
	}
	if !info.IsDir() {
		return path, nil
	}
	for _, name := range []string{"config.yaml", "config.yml"} {
		if _, err := os.Stat(filepath.Join(path, name)); err == nil {
			return filepath.Join(path, name), nil
		}
	}
	e := errorAt(at, "", "is a folder without config.yaml")
	if files, _ := filepath.Glob(filepath.Join(path, "*.yaml")); len(files) > 0 && len(files) <= 10 {
		e.Msg += "; it has " + strings.Join(files, ", ")
	}
	return "", e
}

// groups takes the overrides that may choose options as choices, and gives
// back those that cannot be but values, or both: only the defaults lists tell.
func (c *composer) groups(list []override) []override {
	var rest []override
	for i := range list {
		o := &list[i]
		switch {
		case o.op == "+" && o.value.kind == String && c.isOption(o.key, o.value.text):
			c.extra = append(c.extra, o)
			continue
		case o.op == "~":
			c.choices[o.key] = &choice{command: true}
		case o.op != "+" && names(o.value):
			c.choices[o.key] = &choice{value: o.value, command: true}
		}
		rest = append(rest, *o)
	}
	return rest
}

// names reports whether n can be one option or several.
func names(n *node) bool {
	return n.kind != Map && !slices.ContainsFunc(n.items, func(item *node) bool { return !item.scalar() || item.kind == Null })
}

func (c *composer) isOption(key, option string) bool {
	group, _, _ := strings.Cut(key, "@")
	if option == "" || strings.ContainsAny(key+option, "\x00") || strings.Contains(group, ".") {
		return false
	}
	for _, ext := range []string{".yaml", ".yml"} {
		if info, err := os.Stat(filepath.Join(c.src.dir, group, option+ext)); err == nil && !info.IsDir() {
			return true
		}
	}
	return false
}
