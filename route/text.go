package route

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"matrix/internal/printable"
)

// How wide a condition may be before what follows goes to the next line, and
// how much of an opening turn is shown.
const (
	conditionWidth = 60
	openingWidth   = 72
)

// Text draws the flow for a terminal: each role, and below it where tasks go.
func (f Flow) Text() string {
	var b strings.Builder
	for _, o := range f.Open {
		if o.Turns != "" {
			fmt.Fprintf(&b, "open   turns of %s\n", shorten(printable.Line(o.Turns), openingWidth))
			continue
		}
		fmt.Fprintf(&b, "open   %s: %q\n", o.Role, shorten(printable.Line(o.Text), openingWidth))
	}
	b.WriteString("start\n")
	f.branches(&b, "")
	width := 0
	for _, n := range f.Nodes {
		width = max(width, utf8.RuneCountInString(n.Role))
	}
	for _, n := range f.Nodes {
		line := fmt.Sprintf("%-*s  %s", width, n.Role, n.what())
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		f.branches(&b, n.Role)
	}
	return b.String()
}

// branches writes one line for each edge, the arrows below each other.
func (f Flow) branches(b *strings.Builder, from string) {
	edges := f.from(from)
	width := 0
	for _, e := range edges {
		if n := utf8.RuneCountInString(f.condition(e)); n <= conditionWidth {
			width = max(width, n)
		}
	}
	for i, e := range edges {
		branch, below := "├─", "│"
		if i == len(edges)-1 {
			branch, below = "└─", " "
		}
		when := f.condition(e)
		n := utf8.RuneCountInString(when)
		switch {
		case n > conditionWidth:
			fmt.Fprintf(b, "  %s %s\n  %s  └─> %s\n", branch, when, below, target(e))
		case n > 0:
			fmt.Fprintf(b, "  %s %s %s─> %s\n", branch, when, strings.Repeat("─", width-n), target(e))
		case width > 0:
			fmt.Fprintf(b, "  %s%s─> %s\n", branch, strings.Repeat("─", width+2), target(e))
		default:
			fmt.Fprintf(b, "  %s─> %s\n", branch, target(e))
		}
	}
}

// target is the role or the end that an edge leads to.
func target(e Edge) string {
	if e.End != nil {
		return e.End.label()
	}
	return e.To
}
