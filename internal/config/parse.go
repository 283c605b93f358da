package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"matrix/internal/textfile"
)

// Bounds that no config a person writes comes near: beyond them it is another
// file, given by mistake, or one built to use up memory.
const (
	maxFile  = 4 << 20 // bytes of one YAML or text file
	maxNodes = 1 << 20 // values in all, aliases and references included
	maxDepth = 200     // lists and maps inside one another
	maxText  = 64 << 20
)

// readText reads a file that must be text; name is what messages call it. CRLF
// becomes LF, and a byte order mark goes.
func readText(name, full string) (*source, string, *Error) {
	at := Pos{File: name}
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", errorAt(at, "", "no such file")
	case err != nil:
		return nil, "", errorAt(at, "", "%v", reason(err))
	case info.IsDir():
		return nil, "", errorAt(at, "", "is a folder, not a file")
	case !info.Mode().IsRegular(): // a pipe or a device may keep its reader for ever
		return nil, "", errorAt(at, "", "is a pipe or a device, not a file")
	case info.Size() > maxFile:
		return nil, "", errorAt(at, "", "has %d bytes, too many for a config (at most %d)", info.Size(), maxFile)
	}
	raw, err := os.ReadFile(full)
	if err != nil {
		return nil, "", errorAt(at, "", "%v", reason(err))
	}
	if err := textfile.Foreign(raw[:min(len(raw), textfile.HeadBytes)]); err != nil {
		return nil, "", errorAt(at, "", "%v", err)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
	text := string(raw)
	src := &source{name: name, dir: filepath.Dir(full), lines: strings.Split(text, "\n")}
	if !utf8.ValidString(text) {
		if strings.ContainsRune(text, 0) {
			return nil, "", errorAt(at, "", "is a binary file, not text in YAML")
		}
		for i, l := range src.lines {
			for j, r := range []rune(l) {
				if r == utf8.RuneError && !utf8.ValidString(l) {
					return nil, "", errorAt(src.pos(i+1, j+1), "", "not valid UTF-8: if the file is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW")
				}
			}
		}
	}
	return src, text, nil
}

// reason is what the system says, without the path.
func reason(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// absolute is a path that is written in a file of folder dir. URLs stay.
func absolute(path, dir string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if path == "" || path == "-" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(dir, path)
}

// relative is an absolute path as seen from dir. Other texts stay as they are.
func relative(dir, path string) string {
	if filepath.IsAbs(path) {
		if rel, err := filepath.Rel(dir, path); err == nil {
			return rel
		}
	}
	return path
}

// shown is what messages call the file at path, which is written in src: near
// to how the person named src.
func (s *source) shown(path, dir string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "~/") {
		return path
	}
	if dir == s.dir && !strings.HasPrefix(s.name, commandLine) {
		return filepath.Join(filepath.Dir(s.name), path)
	}
	if dir == s.dir {
		return path
	}
	return filepath.Join(dir, path)
}

// parseYAML makes one YAML document a tree. An empty document is nil.
func parseYAML(src *source, text string) (root *node, errs Errors) {
	if p := tooDeep(src); p.Line > 0 {
		return nil, Errors{errorAt(p, "", "lists and maps are nested more than %d deep", maxDepth)}
	}
	// The YAML library is known to panic on some malformed documents.
	defer func() {
		if r := recover(); r != nil {
			root, errs = nil, Errors{errorAt(Pos{File: src.name}, "", "not valid YAML (%v)", r)}
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, Errors{syntaxError(src, err)}
	}
	y := &yamlTree{src: src, anchors: map[string]*node{}, budget: maxNodes}
	for _, d := range file.Docs {
		if d.Body == nil || d.Body.Type() == ast.DirectiveType {
			continue
		}
		if root != nil {
			return nil, Errors{y.errorf(d.Body, "a second document; a config is one")}
		}
		root = y.node(d.Body, "", 0)
	}
	return root, y.errs
}

// bareTemplate matches a line with a value that begins as a template does, and
// not with a quote.
var bareTemplate = regexp.MustCompile(`^[^"'#]*(?:[:,]|^\s*-)\s+\{[{%#]`)

// bareExpression matches a line with a value in { } that is not in quotes, or not
// whole, and has in it what ends it there.
var bareExpression = regexp.MustCompile(`[{,]\s*[\w-]+:\s+(?:[^"'\[{}&*!|>,\s][^,}]*["'\[(]|"[^"]*"\s*[^\s,}]|'[^']*'\s*[^\s,}])`)

// inBraces is what to do about it.
const inBraces = "inside { } put an expression that has a comma, a quote or a bracket in it in quotes"

func syntaxError(src *source, err error) *Error {
	p, msg := Pos{File: src.name}, err.Error()
	var e yaml.Error
	if errors.As(err, &e) {
		msg = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, max(t.Position.Column, 1)
			line := ""
			if p.Line <= len(src.lines) {
				line = src.lines[p.Line-1]
			}
			switch {
			case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
				msg = "a tab in the indentation; YAML wants spaces"
			case bareTemplate.MatchString(line):
				msg = `put a template in quotes: "{{ ... }}"`
			case bareExpression.MatchString(line):
				msg += "; " + inBraces
			default:
				if at, hint := indentError(src, p.Line); hint != "" {
					p, msg = at, hint
				}
			}
		}
	}
	return errorAt(p, "", "not valid YAML: %s", msg)
}

