package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/bundle"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// WorkerOptions of a Worker.
type WorkerOptions struct {
	From  bundle.Asker // who has the run: see Plan.Bundle
	Cache string       // folder that keeps files for the next worker of this machine; empty for matrix in the user's cache folder

	Labels map[string]string // of this machine: see Labels
	Roles  []string          // that it shall serve; empty for all
	Slots  int               // steps at once, of all roles that have a hop of their own; 0 for as many as the roles allow

	Log        func(line string) // what command agents write to stderr, where the registry has no Log; called concurrently
	Middleware []run.Middleware  // around the agents of all roles, the first outermost
	On         func(run.Event)   // told of what happens here; as run.Config.On
	Halted     func(err error)   // as run.WorkerConfig.Halted

	lane *lane // among the runs that share the slots of this process; nil where it has them alone
}

// Worker acts for a run whose folder is elsewhere: with the plan of the run, made on
// this machine.
type Worker struct {
	Plan   *Plan // without a dataset; a role that this process does not serve has no Agent
	Shards int   // of the run

	bundle   *bundle.Copy
	run      *run.Worker
	pools    *pools
	kept     string           // folder of the pools; empty without them
	unusable map[string]error // pools, by name
	lacks    map[string][]string
	serves   []string
	lane     *lane
}

// OpenWorker fetches what a run has for its workers and makes what its config names.
// It waits for who has the run until ctx ends. What is wrong with what was asked for
// is a spec.UsageError; where no role can be served here it is a LackingError. The caller
// closes the worker.
func OpenWorker(ctx context.Context, kinds *registry.Registry, o WorkerOptions) (w *Worker, err error) {
	if o.Slots < 0 {
		return nil, spec.Usagef("slots: got %d, want 1 or more, or 0 for no limit", o.Slots)
	}
	if o.Cache == "" {
		if o.Cache, err = cacheFolder(); err != nil {
			return nil, err
		}
	}
	w = &Worker{lane: o.lane}
	if w.lane == nil {
		w.lane = newSlots(o.Slots).lane(1, matrix.Normal)
	}
	defer func() {
		if err != nil {
			_ = w.Close()
			w = nil
		}
	}()
	if w.bundle, err = bundle.Open(ctx, o.From, o.Cache); err != nil {
		if errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) {
			err = &CacheError{o.Cache, err}
		}
		return w, err
	}
	if kinds.Log == nil {
		with := *kinds
		with.Log = o.Log
		kinds = &with
	}
	var note *bundleNote
	if w.Plan, note, err = planFrom(kinds, w.bundle, o.From); err != nil {
		return w, err
	}
	w.Shards = max(1, note.Shards)
	if err := w.openPools(ctx, o); err != nil {
		return w, err
	}
	if err := w.choose(o); err != nil {
		return w, err
	}
	p := w.Plan
	cfg := run.WorkerConfig{
		Router: p.Router, Roles: p.Roles, Limits: p.Limits, Metrics: p.Metrics, MaxFailed: float64(p.Run.MaxFailed), Live: p.Run.Live,
		Middleware: p.middleware(o.Middleware), On: o.On, Halted: o.Halted,
	}
	if p.Unique != nil {
		cfg.Sign = p.Unique.Sign
	}
	if w.lane.of.most > 0 {
		cfg.Middleware = append(slices.Clone(cfg.Middleware), bounded(p.Roles, w.lane))
	}
	w.run, err = run.NewWorker(cfg)
	return w, err
}

// openPools makes the pools ready of roles that may act here. What they keep is this
// process's own: another one of this machine has others.
func (w *Worker) openPools(ctx context.Context, o WorkerOptions) error {
	here, err := w.Plan.Serves(o.Labels)
	if err != nil {
		return err
	}
	serves := func(role string) bool {
		return here[role] && (len(o.Roles) == 0 || w.Plan.Roles[role].Inline || slices.Contains(o.Roles, role))
	}
	if len(w.Plan.PoolsFor(serves)) == 0 {
		return nil
	}
	if w.kept, err = os.MkdirTemp("", "matrix-pools-"); err != nil {
		return err
	}
	w.pools, w.unusable = openPools(ctx, w.Plan, serves, filepath.Base(w.kept), w.kept, false, o.Log)
	return nil
}

// settled has tasks give back what they hold here.
func (w *Worker) settled(tasks []string) { w.pools.settle(tasks...) }

// CacheError says that a worker cannot keep files of its run in a folder; an empty one
// where it is not told any and the user has none.
type CacheError struct {
	Folder string
	Err    error
}

