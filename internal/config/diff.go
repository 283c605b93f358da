package config

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
)

// Diff gives the key paths whose values differ between two configs, as far as
// a redacted printout tells: secrets are not compared, so a config can be
// compared with one that was printed and loaded again. Values from the
// environment are compared by the Marks that stand under a printout. Decode
// both, or the one that was not printed, before.
//
// A path is the same where it names the same file, or the same one relative to
// the folder of its config: stood is that of a, before it was printed, and empty
// where nobody knows.
func Diff(a, b *Tree, stood string) []string {
	d := &differ{a: &printer{redact: true}, b: &printer{redact: true}, marks: map[string]string{}, stood: stood, stands: b.Dir()}
	for _, t := range []*Tree{a, b} {
		if len(t.root.fields) == 0 || t.root.fields[0].node.src == nil {
			continue
		}
		for _, line := range t.root.fields[0].node.src.lines { // a printout is one file
			if m := markLine.FindStringSubmatch(line); m != nil {
				d.marks[m[1]] = m[2]
			}
		}
	}
	d.a.gather(a.root)
	d.b.gather(b.root)
	d.diff(a.root, b.root, "", false)
	return d.keys
}

type differ struct {
	a, b          *printer
	marks         map[string]string // of values from the environment, by path
	stood, stands string            // the folders of both
	keys          []string
}

func (d *differ) diff(a, b *node, path string, secret bool) {
	if a == nil {
		a = &node{}
	}
	if b == nil {
		b = &node{}
	}
	if secret || a.secret || b.secret {
		return
	}
	switch {
	case a.kind == Map && (b.kind == Map || b.kind == Null) || a.kind == Null && b.kind == Map:
		before := len(d.keys)
		for _, name := range a.names() {
			d.diff(a.get(name), b.get(name), Join(path, name), isSecret(name))
		}
		for _, name := range b.names() {
			if a.get(name) == nil {
				d.diff(nil, b.get(name), Join(path, name), isSecret(name))
			}
		}
		if a.kind != b.kind && len(d.keys) == before && len(a.fields)+len(b.fields) == 0 && path != "" {
			d.keys = append(d.keys, path)
		}
	case a.kind == List && b.kind == List && len(a.items) == len(b.items):
		for i := range a.items {
			d.diff(a.items[i], b.items[i], Join(path, strconv.Itoa(i)), false)
		}
	case !a.scalar() || !b.scalar() || !d.same(a, b, path):
		d.keys = append(d.keys, path)
	}
}

// Marks are lines that stand under a printout of the tree, so that a change of
// what came from the environment is seen: for each such value that is not a secret 16
// bits of its hash, which tell nothing of it.
func (t *Tree) Marks() []byte {
	var out []byte
	t.root.scalars("", "", false, func(n *node, path, _ string, secret bool) {
		if !secret && n.open != "" && n.err == nil && !n.path {
			out = fmt.Appendf(out, "# from the environment: %s %s\n", path, mark(n.text))
		}
	})
	return out
}

var markLine = regexp.MustCompile(`^# from the environment: (.*) ([0-9a-f]{4})$`)

func mark(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:2])
}

func (d *differ) same(a, b *node, path string) bool {
	if b.path && a.kind == String {
		x := absolute(a.text, a.dir)
		return x == b.text || d.stood != "" && relative(d.stood, x) == relative(d.stands, b.text)
	}
	if m := d.marks[path]; m != "" {
		bare := a.kind == Null && a.open == "" // so it was printed before references to nothing were kept: the mark speaks for it
		for _, n := range []*node{a, b} {
			if n.err == nil && mark(n.text) != m && !(n == a && bare) {
				return false
			}
		}
		return true
	}
	if a.err == nil && b.err == nil && a.kind == b.kind && a.text == b.text {
		return true
	}
	x, _ := d.a.shown(a, false)
	y, _ := d.b.shown(b, false)
	if x == y && (a.kind == b.kind || x != a.text) {
		return true
	}
	number := func(n *node) bool { return n.kind == Int || n.kind == Float }
	return number(a) && number(b) && fmt.Sprint(a.value()) == fmt.Sprint(b.value())
}
