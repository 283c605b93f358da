package run

import (
	"context"

	"matrix"
)

// kinship is what an audit has found of tasks that others became.
type kinship struct {
	children int64 // in the ledgers
	said     int64 // by those that became them, and there
	nowhere  bool  // of some tasks that have ended no output holds anything
}

// became checks that what t says it has become is there, by the keys of its children.
func (a *Audit) became(ctx context.Context, ledger matrix.Ledger, w *written) error {
	path := matrix.PathOf(w.ID, w.Row, w.Trial)
	return eachChild(ctx, ledger, w.Row, w.Trial, path, 0, w.Expanded, func(i int, f matrix.Fate) error {
		if f.Status == "" {
			a.report("%s/%d: %s became it, and the ledger does not know it: lost", w.ID, i, w.ID)
		} else {
			a.kin.said++
		}
		return nil
	})
}

// lookups is how many fates are asked for at once.
const lookups = 512

// eachChild looks up the children of a task from one on, up to another.
func eachChild(ctx context.Context, ledger matrix.Ledger, row string, trial int, path []int, from, to int, f func(i int, fate matrix.Fate) error) error {
	for ; from < to; from += lookups {
		var keys []string
		for i := from; i < min(to, from+lookups); i++ {
			keys = append(keys, ChildID(row, trial, append(path[:len(path):len(path)], i)...))
		}
		fates, err := ledger.Lookup(ctx, keys...)
		if err != nil {
			return err
		}
		for i := range fates {
			if err := f(from+i, fates[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// pending checks what a task under way says of its children: that they are there, and
// that it has been told of those that have ended, where it waits for them.
func (a *Audit) pending(ctx context.Context, ledger matrix.Ledger, t *matrix.Task) error {
	if err := a.became(ctx, ledger, &written{ID: t.ID, Row: t.Row, Trial: t.Trial, Expanded: t.Expanded}); err != nil {
		return err
	}
	if t.Expansion == nil || t.Expansion.Then == "" {
		return nil
	}
	told := map[int]matrix.Status{}
	for i := range t.Children {
		told[t.Children[i].Index] = t.Children[i].Status
	}
	return eachChild(ctx, ledger, t.Row, t.Trial, t.Path, t.Expansion.First, t.Expanded, func(i int, f matrix.Fate) error {
		ended := f.Status
		if ended == matrix.Pending {
			ended = ""
		}
		if told[i] != ended {
			a.report("%s/%d: the ledger says that it is %q, and %s, which waits for it, was told %q", t.ID, i, f.Status, t.ID, told[i])
		}
		return nil
	})
}

// unwritten counts the children of tasks of which no output holds anything: there may be
// as many as there are.
func (a *Audit) unwritten(ctx context.Context, shards []Written) error {
	if !a.kin.nowhere || a.kin.children == 0 {
		return nil
	}
	for _, s := range shards {
		err := s.Ledger.Walk(ctx, func(key string, f matrix.Fate) error {
			if !nowhere(f) {
				return nil
			}
			return a.countChildren(ctx, s.Ledger, key)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// countChildren counts those that a ledger has of a task.
func (a *Audit) countChildren(ctx context.Context, ledger matrix.Ledger, key string) error {
	for of := range lineages(key) {
		for n := 0; ; n++ {
			f, err := fate(ctx, ledger, ChildID(of.row, of.trial, append(of.path[:len(of.path):len(of.path)], n)...))
			if err != nil {
				return err
			}
			if f.Status == "" {
				break
			}
			a.kin.said++
		}
	}
	return nil
}

// kinsmen checks that no child is there of which no task says that it became it.
func (a *Audit) kinsmen() {
	if a.kin.children > a.kin.said {
		a.report("the ledger has %d tasks that others became, and these tell of %d", a.kin.children, a.kin.said)
	}
}
