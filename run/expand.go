package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"matrix"
)

// Where parents are. No role of a user has such a name.
const (
	expandRole = "_expand" // children of it are still to begin: see Run.Expand
	waitRole   = "_wait"   // it waits for its children; nobody takes it
)

// expandRank orders the tasks that become children, larger first: by class, and in a
// class the deepest first, so that as few as can be are under way.
func expandRank(t *matrix.Task) int { return 1000*int(t.Priority) + t.Depth() }

// expand notes what t is to become. Where that is nothing, t goes on at once; what
// cannot be fails it.
func (w *Worker) expand(t *matrix.Task, d matrix.Decision) matrix.Decision {
	x := *d.Expand
	size := 0
	for i := range x.Items {
		size += len(x.Items[i].Raw())
	}
	limit := func(format string, args ...any) matrix.Decision {
		return matrix.FailBy(matrix.FaultLimit, "expand: "+fmt.Sprintf(format, args...))
	}
	for _, role := range []string{x.Role, x.Then} {
		if w.roles[role] == nil && (role != "" || x.Role == "") {
			return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("the router sent the children of the task, or what becomes of it, to %q, and there is no such role", role))
		}
	}
	switch {
	case size > matrix.MaxExpansion:
		return limit("the elements of the list have %d bytes together, and %d (8 MiB) is the most: give offsets into the row rather than copies of it", size, matrix.MaxExpansion)
	case len(x.Items) > matrix.MaxChildren:
		return limit("the list has %d elements, and %d is the most", len(x.Items), matrix.MaxChildren)
	case t.Depth() >= matrix.MaxDepth:
		return limit("the task has %d ancestors, and children of its own would have more than %d", t.Depth(), matrix.MaxDepth)
	case x.As == "":
		return matrix.FailBy(matrix.FaultRouter, "the router names no field for the elements of the list")
	}
	x.First = t.Expanded
	t.Expansion, t.Children = &x, nil
	t.Item = matrix.RawValue(t.Item.Raw()) // nobody looks at it until the task goes on, and parsed it takes many times as much memory
	for i := range t.Turns {
		t.Turns[i].Data = matrix.RawValue(t.Turns[i].Data.Raw())
	}
	switch {
	case len(x.Items) > 0:
		return matrix.Decision{Open: d.Open, Expand: &x}
	case x.Then != "":
		return matrix.Decision{Open: d.Open, Role: x.Then}
	}
	return matrix.Decision{Open: d.Open, Outcome: &matrix.Outcome{Status: matrix.Expanded}}
}

// How many tasks become children at a time in a shard, and how soon credit is looked
// for again that came of no task's end.
const (
	expanding = 64
	creditAge = 20 * time.Millisecond
)

// Expand has the tasks of a shard that are to become children do so, as there is
// credit, until ctx ends or the run is stopped. They come before new rows, and the
// deepest of them first. One process of a run does so.
func (r *Run) Expand(ctx context.Context, shard int) error {
	broods, ctx := errgroup.WithContext(ctx)
	broods.SetLimit(expanding)
	soft, end := r.until(ctx)
	defer end()
	s := r.shards[shard]
	err := func() error {
		for {
			if err := s.expandable(soft); err != nil {
				return err
			}
			r.expanding.Add(1)
			done := func(n int) {
				r.born.Add(int64(-n))
				r.expanding.Add(-1)
				r.offer()
			}
			n, err := r.reserve(soft)
			if err != nil {
				done(0)
				return err
			}
			ts, err := s.Store.Take(soft, expandRole, 1, nil)
			if err != nil || len(ts) == 0 {
				if done(n); err != nil {
					return err
				}
				continue
			}
			broods.Go(func() error {
				left, err := r.beget(ctx, s, ts[0], n)
				if done(left); ctx.Err() != nil || errors.Is(err, matrix.ErrLost) {
					return nil
				}
				return err
			})
		}
	}()
	if fault := broods.Wait(); fault != nil {
		return fault
	}
	if soft.Err() != nil && errors.Is(err, soft.Err()) {
		return nil
	}
	return err
}

