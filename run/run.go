// Package run is the engine: it feeds rows into a queue as tasks, lets agents
// act on them, follows their routers, and collects what is finished. It knows
// queues, agents, sources and sinks by their contracts alone.
package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
)

// OpenSink opens an output where a checkpoint says that it ends; nil is its beginning.
type OpenSink func(checkpoint []byte) (matrix.Sink, error)

// TailFunc reads what an output holds after a checkpoint, and refuses one that does not
// hold what the checkpoint says.
type TailFunc func(output matrix.Status, checkpoint []byte, f func(line []byte) error) error

// Config of a run. Source, Shards, Router and Roles must be set.
type Config struct {
	Source  matrix.Source
	Shards  []Shard // as many as when the run began
	Router  matrix.Router
	Roles   map[string]matrix.Role
	Live    int // tasks under way at once; 0 for 1,000
	Trials  int // tasks a row; 0 for 1
	Seed    int64
	Limits  matrix.Limits
	Metrics map[string]matrix.Metric
	Grace   time.Duration // for steps under way after Stop; 0 for 30 s

	// Serve has workers in other processes act, beside the agents of this one, and
	// returns when Stopping of its ctx has ended and it has nothing in hand any more.
	// Stopping ends where the run is to begin nothing more: it is stopped, or all is
	// settled. ctx ends where what was begun is to be given up, and stays pending. What
	// it returns before Stopping ends stops the run as an error of Work does. With it a
	// role may be without an Agent: then it acts at a worker alone. Nil for nobody.
	Serve func(ctx context.Context) error

	// NoWork leaves all acting to whom Serve serves.
	NoWork bool

	// Sign is as WorkerConfig.Sign.
	Sign func(ctx context.Context, t *matrix.Task) (signature []byte, calls []matrix.Call, err error)

	// Slots is as WorkerConfig.Slots.
	Slots func(role string, n int) matrix.Semaphore

	// Middleware stands around the agent of each role, the first outermost.
	Middleware []Middleware

	// On is told of what happens, for those who watch; nil for nobody. It is called
	// by several goroutines at a time, and the run waits for it: who takes long holds
	// up feeding, a step or settling, and should hand the event on. Where it panics, the
	// run stops with an error that says so, and what is under way lands.
	On func(Event)

	// RoundsUnset says that Limits.Rounds is the default, and nobody's choice.
	RoundsUnset bool

	// MaxFailed is the share of failed tasks at a role, of 200 or more steps in
	// this session, with which the run stops (*TooManyFailed); 100 in a row stop it
	// too. A run that has come to its end returns one where a role failed all of its
	// steps, 10 or more, or where no task is done that a step or a row failed. 0 is
	// never.
	MaxFailed float64

	// Judge makes who judges finished tasks as they are settled, with its checkpoint of the
	// last commit, nil of a new run; nil for nobody. It needs that there is one shard.
	Judge func(checkpoint []byte) (Judge, error)

	// Until says at how many kept tasks the run ends; nil: at the end of its rows. It needs
	// that there is one shard. A run that comes to the end of its rows before returns a
	// *GoalMissed.
	Until *Until

	// Retry has failed tasks tried again; nil for none.
	Retry *Retry

	// AcceptChanges lets a run go on over a dataset that is not the one it
	// began with.
	AcceptChanges bool

	// OtherRows says that Source leaves out other rows than it did, or names
	// them otherwise. What was fed is then no longer looked up (Verify).
	OtherRows bool
}

// Errors of New and Run beside those of their parts.
var (
	ErrStopped        = errors.New("stopped before the end; tasks are pending")
	ErrDatasetChanged = errors.New("the dataset is not the one this run began with")
	ErrLedgerBehind   = errors.New("the ledger is older than the output")
	ErrDamaged        = errors.New("the state is damaged")
)

// DatasetChanged is an ErrDatasetChanged.
type DatasetChanged struct {
	Then, Now string // fingerprints
	Grew      bool   // rows were appended, and those that there were are the same
	Read      bool   // it changed while it was read
	Why       error  // what is wrong with it, where that is known
	Stuck     bool   // it cannot be read where reading is to go on: AcceptChanges does not help
}

func (e *DatasetChanged) Error() string {
	while := ""
	if e.Read {
		while = ": it changed while it was read"
	}
	why := ""
	if e.Why != nil {
		why = "\n" + e.Why.Error()
	}
	return fmt.Sprintf("%v%s\n  then: %s\n  now:  %s%s", ErrDatasetChanged, while, indented(e.Then), indented(e.Now), why)
}

