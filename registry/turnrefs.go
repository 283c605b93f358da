package registry

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/internal/near"
	"matrix/lang"
	"matrix/route"
)

// source is an expression or a template of a config, and when it is asked.
type source struct {
	section *config.Section
	field   string
	source  lang.Source
	acts    string // with it; empty: nobody
	last    string // whose turn is the newest, where nobody acts with it; empty: not known
	failed  bool   // that turn has an error
	first   bool   // it is asked when the task begins, with nothing but what opens it
	row     bool   // it is asked of a row that is not a task yet
	ends    bool   // it is asked when the task is done
}

// order is who may have acted before whom, as the flow says.
type order struct {
	last   map[string][]string        // by role: whose turn may be the newest when it acts
	before map[string]map[string]bool // by role: who may have had a turn when it acts
	ends   []string                   // whose turn may be the newest when a task is done
	opens  map[string]bool            // who has a turn before anybody acts
}

func orderOf(f route.Flow) *order {
	if len(f.Edges) == 0 {
		return nil
	}
	o := &order{last: map[string][]string{}, before: map[string]map[string]bool{}, opens: map[string]bool{}}
	opener := ""
	for _, open := range f.Open {
		if open.Turns != "" { // by whom is known of each row alone
			return nil
		}
		o.opens[open.Role] = true
		opener = open.Role
	}
	for _, e := range f.Edges {
		from := e.From
		if from == "" {
			from = opener
		}
		switch {
		case e.Expand != "": // a child begins with what it is given
			if len(e.Carry) == 0 {
				o.last[e.To] = append(o.last[e.To], "")
			}
			o.last[e.To] = append(o.last[e.To], e.Carry...)
		case e.To != "":
			o.last[e.To] = append(o.last[e.To], from)
		case e.End != nil && e.End.Status == matrix.Done:
			o.ends = append(o.ends, from)
		}
	}
	for _, n := range f.Nodes {
		o.before[n.Role] = maps.Clone(o.opens)
	}
	for grown := true; grown; {
		grown = false
		for role, lasts := range o.last {
			for _, l := range lasts {
				was := len(o.before[role])
				if l != "" {
					o.before[role][l] = true
				}
				maps.Copy(o.before[role], o.before[l])
				grown = grown || len(o.before[role]) > was
			}
		}
	}
	return o
}

// checkRefs checks what the sources of the config refer to in turns: who can have taken
// one by then, and what it has in it.
func (b *builder) checkRefs() {
	o := orderOf(b.plan.Flow)
	if b.run.From.Run != "" { // there may be turns that the flow does not lead to
		o = nil
	}
	for _, s := range b.seen {
		var lasts []string
		before := map[string]bool{}
		switch {
		case s.row:
			lasts = []string{""}
		case o == nil:
			before = nil
		case s.first:
			before = o.opens
		case s.ends:
			lasts, before = o.ends, nil
			if b.run.Limits.Then == "finish" { // a task may be done after anybody
				lasts = nil
			}
		case s.acts != "":
			lasts, before = o.last[s.acts], o.before[s.acts]
		case s.last != "":
			before = maps.Clone(o.before[s.last])
			before[s.last] = true
			if !s.failed { // one with an error may lack anything
				lasts = []string{s.last}
			}
		default:
			before = nil
		}
		for _, l := range s.source.TurnRefs() {
			b.checkRef(o, s, l, lasts, before)
		}
		b.checkBraces(s)
		if c := s.section.Comment(s.field); strings.Contains(c, "{{") || strings.Contains(c, "}}") || len(c) > 1 && c[1] != ' ' {
			b.warn(s.section, s.field, 0, 0, asComment(c), "")
		}
	}
	if b.run.From.Run == "" {
		b.checkStart()
	}
	for _, name := range slices.Sorted(maps.Keys(b.turnInfo)) {
		if !b.turnInfo[name].Same {
			continue
		}
		for _, s := range b.seen {
			if s.acts == name {
				b.warn(s.section, s.field, 0, 0, "asks the same for every row: no field of the row is in it; {{ item.FIELD }} puts one there", "")
				break
			}
		}
	}
}

// checkStart finds the role that every task begins with, and that has nothing to reply
// to then.
func (b *builder) checkStart() {
	first := ""
	for _, e := range b.plan.Flow.Edges {
		switch {
		case e.Expand != "":
			return
		case e.From != "" && (e.From != first || !e.Error):
		case e.From != "" || e.When != "" || first != "" || len(b.plan.Flow.Open) > 0:
			return // a turn comes before, not every task begins so, or the flow handles the error
		default:
			first = e.To
		}
	}
	if sees := b.turnInfo[first].Replies; sees != nil {
		b.at(b.root, "roles."+first+".chat.sees", 0, 0, fmt.Sprintf("there is nothing to reply to: every task begins with %s, and no turn of %s is there yet; give the role a prompt, or the flow an opening turn (open)",
			first, list(sees, "or")), "")
	}
}

