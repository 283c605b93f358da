package registry

import (
	"matrix/config"
	"matrix/llm"
)

// OpenModel makes one model of a config by itself, to be talked to: s is its
// section in tree. Nothing is recorded. Its errors are config.Errors.
func (r *Registry) OpenModel(tree *config.Tree, name string, s *config.Section) (llm.Model, error) {
	root := tree.Root()
	b := &builder{
		Registry: r, run: &config.Run{Models: map[string]*config.Section{name: s}}, use: ToCheck, root: root,
		problems: problems{root: root},
		plan:     &Plan{Models: map[string]llm.Model{}, Bills: map[string]*Bill{}},
		build: Build{
			Models: map[string]llm.Model{},
			config: tree.File(),
			notes:  &notes{replays: map[string]string{}, voices: map[string][]string{}},
		},
	}
	b.models()
	if len(b.errs) > 0 {
		b.add(root, "", b.plan.Close())
		return nil, b.errs.Sorted()
	}
	return b.plan.Models[name], nil
}

// HasModel says whether there is a kind of models of that name.
func (r *Registry) HasModel(kind string) bool {
	_, ok := r.models[kind]
	return ok
}
