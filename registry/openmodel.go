package registry

import (
	"maps"
	"slices"

	"matrix/internal/config"
	"matrix/llm"
	"matrix/spec"
)

// OpenModel makes one model of a config by itself, to be talked to: s is its
// section in tree. Nothing is recorded. Its errors are config.Errors.
func (r *Registry) OpenModel(tree *config.Tree, name string, s *config.Section) (llm.Model, error) {
	root := tree.Root()
	run := &spec.Run{Models: map[string]*config.Section{name: s}}
	if params := root.Get("params"); params != nil {
		if err := params.Decode(&run.Params); err != nil {
			return nil, err
		}
	}
	b := r.builder(tree, run, ToCheck)
	b.models()
	b.conceal(tree)
	if len(b.errs) > 0 {
		b.add(root, "", b.plan.Close())
		return nil, b.errs.Sorted()
	}
	return b.plan.Models[name], nil
}

// ModelKinds lists the kinds of models.
func (r *Registry) ModelKinds() []string { return slices.Sorted(maps.Keys(r.models)) }
