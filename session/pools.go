package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"matrix/agent"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/sandbox"
	"matrix/spec"
)

// pools are those that roles use in this process, from Open until Close of what has them. A
// nil one has none.
type pools struct {
	of  map[string]agent.Pool
	log func(line string)

	mu      sync.Mutex
	settled []string // tasks that hold nothing any more, and are to be released
	wake    chan struct{}
	end     context.CancelFunc
	ended   sync.WaitGroup
}

// PoolError says that a pool cannot be used on this machine, and what to do about it.
type PoolError struct {
	Pool string
	Err  error
}

func (e *PoolError) Error() string { return fmt.Sprintf("pools.%s: %v", e.Pool, e.Err) }
func (e *PoolError) Unwrap() error { return e.Err }

// openPools opens the pools of a plan that roles use for which serves is true, those first
// that others are in. run names the run, dir is where pools may keep something. errs are
// by pool: those that cannot be used, which are closed. accept takes tools that are others
// than those that the run began with.
func openPools(ctx context.Context, p *Plan, serves func(role string) bool, run, dir string, accept bool, log func(line string)) (x *pools, errs map[string]error) {
	x = &pools{of: map[string]agent.Pool{}, log: log, wake: make(chan struct{}, 1)}
	errs = map[string]error{}
	for _, name := range p.PoolsFor(serves) {
		pool := p.Pools[name]
		var err error
		if o, ok := pool.(agent.Opener); ok {
			err = o.Open(ctx, run, filepath.Join(dir, name))
		}
		if a, ok := pool.(interface{ AcceptChanges() }); ok && accept {
			a.AcceptChanges()
		}
		if err == nil {
			err = pool.Check(ctx)
		}
		if err != nil {
			errs[name] = &PoolError{name, err}
			continue
		}
		x.of[name] = pool
	}
	if len(x.of) == 0 {
		return nil, errs
	}
	ctx, x.end = context.WithCancel(context.WithoutCancel(ctx))
	x.ended.Go(func() { x.release(ctx) })
	return x, errs
}

// runID names the run of a folder to its pools, in all of its sessions.
func runID(folder string) (string, error) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(abs))
	return hex.EncodeToString(sum[:8]), nil
}

// openPools makes the pools of a session ready.
func (s *Session) openPools(ctx context.Context, o Options) error {
	id, err := runID(s.Folder.Path)
	if err != nil {
		return err
	}
	var errs map[string]error
	acts := func(role string) bool { return s.head == nil || slices.Contains(s.head.self.Roles, role) }
	s.pools, errs = openPools(ctx, s.Plan, acts, id, filepath.Join(s.Folder.Path, rundir.PoolsDir), o.Accept, o.Log)
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		return &spec.UsageError{Err: errs[name]}
	}
	if s.pools == nil {
		return nil
	}
	if o.Warn != nil {
		for _, w := range s.pools.warnings() {
			o.Warn(w)
		}
	}
	return nil
}

// warnings are promises that are not kept here, as the config allows.
func (x *pools) warnings() (all []error) {
	for _, name := range slices.Sorted(maps.Keys(x.of)) {
		if p, ok := x.of[name].(interface{ Warnings() []string }); ok {
			for _, w := range p.Warnings() {
				all = append(all, fmt.Errorf("pools.%s: %s", name, w))
			}
		}
	}
	return all
}

// sweeper is a pool that finds what an earlier process has left.
type sweeper interface {
	Sweep(ctx context.Context, live func(task string) bool) (int, error)
}

// sweep removes what earlier processes of the run have left of tasks that are not pending
// any more; of all, where the run starts over.
func (s *Session) sweep(ctx context.Context, all bool) error {
	if s.pools == nil {
		return nil
	}
	var live func(string) bool
	if !all {
		pending := map[string]bool{}
		for _, store := range s.Folder.Stores() {
			if err := store.Live(ctx, func(id string) error {
				pending[run.NameOf(id)] = true
				return nil
			}); err != nil {
				return err
			}
		}
		live = func(task string) bool { return pending[task] }
	}
	for _, name := range slices.Sorted(maps.Keys(s.pools.of)) {
		if p, ok := s.pools.of[name].(sweeper); ok {
			if _, err := p.Sweep(ctx, live); err != nil {
				return &PoolError{name, fmt.Errorf("sweep: %w", err)}
			}
		}
	}
	return nil
}

// settle has what tasks hold be given back, soon.
func (x *pools) settle(tasks ...string) {
	if x == nil {
		return
	}
	x.mu.Lock()
	x.settled = append(x.settled, tasks...)
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// watch is on, which also has settled tasks give back what they hold, here and at
// workers.
func (s *Session) watch(on func(run.Event)) func(run.Event) {
	if len(s.Plan.Pools) == 0 {
		return on
	}
	return func(e run.Event) {
		if e.Kind == run.TaskSettled {
			s.pools.settle(e.Task)
			s.head.settled(e.Task)
		}
		if on != nil {
			on(e)
		}
	}
}

const releases = 8 // at once

// release gives back what settled tasks hold, until ctx ends.
func (x *pools) release(ctx context.Context) {
	for {
		select {
		case <-x.wake:
		case <-ctx.Done():
			return
		}
		x.drain(ctx)
	}
}

func (x *pools) drain(ctx context.Context) {
	for ctx.Err() == nil {
		x.mu.Lock()
		tasks := x.settled
		x.settled = nil
		x.mu.Unlock()
		if len(tasks) == 0 {
			return
		}
		var all errgroup.Group
		all.SetLimit(releases)
		for _, task := range tasks {
			for name, p := range x.of {
				all.Go(func() error {
					if err := p.Release(ctx, task); err != nil && ctx.Err() == nil && x.log != nil {
						x.log(fmt.Sprintf("pools.%s: release what task %s held: %v", name, task, err)) // the next sweep removes it
					}
					return nil
				})
			}
		}
		_ = all.Wait()
	}
}

// giveBackFor is how long what settled last may take to be given back at the end; the next
// session sweeps the rest.
const giveBackFor = 10 * time.Second

// close gives back what is still to be, and ends the releasing. The pools themselves are
// closed with the plan.
func (x *pools) close() {
	if x == nil {
		return
	}
	x.end()
	x.ended.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), giveBackFor)
	defer cancel()
	x.drain(ctx)
}

// PoolSnapshot is what a pool of sandboxes is doing.
type PoolSnapshot struct {
	Name string `json:"name"`
	sandbox.Stats
}

// poolsOf are the pools of sandboxes of a plan that are open, by name.
func poolsOf(p *Plan) []PoolSnapshot {
	var all []PoolSnapshot
	for _, name := range slices.Sorted(maps.Keys(p.Pools)) {
		if s, ok := p.Pools[name].(*agent.Sandboxes); ok {
			if stats, open := s.Stats(); open {
				all = append(all, PoolSnapshot{Name: name, Stats: stats})
			}
		}
	}
	return all
}
