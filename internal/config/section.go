package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Section is a subtree whose type config does not know. Whoever does decodes
// it later. A nil Section is one that is absent: its Kind is Null.
type Section struct {
	node   *node
	path   string
	keyPos Pos
}

// Root is the whole config as a section, for errors about any part of it.
func (t *Tree) Root() *Section { return &Section{node: t.root, keyPos: t.root.pos} }

// Decode fills the struct that v points to from the whole config, strictly: an
// unknown key, a value of a wrong type and a missing one are Errors.
func (t *Tree) Decode(v any) error { return t.Explain(t.Root().Decode(v)) }

// Decode fills what v points to. See Tree.Decode.
func (s *Section) Decode(v any) error {
	n := s.nodeOrNull()
	p := reflect.ValueOf(v)
	d := &decoder{}
	d.decode(n, p.Elem(), &field{}, s.Path())
	return d.errs.Sorted()
}

func (s *Section) nodeOrNull() *node {
	if s == nil || s.node == nil {
		return newNode(Null, &source{}, Pos{})
	}
	return s.node
}

// AllowUnset has values of the section for which an environment variable is missing be
// decoded as zero values, and not be errors: who uses them has the variable.
func (s *Section) AllowUnset() {
	s.nodeOrNull().scalars("", "", false, func(n *node, _, _ string, _ bool) { n.lax = true })
}

// Path is the key path of the section in the config.
func (s *Section) Path() string {
	if s == nil {
		return ""
	}
	return s.path
}

// Kind is the shape of the value.
func (s *Section) Kind() Kind { return s.nodeOrNull().kind }

// Keys are the keys of a map, in the order they were written.
func (s *Section) Keys() []string { return s.nodeOrNull().names() }

// Get is the value at a dotted path in the section, nil when there is none.
func (s *Section) Get(path string) *Section {
	if path == "" {
		return s
	}
	n, _ := s.nodeOrNull().find(path)
	return s.section(n, path)
}

// Child is the value of one key of a map, nil when there is none. The key is taken
// as it is, also where it is empty, which Get takes for the section itself.
func (s *Section) Child(key string) *Section {
	return s.section(s.nodeOrNull().child(key), key)
}

func (s *Section) section(n *node, path string) *Section {
	if n == nil {
		return nil
	}
	return &Section{node: n, path: Join(s.Path(), path), keyPos: n.pos}
}

// Text is the value at a dotted path in the section as text; empty where there is
// none.
func (s *Section) Text(path string) string {
	at := s.Get(path)
	if at.Kind() == Null {
		return ""
	}
	var v any
	if at.Decode(&v) != nil {
		return ""
	}
	return fmt.Sprint(v)
}

// Items are the values of a list.
func (s *Section) Items() []*Section {
	n := s.nodeOrNull()
	out := make([]*Section, len(n.items))
	for i, item := range n.items {
		out[i] = &Section{node: item, path: Join(s.Path(), strconv.Itoa(i)), keyPos: item.pos}
	}
	return out
}

// Pos is where the value at a dotted path in the section is written, or where
// the nearest value around it is. The empty path is the section itself.
func (s *Section) Pos(path string) Pos {
	_, near := s.nodeOrNull().find(path)
	return near.pos
}

// Errorf is an error about the value at a dotted path in the section. Where
// col is not 0, it points at that character, from 1, of the value's text.
func (s *Section) Errorf(path string, col int, format string, args ...any) error {
	return s.ErrorAt(path, 0, col, format, args...)
}

// ErrorAt is Errorf for a text of several lines: line and col count from 1 in
// it, and 0 is unknown.
func (s *Section) ErrorAt(path string, line, col int, format string, args ...any) error {
	n, near := s.nodeOrNull().find(path)
	p := near.pos
	if n != nil {
		p = n.locate(line, col)
	}
	return errorAt(p, Join(s.Path(), path), format, args...)
}

// Comment is the comment that stands behind a text at a dotted path in the
// section, on its line, where the text has no quotes: it may have been meant to be
// part of it. Else it is empty.
func (s *Section) Comment(path string) string {
	n, _ := s.nodeOrNull().find(path)
	if n == nil || n.kind != String || n.src == nil || n.whole || n.at.Line < 1 || n.at.Line > len(n.src.lines) {
		return ""
	}
	line := []rune(n.src.lines[n.at.Line-1])
	if n.at.Column < 1 || n.at.Column > len(line) {
		return ""
	}
	text, comment, ok := strings.Cut(string(line[n.at.Column-1:]), " #")
	written := n.text
	if n.raw != "" {
		written = n.raw
	}
	if !ok || strings.TrimSpace(text) != strings.TrimSpace(written) {
		return ""
	}
	return "#" + strings.TrimRight(comment, " ")
}

// Unknown is the error that the section's own key is not one of known.
func (s *Section) Unknown(known ...string) error {
	key := s.path[strings.LastIndexByte(s.path, '.')+1:]
	return unknownKey(s.keyPos, s.path, key, known)
}
