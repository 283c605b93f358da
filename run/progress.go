package run

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"matrix"
)

// Totals is what the ledger knows of all settled tasks. It is committed with
// what it counts.
type Totals struct {
	Done     int64                `json:"done"` // finished and kept
	Dropped  int64                `json:"dropped"`
	Expanded int64                `json:"expanded"`
	Failed   int64                `json:"failed"`
	Children int64                `json:"children,omitempty"` // of all these, tasks that others became
	Born     int64                `json:"born,omitempty"`     // tasks that all these became
	Hops     int64                `json:"hops"`
	Seconds  float64              `json:"seconds"` // of work, over all sessions
	Metrics  map[string]MetricSum `json:"metrics"`
	Usage    map[string]Usage     `json:"usage"`
	Causes   Causes               `json:"causes,omitempty"`  // of failed tasks
	Reasons  Causes               `json:"reasons,omitempty"` // of dropped tasks
	// Faults counts failed tasks by what made them fail; those that a version before
	// this counted are in Failed alone.
	Faults map[matrix.Fault]int64 `json:"faults,omitempty"`
}

// Settled counts the tasks that have ended.
func (t *Totals) Settled() int64 { return t.Done + t.Dropped + t.Expanded + t.Failed }

// of is where the tasks of a status are counted; nil of no status of theirs.
func (t *Totals) of(s matrix.Status) *int64 {
	switch s {
	case matrix.Done:
		return &t.Done
	case matrix.Dropped:
		return &t.Dropped
	case matrix.Expanded:
		return &t.Expanded
	case matrix.Failed:
		return &t.Failed
	}
	return nil
}

// Retryable counts the failed tasks that a Retry without Select tries again.
func (t *Totals) Retryable() int64 {
	return t.Failed - t.Faults[matrix.FaultFlow] - t.Faults[matrix.FaultRow]
}

// MetricSum sums a metric over the tasks that it speaks of.
type MetricSum struct {
	Count int64    `json:"count"`
	Sum   float64  `json:"sum"`
	Mean  *float64 `json:"mean"` // nil of no task
}

// maxNames is how many names of calls are counted apart, and maxName how many bytes one
// may have: agents report what names they like, and the totals are committed with
// each task. All others are counted under "".
const (
	maxNames = 100
	maxName  = 240
)

// Usage is what settled tasks have cost at one model.
type Usage struct {
	Calls   int64 `json:"calls"`
	Reused  int64 `json:"reused,omitempty"` // of them, that another run had paid for
	Retries int64 `json:"retries"`
	matrix.Tokens
	Estimated int64   `json:"estimated,omitempty"` // calls whose tokens are an estimate, because the service did not count
	USD       float64 `json:"usd,omitempty"`
}

// Reused counts the calls whose replies another run had paid for, and all calls.
func (t *Totals) Reused() (reused, calls int64) {
	for _, u := range t.Usage {
		reused += u.Reused
		calls += u.Calls
	}
	return reused, calls
}

// clone copies the maps too. Those of metrics and usage are never nil.
func (t Totals) clone() Totals {
	t.Metrics, t.Usage = maps.Collect(maps.All(t.Metrics)), maps.Collect(maps.All(t.Usage))
	t.Causes, t.Reasons, t.Faults = maps.Clone(t.Causes), maps.Clone(t.Reasons), maps.Clone(t.Faults)
	return t
}

// FailedBy lists the kinds of causes of failed tasks, the most frequent first.
// Those of no known kind come last, with an empty cause.
func (t *Totals) FailedBy() []CauseCount { return t.Causes.List(t.Failed) }

// DroppedBy lists the kinds of reasons of dropped tasks, likewise.
func (t *Totals) DroppedBy() []CauseCount { return t.Reasons.List(t.Dropped) }

