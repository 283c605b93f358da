// Package session is the life of a run in its folder: opened, run, watched,
// stopped, tried again, verified, repaired; and that of a worker that joins one. It
// is what `matrix run` and `matrix worker` do without a command line and without a
// display: both are the caller's.
package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix"
	"matrix/agent"
	"matrix/cluster/natsnet"
	"matrix/dataset"
	"matrix/internal/export"
	"matrix/internal/rundir"
	"matrix/internal/spend"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// Plan is a config with all that it names, made and checked.
type Plan struct {
	*spec.Config
	*registry.Plan
}

// Build makes the plan of a config. What is wrong with it is a spec.UsageError. The
// caller closes the plan.
func Build(kinds *registry.Registry, c *spec.Config, use registry.Use) (*Plan, error) {
	p, err := kinds.Build(c.Tree, &c.Run, use)
	if err != nil {
		return nil, spec.Wrong(c.Path, err)
	}
	return &Plan{c, p}, nil
}

// engine is the plan as an engine wants it, less where it runs.
func (p *Plan) engine() run.Config {
	c := run.Config{
		Source: p.Source, Router: p.Router, Roles: p.Roles, Limits: p.Limits, Metrics: p.Metrics,
		Live: p.Run.Live, Trials: p.Run.MostTrials(), Seed: p.Run.Seed, MaxFailed: float64(p.Run.MaxFailed),
		RoundsUnset: p.Tree.Root().Get("limits.rounds") == nil,
		Grace:       max(p.Run.Grace, 1), // 0 is the engine's default
	}
	if p.Unique != nil {
		c.Sign = p.Unique.Sign
	}
	if u := p.Run.Until; u != nil {
		c.Until = &run.Until{Kept: u.Kept, Per: p.Per, Again: p.Run.Trials == spec.TrialsUntil}
	}
	return c
}

// middleware is what stands around the agents of p: others, and what brings states.
func (p *Plan) middleware(others []run.Middleware) []run.Middleware {
	if len(p.Leases) == 0 {
		return others
	}
	var leases agent.Leases
	return append(slices.Clone(others), func(role string, next matrix.Agent) matrix.Agent {
		if pools := p.Leases[role]; len(pools) > 0 {
			return leases.Wrap(next, pools)
		}
		return next
	})
}

// Options of a session. The zero value begins the run of a config, or goes on with
// it, in the folder that the config says.
type Options struct {
	Dir    string // the folder; empty for that of the config, or runs/NAME
	Fresh  bool   // delete what the folder's run has made, and start over
	Accept bool   // go on although config or dataset have changed
	Retry  bool   // try failed tasks again
	Where  string // with Retry: of these, those for which this expression is true

	Stdin io.Reader // what the dataset's path - stands for, read where the run begins; nil for nothing

	Warn    func(error)       // what is likely to be a mistake in the config; nil drops it
	Log     func(line string) // what command agents write to stderr, where the registry has no Log; called concurrently
	OnSpent func(why string)  // once, when nothing more can be paid: calls under way land, then Run ends

	Middleware []run.Middleware // around the agents of all roles, the first outermost
	On         func(run.Event)  // told of what happens; as run.Config.On

	// Of a run that lets workers join (spec.Cluster).
	Version string            // of this program: workers of another one are refused
	Labels  map[string]string // of this machine; nil for those that it has without being told: see Labels
	Tell    func(line string) // of workers that come and go; nil drops it. Called concurrently
	OnStop  func(now bool)    // another process has asked all heads to stop: what the caller does is StopAll

	// Seat is the place of the run's head at the server of a standing head, where the
	// run has no server of its own (spec.Cluster.Serve): workers join there.
	Seat *natsnet.Seat

	// Of a run that has several heads.
	Stand func(line string) // of how this one stands, while Open waits; nil drops it. One call at a time
	After *LeadLost         // what a session of this process has ended with: it is a head still
}

