package jslog_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// servers are NATS servers with JetStream in this process: one, or a cluster with routes over loopback.
type servers struct {
	all     []*server.Server
	options []*server.Options
}

// start starts so many servers, which sync each write.
func start(t testing.TB, n int, maxPayload int32) *servers {
	t.Helper()
	return startWith(t, n, maxPayload, true)
}

// full reports whether the tests may take some minutes: then all of them sync each write.
func full() bool { return os.Getenv("MATRIX_CLUSTER") == "full" }

// startWith starts so many servers, and says whether they sync each write: nobody
// cuts their power.
func startWith(t testing.TB, n int, maxPayload int32, sync bool) *servers {
	t.Helper()
	s := &servers{}
	dir := t.TempDir()
	ports := freePorts(t, n)
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint(i)), SyncAlways: sync, MaxPayload: maxPayload,
			NoSigs: true, NoLog: true, PingInterval: time.Second, MaxPingsOut: 2, DisableJetStreamBanner: true,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i], PoolSize: -1, PingInterval: time.Second, MaxPingsOut: 2}
			for _, p := range ports {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", p)})
			}
		}
		s.all, s.options = append(s.all, nil), append(s.options, o)
		s.run(t, i)
	}
	t.Cleanup(func() {
		for _, x := range s.all {
			x.Shutdown()
		}
		for _, x := range s.all {
			x.WaitForShutdown()
		}
	})
	for _, x := range s.all {
		if !x.ReadyForConnections(time.Minute) {
			t.Fatal("a server does not come up")
		}
	}
	return s
}

// run starts server i, or starts it again with what it has on its disk.
func (s *servers) run(t testing.TB, i int) {
	t.Helper()
	x, err := server.NewServer(s.options[i].Clone())
	if err != nil {
		t.Fatal(err)
	}
	s.all[i] = x
	x.Start()
}

func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// connect connects to server i, or where it is gone to another one.
func (s *servers) connect(t testing.TB, i int) *nats.Conn {
	t.Helper()
	urls := s.all[i].ClientURL()
	for j, x := range s.all {
		if j != i {
			urls += "," + x.ClientURL()
		}
	}
	nc, err := nats.Connect(urls, nats.DontRandomize(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// leader is which server leads a stream.
func (s *servers) leader(t testing.TB, stream string) int {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for i, x := range s.all {
			if x.Running() && x.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
				return i
			}
		}
	}
	t.Fatal("nobody leads the stream")
	return 0
}
