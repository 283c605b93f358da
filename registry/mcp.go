package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/llm"
	"matrix/tool"
)

// mcpPool makes a pool of the tools of an MCP server.
func (r *Registry) mcpPool(b Build, c tool.MCPConfig) (agent.Pool, error) {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &lang.FieldError{Field: field, Err: fmt.Errorf(format, args...)})
	}
	switch {
	case len(c.Run) == 0 && c.URL == "":
		bad("", "needs run, a program and its arguments, or url, the address of a server")
	case len(c.Run) > 0 && c.URL != "":
		bad("url", "stands beside run: write one of them")
	}
	var inside tool.Inside
	if c.URL != "" {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			bad("url", "got %q, want http://HOST/PATH or https://HOST/PATH", c.URL)
		}
		if c.In != "" {
			bad("in", "is for run: a server at a url runs where it is")
		}
		if c.Keep != "" && c.Keep != "run" {
			bad("keep", "is for run: how long a server at a url keeps what it has is its own affair")
		}
	}
	if len(c.Headers) > 0 && c.URL == "" {
		bad("headers", "is for url: a program has env")
	}
	var field *llm.FieldError
	if err := llm.AddHeaders(map[string][]string{}, new(llm.Secrets), c.Headers); errors.As(err, &field) {
		bad(field.Field, "%w", field.Err)
	}
	switch c.Keep {
	case "", "run", "task", "call":
	default:
		bad("keep", "got %q, want run, task or call", c.Keep)
	}
	if c.In != "" {
		p, err := b.PoolNamed("in", c.In)
		host, ok := p.(*agent.Sandboxes)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !ok:
			if _, absent := p.(absentPool); !absent {
				bad("in", "pool %s has no sandboxes in which a program could run", c.In)
			}
		case c.Keep == "run" || c.Keep == "call":
			bad("keep", "a server in the sandbox of a task is kept as long as the task: keep: task")
		}
		inside = func(ctx context.Context, _ tool.Task, run []string, env map[string]string) (io.ReadWriteCloser, error) {
			return host.OpenIn(ctx, run, env)
		}
	}
	for key, n := range map[string]int{"workers": c.Workers, "concurrency": c.Concurrency, "output": c.Output} {
		if n < 1 {
			bad(key, "got %d, want 1 or more", n)
		}
	}
	if c.Timeout <= 0 {
		bad("timeout", "got %v, want more than 0", c.Timeout)
	}
	if c.Dir == "" {
		if _, err := os.Stat(b.config); err == nil {
			c.Dir, _ = filepath.Abs(filepath.Dir(b.config)) // fails where there is no working directory
		}
	}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			bad("env", "%q is not an environment variable", name)
		}
	}
	program := agent.Command{Run: c.Run, Dir: c.Dir, Env: c.Env, Files: c.Files}
	if len(c.Run) > 0 && c.In == "" {
		name := c.Run[0]
		if strings.ContainsRune(name, filepath.Separator) && !filepath.IsAbs(name) {
			name = filepath.Join(c.Dir, name)
		}
		if _, err := exec.LookPath(name); err != nil && !b.elsewhere {
			bad("run", "cannot run %s: %w", c.Run[0], errors.Unwrap(err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(c.Run) > 0 && c.In == "" {
		b.notes.needs.commands = append(b.notes.needs.commands, neededCommand{config.Join("pools", b.Name), program})
	}
	return tool.NewMCP(b.Name, c, inside, b.notes.hide, r.logs), nil
}
