package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
	"matrix/cluster"
	"matrix/cluster/natsnet"
	"matrix/internal/pause"
	"matrix/local"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// ClusterOptions say which hops Cluster measures.
type ClusterOptions struct {
	Exe     string        `json:"-"` // the program matrix: it runs the head and each worker, as processes of their own
	Dir     string        `json:"-"`
	Profile string        `json:"-"` // folder that takes a CPU profile of each process; empty for none
	Workers int           `json:"workers"`
	For     time.Duration `json:"for"`
	Record  int           `json:"record_bytes"` // that a hop adds to a task
	Seed    int           `json:"seed_bytes"`   // that a task begins with
	Hops    int           `json:"hops"`         // of a task
	Live    int           `json:"live"`         // tasks under way at once
	Idle    int           `json:"idle,omitempty"`
}

// ClusterResult is what Cluster measured.
type ClusterResult struct {
	ClusterOptions
	Stays ClusterHops `json:"stays"` // each worker serves all roles: a task goes on where it is
	Moved ClusterHops `json:"moved"` // each worker serves one role: a task is elsewhere after each hop
}

// ClusterHops are hops over a network. Bytes are those of the frames.
type ClusterHops struct {
	HopsPerS  float64 `json:"hops_per_s"`
	HeadCPU   float64 `json:"head_cpu_us"`   // a hop, of the head: queue, disk, owner and NATS server
	WorkerCPU float64 `json:"worker_cpu_us"` // a hop, of all workers
	To        float64 `json:"to_worker_bytes"`
	From      float64 `json:"from_worker_bytes"`
	Read      float64 `json:"read"` // part of the hops whose task's past came with them
	RSS       int64   `json:"head_rss_bytes"`
}

// IdleResult is what workers cost that have nothing to do.
type IdleResult struct {
	Workers   int     `json:"workers"`
	Head      float64 `json:"head_cores"`  // of a run's whole head, with presence, beats and pings
	Without   float64 `json:"alone_cores"` // of the same head before they joined
	Fakes     float64 `json:"workers_cores"`
	HeadRSS   int64   `json:"head_rss_bytes"`
	JoinedInS float64 `json:"joined_in_s"`
}

// clusterRoles are those between which tasks go to and fro.
var clusterRoles = []string{"a", "b"}

// Cluster moves tasks between two roles of a queue whose messages are acted on by
// workers in other processes, once with each worker serving both and once with each
// serving one. Each hop commits a record of Record bytes and is durable before the
// task is seen again; a task begins with Seed bytes, takes Hops hops, is settled, and
// another is seeded for it.
func Cluster(ctx context.Context, o ClusterOptions) (r ClusterResult, err error) {
	r.ClusterOptions = o
	if o.Workers < 2 || o.Record < 1 || o.Seed < 1 || o.Hops < 1 || o.Live < o.Workers || o.For <= 0 {
		return r, errors.New("bench cluster: want 2 workers or more, at least as many tasks under way, and records, hops and time of more than 0")
	}
	if r.Stays, err = o.hops(ctx, false); err != nil {
		return r, err
	}
	r.Moved, err = o.hops(ctx, true)
	return r, err
}

// hops measures one of the two.
func (o *ClusterOptions) hops(ctx context.Context, moved bool) (h ClusterHops, err error) {
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return h, err
	}
	defer remove()
	name := "stays-"
	if moved {
		name = "moved-"
	}
	head, err := o.start(ctx, part{Kind: partHead, Dir: dir}, name+"head")
	if err != nil {
		return h, err
	}
	defer head.end()
	first, err := head.mark()
	if err != nil {
		return h, err
	}
	var workers []*process
	for i := range o.Workers {
		p := part{Kind: partWorker, Join: first.Join, ID: fmt.Sprint("w", i), Roles: clusterRoles}
		if moved {
			p.Roles = clusterRoles[i%len(clusterRoles):][:1]
		}
		w, err := o.start(ctx, p, name+p.ID)
		if err != nil {
			return h, err
		}
		defer w.end()
		workers = append(workers, w)
	}
	if err := pause.For(ctx, max(o.For/5, 200*time.Millisecond)); err != nil { // until all are at it
		return h, err
	}
	marks := func(look func(*process) (mark, error)) (atHead, at mark, err error) {
		if atHead, err = look(head); err != nil {
			return
		}
		for _, w := range workers {
			m, err := look(w)
			if err != nil {
				return atHead, at, err
			}
			at.plus(m)
		}
		return
	}
	headWas, was, err := marks((*process).measure)
	if err != nil {
		return h, err
	}
	began := time.Now()
	if err := pause.For(ctx, o.For); err != nil {
		return h, err
	}
	headIs, is, err := marks((*process).mark)
	if err != nil {
		return h, err
	}
	n := float64(is.Hops - was.Hops)
	if n == 0 {
		return h, errors.New("bench cluster: no hop in the time given")
	}
	return ClusterHops{
		HopsPerS:  n / time.Since(began).Seconds(),
		HeadCPU:   float64((headIs.CPU - headWas.CPU).Microseconds()) / n,
		WorkerCPU: float64((is.CPU - was.CPU).Microseconds()) / n,
		To:        float64(is.In-was.In) / n,
		From:      float64(is.Out-was.Out) / n,
		Read:      float64(is.Read-was.Read) / n,
		RSS:       headIs.RSS,
	}, nil
}

