package route

import (
	"slices"
	"strings"

	"matrix"
	"matrix/internal/printable"
)

// Flow describes a router for a drawing.
type Flow struct {
	Open  []Opening // turns that tasks begin with
	Nodes []Node    // roles, in the order in which the edges come upon them
	Edges []Edge    // by source; those of one source in the order in which they are tried
}

// Node is a role.
type Node struct {
	Role   string
	Kind   string // chat, compute, command, ...
	Inline bool   // acts in the hop of the agent before
}

// Edge is a rule: from a role to another, or to an end.
type Edge struct {
	From  string // empty: the start
	When  string // condition; empty: always, or where no edge before it held
	Error bool   // taken after a turn with an error
	To    string // empty: the task ends as End says
	End   *End

	Expand string   // set: the list whose elements become tasks, which begin at To
	As     string   // the field of their items that is the element
	Carry  []string // whose turns they begin with
	Waited bool     // taken once the tasks of the edge before have ended
}

// End is how a task ends.
type End struct {
	Status matrix.Status // Done, Dropped, Expanded or Failed
	Text   string        // expression of the value, or template of the reason or cause
}

// add appends an edge, and the role it leads to where it is new.
func (f *Flow) add(env Env, e Edge) {
	f.Edges = append(f.Edges, e)
	if e.To == "" || slices.ContainsFunc(f.Nodes, func(n Node) bool { return n.Role == e.To }) {
		return
	}
	f.Nodes = append(f.Nodes, env.node(e.To))
}

func (e Env) node(role string) Node {
	return Node{Role: role, Kind: e.Roles[role].Kind, Inline: e.Roles[role].Inline}
}

// from lists the edges of a role; the start's where role is empty.
func (f Flow) from(role string) []Edge {
	var edges []Edge
	for _, e := range f.Edges {
		if e.From == role {
			edges = append(edges, e)
		}
	}
	return edges
}

// draw describes a graph, breadth first from its start.
func draw(config GraphConfig, env Env) Flow {
	f := Flow{Open: config.Open}
	f.rules(env, "", config.Start, false)
	for i := 0; i < len(f.Nodes); i++ {
		role := f.Nodes[i].Role
		f.rules(env, role, config.After[role], false)
		f.rules(env, role, config.OnError[role], true)
	}
	return f
}

func (f *Flow) rules(env Env, from string, rs Rules, onError bool) {
	for _, r := range rs {
		e := Edge{From: from, Error: onError, To: r.To}
		if !r.always() {
			e.When = r.When
		}
		switch {
		case r.Expand != "":
			children := e
			children.Expand, children.As, children.Carry = r.Expand, r.As, r.Carry
			f.add(env, children)
			if e.To, e.Waited = r.Then, r.Then != ""; e.To == "" {
				e.End = &End{Status: matrix.Expanded}
			}
		case r.To != "":
		case r.Fail != "":
			e.End = &End{Status: matrix.Failed, Text: r.Fail}
		case r.Drop != "":
			e.End = &End{Status: matrix.Dropped, Text: r.Drop}
		default:
			e.End = &End{Status: matrix.Done}
			if r.Finish != nil && strings.TrimSpace(*r.Finish) != "" {
				e.End.Text = *r.Finish
			}
		}
		f.add(env, e)
	}
}

// what says in words what a node is: "compute, inline".
func (n Node) what() string {
	what := n.Kind
	if n.Inline {
		what = strings.TrimPrefix(what+", inline", ", ")
	}
	return what
}

// condition is the text beside an edge: the condition, "otherwise" after
// conditional edges of the same kind, empty where the edge is the only one.
func (f Flow) condition(e Edge) string {
	when := printable.Line(e.When)
	if when == "" {
		for _, other := range f.from(e.From) {
			if other.Error == e.Error && other.When != "" {
				when = "otherwise"
				break
			}
		}
	}
	switch {
	case e.Expand != "":
		when = strings.TrimPrefix(when+", ", ", ") + "each of " + printable.Line(e.Expand)
	case e.Waited:
		when = "when they have ended"
	}
	if e.Error {
		when = strings.TrimSuffix("on error: "+when, ": ")
	}
	return when
}

// label is the text of an end: "done", "dropped" or "failed", and with what.
func (e *End) label() string {
	text := printable.Line(e.Text)
	if text == "" {
		return string(e.Status)
	}
	return string(e.Status) + ": " + text
}

// shorten cuts text to at most n characters.
func shorten(text string, n int) string {
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return string(r[:n-1]) + "…"
}
