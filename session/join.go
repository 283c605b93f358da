package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
	"matrix/agent"
	"matrix/cluster"
	"matrix/cluster/admission"
	"matrix/cluster/natsnet"
	"matrix/internal/packed"
	"matrix/internal/spend"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// JoinOptions of Join. Line must be set.
type JoinOptions struct {
	Line    natsnet.Join
	Name    string        // that people know the worker by; empty for that of the machine
	Away    time.Duration // after so long out of reach the head is taken to be gone for good; 0 for never
	Version string        // of this program

	Cache  string            // see WorkerOptions
	Labels map[string]string // of this machine: see Labels
	Roles  []string          // that it shall serve; empty for all
	Slots  int               // steps at once, of all roles; 0 for as many as the roles allow

	Tell       func(line string) // what a person may want to know; nil drops it. Called concurrently
	Log        func(line string) // what command agents write to stderr, where the registry has no Log; called concurrently
	Middleware []run.Middleware  // around the agents of all roles, the first outermost
	On         func(run.Event)   // told of what happens here; as run.Config.On

	lane *lane // see WorkerOptions
}

// States of a worker.
const (
	workerJoining  = "joining"
	workerWorking  = "working"
	workerDraining = "draining"
	workerLeaving  = "leaving"
	workerSilent   = "silent" // as the head sees it
)

// Joined is this process as a worker of a run whose head is elsewhere, or of the runs of
// a standing head.
type Joined struct {
	ID string

	kinds *registry.Registry
	o     JoinOptions
	net   *natsnet.Net
	heads chan headState // what the head told last
	heard atomic.Int64   // when, in nanoseconds

	joined   atomic.Bool // the head has let it in
	standing bool        // it is one that has several runs

	mu      sync.Mutex
	now     presence
	worker  *Worker  // while it acts
	several *several // of a standing head, once it acts
	drain   func()   // has it begin nothing more
	kick    chan struct{}

	ended context.Context // ends where this process is of no use to the run any more
	end   context.CancelCauseFunc
}

// errFinished ends a Joined whose run has settled everything.
var errFinished = errors.New("the run is finished")

// VersionError says that a worker and the head of its run are different programs.
type VersionError struct{ Worker, Head string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("this is matrix %s, and the head of the run is matrix %s: have the same on both", e.Worker, e.Head)
}

// AwayError says that the head of a run was out of reach for so long that it was given
// up.
type AwayError struct {
	After time.Duration
	Err   error // why it could not be reached last
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("the head of the run could not be reached for %v (%v): what was done here last is done again elsewhere", e.After, e.Err)
}

func (e *AwayError) Unwrap() error { return e.Err }

