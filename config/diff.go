package config

import (
	"fmt"
	"strconv"
)

// Diff gives the key paths whose values differ between two configs, as far as
// a redacted printout tells: secrets are not compared, so a config can be
// compared with one that was printed and loaded again. Decode both, or the one
// that was not printed, before.
//
// A path is the same where it names the same file, or the same one relative to
// the folder of its config: stood is that of a, before it was printed, and empty
// where nobody knows.
func Diff(a, b *Tree, stood string) []string {
	d := &differ{a: &printer{redact: true}, b: &printer{redact: true}, stood: stood, stands: b.Dir()}
	d.a.gather(a.root, false)
	d.b.gather(b.root, false)
	d.diff(a.root, b.root, "", false)
	return d.keys
}

type differ struct {
	a, b          *printer
	stood, stands string // the folders of both
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
	case !a.scalar() || !b.scalar() || !d.same(a, b):
		d.keys = append(d.keys, path)
	}
}

func (d *differ) same(a, b *node) bool {
	if b.path && a.kind == String {
		x := absolute(a.text, a.dir)
		return x == b.text || d.stood != "" && relative(d.stood, x) == relative(d.stands, b.text)
	}
	x, _ := d.a.shown(a, false)
	y, _ := d.b.shown(b, false)
	if x == y && (a.kind == b.kind || x != a.text) {
		return true
	}
	number := func(n *node) bool { return n.kind == Int || n.kind == Float }
	return number(a) && number(b) && fmt.Sprint(a.value()) == fmt.Sprint(b.value())
}
