// Package rundir is the folder of a run: what stands where in it, who may write to
// it, and how it is read, also while its run is under way. It knows what a run
// keeps there and nothing of how one is driven.
package rundir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// Names in the folder of a run.
const (
	ConfigFile  = "config.yaml"      // the config as it was resolved, without secrets
	SummaryFile = "summary.json"     // how far the run is
	StateDir    = "state"            // queue and ledger
	DataDir     = dataset.DataDir    // tasks that are done, in parts
	DroppedDir  = dataset.DroppedDir // those that were dropped, likewise, and so on
	ExpandedDir = dataset.ExpandedDir
	FailedDir   = dataset.FailedDir
	ReuseDir    = "state.reuse"      // replies of other runs that are reused: see internal/reuse
	FormatsDir  = dataset.FormatsDir // schemas that calls asked for, once each
	StdinFile   = "stdin"            // what came in by the standard input, where that is the dataset
	ExportDir   = "export"           // the training set that the run makes (output.export)
	ClusterFile = "cluster.json"     // what makes the next head of the run the same one to its workers: secret
	JoinFile    = "join"             // the line by which workers join: secret
	HeadsFile   = "heads.json"       // the state is with the heads of the run: see Elsewhere
	UniqueDir   = "state.unique"     // index of the tasks that are kept, by what they are compared by: a cache
	PoolsDir    = "state.pools"      // what pools of sandboxes and tools keep for tasks under way: files of sandboxes, constants of environments
	WorkersDir  = "workers"          // what was started to work for the run; it stays when the run starts over

	// Of a repair: the state that it makes, what it unpacks, and the folder that
	// keeps what it replaces.
	newStateDir = "state.new"
	scratchDir  = "state.salvage"
	keptDir     = "before-repair"

	importedDir = "state.imported" // what one process had, before heads went on with it
)

// OutputDir is the name of the folder with the tasks of an end.
func OutputDir(s matrix.Status) string { return dataset.OutputDir(s) }

// configHeader begins every config.yaml that a run wrote, and tells it from one
// that a person did.
const configHeader = "# Written by matrix: the config of the run in this folder, resolved, without secrets.\n"

// Dir is the folder of a run, opened to be read.
type Dir struct {
	Path   string       // as a person would type it
	Config *spec.Config // as the run resolved it; nil of OpenOutput

	queues []*local.Queue // of the shards, once they are open
	ledger matrix.Ledger  // what they know; nil until then
	busy   bool           // a process is using the state: it is not opened
	looked bool           // whether the ledger can be opened has been found out, for reading tasks
}

// Open opens the folder of a run. It reads its config and nothing else yet, so
// that it also works while the run is under way. A folder that is not one is a
// spec.UsageError. The caller closes it.
func Open(dir string) (*Dir, error) {
	own, err := hasConfig(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, spec.Usagef("%s: no such folder; give the folder of a run, such as %s", dir, runOf(dir))
	case err != nil:
		return nil, err
	case !own:
		suggestion := ""
		if run := runOf(dir); run != "runs/NAME" {
			suggestion = "; did you mean " + run + "?"
		}
		return nil, spec.Usagef("%s is not the folder of a run: it has no %s written by one%s", dir, ConfigFile, suggestion)
	}
	c, err := spec.Load(filepath.Join(dir, ConfigFile), nil)
	if usage := (*spec.UsageError)(nil); errors.As(err, &usage) {
		return nil, usage.Err // a folder of a run is what was asked for, and is there
	} else if err != nil {
		return nil, err
	}
	return &Dir{Path: dir, Config: c}, nil
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
	b, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.HasPrefix(b, []byte(configHeader)), err
}

// open opens the queues and ledgers of the run's shards to be read. An error that
// is local.ErrLocked says that the run is under way.
func (d *Dir) open(ctx context.Context) error {
	if d.ledger != nil {
		return nil
	}
	dir := d.path(StateDir)
	if heads, is, err := Elsewhere(d.Path); err != nil {
		return err
	} else if is {
		return &awayError{fmt.Sprintf("%s: the run is under way: its state is with its heads (%s) until it has finished", d.Path, heads)}
	}
	if local.Clearing(dir) {
		return halfCleared(d.Path)
	}
	shards, trials := 1, 1
	for len(d.queues) < shards {
		q, err := local.Open(local.ShardDir(dir, len(d.queues)), local.Options{ReadOnly: true, Existing: true})
		if err == nil {
			d.queues = append(d.queues, q)
			shards, trials, _, err = run.LayoutOf(ctx, d.queues[0])
		}
		if err != nil {
			err = errors.Join(err, closeAll(d.queues))
			d.queues = nil
		}
		if errors.Is(err, local.ErrLocked) {
			return fmt.Errorf("%s: the run is under way: %w", d.Path, local.ErrLocked)
		}
		if err != nil {
			return Damage(d.Path, err)
		}
	}
	d.ledger = ledgerOf(trials, d.queues)
	return nil
}

