package grammar

import (
	"container/heap"
	"math"
	"slices"
)

// maxStates bounds a grammar whose repetitions are written out.
const maxStates = 1 << 18

// state is a place in a rule, before or behind its parts; edges say what may come
// next. The state behind a whole rule is final, and has none.
type state struct {
	from, to int32 // of Grammar.edges
	final    bool
	only     int32 // the one edge, where there is one, and it is a character; else -1
	best     int32 // the edge that begins the shortest way to the end of the rule
	far      int64 // weight of that way: characters and rules in it
}

type kind uint8

const (
	silent  kind = iota // nothing is read
	onChar              // arg is the character
	onClass             // arg is the class
	onRule              // arg is the rule
)

type edge struct {
	kind kind
	more bool // onChar: the next character belongs to the same text
	loop bool // silent: once more
	arg  int32
	to   int32
}

// matches reports whether a character takes the edge.
func (g *Grammar) matches(e *edge, c rune) bool {
	return e.kind == onChar && e.arg == c || e.kind == onClass && g.classes[e.arg].has(c)
}

type compiler struct {
	out     [][]edge // of each state
	classes []class
	known   map[string]int32 // classes by their ranges
}

// compile makes a graph of states for each rule.
func compile(p *parser) (*Grammar, error) {
	c := &compiler{known: map[string]int32{}}
	g := &Grammar{start: make([]int32, len(p.rules)), empty: make([]bool, len(p.rules))}
	for i, r := range p.rules {
		g.start[i] = c.node(r.body, c.state())
		if len(c.out) > maxStates {
			return nil, p.foreign(r.at, "the grammar is too large: up to the end of %q it has more than %d characters, classes and rules, repetitions written out", r.name, maxStates)
		}
	}
	root := p.index["root"]
	g.top = c.state(edge{kind: onRule, arg: int32(root), to: c.state()})
	g.classes = c.classes
	g.finish(c.out)
	if g.states[g.top].far == never {
		return nil, p.bad(p.rules[root].at, "no text is one of this grammar: \"root\" never ends")
	}
	return g, nil
}

func (c *compiler) state(edges ...edge) int32 {
	c.out = append(c.out, edges)
	return int32(len(c.out) - 1)
}

// node makes the states of a part, behind which comes next, and returns its
// first. It stops where there are too many.
func (c *compiler) node(n node, next int32) int32 {
	if len(c.out) > maxStates {
		return next
	}
	switch n := n.(type) {
	case literal:
		for i := len(n) - 1; i >= 0; i-- {
			next = c.state(edge{kind: onChar, arg: n[i], to: next, more: i < len(n)-1})
		}
	case *class:
		return c.state(edge{kind: onClass, arg: c.class(n), to: next})
	case reference:
		return c.state(edge{kind: onRule, arg: int32(n.rule), to: next})
	case sequence:
		for i := len(n) - 1; i >= 0; i-- {
			next = c.node(n[i], next)
		}
	case choice:
		texts, rest := literals(n)
		edges := make([]edge, 0, len(rest)+1)
		if len(texts) > 0 {
			edges = append(edges, edge{to: c.texts(texts, next)})
		}
		for _, x := range rest {
			edges = append(edges, edge{to: c.node(x, next)})
		}
		return c.state(edges...)
	case repeat:
		return c.repeat(n, next)
	}
	return next
}

// literals takes the texts out of a long list of alternatives.
func literals(n choice) (texts []literal, rest choice) {
	const long = 16
	if len(n) <= long {
		return nil, n
	}
	for _, x := range n {
		one := x
		if s, ok := x.(sequence); ok && len(s) == 1 {
			one = s[0]
		}
		if s, ok := one.(literal); ok {
			texts = append(texts, s)
		} else {
			rest = append(rest, x)
		}
	}
	slices.SortFunc(texts, slices.Compare[literal])
	return slices.CompactFunc(texts, slices.Equal[literal]), rest
}

// texts makes the states of alternatives that are texts, in order: those that
// begin alike share their beginning, so that a character chooses among few.
func (c *compiler) texts(list []literal, next int32) int32 {
	if len(list) == 1 || len(c.out) > maxStates {
		return c.node(list[0], next)
	}
	var edges []edge
	if len(list[0]) == 0 {
		edges, list = append(edges, edge{to: next}), list[1:]
	}
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n][0] == list[0][0] {
			n++
		}
		rest := make([]literal, n)
		for i := range rest {
			rest[i] = list[i][1:]
		}
		to := c.texts(rest, next)
		edges = append(edges, edge{kind: onChar, arg: list[0][0], to: to, more: to != next && len(c.out[to]) == 1})
		list = list[n:]
	}
	return c.state(edges...)
}