// Session is a run in its folder, in this process.
type Session struct {
	Plan   *Plan
	Folder *rundir.Claim

	run     *run.Run
	money   *spend.Tracker
	judge   judge     // of finished tasks, once the run has begun
	export  *exporter // of its training set; nil where it makes none
	head    *head     // of workers in other processes; nil where none can join
	seat    *natsnet.Seat
	among   *among // the heads of the run, of which this one leads; nil where there is one
	older   []OlderPrompt
	past    *past // replies of earlier runs; nil where none are reused
	pools   *pools
	onSpent func(why string)

	mu    sync.Mutex
	set   *export.Result // the training set that was made
	meter meter
	spent string // why nothing more can be paid; empty while something can
	tasks int64  // in all, where a run was stopped before it knew; -1 unknown
}

// OutOfBudget is what a run ends with whose budget is spent; tasks are pending. It is
// a run.ErrStopped.
type OutOfBudget struct {
	Why   string
	Raise string // an override with which the run goes on; empty where none is known
}

func (e *OutOfBudget) Error() string        { return "stopped: " + e.Why }
func (e *OutOfBudget) Is(target error) bool { return target == run.ErrStopped }

// Open claims the folder of a run and makes all that the config names. Nothing is
// fed or asked before Run. What is wrong with config or folder is a
// spec.UsageError, and what is wrong with what the folder holds a
// rundir.DamagedError. Of a run that has several heads it waits until this one leads, or
// returns a RunEnded. The caller closes the session.
func Open(ctx context.Context, kinds *registry.Registry, c *spec.Config, o Options) (s *Session, err error) {
	dir := o.Dir
	if dir == "" {
		if dir, err = rundir.For(c); err != nil {
			return nil, err
		}
	}
	s = &Session{onSpent: o.OnSpent, seat: o.Seat, tasks: -1}
	defer func() {
		if err != nil {
			if err = s.among.taken(err); s.among != nil {
				s.among.ended(err, false)
			}
			_ = s.Close() // what made it fail makes this fail too
			s, err = nil, rundir.Damage(dir, err)
		}
	}()
	claim := rundir.ClaimOptions{Fresh: o.Fresh, Accept: o.Accept}
	if c.Run.Cluster.Heads() {
		if s.among, err = standBy(ctx, kinds, dir, c, o); err != nil {
			return s, err
		}
		if s.among != nil {
			claim.Lead, claim.Heads = s.among.lead, cmp.Or(strings.Join(c.Run.Cluster.Peers, ", "), "on NATS")
		}
	}
	// Locked before agents and models are made: a second process must not touch
	// what they write, such as recordings.
	if s.Folder, err = rundir.NewClaim(dir, claim); err != nil {
		return s, err
	}
	if slices.Contains(c.Run.Dataset.Path, dataset.Stdin) {
		if c.Run.Dataset.Stdin, err = s.Folder.Spool(ctx, o.Stdin); err != nil {
			return s, err
		}
	}
	if kinds.Log == nil {
		with := *kinds
		with.Log = o.Log
		kinds = &with
	}
	if len(c.Run.Reuse) > 0 {
		if c.Run.Cluster.Heads() {
			return s, spec.Usagef("reuse: which replies are taken is noted in the run's folder by one process, and this run has several heads (cluster.peers, cluster.nats): run it with one head")
		}
		s.past = &past{}
		kinds = front(kinds, s.past)
	}
	use := registry.ToRun
	if (c.Run.Cluster.Serve != "" || s.seat != nil) && c.Run.Cluster.NoWork {
		use = registry.ToLead
	}
	if s.Plan, err = Build(kinds, c, use); err != nil {
		return s, err
	}
	for _, e := range s.Plan.Warnings {
		if o.Warn != nil {
			o.Warn(e)
		}
	}
	if _, err = s.Plan.Source.Fingerprint(); err != nil { // before Fresh deletes anything
		return s, err
	}
	if err = s.checkServe(); err != nil { // before anything is written
		return s, err
	}
	if err = s.checkFrom(ctx, c); err != nil {
		return s, err
	}
	if err = s.findPast(ctx, c, o); err != nil {
		return s, err
	}
	if err = s.Folder.Open(ctx, c, kinds.Parts()); err != nil {
		return s, err
	}
	if err = s.openPast(ctx, o); err != nil {
		return s, err
	}
	if err = s.countOlder(ctx); err != nil {
		return s, err
	}
	if s.Folder.Again && !o.Accept {
		if err = s.checkOrigins(ctx); err != nil {
			return s, err
		}
	}
	if o.Fresh {
		if err = export.Clear(filepath.Join(s.Folder.Path, rundir.ExportDir)); err != nil {
			return s, err
		}
	}
	if s.export, err = newExporter(s.Plan, s.Folder, o.Version); err != nil {
		return s, err
	}
	engine := s.Plan.engine()
	engine.Middleware, engine.On = s.Plan.middleware(o.Middleware), s.watch(o.On)
	s.Folder.Configure(&engine, c.Run.Output)
	if s.Plan.judges() {
		engine.Judge = func([]byte) (run.Judge, error) {
			j, err := s.Plan.openJudge(ctx, s.Folder, s.run.Progress().Done)
			s.judge = j
			return j, err
		}
	}
	if engine.Retry, err = s.retry(ctx, o); err != nil {
		return s, err
	}
	if err = s.prepareHead(&engine, o); err != nil {
		return s, err
	}
	if err = s.openPools(ctx, o); err != nil {
		return s, err
	}
	if s.run, err = run.New(ctx, engine); err != nil {
		return s, err
	}
	if err = s.sweep(ctx, o.Fresh); err != nil {
		return s, err
	}
	if err = s.Folder.SaveConfig(); err != nil {
		return s, err
	}
	if s.money, err = spend.Open(ctx, s.Folder.Stores()[0], s.Folder.Ledger(), c.Run.Budget, s.Plan.Bills, s.run.Progress()); err != nil {
		return s, err
	}
	for _, role := range s.Plan.Roles {
		if a, ok := role.Agent.(*agent.CommandAgent); ok {
			a.Charge(s.money.Reported)
		}
	}
	s.spent = s.money.Exhausted(o.Accept)
	if s.head != nil && !s.run.Finished() && s.spent == "" {
		err = s.head.open(ctx, o)
	}
	return s, err
}

