package config

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"matrix/internal/near"
)

// composer merges a config with what its `defaults` lists name, as Hydra does:
//
//	defaults:
//	  - base                  the file base.yaml, merged where this file is
//	  - models: local         the file models/local.yaml, merged at the key models
//	  - models@spare: local   the same, merged at the key spare
//	  - models: [a, b]        several, in order
//	  - optional data: x      no error when there is no such file
//	  - override /models: x   another choice for a group that an included file names
//	  - _self_                this file; without it, it comes last
//
// Names are relative to the folder of the file, or with a leading / to the
// folder of the whole config. A file's first comment may say where it goes:
// `# @package _global_`.
type composer struct {
	src     *source            // of the main file: its folder is where groups are
	choices map[string]*choice // by group, or group@package
	extra   []*override        // +group=option
	chosen  map[string]wanted  // groups that are chosen, by files rather than by extra
	stack   []string
	files   int
	parts   []part // the last one is merged first
	errs    Errors
}

// choice is what stands in for the option a defaults list names.
type choice struct {
	value   *node // nil: the group is left out
	used    bool
	command bool // from the command line, which wins over `override`
	pos     Pos
}

// part is one file's content on its way to its place.
type part struct {
	pkg  string
	body *node
}

// wanted is one entry of a defaults list.
type wanted struct {
	self, optional, override bool
	added                    *override // the +group=option that it comes from, or nil
	group                    string    // absolute, without the leading /; empty for a plain config
	key                      string    // what the command line calls it
	pkg                      string    // as written behind @
	hasPkg                   bool
	base                     string // folder that names are relative to, and the package's own part
	relative                 string // the group as it counts for the package
	value                    *node
	pos                      Pos
}

// document is a parsed file.
type document struct {
	name     string // without extension, relative to the folder of the main file
	main     bool
	defaults *node
	body     *node
	header   string
	hasHead  bool
}

var packageHeader = regexp.MustCompile(`^#\s*@package\s+(\S+)\s*$`)

// readMain parses the file the config is named by.
func (c *composer) readMain() *document {
	name := filepath.Base(c.src.name)
	d := c.parse(name, c.src.name)
	if d != nil {
		d.main = true
	}
	return d
}

// read parses the file of an option. found is false when there is none; d is
// nil then, and also after an error, which read adds.
func (c *composer) read(name string) (d *document, found bool) {
	for _, ext := range []string{".yaml", ".yml"} {
		file := filepath.FromSlash(name) + ext
		if _, err := os.Stat(filepath.Join(c.src.dir, file)); err == nil {
			return c.parse(file, filepath.Join(filepath.Dir(c.src.name), file)), true
		}
	}
	return nil, false
}

// parse reads a file below the folder of the main one.
func (c *composer) parse(file, shown string) *document {
	src, text, err := readText(shown, filepath.Join(c.src.dir, file))
	if err != nil {
		c.errs = append(c.errs, err)
		return nil
	}
	name := filepath.ToSlash(strings.TrimSuffix(file, filepath.Ext(file)))
	d := &document{name: name}
	for _, l := range src.lines {
		if m := packageHeader.FindStringSubmatch(l); m != nil {
			d.header, d.hasHead = m[1], true
		}
		if l != "" && !strings.HasPrefix(l, "#") {
			break
		}
	}
	body, errs := parseYAML(src, text)
	c.errs = append(c.errs, errs...)
	if len(errs) > 0 {
		return nil
	}
	if body == nil || body.kind == Null {
		if shown == c.src.name {
			c.errs = append(c.errs, errorAt(Pos{File: shown}, "", "the config is empty"))
			return nil
		}
		body = newNode(Map, src, src.pos(1, 1))
	}
	if body.kind != Map {
		c.errs = append(c.errs, errorAt(body.pos, "", "a config is a map of keys, got %s", body.kind))
		return nil
	}
	d.defaults = body.get("defaults")
	body.delete("defaults")
	d.body = body
	return d
}

