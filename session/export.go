package session

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"matrix/internal/export"
	"matrix/internal/rundir"
	"matrix/registry"
)

// ExportError is a training set that could not be made. The run is whole.
type ExportError struct {
	Dir string // of the run
	Err error
}

func (e *ExportError) Error() string {
	return fmt.Sprintf("the run is finished, and its training set is not made: %v", e.Err)
}
func (e *ExportError) Unwrap() error { return e.Err }

// exporter makes the training set of a run beside it (output.export): the rows of each
// part of the output once nothing is added to that any more, and the set at the end.
type exporter struct {
	folder  *rundir.Claim
	parts   *export.Parts
	version string
	license string

	stop context.CancelFunc
	over sync.WaitGroup
	err  error // of making rows, once it is over
}

// newExporter checks what a plan says of its training set; nil where it wants none.
func newExporter(p *Plan, folder *rundir.Claim, version string) (*exporter, error) {
	if p.Export == nil {
		return nil, nil //nolint:nilnil // as the contract says
	}
	o := *p.Export
	o.Out = filepath.Join(folder.Path, rundir.ExportDir)
	if err := registry.ExportOf(&p.Run, &o, filepath.Join(folder.Path, rundir.PoolsDir)); err != nil {
		return nil, err
	}
	parts, err := export.NewParts(o)
	if err != nil {
		return nil, err
	}
	return &exporter{folder: folder, parts: parts, version: version, license: p.Run.Output.Export.License}, nil
}

// exportEvery is how often it is looked for parts that are whole.
const exportEvery = 2 * time.Second

// start begins to make the rows of parts, until end.
func (x *exporter) start(ctx context.Context) {
	if x == nil {
		return
	}
	ctx, x.stop = context.WithCancel(ctx)
	x.over.Go(func() {
		tick := time.NewTicker(exportEvery)
		defer tick.Stop()
		for x.err = x.make(ctx, false); x.err == nil; x.err = x.make(ctx, false) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// end waits for what start began. Where the run goes on, nothing is lost by an error: it
// is met again at the end.
func (x *exporter) end() {
	if x != nil {
		x.stop()
		x.over.Wait()
	}
}

// make makes the rows of the parts that are whole, and at the end of all.
func (x *exporter) make(ctx context.Context, all bool) error {
	parts, err := x.folder.DoneParts(ctx, all)
	for _, p := range parts {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		err = x.parts.Make(ctx, export.Part{Number: p.Number, State: p.State}, x.folder.PartTasks(ctx, p))
	}
	return err
}

// finish makes the set of a run that is finished; nil where it is there. It says so where
// there is no row.
func (x *exporter) finish(ctx context.Context, p *Plan) (*export.Result, error) {
	if x == nil {
		return nil, nil //nolint:nilnil // there is none to be made
	}
	found, err := x.folder.DoneParts(ctx, true)
	if err != nil {
		return nil, &ExportError{x.folder.Path, err}
	}
	var parts []export.Part
	for _, f := range found {
		parts = append(parts, export.Part{Number: f.Number, State: f.State})
	}
	if x.parts.Made(parts) {
		return nil, nil //nolint:nilnil // it is there
	}
	if err := x.make(ctx, true); err != nil {
		return nil, &ExportError{x.folder.Path, err}
	}
	r, err := x.parts.Finish(ctx, parts, Recipe(x.folder.Path, p.Config, x.version, x.license))
	empty := (*export.EmptyError)(nil)
	switch {
	case errors.As(err, &empty):
		return &empty.Result, nil
	case err != nil:
		return nil, &ExportError{x.folder.Path, err}
	}
	return r, nil
}
