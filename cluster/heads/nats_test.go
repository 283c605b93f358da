package heads_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"matrix/cluster/heads"
	"matrix/cluster/natsnet"
)

// plain starts a NATS server as somebody else would have it.
func plain(t *testing.T, change func(o *server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, DisableJetStreamBanner: true}
	change(o)
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not come up")
	}
	return s
}

func natsOptions(t *testing.T, url string, n int) (all []heads.Options) {
	t.Helper()
	secrets, err := natsnet.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range n {
		all = append(all, heads.Options{Secrets: secrets, Name: fmt.Sprint("head-", i), Store: filepath.Join(dir, fmt.Sprint(i)), NATS: url})
	}
	return all
}

// Heads over the servers of somebody else lead in turn, and leave nothing there.
func TestOthersNATS(t *testing.T) {
	t.Parallel()
	s := plain(t, func(o *server.Options) { o.MaxPayload = 128 << 10 })
	o := natsOptions(t, s.ClientURL(), 2)
	first, second := open(t, o[0]), open(t, o[1])
	weak := strings.Join(first.Weak(), "\n")
	for _, want := range []string{"max_payload is 131072", "one server", "sync_interval: always"} {
		if !strings.Contains(weak, want) {
			t.Errorf("weak: got %q, want something of %s", weak, want)
		}
	}
	l := lead(t, first)
	q := shard(t, l, 0)
	if err := seed(t, q, "one"); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l = lead(t, second); l.Epoch() < 2 {
		t.Errorf("epoch: got %d", l.Epoch())
	}
	q = shard(t, l, 0)
	if n := q.Counts().Live; n != 1 {
		t.Errorf("the second leader has %d tasks, want 1", n)
	}
	if logs, err := l.Logs(t.Context()); err != nil || len(logs) != 1 || logs[0].Of != 1 || logs[0].Bytes == 0 {
		t.Errorf("logs: got %+v, %v", logs, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	ended := leads(t, first)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.End(ctx, 0, ""); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.As(err, new(*heads.EndedError)) {
		t.Errorf("the other head: got %v, want that the run has ended", err)
	}
	if err := errors.Join(l.Remove(ctx), l.Cut(), second.Remove(), first.Remove()); err != nil {
		t.Error(err)
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		t.Errorf("stream %s is left", name)
	}
	if names.Err() != nil {
		t.Error(names.Err())
	}
}

// What servers lack or do not allow is said, and not waited for.
func TestOthersNATSRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		change     func(o *server.Options)
	}{
		{"no JetStream", "JetStream is not on", func(o *server.Options) { o.JetStream = false }},
		{"small messages", "max_payload", func(o *server.Options) { o.MaxPayload = 4 << 10 }},
		{"no permission", "$JS.API.>", func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"mx.>"}}}}}
		}},
		{"no permission for keys", "$KV.", func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"mx.>", "$JS.API.>"}}}}}
		}},
		{"no permission for logs", "mx.", func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$KV.>", "$JS.API.>"}}}}}
		}},
		{"wrong password", "Authorization", func(o *server.Options) { o.Username, o.Password = "u", "q" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := plain(t, c.change)
			o := natsOptions(t, strings.Replace(s.ClientURL(), "nats://", "nats://u:p@", 1), 1)[0]
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			h, err := heads.Open(ctx, o)
			if err == nil {
				defer h.Close()
				_, err = h.Lead(ctx, nil)
			}
			var refused *heads.NATSError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ":p@") {
				t.Errorf("got %v, want a NATSError with %q, and no password", err, c.want)
			}
		})
	}
}

func TestPeers(t *testing.T) {
	t.Parallel()
	secrets, err := natsnet.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want  string
		port  int
		peers []string
		say   []string
	}{
		{"port of their own", 0, []string{"a", "b", "c"}, nil},
		{"want 3 or 5", 7070, []string{"127.0.0.1", "b"}, nil},
		{"twice", 7070, []string{"127.0.0.1", "127.0.0.1:7070", "c"}, nil},
		{"none of", 7070, []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}, nil},
		{"none of", 7070, []string{"127.0.0.1:7071", "192.0.2.2", "192.0.2.3"}, nil},
		{"are all this machine", 7070, []string{"127.0.0.1", "localhost", "192.0.2.3"}, nil},
		{"not HOST or HOST:PORT", 7070, []string{"127.0.0.1:x", "b", "c"}, nil},
		{"not HOST or HOST:PORT", 7070, []string{"127.0.0.1:65535", "b", "c"}, nil},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := heads.Open(ctx, heads.Options{Secrets: secrets, Store: t.TempDir(), Host: "127.0.0.1", Port: c.port, Peers: c.peers, Advertise: c.say})
		cancel()
		if !errors.As(err, new(*heads.PeersError)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.peers, err, c.want)
		}
	}
}
