package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"matrix/internal/child"
	"matrix/internal/stopping"
)

// ProcessConfig is a pool of programs that each keep the state of many tasks at once: an
// environment that agents act on. A program reads a line of JSON and answers with one,
// in any order:
//
//	{"seq","op":"hello"}                                         {"seq","data":{"name","version","deterministic"}}
//	{"seq","op":"open","lease","row","seed","calls":[..]}        {"seq","data":{..},"shared":{NAME: HASH}}
//	{"seq","op":"get","shared":HASH}                             {"seq","data":..}
//	{"seq","op":"call","lease","key","as","name","arguments"}    {"seq","content","is_error","changed"}
//	{"seq","op":"judge","row","turns"}                           {"seq","data":{"messages":[..]}}
//	{"seq","op":"score","row","turns","reason","verdicts"}       {"seq","data":{..}}
//	{"seq","op":"close","lease"}                                 {"seq"}
//
// or {"seq","error": TEXT}, for what cannot be done: the task fails. open makes a state of
// the row and of calls, which were made before and were answered with their content.
// shared names values that many tasks have by a hash of them; get asks for one, once a run.
// A call that did not change the state says "changed": false, and is not made again. judge,
// score and get know no lease. A program that ends is started again, and its states are
// made again from their calls, there or in another one.
type ProcessConfig struct {
	Run     []string          `yaml:"run" required:"true" doc:"Program and its arguments."`
	Workers int               `yaml:"workers" free:"true" doc:"Processes that keep states." default:"1"`
	Leases  int               `yaml:"leases" free:"true" doc:"States that one process keeps at once. A task waits where there is no place." default:"64"`
	Score   Scorers           `yaml:"score" doc:"Processes that judge and score, so that calls need not wait for them."`
	Timeout time.Duration     `yaml:"timeout" free:"true" doc:"How long one answer may take; a process that takes longer is killed." default:"60s"`
	TTL     time.Duration     `yaml:"ttl" free:"true" doc:"A state that was not used for so long is given up, and made again when it is needed." default:"10m"`
	Park    time.Duration     `yaml:"park" free:"true" doc:"Where tasks wait for a place, a state that was not used for so long is given up, and made again when it is needed." default:"10s"`
	Restore string            `yaml:"restore" doc:"How a state is made again that was lost or given up: replay makes the calls of its task again; none fails the task, and gives nothing up." default:"replay" enum:"replay,none"`
	Output  int               `yaml:"output" doc:"Bytes of what a call answers; of more the middle is left out, and how much." default:"1048576"`
	Env     map[string]string `yaml:"env" secret:"named" doc:"Environment variables, beyond those of matrix itself. What comes from ${env:NAME}, and what has a name like SERVICE_KEY, is not shown."`
	Files   []string          `yaml:"files" path:"true" free:"true" doc:"Files and folders that the program needs beside those that run names, such as modules that it imports; globs are allowed. Workers on other machines get them."`
	Dir     string            `yaml:"dir" path:"true" doc:"Working directory. Default: the folder of the config."`
}

// Scorers says how many processes score.
type Scorers struct {
	Workers int `yaml:"workers" free:"true" doc:"Processes that judge and score." default:"1"`
}

// sharedDir is where a run's folder of a pool has the values that its states share.
const sharedDir = "shared"

const (
	backoff   = 250 * time.Millisecond
	maxWait   = 30 * time.Second // between two starts of a process
	fruitless = 8                // starts in a row that come to nothing, before the program is at fault
)

// Process is the pool of a ProcessConfig.
type Process struct {
	config ProcessConfig
	name   string
	hide   func(string) string
	log    func(string)
	spawn  child.Spawner

	keepers []*server // of states
	lone    *server   // keeps the state of a call under which processes ended
	scorers chan *server
	alone   chan struct{} // held by who uses lone

	mu        sync.Mutex
	leases    map[string]*lease
	waiting   []chan struct{} // for a place, in order
	free      int             // places
	constants map[string]json.RawMessage
	dir       string // where constants are kept; empty: nowhere
	stats     Stats
	end       chan struct{} // closed by Close
	ended     sync.WaitGroup
}

