package run

import (
	"context"
	"encoding/json"
	"maps"

	"matrix"
)

// Salvaged is what can still be read of the store of a run.
type Salvaged interface {
	Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error)
	Checkpoint(ctx context.Context, name string) ([]byte, error)
	// Tasks calls f for each live task that can be read from its first record
	// on, with the steps up to the first that cannot. whole says that it is all.
	Tasks(f func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error) error
}

// Rebuilt is a store that is made anew.
type Rebuilt interface {
	Settled(id string, f matrix.Fate) error
	Task(seed matrix.Seed, steps []matrix.Step, attempt int) error
	Checkpoints(checkpoints map[string][]byte) error
}

// Repairable is a run whose store, or whose outputs, are damaged.
type Repairable struct {
	Source      matrix.Source
	Trials      int
	Shards      []Damaged         // the first one has the checkpoints of the run
	Checkpoints map[string][]byte // that its new store shall have, beside those of the engine

	Per   func(item matrix.Value) (string, error) // of its Until; nil of none
	Again bool                                    // likewise
}

// Damaged is a shard that is to be made anew.
type Damaged struct {
	Old Salvaged
	New Rebuilt

	// Repair repairs an output: keep is called once for each of its lines that
	// is whole, and those for which it says no are left out, with what is not
	// whole. leftOut counts both.
	Repair     func(output matrix.Status, keep func(line []byte) bool) (leftOut int64, err error)
	Read       func(output matrix.Status) Output          // after Repair
	Checkpoint func(output matrix.Status) ([]byte, error) // of the end of an output, after Repair
}

// Repair is what Repair found.
type Repair struct {
	Done, Failed int64 // tasks that stand in the outputs
	Expanded     int64
	Dropped      int64 // likewise, or of which the ledger alone knew
	Live         int64 // tasks under way, with their turns
	Back         int64 // of these, some of whose last turns are lost
	LeftOut      int64 // lines that are not whole, or not of this run, or there twice
	Lost         int64 // tasks of which nothing is left but that they were: they begin again
	Examples     []string
}

// most ids that a Repair names.
const maxNamed = 20

// Run makes the new stores out of the outputs, which are believed, and of what
// the old stores still know of tasks that do not stand there. What is in neither
// is fed again. It remembers the ids of all tasks.
func (c *Repairable) Run(ctx context.Context) (*Repair, error) {
	x := &repairing{c: c, known: map[string]bool{}, trees: newTrees(), kinds: map[string]int64{}}
	first := c.Shards[0].Old
	_ = readCheckpoint(ctx, first, checkpointFeed, &x.was) // as far as it can be read
	now, err := c.Source.Fingerprint()
	if err != nil {
		return nil, err
	}
	if then, err := first.Checkpoint(ctx, checkpointDataset); err == nil && then != nil && string(then) != now && !x.was.Changed && !grown(c.Source, then, &x.was) {
		return nil, &DatasetChanged{Then: string(then), Now: now}
	}
	if err := x.readRows(ctx); err != nil {
		return nil, err
	}
	totals := make([]Totals, len(c.Shards))
	for k := range c.Shards {
		if err := x.outputs(ctx, k); err != nil {
			return nil, err
		}
	}
	if err := x.survey(ctx); err != nil {
		return nil, err
	}
	for k := range c.Shards {
		if totals[k], err = x.settled(ctx, k); err != nil {
			return nil, err
		}
	}
	for k := range c.Shards {
		if err := x.tasks(ctx, k); err != nil {
			return nil, err
		}
	}
	allFed := true // nothing is left to be fed, and nothing more may come
	if g, ok := c.Source.(matrix.Grower); ok {
		n, err := g.Count(ctx)
		if err != nil {
			return nil, err
		}
		allFed = n >= 0
	}
	for _, id := range x.order {
		if x.known[id] {
			continue
		}
		k := x.shard(id)
		f, err := fate(ctx, c.Shards[k].Old, id)
		if err == nil && nowhere(f) && !x.trees.has(id) {
			*totals[k].of(f.Status)++
			if err := c.Shards[k].New.Settled(id, f); err != nil {
				return nil, err
			}
			x.known[id] = true
			continue
		}
		allFed = false
		if f.Status != "" || err != nil {
			x.Lost++
			if len(x.Examples) < maxNamed {
				x.Examples = append(x.Examples, id)
			}
		}
	}
	if x.was.Tasks == 0 {
		x.was.Version = version // as far as anybody can tell
	}
	fed := feedCheckpoint{
		Version: x.was.Version,
		Tasks:   x.fed(), AllFed: allFed, Trials: c.Trials, Shards: storedShards(len(c.Shards)), Changed: x.was.Changed, Repaired: true, Again: c.Again,
	}
	for k := range c.Shards {
		t := &totals[k]
		x.Done, x.Dropped, x.Expanded, x.Failed = x.Done+t.Done, x.Dropped+t.Dropped, x.Expanded+t.Expanded, x.Failed+t.Failed
		checkpoints := map[string][]byte{}
		if k == 0 {
			if checkpoints[checkpointFeed], err = json.Marshal(fed); err != nil {
				return nil, err
			}
			checkpoints[checkpointDataset] = []byte(now)
			if len(x.kinds) > 0 {
				if checkpoints[checkpointUntil], err = json.Marshal(untilCheckpoint{Kept: x.kinds}); err != nil {
					return nil, err
				}
			}
			maps.Copy(checkpoints, c.Checkpoints)
		}
		if err := c.Shards[k].checkpoints(ctx, totals[k], checkpoints); err != nil {
			return nil, err
		}
	}
	return &x.Repair, nil
}

