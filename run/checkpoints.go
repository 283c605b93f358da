package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"matrix"
)

// Names of the checkpoints in which a run keeps what it has to know of itself.
const (
	checkpointDataset = "dataset" // fingerprint of the dataset
	checkpointFeed    = "feed"    // feedCheckpoint: how far the dataset has been fed
	checkpointTotals  = "totals"  // Totals of settled tasks
	checkpointUntil   = "until"   // untilCheckpoint
	checkpointRetry   = "retry"   // retryCheckpoint: which failed tasks of the shard are tried again
	checkpointRetries = "retries" // retryCheckpoint of a run of several shards: what each is to begin

	CheckpointBudget = "budget" // what the run has spent: kept by whoever pays
	CheckpointJudge  = "judge"  // of a Judge
)

// sinkCheckpoint names the checkpoint of an output.
func sinkCheckpoint(s matrix.Status) string { return "sink/" + string(s) }

// OutputCheckpointName is the name of the checkpoint of an output.
func OutputCheckpointName(s matrix.Status) string { return sinkCheckpoint(s) }

// OutputCheckpoint is how far an output goes, as its sink wrote it; nil where there is
// none yet.
func OutputCheckpoint(ctx context.Context, l Checkpoints, s matrix.Status) ([]byte, error) {
	return l.Checkpoint(ctx, sinkCheckpoint(s))
}

// Checkpoints is the part of a matrix.Ledger that reads checkpoints.
type Checkpoints interface {
	Checkpoint(ctx context.Context, name string) ([]byte, error)
}

// readCheckpoint decodes a checkpoint into v, and leaves v alone where there is none.
func readCheckpoint(ctx context.Context, l Checkpoints, name string, v any) error {
	b, err := l.Checkpoint(ctx, name)
	if err != nil || b == nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("checkpoint %s: %w: %w", name, ErrDamaged, err)
	}
	return nil
}

// settled takes over the totals of a commit in a shard.
func (r *Run) settled(s *shard, t Totals) {
	r.mu.Lock()
	s.totals = t
	s.count()
	r.mu.Unlock()
}

// Fed reports whether the run in a store has begun to feed its dataset, and
// whether all rows of it have been fed.
func Fed(ctx context.Context, l Checkpoints) (begun, all bool, err error) {
	b, err := l.Checkpoint(ctx, checkpointFeed)
	if err != nil || b == nil {
		return false, false, err
	}
	var m feedCheckpoint
	err = readCheckpoint(ctx, l, checkpointFeed, &m)
	return true, m.AllFed, err
}

// LayoutOf is how many shards the run has whose first one has these checkpoints, and how
// many tasks each row has. begun is false where nothing says so yet.
func LayoutOf(ctx context.Context, first Checkpoints) (shards, trials int, begun bool, err error) {
	var m feedCheckpoint
	err = readCheckpoint(ctx, first, checkpointFeed, &m)
	return max(1, m.Shards), max(1, m.Trials), m.Trials > 0, err
}

// HasTurns reports whether the run in a ledger has come to anything yet: a task
// that is settled, or a turn of one that is not.
func HasTurns(ctx context.Context, l matrix.Ledger) (bool, error) {
	if totals, err := l.Checkpoint(ctx, checkpointTotals); err != nil || totals != nil {
		return totals != nil, err
	}
	found := errors.New("found")
	err := l.Walk(ctx, func(id string, fate matrix.Fate) error {
		if fate.Status != matrix.Pending {
			return found
		}
		m, ok, err := l.Peek(ctx, id)
		if err == nil && ok && m.Hop > 0 {
			err = found
		}
		return err
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, err
}
