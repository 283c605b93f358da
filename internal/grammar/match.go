package grammar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A text is checked from left to right (Earley 1970), over all readings at once.
// Behind each character stand items: a state, and the call that it is in. A call
// is a rule that begins at one place of the text, with all that wait for its
// end. Where one alone waits, at the end of its own rule, the end is handed
// straight to whoever waits for that (Leo 1991). So the work grows with the
// length of the text for the grammars that people write, left and right
// recursive ones among them; with its square where there is more than one
// reading without end in sight, and with its cube at the very worst.

const (
	// maxSteps bounds the work of a text: some seconds.
	maxSteps = 1 << 26
	// maxKept bounds the calls and what waits for them: some 80 MiB.
	maxKept = 1 << 22
	// shown is how many of the things that might have come are named.
	shown = 6
)

// A MismatchError says that a text does not match the grammar, and up to where it
// does: this line and character, from 1.
type MismatchError struct {
	Line, Char int
	Got        string   // the character there; empty at the end of the text
	Want       []string // what can stand there, as the grammar writes it, a few
	More       bool     // something else can, too
}

func (e *MismatchError) Error() string {
	want := strings.Join(e.Want, ", ")
	if n := len(e.Want); e.More {
		want += " or others"
	} else if n > 1 {
		want = strings.Join(e.Want[:n-1], ", ") + " or " + e.Want[n-1]
	}
	got := "the text ends"
	if e.Got != "" {
		got = "got " + strconv.Quote(e.Got)
	}
	return fmt.Sprintf("line %d, character %d: %s, want %s", e.Line, e.Char, got, want)
}

// A LimitError says that a text has too many readings, or is too long, to find
// out whether it is one of the grammar's. Up to this line and character it may be.
type LimitError struct {
	Line, Char int
	Steps      int // that were too many
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("line %d, character %d: the text has too many readings to go on: it took %d steps", e.Line, e.Char, e.Steps)
}

// Match reports whether a text is one of the grammar's: nil, a *MismatchError or a
// *LimitError. A byte that is not UTF-8 counts as U+FFFD. As many texts are
// checked at once as there are processors to do it; others wait.
func (g *Grammar) Match(text string) error {
	m := <-g.idle
	defer func() {
		if cap(m.calls)+cap(m.waits)+len(m.seen.slots)+len(m.then.slots) > 1<<16 {
			m = nil // so much is not kept
		}
		g.idle <- m
	}()
	if m == nil {
		m = newMatcher(g)
	}
	return m.match(text)
}

type item struct{ state, call int32 }

// call is a rule that begins at a place.
type call struct {
	place int32
	waits int32 // the newest wait; -1 for none
	whom  item  // who is told of the end, where known is found
	known knowledge
}

type knowledge uint8

const (
	unknown knowledge = iota
	found             // one alone, in the end
	several
)

// wait is what goes on behind a call.
type wait struct {
	item
	next int32 // of the same call; -1 for none
}

type matcher struct {
	g          *Grammar
	place      int32
	char       rune
	more       bool // there is a character
	whole      bool // the text up to here is one of the grammar's
	steps      int
	items      []item
	next       []item
	seen, then set // of items and next
	calls      []call
	waits      []wait
	begun      []int32 // by rule, the newest call
	path       []int32
}

func newMatcher(g *Grammar) *matcher {
	return &matcher{g: g, begun: make([]int32, len(g.start))}
}

func (m *matcher) match(text string) error {
	for i := range m.begun {
		m.begun[i] = -1
	}
	m.place, m.steps = 0, 0
	m.calls = append(m.calls[:0], call{waits: -1, known: several})
	m.waits, m.items = m.waits[:0], m.items[:0]
	m.seen.clear()
	m.push(item{m.g.top, 0})
	for at := 0; ; m.place++ {
		c, size := utf8.DecodeRuneInString(text[at:])
		m.char, m.more, m.whole = c, size > 0, false
		m.next = m.next[:0]
		m.then.clear()
		for i := 0; i < len(m.items); i++ {
			if m.steps++; m.steps > m.g.most || len(m.calls)+len(m.waits) > maxKept {
				line, char := place(text, at)
				return &LimitError{line, char, m.steps}
			}
			m.item(m.items[i])
		}
		switch {
		case !m.more && m.whole:
			return nil
		case !m.more || len(m.next) == 0:
			return m.mismatch(text, at, size)
		}
		at += size
		m.items, m.next = m.next, m.items
		m.seen, m.then = m.then, m.seen
	}
}

// push adds an item behind the same character, unless it cannot go on.
func (m *matcher) push(x item) {
	if only := m.g.states[x.state].only; only >= 0 {
		e := &m.g.edges[only]
		if m.more && m.g.matches(e, m.char) {
			m.shift(item{e.to, x.call})
		}
		return
	}
	if m.seen.add(x) {
		m.items = append(m.items, x)
	}
}

// shift adds an item behind the next character.
func (m *matcher) shift(x item) {
	if m.then.add(x) {
		m.next = append(m.next, x)
	}
}

