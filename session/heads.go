package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix/cluster/heads"
	"matrix/cluster/natsnet"
	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// What heads tell of themselves and of the logs of shards.
type (
	HeadState = heads.Head
	LogState  = heads.LogState
)

// RunEnded is what Open returns where another head has led the run to its end.
type RunEnded = heads.EndedError

// LeadLost is what a head's session ends with when another one leads: it was out of
// reach of most of them, or its process stood still. Nothing is lost: once it is closed,
// a session that is opened After it stands by. Who opens none calls Leave.
type LeadLost struct {
	Err   error
	heads *heads.Heads // whose server the others may need
}

func (e *LeadLost) Error() string { return "another head of the run leads now" }
func (e *LeadLost) Unwrap() error { return e.Err }

// Leave has this process be no head any more.
func (e *LeadLost) Leave() error {
	if e == nil || e.heads == nil {
		return nil
	}
	return e.heads.Close()
}

// patience with servers, at the end of a session.
const (
	endFor     = 10 * time.Second // to tell other heads of the end
	landFor    = 10 * time.Second // for what has landed within the grace period to be in the logs
	releaseFor = 3 * time.Second
	logsEvery  = 2 * time.Second
)

// among is this process as one of several heads of a run, which leads it.
type among struct {
	heads *heads.Heads
	lead  *heads.Lead
	known []string // workers that were there as it came to lead; nil where it cannot know

	look sync.WaitGroup
	stop context.CancelFunc // of look

	mu       sync.Mutex
	logs     []heads.LogState
	all      bool // all heads are to stop
	over     bool // the run has ended so that no head goes on
	finished bool
	taker    *LeadLost // what Run has returned, where that is so
	late     *time.Timer
	gaveUp   bool // on the logs
	code     int
	says     string
}

// checkHeads says what is wrong with what a config says of several heads.
func checkHeads(c *spec.Cluster, o Options) error {
	switch {
	case c.Serve == "":
		return spec.Usagef("cluster.peers and cluster.nats are for a run that lets workers join: say where, with cluster.serve")
	case len(c.Peers) > 0 && c.NATS != "":
		return spec.Usagef("cluster.peers and cluster.nats: give one of them: servers in the heads, or your own")
	case c.Store == "":
		return spec.Usagef("cluster.store: with several heads each needs a folder on a disk of its own machine")
	case o.Fresh:
		return spec.Usagef("several heads do not start over, since each of them would: give a new folder with out=DIR, or end all heads and remove the old one")
	case o.Retry:
		return spec.Usagef("failed tasks are tried again by one process: once the run has finished, without cluster.peers and cluster.nats; the folder is the same")
	}
	return nil
}

// standBy waits until this process leads the run in dir. It returns nil where the run
// has finished, and none is needed.
func standBy(ctx context.Context, kinds *registry.Registry, dir string, c *spec.Config, o Options) (a *among, err error) {
	cl := &c.Run.Cluster
	if err := checkHeads(cl, o); err != nil {
		return nil, err
	}
	host, port, err := ServeAddress(cl.Serve)
	if err != nil {
		return nil, err
	}
	secrets, err := secretsOf(dir)
	if err != nil {
		return nil, err
	}
	if finishedIn(dir) {
		return nil, heads.Removing(cl.Store, secrets.Run)
	}
	if err := rehearse(kinds, c, o); err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		name = "head"
	}
	a = &among{}
	tell := o.Stand
	if tell == nil {
		tell = func(string) {}
	}
	if o.After != nil && o.After.heads != nil {
		a.heads, o.After.heads = o.After.heads, nil
	} else {
		a.heads, err = heads.Open(ctx, heads.Options{
			Secrets: secrets, Name: natsnet.NewID(name), Store: cl.Store,
			Host: host, Port: port, Peers: cl.Peers, Advertise: cl.Advertise, NATS: cl.NATS,
		})
		if err != nil {
			return nil, headsError(cl, err)
		}
		for _, w := range a.heads.Weak() {
			tell("cluster.nats: " + w + ".")
		}
	}
	listened, err := a.listen()
	if err != nil {
		return nil, errors.Join(err, a.heads.Close())
	}
	waiting, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	stand := a.standing(tell)
	a.lead, err = a.heads.Lead(waiting, func(s heads.Standing) {
		stand(s)
		if err := rundir.CheckStandby(dir, c, kinds.Parts()); err != nil && !o.Accept {
			refuse(err)
		}
	})
	a.known = listened()
	if err != nil {
		ended := new(RunEnded)
		if errors.As(err, &ended) && ended.Code == 0 || finishedIn(dir) {
			err = errors.Join(ended, a.heads.Remove())
		} else {
			err = errors.Join(headsError(cl, err), a.heads.Close())
		}
		return nil, err
	}
	looking, stop := context.WithCancel(context.Background())
	a.stop = stop
	if tell = o.Tell; tell == nil {
		tell = func(string) {}
	}
	a.look.Go(func() { a.lookAt(looking, tell) })
	return a, nil
}

