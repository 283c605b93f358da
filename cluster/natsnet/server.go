package natsnet

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ServerOptions of a head. Secrets must be set.
type ServerOptions struct {
	Secrets   *Secrets
	Host      string           // to listen at: an address of this machine; empty for all of them
	Port      int              // 0 for one that is free
	Advertise []string         // HOST or HOST:PORT that the join line names; by default Host, or the addresses that this machine has
	Peers     *Peers           // of several heads: the join line names all of them, and Advertise is not used; nil for one head
	Log       func(err string) // what the server finds wrong, such as connections that break in the middle; nil drops it. Called concurrently
}

// Server is a NATS server in this process that carries what the processes of a run
// tell each other. Off loopback it speaks TLS.
type Server struct {
	server *server.Server
	net    *Net
	join   Join
	peers  *Peers
	head   string // the password of this process
}

const (
	maxFrame  = 1 << 20
	pings     = time.Second // a host that vanishes sends no word of it
	pingsOut  = 2
	handshake = 10 * time.Second
)

// Serve starts a server, which Close ends. An address that is taken or not
// this machine's is a *net.OpError.
func Serve(o ServerOptions) (*Server, error) {
	host := o.Host
	if host == "" {
		host = "0.0.0.0"
	}
	probe, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(o.Port))) // the server would only log what is wrong with it
	if err != nil {
		return nil, err
	}
	ip := probe.Addr().(*net.TCPAddr).IP
	if err := probe.Close(); err != nil {
		return nil, err
	}
	names := o.Advertise
	switch {
	case o.Peers != nil:
		names = slices.Clone(o.Peers.All)
		i := max(0, slices.Index(names, o.Peers.Self))
		names[0], names[i] = names[i], names[0] // who joins now is best off where the work is
	case len(names) == 0:
		names = namesOf(host, ip)
	}
	self := &auth{prefix: prefix(o.Secrets.Run), token: o.Secrets.Token, head: random(20), bound: map[string][sha256.Size]byte{}}
	so := &server.Options{
		ServerName: "matrix-" + o.Secrets.Run,
		Host:       ip.String(), Port: o.Port,
		NoSigs: true, NoLog: true, NoSystemAccount: true,
		MaxPayload: maxFrame, PingInterval: 5 * pings, MaxPingsOut: pingsOut, // a worker that vanishes is missed by others before
		AuthTimeout: handshake.Seconds() + 1, TLSTimeout: handshake.Seconds(),
		CustomClientAuthentication: self,
	}
	if so.Port == 0 {
		so.Port = server.RANDOM_PORT
	}
	s := &Server{join: Join{Token: o.Secrets.Token, Run: o.Secrets.Run}, peers: o.Peers, head: self.head}
	if !ip.IsLoopback() {
		so.TLS = true
		if so.TLSConfig, s.join.CA, err = o.Secrets.serverTLS(hostsOf(names)); err != nil {
			return nil, err
		}
	}
	if o.Peers != nil {
		if err := o.Peers.join(so, o.Secrets); err != nil {
			return nil, err
		}
	}
	if s.server, err = server.NewServer(so); err != nil {
		return nil, err
	}
	log := &logger{to: o.Log, fatal: make(chan string, 1)}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start()
	if !s.server.ReadyForConnections(30 * time.Second) {
		s.server.Shutdown()
		select {
		case why := <-log.fatal:
			return nil, errors.New(why)
		default:
			return nil, errors.New("the NATS server of this process does not come up")
		}
	}
	port := s.server.Addr().(*net.TCPAddr).Port
	for _, name := range names {
		if _, _, err := net.SplitHostPort(name); err != nil {
			name = net.JoinHostPort(strings.Trim(name, "[]"), strconv.Itoa(port))
		}
		s.join.Addresses = append(s.join.Addresses, name)
	}
	s.net, err = connect("", o.Secrets.Run, headUser, nil, nil, nats.InProcessServer(s.server), nats.UserInfo(headUser, self.head))
	if err == nil && o.Peers != nil {
		err = self.share(s.net)
	}
	if err != nil {
		s.server.Shutdown()
		return nil, err
	}
	return s, nil
}

// namesOf is under which names others find a listener at a host, whose address is ip.
func namesOf(host string, ip net.IP) []string {
	if !ip.IsUnspecified() {
		return []string{host}
	}
	var v4, v6 []string
	addresses, _ := net.InterfaceAddrs() // none: the name of the host remains
	for _, a := range addresses {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || !n.IP.IsGlobalUnicast():
		case n.IP.To4() != nil:
			v4 = append(v4, n.IP.String())
		case ip.To4() == nil:
			v6 = append(v6, n.IP.String())
		}
	}
	names := append(v4, v6...)
	if len(names) == 0 {
		if name, err := os.Hostname(); err == nil {
			names = []string{name}
		}
	}
	return names[:min(len(names), 8)]
}

