package registry

import (
	"errors"

	"matrix"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/route"
)

// graphSection is route.GraphConfig as a config has it. The rules are sections,
// so that they are described once and not in three places.
type graphSection struct {
	Open    []route.Opening            `yaml:"open" doc:"Turns that every task begins with."`
	Start   *config.Section            `yaml:"start" required:"true" doc:"Who acts first: a role, or a list of rules."`
	After   map[string]*config.Section `yaml:"after" required:"true" doc:"Who acts after a role: a role, or a list of rules {when, to | expand | finish | fail} of which the first that holds decides."`
	OnError map[string]*config.Section `yaml:"on_error" doc:"Who acts after a turn of a role that has an error (a reply that does not parse): a role, or a list of rules. Without it the task fails with that error."`
	Depth   int                        `yaml:"depth" doc:"How deep children may be: 1 for children of rows' tasks alone. A task that would have deeper ones fails. 0 for as deep as the rules with expand nest; it is needed where children come to the rule again that made them." default:"0"`
}

func graph(b Build, c graphSection) (matrix.Router, error) {
	p := problems{}
	rules := func(s *config.Section) route.Rules {
		var rs route.Rules
		p.add(s, "", s.Decode(&rs))
		return rs
	}
	named := func(m map[string]*config.Section) map[string]route.Rules {
		out := make(map[string]route.Rules, len(m))
		for name, s := range m {
			out[name] = rules(s)
		}
		return out
	}
	config := route.GraphConfig{Open: c.Open, Start: rules(c.Start), After: named(c.After), OnError: named(c.OnError), Depth: c.Depth}
	if err := p.errs.Sorted(); err != nil {
		return nil, err
	}
	g, err := route.NewGraph(config, b.env())
	return routed(b, g, err)
}

// step is a step of a sequence without the short form, for the reference.
type step route.Step

// sequence makes the router of a flow that is a list, or a lone role.
func sequence(b Build, s *config.Section) (matrix.Router, error) {
	p := problems{}
	items := s.Items()
	if s.Kind() != config.List {
		items = []*config.Section{s}
	}
	steps := make([]route.Step, len(items))
	for i, item := range items {
		if item.Kind() == config.Map && item.Get("expand") != nil {
			p.add(item, "expand", errors.New("a list of roles makes no children: write the flow as rules, with start and after (docs/flows.md, One row, many tasks)"))
			continue
		}
		p.add(item, "", item.Decode(&steps[i]))
	}
	if err := p.errs.Sorted(); err != nil {
		return nil, err
	}
	q, err := route.NewSequence(steps, b.env())
	return routed(b, q, err)
}

// routed notes the sources of a router of this package's own kinds.
func routed[R interface {
	matrix.Router
	Sources() map[string]route.Source
}](b Build, r R, err error) (matrix.Router, error) {
	if err != nil {
		return nil, err
	}
	for field, s := range r.Sources() {
		b.sees(field, s)
	}
	return r, nil
}

// env is what a flow is compiled against.
func (b Build) env() route.Env {
	return route.Env{Roles: b.Roles, Params: lang.Params(b.Params), Limited: b.Limited}
}
