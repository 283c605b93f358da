package route

import (
	"fmt"
	"strings"

	"matrix"
	"matrix/internal/printable"
)

// Mermaid draws the flow as a Mermaid flowchart.
func (f Flow) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart TD\n  start([start])\n")
	ids := f.ids()
	for _, n := range f.Nodes {
		label := mermaidText(n.Role)
		if what := n.what(); what != "" {
			label += "<br/>" + mermaidText(what)
		}
		shape := `["` + label + `"]`
		if n.Inline {
			shape = `("` + label + `")`
		}
		fmt.Fprintf(&b, "  %s%s\n", ids[n.Role], shape)
	}
	for i, e := range f.Edges {
		to := ids[e.To]
		if e.End != nil {
			to = fmt.Sprintf("end%d", i)
			fmt.Fprintf(&b, "  %s([\"%s\"])\n", to, mermaidText(e.End.label()))
		}
		arrow := "-->"
		if e.Error {
			arrow = "-.->"
		}
		if when := f.condition(e); when != "" {
			arrow += `|"` + mermaidText(when) + `"|`
		}
		fmt.Fprintf(&b, "  %s %s %s\n", ids[e.From], arrow, to)
	}
	return b.String()
}

// mermaidText makes text safe inside a quoted Mermaid label: entity codes for
// what Mermaid, its Markdown or HTML would read as more than text.
func mermaidText(text string) string {
	var b strings.Builder
	for _, r := range printable.Line(text) {
		if strings.ContainsRune("\"#&<>`|;\\", r) {
			fmt.Fprintf(&b, "#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// DOT draws the flow in the language of Graphviz.
func (f Flow) DOT() string {
	var b strings.Builder
	b.WriteString("digraph flow {\n  node [shape=box];\n  start [shape=circle, label=\"start\"];\n")
	ids := f.ids()
	for _, n := range f.Nodes {
		label := dotText(n.Role)
		if what := n.what(); what != "" {
			label += `\n` + dotText(what)
		}
		style := ""
		if n.Inline {
			style = ", style=rounded"
		}
		fmt.Fprintf(&b, "  %s [label=\"%s\"%s];\n", ids[n.Role], label, style)
	}
	for i, e := range f.Edges {
		to := ids[e.To]
		if e.End != nil {
			to = fmt.Sprintf("end%d", i)
			shape := "doublecircle"
			if e.End.label() != string(matrix.Done) {
				shape = "ellipse, peripheries=2"
			}
			fmt.Fprintf(&b, "  %s [shape=%s, label=\"%s\"];\n", to, shape, dotText(e.End.label()))
		}
		fmt.Fprintf(&b, "  %s -> %s", ids[e.From], to)
		var attributes []string
		if when := f.condition(e); when != "" {
			attributes = append(attributes, `label="`+dotText(when)+`"`)
		}
		if e.Error {
			attributes = append(attributes, "style=dashed")
		}
		if len(attributes) > 0 {
			fmt.Fprintf(&b, " [%s]", strings.Join(attributes, ", "))
		}
		b.WriteString(";\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText makes text safe inside a quoted DOT string.
func dotText(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable.Line(text))
}

// ids names the roles in a drawing, so that no name can be taken for a word of
// the language.
func (f Flow) ids() map[string]string {
	ids := map[string]string{"": "start"}
	for i, n := range f.Nodes {
		ids[n.Role] = fmt.Sprintf("role%d", i)
	}
	return ids
}