func (m *matcher) item(x item) {
	s := &m.g.states[x.state]
	if s.final {
		m.end(x.call)
		return
	}
	m.steps += int(s.to - s.from)
	for i := s.from; i < s.to; i++ {
		switch e := &m.g.edges[i]; e.kind {
		case silent:
			m.push(item{e.to, x.call})
		case onRule:
			m.begin(e.arg, item{e.to, x.call})
			if m.g.empty[e.arg] {
				m.push(item{e.to, x.call})
			}
		default:
			if m.more && m.g.matches(e, m.char) {
				m.shift(item{e.to, x.call})
			}
		}
	}
}

// begin begins a rule here, if it has not begun, and lets x wait for its end.
func (m *matcher) begin(rule int32, x item) {
	c := m.begun[rule]
	if c < 0 || m.calls[c].place != m.place {
		c = int32(len(m.calls))
		m.begun[rule] = c
		m.calls = append(m.calls, call{place: m.place, waits: -1})
		m.push(item{m.g.start[rule], c})
	}
	head := m.calls[c].waits
	if head >= 0 && m.waits[head].item == x {
		return
	}
	m.waits = append(m.waits, wait{x, head})
	m.calls[c].waits = int32(len(m.waits) - 1)
}

// end goes on behind a call. One that ended where it began is empty: its rule was
// passed over when it was begun.
func (m *matcher) end(c int32) {
	if c == 0 {
		m.whole = true
		return
	}
	if m.calls[c].place == m.place {
		return
	}
	if whom, ok := m.alone(c); ok {
		m.push(whom)
		return
	}
	for w := m.calls[c].waits; w >= 0; w = m.waits[w].next {
		m.steps++
		m.push(m.waits[w].item)
	}
}

// alone is who is told of the end of a call, where that is one alone: the last
// one in a row of calls, each of which ends with the one behind it.
func (m *matcher) alone(c int32) (item, bool) {
	m.path = m.path[:0]
	var whom item
	is := several
	for {
		x := &m.calls[c]
		if x.known != unknown {
			if x.known == found {
				whom, is = x.whom, found
			}
			break
		}
		x.known = several // until it is known better, so that no circle is followed
		w := &m.waits[x.waits]
		if w.next >= 0 || !m.g.states[w.state].final {
			break
		}
		m.path = append(m.path, c)
		whom, is = w.item, found
		c = w.call
	}
	for _, c := range m.path {
		x := &m.calls[c]
		x.known, x.whom = is, whom
	}
	return whom, is == found
}

// mismatch says what could have stood at a byte of the text.
func (m *matcher) mismatch(text string, at, size int) error {
	e := &MismatchError{Got: text[at : at+size]}
	e.Line, e.Char = place(text, at)
	left := 1 << 16 // of the work to find out
	note := func(s string) {
		if !slices.Contains(e.Want, s) {
			if len(e.Want) == shown {
				e.More, left = true, 0
				return
			}
			e.Want = append(e.Want, s)
		}
	}
	state := func(s int32) { // one that push passed over
		if only := m.g.states[s].only; only >= 0 {
			note(m.g.show(only))
		}
	}
	if m.whole {
		note("the end")
	}
	for _, x := range m.items {
		s := &m.g.states[x.state]
		if s.final && x.call > 0 && m.calls[x.call].place != m.place {
			for w := m.calls[x.call].waits; w >= 0 && left > 0; w = m.waits[w].next {
				left--
				state(m.waits[w].state)
			}
		}
		for i := s.from; i < s.to && left > 0; i++ {
			left--
			switch edge := &m.g.edges[i]; edge.kind {
			case silent:
				state(edge.to)
			case onRule:
				state(m.g.start[edge.arg])
				if m.g.empty[edge.arg] {
					state(edge.to)
				}
			default:
				note(m.g.show(i))
			}
		}
	}
	if left <= 0 {
		e.More = true
	}
	return e
}

// show is what an edge reads, as the grammar writes it: a class, or the rest of a
// text.
func (g *Grammar) show(i int32) string {
	const most = 40
	e := &g.edges[i]
	if e.kind == onClass {
		if s := []rune(g.classes[e.arg].text); len(s) > most {
			return string(s[:most]) + "…"
		}
		return strings.ToValidUTF8(g.classes[e.arg].text, "")
	}
	var s []rune
	for {
		s = append(s, e.arg)
		if !e.more || len(s) == most {
			break
		}
		e = &g.edges[g.states[e.to].from]
	}
	return strconv.Quote(string(s))
}

// set is a set of items, which is emptied at once.
type set struct {
	slots []slot
	age   uint32
	n     int
}

type slot struct {
	item
	age uint32
}

func (s *set) clear() {
	s.n = 0
	if s.age++; s.age == 0 || len(s.slots) == 0 {
		s.slots, s.age = make([]slot, max(64, len(s.slots))), 1
	}
}

// add reports whether x was not there.
func (s *set) add(x item) bool {
	if 2*s.n >= len(s.slots) {
		old, age := s.slots, s.age
		s.slots, s.age, s.n = make([]slot, 2*len(old)), 1, 0
		for i := range old {
			if old[i].age == age {
				s.add(old[i].item)
			}
		}
	}
	h := (uint64(uint32(x.state))<<32 | uint64(uint32(x.call))) * 0x9e3779b97f4a7c15
	for i := int(h>>32) & (len(s.slots) - 1); ; i = (i + 1) & (len(s.slots) - 1) {
		at := &s.slots[i]
		if at.age != s.age {
			*at = slot{x, s.age}
			s.n++
			return true
		}
		if at.item == x {
			return false
		}
	}
}
