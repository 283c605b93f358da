package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/lang"
)

// GraphConfig says who acts after whom.
type GraphConfig struct {
	Open    []Opening        `yaml:"open" doc:"Turns that every task begins with."`
	Start   Rules            `yaml:"start" required:"true" doc:"Who acts first: a role, or a list of rules."`
	After   map[string]Rules `yaml:"after" required:"true" doc:"Who acts after a role: a role, or a list of rules of which the first that holds decides."`
	OnError map[string]Rules `yaml:"on_error" doc:"Who acts after a turn of a role that has an error (a reply that does not parse): a role, or a list of rules. Without it the task fails with that error."`
	Depth   int              `yaml:"depth" doc:"How deep children may be: 1 for children of rows' tasks alone. A task that would have deeper ones fails. 0 for as deep as the rules with expand nest; it is needed where children come to the rule again that made them." default:"0"`
}

// Opening is a turn that tasks begin with, or several. It spends no model call.
type Opening struct {
	Role  string `yaml:"role" doc:"Who is said to speak: a role, or user. With text."`
	Text  string `yaml:"text" doc:"Template of what is said. It sees item and the opening turns before."`
	Turns string `yaml:"turns" doc:"Expression, in the place of role and text: a list of turns, each with role, and text, data, tool_calls ({id, name, arguments}) and tool_results ({id, content, is_error}) as it has them."`
}

// Rules are tried in order. Written as a string they are the name of the role
// that always acts.
type Rules []Rule

// UnmarshalText makes one rule, without condition, of a role's name.
func (r *Rules) UnmarshalText(text []byte) error {
	*r = Rules{{To: string(text), bare: true}}
	return nil
}

// Rule says what happens when a condition holds: exactly one of To, Finish, Drop and
// Fail is set.
type Rule struct {
	When   string  `yaml:"when" doc:"Expression: the rule holds where it is true. Without it the rule always holds."`
	To     string  `yaml:"to" doc:"Role that acts next."`
	Finish *string `yaml:"finish" doc:"Expression: the task ends as done, with this value. Empty: with none."`
	Drop   string  `yaml:"drop" doc:"Template: the task ends as dropped, for this reason: what came of it is not wanted."`
	Fail   string  `yaml:"fail" doc:"Template: the task ends as failed, with this cause."`

	Children `yaml:",inline"`

	bare bool // written as a role's name alone
}

// Graph sends a task along rules. Where no rule holds, and where a condition
// cannot be evaluated, the task fails with a cause that names the rule.
type Graph struct {
	open    []opening
	start   rules
	after   map[string]rules
	onError map[string]rules
	sources map[string]Source
	flow    Flow
}

var _ matrix.Router = (*Graph)(nil)

type opening struct {
	role  string
	path  string
	text  *lang.Template
	turns *lang.Expr // in the place of text
}

type rules struct {
	path string
	list []rule
}

type rule struct {
	path string
	when *lang.Expr // nil: always
	to   string     // empty: the task ends
	end  ending

	expand *expansion // set: the task becomes children, who begin at to
}

