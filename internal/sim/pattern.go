package sim

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"matrix/internal/grammar"
)

// pattern writes texts that match a regular expression.
type pattern struct{ tree *syntax.Regexp }

// maxRepeats is how often what may be repeated without end is, at most, beyond
// what it must be.
const maxRepeats = 6

func newPattern(expr string) (*pattern, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	t, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if size(t, 0) > 1<<20 {
		return nil, fmt.Errorf("regular expression %q writes too long a text", expr)
	}
	return &pattern{t}, nil
}

// size is about how long a text of t can be.
func size(t *syntax.Regexp, depth int) int {
	n := len(t.Rune)
	for _, s := range t.Sub {
		n += size(s, depth+1)
	}
	n = max(1, n)
	switch t.Op {
	case syntax.OpRepeat:
		n *= max(1, t.Min+maxRepeats)
	case syntax.OpStar, syntax.OpPlus:
		n *= maxRepeats + 1
	}
	return min(n, 1<<30)
}

// write writes a text that matches.
func (p *pattern) write(r *random) string {
	var b strings.Builder
	writeRegexp(&b, p.tree, r)
	return b.String()
}

func writeRegexp(b *strings.Builder, t *syntax.Regexp, r *random) {
	repeat := func(least, most int) {
		if most < 0 {
			most = least + maxRepeats
		}
		for range least + r.below(min(most-least, maxRepeats)+1) {
			writeRegexp(b, t.Sub[0], r)
		}
	}
	switch t.Op {
	case syntax.OpLiteral:
		for _, c := range t.Rune {
			b.WriteRune(c)
		}
	case syntax.OpCharClass:
		b.WriteRune(grammar.Draw(t.Rune, r.below))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte(byte('a' + r.below(26)))
	case syntax.OpCapture, syntax.OpConcat:
		for _, s := range t.Sub {
			writeRegexp(b, s, r)
		}
	case syntax.OpAlternate:
		writeRegexp(b, t.Sub[r.below(len(t.Sub))], r)
	case syntax.OpStar:
		repeat(0, -1)
	case syntax.OpPlus:
		repeat(1, -1)
	case syntax.OpQuest:
		repeat(0, 1)
	case syntax.OpRepeat:
		repeat(t.Min, t.Max)
	}
}