func (e *DatasetChanged) Is(target error) bool { return target == ErrDatasetChanged }

func indented(lines string) string { return strings.ReplaceAll(lines, "\n", "\n        ") }

// sinkRole is where finished tasks wait to be written. No role of a user has
// such a name.
const sinkRole = "_sink"

var roleName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

// Run is one run over one store. Make it with New, call Run once.
type Run struct {
	cfg    Config
	shards []*shard
	worker *Worker // it also has the flow for those who feed and settle

	quitting context.Context // while it goes on something new may begin

	credit chan struct{}      // one signal: there may be room for more tasks
	quit   context.CancelFunc // ends quitting: every row is fed and settled, or Stop or Drain was called
	stop   chan struct{}      // closed by Stop: steps under way have the grace period left

	dataset string         // its fingerprint, where the ledger does not have it yet
	fed     feedCheckpoint // when the run began
	fedSum  atomic.Int64   // tasks fed
	born    atomic.Int64   // children that have begun, or may begin at once
	parked  atomic.Int64   // tasks that wait for their children

	expanding atomic.Int32 // while it is not 0 children are to begin, and no rows are fed

	goal   *goal // Config.Until; nil of none
	met    atomic.Bool
	metWas bool // as the ledger has it
	pass   atomic.Int64
	unused atomic.Int64 // tasks that were not fed, as of feedCheckpoint

	keepStopped bool // it was begun when tasks that stop ended were kept

	retries   int          // of a run of several shards, this one included
	announced func() error // the retry: once
	allFed    atomic.Bool  // the feeder has fed everything
	total     atomic.Int64 // tasks in all; -1 unknown
	waiting   atomic.Bool  // for rows of a source that grows, or was when it was stopped

	begins     tally         // how tasks begin
	retriedAll chan struct{} // closed when no failed task is to be brought back any more
	reviving   sync.Mutex    // held while there is room for tasks that are being brought back

	mu       sync.Mutex
	wakes    []func()  // to be called at the next move
	endSteps func()    // of Run
	failure  string    // the last failed task's cause
	fault    error     // why the run stops, where that is one
	begun    time.Time // of Run
	over     time.Time // its end
	before   float64   // seconds of earlier sessions
	tail     int64     // lines that a crash left after what the ledger knows, when the run began

	elsewhere map[string][]*told // by worker, the newest last: see Elsewhere
}