// Close closes agents and models, and releases the folder.
func (s *Session) Close() error {
	var errs []error
	if s.head != nil {
		errs = append(errs, s.head.close())
	}
	errs = append(errs, s.judge.Close())
	s.pools.close()
	if s.Plan != nil {
		errs = append(errs, s.Plan.Close())
	}
	if s.past != nil {
		errs = append(errs, s.past.close())
	}
	if s.Folder != nil {
		if err := s.among.taken(s.Folder.Close()); !s.among.hasGivenUp() { // else it fails for that
			errs = append(errs, rundir.Damage(s.Folder.Path, err))
		}
	}
	if s.among != nil {
		errs = append(errs, s.among.close())
	}
	return errors.Join(errs...)
}

// Spent says why nothing more can be paid; empty while something can.
func (s *Session) Spent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spent
}

// Stop ends the run early: nothing new is fed or begun, steps under way may land
// for the grace period. Where ctx of Run ends, they are ended too. Nothing is lost.
func (s *Session) Stop() {
	s.run.Stop()
	if s.among != nil {
		s.among.giveUp(s.Plan.Run.Grace + landFor)
	}
}

// Progress is how far the run has come. It may be called at any time.
func (s *Session) Progress() run.Progress {
	p := s.run.Progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Total < 0 && s.tasks >= 0 {
		p.Total = s.tasks + p.Begun
		p.Pending = max(0, p.Total-p.Settled()-p.Unused)
	}
	return p
}

// Waiting is the file for whose rows the run waits while nothing else is to be done,
// or waited when it was stopped; empty where it does not.
func (s *Session) Waiting() string {
	g, grows := s.Plan.Source.(*dataset.Growing)
	if !grows || !s.run.Progress().Waiting {
		return ""
	}
	files := g.Files()
	return files[len(files)-1]
}

// summaryEvery is how often summary.json is replaced.
const summaryEvery = 2 * time.Second

