package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"matrix"
)

// Retry has failed tasks tried again, each at the turn that failed, with the good
// turns before it. Rows that could not be made tasks stay as they are.
type Retry struct {
	// Begin goes through all tasks that have failed so far. Without it a retry
	// that was begun in an earlier session, and not ended, goes on.
	Begin bool
	// Select says which tasks are tried again; nil for all but those that the
	// flow itself fails.
	Select func(t *matrix.Task) (bool, error)
	// Where is what Select was made of: it is kept for the sessions after this
	// one, which find it by RetryOf.
	Where string
}

// retryCheckpoint says that a retry is under way. It is committed with the checkpoint of the
// failed output, which says how far it has come.
type retryCheckpoint struct {
	On    bool   `json:"on"`
	Where string `json:"where,omitempty"`
	N     int    `json:"n,omitempty"` // counts the retries of a run of several shards
}

// RetryOf reports whether the run in these shards has a retry under way, and of what:
// also where the first shard has been told of one that others have not begun.
func RetryOf[M Checkpoints](ctx context.Context, shards ...M) (where string, ok bool, err error) {
	var all retryCheckpoint
	if err := readCheckpoint(ctx, shards[0], checkpointRetries, &all); err != nil {
		return "", false, err
	}
	for _, s := range shards {
		var m retryCheckpoint
		switch err := readCheckpoint(ctx, s, checkpointRetry, &m); {
		case err != nil || m.On:
			return m.Where, m.On, err
		case m.N < all.N:
			return all.Where, true, nil
		}
	}
	return "", false, nil
}

// Retried counts what a retry came to in this session.
type Retried struct {
	Tasks int64 `json:"tasks"` // tried again
	Flow  int64 `json:"flow"`  // left, because the flow itself had failed them
	Rows  int64 `json:"rows"`  // left, because their rows cannot be made tasks
	Other int64 `json:"other"` // left, because Select does not hold, or their role is gone
	Told  int64 `json:"told"`  // left, because a task that waited for them has been told that they failed
}

// announceRetry tells the first shard of a retry that all are to begin, so that a
// crash before some have done so does not end it for them.
func (r *Run) announceRetry(ctx context.Context) error {
	if !r.cfg.Retry.Begin || len(r.shards) == 1 {
		return nil
	}
	r.retries++
	all, err := json.Marshal(retryCheckpoint{Where: r.cfg.Retry.Where, N: r.retries})
	if err == nil {
		_, err = r.leader().Seed(ctx, nil, map[string][]byte{checkpointRetries: all})
	}
	return err
}

// beginRetry has the failed output of a shard gone through, where that is to begin
// now.
func (r *Run) beginRetry(ctx context.Context, s *shard, sink matrix.Reviser) error {
	if err := r.announced(); err != nil {
		return err
	}
	if !r.cfg.Retry.Begin && s.retries == r.retries {
		return nil
	}
	at, err := sink.Revise()
	if err != nil {
		return err
	}
	on, err := json.Marshal(retryCheckpoint{On: true, Where: r.cfg.Retry.Where, N: r.retries})
	if err != nil {
		return err
	}
	_, err = s.Store.Seed(ctx, nil, map[string][]byte{sinkCheckpoint(matrix.Failed): at, checkpointRetry: on})
	return err
}

// retry goes through failed tasks while there is credit. It reports whether it has
// gone through all.
func (r *Run) retry(ctx context.Context, s *shard, sink matrix.Reviser) (over bool, err error) {
	for {
		n, err := r.reviveSome(ctx, s, sink)
		switch {
		case err != nil:
			return false, err
		case n < 0:
			return false, nil
		case n > 0:
			continue
		}
		// Once that is committed Next removes what has been gone through, and
		// only then is there nothing to come back for.
		if _, err := sink.Next(1, feedBytes); err != nil {
			return false, err
		}
		return true, r.revive(ctx, s, sink, nil, true)
	}
}

// reviveSome goes through as many failed tasks as there is credit for, and
// returns how many; -1 where there is none.
func (r *Run) reviveSome(ctx context.Context, s *shard, sink matrix.Reviser) (int, error) {
	r.reviving.Lock() // the credit is that of all shards
	defer r.reviving.Unlock()
	room := min(feedBatch, r.free())
	if room <= 0 {
		return -1, nil
	}
	tasks, err := sink.Next(room, feedBytes)
	if err != nil {
		return 0, err
	}
	return len(tasks), r.revive(ctx, s, sink, tasks, false)
}