// hostsOf is names without ports.
func hostsOf(names []string) []string {
	hosts := slices.Clone(names)
	for i, name := range hosts {
		if host, _, err := net.SplitHostPort(name); err == nil {
			hosts[i] = host
		}
	}
	return hosts
}

// Net is the head's own way into the network: it may do anything there.
func (s *Server) Net() *Net { return s.net }

// Join is what others need to join.
func (s *Server) Join() Join { return s.join }

// Port is where the server listens.
func (s *Server) Port() int { return s.server.Addr().(*net.TCPAddr).Port }

// Close ends all connections.
func (s *Server) Close() {
	s.net.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// headUser is the name of the head, which no worker may have.
const headUser = "head"

// auth lets the head of this process in, and workers that have the token. A worker
// has an id, and a secret of its own: nobody else gets in under that id. It may
// speak to the head, and hear what is for it or for all.
type auth struct {
	prefix, token, head string

	mu    sync.Mutex
	bound map[string][sha256.Size]byte // secrets by the id of a worker
	peers *Net                         // where the servers of other heads hear of them; nil where there are none
}

const boundAddress = "b." // of a worker: the sum of its secret

// share has the servers of all heads know of the secrets of workers.
func (a *auth) share(n *Net) error {
	a.mu.Lock()
	a.peers = n
	for id, sum := range a.bound {
		_ = n.Send(boundAddress+id, sum[:]) // who does not hear it binds the id where it is used first
	}
	a.mu.Unlock()
	_, err := n.conn.Subscribe(a.prefix+boundAddress+"*", func(m *nats.Msg) {
		if len(m.Data) == sha256.Size {
			a.bind(strings.TrimPrefix(m.Subject, a.prefix+boundAddress), [sha256.Size]byte(m.Data))
		}
	})
	return err
}

// bind has an id belong to who knows a secret, and reports whether it does.
func (a *auth) bind(id string, sum [sha256.Size]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, known := a.bound[id]
	if known {
		return subtle.ConstantTimeCompare(first[:], sum[:]) == 1
	}
	a.bound[id] = sum
	return true
}

// tell has the servers of the other heads know that an id is bound. It does so whenever a
// worker connects: what is sent while servers find each other is lost.
func (a *auth) tell(id string, sum [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.peers != nil {
		_ = a.peers.Send(boundAddress+id, sum[:])
	}
}

// Check decides about a connection.
func (a *auth) Check(c server.ClientAuthentication) bool {
	given := c.GetOpts()
	id := given.Username
	if id == headUser {
		return c.RemoteAddress().Network() == "pipe" && same(given.Password, a.head)
	}
	token, secret, ok := strings.Cut(given.Password, ".")
	if !same(token, a.token) || !ok || !validID(id) {
		return false
	}
	sum := sha256.Sum256([]byte(secret))
	if !a.bind(id, sum) {
		return false
	}
	a.tell(id, sum)
	c.RegisterUser(&server.User{Username: id, Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: under(a.prefix, "x.*", "p."+id, "a.head", "f.head", "h.head", "h.past.*")},
		Subscribe: &server.SubjectPermission{Allow: append(under(a.prefix, "d."+id, "d.all", "a."+id, "h.all", "h."+id), inbox(id)+".>")},
	}})
	return true
}

func validID(id string) bool { return idForm.MatchString(id) && id != headUser && id != "all" }

func under(prefix string, addresses ...string) []string {
	for i := range addresses {
		addresses[i] = prefix + addresses[i]
	}
	return addresses
}

// same compares in a time that does not tell how much is equal.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// logger hands on what the server finds wrong.
type logger struct {
	to    func(string)
	fatal chan string
}

func (l *logger) tell(format string, v ...any) {
	if l.to != nil {
		l.to(fmt.Sprintf(format, v...))
	}
}

func (*logger) Noticef(string, ...any)      {}
func (*logger) Debugf(string, ...any)       {}
func (*logger) Tracef(string, ...any)       {}
func (l *logger) Warnf(f string, v ...any)  { l.tell(f, v...) }
func (l *logger) Errorf(f string, v ...any) { l.tell(f, v...) }
func (l *logger) Fatalf(f string, v ...any) {
	l.tell(f, v...)
	select {
	case l.fatal <- fmt.Sprintf(f, v...):
	default:
	}
}