// expandable waits until a task of the shard is to become children.
func (s *shard) expandable(ctx context.Context) error {
	ready := make(chan struct{})
	waiting, withdraw := context.WithCancel(ctx)
	defer withdraw()
	if _, err := s.Store.Take(waiting, expandRole, 0, func() { close(ready) }); err != nil {
		return err
	}
	select {
	case <-ready:
		return ctx.Err()
	case <-s.Store.Done():
		return s.Store.Flush(context.WithoutCancel(ctx))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reserve waits until at least one child may begin, and counts those that may as
// begun, at most a batch.
func (r *Run) reserve(ctx context.Context) (int, error) {
	moved := make(chan struct{}, 1)
	listens := false
	var again *time.Timer
	for {
		r.reviving.Lock() // the credit is that of all shards
		n := min(feedBatch, r.free()+r.ledger().Counts().Waiting[expandRole])
		if n > 0 {
			r.born.Add(int64(n))
		}
		r.reviving.Unlock()
		if n > 0 {
			return n, nil
		}
		if !listens {
			listens = true
			r.onMove(func() { moved <- struct{}{} })
		}
		if again == nil {
			again = time.NewTimer(creditAge)
			defer again.Stop()
		} else {
			again.Reset(creditAge)
		}
		select {
		case <-moved:
			listens = false
		case <-again.C: // another task may wait now for children or for what becomes of them
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// free is how many more tasks may be under way: those that wait for their children are
// not, and so are none that those can come of.
func (r *Run) free() int { return r.cfg.Live - (r.live() - int(r.parked.Load())) }

// offer tells the feeder that there may be room.
func (r *Run) offer() {
	select {
	case r.credit <- struct{}{}:
	default:
	}
}

// beget has a task become up to n children more, and returns how many of these did not
// begin.
func (r *Run) beget(ctx context.Context, s *shard, taken matrix.Taken, n int) (left int, err error) {
	m := taken.Message()
	k, err := r.worker.cache.load(ctx, m)
	if err == nil && k.t.Expansion == nil {
		err = fmt.Errorf("task %s is to become children, and does not say which: %w", k.t.ID, ErrDamaged)
	}
	if err != nil {
		taken.Return(nil)
		return n, err
	}
	t, x := k.t, k.t.Expansion
	seeds, row, err := r.children(ctx, s, t, n)
	if err != nil {
		taken.Return(nil)
		return n, err
	}
	known, err := s.known(ctx, seeds)
	if err != nil {
		taken.Return(nil)
		return n, err
	}
	for i := range seeds {
		seeds[i].Row = row
	}
	t.Expanded += len(seeds)
	step := matrix.Step{Role: expandRole, Priority: expandRank(t), Children: seeds}
	if t.Expanded == x.First+len(x.Items) {
		step.Role, step.Priority = waitRole, t.Rank()
		if x.Then == "" {
			step.Role = sinkRole
			r.worker.finish(t, &matrix.Outcome{Status: matrix.Expanded})
		}
	}
	step.Record = encodeBegun(t)
	step.Sum = matrix.Sum(step.Record)
	k.size, k.hop, k.sum = size(k.size, step.Record), m.Hop+1, step.Sum
	r.worker.keep(k, step.Role)
	if err := taken.Commit(step, nil); err != nil {
		return n, err
	}
	if step.Role == waitRole {
		r.parked.Add(1)
	}
	r.notifyFed(seeds)
	return n - len(seeds) + known, nil
}

// known counts the children that a ledger has already: those of a task of which a
// repair has lost how far it had come.
func (s *shard) known(ctx context.Context, seeds []matrix.Seed) (n int, err error) {
	keys := make([]string, len(seeds))
	for i := range seeds {
		keys[i] = seeds[i].Task
	}
	fates, err := s.Store.Lookup(ctx, keys...)
	for _, f := range fates {
		if f.Status != "" {
			n++
		}
	}
	return n, err
}

// children makes the next children of t, at most n, and the row that they are of.
func (r *Run) children(ctx context.Context, s *shard, t *matrix.Task, n int) (seeds []matrix.Seed, row int64, err error) {
	f, err := fate(ctx, s.Store, KeyOf(t))
	if err != nil {
		return nil, 0, err
	}
	x := t.Expansion
	child, err := x.Children(t)
	if err != nil {
		return nil, 0, fmt.Errorf("task %s: its row cannot be read: %w: %w", t.ID, ErrDamaged, err)
	}
	now := time.Now()
	size := 0
	for i := t.Expanded - x.First; i < len(x.Items) && len(seeds) < n && size < feedBytes; i++ {
		c := child(i)
		c.Seed, c.Fed = taskSeed(r.cfg.Seed, KeyOf(c), t.Trial), now
		for k := range c.Turns {
			c.Turns[k].Timing.At = now
		}
		seeds = append(seeds, r.seedOf(c, matrix.To(x.Role)))
		size += len(seeds[len(seeds)-1].Record)
	}
	return seeds, f.Row, nil
}
