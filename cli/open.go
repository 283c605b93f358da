package cli

import (
	"fmt"
	"io"

	"matrix/registry"
	"matrix/spec"
)

// plan is a config that has been checked as a whole, with all that it names.
type plan struct {
	*registry.Plan
	*spec.Config
	kinds *registry.Registry
}

// loadPlan reads and checks a config. What is wrong with it is a UsageError. The
// caller closes the plan.
func (p Program) loadPlan(path string, overrides []string, use registry.Use) (*plan, error) {
	l, err := p.loadConfig(path, overrides)
	if err != nil {
		return nil, err
	}
	if err := l.build(use); err != nil {
		return nil, err
	}
	l.warn(p.Err)
	return l, nil
}

// loadConfig reads a config into a plan that is not built yet.
func (p Program) loadConfig(path string, overrides []string) (*plan, error) {
	c, err := spec.Load(path, overrides)
	if err != nil {
		return nil, err
	}
	return &plan{Config: c, kinds: p.Registry}, nil
}

func (p *plan) build(use registry.Use) (err error) {
	if p.Plan, err = p.kinds.Build(p.Tree, &p.Run, use); err != nil {
		return spec.Wrong(p.Path, err)
	}
	return nil
}

// warn says what is likely to be a mistake in the config.
func (p *plan) warn(w io.Writer) {
	for _, e := range p.Warnings {
		fmt.Fprintln(w, clean("Warning: "+e.Error()))
	}
}
