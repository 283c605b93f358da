package registry

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/internal/export"
	"matrix/lang"
	"matrix/llm"
	"matrix/spec"
	"matrix/tool"
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
// that asks a model for text. pools are those of its tools.
func makerOf(kind string, pools agent.FindPool) makeAsker {
	switch kind {
	case "chat":
		return askerOf(func(role string, c agent.Chat, m llm.Model, p lang.Params) (matrix.Agent, error) {
			if list, ok := c.Tools.([]any); ok {
				for i, v := range list {
					if entry, ok := v.(map[string]any); ok && entry["python"] != nil {
						list[i] = functionOf(fmt.Sprint(entry["python"]))
					}
				}
			}
			c.Pools = pools
			return agent.NewChat(role, c, m, p)
		})
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
			if makerOf(kind, nil) != nil {
				names = append(names, name)
			}
		}
	}
	return names
}

// Asker makes the agent of a role, to say what it asked: it has no model, so that
// nothing is needed but the config, and dir, the folder in which the run's pools keep
// what they had. It is nil where the role is not one of Askers. The leases are nil where
// it asks for none.
func Asker(run *spec.Run, role, dir string) (agent.Asker, export.Leases, error) {
	past := func(name string) *tool.Past { return &tool.Past{Name: name, Dir: filepath.Join(dir, name)} }
	pools := func(name string) (agent.Pool, error) {
		var kind string
		if s := run.Pools[name]; s != nil {
			_ = s.Get("kind").Decode(&kind) // one that cannot be read is of none
		}
		switch kind {
		case "bwrap", "podman", "apptainer", "plain":
			return &agent.Sandboxes{}, nil
		}
		return past(name), nil
	}
	for kind, s := range run.Roles[role].Agent {
		make := makerOf(kind, pools)
		if make == nil {
			break
		}
		a, err := make(role, s, lang.Params(run.Params))
		if err != nil {
			return nil, nil, err
		}
		stateful := map[string]tool.Stateful{}
		for _, m := range a.(agent.Mentioner).Mentions() {
			if m.Source != nil {
				for _, name := range m.Source.Leases() {
					stateful[name] = past(name)
				}
			}
		}
		if len(stateful) == 0 {
			return a.(agent.Asker), nil, nil
		}
		var leases agent.Leases
		return a.(agent.Asker), func(ctx context.Context, t *matrix.Task) (map[string]any, error) {
			states, _, err := leases.Of(ctx, t, stateful)
			return states, err
		}, nil
	}
	return nil, nil, nil //nolint:nilnil // as the contract says
}
