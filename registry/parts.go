package registry

import (
	"maps"
	"reflect"
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
	for _, name := range slices.Sorted(maps.Keys(r.pools)) {
		k := r.pools[name]
		parts = append(parts, config.Part{At: "pools.*", Kind: name, Type: k.config, Doc: k.doc})
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

// ReferenceParts are the parts that have keys, each once. Where a lone name may
// stand too, and where the same keys stand elsewhere too, they say so.
func (r *Registry) ReferenceParts() []config.Part {
	all := r.Parts()
	names := map[string]bool{}
	for _, p := range all {
		if reflect.TypeOf(p.Type).Kind() == reflect.String {
			names[p.At] = true
		}
	}
	var parts []config.Part
	at := map[reflect.Type]int{}
	for _, p := range all {
		t := reflect.TypeOf(p.Type)
		if i, ok := at[t]; ok && names[p.At] {
			parts[i].At += ", " + p.At
			continue
		}
		if names[p.At] && t.Kind() == reflect.String || t == reflect.TypeFor[[]*config.Section]() {
			continue
		}
		if names[p.At] {
			p.Doc += " A role's name alone may stand in their place."
		}
		if p.At == "flow.*" { // an item of the list, which has no name
			p.At = "flow[]"
		}
		at[t] = len(parts)
		parts = append(parts, p)
	}
	return parts
}
