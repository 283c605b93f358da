package registry

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/tool"
)

// pythonPool makes a pool of the functions of a file.
func (r *Registry) pythonPool(b Build, c tool.PythonConfig) (agent.Pool, error) {
	p, err := r.python(b, config.Join("pools", b.Name), c)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// python makes what runs the functions of a file, for the section at a key.
func (r *Registry) python(b Build, key string, c tool.PythonConfig) (*tool.Python, error) {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &lang.FieldError{Field: field, Err: fmt.Errorf(format, args...)})
	}
	switch info, err := os.Stat(c.File); {
	case c.File == "":
		bad("file", "is empty: write the name of a Python file")
	case err != nil:
		bad("file", "%w", err)
	case info.IsDir():
		bad("file", "%s is a folder: write the name of a Python file", c.File)
	}
	if c.Workers < 1 {
		bad("workers", "got %d, want 1 or more", c.Workers)
	}
	if c.Concurrency < 1 {
		bad("concurrency", "got %d, want 1 or more", c.Concurrency)
	}
	if c.Timeout <= 0 {
		bad("timeout", "got %v, want more than 0", c.Timeout)
	}
	for i, path := range c.Files {
		if found, _ := filepath.Glob(path); len(found) == 0 {
			if _, err := os.Stat(path); err != nil {
				bad(fmt.Sprintf("files.%d", i), "there is no %s", path)
			}
		}
	}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			bad("env", "%q is not an environment variable", name)
		}
	}
	if strings.ContainsRune(c.Python, filepath.Separator) { // a file beside the config
		if !filepath.IsAbs(c.Python) {
			dir, err := filepath.Abs(filepath.Dir(b.config))
			if err != nil {
				return nil, err
			}
			c.Python = filepath.Join(dir, c.Python)
		}
		b.notes.needs.pythons[config.Join(key, "python")] = c.Python
	}
	if _, err := exec.LookPath(c.Python); err != nil && !b.elsewhere {
		bad("python", "cannot run %s: %w", c.Python, errors.Unwrap(err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return tool.NewPython(b.Name, c, b.notes.hide, r.logs), nil
}

// pythonRole makes an agent of a function.
func (r *Registry) pythonRole(b Build, c agent.Python) (matrix.Agent, error) {
	section := config.Join("roles", b.Name) + ".python"
	p, function, err := r.function(b, section, section, "call", c.Call, c.PythonHow)
	if err != nil {
		return nil, err
	}
	return agent.NewPython(b.Name, c, function, p, b.Params)
}

// function is the pool, by name, of a function that stands as FILE:FUNCTION at a key of a section. It
// is made where there is none yet.
func (r *Registry) function(b Build, name, section, key, text string, how tool.PythonHow) (*tool.Python, string, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 1 || i == len(text)-1 {
		return nil, "", &lang.FieldError{Field: key, Err: fmt.Errorf("got %q, want FILE:FUNCTION, such as tools.py:calculate", text)}
	}
	file, function := text[:i], text[i+1:]
	if !filepath.IsAbs(file) {
		dir, err := filepath.Abs(filepath.Dir(b.config))
		if err != nil {
			return nil, "", err
		}
		file = filepath.Join(dir, file)
	}
	p := b.notes.unnamed[name]
	if p == nil {
		build := b
		build.Name = name
		var err error
		if p, err = r.python(build, section, tool.PythonConfig{File: file, PythonHow: how}); err != nil {
			var at *lang.FieldError
			if errors.As(err, &at) && at.Field == "file" {
				err = &lang.FieldError{Field: key, Err: at.Err}
			}
			return nil, "", err
		}
		b.notes.unnamed[name] = p
		b.Pools[name] = p
	}
	if uses := b.notes.uses[b.user]; !slices.Contains(uses, name) {
		b.notes.uses[b.user] = append(uses, name)
	}
	b.notes.needs.functions[config.Join(section, key)] = neededFunction{file, function}
	p.Want(function, nil)
	return p, function, nil
}

// functions has entries of the tools of a chat that are {python: FILE:FUNCTION} stand for pools.
func (b *builder) functions(role string, s *config.Section, list any) any {
	entries, _ := list.([]any)
	for i, v := range entries {
		entry, _ := v.(map[string]any)
		text, ok := entry["python"].(string)
		if !ok {
			continue
		}
		build, key := b.build, fmt.Sprintf("tools.%d.python", i)
		build.user = role
		if len(entry) > 1 {
			b.at(s, key, 0, 0, "stands alone: what a model is told of a function is in its file; a pool of kind python has more options", "")
			continue
		}
		_, _, err := b.Registry.function(build, text, s.Path(), key, text, tool.PythonHow{Python: "python3", Workers: 1, Concurrency: 64, Timeout: time.Minute})
		if err != nil {
			b.add(s, "", err)
			continue
		}
		entries[i] = functionOf(text)
	}
	return list
}

// functionOf is the entry of a chat's tools for FILE:FUNCTION: the one tool of a pool that has
// this text as its name.
func functionOf(text string) map[string]any {
	return map[string]any{"pool": text, "only": []any{text[strings.LastIndexByte(text, ':')+1:]}}
}

// logs takes a line of what a pool says.
func (r *Registry) logs(line string) {
	if r.Log != nil {
		r.Log(line)
	}
}