// Verify proves that the run has lost nothing and doubled nothing, and reads all
// tables of its state.
func (d *Dir) Verify(ctx context.Context) (*run.Audit, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	source, err := d.Source()
	if err != nil {
		return nil, err
	}
	shards := make([]run.Written, len(d.queues))
	for k, q := range d.queues {
		shard := d.shard(k)
		checkpoint := func(status matrix.Status) ([]byte, error) { return run.OutputCheckpoint(ctx, q, status) }
		shards[k] = run.Written{Ledger: q, Outputs: map[matrix.Status]run.Output{}, Tail: tail(d.Path, shard)}
		for _, status := range matrix.Ends() {
			shards[k].Outputs[status] = d.output(shard, status, checkpoint)
		}
	}
	a, err := run.Verify(ctx, source, d.Config.Run.MostTrials(), shards)
	if err != nil {
		return nil, Damage(d.Path, err)
	}
	for _, q := range d.queues {
		if err := q.Check(); err != nil {
			a.OK = false
			a.Faults++
			a.Culprits = append(a.Culprits, err.Error())
		}
	}
	return a, nil
}

func (d *Dir) shard(k int) dataset.Shard { return dataset.Shard{K: k, Of: len(d.queues)} }

// Source opens the run's dataset, without the models and agents that the
// config names beside it.
func (d *Dir) Source() (matrix.Source, error) {
	d.Config.Run.Dataset.Stdin = d.path(StdinFile)
	src, err := registry.Source(&d.Config.Run)
	if err != nil {
		return nil, fmt.Errorf("the rows of this run cannot be read (%s): %w", d.path(ConfigFile), err)
	}
	return src, nil
}

// output reads the lines of the tasks of a status in a shard, in their order, as
// far as checkpoint says.
func (d *Dir) output(shard dataset.Shard, status matrix.Status, checkpoint func(matrix.Status) ([]byte, error)) run.Output {
	return func(f func(place matrix.Place, line []byte) error) error {
		to, err := checkpoint(status)
		if err != nil {
			return err
		}
		return dataset.ReadOutput(dataset.OS{}, d.path(OutputDir(status)), shard, to,
			func(part, line int, raw []byte) error { return f(matrix.Place{Part: part, Line: line}, raw) })
	}
}

// Close releases the state, where it was opened.
func (d *Dir) Close() error {
	queues := d.queues
	d.queues, d.ledger = nil, nil
	return closeAll(queues)
}

func (d *Dir) path(name string) string { return filepath.Join(d.Path, name) }

// tail reads what the outputs of a shard in the folder of a run hold after their
// checkpoints.
func tail(dir string, shard dataset.Shard) run.TailFunc {
	return func(output matrix.Status, checkpoint []byte, f func(line []byte) error) error {
		return dataset.ReadTail(filepath.Join(dir, OutputDir(output)), shard, checkpoint, f)
	}
}

// DamagedError is a state or an output that is not as it was written. Session.Repair
// makes a state of what is still good.
type DamagedError struct {
	Dir  string // of the run
	Part bool   // one task was looked at: Verify says what else is wrong
	Err  error
}

func (e *DamagedError) Error() string { return e.Err.Error() }
func (e *DamagedError) Unwrap() error { return e.Err }

// Damage is err, of the run in dir: a DamagedError where it says that the state or
// an output is damaged.
func Damage(dir string, err error) error {
	if errors.As(err, new(*local.DamagedError)) || errors.Is(err, run.ErrLedgerBehind) || errors.Is(err, run.ErrDamaged) || errors.Is(err, dataset.ErrChanged) {
		return &DamagedError{Dir: dir, Err: err}
	}
	return err
}