// add appends d, which goes to package pkg, and all it includes.
func (c *composer) add(d *document, pkg string, at Pos) {
	if c.files++; c.files > 1000 {
		if c.files == 1001 {
			c.errs = append(c.errs, errorAt(at, "defaults", "more than 1000 files are included"))
		}
		return
	}
	if slices.Contains(c.stack, d.name) {
		c.errs = append(c.errs, errorAt(at, "defaults", "files include one another: %s",
			strings.Join(append(c.stack[slices.Index(c.stack, d.name):], d.name), " -> ")))
		return
	}
	c.stack = append(c.stack, d.name)
	defer func() { c.stack = c.stack[:len(c.stack)-1] }()

	list := c.list(d)
	for _, w := range list {
		if w.override {
			if old := c.choices[w.key]; old == nil {
				c.choices[w.key] = &choice{value: w.value, pos: w.pos}
			}
		}
	}
	if !slices.ContainsFunc(list, func(w wanted) bool { return w.self }) {
		list = append(list, wanted{self: true})
	}
	// Backwards, as Hydra does, so that an `override` of a later file is known
	// when the group's own entry comes.
	self := false
	for _, w := range slices.Backward(list) {
		switch {
		case w.self && self:
			c.errs = append(c.errs, errorAt(w.pos, "defaults", "_self_ is given twice"))
		case w.self:
			self = true
			c.parts = append(c.parts, part{pkg, d.body})
		case !w.override:
			c.include(w, pkg)
		}
	}
}

// list reads the defaults list of d.
func (c *composer) list(d *document) []wanted {
	var out []wanted
	if d.defaults != nil && d.defaults.kind != List && d.defaults.kind != Null {
		c.errs = append(c.errs, errorAt(d.defaults.pos, "defaults", "expected a list, got %s; write each entry on a line of its own, behind a dash: - group: option", d.defaults.kind))
		return nil
	}
	base := path.Dir(d.name)
	if base == "." {
		base = ""
	}
	if d.defaults != nil {
		for _, item := range d.defaults.items {
			key, value := item, (*node)(nil)
			w := wanted{base: base, pos: item.pos}
			if item.kind == Map && len(item.fields) == 1 {
				e := item.fields[0]
				key, value = &node{kind: String, text: e.name}, e.node
				w.pos = e.pos
			}
			if key.kind != String || key.text == "" {
				c.errs = append(c.errs, errorAt(item.pos, "defaults", "expected a name or group: option, got %s", item.kind))
				continue
			}
			w.read(key.text, value, item)
			out = append(out, w)
		}
	}
	if d.main {
		for _, o := range c.extra {
			w := wanted{pos: o.pos, added: o}
			w.read(o.key, o.value, o.value)
			out = append(out, w)
		}
	}
	return out
}

// read takes the key of an entry apart; value is nil for a plain name.
func (w *wanted) read(key string, value, item *node) {
	if key == "_self_" && value == nil {
		w.self = true
		return
	}
	for {
		if rest, ok := strings.CutPrefix(key, "optional "); ok {
			key, w.optional = strings.TrimSpace(rest), true
		} else if rest, ok := strings.CutPrefix(key, "override "); ok && value != nil {
			key, w.override = strings.TrimSpace(rest), true
		} else {
			break
		}
	}
	key, w.pkg, w.hasPkg = strings.Cut(key, "@")
	if abs, ok := strings.CutPrefix(key, "/"); ok {
		key, w.base = abs, ""
	}
	w.relative = path.Clean(key)
	if value == nil {
		w.value = &node{kind: String, text: path.Base(w.relative), pos: item.pos}
		if w.relative = path.Dir(w.relative); w.relative == "." {
			w.relative = ""
		}
		w.group = path.Join(w.base, w.relative)
		return
	}
	w.value = value
	w.group = path.Join(w.base, w.relative)
	if w.key = w.group; w.hasPkg {
		w.key += "@" + w.pkg
	}
}

// include adds the files that an entry names; parent is the package of the
// file that has the entry.
func (c *composer) include(w wanted, parent string) {
	value := w.value
	if _, ok := c.chosen[w.key]; w.key != "" && (!ok || w.added == nil) {
		c.chosen[w.key] = w
	}
	if ch := c.choices[w.key]; w.key != "" && ch != nil {
		ch.used = true
		if value = ch.value; value == nil {
			return
		}
	}
	names := []*node{value}
	if value.kind == List {
		names = value.items
	}
	for _, n := range slices.Backward(names) {
		if n.kind == Null && w.key != "" {
			continue
		}
		if !n.scalar() {
			c.errs = append(c.errs, errorAt(n.pos, "defaults."+w.key, "expected the name of an option, got %s", n.kind))
			continue
		}
		if n.text == "???" && len(c.options(w.group)) > 0 {
			c.errs = append(c.errs, errorAt(n.pos, "defaults."+w.key, "choose one with %s=OPTION; there are: %s", w.key,
				strings.Join(c.options(w.group), ", ")))
			continue
		}
		d, found := c.read(path.Join(w.group, strings.TrimSuffix(n.text, ".yaml")))
		if !found && !w.optional {
			c.missing(w, n)
		}
		if d == nil {
			continue
		}
		pkg := strings.ReplaceAll(w.relative, "/", ".")
		if w.hasPkg {
			pkg = w.pkg
		} else if d.hasHead {
			pkg = d.header
		}
		c.add(d, placed(parent, pkg, w.relative, n.text), w.pos)
	}
}

