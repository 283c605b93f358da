package registry

import (
	"matrix"
	"matrix/config"
	"matrix/lang"
	"matrix/route"
)

// graphSection is route.GraphConfig as a config has it: where a list of rules
// may stand, a role's name may stand too.
type graphSection struct {
	Open    []route.Opening            `yaml:"open" doc:"Turns that every task begins with."`
	Start   *config.Section            `yaml:"start" required:"true" doc:"Who acts first: a role, or a list of rules."`
	After   map[string]*config.Section `yaml:"after" required:"true" doc:"Who acts after a role: a role, or a list of rules {when, to | finish | fail} of which the first that holds decides."`
	OnError map[string]*config.Section `yaml:"on_error" doc:"Who acts after a turn of a role that has an error (a reply that does not parse): a role, or a list of rules. Without it the task fails with that error."`
}

func graph(b Build, c graphSection) (matrix.Router, error) {
	p := problems{}
	rules := func(s *config.Section) route.Rules {
		var rs route.Rules
		if k := s.Kind(); k != config.Null && k != config.List && k != config.Map {
			p.add(s, "", decodeName(s, &rs))
		} else {
			p.add(s, "", s.Decode((*[]route.Rule)(&rs)))
		}
		return rs
	}
	named := func(m map[string]*config.Section) map[string]route.Rules {
		out := make(map[string]route.Rules, len(m))
		for name, s := range m {
			out[name] = rules(s)
		}
		return out
	}
	config := route.GraphConfig{Open: c.Open, Start: rules(c.Start), After: named(c.After), OnError: named(c.OnError)}
	if err := p.err(); err != nil {
		return nil, err
	}
	g, err := route.NewGraph(config, b.env())
	return routed(b, g, err)
}

// step is a step of a sequence without the short form.
type step route.Step

// sequence makes the router of a flow that is a list.
func sequence(b Build, s *config.Section) (matrix.Router, error) {
	p := problems{}
	items := s.Items()
	steps := make([]route.Step, len(items))
	for i, item := range items {
		if item.Kind() == config.Map {
			p.add(item, "", item.Decode((*step)(&steps[i])))
		} else {
			p.add(item, "", decodeName(item, &steps[i]))
		}
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	q, err := route.NewSequence(steps, b.env())
	return routed(b, q, err)
}

// decodeName decodes a lone name into what it is short for.
func decodeName(s *config.Section, v interface{ UnmarshalText([]byte) error }) error {
	var name string
	if err := s.Decode(&name); err != nil {
		return err
	}
	return v.UnmarshalText([]byte(name))
}

// routed notes what a router of this package's own kinds reads.
func routed[R interface {
	matrix.Router
	Reads() map[string][]string
}](b Build, r R, err error) (matrix.Router, error) {
	if err != nil {
		return nil, err
	}
	for field, names := range r.Reads() {
		b.reads(field, names)
	}
	return r, nil
}

// env is what a flow is compiled against.
func (b Build) env() route.Env {
	l := b.Limits
	limited := l.Rounds > 0 || l.Hops > 0 || l.Tokens > 0 || l.Seconds > 0
	return route.Env{Roles: b.Roles, Params: lang.Params(b.Params), Limited: limited}
}
