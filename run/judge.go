package run

import (
	"context"
	"errors"
	"fmt"

	"matrix"
)

// Judge looks at finished tasks as they are settled, in one order, and drops those that are not
// wanted beside what was settled before. What it decided is committed with the
// fates, and never revised.
type Judge interface {
	// Judge is called with tasks that are done, in order of settling, before they are
	// written. It drops one by giving it another Outcome (see matrix.Drop).
	Judge(ctx context.Context, tasks []*matrix.Task) error

	// Checkpoint is called once all tasks of a commit have been judged, and is
	// committed with them; nil leaves the one that there is.
	Checkpoint() ([]byte, error)

	// Settled is called once what was judged is durable.
	Settled(ctx context.Context) error
}

// openJudge makes the judge of a shard, which goes on where the last commit left it.
func (r *Run) openJudge(ctx context.Context, s *shard) (Judge, error) {
	if r.cfg.Judge == nil {
		return nil, nil
	}
	checkpoint, err := s.Store.Checkpoint(ctx, CheckpointJudge)
	if err != nil {
		return nil, err
	}
	return r.cfg.Judge(checkpoint)
}

// judge has those of the tasks judged that are done. With a goal each is judged by itself:
// that of which there is enough is not judged any more.
func (b *settling) judge(ctx context.Context, goal *goal) error {
	var done []*matrix.Task
	for _, t := range b.tasks {
		if t.Outcome.Status == matrix.Done && goal == nil {
			done = append(done, t)
		} else if t.Outcome.Status == matrix.Done {
			surplus, err := b.enough(t, goal)
			if err != nil {
				return fmt.Errorf("until: task %s: %w", t.ID, err)
			}
			if surplus {
				t.Outcome, t.Metrics = matrix.Drop(Surplus).Outcome, nil
			} else if err := b.ask(ctx, t); err != nil {
				return err
			}
		}
		b.count(t, goal)
	}
	return b.ask(ctx, done...)
}

// ask has tasks judged that are done.
func (b *settling) ask(ctx context.Context, done ...*matrix.Task) error {
	if b.of.judge == nil || len(done) == 0 {
		return nil
	}
	if err := b.of.judge.Judge(ctx, done); err != nil {
		return err
	}
	for _, t := range done {
		if t.Outcome == nil || t.Outcome.Status != matrix.Done && t.Outcome.Status != matrix.Dropped {
			return errors.New("run: a judge may keep a task that is done, or drop it, and nothing else")
		}
		if t.Outcome.Status != matrix.Done {
			t.Metrics = nil
		}
	}
	return nil
}

// asBegun makes of a task that stop ended what it is in a run that was begun when those
// were kept.
func (r *Run) asBegun(t *matrix.Task) {
	if o := t.Outcome; r.keepStopped && o.Status == matrix.Dropped && o.Stopped != "" {
		r.worker.finish(t, &matrix.Outcome{Status: matrix.Done, Value: o.Value, Stopped: o.Stopped})
	}
}
