package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Past is a pool of a run as the run's folder knows it: which tools it had, and the values
// that its states shared. It makes no calls.
type Past struct {
	Name string
	Dir  string // of the pool, in the run's folder
}

var (
	_ Pool     = (*Past)(nil)
	_ Stateful = (*Past)(nil)
)

var errPast = errors.New("the run is not under way")

// Tools implements Pool.
func (p *Past) Tools(context.Context, Task) ([]Definition, error) {
	all, err := pinned(p.Dir)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("there is no %s: the run has made no use of pool %s", filepath.Join(p.Dir, toolsFile), p.Name)
	}
	if err != nil {
		return nil, &BrokenError{err}
	}
	return all, nil
}

// Constant implements Stateful.
func (p *Past) Constant(_ context.Context, t Task, hash string) (json.RawMessage, error) {
	if !plainName.MatchString(hash) {
		return nil, &TaskError{t.ID, fmt.Errorf("%q is no hash of a shared value", hash)}
	}
	v, err := os.ReadFile(filepath.Join(p.Dir, sharedDir, hash+".json"))
	if err != nil {
		return nil, &BrokenError{err}
	}
	return v, nil
}

// State implements Stateful: there is none.
func (p *Past) State(context.Context, Task) (Opened, Trace, error) {
	return Opened{}, Trace{}, &BrokenError{errPast}
}

// Call implements Pool: none can be made.
func (p *Past) Call(context.Context, Task, Request) (Result, error) {
	return Result{}, &BrokenError{errPast}
}

// Check implements Pool.
func (p *Past) Check(context.Context) error { return nil }

// Release implements Pool.
func (p *Past) Release(context.Context, string) error { return nil }

// Close implements Pool.
func (p *Past) Close() error { return nil }
