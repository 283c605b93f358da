package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"matrix"
)

const (
	collectBatch = 1024     // tasks settled in one commit, at most
	collectBytes = 16 << 20 // of tasks in memory at once, but for a single larger one
)

// Settle writes the finished tasks of a shard, until Stopping(ctx) ends and then
// what still waits, or until ctx ends. First the sinks make them durable, then the
// ledger says so: what a crash leaves between the two is cut off when the sinks are
// opened, and written again.
//
// It also brings failed tasks back that are to be tried again, until the run is
// stopped.
func (r *Run) Settle(ctx context.Context, shard int) (err error) {
	s := r.shards[shard]
	sinks, err := r.openSinks(ctx, s)
	defer func() { err = errors.Join(err, sinks.close()) }()
	if err != nil {
		return err
	}
	if s.judge, err = r.openJudge(ctx, s); err != nil {
		return err
	}
	if r.goal != nil {
		defer func() {
			if err == nil && r.met.Load() {
				err = r.sweep(ctx, s, sinks)
			}
		}()
	}
	collect := func(ctx context.Context) error {
		return s.Store.Collect(ctx, sinkRole, collectBatch, func(ctx context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			return r.settle(context.WithoutCancel(ctx), s, sinks, ms)
		})
	}
	if s.retrying.Load() {
		if err := r.retryAll(ctx, s, sinks, collect); err != nil {
			return err
		}
	}
	return collect(ctx)
}

// retryAll brings failed tasks of a shard back as there is credit, and collects
// meanwhile. It returns once it has gone through all, or when the run is stopped.
// Who writes the outputs does so, since it rewrites one of them.
func (r *Run) retryAll(ctx context.Context, s *shard, sinks outputs, collect func(context.Context) error) error {
	failed, ok := sinks.of(matrix.Failed).(matrix.Reviser)
	if !ok {
		return errors.New("retry: the failed output cannot be gone through again")
	}
	if err := r.beginRetry(ctx, s, failed); err != nil {
		return err
	}
	soft, end := r.until(matrix.Stopping(ctx))
	defer end()
	for soft.Err() == nil {
		until, moved := context.WithCancel(ctx)
		r.onMove(moved)
		over, err := r.retry(context.WithoutCancel(ctx), s, failed)
		if err == nil && !over {
			stop := context.AfterFunc(soft, moved)
			err = collect(until) // until there may be room
			stop()
		}
		moved()
		if err != nil {
			return err
		}
		if over {
			r.mu.Lock()
			s.retrying.Store(false)
			if !r.retrying() {
				closeOnce(r.retriedAll)
			}
			r.mu.Unlock()
			r.moved()
			return nil
		}
	}
	return nil
}

// retrying reports whether failed tasks of any shard are still to be brought back.
func (r *Run) retrying() bool {
	for _, s := range r.shards {
		if s.retrying.Load() {
			return true
		}
	}
	return false
}

// output is a sink and the name of its checkpoint, with what is to be written next.
type output struct {
	status matrix.Status
	name   string
	sink   matrix.Sink
	tasks  []*matrix.Task
	index  []int // of the tasks in the batch
}

type outputs []*output

func (r *Run) openSinks(ctx context.Context, s *shard) (os outputs, err error) {
	for _, status := range matrix.Ends() {
		open := s.Outputs[status]
		if open == nil {
			continue
		}
		name := sinkCheckpoint(status)
		checkpoint, err := s.Store.Checkpoint(ctx, name)
		if err != nil {
			return os, err
		}
		sink, err := open(checkpoint)
		if err != nil {
			return os, fmt.Errorf("open the output: %w", err)
		}
		os = append(os, &output{status: status, name: name, sink: sink})
	}
	return os, nil
}

func (os outputs) of(s matrix.Status) matrix.Sink {
	for _, o := range os {
		if o.status == s {
			return o.sink
		}
	}
	return nil
}

func (os outputs) close() (err error) {
	for _, o := range os {
		err = errors.Join(err, o.sink.Close())
	}
	return err
}

// add notes the i-th task of a batch for its output.
func (os outputs) add(i int, t *matrix.Task) {
	for _, o := range os {
		if o.status == t.Outcome.Status {
			o.tasks, o.index = append(o.tasks, t), append(o.index, i)
		}
	}
}

// write writes what was added, and notes in s where it stands.
func (os outputs) write(ctx context.Context, s *matrix.Settlement) error {
	for _, o := range os {
		if len(o.tasks) == 0 {
			continue
		}
		places, checkpoint, err := o.sink.Write(ctx, o.tasks)
		if err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
		for j, p := range places {
			s.Fates[o.index[j]] = matrix.Fate{Status: o.status, Part: p.Part, Line: p.Line}
		}
		s.Checkpoints[o.name] = checkpoint
		clear(o.tasks)
		o.tasks, o.index = o.tasks[:0], o.index[:0]
	}
	return nil
}