// repairing is a repair under way.
type repairing struct {
	Repair
	c     *Repairable
	was   feedCheckpoint
	rows  map[string]int64 // of the tasks of the dataset
	order []string         // these tasks
	known map[string]bool  // tasks that the new stores have
	kinds map[string]int64 // of Per: tasks that are done

	trees     trees
	unwritten []unwritten // children that have ended and stand nowhere
}

// fed counts the tasks of rows that the new stores have.
func (x *repairing) fed() (n int64) {
	for key := range x.known {
		if !isChild(key) {
			n++
		}
	}
	return n
}

func (x *repairing) shard(task string) int { return ShardOf(task, x.c.Trials, len(x.c.Shards)) }

// row finds the row of a task of a shard; ok is false where the task is not one of
// this run there. Of a row that may be gone it is -1.
func (x *repairing) row(ctx context.Context, shard int, id string) (row int64, ok bool) {
	if x.shard(id) != shard {
		return 0, false
	}
	if n, ok := x.rows[rootOf(id)]; ok {
		return n, true
	}
	if !x.was.Changed { // else the row may be gone
		return 0, false
	}
	f, err := fate(ctx, x.c.Shards[shard].Old, id)
	if err != nil || f.Status == "" {
		return -1, true
	}
	return f.Row, true
}

// lines repairs the outputs of a shard: what is left are lines of tasks that keep says
// are to stay.
func (x *repairing) lines(k int, keep func(key string, status matrix.Status, t *matrix.Task) bool) error {
	for _, status := range matrix.Ends() {
		out, err := x.c.Shards[k].Repair(status, func(line []byte) bool {
			var t matrix.Task
			if json.Unmarshal(line, &t) != nil {
				return false
			}
			t.Path = matrix.PathOf(t.ID, t.Row, t.Trial)
			return keep(KeyOf(&t), status, &t)
		})
		if err != nil {
			return err
		}
		x.LeftOut += out
	}
	return nil
}

// outputs finds the tasks that stand in the outputs of a shard, and leaves there what is
// whole, and of this run, and there once.
func (x *repairing) outputs(ctx context.Context, k int) error {
	return x.lines(k, func(key string, status matrix.Status, t *matrix.Task) bool {
		if t.Outcome == nil || t.Outcome.Status != status || x.known[key] {
			return false
		}
		if _, ok := x.row(ctx, k, key); !ok {
			return false
		}
		x.known[key] = true
		x.trees.add(key, t)
		return true
	})
}

