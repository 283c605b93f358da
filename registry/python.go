package registry

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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

// logs takes a line of what a pool says.
func (r *Registry) logs(line string) {
	if r.Log != nil {
		r.Log(line)
	}
}