// Stats counts what a Process has done in this session.
type Stats struct {
	Held, Waiting                int // now: states, and tasks that wait for a place
	Calls                        int
	Made, Restored, Parked, Lost int // states: begun, made again, given up while their task went on, lost with a process
}

var (
	_ Stateful = (*Process)(nil)
	_ Scorer   = (*Process)(nil)
)

// NewProcess makes a pool and starts nothing. hide leaves out of a text what must not be
// shown; log takes what the programs write to stderr, a line at a time.
func NewProcess(name string, c ProcessConfig, hide func(string) string, log func(string)) *Process {
	p := &Process{config: c, name: name, hide: hide, log: log, leases: map[string]*lease{}, free: c.Workers * c.Leases,
		constants: map[string]json.RawMessage{}, alone: make(chan struct{}, 1), end: make(chan struct{}), scorers: make(chan *server, c.Score.Workers)}
	for range c.Workers {
		p.keepers = append(p.keepers, &server{pool: p})
	}
	p.lone = &server{pool: p}
	for range c.Score.Workers {
		p.scorers <- &server{pool: p}
	}
	return p
}

// Open is called before all else: what does not change in a run is kept in dir.
func (p *Process) Open(_ context.Context, _, dir string) error {
	p.dir = filepath.Join(dir, sharedDir)
	if p.config.Restore != "none" {
		p.background(p.tidy)
	}
	return nil
}

// Check implements Pool: it starts a program, and asks who it is.
func (p *Process) Check(ctx context.Context) error {
	_, err := p.keepers[0].peer(ctx)
	return err
}

// Stats counts.
func (p *Process) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting = len(p.waiting)
	s.Held = p.config.Workers*p.config.Leases - p.free
	return s
}

// server is a place for a process, which is started when it is needed.
type server struct {
	pool *Process

	mu    sync.Mutex // held while a process is started
	now   *child.Peer
	known bool      // one has said who it is
	fails int       // starts in a row that came to nothing
	next  time.Time // not started before
	holds int       // leases; guarded by pool.mu
}

// peer is the process of s, started where it has ended.
func (s *server) peer(ctx context.Context) (*child.Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil && !gone(s.now) {
		return s.now, nil
	}
	for wait := time.Until(s.next); wait > 0; wait = time.Until(s.next) {
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
	if gap := backoff << s.fails; s.fails < 16 && gap < maxWait {
		s.next = time.Now().Add(gap)
	} else {
		s.next = time.Now().Add(maxWait)
	}
	s.fails++
	peer, err := s.pool.start(ctx)
	if err != nil {
		if lost := (*LostError)(nil); errors.As(err, &lost) && (!s.known || s.fails >= fruitless) {
			return nil, &BrokenError{err}
		}
		return nil, err
	}
	s.now, s.known = peer, true
	return peer, nil
}

// works says that the process of s has answered: what ends it later is not the program
// as such.
func (s *server) works() {
	s.mu.Lock()
	s.fails = 0
	s.mu.Unlock()
}

func gone(p *child.Peer) bool {
	select {
	case <-p.Ended():
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	wait, free := stopping.Wait(ctx)
	defer free()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-wait.Done():
		return context.Cause(wait)
	}
}

// start starts a process and asks who it is.
func (p *Process) start(ctx context.Context) (*child.Peer, error) {
	cmd := exec.Command(p.config.Run[0], p.config.Run[1:]...)
	cmd.Dir = p.config.Dir
	cmd.Env = os.Environ()
	for k, v := range p.config.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env[len(cmd.Env)-len(p.config.Env):])
	proc, err := p.spawn.Start(cmd, child.Options{Hide: p.hide, Log: func(line string) { p.log(p.name + ": " + line) }})
	if err != nil {
		err = fmt.Errorf("cannot start %s: %w", p.config.Run[0], err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil, &BrokenError{err}
		}
		return nil, &LostError{err}
	}
	peer := child.NewPeer(proc)
	if !p.background(func() { // no process outlives the pool
		select {
		case <-peer.Ended():
		case <-p.end:
		}
		peer.Close()
	}) {
		peer.Close()
		return nil, errClosed
	}
	var hello struct {
		Name          string
		Deterministic *bool
	}
	if err := p.ask(ctx, peer, question{Op: "hello"}, &hello); err != nil {
		proc.Kill()
		if refused := (*refusedError)(nil); errors.As(err, &refused) {
			return nil, &BrokenError{fmt.Errorf("%s: %w", p.config.Run[0], err)}
		}
		return nil, err
	}
	if hello.Deterministic != nil && !*hello.Deterministic && p.config.Restore == "replay" {
		proc.Kill()
		return nil, &BrokenError{fmt.Errorf("%s says that its states cannot be made again by the same calls: write restore: none, with which a task fails whose state is lost", p.config.Run[0])}
	}
	return peer, nil
}

