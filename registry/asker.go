package registry

import (
	"maps"
	"slices"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/llm"
	"matrix/spec"
)

// makeAsker makes an agent of a built-in kind that asks a model for text, without
// a model.
type makeAsker func(role string, s *config.Section, p lang.Params) (matrix.Agent, error)

// askerOf is a makeAsker of the constructor of a kind.
func askerOf[C any](make func(string, C, llm.Model, lang.Params) (matrix.Agent, error)) makeAsker {
	return func(role string, s *config.Section, p lang.Params) (matrix.Agent, error) {
		var c C
		if err := s.Decode(&c); err != nil {
			return nil, err
		}
		return make(role, c, absent{}, p)
	}
}

// makerOf is how an agent of a kind is made without a model; nil where it is of none
// that asks a model for text.
func makerOf(kind string) makeAsker {
	switch kind {
	case "chat":
		return askerOf(agent.NewChat)
	case "complete":
		return askerOf(agent.NewComplete)
	case "request":
		return askerOf(agent.NewRequest)
	}
	return nil
}

// Askers names the roles of a run that ask a model for text, sorted.
func Askers(run *spec.Run) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(run.Roles)) {
		for kind := range run.Roles[name].Agent {
			if makerOf(kind) != nil {
				names = append(names, name)
			}
		}
	}
	return names
}

// Asker makes the agent of a role, to say what it asked: it has no model, so that
// nothing is needed but the config. It is nil where the role is not one of Askers.
func Asker(run *spec.Run, role string) (agent.Asker, error) {
	for kind, s := range run.Roles[role].Agent {
		make := makerOf(kind)
		if make == nil {
			break
		}
		a, err := make(role, s, lang.Params(run.Params))
		if err != nil {
			return nil, err
		}
		return a.(agent.Asker), nil
	}
	return nil, nil //nolint:nilnil // as the contract says
}