func (c *compiler) repeat(n repeat, next int32) int32 {
	if n.most < 0 {
		loop := c.state()
		body := c.node(n.of, loop)
		c.out[loop] = []edge{{to: body, loop: true}, {to: next}}
		if next = loop; n.least > 0 {
			next, n.least = body, n.least-1
		}
	}
	end := next
	for range n.most - n.least {
		if len(c.out) > maxStates {
			break
		}
		next = c.state(edge{to: c.node(n.of, next), loop: true}, edge{to: end})
	}
	for range n.least {
		if len(c.out) > maxStates {
			break
		}
		next = c.node(n.of, next)
	}
	return next
}

func (c *compiler) class(n *class) int32 {
	key := n.text + "\x00" + string(n.runes)
	i, ok := c.known[key]
	if !ok {
		i = int32(len(c.classes))
		c.known[key] = i
		c.classes = append(c.classes, *n)
	}
	return i
}

// never is the weight of a way that does not end.
const never = math.MaxInt64

// tooFar is where weights stop growing.
const tooFar = 1 << 40

// finish finds the shortest ways and the rules that may be empty, and keeps of
// the edges those that lead to the end of a text: whatever follows them can
// still become one.
func (g *Grammar) finish(out [][]edge) {
	g.states = make([]state, len(out))
	w := newWays(g, out)
	w.shortest()
	w.nullable()
	for s := range out {
		st := &g.states[s]
		st.from, st.only, st.final = int32(len(g.edges)), -1, len(out[s]) == 0
		best := st.best
		for i, e := range out[s] {
			if int32(i) == best {
				st.best = int32(len(g.edges))
			}
			if g.states[e.to].far == never || e.kind == onRule && g.states[g.start[e.arg]].far == never {
				continue
			}
			g.edges = append(g.edges, e)
		}
		if st.to = int32(len(g.edges)); st.to-st.from == 1 {
			if k := g.edges[st.from].kind; k == onChar || k == onClass {
				st.only = st.from
			}
		}
	}
}

// ways finds which states lead to the end of their rule.
type ways struct {
	g      *Grammar
	out    [][]edge
	into   [][]step // edges to a state
	called [][]step // edges of a rule, by the rule's first state
	done   []bool
	queue  wayHeap
}

// step is an edge of a state.
type step struct{ s, e int32 }

// way begins with a step.
type way struct {
	far int64
	step
}

type wayHeap []way

func (h wayHeap) Len() int           { return len(h) }
func (h wayHeap) Less(i, j int) bool { return h[i].far < h[j].far }
func (h wayHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *wayHeap) Push(x any)        { *h = append(*h, x.(way)) }
func (h *wayHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func newWays(g *Grammar, out [][]edge) *ways {
	w := &ways{g: g, out: out, into: make([][]step, len(out)), called: make([][]step, len(out)), done: make([]bool, len(out))}
	for s, edges := range out {
		for i, e := range edges {
			x := step{int32(s), int32(i)}
			w.into[e.to] = append(w.into[e.to], x)
			if e.kind == onRule {
				from := g.start[e.arg]
				w.called[from] = append(w.called[from], x)
			}
		}
	}
	return w
}

// shortest is Dijkstra's algorithm from the ends of the rules, with rules as
// edges whose length becomes known on the way (Knuth 1977).
func (w *ways) shortest() {
	for s := range w.out {
		w.g.states[s].far, w.g.states[s].best = never, -1
		if len(w.out[s]) == 0 {
			w.queue = append(w.queue, way{0, step{int32(s), -1}})
		}
	}
	heap.Init(&w.queue)
	for w.queue.Len() > 0 {
		x := heap.Pop(&w.queue).(way)
		if w.done[x.s] {
			continue
		}
		w.done[x.s] = true
		w.g.states[x.s].far, w.g.states[x.s].best = x.far, x.e
		for _, list := range [][]step{w.into[x.s], w.called[x.s]} {
			for _, to := range list {
				w.relax(to)
			}
		}
	}
}

// relax looks at a way once more, of which one more part is done.
func (w *ways) relax(x step) {
	e := &w.out[x.s][x.e]
	if w.done[x.s] || !w.done[e.to] {
		return
	}
	far := w.g.states[e.to].far
	switch e.kind {
	case onRule:
		from := w.g.start[e.arg]
		if !w.done[from] {
			return
		}
		far += 1 + w.g.states[from].far
	case onChar, onClass:
		far++
	}
	heap.Push(&w.queue, way{min(far, tooFar), x})
}

// nullable finds the rules that may be empty.
func (w *ways) nullable() {
	done := make([]bool, len(w.out))
	var todo []int32
	for s := range w.out {
		if len(w.out[s]) == 0 {
			done[s] = true
			todo = append(todo, int32(s))
		}
	}
	for len(todo) > 0 {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, list := range [][]step{w.into[t], w.called[t]} {
			for _, x := range list {
				e := &w.out[x.s][x.e]
				if !done[x.s] && done[e.to] && (e.kind == silent || e.kind == onRule && done[w.g.start[e.arg]]) {
					done[x.s] = true
					todo = append(todo, x.s)
				}
			}
		}
	}
	for r, s := range w.g.start {
		w.g.empty[r] = done[s]
	}
}