// headsError is err in the words of a config.
func headsError(c *spec.Cluster, err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return &spec.UsageError{Err: &ServeError{c.Serve, op.Err}}
	}
	if errors.As(err, new(*heads.PeersError)) {
		return spec.Usagef("cluster.peers: %w", err)
	}
	if errors.As(err, new(*heads.StoreError)) {
		return fmt.Errorf("cluster.store: %w", err)
	}
	if errors.As(err, new(*heads.NATSError)) {
		return fmt.Errorf("cluster.nats: %w", err)
	}
	return err
}

// rehearse makes all that a config names and closes it, so that who stands by does not
// find out when it is to lead that it cannot.
func rehearse(kinds *registry.Registry, c *spec.Config, o Options) error {
	if c.Run.Cluster.NoWork { // only who leads has what it needs of the environment
		return nil
	}
	p, err := Build(kinds, c, registry.ToCheck)
	if err != nil {
		return err
	}
	return p.Close()
}

// secretsOf are the secrets of the run in a folder, which are made where there are none.
func secretsOf(dir string) (*natsnet.Secrets, error) {
	s, err := natsnet.NewSecrets()
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(&headFile{Secrets: *s}, "", "  ")
	if err != nil {
		return nil, err
	}
	if b, err = rundir.MakeSecret(dir, rundir.ClusterFile, append(b, '\n')); err != nil {
		return nil, err
	}
	var kept headFile
	if err := json.Unmarshal(b, &kept); err != nil {
		return nil, fmt.Errorf("%s: %w; without it the run has a new join line", rundir.ClusterFile, err)
	}
	return &kept.Secrets, nil
}

// finishedIn reports whether the run in a folder has finished, and is one of one
// machine again.
func finishedIn(dir string) bool {
	if _, elsewhere, err := rundir.Elsewhere(dir); elsewhere || err != nil {
		return false
	}
	var s struct{ Finished bool }
	b, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile))
	return err == nil && json.Unmarshal(b, &s) == nil && s.Finished && local.Exists(filepath.Join(dir, rundir.StateDir))
}

// standing tells a person how this head stands while it waits, when that changes.
func (a *among) standing(tell func(string)) func(heads.Standing) {
	told, alone := "", time.Now()
	return func(s heads.Standing) {
		line := ""
		switch {
		case s.Away == nil:
			alone = time.Now()
			if s.Leader != "" && s.Leader != a.heads.Name() {
				line = fmt.Sprintf("Standing by as %s: %s leads.", a.heads.Name(), s.Leader)
			}
		case time.Since(alone) < patienceWithPeers:
		case len(s.Away) == 0:
			line = "No quorum: the servers of the heads do not answer yet."
		default:
			var names []string
			for _, name := range slices.Sorted(maps.Keys(s.Away)) {
				names = append(names, fmt.Sprintf("%s (%s)", name, s.Away[name]))
			}
			if line = "No quorum: waiting for " + strings.Join(names, ", ") + "."; s.Quorum {
				line = "Waiting for " + strings.Join(names, ", ") + ": a run begins once all heads are there."
			}
		}
		if line != "" && line != told {
			told = line
			tell(line)
		}
	}
}

// patienceWithPeers is how long heads may take to find each other before somebody is told.
const patienceWithPeers = 10 * time.Second