// New checks cfg and reads from the store how far the run has come. It returns
// ErrDatasetChanged when the dataset is not the one that the run began with, and
// ErrLedgerBehind when finished tasks would be done again.
func New(ctx context.Context, cfg Config) (*Run, error) {
	cfg.Live = cmp.Or(cfg.Live, 1000)
	cfg.Trials = cmp.Or(cfg.Trials, 1)
	cfg.Grace = cmp.Or(cfg.Grace, 30*time.Second)
	if cfg.Live < 0 || cfg.Trials < 0 {
		return nil, fmt.Errorf("run: live is %d and trials is %d; want at least 1 of each", cfg.Live, cfg.Trials)
	}
	if len(cfg.Shards) == 0 {
		return nil, errors.New("run: no shards: there is nowhere to keep tasks")
	}
	if cfg.Judge != nil && len(cfg.Shards) > 1 {
		return nil, errors.New("run: a judge needs one order of settling, so one shard")
	}
	if cfg.NoWork && cfg.Serve == nil {
		return nil, errors.New("run: NoWork without Serve: nobody would act")
	}
	r := &Run{
		cfg: cfg, credit: make(chan struct{}, 1), stop: make(chan struct{}), retriedAll: make(chan struct{}),
		elsewhere: map[string][]*told{},
	}
	r.quitting, r.quit = context.WithCancel(context.WithoutCancel(ctx))
	r.announced = sync.OnceValue(func() error { return r.announceRetry(context.Background()) })
	for _, s := range cfg.Shards {
		if s.Outputs[matrix.Done] == nil || s.Outputs[matrix.Failed] == nil {
			return nil, errors.New("run: a shard without an output for tasks that are done, or for those that failed")
		}
		r.shards = append(r.shards, &shard{Shard: s})
	}
	r.begins.share = cfg.MaxFailed
	if err := r.makeWorker(); err != nil {
		return nil, err
	}
	r.total.Store(-1)
	if err := r.restore(ctx); err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	if r.cfg.RoundsUnset && r.fed.Tasks > 0 && r.fed.Version == 0 {
		r.worker.cfg.Limits.Rounds = 0
	}
	if err := r.aim(ctx); err != nil {
		return nil, err
	}
	if err := r.checkRetry(); err != nil {
		return nil, err
	}
	if err := r.checkCut(); err != nil {
		return nil, err
	}
	r.keepStopped = r.fed.Version < versionDrops
	if err := r.checkLive(); err != nil {
		return nil, err
	}
	if err := r.checkDataset(ctx); err != nil {
		return nil, err
	}
	if err := r.checkOutputs(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// makeWorker makes what acts in this process.
func (r *Run) makeWorker() (err error) {
	roles := maps.Clone(r.cfg.Roles)
	if r.cfg.NoWork {
		for name, x := range roles {
			x.Agent = nil
			roles[name] = x
		}
	}
	r.worker, err = newWorker(WorkerConfig{
		Router: r.cfg.Router, Roles: roles, Limits: r.cfg.Limits, Metrics: r.cfg.Metrics, Middleware: r.cfg.Middleware,
		On: r.cfg.On, MaxFailed: r.cfg.MaxFailed, Live: r.cfg.Live, Sign: r.cfg.Sign, Slots: r.cfg.Slots, Halted: r.Halt,
	})
	if err != nil {
		return err
	}
	r.worker.head = true
	for name, x := range r.worker.roles {
		if !x.served() && r.cfg.Serve == nil {
			return fmt.Errorf("run: role %s has no agent", name)
		}
	}
	return nil
}

// Limits are those of the tasks of this run.
func (r *Run) Limits() matrix.Limits { return r.worker.cfg.Limits }

// checkOutputs refuses outputs that are not those which the ledger tells of.
func (r *Run) checkOutputs(ctx context.Context) error {
	shards := make([]Shard, len(r.shards))
	for k, s := range r.shards {
		shards[k] = s.Shard
	}
	tail, err := checkOutputs(ctx, r.ledger(), shards)
	r.tail = tail
	return err
}

// CheckOutputs refuses as New does outputs of the shards of a run that do not hold what their
// ledgers say, or finished tasks that those do not know of.
func CheckOutputs(ctx context.Context, trials int, shards []Shard) error {
	all := make([]matrix.Ledger, len(shards))
	for k, s := range shards {
		all[k] = s.Store
	}
	_, err := checkOutputs(ctx, Ledgers(trials, all...), shards)
	return err
}

// checkOutputs returns how many lines a crash has left after what the ledger knows.
func checkOutputs(ctx context.Context, ledger matrix.Ledger, shards []Shard) (tail int64, err error) {
	for _, s := range shards {
		if s.Tail == nil {
			continue
		}
		for _, status := range matrix.Ends() {
			checkpoint, err := s.Store.Checkpoint(ctx, sinkCheckpoint(status))
			if err != nil {
				return tail, err
			}
			var ahead int64
			first := ""
			err = s.Tail(status, checkpoint, func(line []byte) error {
				key := lineKey(line)
				role, err := roleOf(ctx, ledger, key)
				switch {
				case err != nil:
					return err
				case key == "" || role == settled: // damaged, or there twice: what the ledger knows of it stands elsewhere
				case role == sinkRole:
					tail++
				default:
					if ahead++; first == "" {
						first = NameOf(key)
					}
				}
				return nil
			})
			if err != nil {
				return tail, err
			}
			if ahead > 0 {
				return tail, fmt.Errorf("%w: it has %d tasks as %s (the first is %q) that the ledger has as pending, or not at all: the state has lost what was committed last, and to go on would cut them off", ErrLedgerBehind, ahead, status, first)
			}
		}
	}
	return tail, nil
}

// settled is where waitsAt finds a task that waits for nobody.
const settled = "_settled"

// roleOf is the role that a task waits for, settled, or empty where the ledger
// does not know the task. What a crash left in an output waits for the sink: a
// task goes there before it is written.
func roleOf(ctx context.Context, l matrix.Ledger, id string) (role string, err error) {
	f, err := fate(ctx, l, id)
	if err != nil || f.Status == "" {
		return "", err
	}
	if f.Status != matrix.Pending {
		return settled, nil
	}
	m, ok, err := l.Peek(ctx, id)
	if err != nil || !ok {
		return "", err
	}
	return m.Role, nil
}

// fate looks one task up.
func fate(ctx context.Context, l interface {
	Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error)
}, id string) (matrix.Fate, error) {
	fates, err := l.Lookup(ctx, id)
	if err != nil {
		return matrix.Fate{}, err
	}
	return fates[0], nil
}

// Finished reports whether every row has been fed and settled, or the run has come to what
// Config.Until says.
func (r *Run) Finished() bool {
	return r.live() == 0 && (r.met.Load() || r.allFed.Load() && !r.retrying())
}

// live counts the tasks that have begun and are not settled.
func (r *Run) live() int {
	n := r.fedSum.Load() + r.born.Load()
	for _, s := range r.shards {
		n -= s.finished.Load()
	}
	return int(n)
}

// open counts the tasks of rows that were fed and are not settled.
func (r *Run) open() int {
	n := r.fedSum.Load()
	for _, s := range r.shards {
		n -= s.rooted.Load()
	}
	return int(n)
}

// moved is called when tasks were settled or brought back, and when all rows are
// fed: there may be room for more tasks, or nothing left to do.
func (r *Run) moved() {
	r.offer()
	r.mu.Lock()
	for _, wake := range r.wakes {
		wake()
	}
	r.wakes = nil
	if r.Finished() {
		r.quit()
	}
	r.mu.Unlock()
	if r.allFed.Load() && !r.retrying() {
		if err := r.checkWaiting(); err != nil {
			r.Halt(err)
		}
	}
}

// onMove has wake called once, at the next move.
func (r *Run) onMove(wake func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakes = append(r.wakes, wake)
}

// closeOnce closes a channel that is closed under one lock alone.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// Run does all three duties of a run in this process, Feed, Work and Settle of
// each shard, and Config.Serve beside them, until every task is settled. It returns nil then, or a
// *TooManyFailed where none went well (Config.MaxFailed). It returns ErrStopped
// after Stop, Drain, or when ctx ends; any other error says what made the run stop.
// Whatever it returns, a new Run over the same shards goes on.
func (r *Run) Run(ctx context.Context) error {
	if r.Finished() {
		return r.Missed()
	}
	if err := r.beginGoal(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	r.begun = time.Now()
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.over = time.Now()
		r.mu.Unlock()
	}()
	// Steps end with ctx, after the grace period or because of a fault, if not by
	// themselves. What goes on beside them ends when they have; then what they came
	// to is written, whatever ended them.
	stepping, end := context.WithCancelCause(ctx)
	defer end(nil)
	context.AfterFunc(stepping, r.Drain) // who brings failed tasks back is told
	settling := context.WithoutCancel(ctx)
	beside, stepped := context.WithCancel(settling)
	defer stepped()
	fail := func(err error) {
		if err != nil {
			r.setFault(err)
			end(err)
		}
	}
	r.mu.Lock()
	r.endSteps = func() { end(nil) }
	r.mu.Unlock()
	if r.met.Load() { // a kill came before what was under way was dropped
		end(nil)
	}
	var steps, others sync.WaitGroup
	steps.Go(func() { fail(r.Work(stepping)) })
	if r.cfg.Serve != nil {
		steps.Go(func() { fail(r.serve(stepping)) })
	}
	steps.Go(func() { fail(r.Feed(stepping)) })
	for k := range r.shards {
		steps.Go(func() { fail(r.Expand(stepping, k)) })
		others.Go(func() { fail(r.Settle(matrix.WithStopping(settling, beside), k)) })
	}
	others.Go(func() { r.grace(beside, func() { end(nil) }) })
	others.Go(func() { r.count(beside) })
	steps.Wait()
	stepped()
	others.Wait()
	r.mu.Lock()
	fault := r.fault
	r.mu.Unlock()
	switch {
	case fault != nil:
		return fault
	case !r.Finished():
		return ErrStopped
	}
	if err := r.checkLive(); err != nil {
		return err
	}
	if err := r.endedWell(); err != nil {
		return err
	}
	return r.Missed()
}

// until is a context that ends when the run is to begin nothing more, before Stop
// returns, or with ctx.
func (r *Run) until(ctx context.Context) (soft context.Context, end func()) {
	soft, cancel := context.WithCancel(r.quitting)
	withdraw := context.AfterFunc(ctx, cancel)
	return soft, func() { withdraw(); cancel() }
}

// Work lets the agents of this process act on the tasks of all shards, until
// Stopping(ctx) ends or the run is stopped. A role's concurrency is shared by the
// shards.
func (r *Run) Work(ctx context.Context) error {
	soft, end := r.until(matrix.Stopping(ctx))
	defer end()
	from := make([]matrix.Taker, len(r.shards))
	for i, s := range r.shards {
		from[i] = s.Store
	}
	err := r.worker.Work(matrix.WithStopping(ctx, soft), from...)
	if r.worker.why() != nil {
		return nil // Halt was told: what workers elsewhere have begun may land, too
	}
	return err
}

// serve has workers elsewhere act.
func (r *Run) serve(ctx context.Context) error {
	soft, end := r.until(matrix.Stopping(ctx))
	defer end()
	err := r.cfg.Serve(matrix.WithStopping(ctx, soft))
	switch {
	case err == nil && soft.Err() == nil:
		return errors.New("run: Serve has returned, and the run was not to end yet")
	case soft.Err() != nil && errors.Is(err, soft.Err()):
		return nil
	case errors.As(err, new(*matrix.StopError)), errors.As(err, new(*TooManyFailed)):
		r.Halt(err) // what was begun here may land
		return nil
	}
	return err
}

// Halt stops the run because of err, which Run returns then: nothing new is fed or
// begun, steps under way may land for the grace period. It is for what a worker
// elsewhere has found that will not pass by itself, such as a *TooManyFailed.
func (r *Run) Halt(err error) {
	if r.setFault(err) {
		r.Stop()
	}
}

// setFault notes why the run stops. first is false where something else was it.
func (r *Run) setFault(err error) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return false
	}
	r.fault = err
	return true
}