func (e *CacheError) Error() string {
	if e.Folder == "" {
		return fmt.Sprintf("there is no folder for the files of runs: %v", e.Err)
	}
	return fmt.Sprintf("the folder for the files of runs, %s: %v", e.Folder, e.Err)
}

func (e *CacheError) Unwrap() error { return e.Err }

// cacheFolder is where a worker keeps files where nobody says otherwise.
func cacheFolder() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", &CacheError{"", err}
	}
	return filepath.Join(dir, "matrix", "worker"), nil
}

// LackingError says that a worker can serve no role of its run.
type LackingError struct {
	Lacks map[string][]string // by role, of those asked for: what is missing on this machine
	Other []string            // roles that are not for this machine, by its labels
}

func (e *LackingError) Error() string {
	var lines []string
	for _, role := range slices.Sorted(maps.Keys(e.Lacks)) {
		for _, lack := range e.Lacks[role] {
			lines = append(lines, "role "+role+": "+lack)
		}
	}
	if len(e.Other) > 0 {
		lines = append(lines, "not for a machine with these labels: "+strings.Join(e.Other, ", "))
	}
	return "this machine can serve no role of the run:\n  " + strings.Join(lines, "\n  ")
}

// choose finds out which roles are served here, and takes their agents from the others.
func (w *Worker) choose(o WorkerOptions) error {
	here, err := w.Plan.Serves(o.Labels)
	if err != nil {
		return err
	}
	for _, name := range o.Roles {
		if _, ok := w.Plan.Roles[name]; !ok {
			return spec.Usagef("the run has no role %q; it has %s", name, strings.Join(w.Plan.RoleOrder(), ", "))
		}
	}
	lacks := w.Plan.Lacks()
	for role, errs := range w.Plan.UsersOf(w.unusable) {
		for _, err := range errs {
			lacks[role] = append(lacks[role], err.Error())
		}
	}
	lacking := &LackingError{Lacks: map[string][]string{}}
	w.lacks = lacking.Lacks
	own := false // a role that is not inline
	for _, name := range w.Plan.RoleOrder() {
		role := w.Plan.Roles[name]
		asked := len(o.Roles) == 0 || role.Inline || slices.Contains(o.Roles, name)
		switch {
		case !asked:
		case !here[name]:
			lacking.Other = append(lacking.Other, name)
		case lacks[name] != nil:
			w.lacks[name] = lacks[name]
		default:
			w.serves = append(w.serves, name)
			own = own || !role.Inline
			continue
		}
		if c, ok := role.Agent.(io.Closer); ok {
			if err := c.Close(); err != nil {
				return fmt.Errorf("close role %s: %w", name, err)
			}
		}
		role.Agent = nil
		w.Plan.Roles[name] = role
	}
	if len(w.serves) == 0 || !own && len(lacking.Lacks)+len(lacking.Other) > 0 {
		return lacking
	}
	return nil
}

// bounded has steps of roles with hops of their own hold a slot.
func bounded(roles map[string]matrix.Role, slots matrix.Semaphore) run.Middleware {
	return func(role string, next matrix.Agent) matrix.Agent {
		if roles[role].Inline {
			return next
		}
		return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
			if _, err := slots.Acquire(matrix.Stopping(ctx), 1); err != nil {
				return matrix.Turn{}, err
			}
			defer slots.Release(1)
			return next.Act(ctx, t)
		})
	}
}

// Serves are the roles that act here, as the flow comes upon them.
func (w *Worker) Serves() []string { return slices.Clone(w.serves) }

// Lacks says which roles cannot act here, of those that it is asked to serve and that
// are for a machine with its labels, and what is missing for each.
func (w *Worker) Lacks() map[string][]string { return maps.Clone(w.lacks) }

// Progress is what was done here, by role.
func (w *Worker) Progress() map[string]run.RoleProgress { return w.run.Roles() }

// Bundle tells apart what workers were made from: a run that was started anew with
// another config has another one.
func (w *Worker) Bundle() string { return w.bundle.Sum }

// Work acts on what from hands out. See run.Worker.Work.
func (w *Worker) Work(ctx context.Context, from matrix.Taker) error {
	mirrored, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.bundle.Mirror(mirrored)
	}()
	defer func() {
		cancel()
		<-done
	}()
	return w.run.Work(ctx, from)
}

// Close closes agents and models, and removes the run's files from this machine, but
// for contents that the next worker may need.
func (w *Worker) Close() error {
	var errs []error
	w.pools.close()
	if w.Plan != nil {
		errs = append(errs, w.Plan.Close())
	}
	if w.kept != "" {
		errs = append(errs, os.RemoveAll(w.kept))
	}
	if w.bundle != nil {
		errs = append(errs, w.bundle.Close())
	}
	return errors.Join(errs...)
}
