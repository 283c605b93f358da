package grammar

import "strings"

// leeway is how many more characters and rules than the shortest text needs a
// written one has at most.
const leeway = 400

// Least is about how many steps the shortest text takes: at least its length in
// characters, and the same for each rule in it. It stops growing at 2^40.
func (g *Grammar) Least() int { return int(g.states[g.top].far) }

// Write writes a text of the grammar, drawn by draw, which returns a number from
// 0 to n-1. It takes Least steps and a few hundred: a caller that does not know
// the grammar looks at Least first.
func (g *Grammar) Write(draw func(n int) int) string {
	var b strings.Builder
	var behind []int32 // where to go on behind the rules under way
	left := int64(leeway)
	for s := g.top; ; {
		st := &g.states[s]
		if st.final {
			if len(behind) == 0 {
				return b.String()
			}
			s = behind[len(behind)-1]
			behind = behind[:len(behind)-1]
			continue
		}
		e := g.choose(st, &left, draw)
		switch s = e.to; e.kind {
		case onChar:
			b.WriteRune(e.arg)
		case onClass:
			b.WriteRune(Draw(g.classes[e.arg].runes, draw))
		case onRule:
			behind = append(behind, s)
			s = g.start[e.arg]
		}
	}
}

// choose draws an edge among those for which enough is left. All but the best
// one cost something, so that there is an end.
func (g *Grammar) choose(st *state, left *int64, draw func(n int) int) *edge {
	best := &g.edges[st.best]
	if st.to-st.from == 1 {
		return best
	}
	price := func(i int32) int64 {
		if i == st.best {
			return 0
		}
		e := &g.edges[i]
		far := g.states[e.to].far
		switch e.kind {
		case onRule:
			far += 1 + g.states[g.start[e.arg]].far
		case onChar, onClass:
			far++
		}
		return max(1, far-st.far)
	}
	i := st.from + int32(draw(int(st.to-st.from)))
	if first := &g.edges[st.from]; first.loop && i != st.from && draw(2) == 0 {
		i = st.from // once more is likelier than the end
	}
	if p := price(i); p <= *left {
		*left -= p
		return &g.edges[i]
	}
	return best
}

// Draw draws a character from ranges, which are pairs of the first and the last:
// one that can be printed in ASCII if there is any, and x of no ranges.
func Draw(ranges []rune, draw func(n int) int) rune {
	for _, printable := range []bool{true, false} {
		n := 0
		each := func(f func(lo, hi rune)) {
			for i := 0; i+1 < len(ranges); i += 2 {
				lo, hi := ranges[i], ranges[i+1]
				if printable {
					lo, hi = max(lo, ' '), min(hi, '~')
				}
				if lo <= hi {
					f(lo, hi)
				}
			}
		}
		each(func(lo, hi rune) { n += int(hi-lo) + 1 })
		if n == 0 {
			continue
		}
		at, drawn := draw(n), rune(0)
		each(func(lo, hi rune) {
			if w := int(hi-lo) + 1; at >= 0 && at < w {
				drawn, at = lo+rune(at), -1
			} else if at >= 0 {
				at -= w
			}
		})
		return drawn
	}
	return 'x'
}
