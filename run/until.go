package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"matrix"
)

// Until is what a run is to come to. It ends once it has so many tasks that are done,
// and not one more: what is under way then is dropped, and no row is fed any more.
type Until struct {
	Kept int64

	// Per says of which kind a row is: there are to be so many of each. Rows of a kind
	// that has them are not fed. Nil: all are of one kind.
	Per func(item matrix.Value) (string, error)

	// Again has rows come again until then: after all rows' first trials all their
	// second ones come, and so on, Config.Trials of each at most.
	Again bool
}

// Surplus is the reason why tasks are dropped of which there are enough.
const Surplus = "surplus"

// maxKinds is how many kinds of rows an Until may have: what is kept of each is committed with
// each batch of tasks.
const maxKinds = 10_000

// GoalMissed is what a run ends with that has come to the end of its rows before it had
// what Until says.
type GoalMissed struct {
	Kept, Goal int64      // of Until.Per: of all kinds that were seen
	Settled    int64      // tasks
	Short      []KindKept // with Per: the kinds that have not enough, at most 10, those first that lack most
	Kinds      int        // of these, in all
	Again      bool       // rows have come as often as they may
}

// KindKept is how many tasks of a kind are kept.
type KindKept struct {
	Kind string
	Kept int64
}

func (e *GoalMissed) Error() string {
	rate := "no task came to an end"
	if e.Settled > 0 {
		rate = fmt.Sprintf("%.3g%% of %d tasks", 100*float64(e.Kept)/float64(e.Settled), e.Settled)
	}
	why := "there are no more rows"
	if e.Again {
		why = "no row may come again"
	}
	s := fmt.Sprintf("until: %d of %d are kept, which is %s, and %s", e.Kept, e.Goal, rate, why)
	if len(e.Short) > 0 {
		var some []string
		for _, k := range e.Short {
			some = append(some, fmt.Sprintf("%q has %d", k.Kind, k.Kept))
		}
		if more := e.Kinds - len(e.Short); more > 0 {
			some = append(some, fmt.Sprintf("and %d more", more))
		}
		s += "; until.per: " + strings.Join(some, ", ")
	}
	return s
}

// untilCheckpoint is how far a run is on its way to Until. It is committed with what
// it counts.
type untilCheckpoint struct {
	Met  bool             `json:"met"`
	Kept map[string]int64 `json:"kept,omitempty"` // with Per
}

// goal is an Until with how far it is.
type goal struct {
	Until

	mu   sync.Mutex
	done int64            // tasks kept
	kept map[string]int64 // with Per: of each kind of which a task was fed, in this session or before
	live map[string]int64 // with Per: tasks under way
}

// kind is that of a row.
func (g *goal) kind(item matrix.Value) (string, error) {
	if g == nil || g.Per == nil {
		return "", nil
	}
	return g.Per(item)
}

// knows reports whether a task that is done counts for a kind: one that rows have. What
// tasks become may be of others, where Per looks at what they have beside their row.
func (g *goal) knows(kind string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, known := g.kept[kind]
	return known || g.Per == nil
}

// left is how many more are to be kept of a kind.
func (g *goal) left(kind string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Per == nil {
		return max(0, g.Kept-g.done)
	}
	return max(0, g.Kept-g.kept[kind])
}

// begin notes that a task of a kind is under way.
func (g *goal) begin(kind string) error {
	if g == nil || g.Per == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.kept[kind]; !known {
		if len(g.kept) >= maxKinds {
			return fmt.Errorf("until.per has more than %d values, the last of them %.100q: it is to tell kinds of rows", maxKinds, kind)
		}
		g.kept[kind] = 0
	}
	g.live[kind]++
	return nil
}

// enough reports whether all kinds have what they should, of which add are settled now.
// all says that no row of another kind can come.
func (g *goal) enough(done int64, add map[string]int64, all bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Per == nil {
		return done >= g.Kept
	}
	if !all || len(g.kept) == 0 {
		return false
	}
	for kind, n := range g.kept {
		if n+add[kind] < g.Kept {
			return false
		}
	}
	return true
}

