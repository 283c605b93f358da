package run_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix"
	"matrix/cluster"
	"matrix/matrixtest"
	"matrix/run"
)

// wire is a network that can be cut for one of those on it.
type wire struct {
	cluster.Net
	cut atomic.Bool
}

func (x *wire) Send(address string, frame []byte) error {
	if x.cut.Load() {
		return nil
	}
	return x.Net.Send(address, frame)
}

func (x *wire) Receive(address string, f func([]byte)) (func(), error) {
	return x.Net.Receive(address, func(frame []byte) {
		if !x.cut.Load() {
			f(frame)
		}
	})
}

// member is a worker process of a cluster.
type member struct {
	name        string
	net         *wire
	tasks       *cluster.Worker
	worker      *run.Worker
	leave, kill context.CancelFunc
	over        chan struct{} // closed when it has ended
	err         error         // with which it did
}

// join begins the worker of a process, which acts with the agents of cfg behind these.
func join(t *testing.T, net cluster.Net, shards int, name string, cfg run.Config, around func(m *member) run.Middleware) *member {
	t.Helper()
	m := &member{name: name, net: &wire{Net: net}, over: make(chan struct{})}
	wc := workerConfig(cfg)
	wc.Middleware = []run.Middleware{around(m)}
	slots := map[string]int{}
	for role := range cfg.Roles {
		slots[role] = 8
	}
	var err error
	if m.worker, err = run.NewWorker(wc); err != nil {
		t.Fatal(err)
	}
	if m.tasks, err = cluster.NewWorker(cluster.WorkerOptions{ID: name, Net: m.net, Shards: shards, Roles: slots, Beat: 50 * time.Millisecond, Resend: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(context.Background())
	soft, leave := context.WithCancel(ctx)
	m.kill, m.leave = kill, leave
	go func() {
		defer close(m.over)
		defer kill()
		m.err = together(func() error {
			return m.worker.Work(matrix.WithStopping(ctx, soft), m.tasks)
		}, func() error {
			select {
			case <-m.tasks.Stopped():
			case <-soft.Done():
			}
			leave()
			return m.tasks.Close(ctx)
		})
	}()
	return m
}

// A run is fed, owned and settled by one process; others act, come, go, and are lost
// without a word. What comes of it is what one process makes of it.
func TestCluster(t *testing.T) {
	const n = 300
	flow := func() run.Config {
		cfg := dialogue(5)
		cfg.Source, cfg.Live = numbered(n), 100
		return cfg
	}
	alone := newBed(t)
	alone.run(flow())
	want := content(alone.tasks("data"))
	for _, noWork := range []bool{true, false} {
		t.Run(fmt.Sprint("no work ", noWork), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.shards = 2
			cfg := flow()
			cfg.NoWork = noWork
			busy, cut := make(chan struct{}), make(chan struct{})
			wait := func(ctx context.Context) { // until one is cut off, so that there is something left to do
				select {
				case <-cut:
				case <-ctx.Done():
				}
			}
			if !noWork {
				cfg.Middleware = []run.Middleware{func(_ string, next matrix.Agent) matrix.Agent {
					return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
						wait(ctx)
						return next.Act(ctx, t)
					})
				}}
				for name, x := range cfg.Roles {
					x.Concurrency = 8
					cfg.Roles[name] = x
				}
			}
			around := func(f func(ctx context.Context, nth int64)) func(*member) run.Middleware {
				var acts atomic.Int64
				return func(*member) run.Middleware {
					return func(_ string, next matrix.Agent) matrix.Agent {
						return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
							f(ctx, acts.Add(1))
							return next.Act(ctx, t)
						})
					}
				}
			}
			network := matrixtest.NewNetwork(64 << 10)
			script := func(ctx context.Context, r *run.Run) error {
				var all []*member
				enter := func(name string, around func(*member) run.Middleware) *member {
					m := join(t, network, 2, name, cfg, around)
					all = append(all, m)
					return m
				}
				first := enter("a", around(func(ctx context.Context, nth int64) {
					if nth == 150 {
						close(busy)
					}
					if nth >= 150 {
						wait(ctx)
					}
				}))
				reached := func(c chan struct{}) bool {
					select {
					case <-c:
						return true
					case <-matrix.Stopping(ctx).Done():
						t.Error("the run ended before its workers had come and gone")
						return false
					}
				}
				if reached(busy) {
					enter("b", around(func(ctx context.Context, _ int64) { wait(ctx) }))
					enter("c", func(m *member) run.Middleware {
						return around(func(ctx context.Context, nth int64) {
							if nth == 10 {
								m.net.cut.Store(true)
								close(cut)
							}
							if nth >= 10 {
								<-ctx.Done()
							}
						})(m)
					})
				}
				if reached(cut) {
					all[2].kill()
					first.leave()
					<-first.over
					enter("a", around(func(context.Context, int64) {}))
				}
				<-matrix.Stopping(ctx).Done()
				for _, m := range all {
					if <-m.over; m.err != nil && !m.net.cut.Load() {
						return fmt.Errorf("worker %s: %w", m.name, m.err)
					}
					r.Elsewhere(m.name, m.worker.Roles())
				}
				return nil
			}
			b.serve = func(ctx context.Context, r *run.Run, qs []run.Store) error {
				serve := []func() error{func() error { return script(ctx, r) }}
				for k, q := range qs {
					o, err := cluster.NewOwner(q, cluster.OwnerOptions{Shard: k, Net: network, Silent: time.Second, Fresh: true})
					if err != nil {
						return err
					}
					serve = append(serve, func() error { return o.Serve(ctx) })
				}
				return together(serve...)
			}
			r, err := b.with(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			p := r.Progress()
			if p.Done != n || !p.Finished || p.Hops != 5*n || p.NewHops < p.Hops || p.Roles["ask"].Acting != 0 {
				t.Errorf("got %+v, want %d done in %d hops, and no fewer steps", p, n, 5*n)
			}
			if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
				t.Errorf("differs from a run of one process: %s", d)
			}
			if a := b.verify(cfg.Source, 1); !a.OK || a.Done != n {
				t.Errorf("verify: got %+v", a)
			}
		})
	}
}
