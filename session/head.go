package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"matrix"
	"matrix/cluster"
	"matrix/cluster/admission"
	"matrix/cluster/natsnet"
	"matrix/internal/packed"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/spec"
)

// Addresses of a run's network, beside those of package cluster and of the bundle.
const (
	headAddress      = "h.head" // questions to the head
	headTellsAddress = "h."     // of a worker, or of all: what the head tells them
	presenceAddress  = "p."     // of a worker: what it tells of itself
)

// headName is the id of a head that acts, too; no worker has it.
const headName = "head"

const (
	presenceEvery = 2 * time.Second
	silentAfter   = 5 * time.Second  // without a word; what a worker had in hand waits again then
	absent        = 10 * time.Second // after so long without a word a worker is gone
	farewell      = 5 * time.Second  // for workers to hear that the run ends, and to tell what they did last
)

// question is what a process asks the head.
type question struct {
	Ask      string `json:"ask"` // join, status, stop or stop now
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
}

// welcome is the answer to who wants to join.
type welcome struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	Run      string `json:"run"`                // its name
	Standing bool   `json:"standing,omitempty"` // this is no run: a standing head has several, and tells by an Offer
}

// headState is what a head tells all workers, every few seconds and where it changes.
type headState struct {
	State   string `json:"state"`
	Bundle  string `json:"bundle"`  // what workers are made of; see Worker.Bundle
	Version string `json:"version"` // of the head's program
}

// States of a head.
const (
	headWorking  = "working"
	headStopping = "stopping" // tasks are pending: a head may go on with them later
	headFinished = "finished"
)

// presence is what a worker tells of itself, every few seconds and where it changes.
type presence struct {
	WorkerState
	Halt *run.TooManyFailed `json:"halt,omitempty"` // for which the run must stop
}

// headFile is what a run's folder keeps so that its heads are the same one to workers.
type headFile struct {
	natsnet.Secrets
	Host string `json:"host"`
	Port int    `json:"port"` // at that host, where none is asked for
}

// head lets workers in other processes act for the run of a session.
type head struct {
	s      *Session
	tell   func(line string)
	onStop func(now bool)
	self   WorkerState // of this process: without Steps
	shares map[string]*share
	said   welcome
	on     *natsnet.Net // nil until it is open
	join   natsnet.Join
	leader *admission.Leader // of what the calls of all processes share
	first  bool              // no head of the run was there before
	bundle string
	owners []*cluster.Owner
	stops  []func()

	mu      sync.Mutex
	state   headState
	workers map[string]*WorkerState // that are there
}

// ServeAddress reads an address to serve at.
func ServeAddress(at string) (host string, port int, err error) {
	if _, err := strconv.Atoi(at); err == nil {
		at = net.JoinHostPort("127.0.0.1", at)
	}
	host, text, err := net.SplitHostPort(at)
	if port, err2 := strconv.Atoi(text); err == nil && err2 == nil && port >= 0 && port <= 65535 {
		return host, port, nil
	}
	return "", 0, spec.Usagef("cluster.serve: got %q, want HOST:PORT, :PORT for all addresses of this machine, or PORT for itself alone", at)
}

// ServeError says that workers cannot be let in at an address.
type ServeError struct {
	Address string
	Err     error
}

func (e *ServeError) Error() string { return fmt.Sprintf("cluster.serve: %s: %v", e.Address, e.Err) }
func (e *ServeError) Unwrap() error { return e.Err }

// free says as a ServeError why nobody can listen at an address. A host that is a name
// and any port are not asked for.
func free(host string, port int) error {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	if port == 0 || host != "" && net.ParseIP(host) == nil {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		return &spec.UsageError{Err: &ServeError{address, err}}
	}
	return l.Close()
}

// checkServe says what hinders a run from letting workers in as its config says.
func (s *Session) checkServe() error {
	c := &s.Plan.Run.Cluster
	if s.seat != nil {
		return nil
	}
	if c.Serve == "" {
		if c.NoWork {
			return spec.Usagef("cluster.no_work: without cluster.serve nobody would do the work")
		}
		return nil
	}
	host, port, err := ServeAddress(c.Serve)
	if err != nil || s.among.server() != nil {
		return err
	}
	return free(host, port)
}

