package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"matrix"
)

// WorkerConfig is what a Worker acts by: a Config, less what is fed and where it is
// kept. Router and Roles must be set, as they are in the Config of the run.
type WorkerConfig struct {
	Router     matrix.Router
	Roles      map[string]matrix.Role // all of the flow; one without an Agent is served by others
	Limits     matrix.Limits          // see Run.Limits
	Metrics    map[string]matrix.Metric
	Middleware []Middleware
	On         func(Event)
	MaxFailed  float64 // of the steps of this Worker
	Live       int     // the Concurrency of a role that has none; 0 for 1,000

	// Sign makes the signature by which a task that is done is compared with others, in
	// the step that ends it; what it calls is added to the calls of its last turn. Its
	// errors are those of an Agent. Nil for none. An empty signature is compared with nothing.
	Sign func(ctx context.Context, t *matrix.Task) (signature []byte, calls []matrix.Call, err error)

	// Slots makes the semaphore of a role that may have n steps under way at once; nil
	// for matrix.Slots.
	Slots func(role string, n int) matrix.Semaphore

	// Halted is called once, as soon as Work is to end because of err, while what it
	// has begun lands; nil for nobody. It must not wait for Work.
	Halted func(err error)
}

// Worker acts on the tasks of a run: each step is an agent, the inline agents after
// it and the router. It keeps tasks in memory between two steps, and no more of them
// than may be lost: it needs no store, and may be in another process than the run.
type Worker struct {
	cfg   WorkerConfig
	roles map[string]*role
	head  bool // what is finished is settled in this process, and what becomes children does so here
	began time.Time

	cache       *cache
	suspensions suspensions // watched where a limit counts seconds

	halted context.Context // ends with halt
	end    context.CancelFunc
	mu     sync.Mutex
	fault  error // why it was halted
}

// role is one of a Worker's.
type role struct {
	matrix.Role
	name   string
	slots  matrix.Semaphore
	acting atomic.Int64
	hops   atomic.Int64
	steps  tally
}

// served reports whether tasks wait for x in this process.
func (x *role) served() bool { return x.Agent != nil }

// NewWorker makes the Worker of a process that has no run. What is wrong with cfg is
// an error.
func NewWorker(cfg WorkerConfig) (*Worker, error) {
	w, err := newWorker(cfg)
	if err != nil {
		return nil, err
	}
	for _, x := range w.roles {
		if x.served() {
			return w, nil
		}
	}
	return nil, errors.New("run: a worker without a role to serve: none has an agent")
}

func newWorker(cfg WorkerConfig) (*Worker, error) {
	cfg.Live = cmp.Or(cfg.Live, 1000)
	cfg.Limits.Hops = cmp.Or(cfg.Limits.Hops, 10000)
	if cfg.Slots == nil {
		cfg.Slots = func(_ string, n int) matrix.Semaphore { return matrix.Slots(n) }
	}
	w := &Worker{cfg: cfg, roles: make(map[string]*role, len(cfg.Roles)), cache: newCache(cacheBytes), began: time.Now()}
	for name, x := range cfg.Roles {
		if !roleName.MatchString(name) {
			return nil, fmt.Errorf("run: %q cannot be the name of a role: want a letter, then letters, digits, - and _", name)
		}
		x.Concurrency = cmp.Or(x.Concurrency, cfg.Live)
		x.Attempts = cmp.Or(x.Attempts, 3)
		if x.Concurrency < 0 || x.Attempts < 0 {
			return nil, fmt.Errorf("run: role %s: concurrency is %d and attempts is %d; want at least 1 of each", name, x.Concurrency, x.Attempts)
		}
		for i, wrap := range slices.Backward(cfg.Middleware) {
			if x.Agent == nil {
				break
			}
			if x.Agent = wrap(name, x.Agent); x.Agent == nil {
				return nil, fmt.Errorf("run: middleware %d leaves role %s without an agent", i, name)
			}
		}
		w.roles[name] = &role{Role: x, name: name, slots: cfg.Slots(name, x.Concurrency), steps: tally{share: cfg.MaxFailed}}
	}
	w.halted, w.end = context.WithCancel(context.Background())
	return w, nil
}

// Work acts on what waits in queues, or in what stands for them, for the roles that
// have an agent, until Stopping(ctx) ends, and returns nil then. A *matrix.StopError
// of a step, a *TooManyFailed, and an On that panics end it too: nothing new is begun,
// what was begun may land until ctx ends, and it is returned then. So is the error
// of a queue, which ends all steps at once. A role's concurrency is shared by the
// queues.
func (w *Worker) Work(ctx context.Context, from ...matrix.Taker) error {
	steps, ctx := errgroup.WithContext(ctx)
	soft, end := context.WithCancel(matrix.Stopping(ctx))
	defer end()
	defer context.AfterFunc(w.halted, end)()
	ctx = matrix.WithStopping(ctx, soft)
	var watch sync.WaitGroup
	defer watch.Wait()
	if w.cfg.Limits.Seconds > 0 {
		watching, over := context.WithCancel(context.WithoutCancel(ctx))
		defer over()
		watch.Go(func() { w.suspensions.watch(watching) })
	}
	for _, x := range w.roles {
		if !x.served() {
			continue
		}
		for _, q := range from {
			steps.Go(func() error {
				err := matrix.Consume(ctx, q, x.name, x.slots, func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
					step, err := w.hop(ctx, x, m)
					if errors.As(err, new(*matrix.StopError)) { // now: Consume returns when all of its steps have ended
						w.halt(err)
					}
					return step, err
				})
				if errors.As(err, new(*matrix.StopError)) { // what others have begun may land
					w.halt(err)
					return nil
				}
				if err != nil {
					end() // or the others would take on what they cannot act on
				}
				return err
			})
		}
	}
	err := steps.Wait()
	return cmp.Or(w.why(), err)
}

// halt has Work begin nothing more, because of err.
func (w *Worker) halt(err error) {
	w.mu.Lock()
	first := w.fault == nil
	if first {
		w.fault = err
	}
	w.mu.Unlock()
	if !first {
		return
	}
	if w.cfg.Halted != nil {
		w.cfg.Halted(err)
	}
	w.end()
}

// why says why it was halted; nil where it was not.
func (w *Worker) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// Roles is what w does, and what it has come to since it was made, by role; of no
// role what waits. It may be called at any time.
func (w *Worker) Roles() map[string]RoleProgress {
	all := make(map[string]RoleProgress, len(w.roles))
	for name, x := range w.roles {
		p := RoleProgress{Acting: int(x.acting.Load()), Hops: x.hops.Load(), Inline: x.Inline, Began: w.began}
		p.Well, p.Failed, p.Cause, p.Fault = x.steps.sum()
		all[name] = p
	}
	return all
}

// keep keeps a task in memory that waits for a role, where it is to be taken in this
// process.
func (w *Worker) keep(k *kept, role string) {
	if x := w.roles[role]; x != nil && x.served() || w.head && (role == sinkRole || role == expandRole) {
		w.cache.put(k)
	}
}