// grace calls end once steps have had their time after Stop. It returns then, or
// when ctx ends.
func (r *Run) grace(ctx context.Context, end func()) {
	select {
	case <-ctx.Done():
		return
	case <-r.stop:
	}
	t := time.NewTimer(r.cfg.Grace)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		end()
	}
}

// storedShards is a number of shards as feedCheckpoint has it.
func storedShards(shards int) int {
	if shards == 1 {
		return 0
	}
	return shards
}

// checkCut refuses other numbers of trials and shards than the run began with.
func (r *Run) checkCut() error {
	shards := storedShards(len(r.shards))
	if r.fed.Tasks > 0 {
		const other = "%s was %d when rows were fed, and is %d now: it cannot change within a run; use the old value, or start over"
		switch {
		case r.fed.Again && r.fed.Trials < r.cfg.Trials:
			r.fed.Trials = r.cfg.Trials
		case r.fed.Trials != r.cfg.Trials:
			return fmt.Errorf(other, "trials", r.fed.Trials, r.cfg.Trials)
		case r.fed.Shards != shards:
			return fmt.Errorf(other, "shards", max(1, r.fed.Shards), len(r.shards))
		}
		return nil
	}
	r.fed.Trials, r.fed.Shards, r.fed.Version = r.cfg.Trials, shards, version
	return nil
}