// prepareHead has the engine of a session let workers act, where the config says so.
func (s *Session) prepareHead(engine *run.Config, o Options) error {
	c := &s.Plan.Run.Cluster
	if c.Serve == "" && s.seat == nil {
		return nil
	}
	labels := o.Labels
	if labels == nil {
		var err error
		if labels, err = Labels(nil); err != nil {
			return err
		}
	}
	serves, err := s.Plan.Serves(labels)
	if err != nil {
		return &spec.UsageError{Err: err}
	}
	s.head = &head{
		s: s, tell: o.Tell, onStop: o.OnStop, shares: map[string]*share{}, workers: map[string]*WorkerState{},
		said: welcome{Version: o.Version, Protocol: cluster.Version, Run: s.Plan.Run.Name},
		self: WorkerState{ID: headName, Host: labels["host"], PID: os.Getpid(), Version: o.Version, Labels: labels, State: workerWorking, Roles: []string{}},
	}
	if s.head.tell == nil {
		s.head.tell = func(string) {}
	}
	engine.Roles = maps.Clone(engine.Roles)
	for name, role := range engine.Roles {
		if serves[name] {
			if !c.NoWork {
				s.head.self.Roles = append(s.head.self.Roles, name)
			}
			continue
		}
		role.Agent = nil
		engine.Roles[name] = role
	}
	slices.Sort(s.head.self.Roles)
	engine.NoWork, engine.Serve = c.NoWork, s.head.serve
	engine.Slots = func(role string, n int) matrix.Semaphore {
		x := &share{most: n} // nothing is taken before serve says so
		s.head.shares[role] = x
		return x
	}
	return nil
}

// open lets workers in, who then wait until the run begins.
func (h *head) open(ctx context.Context, o Options) error {
	b, err := h.s.Plan.Bundle(h.s.run.Limits(), len(h.s.Folder.Stores()), o.Warn)
	if err != nil {
		return err
	}
	h.bundle = b.Sum()
	h.state = headState{headWorking, h.bundle, o.Version}
	if err = h.connect(ctx); err != nil {
		return err
	}
	on := h.on
	h.leader = admission.NewLeader(admission.LeaderOptions{Net: on, Models: h.s.Plan.Clients(), Budgets: h.s.money.Budgets()})
	for k, q := range h.s.Folder.Stores() {
		owner, err := cluster.NewOwner(q, cluster.OwnerOptions{Shard: k, Net: on, Fresh: h.first, Holders: h.s.among.holders()})
		if err != nil {
			return err
		}
		h.owners = append(h.owners, owner)
	}
	stop, err := b.Serve(on)
	if err != nil {
		return err
	}
	h.stops = append(h.stops, stop)
	if p := h.s.past; p != nil {
		stops, err := p.serve(on, on.MaxFrame())
		if h.stops = append(h.stops, stops...); err != nil {
			return err
		}
	}
	if stop, err = on.Receive(presenceAddress+"*", h.hear); err != nil {
		return err
	}
	h.stops = append(h.stops, stop)
	if stop, err = on.Answer(headAddress, h.answer); err != nil {
		return err
	}
	h.stops = append(h.stops, stop)
	return nil
}

// settled tells workers of a task that has ended, for what they hold for it.
func (h *head) settled(task string) {
	if h == nil {
		return
	}
	for _, owner := range h.owners {
		owner.Settled(task)
	}
}

// connect makes the network of a head, and writes the join line.
func (h *head) connect(ctx context.Context) error {
	var server *natsnet.Server
	var err error
	switch all := h.s.among.server(); {
	case all != nil: // of all heads, whoever leads
		server = all
	case h.s.seat != nil:
		if h.on, err = natsnet.DialHead(ctx, *h.s.seat, nil); err != nil {
			return err
		}
		h.stops = append(h.stops, h.on.Close)
		h.join = h.s.seat.Join
	default:
		if server, h.first, err = h.s.listen(h.s.Plan.Run.Cluster); err != nil {
			return err
		}
		h.stops = append(h.stops, server.Close)
	}
	if server != nil {
		h.on, h.join = server.Net(), server.Join()
	}
	if h.s.among != nil || h.s.seat != nil { // who makes the secrets need not have led
		h.first = !h.s.Folder.Again
	}
	return h.s.Folder.SaveSecret(rundir.JoinFile, []byte(h.join.String()+"\n"))
}