// Idle has workers join a run that have nothing to do: each with a connection of its
// own, all in one process. What is measured is the head of the run.
func Idle(ctx context.Context, o ClusterOptions) (r IdleResult, err error) {
	r.Workers = o.Idle
	if o.Idle < 1 || o.For <= 0 {
		return r, errors.New("bench cluster: want idle workers and time of more than 0")
	}
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return r, err
	}
	defer remove()
	config := `name: idle
dataset: {path: rows.jsonl, id: id}
live: 100
cluster: {serve: "127.0.0.1:0", no_work: true}
roles:
  wait: {where: 'never == "here"', inline: false, compute: {x: 1}}
  idle: {inline: false, compute: {x: 1}}
flow: {start: wait, after: {wait: idle, idle: {finish: true}}}
`
	for name, text := range map[string]string{"config.yaml": config, "rows.jsonl": "{\"id\": 1}\n{\"id\": 2}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			return r, err
		}
	}
	head, err := o.start(ctx, part{Kind: partRun, Dir: dir}, "idle-head")
	if err != nil {
		return r, err
	}
	defer head.end()
	cores := func(look func(*process) (mark, error), p ...*process) (of []float64, err error) {
		var was []mark
		for _, p := range p {
			m, err := look(p)
			if err != nil {
				return nil, err
			}
			was = append(was, m)
		}
		began := time.Now()
		if err := pause.For(ctx, o.For); err != nil {
			return nil, err
		}
		for i, p := range p {
			m, err := p.mark()
			if err != nil {
				return nil, err
			}
			r.HeadRSS = max(r.HeadRSS, m.RSS*int64(1-i))
			of = append(of, (m.CPU-was[i].CPU).Seconds()/time.Since(began).Seconds())
		}
		return of, nil
	}
	first, err := head.mark()
	if err != nil {
		return r, err
	}
	alone, err := cores((*process).mark, head)
	if err != nil {
		return r, err
	}
	began := time.Now()
	fakes, err := o.start(ctx, part{Kind: partIdle, Dir: dir, Join: first.Join, N: o.Idle}, "idle-workers")
	if err != nil {
		return r, err
	}
	defer fakes.end()
	for {
		m, err := head.mark()
		if err != nil {
			return r, err
		}
		if m.Workers == o.Idle {
			break
		}
		if _, err := fakes.mark(); err != nil { // why they cannot join
			return r, err
		}
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return r, err
		}
	}
	r.JoinedInS = time.Since(began).Seconds()
	if err := pause.For(ctx, min(o.For, 2*time.Second)); err != nil { // until what joining cost is over
		return r, err
	}
	both, err := cores((*process).measure, head, fakes)
	if err != nil {
		return r, err
	}
	r.Without, r.Head, r.Fakes = alone[0], both[0], both[1]
	return r, nil
}

// Kinds of part.
const (
	partHead   = "head"   // a queue with its owner, and a server
	partWorker = "worker" // of such a head
	partRun    = "run"    // a run's head: Dir has its config
	partIdle   = "idle"   // N workers of a run
)

// part says what a process of a benchmark is.
type part struct {
	ClusterOptions
	Kind    string
	Dir     string
	Join    string
	ID      string
	Roles   []string
	N       int
	Profile string // file
}

// mark is what a part has done so far. One of a head has how to join it.
type mark struct {
	Error   string `json:",omitempty"`
	Join    string `json:",omitempty"`
	CPU     time.Duration
	RSS     int64
	Hops    int64
	In, Out int64
	Read    int64
	Workers int
}

func (m *mark) plus(x mark) {
	m.CPU += x.CPU
	m.Hops += x.Hops
	m.In += x.In
	m.Out += x.Out
	m.Read += x.Read
}

// process is a part that runs.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said strings.Builder
	once sync.Once
}

// start starts a part.
func (o *ClusterOptions) start(ctx context.Context, x part, name string) (*process, error) {
	x.ClusterOptions = *o
	if o.Profile != "" {
		x.Profile = filepath.Join(o.Profile, name+".prof")
	}
	p := &process{name: name, cmd: exec.CommandContext(ctx, o.Exe, "bench", "part")}
	p.cmd.Stderr = &p.said
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(p.in).Encode(x); err != nil {
		p.end()
		return nil, p.failed(err)
	}
	return p, nil
}