// lookAt looks now and then at the other heads and at the logs, and tells when heads
// come and go.
func (a *among) lookAt(ctx context.Context, tell func(string)) {
	tick := time.NewTicker(logsEvery)
	defer tick.Stop()
	away, quorum := map[string]bool{}, true
	for {
		asking, cancel := context.WithTimeout(ctx, logsEvery)
		logs, err := a.lead.Logs(asking)
		a.lead.Place(asking, logs)
		cancel()
		a.mu.Lock()
		if a.logs = logs; err != nil {
			a.logs = nil
		}
		a.mu.Unlock()
		all := a.heads.All()
		now := map[string]bool{}
		for _, h := range all {
			if h.Away == "" {
				if away[h.Name] {
					tell(fmt.Sprintf("Head %s is there again.", h.Name))
				}
				continue
			}
			if now[h.Name] = true; !away[h.Name] {
				tell(fmt.Sprintf("Head %s is away: %s.", h.Name, h.Away))
			}
		}
		away = now
		if there := 2*len(away) < len(all); there != quorum {
			if quorum = there; quorum {
				tell("Most heads are there again: the run goes on.")
			} else {
				tell("No quorum: most heads are away, and nothing can be committed until one of them is there again. Nothing is lost.")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// server is the network of all heads; nil where who leads has one of its own.
func (a *among) server() *natsnet.Server {
	if a == nil {
		return nil
	}
	return a.heads.Server()
}

// listen hears of workers while this head stands by. listened ends that, and returns those
// that may be at something: nil where it has not heard of workers for long enough, without
// a gap, to know all of them: those of a head that is cut off move within that time.
func (a *among) listen() (listened func() []string, err error) {
	if a.server() == nil {
		return func() []string { return nil }, nil
	}
	var whole, last time.Time // it has heard of workers all the time since, and until
	heard := map[string]time.Time{}
	stop, err := a.server().Net().Receive(presenceAddress+"*", func(frame []byte) {
		var p presence
		if json.Unmarshal(frame, &p) != nil || p.ID == "" {
			return
		}
		now := time.Now()
		if now.Sub(last) > silentAfter { // this head stood still, or was cut off
			whole = now
		}
		last, heard[p.ID] = now, now
		if p.State == workerLeaving || p.State == workerJoining {
			delete(heard, p.ID)
		}
	})
	if err != nil {
		return nil, err
	}
	return func() []string {
		stop()
		if time.Since(whole) < 2*absent || time.Since(last) > silentAfter {
			return nil
		}
		maps.DeleteFunc(heard, func(_ string, at time.Time) bool { return time.Since(at) > 2*absent })
		return append([]string{}, slices.Collect(maps.Keys(heard))...)
	}, nil
}

// holders are the workers that may be at something as this head comes to lead; nil where
// it cannot know.
func (a *among) holders() []string {
	if a == nil {
		return nil
	}
	return a.known
}

// guard ends what waits for the logs, and calls end, once another head leads, until
// unguard is called.
func (a *among) guard(end func()) (unguard func()) {
	if a == nil {
		return func() {}
	}
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-a.lead.Lost():
			end()
			_ = a.lead.Cut()
		case <-over:
		}
	})
	return func() {
		close(over)
		watch.Wait()
	}
}

// giveUp closes the logs after a while, unless all has landed by then: where most heads are
// away a run that is to stop would wait for them for ever.
func (a *among) giveUp(after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late == nil {
		a.late = time.AfterFunc(after, func() {
			a.mu.Lock()
			a.gaveUp = true
			a.mu.Unlock()
			_ = a.lead.Cut()
		})
	}
}

// landed says that nothing waits for the logs any more.
func (a *among) landed() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late != nil {
		a.late.Stop()
	}
}

func (a *among) hasGivenUp() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gaveUp
}

// taken is err, or a LeadLost where another head has taken over.
func (a *among) taken(err error) error {
	if a == nil || err == nil {
		return err
	}
	isLost := errors.Is(err, local.ErrFenced) || errors.Is(err, dataset.ErrTakenOver)
	select {
	case <-a.lead.Lost():
		isLost = true
	default:
	}
	if isLost && !errors.As(err, new(*LeadLost)) {
		return &LeadLost{Err: err}
	}
	return err
}

// StopAll is Stop for all heads of a run: no other one goes on with it.
func (s *Session) StopAll() {
	if s.among != nil {
		s.among.mu.Lock()
		s.among.all = true
		s.among.mu.Unlock()
	}
	s.Stop()
}

// ended notes what the run ended with, and for whom. finished says that it has, and that the
// folder has all of it.
func (a *among) ended(err error, finished bool) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	errors.As(err, &a.taker)
	a.finished = finished && a.taker == nil
	a.over = a.finished || a.all && errors.Is(err, run.ErrStopped) || errors.As(err, new(*OutOfBudget)) || errors.As(err, new(*run.TooManyFailed))
	if a.code = 1; err == nil {
		a.code = 0
	}
	if err != nil {
		a.says = err.Error()
	}
}

// Last is how the caller ends, once Run has returned: other heads, where the run has
// ended for them too, end with that exit code and these words.
func (s *Session) Last(code int, says string) {
	if s.among == nil {
		return
	}
	s.among.mu.Lock()
	defer s.among.mu.Unlock()
	s.among.code, s.among.says = code, says
}

// GoesOn are the heads that stand by, one of which leads the run once this one has been
// stopped; none where the run stops too, or waits for heads that are away.
func (s *Session) GoesOn() (names []string) {
	if s.among == nil || s.among.over {
		return nil
	}
	all := s.among.heads.All()
	for _, h := range all {
		if h.Name == s.among.heads.Name() || h.State != heads.Standby {
			continue
		}
		names = append(names, h.Name)
	}
	if s.among.server() != nil && 2*len(names) <= len(all) { // they are no quorum
		return nil
	}
	return names
}

// close leaves the heads: the others hear of the end, or one of them goes on.
func (a *among) close() error {
	a.stop()
	a.look.Wait()
	var errs []error
	if a.over {
		ctx, cancel := context.WithTimeout(context.Background(), endFor)
		errs = append(errs, a.lead.End(ctx, a.code, a.says))
		if a.finished {
			errs = append(errs, a.lead.Remove(ctx))
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseFor)
	defer cancel()
	_ = a.lead.Release(ctx) // the others wait until it was silent
	switch {
	case a.finished:
		return errors.Join(append(errs, a.heads.Remove())...)
	case a.taker != nil:
		a.taker.heads = a.heads
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, a.heads.Close())...)
}

// show adds to a snapshot the heads, and how their logs stand.
func (a *among) show(v *Snapshot) {
	v.Heads = a.heads.All()
	a.mu.Lock()
	defer a.mu.Unlock()
	v.Logs = slices.Clone(a.logs)
}
