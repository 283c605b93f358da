package natsnet_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"matrix/cluster/natsnet"
	"matrix/matrixtest"
)

// threePeers are the options of the servers of three heads, at loopback or at all addresses with TLS.
func threePeers(t *testing.T, host string, s *natsnet.Secrets) (o []natsnet.ServerOptions) {
	t.Helper()
	ports := matrixtest.Ports(t, 3)
	var peers []string
	for _, port := range ports {
		peers = append(peers, fmt.Sprint("127.0.0.1:", port))
	}
	dir := t.TempDir()
	for i, p := range ports {
		o = append(o, natsnet.ServerOptions{Secrets: s, Host: host, Port: p, Peers: &natsnet.Peers{Self: peers[i], All: peers, Store: filepath.Join(dir, fmt.Sprint(i))}})
	}
	return o
}

// The servers of three heads are one network: who is at one of them reaches a head at
// another, moves on when it is gone, and may do no more there than at a single head.
func TestPeers(t *testing.T) {
	for _, c := range []struct{ name, host string }{{"plain", "127.0.0.1"}, {"TLS", ""}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := secrets(t)
			o := threePeers(t, c.host, s)
			var all []*natsnet.Server
			for i := range o {
				all = append(all, serve(t, o[i]))
			}
			for _, x := range all {
				for end := time.Now().Add(patience); len(x.Away()) > 0; time.Sleep(20 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("away: %v", x.Away())
					}
				}
			}
			j := all[0].Join()
			if got := j.Addresses[0]; len(j.Addresses) != 3 || got != o[0].Peers.Self {
				t.Errorf("the join line of the first head has %v", j.Addresses)
			}
			w, told := dial(t, j, "w")
			heard := receive(t, all[2].Net(), "x.0")
			untilHeard(t, w, "x.0", heard, "before")
			all[0].Close()
			for err := range told {
				if err == nil {
					break
				}
			}
			untilHeard(t, w, "x.0", heard, "after")
			if away := all[1].Away(); len(away) != 1 || away[o[0].Peers.Self] == nil {
				t.Errorf("away: got %v, want the first", away)
			}

			// Its id belongs to it at all of them.
			second := j
			second.Addresses = []string{o[2].Peers.Self}
			if _, err := natsnet.Dial(t.Context(), second, "w", nil); !errors.As(err, new(*natsnet.RefusedError)) {
				t.Errorf("another process under its id: got %v", err)
			}
		})
	}
}

// untilHeard sends until it is heard: what is sent while servers find each other, or a
// connection is made anew, is lost.
func untilHeard(t *testing.T, n *natsnet.Net, address string, heard <-chan string, frame string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_ = n.Send(address, []byte(frame)) // it is sent again
		select {
		case got := <-heard:
			if got == frame {
				return
			}
		case <-time.After(time.Second):
		}
	}
	t.Fatalf("%.20q is not heard at %s", frame, address)
}

// A worker of several heads can reach neither their streams nor what makes them, and who
// does not have the key of the run is no head.
func TestPeersPermissions(t *testing.T) {
	t.Parallel()
	s := secrets(t)
	o := threePeers(t, "127.0.0.1", s)
	stranger := *s
	other := secrets(t)
	stranger.Key = other.Key // it knows the token, as a worker does
	first, second, third := serve(t, o[0]), serve(t, o[1]), serve(t, o[2])
	nc, err := first.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var made error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, made = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "mx-" + s.Run + "-0", Subjects: []string{"mx." + s.Run + ".log.0"}}); made == nil {
			break
		}
	}
	if made != nil {
		t.Fatalf("a stream of a head: %v", made)
	}
	denied := make(chan error, 100)
	j := second.Join()
	c, err := nats.Connect("nats://"+o[1].Peers.Self, nats.UserInfo("thief", j.Token+".secret"), nats.CustomInboxPrefix("_INBOX.thief"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, subject := range []string{
		"mx." + s.Run + ".log.0", "mx." + s.Run + ".s.head", "mx." + s.Run + ".b.w", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.PURGE.mx-" + s.Run + "-0", "$JS.API.DIRECT.GET.mx-" + s.Run + "-0",
		"$JS.API.STREAM.MSG.GET.mx-" + s.Run + "-0", "$KV.mx-" + s.Run + ".leader", "$SYS.REQ.SERVER.PING",
	} {
		if err := c.PublishRequest(subject, "_INBOX.thief.x", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, "the refusal of "+subject, denied); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("publish to %s: got %v", subject, err)
		}
	}
	third.Close()
	host, port, err := net.SplitHostPort(o[2].Peers.Self)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	mute, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n+1)))
	if err != nil {
		t.Fatal(err)
	}
	var mutes error
	for end := time.Now().Add(patience); mutes == nil && time.Now().Before(end); { // until it is seen that the third is gone
		mutes = first.Away()[o[2].Peers.Self]
	}
	if mutes == nil || !strings.Contains(mutes.Error(), "does not answer") {
		t.Errorf("away: got %v, want one that stands still", mutes)
	}
	mute.Close()
	o[2].Secrets = &stranger
	o[2].Peers.Store = t.TempDir()
	serve(t, o[2])
	if away := first.Away(); away[o[2].Peers.Self] == nil || !strings.Contains(away[o[2].Peers.Self].Error(), "does not let this head in") {
		t.Errorf("away: got %v, want the one without the key", away)
	}
}
