package config

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/near"
)

// segment is a piece of a text: literal, or a reference ${...}, whose inside
// is made of segments again.
type segment struct {
	lit string
	ref []segment // of a reference; not nil then
	raw int       // where it begins, in bytes
}

// hasRef reports whether there is anything to interpolate or to unescape.
func hasRef(s string) bool { return strings.Contains(s, "${") }

// parseRefs splits a text. \${ is the text ${, and \\${ a backslash before a
// reference. bad is where an unclosed reference begins, or -1.
func parseRefs(s string) (segs []segment, bad int) {
	segs, _, bad = parseRefsFrom(s, 0, 0)
	return segs, bad
}

func parseRefsFrom(s string, i, depth int) (segs []segment, end, bad int) {
	var lit strings.Builder
	start := i
	flush := func() {
		if lit.Len() > 0 {
			segs = append(segs, segment{lit: lit.String(), raw: start})
			lit.Reset()
		}
	}
	for i < len(s) {
		if depth > 0 && s[i] == '}' {
			flush()
			return segs, i + 1, -1
		}
		if s[i] == '\\' {
			n := i
			for n < len(s) && s[n] == '\\' {
				n++
			}
			if !strings.HasPrefix(s[n:], "${") {
				lit.WriteString(s[i:n])
				i = n
				continue
			}
			lit.WriteString(s[i : i+(n-i)/2])
			if (n-i)%2 == 1 { // what follows is text
				lit.WriteString("${")
				flush() // the raw text is longer from here on
				start, i = n+2, n+2
				continue
			}
			flush()
			start, i = n, n
		}
		if strings.HasPrefix(s[i:], "${") {
			if depth >= 20 {
				return nil, i, i
			}
			flush()
			inner, next, bad := parseRefsFrom(s, i+2, depth+1)
			if bad >= 0 {
				return nil, i, bad
			}
			if next < 0 {
				return nil, i, i
			}
			if inner == nil {
				inner = []segment{}
			}
			segs = append(segs, segment{ref: inner, raw: i})
			start, i = next, next
			continue
		}
		lit.WriteByte(s[i])
		i++
	}
	flush()
	if depth > 0 {
		return nil, -1, -1
	}
	return segs, i, -1
}

// resolver puts values in the place of references, and files in the place of
// !file.
type resolver struct {
	root    *node
	nodes   int // values that may still be made
	text    int // bytes of text that may still be made
	open    map[*node]bool
	failed  map[*node]bool
	chain   []string
	errs    Errors
	environ func(string) (string, bool)
}

func interpolate(root *node) Errors {
	r := &resolver{root: root, nodes: maxNodes, text: maxText, open: map[*node]bool{}, failed: map[*node]bool{}, environ: os.LookupEnv}
	r.resolve(root, "", 0)
	return r.errs
}

func (r *resolver) fail(n *node, path string, at int, format string, args ...any) {
	p := n.pos
	if at >= 0 && n.src != nil {
		p = n.locateRaw(n.text, len([]rune(n.text[:at])))
	}
	r.errs = append(r.errs, errorAt(p, path, format, args...))
}

// resolve replaces all references in n, which stands at path. It reports whether
// it could.
func (r *resolver) resolve(n *node, path string, depth int) bool {
	if n.done || r.failed[n] {
		return n.done
	}
	if depth > 2*maxDepth {
		r.fail(n, path, -1, "references lead too deep")
		return false
	}
	if r.open[n] {
		r.fail(n, path, -1, "refers to itself: %s", strings.Join(append(r.chain[slices.Index(r.chain, path):], path), " -> "))
		return false
	}
	r.open[n] = true
	r.chain = append(r.chain, path)
	defer func() {
		delete(r.open, n)
		r.chain = r.chain[:len(r.chain)-1]
	}()
	ok := true
	for _, e := range n.fields {
		ok = r.resolve(e.node, Join(path, e.name), depth+1) && ok
	}
	for i, item := range n.items {
		ok = r.resolve(item, Join(path, strconv.Itoa(i)), depth+1) && ok
	}
	if n.kind == String {
		ok = r.scalar(n, path, depth)
	}
	n.done, r.failed[n] = ok, !ok
	return ok
}

