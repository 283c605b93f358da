package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix"
	"matrix/lang"
)

// DefaultMost is how many children a rule makes at most that does not say so.
const DefaultMost = 100_000

// Children are the keys of a rule that has expand.
type Children struct {
	Expand string   `yaml:"expand" doc:"Expression: a list. Each of its elements becomes a task of its own, a child, which begins at the role that to names. The task ends as expanded, or waits for them (then). All elements together have 8 MiB at most: of a long text, offsets."`
	As     string   `yaml:"as" doc:"With expand: the field of the child's item that is its element, item.NAME. The other fields are those of the row; one of that name is replaced."`
	Most   int      `yaml:"most" doc:"With expand: the task fails where the list has more elements than this. 0 for 100,000." default:"0"`
	Carry  []string `yaml:"carry" doc:"With expand: roles, or user, whose turns a child begins with. Without it a child has no turn before its own."`
	Omit   []string `yaml:"omit" doc:"With expand: fields of the row that children do not get, such as a text of which their element is a part."`
	Then   string   `yaml:"then" doc:"With expand: the role that acts in the task once all of its children have ended. It sees them as children: a list of {id, index, status, value, cause}. Without it the task ends as expanded."`
}

// expansion is a rule that makes children.
type expansion struct {
	path  string
	list  *lang.Expr
	most  int
	depth int // of the children, at most
	make  matrix.Expansion
}

// expansion compiles the keys of a rule that make children; nil where it has none.
func (c *checker) expansion(field string, from Rule) *expansion {
	k := from.Children
	if k.Expand == "" {
		for _, key := range []struct {
			name string
			set  bool
		}{{"as", k.As != ""}, {"most", k.Most != 0}, {"carry", len(k.Carry) > 0}, {"omit", len(k.Omit) > 0}, {"then", k.Then != ""}} {
			if key.set {
				c.at(at(field, key.name), fmt.Errorf("%s is of a rule with expand: say which list becomes tasks", key.name))
			}
		}
		return nil
	}
	x := &expansion{path: "flow." + field, list: c.expr(at(field, "expand"), k.Expand), most: k.Most}
	x.make = matrix.Expansion{As: k.As, Role: from.To, Carry: k.Carry, Omit: k.Omit, Then: k.Then}
	if from.To == "" {
		c.lost = true
		c.at(field, errors.New("expand needs to: the role that acts first in each child"))
	}
	switch {
	case k.As == "":
		c.at(field, errors.New("expand needs as: the field of item under which a child finds its element"))
	case slices.Contains(k.Omit, k.As):
		c.at(at(field, "omit"), fmt.Errorf("%s is what a child gets: name the fields of the row that it does not need", k.As))
	}
	switch {
	case k.Most < 0 || k.Most > matrix.MaxChildren:
		c.at(at(field, "most"), fmt.Errorf("is %d; want 1 to %d, or 0 for %d", k.Most, matrix.MaxChildren, DefaultMost))
	case k.Most == 0:
		x.most = DefaultMost
	}
	for i, role := range k.Carry {
		if role != User {
			c.role(fmt.Sprintf("%s.carry.%d", field, i), role)
		}
	}
	if k.Then != "" {
		c.role(at(field, "then"), k.Then)
	}
	return x
}

// decide makes the children of t.
func (x *expansion) decide(t *matrix.Task) matrix.Decision {
	if t.Depth() >= x.depth {
		return matrix.FailBy(matrix.FaultLimit, fmt.Sprintf("%s: the task is a child at depth %d, and children of its own would be deeper than flow.depth, %d", x.path, t.Depth(), x.depth))
	}
	v, err := x.list.Eval(t)
	if err != nil {
		return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s.expand: %v", x.path, err))
	}
	list, ok := v.([]any)
	switch {
	case !ok:
		return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s.expand is %s; want a list", x.path, lang.Kind(v)))
	case len(list) > x.most:
		return matrix.FailBy(matrix.FaultLimit, fmt.Sprintf("%s.expand has %d elements, and most is %d: raise it, or take fewer, as in take(%s, %d)", x.path, len(list), x.most, x.list, x.most))
	}
	d := matrix.Expand(x.make)
	d.Expand.Items = make([]matrix.Value, len(list))
	for i := range list {
		v, err := matrix.NewValue(list[i])
		if err != nil {
			return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s.expand, element %d: %v", x.path, i, err))
		}
		d.Expand.Items[i] = matrix.RawValue(v.Raw()) // what is parsed of it takes many times as much memory
	}
	return d
}

// depths says how deep the children of a flow may be: as deep as it says, or as its
// rules nest. Rules that their own children come to again have no depth of their own.
func (c *checker) depths(config GraphConfig, g *Graph) {
	if config.Depth < 0 || config.Depth > matrix.MaxDepth {
		c.at("depth", fmt.Errorf("is %d; want 1 to %d", config.Depth, matrix.MaxDepth))
	}
	for _, rs := range config.all() {
		for i, r := range rs.rules {
			if r.Children.Expand == "" || config.Depth > 0 {
				continue
			}
			if rs.role != "" && config.leads(r.To, rs.role) {
				c.at(fmt.Sprintf("%s.%d", rs.field, i), fmt.Errorf("its children come to %s again, and would have children without end: say how deep at most, as in flow.depth: 3", rs.role))
				return
			}
		}
	}
	depth := config.Depth
	if depth == 0 {
		depth = matrix.MaxDepth // the rules end before
	}
	for _, rs := range g.all() {
		for i := range rs.list {
			if x := rs.list[i].expand; x != nil {
				x.depth = depth
			}
		}
	}
}

// ruled are the rules at a place of a config.
type ruled struct {
	field string
	role  string // after which they count; empty: the start
	rules Rules
}

// all lists the rules of a config.
func (config GraphConfig) all() []ruled {
	all := []ruled{{"start", "", config.Start}}
	for role, rs := range config.After {
		all = append(all, ruled{"after." + role, role, rs})
	}
	for role, rs := range config.OnError {
		all = append(all, ruled{"on_error." + role, role, rs})
	}
	slices.SortFunc(all, func(a, b ruled) int { return strings.Compare(a.field, b.field) })
	return all
}

// all lists the rules of a graph.
func (g *Graph) all() []rules {
	all := []rules{g.start}
	for _, rs := range g.after {
		all = append(all, rs)
	}
	for _, rs := range g.onError {
		all = append(all, rs)
	}
	return all
}

// next are the roles that a rule leads to: the next one of the task, or of its children.
func (r Rule) next() []string {
	var roles []string
	for _, role := range []string{r.To, r.Children.Then} {
		if role != "" {
			roles = append(roles, role)
		}
	}
	return roles
}

// leads reports whether a task that is at a role, or one that comes of it, may come to another.
func (config GraphConfig) leads(from, to string) bool {
	seen := map[string]bool{}
	var visit func(role string) bool
	visit = func(role string) bool {
		if role == to {
			return true
		}
		if seen[role] {
			return false
		}
		seen[role] = true
		for _, r := range slices.Concat(config.After[role], config.OnError[role]) {
			if slices.ContainsFunc(r.next(), visit) {
				return true
			}
		}
		return false
	}
	return visit(from)
}
