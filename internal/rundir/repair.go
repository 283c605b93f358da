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
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// Repaired is what a repair has found.
type Repaired struct {
	*run.Repair
	Faults   []error // of the state
	KeptIn   string  // the folder that keeps what was replaced
	Retrying bool    // failed tasks were being tried again
}

// Repair makes a state out of what the folder still holds, with the checkpoints that
// checkpoints makes of those that can still be read. It returns nil where a repair that
// was killed only had to be ended.
func (d *Dir) Repair(ctx context.Context, checkpoints func(ctx context.Context, old run.Checkpoints) (map[string][]byte, error)) (is *Repaired, err error) {
	at := d.path
	if heads, is, err := Elsewhere(d.Path); err != nil {
		return nil, err
	} else if is {
		return nil, elsewhere(d.Path, heads)
	}
	if _, err := os.Lstat(at(StateDir)); errors.Is(err, fs.ErrNotExist) && local.Exists(at(newStateDir)) {
		// The last repair was killed between two renamings.
		return nil, os.Rename(at(newStateDir), at(StateDir))
	}
	if local.Clearing(at(StateDir)) {
		return nil, halfCleared(d.Path)
	}
	if err := (dataset.OS{}).Mkdir(at(StateDir)); err != nil {
		return nil, err
	}
	held, err := local.LockDir(at(StateDir))
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
	shards := make([]rebuilt, max(1, d.Config.Run.Shards))
	defer func() {
		for i := len(shards) - 1; i >= 0; i-- {
			err = errors.Join(err, shards[i].close())
		}
	}()
	c := run.Repairable{Source: source, Again: d.Config.Run.Trials == spec.TrialsUntil, Trials: d.Config.Run.MostTrials()}
	if c.Per, err = registry.Per(&d.Config.Run); err != nil {
		return nil, err
	}
	for k := range shards {
		if shards[k], err = d.rebuild(k); err != nil {
			return nil, err
		}
		c.Shards = append(c.Shards, d.damaged(ctx, &shards[k], dataset.Shard{K: k, Of: len(shards)}, saved))
	}
	if c.Checkpoints, err = checkpoints(ctx, shards[0].old); err != nil {
		return nil, err
	}
	found, err := c.Run(ctx)
	for i := len(shards) - 1; i >= 0; i-- {
		err = errors.Join(err, shards[i].made.Close())
		shards[i].made = nil
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Rename(at(StateDir), filepath.Join(saved, StateDir)), os.Rename(at(newStateDir), at(StateDir)), dataset.OS{}.SyncDir(d.Path))
	if err != nil {
		return nil, err
	}
	if err := removeOpen(at); err != nil {
		return nil, err
	}
	is = &Repaired{Repair: found, KeptIn: saved}
	for _, s := range shards {
		is.Faults = append(is.Faults, s.old.Faults...)
		_, retrying, err := run.RetryOf(ctx, s.old)
		is.Retrying = is.Retrying || retrying && err == nil
	}
	return is, nil
}

// rebuilt is a shard whose queue is made anew.
type rebuilt struct {
	old  *local.Salvaged
	made *local.Builder // nil once it is closed
}

func (s rebuilt) close() (err error) {
	if s.made != nil {
		err = s.made.Close()
	}
	if s.old != nil {
		err = errors.Join(err, s.old.Close())
	}
	return err
}

// rebuild begins to make the queue of a shard anew.
func (d *Dir) rebuild(shard int) (s rebuilt, err error) {
	from := local.ShardDir(d.path(StateDir), shard)
	if err := (dataset.OS{}).Mkdir(from); err != nil { // of a run that has lost it
		return s, err
	}
	scratch := d.path(scratchDir)
	if shard > 0 {
		scratch = fmt.Sprint(scratch, shard)
	}
	if s.old, err = local.Salvage(from, scratch); err != nil {
		return rebuilt{}, err
	}
	if s.made, err = local.Build(local.ShardDir(d.path(newStateDir), shard)); err != nil {
		return rebuilt{}, errors.Join(err, s.old.Close())
	}
	return s, nil
}

// damaged is a shard as a repair takes it: its outputs stand in the run's folder,
// and saved keeps what is changed of them.
func (d *Dir) damaged(ctx context.Context, s *rebuilt, shard dataset.Shard, saved string) run.Damaged {
	at := func(output matrix.Status) string { return d.path(OutputDir(output)) }
	checkpoint := func(output matrix.Status) ([]byte, error) { return dataset.CheckpointAt(at(output), shard) }
	return run.Damaged{
		Old: s.old, New: s.made,
		Repair: func(output matrix.Status, keep func(line []byte) bool) (int64, error) {
			was, _ := run.OutputCheckpoint(ctx, s.old, output) // as far as it can be read
			return dataset.RepairParts(at(output), filepath.Join(saved, OutputDir(output)), shard, was, keep)
		},
		Read:       func(output matrix.Status) run.Output { return d.output(shard, output, checkpoint) },
		Checkpoint: checkpoint,
	}
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