func (r *resolver) scalar(n *node, path string, depth int) bool {
	if hasRef(n.text) {
		segs, bad := parseRefs(n.text)
		if bad >= 0 {
			r.fail(n, path, bad, `${ without its }; write \${ for the text`)
			return false
		}
		if len(segs) == 1 && segs[0].ref != nil && !n.file {
			return r.whole(n, segs[0], path, depth)
		}
		v, ok := r.join(n, segs, path, depth)
		if !ok {
			return false
		}
		if r.text -= len(v.text); r.text < 0 {
			r.fail(n, path, -1, "references make the config too large")
			r.text = 0
			return false
		}
		n.raw, n.text, n.spans, n.env, n.open, n.err = n.text, v.text, v.spans, v.env, v.open, v.err
		if v.dir != "" {
			n.dir = v.dir
		}
	}
	if n.file {
		return r.readFile(n, path)
	}
	return true
}

func (r *resolver) readFile(n *node, path string) bool {
	if n.err != nil {
		return true
	}
	n.file = false
	src, text, err := readText(n.src.shown(n.text, n.dir), absolute(n.text, n.dir))
	if err != nil {
		if err.Line > 0 {
			r.fail(n, path, -1, "!file %s: line %d, column %d: %s", n.text, err.Line, err.Column, err.Msg)
		} else {
			r.fail(n, path, -1, "!file %s: %s", n.text, err.Msg)
		}
		return false
	}
	n.text, n.raw, n.spans, n.env, n.open = text, "", nil, "", ""
	n.src, n.at, n.whole = src, src.pos(1, 1), true
	return true
}

// whole makes n, which is one reference and nothing else, a copy of what it
// refers to, type included.
func (r *resolver) whole(n *node, s segment, path string, depth int) bool {
	v, target, ok := r.reference(n, s, path, depth)
	if !ok {
		return false
	}
	if target == nil {
		n.raw, n.env, n.open, n.err, n.dir = n.text, v.env, v.open, v.err, v.dir
		n.spans = []span{{fixed: true}}
		n.setText(v.text)
		return true
	}
	c := target.clone(&r.nodes)
	if r.nodes < 0 {
		r.fail(n, path, -1, "references make the config too large")
		r.nodes = 0
		return false
	}
	*n = *c
	return true
}

// evaluated is the text that segments stand for.
type evaluated struct {
	text  string
	dir   string // of what the text begins with, where that is a reference
	spans []span
	env   string // not empty when a part comes from the environment: what may be shown of a secret
	open  string // then: what may be shown of a value that is not a secret
	err   *Error
}

// scheme is what may stand before a secret in an Authorization header.
var scheme = regexp.MustCompile(`^(?i)(bearer|basic|token|key) ?$`)

func (r *resolver) join(n *node, segs []segment, path string, depth int) (evaluated, bool) {
	var out evaluated
	var text, shown, open strings.Builder
	runes, fromEnv := 0, false
	for i, s := range segs {
		raw := len([]rune(n.text[:s.raw]))
		part := s.lit
		if s.ref == nil {
			out.spans = append(out.spans, span{out: runes, raw: raw})
			open.WriteString(escapeRefs(part))
			if scheme.MatchString(part) {
				shown.WriteString(part)
			} else {
				shown.WriteString(hidden)
			}
		} else {
			v, target, ok := r.reference(n, s, path, depth)
			if !ok {
				return out, false
			}
			if target != nil {
				if !target.scalar() {
					r.fail(n, path, s.raw, "%s inside a text is %s; it must be a single value", refText(s), target.kind)
					return out, false
				}
				v = evaluated{text: target.text, dir: target.dir, env: target.env, open: target.open, err: target.err}
			}
			if part = v.text; v.env != "" {
				fromEnv = true
				shown.WriteString(v.env)
				open.WriteString(v.open)
			} else {
				shown.WriteString(hidden)
				open.WriteString(escapeRefs(part))
			}
			if v.err != nil {
				out.err = v.err
			}
			if i == 0 {
				out.dir = v.dir
			}
			out.spans = append(out.spans, span{out: runes, raw: raw, fixed: true})
		}
		text.WriteString(part)
		if text.Len() > maxText {
			r.fail(n, path, s.raw, "references make the config too large")
			return out, false
		}
		runes += len([]rune(part))
	}
	out.text = text.String()
	if fromEnv {
		out.env, out.open = shown.String(), open.String()
	}
	return out, true
}