// checkLive refuses to go on, or to end, where tasks would be left behind.
func (r *Run) checkLive() error {
	counts, t := r.ledger().Counts(), r.Totals()
	if known := r.fedSum.Load(); known != r.fed.Tasks || int64(r.live()) != int64(counts.Live) || counts.Live == 0 && t.Born != t.Children {
		return fmt.Errorf("%d tasks were fed, %d became of these, %d are done, %d dropped, %d expanded, %d failed and %d are live: %w", r.fed.Tasks, t.Born, t.Done, t.Dropped, t.Expanded, t.Failed, counts.Live, ErrDamaged)
	}
	for _, name := range slices.Sorted(maps.Keys(counts.Waiting)) {
		if r.worker.roles[name] == nil && name != sinkRole && name != expandRole && name != waitRole {
			return fmt.Errorf("%d tasks wait for the role %s, which the flow does not have any more: restore it, or start over", counts.Waiting[name], name)
		}
	}
	return r.checkWaiting()
}

// Stop ends the run early: nothing new is fed or begun, steps under way may
// land for the grace period.
func (r *Run) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quit()
	closeOnce(r.stop)
}

// Drain ends the run early, as Stop does, and steps under way may take as long as
// they need.
func (r *Run) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quit()
}

// elapsed is how long Run has been working. r.mu is held.
func (r *Run) elapsed() time.Duration {
	switch {
	case r.begun.IsZero():
		return 0
	case r.over.IsZero():
		return time.Since(r.begun)
	}
	return r.over.Sub(r.begun)
}

// taskSeed derives a task's seed from the run's, the row and the trial, so that
// it does not depend on the order in which tasks run. It is never negative, and
// fits the 32 bits that some servers hold a seed in.
func taskSeed(seed int64, row string, trial int) int64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a, 64 bits
	h := uint64(offset)
	mix := func(b byte) { h = (h ^ uint64(b)) * prime }
	for _, x := range [...]uint64{uint64(seed), uint64(trial)} {
		for i := range 8 {
			mix(byte(x >> (8 * i)))
		}
	}
	for i := range len(row) {
		mix(row[i])
	}
	h ^= h >> 32
	return int64(h & math.MaxInt32)
}
