package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"matrix"
)

const (
	collectBatch = 1024     // tasks settled in one commit, at most
	collectBytes = 16 << 20 // of tasks in memory at once, but for a single larger one
)

// collect writes finished tasks until ctx ends, and calls finished when the last
// one is settled. First the sinks make them durable, then the ledger says so:
// what a crash leaves between the two is cut off when the sinks are opened, and
// written again.
//
// It also brings failed tasks back that are to be tried again, until soft ends.
func (r *Run) collect(ctx, soft context.Context, finished func()) (err error) {
	sinks, err := r.openSinks(ctx)
	defer func() { err = errors.Join(err, sinks.close()) }()
	if err != nil {
		return err
	}
	collect := func(ctx context.Context, settled func()) error {
		return r.store.Collect(ctx, sinkRole, collectBatch, func(ctx context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			s, err := r.settle(context.WithoutCancel(ctx), sinks, ms, finished)
			if then := s.Then; then != nil {
				s.Then = func() { then(); settled() }
			}
			return s, err
		})
	}
	if r.retrying.Load() {
		if err := r.retryAll(ctx, soft, sinks, collect); err != nil {
			return err
		}
		if r.Finished() {
			finished()
		}
	}
	return collect(ctx, func() {})
}

// retryAll brings failed tasks back as there is credit, and collects meanwhile.
// It returns once it has gone through all, or when soft has ended. Who writes the
// outputs does so, since it rewrites one of them.
func (r *Run) retryAll(ctx, soft context.Context, sinks outputs, collect func(context.Context, func()) error) error {
	failed := sinks.of(matrix.Failed)
	if err := r.beginRetry(ctx, failed); err != nil {
		return err
	}
	for soft.Err() == nil && ctx.Err() == nil {
		over, err := r.retry(context.WithoutCancel(ctx), failed)
		if err != nil {
			return err
		}
		if over {
			r.retrying.Store(false)
			close(r.retriedAll)
			return nil
		}
		until, settled := context.WithCancel(ctx) // there is room
		stop := context.AfterFunc(soft, settled)
		err = collect(until, settled)
		stop()
		settled()
		if err != nil {
			return err
		}
	}
	return nil
}

// output is a sink and the name of its mark, with what is to be written next.
type output struct {
	status matrix.Status
	name   string
	sink   matrix.Sink
	tasks  []*matrix.Task
	index  []int // of the tasks in the batch
}

type outputs []*output

func (r *Run) openSinks(ctx context.Context) (os outputs, err error) {
	for _, o := range []struct {
		status matrix.Status
		open   OpenSink
	}{{matrix.Done, r.cfg.Done}, {matrix.Failed, r.cfg.Failed}} {
		name := sinkMark(o.status)
		mark, err := r.store.Mark(ctx, name)
		if err != nil {
			return os, err
		}
		sink, err := o.open(mark)
		if err != nil {
			return os, fmt.Errorf("open the output: %w", err)
		}
		os = append(os, &output{status: o.status, name: name, sink: sink})
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
		places, mark, err := o.sink.Write(ctx, o.tasks)
		if err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
		for j, p := range places {
			s.Fates[o.index[j]] = matrix.Fate{Status: o.status, Part: p.Part, Line: p.Line}
		}
		s.Marks[o.name] = mark
		clear(o.tasks)
		o.tasks, o.index = o.tasks[:0], o.index[:0]
	}
	return nil
}

// settle writes a batch of finished tasks and says how they ended.
func (r *Run) settle(ctx context.Context, sinks outputs, ms []*matrix.Message, finished func()) (matrix.Settlement, error) {
	s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms)), Marks: map[string][]byte{}}
	totals := r.Totals()
	failure, bytes := "", 0
	why := make([]string, len(ms))
	for i, m := range ms {
		k, err := r.cache.load(ctx, m)
		if err != nil {
			return s, err
		}
		t := k.t
		if t.Outcome == nil {
			return s, fmt.Errorf("task %s came to the sink without an outcome: the state is damaged", t.ID)
		}
		if t.Outcome.Status == matrix.Failed {
			failure, why[i] = t.ID+": "+t.Outcome.Cause, t.Outcome.Cause
		}
		totals.add(t)
		sinks.add(i, t)
		if bytes += k.size; bytes >= collectBytes {
			if err := sinks.write(ctx, &s); err != nil {
				return s, err
			}
			bytes = 0
		}
	}
	err := sinks.write(ctx, &s)
	if err != nil {
		return s, err
	}
	if s.Marks[markTotals], err = json.Marshal(totals); err != nil {
		return s, err
	}
	s.Then = func() {
		r.settled(totals)
		if failure != "" {
			r.mu.Lock()
			r.failure = failure
			r.mu.Unlock()
		}
		for i, m := range ms {
			r.tell(Event{Kind: TaskSettled, Task: m.Task, Fate: s.Fates[i], Why: why[i]})
		}
		select {
		case r.credit <- struct{}{}:
		default:
		}
		if r.Finished() {
			finished()
		}
	}
	return s, nil
}

// drain waits until what has reached the sink is written.
func (r *Run) drain(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for r.store.Counts().Waiting[sinkRole] > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
