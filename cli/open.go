package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"matrix"
	"matrix/config"
	"matrix/dataset"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// plan is a config that has been checked as a whole, with all that it names.
type plan struct {
	*registry.Plan
	path  string // the config as the person typed it
	kinds *registry.Registry
	tree  *config.Tree
	cfg   spec.Run
}

// loadPlan reads and checks a config. What is wrong with it is a usageError.
// The caller closes the plan.
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
	l := &plan{path: path, kinds: p.Registry}
	var err error
	if l.tree, err = config.Load(spec.Run{}, path, overrides); err != nil {
		return nil, configError(path, err)
	}
	if err = l.tree.Decode(&l.cfg); err != nil {
		return nil, configError(path, err)
	}
	if l.cfg.Name == "" {
		l.cfg.Name = l.tree.Name()
	}
	return l, nil
}

func (p *plan) build(use registry.Use) (err error) {
	if p.Plan, err = p.kinds.Build(p.tree, &p.cfg, use); err != nil {
		return configError(p.path, err)
	}
	return nil
}

// warn says what is likely to be a mistake in the config.
func (p *plan) warn(w io.Writer) {
	for _, e := range p.Warnings {
		fmt.Fprintln(w, clean("Warning: "+e.Error()))
	}
}

// configError counts the faults, so that a person knows where the list ends.
func configError(path string, err error) error {
	var all config.Errors
	if !errors.As(err, &all) || len(all) < 2 {
		return &usageError{err}
	}
	return &usageError{fmt.Errorf("%d errors in %s:\n  %s", len(all), path, strings.ReplaceAll(err.Error(), "\n", "\n  "))}
}

// Names in the folder of a run.
const (
	configFile  = "config.yaml"
	summaryFile = "summary.json"
	stateDir    = "state"
	dataDir     = "data"
	failedDir   = "failed"
	formatsDir  = "formats"
)

// configHeader begins every config.yaml that a run wrote, and tells it from one
// that a person did.
const configHeader = "# Written by matrix: the config of the run in this folder, resolved, without secrets.\n"

// runFolder is the folder of a run, opened to be looked at.
type runFolder struct {
	dir    string
	tree   *config.Tree
	cfg    spec.Run
	ledger *local.Queue
}

// openRun opens the folder of a run. It reads its config and nothing else yet,
// so that it also works while the run is under way. The caller closes it.
func openRun(dir string) (*runFolder, error) {
	own, err := hasConfig(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &usageError{fmt.Errorf("%s: no such folder; give the folder of a run, such as runs/NAME", dir)}
	case err != nil:
		return nil, err
	case !own:
		return nil, &usageError{fmt.Errorf("%s is not the folder of a run: it has no %s written by one", dir, configFile)}
	}
	r := &runFolder{dir: dir}
	if r.tree, err = config.Load(spec.Run{}, filepath.Join(dir, configFile), nil); err != nil {
		return nil, err
	}
	if err = r.tree.Decode(&r.cfg); err != nil {
		return nil, err
	}
	if r.cfg.Name == "" {
		r.cfg.Name = filepath.Base(dir)
	}
	return r, nil
}

// hasConfig reports whether dir holds a config.yaml that a run wrote.
func hasConfig(dir string) (bool, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.HasPrefix(b, []byte(configHeader)), err
}

// Ledger opens the run's queue and ledger to be read. An error that is
// local.ErrLocked says that the run is under way.
func (r *runFolder) Ledger() (*local.Queue, error) {
	if r.ledger != nil {
		return r.ledger, nil
	}
	dir := filepath.Join(r.dir, stateDir)
	if local.Clearing(dir) {
		return nil, fmt.Errorf("%s: --fresh had begun to clear it and was killed; type its command again", r.dir)
	}
	q, err := local.Open(dir, local.Options{ReadOnly: true, Existing: true})
	if errors.Is(err, local.ErrLocked) {
		return nil, fmt.Errorf("%s: the run is under way: %w", r.dir, local.ErrLocked)
	}
	if err != nil {
		return nil, advisedIn(r.dir, err)
	}
	r.ledger = q
	return q, nil
}

// Source opens the run's dataset, without the models and agents that the
// config names beside it.
func (r *runFolder) Source() (*dataset.Source, error) {
	src, err := registry.Source(&r.cfg)
	if err != nil {
		return nil, fmt.Errorf("the rows of this run cannot be read (%s): %w", filepath.Join(r.dir, configFile), err)
	}
	return src, nil
}

// output reads the tasks of an output, in its order.
func (r *runFolder) output(ctx context.Context, status matrix.Status) run.Output {
	return func(f func(place matrix.Place, line []byte) error) error {
		g := func(part, line int, raw []byte) error { return f(matrix.Place{Part: part, Line: line}, raw) }
		ledger, err := r.Ledger()
		if err != nil {
			return err
		}
		mark, err := run.OutputMark(ctx, ledger, status)
		if err != nil {
			return err
		}
		return dataset.ReadOutput(dataset.OS{}, filepath.Join(r.dir, folders[status]), mark, g)
	}
}

// Close releases the ledger, where it was opened.
func (r *runFolder) Close() error {
	if r.ledger == nil {
		return nil
	}
	return r.ledger.Close()
}
