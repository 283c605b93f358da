package cli

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"matrix/config"
	"matrix/dataset"
)

// origin is where a reply came from.
type origin struct {
	Model    string `json:"model"`    // as the service called itself
	Endpoint string `json:"endpoint"` // its address
}

// answered is the first reply of a model that the outputs of a folder have, as far
// as they can be read; its fields are empty where there is none.
func (o *outFolder) answered(model string) (r origin) {
	const most = 1000 // tasks that are looked at
	enough := errors.New("enough")
	for _, dir := range []string{dataDir, failedDir} {
		n := 0
		// What a killed process left torn ends the search; whether it is a fault, the run tells.
		_ = dataset.ReadParts(filepath.Join(o.dir, dir), func(_, _ int, line []byte) error {
			var t struct {
				Turns []struct {
					Call *struct {
						origin
						Name string `json:"name"`
					} `json:"call"`
				} `json:"turns"`
			}
			if n++; n > most || json.Unmarshal(line, &t) != nil {
				return enough
			}
			for _, x := range t.Turns {
				if x.Call != nil && x.Call.Name == model && x.Call.Model != "" {
					r = x.Call.origin
					return enough
				}
			}
			return nil
		})
		if r.Model != "" {
			break
		}
	}
	return r
}

// named reports whether key is the name of a model that was not named before, and
// is now as its service called itself.
func (o *outFolder) named(key string, before *config.Tree, p *plan) bool {
	path, ok := strings.CutSuffix(key, ".model")
	name, isModel := strings.CutPrefix(path, "models.")
	if !ok || !isModel || textOf(before.Root().Get(path), "model") != "" {
		return false
	}
	was := o.answered(name)
	return was.Model != "" && was.Model == textOf(p.tree.Root().Get(path), "model")
}

// checkServed refuses to go on where a model that has no name is at another
// address now, and the service there has others than the one that answered.
func (j *job) checkServed(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(j.plan.Models)) {
		pr, ok := j.plan.Models[name].(prober)
		if !ok || textOf(j.plan.tree.Root().Get("models."+name), "model") != "" {
			continue
		}
		was := j.folder.answered(name)
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
			return usagef("models.%s: the replies in %s are of %s, and the service at this address has %s: they would be mixed.\n"+
				"Give the address of %s, or --accept-changes (tasks already done stay as they are), or --fresh",
				name, j.folder.dir, oneLine(was.Model), oneLine(strings.Join(has, ", ")), oneLine(was.Model))
		}
	}
	return nil
}