// checkpoint is how far the run is after a batch.
func (g *goal) checkpoint(b *settling, all bool) untilCheckpoint {
	m := untilCheckpoint{Met: g.enough(b.totals.Done, b.kept, all)}
	if g.Per == nil {
		return m
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m.Kept = make(map[string]int64, len(g.kept))
	for kind, n := range g.kept {
		m.Kept[kind] = n + b.kept[kind]
	}
	return m
}

// settled notes what was committed: of each kind how many were kept, and how many of those have
// ended that were fed.
func (g *goal) settled(done int64, kept, ended map[string]int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = done
	if g.Per == nil {
		return
	}
	for kind, n := range kept {
		g.kept[kind] += n
	}
	for kind, n := range ended {
		g.live[kind] = max(0, g.live[kind]-n)
	}
}

// aim reads how far the run is on its way to Config.Until.
func (r *Run) aim(ctx context.Context) error {
	u := r.cfg.Until
	if u == nil {
		r.met.Store(false)
		return nil
	}
	switch {
	case u.Kept < 1:
		return fmt.Errorf("run: until %d tasks are kept: want at least 1", u.Kept)
	case len(r.shards) > 1:
		return errors.New("run: Until needs one order of settling, so one shard")
	}
	if _, grows := r.cfg.Source.(matrix.Grower); grows && u.Again {
		return errors.New("run: rows cannot come again (Until.Again) of a dataset that grows")
	}
	if r.fed.Tasks > 0 && r.fed.Again != u.Again {
		return errors.New("run: whether rows come again (Until.Again) cannot change within a run: use the old value, or start over")
	}
	r.fed.Again = u.Again
	var m untilCheckpoint
	if err := readCheckpoint(ctx, r.leader(), checkpointUntil, &m); err != nil {
		return err
	}
	g := &goal{Until: *u, done: r.shards[0].totals.Done, kept: map[string]int64{}, live: map[string]int64{}}
	maps.Copy(g.kept, m.Kept)
	r.goal = g
	if u.Per != nil {
		if err := r.findKinds(ctx); err != nil {
			return err
		}
	}
	if u.Again && r.fed.AllFed && r.fed.Pass+1 < r.cfg.Trials { // they may come more often now
		r.fed.AllFed, r.fed.Pass, r.fed.Next = false, r.fed.Pass+1, matrix.Position{}
		r.allFed.Store(false)
		r.total.Store(-1)
	}
	r.met.Store(g.enough(g.done, nil, r.allKinds()))
	r.metWas = m.Met
	return nil
}

// allKinds reports whether every row has been seen.
func (r *Run) allKinds() bool { return r.allFed.Load() || r.pass.Load() > 0 }

// findKinds finds the kinds of the rows that are under way.
func (r *Run) findKinds(ctx context.Context) error {
	if r.shards[0].Store.Counts().Live == 0 {
		return nil
	}
	ledger := r.ledger()
	return ledger.Live(ctx, func(id string) error {
		m, ok, err := ledger.Peek(ctx, id)
		if err != nil || !ok {
			return err
		}
		log, err := m.Log(ctx, 0)
		if err != nil {
			return err
		}
		t, err := Decode(id, log)
		if err != nil {
			return err
		}
		if t.Parent != "" {
			return nil
		}
		if kind, err := r.goal.kind(t.Item); err == nil {
			return r.goal.begin(kind)
		}
		return nil
	})
}

// beginGoal commits whether the goal is met, where that has changed with the config.
func (r *Run) beginGoal(ctx context.Context) error {
	if r.goal == nil || r.met.Load() == r.metWas {
		return nil
	}
	b, err := json.Marshal(untilCheckpoint{Met: r.met.Load(), Kept: r.goal.kept})
	if err == nil {
		_, err = r.leader().Seed(ctx, nil, map[string][]byte{checkpointUntil: b})
	}
	return err
}

// Met reports whether there is enough (Config.Until): what is still under way is dropped.
func (r *Run) Met() bool { return r.met.Load() }

// reached ends all that is under way: there is enough.
func (r *Run) reached() {
	if r.met.Swap(true) {
		return
	}
	r.mu.Lock()
	end := r.endSteps
	r.mu.Unlock()
	r.quit()
	if end != nil {
		end()
	}
}

// wanted is how many more tasks of a kind may be under way: on the way to a goal no more than
// are likely to be kept of what is left. batch is how many are about to begin beside those
// that live.
//
// How many are likely to be kept tell those that have ended, and those under way as if all of them
// were kept: tasks that are dropped often end sooner than the others, and of the first alone it
// would seem that hardly any is kept. So what is under way is as many as are left in the beginning,
// and more by what was dropped, the more the more have ended.
func (r *Run) wanted(kind string, batch int) int {
	if r.goal == nil {
		return math.MaxInt
	}
	r.mu.Lock()
	t := &r.shards[0].totals // there is one shard
	kept, ended := t.Done, t.Settled()-t.Expanded-t.Reasons[Surplus].Count
	r.mu.Unlock()
	k, e, left := float64(kept+1), float64(max(ended, kept)+1), float64(r.goal.left(kind))
	if r.goal.Per == nil { // n under way, where n (k+n)/(e+n) is what is left
		n := (left - k + math.Sqrt((left-k)*(left-k)+4*left*e)) / 2
		return int(math.Ceil(math.Min(n, math.MaxInt32))) - r.live() - batch
	}
	live := float64(r.live() + batch)
	n := math.Ceil(math.Min(left*(e+live)/(k+live), math.MaxInt32))
	r.goal.mu.Lock()
	defer r.goal.mu.Unlock()
	return int(n) - int(r.goal.live[kind])
}

// full reports whether there is enough of a kind.
func (r *Run) full(kind string) bool { return r.goal != nil && r.goal.left(kind) == 0 }

// count notes how a task ended, for the goal.
func (b *settling) count(t *matrix.Task, goal *goal) {
	if goal == nil {
		return
	}
	kind, err := goal.kind(t.Item)
	if err != nil { // no row of this kind was fed: it has failed
		return
	}
	if t.Parent == "" {
		b.ended[kind]++
	}
	if t.Outcome.Status == matrix.Done && goal.knows(kind) {
		b.kept[kind]++
	}
}

// enough reports whether there is enough of the kind of t, with what goes before it in
// the batch.
func (b *settling) enough(t *matrix.Task, goal *goal) (bool, error) {
	if goal == nil {
		return false, nil
	}
	kind, err := goal.kind(t.Item)
	return err == nil && goal.left(kind) <= b.kept[kind], err
}

// sweep drops the tasks of a shard that are under way though there is enough. Nothing
// acts on them any more.
func (r *Run) sweep(ctx context.Context, s *shard, sinks outputs) error {
	for was := -1; ; {
		live := r.live()
		if live == 0 || live == was { // what cannot be dropped is pending
			return nil
		}
		was = live
		roles := slices.Collect(maps.Keys(r.worker.roles))
		for role := range s.Store.Counts().Waiting {
			if role != waitRole && !slices.Contains(roles, role) { // who waits for children goes on when these are dropped
				roles = append(roles, role)
			}
		}
		slices.Sort(roles)
		for _, role := range roles {
			err := s.Store.Collect(ctx, role, collectBatch, func(ctx context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				return r.settle(context.WithoutCancel(ctx), s, sinks, ms)
			})
			if err != nil {
				return err
			}
		}
	}
}

// goalProgress adds how far the run is on its way to Until.
func (r *Run) goalProgress(p *Progress) {
	p.Unused = r.unused.Load()
	if r.goal == nil {
		return
	}
	p.Goal, p.Met = r.goal.Kept, r.met.Load()
	if r.goal.Per != nil {
		r.goal.mu.Lock()
		p.Goal *= max(1, int64(len(r.goal.kept)))
		r.goal.mu.Unlock()
	}
	switch {
	case r.goal.Again && !r.allFed.Load() && (!p.Met || r.pass.Load() > 0):
		if p.Total = -1; p.Met {
			p.Total = p.Fed + p.Unused
		}
	case p.Met && p.Total >= 0: // how many rows there are
		p.Unused = max(p.Unused, p.Total-p.Fed)
	}
}

// Missed says how far a run that has come to the end of its rows is from what Until says;
// nil where it is not over, or has it.
func (r *Run) Missed() error {
	g := r.goal
	if g == nil || r.met.Load() || !r.Finished() {
		return nil
	}
	t := r.Totals()
	e := &GoalMissed{Kept: t.Done, Goal: g.Kept, Settled: t.Settled(), Again: g.Again}
	if g.Per != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		e.Goal = g.Kept * int64(len(g.kept))
		for kind, n := range g.kept {
			if n < g.Kept {
				e.Short = append(e.Short, KindKept{kind, n})
			}
		}
		if e.Kinds = len(e.Short); e.Kinds == 0 && len(g.kept) > 0 {
			return nil
		}
		slices.SortFunc(e.Short, func(a, b KindKept) int { return cmp.Or(cmp.Compare(a.Kept, b.Kept), cmp.Compare(a.Kind, b.Kind)) })
		e.Short = e.Short[:min(10, len(e.Short))]
	}
	return e
}