// tooDeep finds where brackets or dashes nest so deeply that a recursive
// parser would be in danger.
func tooDeep(src *source) Pos {
	depth := 0
	for i, l := range src.lines {
		for j, c := range l {
			switch c {
			case '[', '{':
				if depth++; depth > maxDepth {
					return src.pos(i+1, j+1)
				}
			case ']', '}':
				depth = max(depth-1, 0)
			}
		}
		if strings.Count(l, "- ") > maxDepth && strings.Trim(l, "- ") == "" {
			return src.pos(i+1, 1)
		}
	}
	return Pos{}
}

// yamlTree turns a parsed document into nodes.
type yamlTree struct {
	src     *source
	anchors map[string]*node
	budget  int
	errs    Errors
}

func (y *yamlTree) pos(n ast.Node) Pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return Pos{File: y.src.name}
	}
	return y.src.pos(t.Position.Line, max(t.Position.Column, 1))
}

func (y *yamlTree) errorf(n ast.Node, format string, args ...any) *Error {
	return errorAt(y.pos(n), "", format, args...)
}

func (y *yamlTree) fail(n ast.Node, key, format string, args ...any) *node {
	e := y.errorf(n, format, args...)
	e.Key = key
	y.errs = append(y.errs, e)
	return newNode(Null, y.src, y.pos(n))
}

// node converts the value at key.
func (y *yamlTree) node(n ast.Node, key string, depth int) *node {
	if y.budget--; y.budget < 0 || depth > maxDepth {
		if y.budget > -maxNodes {
			y.budget = -maxNodes
			return y.fail(n, key, "the config is too large or too deep")
		}
		return newNode(Null, y.src, y.pos(n))
	}
	switch v := n.(type) {
	case *ast.MappingNode:
		if text, ok := joined(v); ok {
			out := newNode(String, y.src, y.pos(v.Values[0].Key))
			out.text = text
			return out
		}
		return y.mapping(n, v.Values, key, depth)
	case *ast.MappingValueNode:
		return y.mapping(n, []*ast.MappingValueNode{v}, key, depth)
	case *ast.SequenceNode:
		out := newNode(List, y.src, y.pos(n))
		for i, item := range v.Values {
			out.items = append(out.items, y.node(item, Join(key, fmt.Sprint(i)), depth+1))
		}
		return out
	case *ast.AnchorNode:
		out := y.node(v.Value, key, depth)
		y.anchors[v.Name.GetToken().Value] = out
		return out
	case *ast.AliasNode:
		name := v.Value.GetToken().Value
		target := y.anchors[name]
		if target == nil {
			return y.fail(n, key, "no anchor &%s before this alias", name)
		}
		return target.clone(&y.budget)
	case *ast.TagNode:
		return y.tagged(v, key, depth)
	case *ast.LiteralNode:
		out := newNode(String, y.src, y.pos(n))
		out.text = v.Value.Value
		return out
	case nil:
		return newNode(Null, y.src, Pos{File: y.src.name})
	}
	if _, ok := n.(ast.ScalarNode); !ok {
		return y.fail(n, key, "not a value that a config can hold")
	}
	out := newNode(String, y.src, y.pos(n))
	t := n.GetToken()
	switch {
	case t.Type == token.ImplicitNullType:
		out.kind = Null
	case t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType:
		out.text = t.Value
	default:
		out.setText(t.Value)
	}
	return out
}

