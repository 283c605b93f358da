package config

import (
	"regexp"
	"strings"

	"matrix/internal/near"
)

// inParams is how an expression or a template names a param; without a group that
// matches, it takes them all.
var inParams = regexp.MustCompile(`\bparams\b(?:\s*\.\s*(\w+)|\s*\[\s*["']([^"']+)["']\s*\])?`)

// IdleParams are about the params that the command line sets and that nothing in the
// config refers to: names mistyped behind a +, most often.
func (t *Tree) IdleParams() Errors {
	params := t.root.get("params")
	if params == nil {
		return nil
	}
	named := map[string]bool{}
	t.root.scalars("", "", false, func(n *node, path, _ string, _ bool) {
		if n.kind != String || strings.HasPrefix(path, "params.") {
			return
		}
		for _, m := range inParams.FindAllStringSubmatch(n.text, -1) {
			named[m[1]+m[2]] = true
		}
	})
	var out Errors
	for _, e := range params.fields {
		if params.used || e.node.used || named[""] || named[e.name] || !strings.HasPrefix(e.node.pos.File, commandLine+":") {
			continue
		}
		warning := errorAt(e.node.pos, Join("params", e.name), "is set, and nothing in the config refers to it")
		if warning.Hint = under(t.typ, e.name); warning.Hint == "" {
			warning.Hint = near.Name(e.name, structOf(t.typ).names())
		}
		if warning.Hint == "" {
			warning.Hint = inside(t.root, t.typ, e.name)
		}
		out = append(out, warning)
	}
	return out
}
