package session

import (
	"context"

	"matrix/internal/rundir"
	"matrix/internal/spend"
	"matrix/run"
)

// Verify reads dataset, ledger and output of a run again, and finds out whether
// every row is exactly one of done, failed and pending and stands where the ledger
// says. The run must not be under way.
func Verify(ctx context.Context, d *rundir.Dir) (*run.Audit, error) { return d.Verify(ctx) }

// Repair makes a state out of what the folder of a run still holds, and keeps what
// it replaces. It returns nil where a repair that was killed only had to be ended.
func Repair(ctx context.Context, d *rundir.Dir) (*rundir.Repaired, error) {
	return d.Repair(ctx, spend.Salvage)
}
