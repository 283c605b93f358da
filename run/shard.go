package run

import (
	"context"
	"errors"
	"hash/fnv"
	"strconv"
	"strings"
	"sync/atomic"

	"matrix"
)

// Shard is where a part of the tasks is kept and written. All that must be exact
// is within one: tasks, fates, the checkpoints of its outputs, its totals. The first one
// also has the checkpoints of the run as a whole.
type Shard struct {
	Store Store
	// Outputs are for the tasks of each end (matrix.Ends). Done and Failed must be
	// there; of an end that has none the ledger alone knows its tasks.
	Outputs map[matrix.Status]OpenSink
	// With Tail New refuses outputs that do not hold what their checkpoints say, and
	// finished tasks that the ledger does not know of. Nil leaves that unchecked.
	Tail TailFunc
}

// Store is the queue and the ledger of a shard.
type Store interface {
	matrix.Queue
	matrix.Ledger
}

// ShardOf says which of so many shards a task of a run belongs to. The trials of
// a row and their children are in one, and so is each row whose id is the name of such a trial: that
// no two rows have a task in common can be seen there.
func ShardOf(task string, trials, shards int) int {
	if shards < 2 {
		return 0
	}
	if c, ok := childOf(task); ok {
		task = c.row
	}
	for {
		i := strings.LastIndexByte(task, '#')
		n, err := strconv.Atoi(task[i+1:])
		if i < 0 || err != nil || n < 1 || n >= trials || matrix.TaskID(task[:i], n) != task {
			break
		}
		task = task[:i]
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(task))
	return int(h.Sum64() % uint64(shards))
}

// shard is one of a run's.
type shard struct {
	Shard

	finished atomic.Int64 // tasks that have ended
	rooted   atomic.Int64 // of these, the tasks of rows
	retrying atomic.Bool
	retries  int     // of the run, of which the shard has begun the last; as it was opened
	judge    Judge   // nil: none; in the hands of Settle
	merging  merging // in the hands of Settle

	// Guarded by Run.mu.
	totals  Totals  // as the ledger has them
	retried Retried // in this session
}

// count takes over how many tasks have ended from the totals. Run.mu is held, or nobody
// else has the shard.
func (s *shard) count() {
	n := s.totals.Settled()
	s.finished.Store(n)
	s.rooted.Store(n - s.totals.Children)
}

// Ledgers are the ledgers of a run's shards, read as one. Checkpoints are those of the
// first, which has the checkpoints of the run.
func Ledgers(trials int, shards ...matrix.Ledger) matrix.Ledger {
	if len(shards) == 1 {
		return shards[0]
	}
	return &ledgers{trials, shards}
}

type ledgers struct {
	trials int
	shards []matrix.Ledger
}

func (l *ledgers) of(task string) int { return ShardOf(task, l.trials, len(l.shards)) }

func (l *ledgers) Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error) {
	fates := make([]matrix.Fate, len(ids))
	theirs, at := make([][]string, len(l.shards)), make([][]int, len(l.shards))
	for i, id := range ids {
		k := l.of(id)
		theirs[k], at[k] = append(theirs[k], id), append(at[k], i)
	}
	for k, ids := range theirs {
		if len(ids) == 0 {
			continue
		}
		found, err := l.shards[k].Lookup(ctx, ids...)
		if err != nil {
			return nil, err
		}
		for i, f := range found {
			fates[at[k][i]] = f
		}
	}
	return fates, nil
}

func (l *ledgers) Peek(ctx context.Context, id string) (*matrix.Message, bool, error) {
	return l.shards[l.of(id)].Peek(ctx, id)
}

func (l *ledgers) Walk(ctx context.Context, f func(id string, fate matrix.Fate) error) error {
	for _, s := range l.shards {
		if err := s.Walk(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledgers) Live(ctx context.Context, f func(id string) error) error {
	for _, s := range l.shards {
		if err := s.Live(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledgers) Checkpoint(ctx context.Context, name string) ([]byte, error) {
	return l.shards[0].Checkpoint(ctx, name)
}

func (l *ledgers) Counts() matrix.Counts {
	sum := matrix.Counts{Waiting: map[string]int{}}
	for _, s := range l.shards {
		c := s.Counts()
		sum.Live += c.Live
		for role, n := range c.Waiting {
			sum.Waiting[role] += n
		}
	}
	return sum
}

// ledger is what all shards of the run know.
func (r *Run) ledger() matrix.Ledger {
	all := make([]matrix.Ledger, len(r.shards))
	for i, s := range r.shards {
		all[i] = s.Store
	}
	return Ledgers(r.cfg.Trials, all...)
}

// leader is the store with the checkpoints of the run.
func (r *Run) leader() Store { return r.shards[0].Store }

// Finished reports whether the run whose shards these are has fed and settled
// every row.
func Finished(ctx context.Context, shards ...Store) (bool, error) {
	if len(shards) == 0 {
		return false, errors.New("run: no shards")
	}
	r := &Run{}
	for _, s := range shards {
		r.shards = append(r.shards, &shard{Shard: Shard{Store: s}})
	}
	err := r.restore(ctx)
	return r.Finished(), err
}
