package session

import (
	"context"
	"fmt"
	"slices"

	"matrix"
	"matrix/internal/dedup"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/run"
)

// unique drops tasks that are like one that was kept. What was kept stands in the output;
// the index of it is a cache, which is written after the ledger, so that it is behind, and
// never ahead, of what the ledger says.
type unique struct {
	by        *registry.Unique
	index     *dedup.Index
	signature []byte // of the task that was judged last
}

// openUnique opens the index of a run of which kept tasks stand in the output, and adds
// those that it lacks; without dir one in memory.
func openUnique(ctx context.Context, dir *rundir.Claim, by *registry.Unique, kept int64) (u *unique, err error) {
	u = &unique{by: by}
	if dir == nil {
		u.index, err = dedup.OpenMemory(by.Options)
	} else {
		u.index, err = dedup.Open(dir.Index(), by.Options)
	}
	if err != nil {
		return nil, fmt.Errorf("unique: %w", err)
	}
	if dir != nil {
		err = u.repair(ctx, dir, kept)
	}
	if err == nil {
		err = by.Compare(ctx, u.index)
	}
	if err != nil {
		_ = u.Close() // what is wrong is known
		return nil, fmt.Errorf("unique: %w", err)
	}
	return u, nil
}

// repair brings the index to what the ledger says: an older state of the folder may have
// been restored, and a crash takes what was added last.
func (u *unique) repair(ctx context.Context, dir *rundir.Claim, kept int64) error {
	if n := u.index.Len(); n > 0 {
		fates, err := dir.Ledger().Lookup(ctx, slices.Collect(run.KeysOf(u.index.Last()))...)
		if err != nil {
			return err
		}
		done := slices.ContainsFunc(fates, func(f matrix.Fate) bool { return f.Status == matrix.Done })
		if n > kept || !done {
			if err := u.index.Reset(); err != nil {
				return err
			}
		}
	}
	if u.index.Len() == kept {
		return nil
	}
	output, err := rundir.OpenOutput(ctx, dir.Path)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	for r, err := range output.TasksFrom(ctx, matrix.Done, u.index.Len()) {
		if err != nil {
			return err
		}
		signature, err := u.by.Restore(r.Task)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Where, err)
		}
		if err := u.index.Add(r.Task.ID, signature); err != nil {
			return fmt.Errorf("%s: %w", r.Where, err)
		}
		if u.index.Len() == kept { // what a crash left behind it does not count
			break
		}
		if u.index.Len()%1024 == 0 {
			if err := u.index.Commit(); err != nil {
				return err
			}
		}
	}
	if u.index.Len() != kept {
		return &rundir.DamagedError{Dir: dir.Path, Part: true, Err: fmt.Errorf("%s: the ledger says that %d tasks are kept, and %d stand in the output", dir.Path, kept, u.index.Len())}
	}
	return u.index.Commit()
}

// Judge says why a task that is done is dropped; empty where it is not.
func (u *unique) Judge(ctx context.Context, t *matrix.Task) (reason string, err error) {
	u.signature = t.Outcome.Signature
	if len(u.signature) == 0 { // it ended as it was fed, or before the run compared tasks
		if u.signature, _, err = u.by.Sign(ctx, t); err != nil {
			return "", fmt.Errorf("task %s: %w", t.ID, err)
		}
	}
	if len(u.signature) == 0 {
		return "", nil
	}
	m, found, err := u.index.Find(u.signature)
	switch {
	case err != nil:
		return "", fmt.Errorf("unique: task %s: %w", t.ID, err)
	case !found:
		return "", nil
	case m.Method == "":
		return fmt.Sprintf("%d words in common with %q", u.by.Options.Overlap, m.Name), nil
	case m.Method == dedup.Exact:
		return fmt.Sprintf("duplicate of %q", m.Name), nil
	}
	return fmt.Sprintf("near-duplicate of %q (%.2f)", m.Name, m.Score), nil
}

// Keep notes that the task that was judged last is kept.
func (u *unique) Keep(t *matrix.Task) error {
	if err := u.index.Add(t.ID, u.signature); err != nil {
		return fmt.Errorf("unique: task %s: %w", t.ID, err)
	}
	outcome := *t.Outcome
	outcome.Signature = u.index.Signer().Comparable(u.signature)
	t.Outcome = &outcome
	return nil
}

// Settled is called once all that was judged is durable.
func (u *unique) Settled() error { return u.index.Commit() }

// Close closes the index.
func (u *unique) Close() error { return u.index.Close() }