// question is what a process is asked.
type question struct {
	Op        string          `json:"op"`
	Lease     string          `json:"lease,omitempty"`
	Row       json.RawMessage `json:"row,omitempty"`
	Seed      *int64          `json:"seed,omitempty"`
	Calls     []Request       `json:"calls,omitzero"`
	Shared    string          `json:"shared,omitempty"`
	Key       string          `json:"key,omitempty"`
	As        string          `json:"as,omitempty"`
	Name      string          `json:"name,omitempty"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Turns     json.RawMessage `json:"turns,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	Verdicts  json.RawMessage `json:"verdicts,omitempty"`
}

// refusedError is what a process says that it cannot do.
type refusedError struct{ msg string }

func (e *refusedError) Error() string { return e.msg }

// ask asks a process and reads its answer into out, which is what stands at data or, of
// an *answer, all of it. The error is a *refusedError, a *LostError, or ctx's.
func (p *Process) ask(ctx context.Context, peer *child.Peer, q question, out any) error {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(q); err != nil {
		return &refusedError{fmt.Sprintf("%s cannot be asked: %v", q.Op, err)}
	}
	limited, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	text, err := peer.Ask(limited, line.Bytes())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		peer.Process().Kill()
		return &LostError{fmt.Errorf("%s gave no answer to %s within %v%s", p.config.Run[0], q.Op, p.config.Timeout, peer.Process().LastStderr())}
	case err != nil:
		return &LostError{fmt.Errorf("%s %w", p.config.Run[0], err)}
	}
	var head struct {
		Error *string
		Data  json.RawMessage
	}
	if err = json.Unmarshal(text, &head); err == nil && head.Error != nil {
		return &refusedError{p.hide(*head.Error)}
	}
	if err == nil {
		if all, ok := out.(*answer); ok {
			err = json.Unmarshal(text, all)
		} else if out != nil && len(head.Data) > 0 {
			err = json.Unmarshal(head.Data, out)
		}
	}
	if err != nil {
		peer.Process().Kill()
		return &LostError{fmt.Errorf("%s answered %s with what is no answer to it: %w", p.config.Run[0], q.Op, err)}
	}
	return nil
}

// answer is what a process says, all of it.
type answer struct {
	Content *string
	IsError bool `json:"is_error"`
	Changed *bool
	Data    json.RawMessage
	Shared  map[string]string
}

var errClosed = &LostError{errors.New("the pool is closed")}

// background has f run until it ends, which Close waits for. It reports whether there
// is time for that.
func (p *Process) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.end:
		return false
	default:
		p.ended.Go(f)
		return true
	}
}

// Close implements Pool.
func (p *Process) Close() error {
	p.mu.Lock()
	select {
	case <-p.end:
	default:
		close(p.end)
	}
	p.mu.Unlock()
	p.ended.Wait()
	p.spawn.Close()
	return nil
}