// mark asks a part how far it is.
func (p *process) mark() (mark, error) { return p.ask("") }

// measure does so at the beginning of what is measured.
func (p *process) measure() (mark, error) { return p.ask("measure") }

func (p *process) ask(what string) (m mark, err error) {
	if _, err = p.in.Write([]byte(what + "\n")); err == nil {
		var line []byte
		if line, err = p.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &m)
		}
	}
	if err == nil && m.Error != "" {
		err = errors.New(m.Error)
	}
	if err != nil {
		p.end()
		return m, p.failed(err)
	}
	return m, nil
}

func (p *process) failed(err error) error {
	if said := strings.TrimSpace(p.said.String()); said != "" {
		err = errors.New(strings.TrimPrefix(said, "Error: "))
	}
	return fmt.Errorf("bench cluster: process %s: %w", p.name, err)
}

// end ends a part and waits for it.
func (p *process) end() {
	p.once.Do(func() {
		_ = p.in.Close()
		late := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
		defer late.Stop()
		_ = p.cmd.Wait() // what it was to tell has been read
	})
}

// Part is a process of Cluster or Idle: it reads from in what it is, and then tells
// on out how far it is, once for each line, until in ends.
func Part(ctx context.Context, in io.Reader, out io.Writer, kinds *registry.Registry, version string) error {
	lines := bufio.NewReader(in)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var p part
	if err := json.Unmarshal(first, &p); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var look func(*mark)
	var failed <-chan error
	switch p.Kind {
	case partHead:
		look, failed, err = p.head(ctx)
	case partWorker:
		look, failed, err = p.worker(ctx)
	case partRun:
		look, failed, err = p.run(ctx, kinds, version)
	case partIdle:
		look, failed, err = p.idle(ctx, kinds, version)
	default:
		err = fmt.Errorf("there is no part %q", p.Kind)
	}
	if err != nil {
		return err
	}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil
		}
		if string(line) == "measure\n" && p.Profile != "" {
			f, err := os.Create(p.Profile)
			if err != nil {
				return err
			}
			defer f.Close()
			p.Profile = ""
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
			defer pprof.StopCPUProfile()
		}
		m := mark{CPU: measure().cpu, RSS: PeakRSS()}
		look(&m)
		select {
		case err := <-failed:
			m.Error = fmt.Sprint("it has ended: ", err)
		default:
		}
		if err := json.NewEncoder(out).Encode(m); err != nil {
			return err
		}
	}
}

// begin runs what a process does until ctx ends; the first end of one of them is told.
func begin(ctx context.Context, fs ...func(context.Context) error) <-chan error {
	failed := make(chan error, len(fs))
	for _, f := range fs {
		go func() { failed <- f(ctx) }()
	}
	return failed
}

