package run

import (
	"context"
	"encoding/json"

	"matrix"
)

// Rest is what can still be read of the store of a run.
type Rest interface {
	Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error)
	Mark(ctx context.Context, name string) ([]byte, error)
	// Tasks calls f for each live task that can be read from its first record
	// on, with the steps up to the first that cannot. whole says that it is all.
	Tasks(f func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error) error
}

// Rebuilt is a store that is made anew.
type Rebuilt interface {
	Settled(id string, f matrix.Fate) error
	Task(seed matrix.Seed, steps []matrix.Step, attempt int) error
	Marks(marks map[string][]byte) error
}

// Repairable is a run whose store, or whose outputs, are damaged.
type Repairable struct {
	Source matrix.Source
	Trials int
	Old    Rest
	New    Rebuilt
	Marks  map[string][]byte // that the new store shall have, beside those of the engine

	// Mend makes an output well: keep is called once for each of its lines that
	// is whole, and those for which it says no are left out, with what is not
	// whole. dropped counts both.
	Mend func(output matrix.Status, keep func(line []byte) bool) (dropped int64, err error)
	Read func(output matrix.Status) Output          // after Mend
	Mark func(output matrix.Status) ([]byte, error) // of the end of an output, after Mend
}

// Repair is what Repair found.
type Repair struct {
	Done, Failed int64 // tasks that stand in the outputs
	Live         int64 // tasks under way, with their turns
	Back         int64 // of these, some of whose last turns are lost
	Dropped      int64 // lines that are not whole, or not of this run, or there twice
	Lost         int64 // tasks of which nothing is left but that they were: they begin again
	Examples     []string
}

// most ids that a Repair names.
const mostNamed = 20

// Run makes the new store out of the outputs, which are believed, and of what
// the old store still knows of tasks that do not stand there. What is in neither
// is fed again. It remembers the ids of all tasks.
func (c *Repairable) Run(ctx context.Context) (*Repair, error) {
	var was feedMark
	_ = readMark(ctx, c.Old, markFeed, &was) // as far as it can be read
	now, err := c.Source.Fingerprint()
	if err != nil {
		return nil, err
	}
	if then, err := c.Old.Mark(ctx, markDataset); err == nil && then != nil && string(then) != now && !was.Changed {
		return nil, &DatasetChanged{Then: string(then), Now: now}
	}
	r := &Repair{}
	rows, order, err := c.rows(ctx)
	if err != nil {
		return nil, err
	}
	row := func(id string) (int64, bool) {
		if n, ok := rows[id]; ok {
			return n, true
		}
		if !was.Changed { // else the row may be gone
			return 0, false
		}
		f, err := fate(ctx, c.Old, id)
		if err != nil || f.Status == "" {
			return -1, true
		}
		return f.Row, true
	}
	totals := Totals{Metrics: map[string]MetricSum{}, Usage: map[string]Usage{}}
	known := map[string]bool{}
	for _, status := range []matrix.Status{matrix.Done, matrix.Failed} {
		dropped, err := c.Mend(status, func(line []byte) bool {
			var t matrix.Task
			if json.Unmarshal(line, &t) != nil || t.Outcome == nil || t.Outcome.Status != status || known[t.ID] {
				return false
			}
			if _, ok := row(t.ID); !ok {
				return false
			}
			known[t.ID] = true
			if last := t.Last(); last != nil {
				t.Hop = last.Hop
			}
			totals.add(&t)
			return true
		})
		if err != nil {
			return nil, err
		}
		r.Dropped += dropped
		err = c.Read(status)(func(p matrix.Place, line []byte) error {
			id := lineID(line)
			n, _ := row(id)
			return c.New.Settled(id, matrix.Fate{Status: status, Row: n, Part: p.Part, Line: p.Line})
		})
		if err != nil {
			return nil, err
		}
	}
	r.Done, r.Failed = totals.Done, totals.Failed
	err = c.Old.Tasks(func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error {
		n, ok := row(seed.Task)
		if known[seed.Task] || !ok {
			return nil
		}
		if n >= 0 { // a file may come to other rows than when it was fed
			seed.Row = n
		}
		records := [][]byte{seed.Record}
		for i := range steps {
			records = append(records, steps[i].Record)
		}
		if _, err := Decode(seed.Task, records); err != nil {
			return nil
		}
		known[seed.Task] = true
		r.Live++
		if !whole {
			r.Back++
		}
		return c.New.Task(seed, steps, attempt)
	})
	if err != nil {
		return nil, err
	}
	ended := true // nothing is left to be fed
	for _, id := range order {
		if known[id] {
			continue
		}
		ended = false
		if f, err := fate(ctx, c.Old, id); f.Status != "" || err != nil {
			r.Lost++
			if len(r.Examples) < mostNamed {
				r.Examples = append(r.Examples, id)
			}
		}
	}
	if was.Tasks == 0 {
		was.Version = version // as far as anybody can tell
	}
	return r, c.marks(ctx, feedMark{
		Version: was.Version,
		Tasks:   int64(len(known)), Ended: ended, Trials: c.Trials, Changed: was.Changed, Repaired: true,
	}, totals, now)
}

// rows finds the tasks of the dataset, with their rows, in order.
func (c *Repairable) rows(ctx context.Context) (map[string]int64, []string, error) {
	rows := map[string]int64{}
	var order []string
	owner := func(task string) (int64, bool, error) {
		n, ok := rows[task]
		return n, ok, nil
	}
	err := c.Source.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		id, err := name(row, c.Trials, owner)
		if err != nil {
			return err
		}
		for trial := range c.Trials {
			task := TaskID(id, trial)
			rows[task] = row.Number
			order = append(order, task)
		}
		return nil
	})
	return rows, order, err
}

// marks says where the new store stands: at the beginning of the dataset, with
// some of its tasks known.
func (c *Repairable) marks(ctx context.Context, fed feedMark, totals Totals, dataset string) error {
	var before Totals
	_ = readMark(ctx, c.Old, markTotals, &before)
	totals.Seconds = before.Seconds
	marks := map[string][]byte{markDataset: []byte(dataset)}
	for name, v := range map[string]any{markFeed: fed, markTotals: totals} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		marks[name] = b
	}
	for _, status := range []matrix.Status{matrix.Done, matrix.Failed} {
		mark, err := c.Mark(status)
		if err != nil {
			return err
		}
		if mark != nil {
			marks[sinkMark(status)] = mark
		}
	}
	for name, v := range c.Marks {
		marks[name] = v
	}
	return c.New.Marks(marks)
}
