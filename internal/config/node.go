package config

import (
	"math"
	"strconv"
	"strings"
)

// Kind is the shape of a value in a config.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	List
	Map
)

func (k Kind) String() string {
	return [...]string{"nothing", "a boolean", "a whole number", "a number", "a text", "a list", "a map"}[k]
}

// Pos is a place in a file, or in an argument of the command line: then File
// says which, and Line is 1. Lines and columns count from 1, columns in
// characters; 0 is unknown.
type Pos struct {
	File         string
	Line, Column int
}

// source is a text that positions point into.
type source struct {
	name  string   // as a person knows it
	dir   string   // absolute: what relative paths in it are relative to
	lines []string // without line ends
}

func (s *source) pos(line, col int) Pos { return Pos{File: s.name, Line: line, Column: col} }

// node is one value of a config with the place it was written at.
type node struct {
	kind   Kind
	text   string // a scalar as text
	fields []entry
	items  []*node

	pos Pos
	dir string // what a relative path is relative to

	// Where text comes from, to find the place of a character in it.
	src   *source
	at    Pos    // where the text plainFile in src
	raw   string // the text before interpolation; spans maps text to it
	spans []span
	whole bool // src is a text file that the text is the whole of

	file   bool   // !file, not read yet: text is the path
	done   bool   // interpolation is through
	err    *Error // an environment variable is missing: an error once somebody wants the value
	lax    bool   // then it is decoded as if it were empty
	env    string // what may be shown of a secret made from the environment
	open   string // the same of a value that is not a secret: less only what comes from the environment
	loose  bool   // decoded into a value of no declared type, such as a map of texts
	secret bool
	path   bool // text has been made an absolute path
	here   bool // of this machine alone
	used   bool // a reference leads to it, or into it
}

// entry is one key of a map.
type entry struct {
	name string
	pos  Pos
	node *node
}

// span says that the text from out on comes from raw on; a fixed one stands
// for a replaced reference, all of which comes from raw.
type span struct {
	out, raw int // in runes
	fixed    bool
}

func newNode(k Kind, src *source, p Pos) *node {
	return &node{kind: k, pos: p, at: p, src: src, dir: src.dir}
}

func (n *node) scalar() bool { return n.kind != List && n.kind != Map }

// isEmpty reports whether n is a text or a list that nothing is in.
// scalars has f see the scalars in n, which stands at path: with their paths, the key
// of a map that each stands at, alone or in lists, and whether it is secret.
func (n *node) scalars(path, key string, secret bool, f func(n *node, path, key string, secret bool)) {
	secret = secret || n.secret
	for _, e := range n.fields {
		e.node.scalars(Join(path, e.name), e.name, secret || isSecret(e.name), f)
	}
	for i, item := range n.items {
		item.scalars(Join(path, strconv.Itoa(i)), key, secret, f)
	}
	if n.scalar() {
		f(n, path, key, secret)
	}
}

func (n *node) isEmpty() bool {
	return n.kind == String && n.text == "" || n.kind == List && len(n.items) == 0
}

func (n *node) get(key string) *node {
	for i := range n.fields {
		if n.fields[i].name == key {
			return n.fields[i].node
		}
	}
	return nil
}

func (n *node) names() []string {
	out := make([]string, len(n.fields))
	for i := range n.fields {
		out[i] = n.fields[i].name
	}
	return out
}

func (n *node) set(e entry) {
	for i := range n.fields {
		if n.fields[i].name == e.name {
			n.fields[i] = e
			return
		}
	}
	n.fields = append(n.fields, e)
}

func (n *node) delete(key string) {
	for i := range n.fields {
		if n.fields[i].name == key {
			n.fields = append(n.fields[:i:i], n.fields[i+1:]...)
			return
		}
	}
}

// child is the value at one step of a key path: a key of a map or an index of
// a list.
func (n *node) child(step string) *node {
	switch n.kind {
	case Map:
		return n.get(step)
	case List:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.items) {
			return n.items[i]
		}
	}
	return nil
}