// listen begins to let workers in, as the head that the run had before. first says that no head was there before.
func (s *Session) listen(c spec.Cluster) (_ *natsnet.Server, first bool, err error) {
	host, port, err := ServeAddress(c.Serve)
	if err != nil {
		return nil, false, err
	}
	var kept headFile
	b, err := s.Folder.Secret(rundir.ClusterFile)
	if err != nil {
		return nil, false, err
	}
	if b != nil {
		if err := json.Unmarshal(b, &kept); err != nil {
			return nil, false, fmt.Errorf("%s: %w; without it the run has a new join line", rundir.ClusterFile, err)
		}
	} else {
		first = true
		secrets, err := natsnet.NewSecrets()
		if err != nil {
			return nil, false, err
		}
		kept.Secrets = *secrets
	}
	if port == 0 && kept.Host == host {
		port = kept.Port
	}
	if err := free(host, port); err != nil {
		return nil, false, err
	}
	server, err := natsnet.Serve(natsnet.ServerOptions{Secrets: &kept.Secrets, Host: host, Port: port, Advertise: c.Advertise})
	if err != nil {
		return nil, false, spec.Usagef("cluster.serve: %w", err)
	}
	kept.Host, kept.Port = host, server.Port()
	if b, err = json.MarshalIndent(&kept, "", "  "); err == nil {
		err = s.Folder.SaveSecret(rundir.ClusterFile, append(b, '\n'))
	}
	if err != nil {
		server.Close()
		return nil, false, err
	}
	return server, first, nil
}

// close ends the connections of workers.
func (h *head) close() error {
	for _, stop := range slices.Backward(h.stops) {
		stop()
	}
	if h.on != nil && h.s.run.Finished() {
		return h.s.Folder.SaveSecret(rundir.JoinFile, nil)
	}
	return nil
}

// admit has the calls of all processes share what there is, until end is called.
func (h *head) admit() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = h.leader.Serve(ctx) // without a network no worker is there either
	}()
	return func() {
		cancel()
		<-over
	}
}

// serve is run.Config.Serve.
func (h *head) serve(ctx context.Context) error {
	beside, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { h.watch(beside) })
	owners, held := errgroup.WithContext(ctx)
	for _, o := range h.owners {
		owners.Go(func() error { return o.Serve(held) })
	}
	err := owners.Wait()
	end()
	watch.Wait()
	if err == nil {
		h.farewell(ctx)
	}
	return err
}

// watch tells workers that the run goes on, forgets those who are silent, and divides
// the work.
func (h *head) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	ready := h.ready(ctx)
	for n := 0; ; n++ {
		if n%4 == 0 {
			h.announce("all")
		}
		workers := h.present()
		for _, w := range workers {
			switch silent := time.Since(w.Heard); {
			case silent > absent:
				h.leave(w.ID, "it is silent")
			case silent > silentAfter:
				h.s.run.Elsewhere(w.ID, nil) // it is at nothing that counts
			}
		}
		if ready == nil {
			h.divide(workers)
		}
		select {
		case <-ctx.Done():
			return
		case <-ready:
			ready = nil
		case <-tick.C:
		}
	}
}

// ready is closed once all shards are handed out: what workers hold of the head before is
// not to be done twice.
func (h *head) ready(ctx context.Context) <-chan struct{} {
	all := make(chan struct{})
	go func() {
		for _, o := range h.owners {
			select {
			case <-o.Ready():
			case <-ctx.Done():
				return
			}
		}
		close(all)
	}()
	return all
}

// divide says how much this process takes of each role, and so leaves to workers.
func (h *head) divide(workers []WorkerState) {
	roles := h.s.run.Progress().Roles
	for name, x := range h.shares {
		others := 0
		for _, w := range workers {
			if w.State != workerWorking || time.Since(w.Heard) > 2*presenceEvery || !slices.Contains(w.Roles, name) {
				continue
			}
			n := x.most
			if w.Slots > 0 {
				n = min(n, w.Slots)
			}
			others += n
		}
		x.Resize(x.of(roles[name], others))
	}
}