// NewGraph compiles a graph. Its error joins all that is wrong: each is a
// *lang.FieldError with a field like "after.match.0.when", or a *RoleError.
func NewGraph(config GraphConfig, env Env) (*Graph, error) {
	c := newChecker(env)
	g := &Graph{sources: c.sources, after: map[string]rules{}, onError: map[string]rules{}}
	c.when = Source{First: true}
	for i, o := range config.Open {
		c.opening(fmt.Sprintf("open.%d", i), o, g)
	}
	g.start = c.rules("start", config.Start)
	for _, role := range slices.Sorted(maps.Keys(config.After)) {
		field := "after." + role
		c.role(field, role)
		c.when = Source{Last: role}
		g.after[role] = c.rules(field, config.After[role])
	}
	for _, role := range slices.Sorted(maps.Keys(config.OnError)) {
		field := "on_error." + role
		c.role(field, role)
		c.when = Source{Last: role, Failed: true}
		g.onError[role] = c.rules(field, config.OnError[role])
	}
	c.depths(config, g)
	if !c.lost {
		c.connected(config)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	g.flow = draw(config, env)
	return g, nil
}

func (c *checker) opening(field string, o Opening, g *Graph) {
	if (o.Turns == "") == (o.Role == "" || o.Text == "") || o.Turns != "" && o.Role+o.Text != "" {
		c.at(field, errors.New("needs role and text, or turns alone"))
		return
	}
	if o.Turns != "" {
		if e := c.expr(at(field, "turns"), o.Turns); e != nil {
			g.open = append(g.open, opening{path: "flow." + field + ".turns", turns: e})
		}
		c.speakers = append(c.speakers, User)
		return
	}
	if o.Role == User {
		c.speakers = append(c.speakers, User)
	} else {
		c.role(at(field, "role"), o.Role)
	}
	if t := c.template(at(field, "text"), o.Text); t != nil {
		g.open = append(g.open, opening{role: o.Role, path: "flow." + field + ".text", text: t})
	}
}

func (c *checker) rules(field string, from Rules) rules {
	rs := rules{path: "flow." + field}
	if len(from) == 0 {
		c.lost = true
		c.at(field, errors.New("says nothing: name a role, or give a list of rules"))
	}
	always := -1
	for i, r := range from {
		path := fmt.Sprintf("%s.%d", field, i)
		if always >= 0 {
			c.at(path, fmt.Errorf("this rule never counts: rule %d before it has no condition", always))
		} else if r.always() {
			always = i
		}
		rs.list = append(rs.list, c.rule(path, r))
	}
	return rs
}

// always reports whether the rule has no condition.
func (r Rule) always() bool {
	when := strings.TrimSpace(r.When)
	return when == "" || when == "true"
}

func (c *checker) rule(field string, from Rule) rule {
	r := rule{path: "flow." + field, to: from.To, end: ending{path: "flow." + field}}
	r.expand = c.expansion(field, from)
	if !from.always() {
		r.when = c.expr(at(field, "when"), from.When)
	}
	ways := 0
	if from.To != "" || from.Expand != "" {
		ways++
	}
	if from.To != "" {
		if from.bare {
			c.role(strings.TrimSuffix(field, ".0"), from.To)
		} else {
			c.role(at(field, "to"), from.To)
		}
	}
	if from.Finish != nil {
		ways++
		if src := strings.TrimSpace(*from.Finish); src != "" {
			r.end.finish = c.expr(at(field, "finish"), *from.Finish)
		}
	}
	if from.Drop != "" {
		ways++
		r.end.drop = c.template(at(field, "drop"), from.Drop)
	}
	if from.Fail != "" {
		ways++
		r.end.fail = c.template(at(field, "fail"), from.Fail)
	}
	if ways != 1 {
		c.lost = true
		c.at(field, errors.New("a rule needs exactly one of to, finish, drop and fail; expand goes with to"))
	}
	return r
}

// Start renders the opening turns and decides over the task that has them.
func (g *Graph) Start(t *matrix.Task) matrix.Decision {
	opened := *t
	opened.Turns = make([]matrix.Turn, 0, len(g.open))
	for _, o := range g.open {
		if o.turns != nil {
			turns, err := openingTurns(o.turns, &opened)
			if err != nil {
				return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s: %v", o.path, err))
			}
			opened.Turns = append(opened.Turns, turns...)
			continue
		}
		text, err := o.text.Render(&opened, nil)
		if err != nil {
			return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s: %v", o.path, err))
		}
		opened.Turns = append(opened.Turns, matrix.Turn{Role: o.role, Text: text})
	}
	d := g.start.decide(&opened)
	if len(opened.Turns) > 0 {
		d.Open = opened.Turns
	}
	return d
}

// openingTurns are the turns that an expression gives.
func openingTurns(e *lang.Expr, t *matrix.Task) ([]matrix.Turn, error) {
	v, err := e.Eval(t)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, nil
	}
	text, err := matrix.NewValue(v)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Role        string              `json:"role"`
		Text        string              `json:"text"`
		Data        matrix.Value        `json:"data"`
		ToolCalls   []matrix.ToolCall   `json:"tool_calls"`
		ToolResults []matrix.ToolResult `json:"tool_results"`
	}
	if err := json.Unmarshal(text.Raw(), &list); err != nil {
		return nil, fmt.Errorf("want a list of turns, each with role, text, data, tool_calls, tool_results: %w", err)
	}
	turns := make([]matrix.Turn, len(list))
	for i, x := range list {
		if x.Role == "" {
			return nil, fmt.Errorf("turn %d has no role", i+1)
		}
		turns[i] = matrix.Turn{Role: x.Role, Text: x.Text, Data: x.Data, ToolCalls: x.ToolCalls, ToolResults: x.ToolResults}
	}
	return turns, nil
}

// Next decides by the rules of the role that acted.
func (g *Graph) Next(t *matrix.Task) matrix.Decision {
	last := t.Last()
	if last == nil {
		return g.Start(t)
	}
	if last.Error != "" {
		if rs, ok := g.onError[last.Role]; ok {
			return rs.decide(t)
		}
		return failed(last)
	}
	rs, ok := g.after[last.Role]
	if !ok {
		return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("flow.after does not say who acts after %q", last.Role))
	}
	return rs.decide(t)
}

func (rs rules) decide(t *matrix.Task) matrix.Decision {
	for i := range rs.list {
		r := &rs.list[i]
		if r.when != nil {
			holds, err := r.when.Bool(t)
			if err != nil {
				return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s.when: %v", r.path, err))
			}
			if !holds {
				continue
			}
		}
		switch {
		case r.expand != nil:
			return r.expand.decide(t)
		case r.to != "":
			return matrix.To(r.to)
		}
		return r.end.decide(t)
	}
	return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("no rule of %s holds: add a last rule without when", rs.path))
}

// Sources are the expressions and templates of the flow, by their paths.
func (g *Graph) Sources() map[string]Source { return g.sources }

// Flow describes the graph for a drawing.
func (g *Graph) Flow() Flow { return g.flow }