func (t *Totals) add(x *matrix.Task) {
	*t.of(x.Outcome.Status)++
	switch x.Outcome.Status {
	case matrix.Dropped:
		if t.Reasons == nil {
			t.Reasons = Causes{}
		}
		t.Reasons.Add(x)
	case matrix.Failed:
		if t.Causes == nil {
			t.Causes = Causes{}
		}
		t.Causes.Add(x)
		t.blame(FaultOf(x), 1)
	}
	t.related(x, 1)
	t.Hops += int64(x.Hop)
	for name, v := range x.Metrics {
		m := t.Metrics[name]
		if v != nil {
			m.Count++
			m.Sum = max(-math.MaxFloat64, min(math.MaxFloat64, m.Sum+*v))
			m.Mean = new(m.Sum / float64(m.Count))
		}
		t.Metrics[name] = m
	}
	t.pay(x, 1)
}

// subtract takes from the totals what will be counted again of a failed task that
// is tried again, and is then as kept says. What the turns cost that it does not
// keep stays spent.
func (t *Totals) subtract(x, kept *matrix.Task) {
	t.Failed--
	t.Causes.subtract(x)
	if f := FaultOf(x); t.Faults[f] > 0 {
		t.blame(f, -1)
	}
	t.related(x, -1)
	t.Hops -= int64(kept.Hop)
	t.pay(kept, -1)
}

// related counts x among the children, and its own, n times.
func (t *Totals) related(x *matrix.Task, n int64) {
	if x.Depth() > 0 {
		t.Children += n
	}
	t.Born += n * int64(x.Expanded)
}

// blame counts n failed tasks more that f made fail.
func (t *Totals) blame(f matrix.Fault, n int64) {
	if t.Faults == nil {
		t.Faults = map[matrix.Fault]int64{}
	}
	t.Faults[f] += n
}

// pay adds what the calls of x have cost, sign times.
func (t *Totals) pay(x *matrix.Task, sign int) {
	for c := range x.Calls() {
		name := c.Name
		if _, ok := t.Usage[name]; !ok && (len(t.Usage) >= maxNames || len(name) > maxName) {
			name = ""
		}
		u := t.Usage[name]
		u.Calls += int64(sign)
		if c.Reused != nil {
			u.Reused += int64(sign)
		}
		u.Retries += int64(sign * c.Retries)
		u.Tokens.Add(c.Tokens, sign)
		if c.Estimated {
			u.Estimated += int64(sign)
		}
		u.USD = max(0, u.USD+float64(sign)*c.USD)
		t.Usage[name] = u
	}
}

// plus adds what another shard has counted.
func (t *Totals) plus(o *Totals) {
	for _, s := range matrix.Ends() {
		*t.of(s) += *o.of(s)
	}
	t.Children += o.Children
	t.Born += o.Born
	t.Hops += o.Hops
	t.Seconds = max(t.Seconds, o.Seconds)
	for name, m := range o.Metrics {
		sum := t.Metrics[name]
		sum.Count += m.Count
		sum.Sum = max(-math.MaxFloat64, min(math.MaxFloat64, sum.Sum+m.Sum))
		if sum.Count > 0 {
			sum.Mean = new(sum.Sum / float64(sum.Count))
		}
		t.Metrics[name] = sum
	}
	for name, u := range o.Usage {
		sum := t.Usage[name]
		sum.Calls += u.Calls
		sum.Reused += u.Reused
		sum.Retries += u.Retries
		sum.Tokens.Add(u.Tokens, 1)
		sum.Estimated += u.Estimated
		sum.USD += u.USD
		t.Usage[name] = sum
	}
	if t.Causes == nil && o.Causes != nil {
		t.Causes = Causes{}
	}
	t.Causes.plus(o.Causes)
	if t.Reasons == nil && o.Reasons != nil {
		t.Reasons = Causes{}
	}
	t.Reasons.plus(o.Reasons)
	for f, n := range o.Faults {
		t.blame(f, n)
	}
}

