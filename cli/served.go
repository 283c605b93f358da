package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"matrix/spec"
)

// checkServed refuses to go on where a model that has no name is at another
// address now, and the service there has others than the one that answered.
func (j *job) checkServed(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(j.plan.Models)) {
		pr, ok := j.plan.Models[name].(prober)
		if !ok || j.plan.Tree.Root().Get("models."+name).Text("model") != "" {
			continue
		}
		was := j.folder.Answered(name)
		if was.Model == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, unnamedPatience)
		probed := pr.Probe(ctx)
		cancel()
		var has []string
		for _, e := range probed {
			if e.URL == was.Endpoint {
				has = nil
				break
			}
			for _, s := range e.Served {
				has = append(has, s.Name)
			}
		}
		if len(has) > 0 && !slices.Contains(has, was.Model) {
			return spec.Usagef("models.%s: the replies in %s are of %s, and the service at this address has %s: they would be mixed.\n"+
				"Give the address of %s, or --accept-changes (tasks already done stay as they are), or --fresh",
				name, j.folder.Path, oneLine(was.Model), oneLine(strings.Join(has, ", ")), oneLine(was.Model))
		}
	}
	return nil
}