// checkRef checks one reference of a source. lasts is whose turn last may be; before is who
// may have had a turn, nil where that is not known.
func (b *builder) checkRef(o *order, s source, l lang.TurnRef, lasts []string, before map[string]bool) {
	roles, what := lasts, "last"
	if l.Role != "" {
		roles, what = []string{l.Role}, fmt.Sprintf("turn(%q)", l.Role)
		if before != nil && !before[l.Role] && b.isRole(l.Role) {
			if l.Sure {
				b.warn(s.section, s.field, l.Line, l.Column, fmt.Sprintf("%s is always empty here: %s has not acted by then", what, l.Role), "")
			}
			return
		}
	}
	if len(roles) == 0 || len(l.Path) == 0 {
		return
	}
	var shapes []*agent.Shape
	why := ""
	for _, r := range roles {
		turns, ok := b.turnInfo[r]
		switch {
		case r == "":
			turns = agent.TurnInfo{Data: &agent.Shape{Closed: true}} // the empty turn
		case r == route.User:
			turns = agent.TurnInfo{Text: true, Data: &agent.Shape{Closed: true}, Why: "it only opens the task"}
		case !ok:
			return // it may make anything
		}
		if turns.Why != "" {
			why = turns.Why
		}
		shapes = append(shapes, turnShape(turns, o != nil && o.opens[r], b.build.Roles))
	}
	path := what
	for i, step := range l.Path {
		path += strings.Replace("."+step.Name, ".#", "[...]", 1)
		next, known, lacks := fieldOfShapes(shapes, step.Name)
		if lacks {
			hint := near.Name(step.Name, known)
			closed := !slices.ContainsFunc(shapes, func(s *agent.Shape) bool { return !s.Closed })
			if !closed && hint == "" {
				return // what no schema forbids may be there
			}
			makes := list(unique(roles), "or")
			if strings.Trim(makes, " ") == "" {
				makes = "nobody"
			}
			var msg string
			switch {
			case len(known) == 0 && i > 0:
				msg = fmt.Sprintf("%s is always nil: %s makes no %s", path, makes, l.Path[i-1].Name)
				if why != "" && len(roles) == 1 {
					msg += ", " + why
				}
			case i == 0:
				msg = fmt.Sprintf("%s is always empty: %s makes none", path, makes)
			default:
				msg = fmt.Sprintf("%s is always nil: %s makes no field %q", path, makes, step.Name)
				if !closed {
					msg = fmt.Sprintf("%s: the schema of %s does not know the field %q", path, makes, step.Name)
				}
				if hint == "" && len(known) <= 20 {
					msg += "; there are " + strings.Join(known, ", ")
				}
			}
			if l.Sure && closed && i > 0 {
				b.at(s.section, s.field, step.Line, step.Column, msg, hint)
			} else {
				b.warn(s.section, s.field, step.Line, step.Column, msg, hint)
			}
			return
		}
		if next == nil {
			return
		}
		shapes = next
	}
	b.checkCompared(s, l, path, shapes)
}

// checkCompared checks that what a value is compared with is a text that it may be.
func (b *builder) checkCompared(s source, l lang.TurnRef, path string, shapes []*agent.Shape) {
	var values []string
	for _, shape := range shapes {
		if shape.Values == nil {
			return
		}
		values = append(values, shape.Values...)
	}
	possible := slices.ContainsFunc(l.Asked, func(t lang.Text) bool { return slices.Contains(values, t.Text) })
	for _, t := range l.Asked {
		if slices.Contains(values, t.Text) {
			continue
		}
		hint := near.Name(t.Text, values)
		msg := fmt.Sprintf("%s is never %q", path, t.Text)
		if hint == "" && len(values) <= 20 {
			msg += "; it is one of " + strings.Join(unique(values), ", ")
		}
		if possible || t.Text == "" {
			b.warn(s.section, s.field, t.Line, t.Column, msg, hint)
		} else {
			b.at(s.section, s.field, t.Line, t.Column, msg, hint)
		}
	}
}

