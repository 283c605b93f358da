package jslog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"matrix"
	"matrix/cluster/jslog"
	"matrix/local"
)

// asServer is where a process of this binary finds which server it is to be.
const asServer = "MATRIX_TEST_NATS_SERVER"

func TestMain(m *testing.M) {
	if config := os.Getenv(asServer); config != "" {
		if err := serve(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// remote is a server in a process of its own.
type remote struct {
	Index int
	Dir   string
	Port  int
	Peers []int // ports of the routes; none where it is alone

	cmd *exec.Cmd
}

// serve is a server until nobody holds its standard input any more.
func serve(config string) error {
	var r remote
	if err := json.Unmarshal([]byte(config), &r); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: fmt.Sprint("n", r.Index), Host: "127.0.0.1", Port: r.Port, JetStream: true, StoreDir: r.Dir, SyncAlways: true,
		MaxPayload: 1 << 20, NoSigs: true, NoLog: true, PingInterval: time.Second, MaxPingsOut: 2,
	}
	if len(r.Peers) > 0 {
		o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: r.Peers[r.Index], PoolSize: -1, PingInterval: time.Second, MaxPingsOut: 2}
		for _, p := range r.Peers {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", p)})
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	_, err = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return err
}

func (r *remote) run(t testing.TB) {
	t.Helper()
	config, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(exe)
	r.cmd.Env = append(os.Environ(), asServer+"="+string(config))
	r.cmd.Stderr = os.Stderr
	in, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := r.cmd
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
}

// cpu is how much of it the server has used; 0 where the system does not say.
func (r *remote) cpu() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// remotes starts so many servers in processes of their own, and connects.
func remotes(t testing.TB, n int) ([]*remote, *nats.Conn) {
	t.Helper()
	var rs []*remote
	var urls []string
	dir := t.TempDir()
	ports := freePorts(t, 2*n)
	for i := range n {
		r := &remote{Index: i, Dir: filepath.Join(dir, fmt.Sprint(i)), Port: ports[i]}
		if n > 1 {
			r.Peers = ports[n:]
		}
		r.run(t)
		rs, urls = append(rs, r), append(urls, fmt.Sprint("nats://127.0.0.1:", r.Port))
	}
	var nc *nats.Conn
	until(t, "the servers come up", func() (ok bool) {
		var err error
		nc, err = nats.Connect(strings.Join(urls, ","), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
		return err == nil
	})
	t.Cleanup(nc.Close)
	return rs, nc
}

func openBench(b testing.TB, nc *nats.Conn, replicas int) (*local.Queue, *jslog.Log) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	l, err := jslog.Open(ctx, nc, jslog.Options{Stream: "x", Subject: "log.x", Replicas: replicas})
	if err != nil {
		b.Fatal(err)
	}
	q, err := local.Open("", local.Options{Memory: true, Log: l})
	if err != nil {
		b.Fatal(err)
	}
	return q, l
}

func used(b testing.TB) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkHop is a hop of a queue over a stream, on servers that sync each write:
// 1.8 KiB, ten to a task, which is seeded with 2 KiB and settled.
func BenchmarkHop(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprint("servers=", n), func(b *testing.B) {
			rs, nc := remotes(b, n)
			q, l := openBench(b, nc, n)
			tasks := b.N/10 + 1
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			var settled atomic.Int64
			var most float64
			var loops sync.WaitGroup
			record := make([]byte, 1800)
			servers := func() (d time.Duration) {
				for _, r := range rs {
					d += r.cpu()
				}
				return d
			}
			client, all := used(b), servers()
			b.ResetTimer()
			loops.Go(func() {
				err := matrix.Consume(ctx, q, "a", matrix.Slots(256), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
					if m.Hop == 9 {
						return matrix.Step{Role: "end", Record: record}, nil
					}
					return matrix.Step{Role: "a", Record: record}, nil
				})
				if err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			})
			loops.Go(func() {
				err := q.Collect(ctx, "end", 256, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
					return matrix.Settlement{Fates: slices.Repeat([]matrix.Fate{{Status: matrix.Done}}, len(ms)), Then: func() {
						if settled.Add(int64(len(ms))) == int64(tasks) {
							stop()
						}
					}}, nil
				})
				if err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			})
			for fed := 0; fed < tasks; {
				var seeds []matrix.Seed
				for range min(256, tasks-fed) {
					seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(fed), Role: "a", Record: make([]byte, 2000)})
					fed++
				}
				if _, err := q.Seed(b.Context(), seeds, nil); err != nil {
					b.Fatal(err)
				}
				state, _ := api(b, nc, "STREAM.INFO.x", "")["state"].(map[string]any)
				bytes, _ := state["bytes"].(float64)
				most = max(most, bytes)
				for int64(fed)-settled.Load() > 1000 {
					time.Sleep(time.Millisecond)
				}
			}
			loops.Wait()
			b.StopTimer()
			hops := float64(10 * tasks)
			b.ReportMetric(hops/b.Elapsed().Seconds(), "hops/s")
			b.ReportMetric(float64((used(b)-client).Microseconds())/hops, "µs-client/hop")
			b.ReportMetric(float64((servers()-all).Microseconds())/hops, "µs-servers/hop")
			b.ReportMetric(most/(1<<20), "MiB-log-at-most")
			b.ReportMetric(0, "ns/op")
			if err := q.Close(); err != nil {
				b.Error(err)
			}
			l.Close()
		})
	}
}

// BenchmarkOpen is a queue that is opened over a log of a million live tasks of half a KiB.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprint("servers=", n), func(b *testing.B) {
			_, nc := remotes(b, n)
			q, l := openBench(b, nc, n)
			const tasks = 1_000_000
			for i := 0; i < tasks; {
				var seeds []matrix.Seed
				for range 1000 {
					seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(i), Role: "a", Record: make([]byte, 512)})
					i++
				}
				if _, err := q.Seed(b.Context(), seeds, nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := q.Close(); err != nil {
				b.Fatal(err)
			}
			l.Close()
			cpu := used(b)
			for b.Loop() {
				q, l := openBench(b, nc, n)
				if got := q.Counts().Live; got != tasks {
					b.Fatalf("got %d tasks", got)
				}
				b.StopTimer()
				if err := q.Close(); err != nil {
					b.Fatal(err)
				}
				l.Close()
				b.StartTimer()
			}
			b.ReportMetric((used(b)-cpu).Seconds()/float64(b.N), "CPU-s/op")
		})
	}
}
