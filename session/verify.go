package session

import (
	"context"

	"matrix"
	"matrix/internal/rundir"
	"matrix/internal/spend"
	"matrix/run"
)

// Verify reads dataset, ledger and output of a run again, and finds out whether
// every row is exactly one of done, failed and owed and stands where the ledger
// says. The run must not be under way.
func Verify(ctx context.Context, d *rundir.Dir) (*run.Audit, error) {
	ledger, err := d.Ledger()
	if err != nil {
		return nil, err
	}
	source, err := d.Source()
	if err != nil {
		return nil, err
	}
	a, err := run.Verify(ctx, source, max(1, d.Config.Run.Trials), ledger, d.Output(ctx, matrix.Done), d.Output(ctx, matrix.Failed), rundir.Past(d.Path))
	if err != nil {
		return nil, rundir.Damage(d.Path, err)
	}
	if err := ledger.Check(); err != nil {
		a.OK = false
		a.Faults++
		a.Culprits = append(a.Culprits, err.Error())
	}
	return a, nil
}

// Repair makes a state out of what the folder of a run still holds, and keeps what
// it replaces. It returns nil where a repair that was killed only had to be ended.
func Repair(ctx context.Context, d *rundir.Dir) (*rundir.Repaired, error) {
	return d.Repair(ctx, spend.Salvage)
}
