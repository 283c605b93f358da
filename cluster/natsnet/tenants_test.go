package natsnet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"matrix/cluster/natsnet"
)

// The heads of several runs at one server, their workers and its clients hear what
// is for them, and nothing else, whatever they try.
func TestTenants(t *testing.T) {
	for name, host := range map[string]string{"plain": "127.0.0.1", "TLS": ""} {
		t.Run(name, func(t *testing.T) {
			a, b := natsnet.NewTenant(), natsnet.NewTenant()
			o := natsnet.ServerOptions{Secrets: secrets(t), Host: host, Clients: natsnet.NewToken(), Tenants: []natsnet.Tenant{a}}
			if host == "" {
				o.Advertise = []string{"127.0.0.1"}
			}
			server := serve(t, o)
			server.Admit(b)
			heads := map[string]*natsnet.Net{}
			for _, x := range []natsnet.Tenant{a, b} {
				n, err := natsnet.DialHead(t.Context(), natsnet.Seat{Join: server.JoinOf(x), At: server.Join().Addresses[0], Head: x.Head}, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(n.Close)
				heads[x.Run] = n
				stop, err := n.AnswerEach("f.head", 4, func(body []byte) []byte { return []byte(x.Run + string(body)) })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(stop)
			}
			// One id in two runs is two workers.
			wa, _ := dial(t, server.JoinOf(a), "w")
			wb, _ := dial(t, server.JoinOf(b), "w")
			toA, toB, all := receive(t, wa, "d.w"), receive(t, wb, "d.w"), receive(t, heads[b.Run], "x.0")
			for x, n := range map[natsnet.Tenant]*natsnet.Net{a: wa, b: wb} {
				if got, err := n.Request(t.Context(), "f.head", []byte("?")); err != nil || string(got) != x.Run+"?" {
					t.Errorf("asked the head: got %q, %v, want %q", got, err, x.Run+"?")
				}
			}
			send(t, heads[a.Run], "d.w", "task of a")
			send(t, heads[b.Run], "d.w", "task of b")
			if got := wait(t, "a task", toA); got != "task of a" {
				t.Errorf("the worker of a heard %q", got)
			}
			if got := wait(t, "a task", toB); got != "task of b" {
				t.Errorf("the worker of b heard %q", got)
			}
			send(t, wa, "x.0", "of a")
			send(t, wb, "x.0", "of b")
			if got := wait(t, "a result", all); got != "of b" {
				t.Errorf("the head of b heard %q", got)
			}

			// A client asks, and answers what it is asked.
			c, _ := dial(t, server.ClientJoin(), "client")
			for n, address := range map[*natsnet.Net]string{server.Net(): "c.head", c: "f.client"} {
				stop, err := n.Answer(address, func(body []byte) []byte { return append(body, '!') })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(stop)
			}
			for n, address := range map[*natsnet.Net]string{c: "c.head", server.Net(): "f.client"} {
				if got, err := n.Request(t.Context(), address, []byte("?")); err != nil || string(got) != "?!" {
					t.Errorf("%s: got %q, %v", address, got, err)
				}
			}
			if host == "" {
				return // what follows is said without TLS
			}
			for who, user := range map[string]nats.Option{
				"a head":   nats.UserInfo("head", a.Run+"."+a.Head),
				"a worker": nats.UserInfo("thief", a.Token+".secret"),
				"a client": nats.UserInfo("thief", o.Clients+".secret"),
			} {
				denied := make(chan error, 100)
				c, err := nats.Connect("nats://"+server.Join().Addresses[0], user, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				subjects := []string{"mx." + b.Run + ".>", "mx.*.d.w", "mx." + server.Join().Run + ".>", "mx." + server.Join().Run + ".h.all", "_INBOX.head.>", "_INBOX.w.>"}
				if who == "a client" {
					subjects = append(subjects, "mx."+a.Run+".d.all", "mx."+server.Join().Run+".c.head", "mx."+server.Join().Run+".f.client")
				}
				for _, subject := range subjects {
					if _, err := c.Subscribe(subject, func(*nats.Msg) {}); err != nil {
						t.Fatal(err)
					}
					if err := c.Flush(); err != nil {
						t.Fatal(err)
					}
					if err := wait(t, who+" refused "+subject, denied); !errors.Is(err, nats.ErrPermissionViolation) {
						t.Errorf("%s subscribes to %s: got %v", who, subject, err)
					}
				}
				for _, subject := range []string{"mx." + b.Run + ".d.w", "mx." + b.Run + ".x.0", "mx." + server.Join().Run + ".h.all", "mx." + server.Join().Run + ".p.w"} {
					if err := c.Publish(subject, nil); err != nil {
						t.Fatal(err)
					}
					if err := c.Flush(); err != nil {
						t.Fatal(err)
					}
					if err := wait(t, who+" refused "+subject, denied); !errors.Is(err, nats.ErrPermissionViolation) {
						t.Errorf("%s publishes to %s: got %v", who, subject, err)
					}
				}
			}

			// Nobody is let in as a head without its password, or once the run is gone.
			server.Dismiss(a.Run)
			for _, password := range []string{b.Run + "." + a.Head, b.Run + ".", b.Run, a.Run + "." + a.Head, server.Join().Run + "."} {
				if c, err := nats.Connect("nats://"+server.Join().Addresses[0], nats.UserInfo("head", password)); !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("as a head: got %v, %v", c, err)
				}
			}
			var refused *natsnet.RefusedError
			if _, err := natsnet.Dial(t.Context(), server.JoinOf(a), "late", nil); !errors.As(err, &refused) || strings.Contains(err.Error(), a.Token) {
				t.Errorf("a worker of a run that is gone: got %v, want a RefusedError", err)
			}
		})
	}
}
