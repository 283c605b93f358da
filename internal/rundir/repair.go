package rundir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/run"
)

// Repaired is what a repair has found.
type Repaired struct {
	*run.Repair
	Faults   []error // of the state
	KeptIn   string  // the folder that keeps what was replaced
	Retrying bool    // failed tasks were being tried again
}

// Repair makes a state out of what the folder still holds, with the marks that
// marks makes of those that can still be read. It returns nil where a repair that
// was killed only had to be ended.
func (d *Dir) Repair(ctx context.Context, marks func(ctx context.Context, old run.Marks) (map[string][]byte, error)) (is *Repaired, err error) {
	at := d.path
	if _, err := os.Lstat(at(StateDir)); errors.Is(err, fs.ErrNotExist) && local.Exists(at(newStateDir)) {
		// The last repair was killed between two renamings.
		return nil, os.Rename(at(newStateDir), at(StateDir))
	}
	if local.Clearing(at(StateDir)) {
		return nil, errors.New("--fresh had begun to clear it and was killed; type its command again")
	}
	if err := (dataset.OS{}).Mkdir(at(StateDir)); err != nil {
		return nil, err
	}
	held, err := local.Hold(at(StateDir))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	source, err := d.Source()
	if err != nil {
		return nil, err
	}
	saved, err := d.keep()
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(at(newStateDir)); err != nil { // of a repair that was killed
		return nil, err
	}
	old, err := local.Salvage(at(StateDir), at(scratchDir))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	made, err := local.Build(at(newStateDir))
	if err != nil {
		return nil, err
	}
	kept, err := marks(ctx, old)
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	c := run.Repairable{
		Source: source, Trials: max(1, d.Config.Run.Trials), Old: old, New: made, Marks: kept,
		Mend: func(output matrix.Status, keep func(line []byte) bool) (int64, error) {
			mark, _ := run.OutputMark(ctx, old, output) // as far as it can be read
			return dataset.MendParts(at(OutputDir(output)), filepath.Join(saved, OutputDir(output)), mark, keep)
		},
		Read: func(output matrix.Status) run.Output {
			return func(f func(matrix.Place, []byte) error) error {
				return dataset.ReadParts(at(OutputDir(output)), func(part, line int, raw []byte) error {
					return f(matrix.Place{Part: part, Line: line}, raw)
				})
			}
		},
		Mark: func(output matrix.Status) ([]byte, error) { return dataset.MarkAt(at(OutputDir(output))) },
	}
	found, err := c.Run(ctx)
	if err = errors.Join(err, made.Close()); err != nil {
		return nil, err
	}
	err = errors.Join(os.Rename(at(StateDir), filepath.Join(saved, StateDir)), os.Rename(at(newStateDir), at(StateDir)), dataset.OS{}.SyncDir(d.Path))
	if err != nil {
		return nil, err
	}
	_, retrying, err := run.RetryOf(ctx, old)
	return &Repaired{Repair: found, Faults: old.Faults, KeptIn: saved, Retrying: retrying && err == nil}, nil
}

// keep makes the folder that keeps what a repair replaces.
func (d *Dir) keep() (string, error) {
	dir := d.path(keptDir)
	for n := 2; ; n++ {
		err := os.Mkdir(dir, 0o777)
		if !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
		dir = d.path(fmt.Sprintf("%s-%d", keptDir, n))
	}
}
