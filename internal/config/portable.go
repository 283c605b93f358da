package config

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Place is a path that a config names.
type Place struct {
	Key  string // where it stands, as roles.judge.command.files.0
	Path string // absolute, unless it is no path of a file (a URL)
	Here bool   // what is there stays on this machine
}

// Places are the paths in the config, in the order in which they are written. They
// are known once they have been decoded.
func (t *Tree) Places() []Place {
	var all []Place
	t.root.scalars("", "", false, func(n *node, path, _ string, _ bool) {
		if n.path && n.kind == String && n.text != "" {
			all = append(all, Place{path, n.text, n.here})
		}
	})
	return all
}

// leastSecret is how many bytes a text has that is taken for a secret where it is
// written in a config: a shorter one fills a key that nobody asks for (EMPTY, none).
const leastSecret = 8

// Portable prints the config for another machine. With edits, by key path, values are
// others there, or are not there where they are nil; a key that is new stands in a
// map that there is.
//
// What comes from the environment is the value that it has here, but for secrets, for
// values of no declared type (extra_body, env) and for what holds a password: these
// stay ${env:NAME}, which the other machine has to set where this one does. A secret
// that is written in the config itself is left out; withheld are the keys of all such.
//
// Secret and path fields are known once they have been decoded.
func (t *Tree) Portable(edits map[string]any) (yaml []byte, withheld []string, err error) {
	budget := 2 * maxNodes
	root := t.root.clone(&budget)
	for _, key := range slices.Sorted(maps.Keys(edits)) {
		if err := root.edit(key, edits[key]); err != nil {
			return nil, nil, err
		}
	}
	w := &printer{raw: map[*node]string{}}
	p := porter{hides: secretTexts(root)}
	root.scalars("", "", false, func(n *node, path, _ string, secret bool) {
		text, is := p.text(n, secret)
		switch is {
		case asItIs:
			return
		case leftOut:
			withheld = append(withheld, path)
		}
		w.raw[n] = text
	})
	return t.with(root).yaml(w), withheld, nil
}

// with is the tree with another root.
func (t *Tree) with(root *node) *Tree {
	c := *t
	c.root = root
	return &c
}

// edit sets the value at a key path; nil takes it out.
func (n *node) edit(key string, value any) error {
	var made *node
	if value != nil {
		b, err := json.Marshal(value)
		if err != nil {
			return err
		}
		var errs Errors
		if made, errs = parseYAML(&source{}, string(b)); len(errs) > 0 {
			return errs
		}
	}
	parent, last := n, key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		parent, _ = n.find(key[:i])
		last = key[i+1:]
	}
	switch {
	case parent == nil:
		return errorAt(Pos{}, key, "there is no place for it")
	case parent.kind == Map && made == nil:
		parent.delete(last)
	case parent.kind == Map:
		parent.set(entry{name: last, node: made})
	case parent.child(last) != nil && made != nil:
		*parent.child(last) = *made
	case made != nil && last == "0": // a lone value that stands for a list of one
		*parent = *made
	default:
		return errorAt(Pos{}, key, "there is no place for it")
	}
	return nil
}

// secretTexts are the secrets of a config, and those of the environment by their names.
func secretTexts(root *node) (all []string) {
	root.scalars("", "", false, func(n *node, _, _ string, secret bool) {
		if secret && len(n.text) >= leastSecret && n.text != hidden {
			all = append(all, n.text)
			if i := strings.LastIndexByte(n.text, ' '); len(n.text)-i > leastSecret { // Bearer ...
				all = append(all, n.text[i+1:])
			}
		}
	})
	for _, kv := range os.Environ() {
		if name, v, _ := strings.Cut(kv, "="); len(v) >= 16 && namesSecret(name) && !isPlace(v) {
			all = append(all, v)
		}
	}
	return all
}

// How a value is printed for another machine.
const (
	asItIs  = iota
	open    // with references to its environment
	leftOut // ***
)

type porter struct{ hides []string }

func (p *porter) hide(text string) bool {
	for _, s := range p.hides {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// text is how n is printed, and what stands for it where that is not its value.
func (p *porter) text(n *node, secret bool) (string, int) {
	refs := fromDefault.ReplaceAllStringFunc(n.open, func(ref string) string { return needed(ref, secret) })
	rest := fromEnv.ReplaceAllString(refs, "") // what is written in the config itself
	switch {
	case n.open == "" && secret && len(n.text) >= leastSecret:
		return hidden, leftOut
	case n.open == "" && (secret || n.path):
		return "", asItIs
	case n.open == "" && (p.hide(n.text) || !strings.ContainsAny(n.text, " \n") && bare(n.text) != n.text):
		return hidden, leftOut
	case n.open == "":
		return "", asItIs
	case secret && len(strings.TrimSpace(rest)) >= leastSecret && !scheme.MatchString(rest), p.hide(refs):
		return hidden, leftOut
	case secret, n.err != nil, n.loose && !n.path, p.hide(n.text), namesSecrets(n.open), bare(n.text) != n.text:
		return refs, open
	}
	return "", asItIs
}

// fromDefault matches a variable with what stands for it where it is not set.
var fromDefault = regexp.MustCompile(`\$\{(?:oc\.)?env:([^},]*),([^}]*)\}`)

// needed is a reference to a variable, without its default where it is set here, or the
// default is a secret: so it has to be set elsewhere.
func needed(ref string, secret bool) string {
	m := fromDefault.FindStringSubmatch(ref)
	name := strings.TrimSpace(m[1])
	if _, set := os.LookupEnv(name); set || secret && len(m[2]) >= leastSecret {
		return "${env:" + name + "}"
	}
	return ref
}

// namesSecrets reports whether a text refers to a variable with the name of a secret.
func namesSecrets(text string) bool {
	for _, ref := range fromEnv.FindAllString(text, -1) {
		name, _, _ := strings.Cut(strings.TrimSuffix(ref[strings.IndexByte(ref, ':')+1:], "}"), ",")
		if namesSecret(strings.TrimSpace(name)) {
			return true
		}
	}
	return false
}
