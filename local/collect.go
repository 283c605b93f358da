package local

import (
	"context"
	"fmt"
	"slices"
	"time"

	"matrix"
)

// Collect implements matrix.Queue.
func (q *Queue) Collect(ctx context.Context, name string, most int, c matrix.Collector) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.active.Done()
	r := q.role(name)
	r.mu.Lock()
	timer := time.NewTimer(time.Duration(r.paced - now())) // an earlier Collect may have settled
	r.mu.Unlock()
	defer timer.Stop()
	stopping := matrix.Stopping(ctx)
	for {
		var batch []*entry
		draining := stopping.Err() != nil
		if draining {
			q.delays.over(r)
		}
		if ctx.Err() == nil && !q.down() {
			r.mu.Lock()
			r.enough = 1
			if now() < r.paced && !q.volatile() && !draining {
				r.enough = max(1, min(most, q.live.len()/withheld))
			}
			ready := r.waiting >= r.enough || q.handling.Load() == 0
			for ready && len(batch) < most {
				e := r.pop(now())
				if e == nil {
					break
				}
				batch = append(batch, e)
			}
			r.mu.Unlock()
		}
		if len(batch) > 0 {
			if err := q.settle(ctx, batch, c); err != nil {
				for _, e := range slices.Backward(batch) {
					r.wait(e, true, 0)
				}
				return err
			}
			r.mu.Lock()
			r.paced = now() + int64(settlePace)
			r.mu.Unlock()
			timer.Reset(settlePace)
			continue
		}
		if draining || ctx.Err() != nil {
			return nil
		}
		select {
		case <-timer.C:
		case <-stopping.Done():
		case <-ctx.Done():
		case <-q.done:
			q.mu.RLock()
			defer q.mu.RUnlock()
			return q.over()
		case <-r.wake:
		}
	}
}

// Pace of settling. A settlement syncs the output and the store; what it gives
// back is credit for new tasks.
const (
	settlePace = 100 * time.Millisecond // between two settlements, while handlers run
	withheld   = 64                     // but no more than this part of the live tasks waits
)

func (q *Queue) settle(ctx context.Context, batch []*entry, c matrix.Collector) error {
	ms := make([]*matrix.Message, len(batch))
	for i, e := range batch {
		ms[i] = new(matrix.Message)
		if err := q.message(ms[i], e); err != nil {
			return err
		}
	}
	s, err := c(ctx, ms)
	if err != nil {
		return err
	}
	if len(s.Fates) != len(batch) {
		return fmt.Errorf("collect %s: %d fates for %d messages", batch[0].role.name, len(s.Fates), len(batch))
	}
	return q.commit.settle(batch, s)
}

// appends are the steps of other tasks that go with a settlement. Those that are made
// ready are taken from where they wait.
func (q *Queue) appends(steps map[string]matrix.Step) (ops []op, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, o := range ops {
			if o.step.Role != "" {
				o.e.role.wait(o.e, true, 0)
			}
		}
	}()
	for id, s := range steps {
		if s.Role != "" {
			if err := s.Check(); err != nil {
				return ops, err
			}
		}
		if len(s.Children) > 0 {
			return ops, fmt.Errorf("append to %s: a step of a settlement has no children", id)
		}
		e, err := q.entry(id)
		if err != nil {
			return ops, err
		}
		if e == nil {
			continue
		}
		if s.Role != "" && !q.withdraw(e, anyHop) {
			return ops, fmt.Errorf("append to %s: it waits for no role, so that it cannot be made ready for %s", id, s.Role)
		}
		s.Sum = sum(s.Sum, s.Record)
		ops = append(ops, op{e: e, step: s})
	}
	return ops, nil
}
