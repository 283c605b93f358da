// Package natsnet is a cluster.Net over core NATS: a server in the process of a
// run's head, and clients in those of its workers. Who may say what to whom is held
// by the server: a worker hears what is for it alone, and speaks to the head alone.
package natsnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/cluster"
)

// Net is one process's way into the network of a run. Where the connection breaks
// it is made again, for as long as it takes; meanwhile nothing can be sent.
type Net struct {
	conn   *nats.Conn
	prefix string
	dialer *dialer       // nil of the head
	closed chan struct{} // with refused set, or by Close

	telling sync.Mutex // held while on is called
	on      func(error)

	mu      sync.Mutex
	refused error
}

var _ interface {
	cluster.Net
	cluster.Requester
} = (*Net)(nil)

// RefusedError says that a run cannot be joined with a join line, now or later.
type RefusedError struct {
	Addresses []string // where the head was asked
	Err       error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s does not let this process in: %v", strings.Join(e.Addresses, ", "), e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

var errToken = errors.New("the token of the join line is not that of its run, or its id is another worker's")

var errAway = errors.New("the connection was closed")

// Dial joins a run under an id, which no other process may have: see NewID. It
// tries until it is let in, ctx ends, or it is refused (*RefusedError). on, unless
// it is nil, is told each time that the head cannot be reached, with why, and of nil
// when it can be again; one call at a time.
func Dial(ctx context.Context, j Join, id string, on func(err error)) (*Net, error) {
	if !validID(id) {
		return nil, fmt.Errorf("%q cannot be the id of a worker: want 1 to 64 letters, digits, - and _, and not %q or \"all\"", id, headUser)
	}
	return dial(ctx, j, id, nats.UserInfo(id, j.Token+"."+random(20)), on)
}

// Seat is the place of a run's head at a server that other runs have, too.
type Seat struct {
	Join        // that of its workers
	At   string // HOST:PORT of the server, for its own machine
	Head string // the password of the head
}

// DialHead connects the head of a run to the server of others, as Dial does. It may do
// anything that concerns its run, and nothing else.
func DialHead(ctx context.Context, s Seat, on func(err error)) (*Net, error) {
	j := s.Join
	j.Addresses = []string{s.At}
	return dial(ctx, j, headID(j.Run), nats.UserInfo(headUser, j.Run+"."+s.Head), on)
}

func headID(run string) string { return headUser + "." + run }

// dial connects to a server.
func dial(ctx context.Context, j Join, id string, user nats.Option, on func(err error)) (*Net, error) {
	d := &dialer{addresses: j.Addresses, wrong: map[string]bool{}}
	options := []nats.Option{user, nats.SetCustomDialer(d), nats.SkipHostLookup()}
	if j.CA != "" {
		options = append(options, nats.Secure(clientTLS(j.CA, d.differs)))
	} else {
		options = append(options, nats.Secure(&tls.Config{VerifyConnection: func(tls.ConnectionState) error {
			d.differs()
			return errPin
		}, InsecureSkipVerify: true}), plain)
	}
	away := false
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		n, err := connectUntil(ctx, func() (*Net, error) { return connect(j.Addresses[0], j.Run, id, d, on, options...) })
		if err == nil {
			if away {
				n.tell(nil)
			}
			return n, nil
		}
		if why := d.judge(err); why != nil {
			return nil, &RefusedError{j.Addresses, why}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if d.round() {
			if !away && on != nil {
				on(d.cause(err))
			}
			away = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// connectUntil does not wait for a connection longer than ctx.
func connectUntil(ctx context.Context, connect func() (*Net, error)) (*Net, error) {
	type made struct {
		n   *Net
		err error
	}
	c := make(chan made, 1)
	go func() {
		n, err := connect()
		if c <- (made{n, err}); err == nil && ctx.Err() != nil {
			n.Close()
		}
	}()
	select {
	case m := <-c:
		return m.n, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// plain has a connection be without TLS, unless the server wants it.
func plain(o *nats.Options) error {
	o.Secure = false
	return nil
}

// dialer connects to one of a head's addresses after the other, from the one on that
// was good last.
type dialer struct {
	addresses []string

	mu     sync.Mutex
	tries  int
	at     int             // what is to be tried next
	wrong  map[string]bool // where somebody else answered, since one did not answer at all
	failed error           // why the last one could not be reached
	refuse func(why error) // of a connection that was made once
}

// Dial is for nats.CustomDialer: what it is given to dial stands for all addresses.
func (d *dialer) Dial(network, _ string) (net.Conn, error) {
	d.mu.Lock()
	address := d.addresses[d.at]
	d.at = (d.at + 1) % len(d.addresses)
	d.tries++
	d.mu.Unlock()
	c, err := net.DialTimeout(network, address, 5*time.Second)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed = err; err != nil {
		clear(d.wrong)
	}
	return c, err
}

// last is the address that was tried last.
func (d *dialer) last() string { return d.addresses[(d.at+len(d.addresses)-1)%len(d.addresses)] }

// differs notes that somebody else answered.
func (d *dialer) differs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wrong[d.last()] = true
	if len(d.wrong) == len(d.addresses) && d.refuse != nil {
		go d.refuse(errPin) // this is called by the connection, which refuse ends
	}
}

// good notes that the head was found, and stays there. refuse ends the connection.
func (d *dialer) good(refuse func(why error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = refuse
	d.at = (d.at + len(d.addresses) - 1) % len(d.addresses)
	clear(d.wrong)
}

// round reports whether all addresses have been tried.
func (d *dialer) round() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries >= len(d.addresses)
}

// cause is why a connection could not be made, where the error tells it less well.
func (d *dialer) cause(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	return err
}

// judge is why the next try will be refused too; nil where it may not be.
func (d *dialer) judge(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return errToken
	case errors.Is(err, nats.ErrSecureConnWanted):
		d.wrong[d.last()] = true
	}
	if len(d.wrong) == len(d.addresses) {
		return errPin
	}
	return nil
}

// connect makes a connection as the process of that id. d is nil for the head.
func connect(address, run, id string, d *dialer, on func(error), options ...nats.Option) (*Net, error) {
	n := &Net{prefix: prefix(run), dialer: d, on: on, closed: make(chan struct{})}
	refuse := func(c *nats.Conn, why error) { n.end(c, &RefusedError{d.addresses, why}) }
	options = append(options,
		nats.Name(id), nats.CustomInboxPrefix(inbox(id)), nats.Timeout(handshake), nats.FlusherTimeout(handshake),
		nats.PingInterval(pings), nats.MaxPingsOutstanding(pingsOut),
		nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.IgnoreDiscoveredServers(),
		nats.CustomReconnectDelay(func(tries int) time.Duration {
			most := min(time.Second, 50*time.Millisecond<<min(tries, 6))
			return 50*time.Millisecond + rand.N(most-40*time.Millisecond)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { n.tell(lost(err)) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if d != nil {
				n.tell(d.cause(err))
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			if d != nil {
				d.good(func(why error) { refuse(c, why) })
			}
			_ = c.FlushTimeout(2 * time.Second) // the server knows again what is subscribed
			n.tell(nil)
		}),
		nats.ErrorHandler(func(c *nats.Conn, _ *nats.Subscription, err error) {
			if d != nil && errors.Is(err, nats.ErrAuthorization) {
				refuse(c, errToken)
			}
		}),
		nats.ClosedHandler(func(c *nats.Conn) { n.end(c, nil) }),
	)
	c, err := nats.Connect("nats://"+address, options...)
	if err != nil {
		return nil, err
	}
	if d != nil {
		d.good(func(why error) { refuse(c, why) })
	}
	n.conn = c
	return n, nil
}

func lost(err error) error {
	if err == nil {
		return errAway
	}
	return err
}

// tell tells that the head cannot be reached, or of nil that it can be.
func (n *Net) tell(err error) {
	n.telling.Lock()
	defer n.telling.Unlock()
	if n.on != nil && !n.over() {
		n.on(err)
	}
}

// over reports whether the connection will not be made again.
func (n *Net) over() bool {
	select {
	case <-n.closed:
		return true
	default:
		return false
	}
}

// end ends the connection for good; a nil err is a Close.
func (n *Net) end(c *nats.Conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over() {
		return
	}
	n.refused = err
	close(n.closed)
	if err != nil {
		go c.Close() // it waits for who calls this
	}
}

// Move connects anew, to another address where there are several: what is there has no
// word of the head.
func (n *Net) Move() {
	if n.dialer == nil || len(n.dialer.addresses) < 2 || !n.conn.IsConnected() {
		return
	}
	n.dialer.mu.Lock()
	n.dialer.at = (n.dialer.at + 1) % len(n.dialer.addresses)
	n.dialer.mu.Unlock()
	_ = n.conn.ForceReconnect() // fails where it is closed
}

// Lost is closed when the connection has ended for good: it was refused, as Err says,
// or closed.
func (n *Net) Lost() <-chan struct{} { return n.closed }

// Err is the *RefusedError that ended the connection; nil where none did.
func (n *Net) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused
}

// Close sends what was not sent yet, and ends the connection.
func (n *Net) Close() {
	if n.conn.IsConnected() {
		_ = n.conn.FlushTimeout(2 * time.Second) // what does not get out is lost
	}
	n.conn.Close()
	n.end(n.conn, nil)
}

func prefix(run string) string { return "mx." + run + "." }

func inbox(id string) string { return "_INBOX." + id }

// MaxFrame is how many bytes a frame, a request or a reply may have.
func (n *Net) MaxFrame() int { return maxFrame }

// Send is cluster.Net's.
func (n *Net) Send(address string, frame []byte) error {
	return n.conn.Publish(n.prefix+address, frame)
}

// Receive is cluster.Net's. An address may end in *, for any word there. stop waits
// for a call of f that goes on, and must not be called by f.
func (n *Net) Receive(address string, f func(frame []byte)) (stop func(), err error) {
	return n.subscribe(address, func(m *nats.Msg) { f(m.Data) })
}

// Answer is cluster.Requester's. Who asks is answered at an inbox alone: it names
// where, and must not have the head speak for it to others.
func (n *Net) Answer(address string, f func(body []byte) []byte) (stop func(), err error) {
	return n.subscribe(address, func(m *nats.Msg) {
		if strings.HasPrefix(m.Reply, inbox("")) {
			_ = m.Respond(f(m.Data)) // who asked asks again
		}
	})
}

// AnswerEach is Answer, with up to so many questions at a time. stop does not wait for those
// that are being answered.
func (n *Net) AnswerEach(address string, most int, f func(body []byte) []byte) (stop func(), err error) {
	slots := make(chan struct{}, most)
	return n.subscribe(address, func(m *nats.Msg) {
		if !strings.HasPrefix(m.Reply, inbox("")) {
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			_ = m.Respond(f(m.Data)) // who asked asks again
		}()
	})
}

func (n *Net) subscribe(address string, f func(*nats.Msg)) (stop func(), err error) {
	var mu sync.Mutex
	stopped := false
	s, err := n.conn.Subscribe(n.prefix+address, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			f(m)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := s.SetPendingLimits(-1, -1); err != nil { // credit bounds what is on its way
		return nil, err
	}
	if n.conn.IsConnected() {
		_ = n.conn.FlushTimeout(2 * time.Second) // later it is subscribed with the connection
	}
	return func() {
		_ = s.Unsubscribe() // fails where the connection has ended, and then nothing comes any more
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}, nil
}

// Request is cluster.Requester's: it asks again until there is an answer or ctx
// ends. A *RefusedError says that there will be none.
func (n *Net) Request(ctx context.Context, address string, body []byte) ([]byte, error) {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		m, err := n.conn.RequestWithContext(try, n.prefix+address, body)
		cancel()
		switch {
		case err == nil:
			return m.Data, nil
		case n.Err() != nil:
			return nil, n.Err()
		case ctx.Err() != nil:
			return nil, fmt.Errorf("no answer of the run's head: %w", ctx.Err())
		case slices.ContainsFunc([]error{nats.ErrMaxPayload, nats.ErrConnectionClosed, nats.ErrBadSubject}, func(e error) bool { return errors.Is(err, e) }):
			return nil, err
		case errors.Is(err, context.DeadlineExceeded):
			continue
		}
		select { // nobody listens there, or there is no connection now
		case <-ctx.Done():
		case <-n.closed:
		case <-time.After(100 * time.Millisecond):
		}
	}
}