func refText(s segment) string {
	var b strings.Builder
	b.WriteString("${")
	for _, in := range s.ref {
		if in.ref != nil {
			b.WriteString(refText(in))
		} else {
			b.WriteString(in.lit)
		}
	}
	return b.String() + "}"
}

// variable matches the name of an environment variable.
var variable = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

// reference finds what a reference in n stands for: a value of the config, or
// else a text from the environment.
func (r *resolver) reference(n *node, s segment, path string, depth int) (evaluated, *node, bool) {
	inner, ok := r.join(n, s.ref, path, depth+1)
	if !ok {
		return evaluated{}, nil, false
	}
	if inner.err != nil {
		return inner, nil, true
	}
	name := strings.TrimSpace(inner.text)
	if kind, arg, ok := strings.Cut(name, ":"); ok {
		if kind != "env" && kind != "oc.env" {
			r.fail(n, path, s.raw, `${%s:...} is not known; there is ${env:NAME} and ${key.path}; write \${ for the text`, kind)
			return evaluated{}, nil, false
		}
		return r.variable(n, arg, path, s.raw), nil, true
	}
	target, ok := r.lookup(n, name, path, s.raw, depth)
	return evaluated{}, target, ok
}

func (r *resolver) variable(n *node, arg, path string, raw int) evaluated {
	name, def, hasDef := strings.Cut(arg, ",")
	name, def = strings.TrimSpace(name), strings.TrimSpace(def)
	cwd, _ := os.Getwd()
	v := evaluated{dir: cwd, env: "${env:" + name + "}"}
	v.open = v.env
	if hasDef {
		v.env, v.open = "${env:"+name+",}", "${env:"+name+","+escapeRefs(def)+"}"
		if def != "" {
			v.env = "${env:" + name + "," + hidden + "}"
		}
	}
	if text, ok := r.environ(name); ok {
		v.text = strings.ToValidUTF8(text, "\uFFFD")
		return v
	}
	if hasDef {
		v.text, v.dir = def, n.dir
		return v
	}
	v.err = errorAt(n.locateRaw(n.text, len([]rune(n.text[:raw]))), path,
		"environment variable %s is not set; set it, or write ${env:%s,default}", name, name)
	return v
}

var indexStep = regexp.MustCompile(`\[(\d+)\]`)

// lookup finds and resolves the value that a key path names. A name that is no
// key of the config is looked for in params. Leading dots are relative, as
// OmegaConf has them: one is the map the reference stands in.
func (r *resolver) lookup(n *node, name, path string, raw, depth int) (*node, bool) {
	key := indexStep.ReplaceAllString(name, ".$1")
	if rel := strings.TrimLeft(key, "."); rel != key {
		up := strings.Split(path, ".")
		if cut := len(key) - len(rel); cut <= len(up) {
			key = strings.Trim(strings.Join(append(up[:len(up)-cut:len(up)-cut], rel), "."), ".")
		}
	}
	steps := strings.Split(key, ".")
	params := r.root.get("params")
	if r.root.get(steps[0]) == nil && params != nil && params.child(steps[0]) != nil {
		steps = append([]string{"params"}, steps...)
	}
	at, where := r.root, ""
	for i, step := range steps {
		if at.kind == String && !at.done && !r.resolve(at, where, depth+1) {
			return nil, false
		}
		next := at.child(step)
		if next == nil {
			known := at.names()
			if i == 0 && params != nil {
				known = append(known, params.names()...)
			}
			if variable.MatchString(name) {
				r.fail(n, path, raw, `${%s} refers to nothing; write ${env:%[1]s} for the environment variable, \${ for the text`, name)
				return nil, false
			}
			r.fail(n, path, raw, `${%s} refers to nothing; write \${ for the text`, name)
			if near := near.Name(step, known); near != "" {
				r.errs[len(r.errs)-1].Hint = strings.Join(append(steps[:i:i], append([]string{near}, steps[i+1:]...)...), ".")
			}
			return nil, false
		}
		at, where = next, Join(where, step)
		at.used = at.used || i > 0 || len(steps) == 1 // of params as a whole only where all of it is meant
	}
	if at == r.root {
		return nil, false
	}
	return at, r.resolve(at, where, depth+1)
}