func (y *yamlTree) tagged(v *ast.TagNode, key string, depth int) *node {
	tag := v.Start.Value
	if tag == "!file" {
		if _, ok := v.Value.(ast.ScalarNode); !ok || v.Value.GetToken().Position.Line != v.Start.Position.Line {
			return y.fail(v, key, "!file wants the path of a text file after it")
		}
	}
	if v.Value == nil {
		out := newNode(Null, y.src, y.pos(v))
		if tag == "!!str" {
			out.kind = String
		}
		return out
	}
	out := y.node(v.Value, key, depth+1)
	want := map[string]Kind{"!!str": String, "!!int": Int, "!!float": Float, "!!bool": Bool, "!!null": Null,
		"!!seq": List, "!!map": Map, "!file": String}
	kind, ok := want[tag]
	if !ok {
		return y.fail(v, key, "unknown tag %s; there is !file", tag)
	}
	switch {
	case tag == "!file":
		out.kind, out.file, out.pos = String, true, y.pos(v)
	case kind == String && out.scalar():
		out.kind = String
	case out.scalar() && (plainKind(out.text) == kind || kind == Float && plainKind(out.text) == Int):
		out.kind = kind
	case out.kind != kind:
		return y.fail(v, key, "%s does not fit %s", tag, out.kind)
	}
	return out
}

// joined is a plain text with a colon in it, as http://host:8000/v1 in
// {endpoints: [http://host:8000/v1]}, which the parser takes for a map: in YAML
// a blank follows the colon of one.
func joined(m *ast.MappingNode) (string, bool) {
	if m.IsFlowStyle || len(m.Values) != 1 {
		return "", false
	}
	v := m.Values[0]
	if v.Key == nil || v.Value == nil || v.Start == nil {
		return "", false
	}
	key, value := v.Key.GetToken(), v.Value.GetToken()
	if key == nil || value == nil || key.Type != token.StringType ||
		value.Position.Line != v.Start.Position.Line || value.Position.Column != v.Start.Position.Column+1 {
		return "", false
	}
	switch v.Value.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode:
	default:
		return "", false
	}
	if value.Type == token.SingleQuoteType || value.Type == token.DoubleQuoteType {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}

func (y *yamlTree) mapping(n ast.Node, values []*ast.MappingValueNode, key string, depth int) *node {
	out := newNode(Map, y.src, y.pos(n))
	seen := map[string]Pos{}
	var merged []*node
	for _, v := range values {
		if v.Key == nil {
			y.fail(n, key, "a key is missing")
			continue
		}
		if v.Key.IsMergeKey() {
			merged = append(merged, y.merges(v.Value, key, depth)...)
			continue
		}
		name, ok := keyText(v.Key)
		if !ok {
			y.fail(v.Key, key, "a key must be a plain text")
			continue
		}
		at := Join(key, name)
		child := y.node(v.Value, at, depth+1)
		if first, ok := seen[name]; ok {
			y.fail(v.Key, at, "is given twice, first in line %d", first.Line)
			continue
		}
		seen[name] = y.pos(v.Key)
		out.fields = append(out.fields, entry{name: name, pos: seen[name], node: child})
	}
	for _, m := range merged {
		for _, e := range m.fields {
			if _, ok := seen[e.name]; !ok {
				seen[e.name] = e.pos
				out.fields = append(out.fields, e)
			}
		}
	}
	return out
}

// merges are the maps that `<<` names.
func (y *yamlTree) merges(v ast.Node, key string, depth int) []*node {
	n := y.node(v, key, depth+1)
	maps := []*node{n}
	if n.kind == List {
		maps = n.items
	}
	for _, m := range maps {
		if m.kind != Map {
			y.fail(v, key, "<< wants a map or a list of maps, got %s", m.kind)
			return nil
		}
	}
	return maps
}

func keyText(k ast.MapKeyNode) (string, bool) {
	var n ast.Node = k
	if m, ok := n.(*ast.MappingKeyNode); ok {
		n = m.Value
	}
	if _, ok := n.(ast.ScalarNode); !ok {
		return "", false
	}
	switch n.(type) {
	case *ast.LiteralNode, *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return "", false
	}
	return n.GetToken().Value, true
}