// Join joins a run, once its head can be reached. That the run cannot be joined is
// a *natsnet.RefusedError, a VersionError or an AwayError. The caller closes it.
func Join(ctx context.Context, kinds *registry.Registry, o JoinOptions) (j *Joined, err error) {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	if o.Name == "" {
		o.Name = host
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	j = &Joined{ID: natsnet.NewID(o.Name), kinds: kinds, o: o, heads: make(chan headState, 1), drain: func() {}, kick: make(chan struct{}, 1)}
	j.now.WorkerState = WorkerState{ID: j.ID, Host: host, PID: os.Getpid(), Version: o.Version, Labels: o.Labels, State: workerJoining, Slots: o.Slots, Roles: []string{}}
	j.ended, j.end = context.WithCancelCause(context.Background())
	joining, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(j.ended, cancel)()
	if j.net, err = natsnet.Dial(joining, o.Line, j.ID, j.connection()); err == nil {
		err = j.greet(joining)
	}
	if err != nil {
		err = cmp.Or(context.Cause(j.ended), err)
		j.Close()
		return nil, err
	}
	return j, nil
}

// connection tells of the connection to the head.
func (j *Joined) connection() func(error) {
	away := ""
	late := time.NewTimer(0)
	late.Stop()
	return func(err error) {
		switch {
		case j.ended.Err() != nil:
		case err == nil && away != "":
			away = ""
			late.Stop()
			if j.joined.Load() {
				j.o.Tell("The head of the run is there again.")
			}
			j.set(func(*presence) {})
		case err != nil && away != err.Error():
			if away == "" {
				line := fmt.Sprintf("The head of the run cannot be reached (%v); trying on.", err)
				switch {
				case j.joined.Load():
					line += " What was done here is kept."
				case !j.o.Line.Elsewhere():
					line += " The line to join by is for the machine of the head alone; other machines can join a run whose cluster.serve is :PORT."
				}
				j.o.Tell(line)
				if j.o.Away > 0 {
					late = time.AfterFunc(j.o.Away, func() { j.end(&AwayError{j.o.Away, err}) })
				}
			}
			away = err.Error()
		}
	}
}

// greet compares versions with the head.
func (j *Joined) greet(ctx context.Context) error {
	w, err := ask[welcome](ctx, j.net, question{"join", j.o.Version, cluster.Version})
	if err != nil {
		return err
	}
	if w.Version != j.o.Version || w.Protocol != cluster.Version {
		return &VersionError{j.o.Version, w.Version}
	}
	j.joined.Store(true)
	if j.standing = w.Standing; j.standing {
		j.o.Tell(fmt.Sprintf("Joined the runs of the head at %s as %s.", strings.Join(j.o.Line.Addresses, ", "), j.ID))
		return nil
	}
	j.o.Tell(fmt.Sprintf("Joined run %s at %s as %s.", w.Run, strings.Join(j.o.Line.Addresses, ", "), j.ID))
	return nil
}

// ask asks the head until it answers, or ctx ends.
func ask[T any](ctx context.Context, net *natsnet.Net, q question) (answer T, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	b, err := net.Request(ctx, headAddress, body)
	if err == nil {
		err = packed.Read(b, &answer)
	}
	return answer, err
}

// Status is how the run of a join line stands, as its head tells.
func Status(ctx context.Context, line natsnet.Join) (*Snapshot, error) {
	net, err := natsnet.Dial(ctx, line, natsnet.NewID("status"), nil)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	v, err := ask[Snapshot](ctx, net, question{Ask: "status"})
	return &v, err
}

// StopRun asks the head of the run of a join line, or all of its heads, to stop, and waits
// until it does not answer any more. It returns how the run stood last; nil where that
// is not known. Where nobody has answered for so long it is a context.DeadlineExceeded.
func StopRun(ctx context.Context, line natsnet.Join, now bool, patience time.Duration) (last *Snapshot, err error) {
	q := question{Ask: "stop"}
	if now {
		q.Ask = "stop now"
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	net, err := natsnet.Dial(asking, line, natsnet.NewID("stop"), nil)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	w, err := ask[welcome](asking, net, q)
	if err != nil {
		return nil, err
	}
	if w.Standing {
		return nil, spec.Usagef("this is the line of a standing head, which has several runs: name one of them, and the cluster")
	}
	for {
		asking, cancel := context.WithTimeout(ctx, presenceEvery)
		v, err := ask[Snapshot](asking, net, question{Ask: "status"})
		cancel()
		if err != nil {
			return last, ctx.Err()
		}
		last = &v
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(presenceEvery / 10):
		}
	}
}

// Close leaves the run.
func (j *Joined) Close() {
	j.end(nil)
	if j.net != nil {
		j.net.Close()
	}
}

// Snapshot is what this process does: of the roles that it serves, and its models.
func (j *Joined) Snapshot() *Snapshot {
	j.mu.Lock()
	w, all := j.worker, j.several
	j.mu.Unlock()
	if all != nil {
		v := &Snapshot{}
		all.show(v)
		return v
	}
	if w == nil {
		return &Snapshot{}
	}
	v := &Snapshot{Name: w.Plan.Run.Name, Models: modelsOf(w.Plan), Pools: poolsOf(w.Plan)}
	steps := w.Progress()
	for _, role := range w.Serves() {
		v.Roles = append(v.Roles, RoleSnapshot{Name: role, RoleProgress: steps[role]})
		v.NewHops += steps[role].Hops
	}
	return v
}

// Run acts for the run until its head says that it has ended, and returns nil then.
// So it does after Stopping(ctx) has ended: what has not begun goes back, and the rest
// lands until ctx ends or the grace period of the run is over. Where the head is away
// it waits for it, as long as JoinOptions.Away says, and keeps what was done. A head of
// another version is handed what was done. An error says why this process cannot act any
// more. For the runs of a standing head it acts until it is to end. Call it once.
func (j *Joined) Run(ctx context.Context) (err error) {
	if j.standing {
		return j.runSeveral(ctx)
	}
	for _, address := range []string{"all", j.ID} {
		stop, err := j.net.Receive(headTellsAddress+address, j.hear)
		if err != nil {
			return err
		}
		defer stop()
	}
	hard, cut := context.WithCancel(ctx)
	defer cut()
	soft, drain := context.WithCancel(matrix.Stopping(ctx))
	defer drain()
	defer context.AfterFunc(j.ended, func() {
		drain()
		if errors.As(context.Cause(j.ended), new(*AwayError)) { // nobody is there to land anything
			cut()
		}
	})()
	ctx = matrix.WithStopping(hard, soft)
	telling, end := context.WithCancel(context.WithoutCancel(ctx))
	var tells sync.WaitGroup
	tells.Go(func() { j.presence(telling) })
	for again := true; again && err == nil; {
		again, err = j.act(ctx)
	}
	end()
	tells.Wait()
	err = cmp.Or(err, j.net.Err())
	switch why := context.Cause(j.ended); {
	case err != nil:
	case why == errFinished:
		j.o.Tell("The run is finished.")
	default:
		err = why
	}
	j.leave(err)
	return err
}

// hear takes in what the head tells all workers.
func (j *Joined) hear(frame []byte) {
	var s headState
	if json.Unmarshal(frame, &s) != nil {
		return
	}
	j.heard.Store(time.Now().UnixNano())
	switch {
	case s.Version != j.o.Version:
		j.end(&VersionError{j.o.Version, s.Version})
	case s.State == headFinished:
		j.end(errFinished)
	}
	j.mu.Lock() // the addresses have a goroutine each
	defer j.mu.Unlock()
	select {
	case <-j.heads: // an older one
	default:
	}
	j.heads <- s
}

// presence tells the head of this process now and then, and when something changes.
func (j *Joined) presence(ctx context.Context) {
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	j.heard.Store(time.Now().UnixNano())
	for {
		j.tell()
		if time.Since(time.Unix(0, j.heard.Load())) > absent { // of several heads this one is cut off from the leader
			j.heard.Store(time.Now().UnixNano())
			j.net.Move()
		}
		select {
		case <-tick.C:
		case <-j.kick:
		case <-ctx.Done():
			return
		}
	}
}

// tell tells the head of this process.
func (j *Joined) tell() {
	j.mu.Lock()
	if j.worker != nil {
		j.now.Steps = j.worker.Progress()
	}
	if all := j.several; all != nil {
		v := &Snapshot{}
		j.now.Runs, j.now.Why = all.show(v)
		j.now.Steps = map[string]run.RoleProgress{}
		for _, role := range v.Roles {
			j.now.Steps[role.Name] = role.RoleProgress
		}
	}
	b, err := json.Marshal(&j.now)
	j.mu.Unlock()
	if err == nil {
		_ = j.net.Send(presenceAddress+j.ID, b) // it is told again
	}
}

// set changes what the head is told, soon.
func (j *Joined) set(change func(*presence)) {
	j.mu.Lock()
	change(&j.now)
	j.mu.Unlock()
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// leave says goodbye.
func (j *Joined) leave(why error) {
	j.set(func(p *presence) {
		p.State = workerLeaving
		if why != nil {
			p.Why = why.Error()
		}
	})
	j.tell()
}

// act opens a worker and has it act. again says that the run is another one now, for
// which a worker is to be opened anew.
func (j *Joined) act(ctx context.Context) (again bool, err error) {
	soft := matrix.Stopping(ctx)
	w, err := OpenWorker(soft, j.kinds, WorkerOptions{
		From: j.net, Cache: j.o.Cache, Labels: j.o.Labels, Roles: j.o.Roles, Slots: j.o.Slots, lane: j.o.lane,
		Log: j.o.Log, Middleware: j.o.Middleware, On: j.o.On, Halted: j.halted,
	})
	if soft.Err() != nil {
		if w != nil {
			return false, w.Close()
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() {
		j.mu.Lock()
		j.now.Steps, j.worker = w.Progress(), nil
		j.mu.Unlock()
		if closing := w.Close(); err == nil {
			err = closing
		}
	}()
	lacks := lackingLine(w.Lacks())
	j.mu.Lock()
	j.worker = w
	j.mu.Unlock()
	j.set(func(p *presence) {
		p.State, p.Roles, p.Why = workerWorking, slices.Sorted(slices.Values(w.Serves())), lacks
	})
	j.o.Tell(strings.TrimSpace(fmt.Sprintf("Serving %s. %s", strings.Join(w.Serves(), ", "), lacks)))
	return j.work(ctx, w)
}

// lackingLine says in a line which roles cannot act, and why.
func lackingLine(lacks map[string][]string) string {
	var lines []string
	for _, role := range slices.Sorted(maps.Keys(lacks)) {
		lines = append(lines, fmt.Sprintf("Not %s: %s.", role, strings.Join(lacks[role], "; ")))
	}
	return strings.Join(lines, " ")
}

// halted tells the head why this worker has to stop, and has it drain.
func (j *Joined) halted(err error) {
	j.set(func(p *presence) {
		p.State, p.Why = workerDraining, err.Error()
		errors.As(err, &p.Halt)
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.drain()
}

// work has a worker act until the run ends or is another one, or ctx is to end.
func (j *Joined) work(ctx context.Context, w *Worker) (again bool, err error) {
	share, leave := j.share(w)
	defer leave()
	room := func(role string) int { return min(w.lane.room(), share.Room(role)) }
	from, err := cluster.NewWorker(cluster.WorkerOptions{ID: j.ID, Net: j.net, Shards: w.Shards, Roles: w.slots(), Room: room, Settled: w.settled})
	if err != nil {
		return false, err
	}
	hard, cut := context.WithCancel(ctx)
	defer cut()
	soft, drain := context.WithCancel(matrix.Stopping(ctx))
	defer drain()
	j.mu.Lock()
	j.drain = drain
	j.mu.Unlock()
	closing := make(chan error, 1)
	go func() {
		<-soft.Done()
		late := time.AfterFunc(max(w.Plan.Run.Grace, time.Millisecond), cut)
		defer late.Stop()
		closing <- from.Close(hard) // beside Work, which waits for what it has done to be at the head
	}()
	over := make(chan error, 1)
	go func() { over <- w.Work(matrix.WithStopping(hard, soft), from) }()
	draining, lost := soft.Done(), j.net.Lost()
	stopped := false
	for {
		select {
		case err := <-over:
			drain()
			late := <-closing
			if errors.Is(err, matrix.ErrClosed) {
				err = nil // the closing was first
			}
			switch {
			case late != nil && hard.Err() != nil:
				j.o.Tell("What was done last could not be handed over: it is done again elsewhere.")
			case err == nil:
				err = late
			}
			return again && err == nil, err
		case <-draining:
			draining = nil
			j.set(func(p *presence) { p.State = workerDraining })
		case <-lost:
			lost = nil
			cut()
			drain()
		case s := <-j.heads:
			switch {
			case soft.Err() != nil:
			case s.State == headStopping && !stopped:
				j.o.Tell("The head of the run stops, with tasks pending: waiting for it to go on.")
				j.set(func(*presence) {}) // it waits to be told what was done last
			case s.State == headWorking && s.Bundle != w.Bundle():
				j.o.Tell("The run has another config, or other files, now: beginning anew.")
				again = true
				drain()
			}
			stopped = s.State == headStopping
		}
	}
}

// share has the calls of a worker keep to what the head gives, and be paid from what it
// lends, until leave is called.
func (j *Joined) share(w *Worker) (m *admission.Member, leave func()) {
	m = admission.NewMember(admission.MemberOptions{ID: j.ID, Net: j.net, Models: w.Plan.Clients(), Asks: w.Plan.Asks})
	paid := spend.Borrow(w.Plan.Run.Budget, w.Plan.Bills, m)
	for _, role := range w.Plan.Roles {
		if a, ok := role.Agent.(*agent.CommandAgent); ok {
			a.Charge(paid.Reported)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := m.Serve(ctx); err != nil {
			j.halted(err)
		}
	}()
	return m, func() {
		cancel()
		<-over
	}
}

// slots are how many tasks of each role may be here at once.
func (w *Worker) slots() map[string]int {
	slots := map[string]int{}
	for _, name := range w.serves {
		n := cmp.Or(w.Plan.Roles[name].Concurrency, w.Plan.Run.Live)
		if most := w.lane.of.most; most > 0 {
			n = min(n, most)
		}
		slots[name] = n
	}
	return slots
}
