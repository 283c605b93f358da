//go:build unix

package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"matrix"
	"matrix/local"
)

// What a hop costs: a record of 1.8 KiB, a seed of 2 KiB, 10 hops a task, feeding and
// settling included. The other side is played, and is in what is counted; so is
// copying frames. go test ./cluster -bench . -run none -benchtime 100000x

const (
	benchHops   = 10
	benchRecord = 1843
	benchSeed   = 2048
	benchLive   = 2000
)

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// direct is a network of goroutines: each address has one.
type direct struct {
	mu sync.RWMutex
	to map[string]chan []byte
	wg sync.WaitGroup
}

// newDirect makes a network that ends with the benchmark.
func newDirect(b *testing.B) *direct {
	d := &direct{to: map[string]chan []byte{}}
	b.Cleanup(func() {
		d.mu.Lock()
		for address, c := range d.to {
			close(c)
			delete(d.to, address)
		}
		d.mu.Unlock()
		d.wg.Wait()
	})
	return d
}

func (d *direct) MaxFrame() int { return 1 << 20 }

func (d *direct) Send(address string, frame []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if c := d.to[address]; c != nil {
		select {
		case c <- append([]byte(nil), frame...):
		default: // lost
		}
	}
	return nil
}

func (d *direct) Receive(address string, f func([]byte)) (func(), error) {
	c := make(chan []byte, 1<<12)
	d.mu.Lock()
	d.to[address] = c
	d.mu.Unlock()
	d.wg.Go(func() {
		for b := range c {
			f(b)
		}
	})
	return func() {}, nil
}

// played is a worker that does nothing but what it must.
type played struct {
	net  *direct
	head workerFrame
	mu   sync.Mutex
	out  framer
}

func play(net *direct, id string, roles ...string) *played {
	w := &played{net: net, head: workerFrame{version: Version, worker: id, incarnation: 1}}
	w.out = framer{size: 512 << 10, begin: func(b []byte) []byte { w.head.seq++; return w.head.header(b) }, send: func(b []byte) { _ = net.Send("x.0", b) }}
	record := make([]byte, benchRecord)
	sum := matrix.Sum(record)
	_, _ = net.Receive("d."+id, func(b []byte) {
		f, err := readOwner(b)
		if err != nil {
			panic(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.head.epoch, w.head.seen = f.epoch, max(w.head.seen, f.seq)
		w.out.start()
		for i := range f.tasks {
			d := &f.tasks[i]
			s := matrix.Step{Role: "sink", Priority: 1, Record: record, Sum: sum}
			if d.m.Hop+1 < benchHops {
				s.Role = fmt.Sprint("r", (d.m.Hop+1)%2)
			}
			start := len(w.out.b)
			w.out.b = putStep(w.out.b, ref{d.m.Task, d.m.Hop, d.m.Sum, d.serial}, &s)
			w.out.end(start)
		}
		w.out.flush()
	})
	w.out.start()
	var list []places
	for _, role := range roles {
		list = append(list, places{role, benchLive / 2, 0})
	}
	w.out.b = putHello(w.out.b, list, nil)
	w.out.flush()
	return w
}

func BenchmarkOwner(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers map[string][]string
	}{
		{"moved", map[string][]string{"even": {"r0"}, "odd": {"r1"}}},
		{"stays", map[string][]string{"w": {"r0", "r1"}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			q, err := local.Open(b.TempDir(), local.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			net := newDirect(b)
			o, err := NewOwner(q, OwnerOptions{Net: net, Fresh: true, Silent: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- o.Serve(ctx) }()
			for !net.listens("x.0") {
				time.Sleep(time.Millisecond)
			}
			for id, roles := range c.workers {
				play(net, id, roles...)
			}
			tasks := max(1, b.N/benchHops)
			credit := make(chan struct{}, benchLive)
			for range benchLive {
				credit <- struct{}{}
			}
			b.ResetTimer()
			before := cpu()
			go func() {
				for fed := 0; fed < tasks; {
					var seeds []matrix.Seed
					<-credit
					for more := true; more; {
						seeds = append(seeds, matrix.Seed{Task: fmt.Sprintf("t%08d", fed), Row: int64(fed), Role: "r0", Record: make([]byte, benchSeed)})
						fed++
						more = false
						if fed < tasks && len(seeds) < 256 {
							select {
							case <-credit:
								more = true
							default:
							}
						}
					}
					if _, err := q.Seed(ctx, seeds, nil); err != nil {
						b.Error(err)
						return
					}
				}
			}()
			done, all := 0, make(chan struct{})
			go func() {
				_ = q.Collect(ctx, "sink", 1024, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
					st := matrix.Settlement{Fates: make([]matrix.Fate, len(ms))}
					for i := range ms {
						st.Fates[i] = matrix.Fate{Status: matrix.Done, Line: i}
					}
					st.Then = func() {
						for range ms {
							credit <- struct{}{}
						}
						if done += len(ms); done == tasks {
							close(all)
						}
					}
					return st, nil
				})
			}()
			<-all
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/1e3/float64(tasks*benchHops), "cpu-us/hop")
			b.StopTimer()
			cancel()
			if err := <-served; err != nil {
				b.Error(err)
			}
		})
	}
}

func (d *direct) listens(address string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.to[address] != nil
}

func BenchmarkWorker(b *testing.B) {
	for _, c := range []struct {
		name string
		log  int // records beside the seed that come with a task
	}{{"moved", benchHops / 2}, {"stays", -1}} {
		b.Run(c.name, func(b *testing.B) {
			net := newDirect(b)
			head := ownerFrame{version: Version, epoch: 1}
			out := framer{size: 512 << 10, begin: func(b []byte) []byte { head.seq++; return head.header(b) }, send: func(b []byte) { _ = net.Send("d.w", b) }}
			var log [][]byte
			if c.log >= 0 {
				log = append(log, make([]byte, benchSeed))
				for range c.log {
					log = append(log, make([]byte, benchRecord))
				}
			}
			sent, acked, all := 0, 0, make(chan struct{})
			hand := func() {
				if sent == b.N {
					return
				}
				m := matrix.Message{Task: fmt.Sprintf("t%08d", sent), Role: "r0", Hop: benchHops / 2}
				sent++
				start := len(out.b)
				out.b = putTask(out.b, uint64(sent), &m, m.Hop+1-len(log), log)
				out.end(start)
			}
			begun := false
			_, _ = net.Receive("x.0", func(frame []byte) {
				f, err := readWorker(frame)
				if err != nil {
					panic(err)
				}
				head.incarnation = f.incarnation
				out.start()
				if f.hello && !begun {
					begun = true
					for range benchLive / 2 {
						hand()
					}
				}
				for i := range f.results {
					out.b = putRef(append(out.b, kindAck), f.results[i].ref)
					out.end(len(out.b))
					acked++
					hand()
				}
				out.flush()
				if acked >= b.N {
					close(all)
					acked = -1 << 40
				}
			})
			w, err := NewWorker(WorkerOptions{ID: "w", Net: net, Shards: 1, Roles: map[string]int{"r0": benchLive}})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			record := make([]byte, benchRecord)
			sum := matrix.Sum(record)
			var failed atomic.Int64
			b.ResetTimer()
			before := cpu()
			ended := make(chan error, 1)
			go func() {
				ended <- matrix.Consume(ctx, w, "r0", matrix.Slots(64), func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
					if c.log >= 0 {
						if log, err := m.Log(ctx, 0); err != nil || len(log) != c.log+1 {
							failed.Add(1)
						}
					}
					return matrix.Step{Role: "r1", Record: record, Sum: sum}, nil
				})
			}()
			<-all
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/1e3/float64(b.N), "cpu-us/hop")
			b.StopTimer()
			cancel()
			done, end := context.WithTimeout(context.Background(), time.Second)
			defer end()
			_ = w.Close(done)
			<-ended
			if failed.Load() > 0 {
				b.Errorf("%d logs were not whole", failed.Load())
			}
		})
	}
}

