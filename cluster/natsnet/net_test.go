package natsnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/cluster/natsnet"
)

// patience is how long a test waits for what is to happen.
const patience = 60 * time.Second

func secrets(t *testing.T) *natsnet.Secrets {
	t.Helper()
	s, err := natsnet.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve begins a head at loopback, or at all addresses with TLS.
func serve(t *testing.T, o natsnet.ServerOptions) *natsnet.Server {
	t.Helper()
	if o.Secrets == nil {
		o.Secrets = secrets(t)
	}
	if o.Host == "" && len(o.Advertise) == 0 {
		o.Host = "127.0.0.1"
	}
	s, err := natsnet.Serve(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// dial joins, and tells what happens with the connection.
func dial(t *testing.T, j natsnet.Join, id string) (*natsnet.Net, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told := make(chan error, 1000)
	n, err := natsnet.Dial(ctx, j, id, func(err error) { told <- err })
	if err != nil {
		t.Fatalf("dial %v: %v", j.Addresses, err)
	}
	t.Cleanup(n.Close)
	return n, told
}

// wait waits for a value.
func wait[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
	}
	return v
}

// receive receives frames at an address.
func receive(t *testing.T, n *natsnet.Net, address string) <-chan string {
	t.Helper()
	got := make(chan string, 1000)
	stop, err := n.Receive(address, func(frame []byte) { got <- string(frame) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return got
}

func send(t *testing.T, n *natsnet.Net, address, frame string) {
	t.Helper()
	if err := n.Send(address, []byte(frame)); err != nil {
		t.Fatalf("send to %s: %v", address, err)
	}
}

// Head and workers tell each other frames, over plain TCP on loopback and over TLS,
// and a worker asks the head.
func TestFrames(t *testing.T) {
	for name, o := range map[string]natsnet.ServerOptions{
		"loopback":             {},
		"TLS":                  {Advertise: []string{"127.0.0.1"}},
		"dead addresses first": {Advertise: []string{"127.0.0.1:1", "localhost:1", "127.0.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			head := serve(t, o)
			if tls := head.Join().CA != ""; tls != (name != "loopback") {
				t.Errorf("join line %s: TLS is %t", head.Join(), tls)
			}
			j, err := natsnet.ParseJoin(head.Join().String())
			if err != nil {
				t.Fatal(err)
			}
			present, results := receive(t, head.Net(), "p.*"), receive(t, head.Net(), "x.0")
			stop, err := head.Net().Answer("f.head", func(body []byte) []byte { return append(body, body...) })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			for _, id := range []string{"w1", "w2"} {
				w, _ := dial(t, j, id)
				own, all := receive(t, w, "d."+id), receive(t, w, "d.all")
				untilHeard(t, w, "p."+id, present, id)
				untilHeard(t, w, "x.0", results, strings.Repeat("r", w.MaxFrame()))
				untilHeard(t, head.Net(), "d."+id, own, "task")
				untilHeard(t, head.Net(), "d.all", all, "stop")
				if err := w.Send("x.0", make([]byte, w.MaxFrame()+1)); err == nil {
					t.Error("a frame that is too large: got no error")
				}
				reply, err := w.Request(t.Context(), "f.head", []byte("ab"))
				if err != nil || string(reply) != "abab" {
					t.Errorf("request: got %q, %v", reply, err)
				}
			}
		})
	}
}

// Nothing comes once stop has returned.
func TestStop(t *testing.T) {
	head := serve(t, natsnet.ServerOptions{})
	var n int
	stop, err := head.Net().Receive("x.0", func([]byte) { n++ })
	if err != nil {
		t.Fatal(err)
	}
	got := receive(t, head.Net(), "x.1")
	for range 100 {
		send(t, head.Net(), "x.0", "a")
	}
	stop()
	before := n
	send(t, head.Net(), "x.0", "a")
	send(t, head.Net(), "x.1", "b")
	wait(t, "a frame", got)
	if n != before {
		t.Errorf("after stop: got %d frames more", n-before)
	}
}

// What cannot be joined with is told at once.
func TestRefused(t *testing.T) {
	plain, tls := serve(t, natsnet.ServerOptions{}), serve(t, natsnet.ServerOptions{Advertise: []string{"127.0.0.1"}})
	_, _ = dial(t, plain.Join(), "taken")
	wrong := func(j natsnet.Join, change func(*natsnet.Join)) natsnet.Join {
		change(&j)
		return j
	}
	for _, c := range []struct {
		name string
		join natsnet.Join
		id   string
		want string
	}{
		{"token", wrong(plain.Join(), func(j *natsnet.Join) { j.Token += "x" }), "w", "token"},
		{"token over TLS", wrong(tls.Join(), func(j *natsnet.Join) { j.Token += "x" }), "w", "token"},
		{"id of another", plain.Join(), "taken", "another worker's"},
		{"fingerprint", wrong(tls.Join(), func(j *natsnet.Join) { j.CA = strings.Repeat("ab", 32) }), "w", "certificate"},
		{"a head with TLS where none is expected", wrong(tls.Join(), func(j *natsnet.Join) { j.CA = "" }), "w", "certificate"},
		{"a head without TLS where it is expected", wrong(plain.Join(), func(j *natsnet.Join) { j.CA = tls.Join().CA }), "w", "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := natsnet.Dial(ctx, c.join, c.id, nil)
			var refused *natsnet.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a RefusedError with %q", err, c.want)
			}
			if strings.Contains(fmt.Sprint(err), plain.Join().Token) {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
	for _, id := range []string{"", "head", "all", "a.b", "a*", strings.Repeat("a", 65)} {
		if _, err := natsnet.Dial(t.Context(), plain.Join(), id, nil); err == nil {
			t.Errorf("id %q: got no error", id)
		}
	}
	if id := natsnet.NewID("gpu 7.example.org/ü"); len(id) > 64 || id == natsnet.NewID("gpu 7.example.org/ü") || !strings.HasPrefix(id, "gpu-7-example-org-") {
		t.Errorf("NewID: got %q", id)
	}
}

// Who waits for a head that is not there gives up when it is told to.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := natsnet.Serve(natsnet.ServerOptions{Secrets: secrets(t), Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = natsnet.Dial(ctx, natsnet.Join{Token: "x", Run: "aaaaaaaa", Addresses: []string{"127.0.0.1:1"}}, "w", func(err error) {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("told %v, want connection refused", err)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of ctx", err)
	}
}

// A head that comes back with the same secrets at the same port is the same one:
// what workers had subscribed they hear again. One with others is not.
func TestHeadComesBack(t *testing.T) {
	for name, host := range map[string]string{"plain": "127.0.0.1", "TLS": ""} {
		t.Run(name, func(t *testing.T) {
			o := natsnet.ServerOptions{Secrets: secrets(t), Host: host, Advertise: []string{"127.0.0.1"}}
			head := serve(t, o)
			o.Port = head.Port()
			w, told := dial(t, head.Join(), "w")
			tasks := receive(t, w, "d.w")
			head.Close()
			if err := wait(t, "the loss", told); err == nil {
				t.Fatal("told that the head is back, and it is away")
			}
			if err := w.Send("x.0", nil); err == nil {
				t.Error("sent while the head is away: got no error")
			}
			asked := make(chan string, 1)
			go func() {
				reply, err := w.Request(t.Context(), "f.head", []byte("q"))
				asked <- fmt.Sprint(string(reply), err)
			}()
			again := serve(t, o)
			if again.Join().String() != head.Join().String() {
				t.Errorf("join line: got %s, want %s", again.Join(), head.Join())
			}
			for wait(t, "the return", told) != nil {
			}
			stop, err := again.Net().Answer("f.head", func(body []byte) []byte { return body })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			send(t, again.Net(), "d.w", "task")
			if got := wait(t, "a task", tasks); got != "task" {
				t.Errorf("got %q", got)
			}
			if got := wait(t, "the answer", asked); got != "q<nil>" {
				t.Errorf("asked while the head was away: got %s", got)
			}
			again.Close()
			o.Secrets = secrets(t)
			serve(t, o)
			wait(t, "the refusal", w.Lost())
			if err := new(*natsnet.RefusedError); !errors.As(w.Err(), err) {
				t.Errorf("another run's head at the same port: got %v, want a RefusedError", w.Err())
			}
			if _, err := w.Request(t.Context(), "f.head", nil); err == nil {
				t.Error("asked after the refusal: got no error")
			}
		})
	}
}

// What a worker is let in with lets it speak to the head as itself, and nothing else.
func TestPermissions(t *testing.T) {
	head := serve(t, natsnet.ServerOptions{})
	j := head.Join()
	prefix := "mx." + j.Run + "."
	victim, _ := dial(t, j, "victim")
	tasks := receive(t, victim, "d.victim")
	everything := make(chan string, 1000)
	if _, err := head.Net().Receive("*.*", func(frame []byte) { everything <- string(frame) }); err != nil {
		t.Fatal(err)
	}
	denied := make(chan error, 1000)
	c, err := nats.Connect("nats://"+j.Addresses[0], nats.UserInfo("thief", j.Token+".secret"), nats.CustomInboxPrefix("_INBOX.thief"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard := make(chan string, 1000)
	for _, subject := range []string{
		">", "mx.>", prefix + ">", prefix + "d.victim", prefix + "d.*", prefix + "x.0", prefix + "x.*", prefix + "p.*", prefix + "a.victim",
		prefix + "f.head", "_INBOX.>", "_INBOX.victim.>", "_INBOX.head.>", "mx.other.d.all", "$SYS.>",
	} {
		if _, err := c.Subscribe(subject, func(m *nats.Msg) { heard <- m.Subject }); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, "the refusal of "+subject, denied); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("subscribe to %s: got %v", subject, err)
		}
	}
	for _, subject := range []string{
		prefix + "d.victim", prefix + "d.all", prefix + "h.all", prefix + "p.victim", prefix + "a.victim", "_INBOX.victim.x", "_INBOX.head.x",
		prefix + "j.new", "mx.other.x.0", "$JS.API.INFO", "$SYS.REQ.SERVER.PING",
	} {
		if err := c.Publish(subject, []byte(subject)); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, "the refusal of "+subject, denied); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("publish to %s: got %v", subject, err)
		}
	}
	if err := c.Publish(prefix+"x.0", []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, "what is allowed", everything); got != "mine" {
		t.Errorf("the head heard %q, want only what is allowed", got)
	}
	send(t, head.Net(), "d.victim", "task")
	if got := wait(t, "a task", tasks); got != "task" {
		t.Errorf("the victim heard %q", got)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("the thief heard %s", <-heard)
	}

	// What is asked of the head is not answered to somebody else, in the head's name.
	stop, err := head.Net().Answer("f.head", func(body []byte) []byte { return body })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := c.PublishRequest(prefix+"f.head", prefix+"d.victim", []byte("forged")); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Request(prefix+"f.head", []byte("mine"), patience); err != nil || string(m.Data) != "mine" {
		t.Errorf("a question of its own: got %v, %v", m, err)
	}
	send(t, head.Net(), "d.victim", "another task")
	if got := wait(t, "another task", tasks); got != "another task" {
		t.Errorf("the victim heard %q", got)
	}

	// The head's name is no worker's, and its password is nobody's.
	for _, password := range []string{"", j.Token, j.Token + ".x"} {
		if c, err := nats.Connect("nats://"+j.Addresses[0], nats.UserInfo("head", password)); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("as the head with %d characters: got %v, %v", len(password), c, err)
		}
	}
	if _, err := nats.Connect("nats://" + j.Addresses[0]); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("as nobody: got %v", err)
	}
}

