package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// keyLine matches a line that begins with a key: what stands before it, and
// behind it.
var keyLine = regexp.MustCompile(`^( *(?:- +)*)[^\s:#'"{}\[\],-][^:#'"{}\[\]]*:(?: +(.*))?$`)

// indentError says what is wrong with the indentation at or after a line at which
// YAML cannot be understood; empty where that is not it.
func indentError(src *source, line int) (Pos, string) {
	indent := func(l string) int { return len(l) - len(strings.TrimLeft(l, " ")) }
	blank := func(l string) bool { l = strings.TrimSpace(l); return l == "" || l[0] == '#' }
	if line < 1 || line > len(src.lines) {
		return Pos{}, ""
	}
	for _, at := range []int{line, line + 1} { // the parser may tell the line before
		if at > len(src.lines) || blank(src.lines[at-1]) {
			continue
		}
		own := indent(src.lines[at-1])
		above := at - 1
		for above > 0 && blank(src.lines[above-1]) {
			above--
		}
		if above == 0 {
			continue
		}
		before := src.lines[above-1]
		m := keyLine.FindStringSubmatch(before)
		if own > indent(before) && m != nil && m[2] != "" && own > len(m[1]) && !strings.ContainsAny(m[2][:1], `|>{["'&!*`) && keyLine.MatchString(src.lines[at-1]) {
			return src.pos(at, own+1), fmt.Sprintf("wrong indentation: line %d stands further in than line %d, which has a value already; keys of one map begin in the same column", at, above)
		}
		if own < indent(before) && keyLine.MatchString(src.lines[at-1]) {
			var columns []string
			least, known := indent(before)+1, false
			for i := above; i > 0 && least > 0; i-- {
				l := src.lines[i-1]
				if blank(l) || indent(l) >= least {
					continue
				}
				least = indent(l)
				known = known || least == own || len(l)-len(strings.TrimLeft(l, " -")) == own
				columns = append([]string{fmt.Sprint(least + 1)}, columns...)
			}
			if !known {
				return src.pos(at, own+1), fmt.Sprintf("wrong indentation: line %d begins in column %d, and the maps that are open above it in columns %s", at, own+1, strings.Join(columns, ", "))
			}
		}
		if m != nil && strings.HasPrefix(m[2], "|") || m != nil && strings.HasPrefix(m[2], ">") {
			if own <= indent(before) {
				return src.pos(at, own+1), fmt.Sprintf("wrong indentation: the text that line %d announces stands further in than its key", above)
			}
		}
	}
	if m := keyLine.FindStringSubmatch(src.lines[line-1]); m != nil && strings.Contains(m[2], ": ") && !strings.ContainsAny(m[2][:1], `|>{["'`) {
		return src.pos(line, len(m[0])-len(m[2])+1), `put the text in quotes, since it has ": " in it`
	}
	return Pos{}, ""
}

// Explain adds to errors that seem to come of wrong indentation that they do: a key
// is empty, and what belongs into it stands beside it. It returns err.
func (t *Tree) Explain(err error) error {
	var errs Errors
	if !errors.As(err, &errs) {
		return err
	}
	hints := map[Pos]string{}
	var walk func(n *node)
	walk = func(n *node) {
		for i, e := range n.fields {
			walk(e.node)
			if e.node.kind != Null || e.node.text != "" || e.node.env != "" || e.node.err != nil || i+1 == len(n.fields) {
				continue
			}
			next := n.fields[i+1]
			if next.pos.Column != e.pos.Column || next.pos.Line <= e.pos.Line || next.pos.File != e.pos.File {
				continue
			}
			hint := fmt.Sprintf("wrong indentation? %s is empty, and line %d stands beside it: what belongs to it stands further in", e.name, next.pos.Line)
			hints[e.pos], hints[e.node.pos] = hint, hint
			for _, further := range n.fields[i+1:] {
				hints[further.pos], hints[further.node.pos] = hint, hint
			}
		}
		for _, item := range n.items {
			walk(item)
		}
	}
	walk(t.root)
	said := map[string]bool{}
	for _, e := range errs {
		if hint := hints[Pos{e.File, e.Line, e.Column}]; hint != "" && !said[hint] {
			e.Msg += "; " + hint
			said[hint] = true
		}
	}
	return err
}