// announce tells a worker, or all, how the run stands.
func (h *head) announce(to string) {
	h.mu.Lock()
	b, err := json.Marshal(h.state)
	h.mu.Unlock()
	if err == nil {
		_ = h.on.Send(headTellsAddress+to, b) // told again soon
	}
}

// farewell tells all workers how the run ends, until all of them have told what they
// did last.
func (h *head) farewell(ctx context.Context) {
	over := h.s.run.Finished()
	if h.s.run.Met() { // what they were at is dropped, and that ended ctx
		over, ctx = true, context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	h.mu.Lock()
	h.state.State = headStopping
	if over {
		h.state.State = headFinished
	}
	h.mu.Unlock()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		h.announce("all")
		waits := slices.ContainsFunc(h.present(), func(w WorkerState) bool {
			silent := time.Since(w.Heard) > 2*presenceEvery
			return !silent && (over || w.Heard.Before(began))
		})
		if !waits {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hear takes in what a worker tells of itself.
func (h *head) hear(frame []byte) {
	var p presence
	if err := json.Unmarshal(frame, &p); err != nil || p.ID == "" {
		return
	}
	p.Heard = time.Now()
	if p.Steps != nil {
		h.s.run.Elsewhere(p.ID, p.Steps)
	}
	if p.Halt != nil {
		h.s.run.Halt(p.Halt)
	}
	if p.State == workerLeaving {
		h.leave(p.ID, p.Why)
		return
	}
	h.mu.Lock()
	was := h.workers[p.ID]
	h.workers[p.ID] = &p.WorkerState
	h.mu.Unlock()
	if was == nil {
		h.announce(p.ID) // it may have been made for another config than the run has now
	}
	if p.State == workerWorking && (was == nil || was.State != workerWorking) {
		line := fmt.Sprintf("Worker %s has joined: %s.", p.ID, strings.Join(p.Roles, ", "))
		if p.Why != "" {
			line += " " + p.Why
		}
		h.tell(line)
	}
}

// leave notes that a worker is gone.
func (h *head) leave(id, why string) {
	h.mu.Lock()
	_, known := h.workers[id]
	delete(h.workers, id)
	h.mu.Unlock()
	if !known {
		return
	}
	h.s.run.Elsewhere(id, nil)
	h.leader.Left(id)
	if h.s.run.Finished() {
		return
	}
	line := fmt.Sprintf("Worker %s is gone", id)
	if why != "" {
		line += ": " + why
	}
	h.tell(line + ".")
}

// present are the workers that are there, by id. One that is silent is at nothing.
func (h *head) present() []WorkerState {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := []WorkerState{}
	for _, w := range h.workers {
		x := *w
		if silent := time.Since(x.Heard); silent > silentAfter {
			x.State, x.Silent = workerSilent, silent.Seconds()
			x.Steps = maps.Clone(x.Steps)
			for name, p := range x.Steps {
				p.Acting = 0
				x.Steps[name] = p
			}
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b WorkerState) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// show adds to a snapshot who is there, and which roles nobody serves.
func (h *head) show(v *Snapshot) {
	self := h.self
	if len(self.Roles) == 0 {
		v.join(nil, h.present())
		return
	}
	self.Steps, self.Heard = h.s.run.Here(), time.Now()
	v.join(&self, h.present())
}

// answer answers a question to the head.
func (h *head) answer(body []byte) []byte {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return nil
	}
	switch q.Ask {
	case "status":
		return packed.Write(h.s.Snapshot())
	case "stop", "stop now":
		if h.onStop != nil {
			h.onStop(q.Ask == "stop now")
		}
		return packed.Write(h.said)
	default:
		return packed.Write(h.said)
	}
}

// JoinFile is the file with the line by which workers join; empty where none can.
func (s *Session) JoinFile() string {
	if s.head == nil || s.head.on == nil {
		return ""
	}
	return filepath.Join(s.Folder.Path, rundir.JoinFile)
}

// Addresses are HOST:PORT under which workers reach the session; nil where none can join.
func (s *Session) Addresses() []string {
	if s.head == nil || s.head.on == nil {
		return nil
	}
	return s.head.join.Addresses
}