func TestParseJoin(t *testing.T) {
	const token = "abcdefghijklmnop234567"
	ca := strings.Repeat("0a", 32)
	for _, c := range []struct {
		line string
		want string // of the error; empty for none
	}{
		{"matrix://" + token + "@127.0.0.1:7070/abcdefg2", ""},
		{"  matrix://" + token + "@head:7070,[fd00::1]:7071/abcdefg2?ca=sha256-" + ca + "\n", ""},
		{"", "does not begin with matrix://"},
		{"nats://x@h:1/r", "does not begin with matrix://"},
		{"matrix://127.0.0.1:7070/abcdefg2", "no token"},
		{"matrix://short@127.0.0.1:7070/abcdefg2", "copied whole"},
		{"matrix://" + token + "@127.0.0.1:7070", "its run \"\""},
		{"matrix://" + token + "@127.0.0.1:7070/run", "its run \"run\""},
		{"matrix://" + token + "@127.0.0.1/abcdefg2", "not HOST:PORT"},
		{"matrix://" + token + "@a:1,,b:2/abcdefg2", "not HOST:PORT"},
		{"matrix://" + token + "@a:99999/abcdefg2", "not HOST:PORT"},
		{"matrix://" + token + "@a:1/abcdefg2?ca=" + ca, "sha256-"},
		{"matrix://" + token + "@a:1/abcdefg2?ca=sha256-" + ca[1:], "sha256-"},
		{"matrix://" + token + "@a:1/abcdefg2?cert=x", "newer version"},
		{"matrix://" + token + "@a:1/abcdefg2?%zz", "cannot be read"},
	} {
		j, err := natsnet.ParseJoin(c.line)
		switch {
		case c.want == "" && (err != nil || j.String() != strings.TrimSpace(c.line)):
			t.Errorf("%q: got %v, %v", c.line, j, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), token)):
			t.Errorf("%q: got %v, want an error with %q", c.line, err, c.want)
		}
	}
}

func FuzzParseJoin(f *testing.F) {
	f.Add("matrix://abcdefghijklmnop234567@127.0.0.1:7070/abcdefg2?ca=sha256-" + strings.Repeat("0a", 32))
	f.Fuzz(func(t *testing.T, line string) {
		j, err := natsnet.ParseJoin(line)
		if err != nil {
			return
		}
		again, err := natsnet.ParseJoin(j.String())
		if err != nil || again.String() != j.String() {
			t.Errorf("%q: read as %s, which reads as %v, %v", line, j, again, err)
		}
	})
}

// What the server finds wrong goes to the hook.
func TestServerLog(t *testing.T) {
	told := make(chan string, 100)
	head := serve(t, natsnet.ServerOptions{Log: func(err string) { told <- err }})
	j := head.Join()
	j.Token += "x"
	if _, err := natsnet.Dial(t.Context(), j, "w", nil); err == nil {
		t.Error("a wrong token: got no error")
	}
	if got := wait(t, "a line", told); !strings.Contains(got, "auth") || strings.Contains(got, j.Token) {
		t.Errorf("got %q", got)
	}
}