// committed tells sinks that what they wrote is.
func (os outputs) committed() {
	for _, o := range os {
		if s, ok := o.sink.(matrix.Sealer); ok {
			s.Committed()
		}
	}
}

// settling is a batch of finished tasks on its way to the outputs.
type settling struct {
	matrix.Settlement
	of     *shard
	sinks  outputs
	totals Totals // after the batch
	why    []string
	tasks  []*matrix.Task // loaded, and not yet written: the last of the batch
	bytes  int            // of these
	news   news           // for the parents of tasks that have ended
	failed string         // the last of the failed ones, with its cause

	kept, ended map[string]int64 // with a goal: tasks by kind
	met         bool             // and whether it is
}

// write has what was loaded judged, and writes it.
func (b *settling) write(ctx context.Context, goal *goal) error {
	if err := b.judge(ctx, goal); err != nil {
		return err
	}
	if err := b.tell(ctx); err != nil {
		return err
	}
	first := len(b.why)
	for i, t := range b.tasks {
		b.totals.add(t)
		b.why = append(b.why, t.Outcome.Cause)
		if t.Outcome.Status == matrix.Failed {
			b.failed = t.ID + ": " + t.Outcome.Cause
		}
		b.Fates[first+i] = matrix.Fate{Status: t.Outcome.Status, Part: -1} // where no output says otherwise
		b.sinks.add(first+i, t)
	}
	clear(b.tasks)
	b.tasks, b.bytes = b.tasks[:0], 0
	return b.sinks.write(ctx, &b.Settlement)
}

// checkpoint adds the checkpoints that go with the batch.
func (b *settling) checkpoint(goal *goal, all bool) (err error) {
	if b.Checkpoints[checkpointTotals], err = json.Marshal(b.totals); err != nil {
		return err
	}
	if goal != nil {
		m := goal.checkpoint(b, all)
		if b.met = m.Met; m.Met || m.Kept != nil {
			if b.Checkpoints[checkpointUntil], err = json.Marshal(m); err != nil {
				return err
			}
		}
	}
	if b.of.judge == nil {
		return nil
	}
	judged, err := b.of.judge.Checkpoint()
	if judged != nil {
		b.Checkpoints[CheckpointJudge] = judged
	}
	return err
}

// settle writes a batch of finished tasks and says how they ended.
func (r *Run) settle(ctx context.Context, of *shard, sinks outputs, ms []*matrix.Message) (matrix.Settlement, error) {
	b := settling{of: of, sinks: sinks, totals: r.shardTotals(of), kept: map[string]int64{}, ended: map[string]int64{}}
	b.Fates, b.Checkpoints = make([]matrix.Fate, len(ms)), map[string][]byte{}
	for _, m := range ms {
		k, err := r.worker.cache.load(ctx, m)
		if err != nil {
			return b.Settlement, err
		}
		if k.t.Outcome == nil && m.Role != sinkRole && r.met.Load() {
			k.t.Outcome = matrix.Drop(Surplus).Outcome
		}
		o := k.t.Outcome
		if o == nil || b.totals.of(o.Status) == nil {
			return b.Settlement, fmt.Errorf("task %s came to the sink without an outcome: the state is damaged", NameOf(m.Task))
		}
		r.asBegun(k.t)
		b.tasks = append(b.tasks, k.t)
		if b.bytes += k.size; b.bytes >= collectBytes {
			if err := b.write(ctx, r.goal); err != nil {
				return b.Settlement, err
			}
		}
	}
	if err := b.write(ctx, r.goal); err != nil {
		return b.Settlement, err
	}
	if err := b.checkpoint(r.goal, r.allKinds()); err != nil {
		return b.Settlement, err
	}
	b.append()
	b.Then = func() {
		sinks.committed()
		r.heard(of, &b.news)
		for _, m := range ms {
			delete(of.merging, m.Task) // of those that are dropped before all of their children have begun
		}
		r.settled(of, b.totals)
		if r.goal != nil {
			r.goal.settled(b.totals.Done, b.kept, b.ended)
		}
		if b.failed != "" {
			r.mu.Lock()
			r.failure = b.failed
			r.mu.Unlock()
		}
		for i, m := range ms {
			r.worker.notify(Event{Kind: TaskSettled, Task: NameOf(m.Task), Fate: b.Fates[i], Why: b.why[i]})
		}
		if of.judge != nil {
			if err := of.judge.Settled(ctx); err != nil {
				r.Halt(err)
			}
		}
		if b.met {
			r.reached()
		}
		r.moved()
	}
	return b.Settlement, nil
}
