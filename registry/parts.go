package registry

import (
	"maps"
	"slices"

	"matrix/internal/config"
	"matrix/route"
)

const (
	defaultModel = "openai"
	defaultFlow  = "graph"
)

// Parts says what the sections of a spec.Run hold, for its JSON Schema and
// its reference.
func (r *Registry) Parts() []config.Part {
	var parts []config.Part
	for _, name := range slices.Sorted(maps.Keys(r.models)) {
		k := r.models[name]
		parts = append(parts, config.Part{At: "models.*", Kind: name, Default: name == defaultModel, Type: k.config, Doc: k.doc})
	}
	for _, name := range slices.Sorted(maps.Keys(r.agents)) {
		k := r.agents[name]
		parts = append(parts, config.Part{At: "roles.*." + name, Type: k.config, Doc: k.doc})
	}
	parts = append(parts,
		config.Part{At: "flow", Type: []string{}, Doc: "A sequence: the names of roles that act one after the other, or one name alone."},
		config.Part{At: "flow", Type: []*config.Section{}, Doc: "A sequence: roles that act one after the other."},
		config.Part{At: "flow.*", Type: "", Doc: "In a sequence: the name of the role that acts."},
		config.Part{At: "flow.*", Type: step{}, Doc: "In a sequence: a role after which the flow may end."},
	)
	for _, name := range slices.Sorted(maps.Keys(r.routers)) {
		k := r.routers[name]
		parts = append(parts, config.Part{At: "flow", Kind: name, Default: name == defaultFlow, Type: k.config, Doc: k.doc})
	}
	for _, at := range []string{"flow.start", "flow.after.*", "flow.on_error.*"} {
		parts = append(parts,
			config.Part{At: at, Type: "", Doc: "In a graph: the name of the role that acts."},
			config.Part{At: at, Type: []route.Rule{}, Doc: "In a graph: rules, of which the first that holds decides."},
		)
	}
	return parts
}
