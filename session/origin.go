package session

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"matrix/internal/printable"
	"matrix/internal/rundir"
	"matrix/llm"
)

// unnamedPatience is how long a server has to say which models it has.
const unnamedPatience = 3 * time.Second

// checkOrigins refuses to go on where a model that has no name is at another
// address now, and the service there has others than the one that answered.
func (s *Session) checkOrigins(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(s.Plan.Models)) {
		pr, ok := llm.Find[llm.Prober](s.Plan.Models[name])
		if !ok || s.Plan.Tree.Root().Get("models."+name).Text("model") != "" {
			continue
		}
		was := s.Folder.Answered(ctx, name)
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
			for _, m := range e.Served {
				has = append(has, m.Name)
			}
		}
		if len(has) > 0 && !slices.Contains(has, was.Model) {
			return rundir.Refused(s.Folder.Path, rundir.ModelChanged, "models.%s: the replies in %s are of %s, and the service at this address has %s: they would be mixed",
				name, s.Folder.Path, printable.Line(was.Model), printable.Line(strings.Join(has, ", ")))
		}
	}
	return nil
}
