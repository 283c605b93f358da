package natsnet

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
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
	Clients   string           // a token that lets in who asks at "c.head" and answers at "f." with its id, and does nothing else; empty for none
	Tenants   []Tenant         // let in from the beginning: see Admit
	Log       func(err string) // what the server finds wrong, such as connections that break in the middle; nil drops it. Called concurrently
}

// Server is a NATS server in this process that carries what the processes of a run
// tell each other. Off loopback it speaks TLS.
type Server struct {
	server *server.Server
	net    *Net
	join   Join
	peers  *Peers
	auth   *auth
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
	self := &auth{prefix: prefix(o.Secrets.Run), head: random(20), runs: map[string]Tenant{}, clients: o.Clients, bound: map[string][sha256.Size]byte{}}
	for _, t := range append(o.Tenants, Tenant{Run: o.Secrets.Run, Token: o.Secrets.Token}) {
		self.runs[t.Run] = t
	}
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
	s := &Server{join: Join{Token: o.Secrets.Token, Run: o.Secrets.Run}, peers: o.Peers, auth: self}
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

// Tenant is a run whose head is another process, which a server carries beside what is its own.
type Tenant struct {
	Run   string // as Secrets.Run
	Token string // lets workers in
	Head  string // the password of its head; empty for none
}

// NewTenant makes the secrets of a run that the server of others carries.
func NewTenant() Tenant { return Tenant{Run: random(5), Token: random(20), Head: random(20)} }

// NewToken makes a token for ServerOptions.Clients.
func NewToken() string { return random(20) }

// Admit lets in the head of a run and its workers from now on. They hear nothing of
// any other run, and are heard there by nobody.
func (s *Server) Admit(t Tenant) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	s.auth.runs[t.Run] = t
}

// Dismiss lets nobody of a run in any more. Connections that there are stay.
func (s *Server) Dismiss(run string) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	delete(s.auth.runs, run)
	maps.DeleteFunc(s.auth.bound, func(at string, _ [sha256.Size]byte) bool { return strings.HasPrefix(at, prefix(run)) })
}

// JoinOf is what workers need to join a run that was admitted.
func (s *Server) JoinOf(t Tenant) Join {
	j := s.join
	j.Run, j.Token = t.Run, t.Token
	return j
}

// ClientJoin is what those need whom ServerOptions.Clients lets in.
func (s *Server) ClientJoin() Join {
	j := s.join
	j.Token = s.auth.clients
	return j
}

// auth lets the head of this process in, and workers that have the token of their run. A worker
// has an id, and a secret of its own: nobody else gets in under that id. It may
// speak to the head, and hear what is for it or for all.
type auth struct {
	prefix, head, clients string

	mu    sync.Mutex
	runs  map[string]Tenant            // by Run; one of them is that of this process
	bound map[string][sha256.Size]byte // secrets, by the prefix of a run and the id of a worker
	peers *Net                         // where the servers of other heads hear of them; nil where there are none
}

const boundAddress = "b." // of a worker: the sum of its secret

// share has the servers of all heads know of the secrets of workers.
func (a *auth) share(n *Net) error {
	a.mu.Lock()
	a.peers = n
	for at, sum := range a.bound {
		_ = n.Send(boundAddress+strings.TrimPrefix(at, a.prefix), sum[:]) // who does not hear it binds the id where it is used first
	}
	a.mu.Unlock()
	_, err := n.conn.Subscribe(a.prefix+boundAddress+"*", func(m *nats.Msg) {
		if len(m.Data) == sha256.Size {
			a.bind(a.prefix+strings.TrimPrefix(m.Subject, a.prefix+boundAddress), [sha256.Size]byte(m.Data))
		}
	})
	return err
}

// bind has an id belong to who knows a secret, and reports whether it does.
func (a *auth) bind(at string, sum [sha256.Size]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, known := a.bound[at]
	if known {
		return subtle.ConstantTimeCompare(first[:], sum[:]) == 1
	}
	a.bound[at] = sum
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
	if id == headUser && c.RemoteAddress().Network() == "pipe" {
		return same(given.Password, a.head)
	}
	token, secret, ok := strings.Cut(given.Password, ".")
	if !ok {
		return false
	}
	if id == headUser {
		return a.checkHead(c, token, secret)
	}
	if !validID(id) {
		return false
	}
	may, prefix, ok := a.find(id, token)
	if !ok {
		return false
	}
	sum := sha256.Sum256([]byte(secret))
	if !a.bind(prefix+id, sum) {
		return false
	}
	if prefix == a.prefix {
		a.tell(id, sum)
	}
	c.RegisterUser(&server.User{Username: id, Permissions: may})
	return true
}

// checkHead decides about the head of a run in another process.
func (a *auth) checkHead(c server.ClientAuthentication, run, password string) bool {
	a.mu.Lock()
	t, known := a.runs[run]
	a.mu.Unlock()
	if !known || t.Head == "" || !same(password, t.Head) {
		return false
	}
	c.RegisterUser(&server.User{Username: headID(run), Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{prefix(run) + ">", inbox(">")}},
		Subscribe: &server.SubjectPermission{Allow: []string{prefix(run) + ">", inbox(headID(run)) + ".>"}},
	}})
	return true
}

// find is what who has a token may do, and the prefix of what it belongs to.
func (a *auth) find(id, token string) (_ *server.Permissions, at string, ok bool) {
	answers := &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	if a.clients != "" && same(token, a.clients) {
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: under(a.prefix, "c.head")},
			Subscribe: &server.SubjectPermission{Allow: append(under(a.prefix, "f."+id), inbox(id)+".>")},
			Response:  answers,
		}, a.prefix, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.runs {
		if same(token, t.Token) {
			at = prefix(t.Run)
		}
	}
	if at == "" {
		return nil, "", false
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: under(at, "x.*", "p."+id, "a.head", "f.head", "h.head", "h.past.*")},
		Subscribe: &server.SubjectPermission{Allow: append(under(at, "d."+id, "d.all", "a."+id, "h.all", "h."+id, "l."+id), inbox(id)+".>")},
		Response:  answers,
	}, at, true
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