func (c *composer) missing(w wanted, n *node) {
	options := c.options(w.group)
	var e *Error
	if w.key != "" && len(options) == 0 {
		e = errorAt(n.pos, "defaults."+w.key, "there is no folder %s with .yaml files, to choose from", w.group)
		if e.Hint = near.Name(w.group, c.folders()); e.Hint == "" && len(c.folders()) > 0 {
			e.Msg += "; there are: " + strings.Join(c.folders(), ", ")
		}
		c.errs = append(c.errs, e)
		return
	}
	if w.key != "" {
		e = errorAt(n.pos, "defaults."+w.key, "there is no option %s", n.text)
	} else {
		name := path.Join(w.group, n.text)
		e = errorAt(n.pos, "defaults", "there is no file %s.yaml", name)
		if at := strings.IndexAny(name, ":="); at > 0 {
			e.Msg += fmt.Sprintf("; a choice is written %s: %s, without quotes", name[:at], strings.TrimSpace(name[at+1:]))
			options = nil
		} else if inside := c.options(name); len(inside) > 0 {
			e.Msg += fmt.Sprintf("; %s is a folder to choose from: write %[1]s: OPTION", name)
			options = inside
		} else if w.group == "" { // but the config itself
			options = slices.DeleteFunc(options, func(o string) bool {
				return o == strings.TrimSuffix(filepath.Base(c.src.name), filepath.Ext(c.src.name))
			})
		}
	}
	if e.Hint = near.Name(n.text, options); e.Hint == "" && len(options) > 0 {
		e.Msg += "; there are: " + strings.Join(options, ", ")
	}
	c.errs = append(c.errs, e)
}

// folders are those with files to choose from.
func (c *composer) folders() []string {
	var out []string
	entries, _ := os.ReadDir(c.src.dir)
	for _, e := range entries {
		if e.IsDir() && len(c.options(e.Name())) > 0 {
			out = append(out, e.Name())
		}
	}
	return out
}

// options are the names of the files of a group.
func (c *composer) options(group string) []string {
	var out []string
	entries, _ := os.ReadDir(filepath.Join(c.src.dir, filepath.FromSlash(group)))
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			out = append(out, strings.TrimSuffix(e.Name(), ext))
		}
	}
	return out
}

// placed is the package of a file whose including file has the package parent.
func placed(parent, pkg, group, name string) string {
	pkg = strings.ReplaceAll(pkg, "_group_", strings.ReplaceAll(group, "/", "."))
	pkg = strings.ReplaceAll(pkg, "_name_", path.Base(name))
	if pkg == "_here_" {
		pkg = ""
	}
	full := strings.Trim(parent+"."+pkg, ".")
	if i := strings.LastIndex(full, "_global_"); i >= 0 {
		full = strings.Trim(full[i+len("_global_"):], ".")
	}
	return full
}

// unused adds errors for entries `override group` that nothing asked about.
func (c *composer) unused() {
	for key, ch := range c.choices {
		if !ch.used && !ch.command {
			c.errs = append(c.errs, errorAt(ch.pos, "defaults."+key, "no defaults list has a group to override here"))
		}
	}
	for _, o := range c.extra {
		first, ok := c.chosen[o.key]
		if !ok || first.added == o {
			continue
		}
		where := ""
		if first.added == nil {
			where = fmt.Sprintf(", in %s:%d", first.pos.File, first.pos.Line)
		}
		c.errs = append(c.errs, errorAt(o.pos, "", "the group is chosen already%s; write %s=%s to choose another option", where, o.key, o.value.text))
	}
	c.errs.sort()
}

// merged lays the parts over one another.
func (c *composer) merged() *node {
	root := newNode(Map, c.src, c.src.pos(1, 1))
	for _, p := range slices.Backward(c.parts) {
		n := p.body
		if p.pkg != "" {
			steps := strings.Split(p.pkg, ".")
			for i := len(steps) - 1; i >= 0; i-- {
				outer := newNode(Map, n.src, n.pos)
				outer.set(entry{name: steps[i], pos: n.pos, node: n})
				n = outer
			}
		}
		root = root.merge(n)
	}
	return root
}
