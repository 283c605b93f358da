package session

import (
	"context"
	"errors"

	"matrix"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/run"
)

// criterion says of finished tasks, one after the other, whether they are wanted beside
// those that were kept before.
type criterion interface {
	// Judge says why t, which is done, is dropped; empty where it is not.
	Judge(ctx context.Context, t *matrix.Task) (reason string, err error)

	// Keep is called for the task that was judged last, where no criterion drops it.
	Keep(t *matrix.Task) error

	// Settled is called once all that was judged is durable.
	Settled() error

	Close() error
}

// judge is the run.Judge of a session. It asks its criteria of each task in turn: what
// one of them keeps, another may drop, and only what all keep counts for the next task.
type judge []criterion

var _ run.Judge = judge(nil)

// judges reports whether something judges the tasks of p.
func (p *Plan) judges() bool { return p.Unique != nil || p.Pool != nil }

// openJudge makes what judges the tasks of p, of which kept ones stand in the output of dir.
// Without dir it begins with nothing, and keeps nothing.
func (p *Plan) openJudge(ctx context.Context, dir *rundir.Claim, kept int64) (j judge, err error) {
	defer func() {
		if err != nil {
			_ = j.Close() // what is wrong is known
			j = nil
		}
	}()
	if p.Unique != nil {
		u, err := openUnique(ctx, dir, p.Unique, kept)
		if err != nil {
			return j, err
		}
		j = append(j, u)
	}
	if p.Pool != nil {
		g, err := openPool(ctx, dir, p.Pool, kept)
		if err != nil {
			return j, err
		}
		j = append(j, g)
	}
	return j, nil
}

// Judge implements run.Judge.
func (j judge) Judge(ctx context.Context, tasks []*matrix.Task) error {
	for _, t := range tasks {
		reason, err := j.drops(ctx, t)
		if err != nil {
			return err
		}
		if reason != "" {
			t.Outcome = matrix.Drop(reason).Outcome
			continue
		}
		for _, c := range j {
			if err := c.Keep(t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j judge) drops(ctx context.Context, t *matrix.Task) (reason string, err error) {
	for _, c := range j {
		if reason, err = c.Judge(ctx, t); reason != "" || err != nil {
			return reason, err
		}
	}
	return "", nil
}

// Checkpoint implements run.Judge: what was kept stands in the output.
func (j judge) Checkpoint() ([]byte, error) { return nil, nil }

// Settled implements run.Judge.
func (j judge) Settled(context.Context) error {
	var errs []error
	for _, c := range j {
		errs = append(errs, c.Settled())
	}
	return errors.Join(errs...)
}

// Close closes what the criteria hold.
func (j judge) Close() error {
	var errs []error
	for _, c := range j {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// growing has what is kept be drawn.
type growing struct{ pool *registry.Pool }

// openPool has a pool know what is kept in the output of dir.
func openPool(ctx context.Context, dir *rundir.Claim, pool *registry.Pool, kept int64) (growing, error) {
	if dir != nil && kept > 0 {
		output, err := rundir.OpenOutput(ctx, dir.Path)
		if err != nil {
			return growing{}, err
		}
		defer func() { _ = output.Close() }()
		for r, err := range output.Tasks(ctx, matrix.Done) {
			if err != nil {
				return growing{}, err
			}
			pool.Keep(r.Task)
			if kept--; kept == 0 {
				break
			}
		}
	}
	pool.Publish()
	return growing{pool}, nil
}

func (g growing) Judge(context.Context, *matrix.Task) (string, error) { return "", nil }
func (g growing) Keep(t *matrix.Task) error                           { g.pool.Keep(t); return nil }
func (g growing) Settled() error                                      { g.pool.Publish(); return nil }
func (g growing) Close() error                                        { return nil }
