package registry

import (
	"maps"
	"path/filepath"
	"slices"
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
	return all, nil
}
