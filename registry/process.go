package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
	"matrix/tool"
)

// processPool makes a pool of programs that keep the states of tasks. They run, as the
// programs of commands do, in the folder of the config.
func (r *Registry) processPool(b Build, c tool.ProcessConfig) (agent.Pool, error) {
	if _, err := os.Stat(b.config); err == nil && c.Dir == "" { // not so on the command line
		c.Dir = filepath.Dir(b.config)
	}
	program := agent.Command{Run: c.Run, Workers: c.Workers, Timeout: c.Timeout, Env: c.Env, Files: c.Files, Dir: c.Dir, Elsewhere: b.elsewhere}
	_, err := agent.NewCommand(b.Name, program, b.Params, r.Log) // says what is wrong with it, and starts nothing
	errs := []error{err}
	for field, n := range map[string]int{"leases": c.Leases, "score.workers": c.Score.Workers, "output": c.Output} {
		if n < 1 {
			errs = append(errs, &lang.FieldError{Field: field, Err: fmt.Errorf("got %d, want 1 or more", n)})
		}
	}
	for field, d := range map[string]time.Duration{"ttl": c.TTL, "park": c.Park} {
		if d <= 0 {
			errs = append(errs, &lang.FieldError{Field: field, Err: fmt.Errorf("got %v, want more than 0", d)})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	b.notes.needs.commands = append(b.notes.needs.commands, neededCommand{config.Join("pools", b.Name), program})
	return tool.NewProcess(b.Name, c, b.notes.hide, r.logs), nil
}

func score(b Build, c agent.Score) (matrix.Agent, error) {
	pool, err := b.PoolNamed("pool", c.Pool)
	a, bad := agent.NewScore(c, pool, b.Params)
	return a, errors.Join(err, bad)
}

func judge(b Build, c agent.Judge) (matrix.Agent, error) {
	pool, err := b.PoolNamed("pool", c.Pool)
	m, lack := b.speaker(c.Model)
	a, bad := agent.NewJudge(b.Name, c, pool, m, b.Params)
	return a, errors.Join(err, lack, bad)
}