// fieldOfShapes is what shapes have under a name: nil for anything. lacks says that it is
// under none of them; known are the names that are.
func fieldOfShapes(shapes []*agent.Shape, name string) (next []*agent.Shape, known []string, lacks bool) {
	found, anything := false, false
	for _, s := range shapes {
		if s == nil {
			return nil, nil, false
		}
		if name == "#" && s.Fields["#"] == nil {
			return nil, nil, false
		}
		in, ok := s.Fields[name]
		switch {
		case ok && in == nil:
			anything = true
		case ok:
			next = append(next, in)
		}
		found = found || ok
		for field := range s.Fields {
			known = append(known, field)
		}
	}
	slices.Sort(known)
	if known = slices.Compact(known); found && anything {
		return nil, known, false
	}
	return next, known, !found
}

// turnShape is a turn of a role.
func turnShape(m agent.TurnInfo, opens bool, roles map[string]route.Role) *agent.Shape {
	object := func(names ...string) *agent.Shape {
		s := &agent.Shape{Fields: map[string]*agent.Shape{}, Closed: true}
		for _, n := range names {
			s.Fields[n] = nil
		}
		return s
	}
	of := func(s *agent.Shape) *agent.Shape {
		return &agent.Shape{Fields: map[string]*agent.Shape{"#": s}, Closed: true}
	}
	turn := object("error", "reasoning", "logprobs", "call", "calls", "text", "data")
	turn.Fields["data"] = m.Data
	if !m.Text && !opens {
		delete(turn.Fields, "text")
	}
	if m.Data != nil && len(m.Data.Fields) == 0 && m.Data.Closed && m.Data.Values == nil {
		turn.Fields["data"] = &agent.Shape{Closed: true}
	}
	sample := object("text", "data", "reasoning", "tool_calls", "logprobs")
	sample.Fields["data"] = m.Data
	call := &agent.Shape{Fields: map[string]*agent.Shape{"kind": {Closed: true, Values: []string{string(matrix.KindModel), string(matrix.KindTool), string(matrix.KindSandbox)}}}}
	turn.Fields["calls"] = of(call)
	turn.Fields["samples"] = of(sample)
	turn.Fields["tool_calls"] = of(object("id", "name", "arguments"))
	turn.Fields["tool_results"] = of(object("id", "name", "content", "is_error", "error"))
	names := slices.Sorted(maps.Keys(roles))
	turn.Fields["role"] = &agent.Shape{Closed: true, Values: append(names, route.User, "")}
	return turn
}

func unique(names []string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	slices.Sort(names)
	return slices.Compact(names)
}

func (b *builder) isRole(name string) bool {
	_, ok := b.build.Roles[name]
	return ok
}

// single matches what stands between single braces as it would between two.
var single = regexp.MustCompile(`(?:^|[^{$\\])(\{ ?((?:item|last|params)[.\[][^{}\n]*|turn\([^{}\n]*|[A-Za-z_][A-Za-z0-9_]*) ?\})(?:[^}]|$)`)

// checkBraces warns of a template that has single braces where two are meant.
func (b *builder) checkBraces(s source) {
	t, ok := s.source.(*lang.Template)
	if !ok {
		return
	}
	text := t.String()
	for _, m := range single.FindAllStringSubmatchIndex(text, -1) {
		inside := text[m[4]:m[5]]
		if plain := !strings.ContainsAny(inside, ".[("); plain && (!t.Fixed() || !slices.Contains(b.rowFields(), inside)) {
			continue
		} else if plain {
			inside = "item." + inside
		}
		line := strings.Count(text[:m[2]], "\n") + 1
		column := len([]rune(text[strings.LastIndexByte(text[:m[2]], '\n')+1:m[2]])) + 1
		b.warn(s.section, s.field, line, column, fmt.Sprintf("%s is plain text; {{ %s }} is replaced", text[m[2]:m[3]], inside), "")
		return
	}
}

// suggest returns what may be meant by a name that is not known.
func (b *builder) suggest(name string) string {
	switch {
	case b.isRole(name):
		return fmt.Sprintf("; what the role %s said last is turn(%[1]q).text", name)
	case slices.Contains(b.rowFields(), name):
		return "; the field of the row is item." + name
	case slices.Contains([]string{"text", "data", "error", "reasoning", "samples", "tool_calls", "tool_results"}, name):
		return "; that of the newest turn is last." + name
	}
	return ""
}

// rowFields are the fields of the first rows, as tasks have them.
func (b *builder) rowFields() []string {
	if b.fields == nil {
		b.fields = []string{}
		if rows, err := describe(b.run); err == nil {
			s := sample(rows.Options)
			b.fields = slices.Sorted(maps.Keys(s.fed.names))
		}
	}
	return b.fields
}
