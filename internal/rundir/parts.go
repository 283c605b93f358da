package rundir

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"matrix"
	"matrix/dataset"
	"matrix/run"
)

// Part is a part of the output of a run that goes on.
type Part struct {
	Number int
	State  string // its size and when it was written: other ones where it has changed
	path   string
}

// DoneParts are the parts with tasks that are done to which nothing is added any more; of
// a run that is finished all, where all is set.
func (o *Claim) DoneParts(ctx context.Context, all bool) ([]Part, error) {
	var ends []int
	if !all {
		var err error
		if ends, err = o.ends(ctx); err != nil {
			return nil, err
		}
	}
	files, err := partFiles(o.path(DataDir), "part-")
	if err != nil {
		return nil, err
	}
	var parts []Part
	for _, f := range files {
		if !all && f.n >= ends[f.n%len(ends)] {
			continue
		}
		info, err := os.Stat(f.path)
		if err != nil {
			return nil, err
		}
		parts = append(parts, Part{f.n, fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), f.path})
	}
	return parts, nil
}

// ends are the parts that are being written, of each shard.
func (o *Claim) ends(ctx context.Context) ([]int, error) {
	stores := o.Stores()
	ends := make([]int, len(stores))
	for k, s := range stores {
		checkpoint, err := run.OutputCheckpoint(ctx, s, matrix.Done)
		if err != nil {
			return nil, err
		}
		if ends[k], err = dataset.OutputEnd(checkpoint, dataset.Shard{K: k, Of: len(stores)}); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

// PartTasks are the tasks of a part, in order. An error ends them.
func (o *Claim) PartTasks(ctx context.Context, p Part) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		d := &Dir{Path: o.Path}
		err := d.readParts(ctx, []partFile{{n: p.Number, path: p.path}}, func(l line) error {
			r, err := d.record(l)
			if err == nil && !yield(r.Task, nil) {
				err = errFound
			}
			return err
		})
		if err != nil && !errors.Is(err, errFound) {
			yield(nil, err)
		}
	}
}
