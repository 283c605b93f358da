package registry

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/llm"
	"matrix/spec"
)

// served is where the servers that s starts are found; none without s. name is
// the model's in the config.
func served(b Build, name string, s *launch.Serve) (llm.Endpoints, error) {
	if s == nil {
		return nil, nil
	}
	if err := s.Check(); err != nil {
		return nil, &llm.FieldError{Field: "serve", Err: err}
	}
	state, err := launch.StateOf(b.config)
	if err != nil {
		return nil, &llm.FieldError{Field: "serve", Err: err}
	}
	return llm.Endpoints{{File: state.Endpoints(name), Every: time.Second}}, nil
}

// Served lists the models of a config that say how to start their servers. Its
// errors are config.Errors.
func (r *Registry) Served(tree *config.Tree, run *spec.Run) ([]launch.Model, error) {
	p := &problems{root: tree.Root()}
	var all []launch.Model
	for _, name := range slices.Sorted(maps.Keys(run.Models)) {
		s := run.Models[name]
		at := s.Get("serve")
		if at == nil || at.Kind() == config.Null {
			continue
		}
		m := launch.Model{Name: name, Dir: filepath.Dir(tree.File())}
		if err := at.Decode(&m.Serve); err != nil {
			p.add(at, "", err)
			continue
		}
		if is := s.Get("model"); is != nil && is.Kind() != config.Null {
			p.add(s, "", is.Decode(&m.Is))
		}
		p.add(at, "", m.Serve.Check())
		all = append(all, m)
	}
	if len(p.errs) > 0 {
		return nil, p.errs.Sorted()
	}
	secrets := secretsOf(tree) // known only now that all is decoded
	for i := range all {
		all[i].Secrets = secrets
	}
	return all, nil
}

// ToServe are the models of a config whose servers are to be started: those
// named, or all that say how. What is wrong is a spec.UsageError.
func (r *Registry) ToServe(c *spec.Config, names []string) ([]launch.Model, error) {
	all, err := r.Served(c.Tree, &c.Run)
	if err != nil {
		return nil, spec.Wrong(c.Path, err)
	}
	var have []string
	for _, m := range all {
		have = append(have, m.Name)
	}
	for _, name := range names {
		if _, ok := c.Run.Models[name]; !ok {
			return nil, spec.Usagef("%s has no model %q; of its models, %s can be started", c.Path, name, listed(have))
		}
		if !slices.Contains(have, name) {
			return nil, spec.Usagef("model %q of %s has no serve, which says how its servers are started", name, c.Path)
		}
	}
	if len(all) == 0 {
		return nil, spec.Usagef("no model of %s has serve, which says how its servers are started, as in\n  models:\n    teacher:\n      model: meta-llama/Llama-3.1-8B-Instruct\n      serve: {engine: vllm, replicas: 2, gpus: 1}", c.Path)
	}
	if len(names) > 0 {
		all = slices.DeleteFunc(all, func(m launch.Model) bool { return !slices.Contains(names, m.Name) })
	}
	return all, nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