// BenchmarkBeats is what the beats of 1,000 workers cost their owner, each of which
// holds 12 tasks: one comes every millisecond.
func BenchmarkBeats(b *testing.B) {
	const workers, each = 1000, 12
	q, err := local.Open(b.TempDir(), local.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	seeds := make([]matrix.Seed, workers*each)
	for i := range seeds {
		seeds[i] = matrix.Seed{Task: fmt.Sprint("t", i), Role: "r0", Record: []byte("seed")}
	}
	if _, err := q.Seed(b.Context(), seeds, nil); err != nil {
		b.Fatal(err)
	}
	net := newDirect(b)
	o, err := NewOwner(q, OwnerOptions{Net: net, Fresh: true, Silent: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- o.Serve(ctx) }()
	for !net.listens("x.0") {
		time.Sleep(time.Millisecond)
	}
	var answers atomic.Int64
	fakes := make([]*workerFrame, workers)
	for i := range fakes {
		f := &workerFrame{version: Version, worker: fmt.Sprint("w", i), incarnation: 1, seq: 1}
		fakes[i] = f
		_, _ = net.Receive("d."+f.worker, func(frame []byte) {
			x, err := readOwner(frame)
			if err != nil {
				panic(err)
			}
			f.epoch, f.seen = x.epoch, x.seq
			for _, d := range x.tasks {
				f.count++
				f.hash ^= mark(d.m.Task, d.m.Hop)
			}
			answers.Add(1)
		})
		hello := *f
		_ = net.Send("x.0", putHello(hello.header(nil), []places{{"r0", each, 0}}, nil))
	}
	for q.Counts().Waiting["r0"] > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	list := []places{{"r0", each, 0}}
	b.ResetTimer()
	began, before, n := time.Now(), cpu(), 0
	for b.Loop() {
		f := fakes[n%workers]
		n++
		f.seq++
		_ = net.Send("x.0", putBeat(putPlaces(f.header(nil), list), f.count, f.hash))
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
	}
	took := cpu() - before
	b.ReportMetric(took.Seconds()/time.Since(began).Seconds()*100, "%core")
	b.ReportMetric(float64(took.Microseconds())/float64(n), "cpu-us/beat")
	cancel()
	if err := <-served; err != nil {
		b.Error(err)
	}
}