// settled takes over the tasks that stand in the outputs of a shard.
func (x *repairing) settled(ctx context.Context, k int) (Totals, error) {
	s := &x.c.Shards[k]
	totals := Totals{Metrics: map[string]MetricSum{}, Usage: map[string]Usage{}}
	if len(x.trees.broken) > 0 {
		err := x.lines(k, func(key string, _ matrix.Status, _ *matrix.Task) bool {
			if x.trees.has(key) {
				delete(x.known, key)
				return false
			}
			return true
		})
		if err != nil {
			return totals, err
		}
	}
	for _, status := range matrix.Ends() {
		err := s.Read(status)(func(p matrix.Place, line []byte) error {
			var t matrix.Task
			if err := json.Unmarshal(line, &t); err != nil {
				return err
			}
			t.Path = matrix.PathOf(t.ID, t.Row, t.Trial)
			if last := t.Last(); last != nil {
				t.Hop = last.Hop
			}
			totals.add(&t)
			if x.c.Per != nil && status == matrix.Done {
				if kind, err := x.c.Per(t.Item); err == nil {
					x.kinds[kind]++
				}
			}
			key := KeyOf(&t)
			n, _ := x.row(ctx, k, key)
			return s.New.Settled(key, matrix.Fate{Status: status, Row: n, Part: p.Part, Line: p.Line})
		})
		if err != nil {
			return totals, err
		}
	}
	return totals, x.ofLedgerAlone(k, &totals)
}

// ofLedgerAlone takes over children that have ended and of which no output holds
// anything.
func (x *repairing) ofLedgerAlone(k int, totals *Totals) error {
	for _, u := range x.unwritten {
		if x.shard(u.key) != k || x.trees.has(u.key) {
			continue
		}
		*totals.of(u.fate.Status)++
		totals.Children++
		x.known[u.key] = true
		if err := x.c.Shards[k].New.Settled(u.key, u.fate); err != nil {
			return err
		}
	}
	return nil
}

// live is a task under way as far as it can be read; nil where it is none of this run's,
// or has ended by its output.
func (x *repairing) live(ctx context.Context, k int, seed matrix.Seed, steps []matrix.Step) *matrix.Task {
	if _, ok := x.row(ctx, k, seed.Task); !ok || x.known[seed.Task] {
		return nil
	}
	records := [][]byte{seed.Record}
	for i := range steps {
		records = append(records, steps[i].Record)
	}
	t, err := Decode(seed.Task, records)
	if err != nil {
		return nil
	}
	return t
}

// tasks takes over the live tasks of a shard.
func (x *repairing) tasks(ctx context.Context, k int) error {
	s := &x.c.Shards[k]
	return s.Old.Tasks(func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error {
		if x.trees.has(seed.Task) || x.live(ctx, k, seed, steps) == nil {
			return nil
		}
		if n, _ := x.row(ctx, k, seed.Task); n >= 0 { // a file may come to other rows than when it was fed
			seed.Row = n
		}
		x.known[seed.Task] = true
		x.Live++
		if !whole {
			x.Back++
		}
		return s.New.Task(seed, steps, attempt)
	})
}

// readRows finds the tasks of the dataset, with their rows, in order.
func (x *repairing) readRows(ctx context.Context) error {
	x.rows = map[string]int64{}
	owner := func(task string) (int64, bool, error) {
		n, ok := x.rows[task]
		return n, ok, nil
	}
	return x.c.Source.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		id, err := name(row, x.c.Trials, owner)
		if err != nil {
			return err
		}
		for trial := range x.c.Trials {
			task := matrix.TaskID(id, trial)
			x.rows[task] = row.Number
			x.order = append(x.order, task)
		}
		return nil
	})
}

// checkpoints gives the new store its own checkpoints, beside others.
func (s *Damaged) checkpoints(ctx context.Context, totals Totals, checkpoints map[string][]byte) error {
	var before Totals
	_ = readCheckpoint(ctx, s.Old, checkpointTotals, &before)
	totals.Seconds = before.Seconds
	b, err := json.Marshal(totals)
	if err != nil {
		return err
	}
	checkpoints[checkpointTotals] = b
	for _, status := range matrix.Ends() {
		checkpoint, err := s.Checkpoint(status)
		if err != nil {
			return err
		}
		if checkpoint != nil {
			checkpoints[sinkCheckpoint(status)] = checkpoint
		}
	}
	return s.New.Checkpoints(checkpoints)
}