// restore reads how far the run has come.
func (r *Run) restore(ctx context.Context) error {
	if err := readCheckpoint(ctx, r.leader(), checkpointFeed, &r.fed); err != nil {
		return err
	}
	var all retryCheckpoint
	if err := readCheckpoint(ctx, r.leader(), checkpointRetries, &all); err != nil {
		return err
	}
	r.retries = all.N
	for _, s := range r.shards {
		if err := readCheckpoint(ctx, s.Store, checkpointTotals, &s.totals); err != nil {
			return err
		}
		s.totals = s.totals.clone()
		for name := range r.cfg.Metrics { // so that none is missing where nothing says anything of it
			if _, ok := s.totals.Metrics[name]; !ok {
				s.totals.Metrics[name] = MetricSum{}
			}
		}
		var m retryCheckpoint
		if err := readCheckpoint(ctx, s.Store, checkpointRetry, &m); err != nil {
			return err
		}
		s.retries = m.N
		s.retrying.Store(m.On || m.N < all.N)
		s.count()
		r.fedSum.Add(s.rooted.Load())
		r.born.Add(s.totals.Children)
		r.before = max(r.before, s.totals.Seconds)
	}
	counts := r.ledger().Counts()
	rows, children, err := liveTasks(ctx, r.ledger(), r.fedSum.Load()+int64(counts.Live) > r.fed.Tasks)
	if err != nil {
		return err
	}
	r.fedSum.Add(rows)
	r.born.Add(children)
	r.parked.Store(int64(counts.Waiting[waitRole]))
	r.fed.reach(r.fedSum.Load())
	r.allFed.Store(r.fed.AllFed)
	r.pass.Store(int64(r.fed.Pass))
	r.unused.Store(r.fed.Unused)
	if r.fed.AllFed {
		r.total.Store(r.fed.Tasks + r.fed.Unused)
	}
	var m untilCheckpoint
	err = readCheckpoint(ctx, r.leader(), checkpointUntil, &m)
	r.met.Store(m.Met)
	return err
}

// Totals returns what the ledgers know of settled tasks.
func (r *Run) Totals() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.shards[0].totals.clone()
	for _, s := range r.shards[1:] {
		t.plus(&s.totals)
	}
	t.Seconds = r.before + r.elapsed().Seconds()
	return t
}

// shardTotals returns what the ledger of a shard knows.
func (r *Run) shardTotals(s *shard) Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := s.totals.clone()
	t.Seconds = r.before + r.elapsed().Seconds()
	return t
}

// Progress is how far a run has come.
type Progress struct {
	Totals
	Total    int64                   `json:"total"`   // tasks in all that are known, and more may come of tasks that become others; -1 while unknown
	Fed      int64                   `json:"fed"`     // tasks that have left the dataset
	Begun    int64                   `json:"begun"`   // tasks that others became, so far
	Parents  int64                   `json:"parents"` // live tasks that wait for those which they became
	Live     int64                   `json:"live"`    // under way, of all that have begun; those that wait for others too
	Pending  int64                   `json:"pending"` // not settled, of all that are known; -1 while Total is unknown
	Waiting  bool                    `json:"waiting"` // nothing is live, and the source may have more rows later; also of a run that was stopped then
	Finished bool                    `json:"finished"`
	Goal     int64                   `json:"goal,omitempty"`    // of Config.Until: tasks that are to be kept, of all kinds seen so far together
	Met      bool                    `json:"met,omitempty"`     // there are so many
	Unused   int64                   `json:"unused,omitempty"`  // of all, not to be fed: there was enough
	Roles    map[string]RoleProgress `json:"-"`                 // see Snapshot of package session
	Failure  string                  `json:"failure,omitempty"` // the last failed task and its cause
	Retried  Retried                 `json:"retried,omitzero"`  // in this session
	NewHops  int64                   `json:"new_hops"`          // in this session, by tasks that are still live too
	Tail     int64                   `json:"tail,omitempty"`    // finished tasks that a killed process had written and not committed: they are written again
	Elapsed  time.Duration           `json:"elapsed_ns"`        // this session
}

