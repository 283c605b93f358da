package registry

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/config"
	"matrix/lang"
)

func chat(b Build, c agent.Chat) (matrix.Agent, error) {
	var missing error
	m, ok := b.Models[c.Model]
	if !ok {
		m = absent{}
		missing = &lang.FieldError{Field: "model", Err: unknown("model", c.Model, slices.Sorted(maps.Keys(b.Models)))}
	}
	if voices, ok := b.notes.voices[c.Model]; ok && !slices.Contains(voices, b.Name) {
		missing = &lang.FieldError{Field: "model", Err: fmt.Errorf("the replies of model %q have no list for role %q; there are lists for %s",
			c.Model, b.Name, strings.Join(voices, ", "))}
	}
	a, err := agent.NewChat(b.Name, c, m, b.Params)
	return a, errors.Join(missing, err)
}

// command runs in the folder of the file that says what to run, so that a
// config and its programs can be moved together.
func (r *Registry) command(b Build, s *config.Section) (matrix.Agent, error) {
	var c agent.Command
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	if c.Dir == "" {
		file := s.Pos("run").File
		if _, err := os.Stat(file); err == nil { // not so on the command line
			c.Dir = filepath.Dir(file)
		}
	}
	a, err := agent.NewCommand(b.Name, c, b.Params, r.Log)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// compute keeps the order of the fields, in which they are computed.
func compute(b Build, s *config.Section) (matrix.Agent, error) {
	p := problems{}
	var fields agent.Compute
	if s.Kind() != config.Map {
		return nil, s.Decode(&map[string]string{}) // says what is wrong
	}
	for _, name := range s.Keys() {
		f := agent.Field{Name: name}
		p.add(s, name, s.Get(name).Decode(&f.Expr))
		fields = append(fields, f)
	}
	if err := p.errs.Sorted(); err != nil {
		return nil, err
	}
	return agent.NewCompute(b.Name, fields, b.Params)
}
