package run

import (
	"context"

	"matrix"
)

// trees is what a repair has found of tasks that others became. One of which
// something is missing cannot go on from where it was: who became it has ended, or
// waits for what does not come. So all of it is left out, and its row begins again.
type trees struct {
	said   map[string]int           // by the key of a task: how many it says that it became
	waited map[string]matrix.Status // by the key of a child that another waits for: how it ended
	told   map[string]*matrix.Task  // by the key of a task that waits: itself, without its turns
	broken map[string]bool          // by the key of a row's task
}

func newTrees() trees {
	return trees{said: map[string]int{}, waited: map[string]matrix.Status{}, told: map[string]*matrix.Task{}, broken: map[string]bool{}}
}

// add notes a task that can still be read.
func (x *trees) add(key string, t *matrix.Task) {
	if t.Expanded > 0 {
		x.said[key] = t.Expanded
	}
	if t.Waited && t.Outcome != nil {
		x.waited[key] = t.Outcome.Status
	}
	if t.Expansion != nil && t.Expansion.Then != "" && t.Outcome == nil {
		x.told[key] = &matrix.Task{Row: t.Row, Trial: t.Trial, Path: t.Path, Expanded: t.Expanded, Children: t.Children, Expansion: &matrix.Expansion{First: t.Expansion.First}}
	}
}

// rootOf is the key of the row's task that the one of a key comes from.
func rootOf(key string) string {
	if c, ok := childOf(key); ok {
		return c.root()
	}
	return key
}

// has reports whether the task of a key belongs to a tree that is left out.
func (x *trees) has(key string) bool { return len(x.broken) > 0 && x.broken[rootOf(key)] }

// find finds the trees of which something is missing, where known are all tasks that
// can still be read, and unwritten says whether one has ended and stands nowhere.
func (x *trees) find(known map[string]bool, unwritten func(key string) bool) {
	there := map[string]int{} // children, by the key of their parent
	for key := range known {
		if c, ok := childOf(key); ok {
			there[c.parent()]++
		}
	}
	for parent, n := range there {
		if _, says := x.said[parent]; !says && unwritten(parent) {
			continue
		}
		if x.said[parent] != n || !known[parent] {
			x.broken[rootOf(parent)] = true
		}
	}
	for parent, n := range x.said {
		whole := there[parent] == n
		for of := range lineages(parent) {
			if !whole || there[parent] == 0 {
				break
			}
			first := ChildID(of.row, of.trial, append(of.path[:len(of.path):len(of.path)], 0)...)
			if !known[first] { // the other way to read the key
				continue
			}
			for i := range n {
				whole = whole && known[ChildID(of.row, of.trial, append(of.path[:len(of.path):len(of.path)], i)...)]
			}
			break
		}
		if !whole {
			x.broken[rootOf(parent)] = true
		}
	}
	for key, t := range x.told {
		told := map[int]matrix.Status{}
		for i := range t.Children {
			told[t.Children[i].Index] = t.Children[i].Status
		}
		for i := t.Expansion.First; i < t.Expanded; i++ {
			if told[i] != x.waited[ChildID(t.Row, t.Trial, append(t.Path[:len(t.Path):len(t.Path)], i)...)] {
				x.broken[rootOf(key)] = true
			}
		}
	}
}

// survey finds out which trees are whole: of the lines that outputs hold, whose keys are
// known, and of the tasks under way.
func (x *repairing) survey(ctx context.Context) error {
	known := map[string]bool{}
	for key := range x.known {
		known[key] = true
	}
	for k := range x.c.Shards {
		err := x.c.Shards[k].Old.Tasks(func(seed matrix.Seed, steps []matrix.Step, _ int, _ bool) error {
			if t := x.live(ctx, k, seed, steps); t != nil {
				known[seed.Task] = true
				x.trees.add(seed.Task, t)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for key, n := range x.trees.said { // children of which the ledger alone knew
		for of := range lineages(key) {
			for i := range n {
				child := ChildID(of.row, of.trial, append(of.path[:len(of.path):len(of.path)], i)...)
				if f, ok := x.nowhere(ctx, child); ok && !known[child] {
					known[child] = true
					x.unwritten = append(x.unwritten, unwritten{child, f})
					if x.trees.waits(key) {
						x.trees.waited[child] = f.Status
					}
				}
			}
		}
	}
	x.trees.find(known, func(key string) bool {
		_, ok := x.nowhere(ctx, key)
		return ok
	})
	return nil
}

// waits reports whether the task of a key waits for children.
func (x *trees) waits(key string) bool { return x.told[key] != nil }

// unwritten is a task that has ended, and of which no output holds anything.
type unwritten struct {
	key  string
	fate matrix.Fate
}

// nowhere looks for a task that has ended and stands nowhere by the old ledger.
func (x *repairing) nowhere(ctx context.Context, key string) (matrix.Fate, bool) {
	f, err := fate(ctx, x.c.Shards[x.shard(key)].Old, key)
	return f, err == nil && nowhere(f)
}