// Run works until every task is settled, and returns nil then. It returns a
// run.ErrStopped after Stop or when ctx ends, an OutOfBudget, a run.TooManyFailed,
// or what made the run stop: a LeadLost where another head goes on. A session that is opened again goes on. summary.json
// is kept up to date meanwhile. Call it once.
func (s *Session) Run(ctx context.Context) error {
	if s.run.Finished() { // the process before may have been killed before its last word
		err := errors.Join(s.Folder.HandBack(ctx), s.summarize())
		if err == nil {
			err = s.finishExport(ctx)
		}
		return s.result(s.run.Missed(), err)
	}
	if why := s.Spent(); why != "" {
		s.count(ctx)
		return s.result(run.ErrStopped, s.summarize())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = s.money.Tick(0)  // from now on the account of the session before is not exact any more
	account := func() {} // ends lending to workers
	if s.head != nil {
		account = s.head.admit()
	}
	over := make(chan error, 1)
	go func() { over <- s.run.Run(ctx) }()
	s.export.start(ctx)
	defer s.export.end()
	summaries := time.NewTicker(summaryEvery)
	defer summaries.Stop()
	var wall <-chan time.Time
	if left, ok := s.money.Left(); ok {
		t := time.NewTimer(left)
		defer t.Stop()
		wall = t.C
	}
	_ = s.summarize() // what hinders it hinders the last one, which says so
	defer s.among.guard(cancel)()
	for {
		select {
		case err := <-over:
			account()
			s.count(ctx)
			closing := s.money.Close(s.run.Progress().Elapsed)
			s.among.landed()
			s.export.end() // it reads what is handed back
			if s.run.Finished() && closing == nil {
				closing = s.Folder.HandBack(ctx)
			}
			if err := s.summarize(); closing == nil {
				closing = err
			}
			if s.run.Finished() && closing == nil {
				closing = s.finishExport(ctx)
			}
			return s.result(err, closing)
		case <-wall:
			s.drain(fmt.Sprintf("the budget of %v of work is spent", s.Plan.Run.Budget.Wall))
		case why := <-s.money.Spent:
			s.drain(why)
		case <-summaries.C:
			_ = s.money.Tick(s.run.Progress().Elapsed) // a state that cannot be written ends the run by itself
			if s.Folder.Removed() {
				cancel()
			}
			_ = s.summarize()
		}
	}
}

// finishExport makes the training set of a run that is finished.
func (s *Session) finishExport(ctx context.Context) error {
	set, err := s.export.finish(ctx, s.Plan)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set = set
	return err
}

// Exported is the training set that Run made in the folder; nil where it made none.
func (s *Session) Exported() *export.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set
}

// drain ends the run because nothing more can be paid.
func (s *Session) drain(why string) {
	s.mu.Lock()
	first := s.spent == ""
	if first {
		s.spent = why
	}
	s.mu.Unlock()
	if !first {
		return
	}
	s.run.Drain()
	if s.onSpent != nil {
		s.onSpent(why)
	}
}

// result is what Run returns: err is what the run ended with, and closing what its
// last notes did.
func (s *Session) result(err, closing error) (result error) {
	defer func() {
		result = s.among.taken(result)
		s.among.ended(result, closing == nil && s.run.Finished())
	}()
	if s.among.hasGivenUp() && !s.run.Finished() {
		err, closing = run.ErrStopped, nil
	}
	if closing != nil && (err == nil || errors.Is(err, run.ErrStopped) || errors.As(err, new(*run.GoalMissed))) {
		err = closing
	}
	if err != nil && s.Folder.Removed() {
		return fmt.Errorf("%s: %w", s.Folder.Path, rundir.ErrRemoved)
	}
	if why := s.Spent(); why != "" && err == run.ErrStopped {
		return &OutOfBudget{Why: why, Raise: s.money.Raised()}
	}
	return rundir.Damage(s.Folder.Path, err)
}

// summarize replaces summary.json.
func (s *Session) summarize() error {
	if s.among != nil && !s.among.lead.Sure() && !s.run.Finished() { // another head may have written a newer one
		return nil
	}
	b, err := s.Snapshot().Summary()
	if err != nil {
		return err
	}
	return s.Folder.Summarize(b)
}

// count finds out how many tasks there are, where a run was stopped before it
// knew. A dataset that takes long to count is left uncounted.
func (s *Session) count(ctx context.Context) {
	if s.run.Progress().Total >= 0 || s.Plan.Run.Trials == spec.TrialsUntil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if n, err := s.Plan.Source.Count(ctx); err == nil && n >= 0 {
		s.mu.Lock()
		s.tasks = n * int64(s.Plan.Run.MostTrials())
		s.mu.Unlock()
	}
}