// revive brings those of tasks back that are to be tried again, and writes the
// others to the failed output as they are. over ends the retry.
func (r *Run) revive(ctx context.Context, of *shard, s matrix.Reviser, tasks []*matrix.Task, over bool) error {
	totals := r.shardTotals(of)
	count := of.retried // changed here alone
	var seeds []matrix.Seed
	var stay []*matrix.Task
	for _, t := range tasks {
		seed, ok, err := r.retrySeed(t, &totals, &count)
		if err != nil {
			return err
		}
		if ok {
			seeds = append(seeds, seed)
		} else {
			stay = append(stay, t)
		}
	}
	places, checkpoint, err := s.Write(ctx, stay)
	if err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	moved := make(map[string]matrix.Place, len(stay))
	for i, p := range places {
		moved[KeyOf(stay[i])] = p
	}
	checkpoints := map[string][]byte{sinkCheckpoint(matrix.Failed): checkpoint}
	if checkpoints[checkpointTotals], err = json.Marshal(totals); err != nil {
		return err
	}
	if over {
		if checkpoints[checkpointRetry], err = json.Marshal(retryCheckpoint{N: r.retries}); err != nil {
			return err
		}
	}
	n, err := of.Store.Revive(ctx, seeds, moved, checkpoints)
	if err != nil {
		return err
	}
	if n != len(seeds) {
		return fmt.Errorf("%w: %d of %d tasks that stand in the failed output have not failed by the ledger", ErrDamaged, len(seeds)-n, len(seeds))
	}
	r.settled(of, totals)
	r.mu.Lock()
	of.retried = count
	r.mu.Unlock()
	r.notifyFed(seeds)
	return nil
}

func (c *Retried) plus(o Retried) {
	c.Tasks += o.Tasks
	c.Flow += o.Flow
	c.Rows += o.Rows
	c.Other += o.Other
	c.Told += o.Told
}

// checkRetry begins or goes on with a retry, where failed tasks are to be tried
// again.
func (r *Run) checkRetry() error {
	if r.cfg.Retry == nil && r.retrying() {
		return errors.New("run: failed tasks were being tried again when it stopped, and that is to go on: see Config.Retry")
	}
	if r.cfg.Retry != nil && r.cfg.Retry.Begin && r.met.Load() && r.Totals().Failed > 0 {
		return errors.New("run: there is enough (Until): no failed task is tried again unless more are to be kept")
	}
	if r.cfg.Retry != nil && r.cfg.Retry.Begin && r.Totals().Failed > 0 {
		for _, s := range r.shards {
			s.retrying.Store(true)
		}
	}
	if !r.retrying() {
		close(r.retriedAll)
	}
	return nil
}

// retrySeed makes the seed of a failed task that is to be tried again, and takes out
// of totals what will be counted again.
func (r *Run) retrySeed(t *matrix.Task, totals *Totals, count *Retried) (s matrix.Seed, ok bool, err error) {
	fault := FaultOf(t)
	pick := fault != matrix.FaultFlow
	if r.cfg.Retry.Select != nil {
		if pick, err = r.cfg.Retry.Select(t); err != nil {
			return s, false, fmt.Errorf("retry: task %s: %w", t.ID, err)
		}
	}
	switch {
	case fault == matrix.FaultRow:
		count.Rows++
		return s, false, nil
	case t.Waited:
		count.Told++
		return s, false, nil
	case !pick && fault == matrix.FaultFlow:
		count.Flow++
		return s, false, nil
	case !pick:
		count.Other++
		return s, false, nil
	}
	x := *t
	x.Outcome, x.Metrics, x.Hop, x.Fed = nil, nil, 0, time.Now()
	var d matrix.Decision
	last := t.Last()
	switch {
	case last == nil || last.Hop == 0: // it could not begin
		x.Turns = nil
		d = r.worker.start(&x)
	case fault == matrix.FaultLimit || fault == matrix.FaultRouter: // its turns are good
		d = r.worker.after(&x)
	default:
		if r.worker.roles[last.Role] == nil {
			count.Other++
			return s, false, nil
		}
		x.Turns = t.Turns[:len(t.Turns)-1]
		d = matrix.To(last.Role)
	}
	for i := range x.Turns {
		x.Hop = max(x.Hop, x.Turns[i].Hop)
	}
	if len(x.Turns) > 0 && !x.Turns[0].Timing.At.IsZero() {
		x.Fed = x.Turns[0].Timing.At
	}
	totals.subtract(t, &x)
	count.Tasks++
	return r.seedOf(&x, d), true, nil
}

// FaultOf says what made a failed task fail, also of one that a version wrote
// that did not say so.
func FaultOf(t *matrix.Task) matrix.Fault {
	o, last := t.Outcome, t.Last()
	switch {
	case o == nil:
		return ""
	case o.Fault != "":
		return o.Fault
	case last == nil:
		return matrix.FaultRow
	case last.Error != "" && strings.HasPrefix(o.Cause, last.Role+": "):
		return matrix.FaultStep
	case strings.HasPrefix(o.Cause, "limit: "):
		return matrix.FaultLimit
	}
	return matrix.FaultFlow
}
