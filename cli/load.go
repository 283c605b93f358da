package cli

import (
	"fmt"
	"io"

	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// loadPlan reads a config, makes all that it names and says what is likely to be a
// mistake in it. The caller closes the plan.
func (p Program) loadPlan(path string, overrides []string, use registry.Use) (*session.Plan, error) {
	c, err := spec.Load(path, overrides)
	if err != nil {
		return nil, err
	}
	l, err := session.Build(p.Registry, c, use)
	if err != nil {
		return nil, err
	}
	for _, e := range l.Warnings {
		warn(p.Err, e)
	}
	return l, nil
}

// warn says what is likely to be a mistake in a config.
func warn(w io.Writer, err error) { fmt.Fprintln(w, clean("Warning: "+err.Error())) }