// RoleProgress is what a role is doing, at all workers of a run or at one.
type RoleProgress struct {
	Waiting int          `json:"waiting"` // tasks in its queue
	Acting  int          `json:"acting"`  // steps under way
	Hops    int64        `json:"hops"`    // steps done in this session
	Inline  bool         `json:"inline,omitempty"`
	Well    int64        `json:"well"`            // turns of this session that did not fail their tasks, or were failed by the flow alone
	Failed  int64        `json:"failed"`          // turns of this session that failed their tasks
	Cause   string       `json:"cause,omitempty"` // of the last of them
	Fault   matrix.Fault `json:"fault,omitempty"` // of the same
	Began   time.Time    `json:"began"`           // when the Worker was made that tells it; of several, that of this process
}

// plus adds what another worker does and has done.
func (p *RoleProgress) plus(o RoleProgress) {
	p.Acting += o.Acting
	p.Hops += o.Hops
	p.Well += o.Well
	if p.Failed += o.Failed; p.Cause == "" {
		p.Cause, p.Fault = o.Cause, o.Fault
	}
}

// told is what a Worker in another process has told last.
type told struct {
	began time.Time // names it, among those of one name
	roles map[string]RoleProgress
}

// idle notes that nothing is under way there.
func (x *told) idle() {
	for name, p := range x.roles {
		p.Acting = 0
		x.roles[name] = p
	}
}

// Elsewhere notes what a Worker in another process tells of its roles (Worker.Roles):
// it is part of the Progress, and of what Run judges at the end. What comes late,
// behind something newer, is left out. One that is made anew under the same name takes
// the place of the one before, of which what it did stays counted. roles is nil where
// the worker is gone.
func (r *Run) Elsewhere(worker string, roles map[string]RoleProgress) {
	var began time.Time
	for _, p := range roles {
		began = p.Began
		break
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.elsewhere[worker]
	i := slices.IndexFunc(all, func(x *told) bool { return x.began.Equal(began) })
	switch {
	case roles == nil:
	case i < 0:
		all = append(all, &told{began, maps.Clone(roles)})
		slices.SortFunc(all, func(a, b *told) int { return a.began.Compare(b.began) })
		r.elsewhere[worker] = all
	default:
		for name, p := range all[i].roles {
			if now := roles[name]; now.Hops < p.Hops || now.Well < p.Well || now.Failed < p.Failed {
				return
			}
		}
		all[i].roles = maps.Clone(roles)
	}
	for i, x := range all {
		if roles == nil || i < len(all)-1 {
			x.idle()
		}
	}
}

// Here is what this process does and has done, by role of the run: its part of the
// Progress.
func (r *Run) Here() map[string]RoleProgress { return r.worker.Roles() }

// roles is what all workers do and have done, by role of the run.
func (r *Run) roles() map[string]RoleProgress {
	all := r.worker.Roles()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, worker := range slices.Sorted(maps.Keys(r.elsewhere)) {
		for _, x := range r.elsewhere[worker] {
			for name, there := range x.roles {
				if p, ok := all[name]; ok {
					p.plus(there)
					all[name] = p
				}
			}
		}
	}
	return all
}

// Progress may be called at any time.
func (r *Run) Progress() Progress {
	counts := r.ledger().Counts()
	p := Progress{
		Totals: r.Totals(), Total: r.total.Load(), Fed: r.fedSum.Load(), Begun: r.born.Load(), Parents: r.parked.Load(), Live: int64(counts.Live),
		Finished: r.Finished(), Tail: r.tail,
		Roles: r.roles(),
	}
	r.mu.Lock()
	p.Failure, p.Elapsed = r.failure, r.elapsed()
	for _, s := range r.shards {
		p.Retried.plus(s.retried)
	}
	r.mu.Unlock()
	p.Waiting = p.Live == 0 && r.waiting.Load()
	r.goalProgress(&p)
	if p.Pending = -1; p.Total >= 0 {
		p.Total += p.Begun
		p.Pending = max(0, p.Total-p.Settled()-p.Unused)
	}
	for name, x := range p.Roles {
		x.Waiting = counts.Waiting[name]
		p.Roles[name] = x
		p.NewHops += x.Hops
	}
	return p
}
