package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/llm"
)

func chat(b Build, c agent.Chat) (matrix.Agent, error) {
	m, err := b.speaker(c.Model)
	c.ImageDir = cmp.Or(c.ImageDir, b.folder)
	c.ImageMemory, c.ReadImage = b.notes.imageMemory, b.image
	if len(c.Images) > 0 {
		b.notes.needs.imagesIn(c.ImageDir)
	}
	if list, ok := b.notes.tools[b.Name]; ok {
		c.Tools = list
	}
	c.Pools = func(name string) (agent.Pool, error) { return b.PoolNamed("pool", name) }
	a, bad := agent.NewChat(b.Name, c, m, b.Params)
	return a, errors.Join(err, bad)
}

func complete(b Build, c agent.Complete) (matrix.Agent, error) {
	m, err := b.speaker(c.Model)
	a, bad := agent.NewComplete(b.Name, c, m, b.Params)
	return a, errors.Join(err, bad)
}

func embed(b Build, c agent.Embed) (matrix.Agent, error) {
	m, err := b.known(c.Model)
	a, bad := agent.NewEmbed(b.Name, c, m, b.Params)
	return a, errors.Join(err, bad)
}

func request(b Build, c agent.Request) (matrix.Agent, error) {
	m, err := b.speaker(c.Model)
	c.ImageDir, c.ReadImage = cmp.Or(c.ImageDir, b.folder), b.image
	b.notes.needs.imagesIn(c.ImageDir)
	a, bad := agent.NewRequest(b.Name, c, m, b.Params)
	return a, errors.Join(err, bad)
}

func execute(b Build, c agent.Exec) (matrix.Agent, error) {
	pool, err := b.PoolNamed("pool", c.Pool)
	a, bad := agent.NewExec(c, pool, b.Params)
	return a, errors.Join(err, bad)
}

func answer(b Build, c agent.Calls) (matrix.Agent, error) {
	var pool agent.Pool
	var err error
	if c.Pool != "" {
		pool, err = b.PoolNamed("pool", c.Pool)
	}
	tools := map[string]*agent.Tools{}
	for role, list := range b.notes.tools {
		t, bad := agent.NewTools(list, func(name string) (agent.Pool, error) { return b.PoolNamed("pool", name) }, b.Params)
		if lack := b.notes.lackingPool(list); lack != nil && c.Pool == "" {
			err = errors.Join(err, lack)
		}
		if bad == nil { // else the chat says what is wrong
			tools[role] = t
		}
	}
	a, bad := agent.NewCalls(c, pool, tools)
	return a, errors.Join(err, bad)
}

// lackingPool says which of the pools that a list of tools names are not here.
func (n *notes) lackingPool(tools any) error {
	list, _ := tools.([]any)
	var errs []error
	for _, v := range list {
		if entry, ok := v.(map[string]any); ok {
			if name, ok := entry["pool"].(string); ok {
				errs = append(errs, n.lacking["pools."+name])
			}
		}
	}
	return errors.Join(errs...)
}

// speaker is the model of that name, which must have replies for the role.
func (b *Build) speaker(model string) (llm.Model, error) {
	m, err := b.known(model)
	if voices, ok := b.notes.voices[model]; ok && !slices.Contains(voices, b.Name) {
		err = &lang.FieldError{Field: "model", Err: fmt.Errorf("the replies of model %q have no list for role %q; there are lists for %s",
			model, b.Name, strings.Join(voices, ", "))}
	}
	return m, err
}

// known is the model of that name.
func (b *Build) known(model string) (llm.Model, error) {
	if m, ok := b.Models[model]; ok {
		b.notes.asks[b.Name] = model
		return m, nil
	}
	if err := b.notes.lacking[model]; err != nil {
		return absent{}, err
	}
	return absent{}, &lang.FieldError{Field: "model", Err: unknown("model", model, slices.Sorted(maps.Keys(b.Models)))}
}

// folderOf is the folder of a dataset: of its first file, where all stand in one.
// It is empty where they do not.
func folderOf(paths []string) string {
	folder := ""
	for i, p := range paths {
		dir := filepath.Dir(p)
		if i > 0 && dir != folder || strings.ContainsAny(dir, "*?[{") {
			return ""
		}
		folder = dir
	}
	return folder
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
	c.Elsewhere = b.elsewhere
	a, err := agent.NewCommand(b.Name, c, b.Params, r.Log)
	if err != nil {
		return nil, err
	}
	b.notes.needs.commands = append(b.notes.needs.commands, neededCommand{s.Path(), c})
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
		p.add(s, name, s.Child(name).Decode(&f.Expr))
		fields = append(fields, f)
	}
	if err := p.errs.Sorted(); err != nil {
		return nil, err
	}
	var pool agent.Draw // not an interface of nothing
	if b.pool != nil {
		pool = b.pool
	}
	return agent.NewCompute(b.Name, fields, b.Params, pool)
}