// find is the value at a dotted path, or nil, and the deepest value on the way
// to it. A key that itself has dots is found too, and so is a map as the one
// entry of a list that it stands for.
func (n *node) find(path string) (found, nearest *node) {
	if path == "" {
		return n, n
	}
	nearest = n
	for end := 0; end <= len(path); end++ {
		if end < len(path) && path[end] != '.' {
			continue
		}
		c := n.child(path[:end])
		if c == nil && n.kind == Map && path[:end] == "0" {
			c = n // a lone map that stands for a list of one
		}
		if c == nil {
			continue
		}
		if end == len(path) {
			return c, c
		}
		found, near := c.find(path[end+1:])
		if found != nil {
			return found, found
		}
		nearest = near
	}
	return nil, nearest
}

// clone copies a value deeply. It counts the values in *budget down.
func (n *node) clone(budget *int) *node {
	*budget--
	c := *n
	if *budget < 0 {
		return &c
	}
	c.fields = append([]entry(nil), n.fields...)
	for i := range c.fields {
		c.fields[i].node = c.fields[i].node.clone(budget)
	}
	c.items = append([]*node(nil), n.items...)
	for i := range c.items {
		c.items[i] = c.items[i].clone(budget)
	}
	return &c
}

// merge lays over on top of n: maps are merged key by key, anything else is
// replaced. Neither is used afterwards.
func (n *node) merge(over *node) *node {
	if n == nil || n.kind != Map || over.kind != Map {
		return over
	}
	for _, e := range over.fields {
		if old := n.get(e.name); old != nil {
			e.node = old.merge(e.node)
		}
		n.set(e)
	}
	return n
}

// setText makes n the scalar that text stands for when written plain in YAML.
func (n *node) setText(text string) {
	n.text = text
	n.kind = plainKind(text)
}

// plainKind is the kind of a plain scalar: the core schema of YAML 1.2, with
// underscores in numbers as YAML 1.1 has them.
func plainKind(s string) Kind {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return Null
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return Bool
	}
	if c := s[0]; c != '+' && c != '-' && c != '.' && (c < '0' || c > '9') {
		return String
	}
	if _, ok := parseInt(s); ok {
		return Int
	}
	if _, ok := parseFloat(s); ok {
		return Float
	}
	return String
}

func parseInt(s string) (int64, bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || digits[0] == '_' {
		return 0, false
	}
	base := 10
	if len(digits) > 2 && digits[0] == '0' {
		switch digits[1] {
		case 'x':
			base = 16
		case 'o':
			base = 8
		case 'b':
			base = 2
		}
		if base != 10 {
			digits = digits[2:]
			if digits[0] == '+' || digits[0] == '-' {
				return 0, false
			}
		}
	}
	i, err := strconv.ParseInt(strings.ReplaceAll(digits, "_", ""), base, 64)
	if err != nil {
		return 0, false
	}
	if s[0] == '-' {
		i = -i
	}
	return i, true
}

func parseFloat(s string) (float64, bool) {
	switch s {
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return math.Inf(1), true
	case "-.inf", "-.Inf", "-.INF":
		return math.Inf(-1), true
	case ".nan", ".NaN", ".NAN":
		return math.NaN(), true
	}
	for _, c := range s {
		if !strings.ContainsRune("0123456789+-.eE_", c) {
			return 0, false
		}
	}
	if !strings.ContainsAny(s, "0123456789") || s[0] == '_' {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return f, err == nil
}

// value is a scalar as Go has it: nil, bool, int, float64 or string.
func (n *node) value() any {
	switch n.kind {
	case Bool:
		return n.text[0] == 't' || n.text[0] == 'T'
	case Int:
		i, _ := parseInt(n.text)
		return int(i)
	case Float:
		f, _ := parseFloat(n.text)
		return f
	case String:
		return n.text
	}
	return nil
}