// head is a queue with its owner, fed with tasks.
func (p *part) head(ctx context.Context) (func(*mark), <-chan error, error) {
	q, err := local.Open(filepath.Join(p.Dir, "state"), local.Options{})
	if err != nil {
		return nil, nil, err
	}
	secrets, err := natsnet.NewSecrets()
	if err != nil {
		return nil, nil, err
	}
	server, err := natsnet.Serve(natsnet.ServerOptions{Secrets: secrets, Host: "127.0.0.1"})
	if err != nil {
		return nil, nil, err
	}
	owner, err := cluster.NewOwner(q, cluster.OwnerOptions{Net: server.Net(), Fresh: true})
	if err != nil {
		return nil, nil, err
	}
	fed := 0
	record := make([]byte, p.Seed)
	seed := func(n int) error {
		seeds := make([]matrix.Seed, n)
		for i := range seeds {
			seeds[i] = matrix.Seed{Task: fmt.Sprint("task-", fed), Row: int64(fed), Role: clusterRoles[fed%len(clusterRoles)], Record: record}
			fed++
		}
		_, err := q.Seed(ctx, seeds, nil)
		return err
	}
	if err := seed(p.Live); err != nil {
		return nil, nil, err
	}
	ended := make(chan int, 1024)
	failed := begin(ctx, owner.Serve, func(ctx context.Context) error {
		return q.Collect(ctx, "done", 4096, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			fates := make([]matrix.Fate, len(ms))
			for i := range fates {
				fates[i].Status = matrix.Done
			}
			return matrix.Settlement{Fates: fates, Then: func() { ended <- len(ms) }}, nil
		})
	}, func(ctx context.Context) error {
		for {
			select {
			case n := <-ended:
				if err := seed(n); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return func(m *mark) { m.Join = server.Join().String() }, failed, nil
}

// counted counts the bytes of frames.
type countedNet struct {
	cluster.Net
	in, out atomic.Int64
}

func (c *countedNet) Send(address string, frame []byte) error {
	c.out.Add(int64(len(frame)))
	return c.Net.Send(address, frame)
}

func (c *countedNet) Receive(address string, f func([]byte)) (func(), error) {
	return c.Net.Receive(address, func(frame []byte) {
		c.in.Add(int64(len(frame)))
		f(frame)
	})
}

// past is a task's log after a hop.
type past struct {
	hop int
	sum uint32
	log [][]byte
}

// worker acts for roles: it has a task's past of the hop before, or asks for it, as
// the worker of a run does.
func (p *part) worker(ctx context.Context) (func(*mark), <-chan error, error) {
	j, err := natsnet.ParseJoin(p.Join)
	if err != nil {
		return nil, nil, err
	}
	dialed, err := natsnet.Dial(ctx, j, p.ID, nil)
	if err != nil {
		return nil, nil, err
	}
	net := &countedNet{Net: dialed}
	slots := max(1, 2*p.Live/p.Workers) // so that a task may stay
	roles := map[string]int{}
	for _, role := range p.Roles {
		roles[role] = slots
	}
	w, err := cluster.NewWorker(cluster.WorkerOptions{ID: p.ID, Net: net, Shards: 1, Roles: roles})
	if err != nil {
		return nil, nil, err
	}
	var hops, read atomic.Int64
	var mu sync.Mutex
	kept := map[string]past{}
	all := len(p.Roles) == len(clusterRoles) // else a task is never here two hops in a row
	record := make([]byte, p.Record)
	sum := matrix.Sum(record)
	act := func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
		mu.Lock()
		was, ok := kept[m.Task]
		delete(kept, m.Task)
		mu.Unlock()
		log := was.log
		if !ok || was.hop != m.Hop || was.sum != m.Sum {
			read.Add(1)
			var err error
			if log, err = m.Log(ctx, 0); err != nil {
				return matrix.Step{}, err
			}
		}
		if len(log) != m.Hop+1 {
			return matrix.Step{}, &matrix.StopError{Err: fmt.Errorf("task %s at hop %d came with %d records", m.Task, m.Hop, len(log))}
		}
		hops.Add(1)
		step := matrix.Step{Role: "done", Priority: 1, Record: record, Sum: sum}
		if m.Hop+1 < p.Hops {
			step.Role = clusterRoles[0]
			if m.Role == step.Role {
				step.Role = clusterRoles[1]
			}
			if all {
				mu.Lock()
				kept[m.Task] = past{m.Hop + 1, sum, append(log[:len(log):len(log)], record)}
				mu.Unlock()
			}
		}
		return step, nil
	}
	var acts []func(context.Context) error
	for _, role := range p.Roles {
		acts = append(acts, func(ctx context.Context) error {
			return matrix.Consume(ctx, w, role, matrix.Slots(slots), act)
		})
	}
	failed := begin(ctx, acts...)
	return func(m *mark) {
		m.Hops, m.Read, m.In, m.Out = hops.Load(), read.Load(), net.in.Load(), net.out.Load()
	}, failed, nil
}

// run is the head of a run.
func (p *part) run(ctx context.Context, kinds *registry.Registry, version string) (func(*mark), <-chan error, error) {
	c, err := spec.Load(filepath.Join(p.Dir, "config.yaml"), nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := session.Open(ctx, kinds, c, session.Options{Dir: filepath.Join(p.Dir, "out"), Version: version})
	if err != nil {
		return nil, nil, err
	}
	line, err := os.ReadFile(s.JoinFile())
	if err != nil {
		return nil, nil, err
	}
	return func(m *mark) {
		m.Join = strings.TrimSpace(string(line))
		for _, w := range s.Snapshot().Workers {
			if len(w.Roles) > 0 { // it has been told what it is to do
				m.Workers++
			}
		}
	}, begin(ctx, s.Run), nil
}

// idle are workers of a run.
func (p *part) idle(ctx context.Context, kinds *registry.Registry, version string) (func(*mark), <-chan error, error) {
	line, err := natsnet.ParseJoin(p.Join)
	if err != nil {
		return nil, nil, err
	}
	at := make(chan struct{}, 8) // who joins at once
	var all []func(context.Context) error
	for i := range p.N {
		all = append(all, func(ctx context.Context) error {
			at <- struct{}{}
			j, err := session.Join(ctx, kinds, session.JoinOptions{
				Line: line, Name: fmt.Sprint("idle", i), Version: version, Slots: 1,
				Cache: filepath.Join(p.Dir, "cache"), Roles: []string{"idle"},
			})
			<-at
			if err != nil {
				return err
			}
			return j.Run(ctx)
		})
	}
	return func(*mark) {}, begin(ctx, all...), nil
}
