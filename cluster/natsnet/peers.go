package natsnet

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Peers make the servers of several heads of a run one: whoever is at one of them
// reaches who is at another, and what is stored stands on most of them before anybody
// is told. They talk with each other at the port behind that of Self and All.
type Peers struct {
	Self  string   // HOST:PORT of this one, as it stands in All
	All   []string // HOST:PORT of all of them, as others reach them: 3 or 5, always the same
	Store string   // a folder for what is stored, on a disk of this machine
}

// join adds to the options of a server what makes it one of several.
func (p *Peers) join(o *server.Options, s *Secrets) error {
	o.ServerName = p.Self
	o.NoSystemAccount = false // through it JetStream of several servers hears of the others
	o.JetStream, o.StoreDir, o.SyncAlways, o.DisableJetStreamBanner = true, p.Store, true, true
	o.Cluster = server.ClusterOpts{
		Name: "matrix-" + s.Run, Host: o.Host, Port: o.Port + 1, Username: headUser, Password: s.routes(),
		PoolSize: -1, NoAdvertise: true, AuthTimeout: handshake.Seconds() + 1, TLSTimeout: handshake.Seconds(),
		PingInterval: pings, MaxPingsOut: pingsOut, ConnectRetries: 1,
	}
	if o.TLS {
		c, err := routeTLS(o.TLSConfig)
		if err != nil {
			return err
		}
		o.Cluster.TLSConfig = c
	}
	for _, a := range p.All {
		at, err := routeAddress(a)
		if err != nil {
			return err
		}
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", User: url.UserPassword(headUser, s.routes()), Host: at})
	}
	return nil
}

// routeAddress is where the server of an address talks with others.
func routeAddress(address string) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port >= 65535 {
		return "", fmt.Errorf("%s: want a port from 1 to 65534, since the one behind it is for the other heads", address)
	}
	return net.JoinHostPort(host, strconv.FormatUint(port+1, 10)), nil
}

// routes is the password among heads. It follows from what no worker knows.
func (s *Secrets) routes() string {
	sum := sha256.Sum256([]byte("routes of " + s.Run + "\n" + s.Key))
	return hex.EncodeToString(sum[:])
}

// routeTLS is how servers of heads speak TLS with one another: each has a certificate
// of the run's authority.
func routeTLS(own *tls.Config) (*tls.Config, error) {
	authority, err := x509.ParseCertificate(own.Certificates[0].Certificate[1])
	if err != nil {
		return nil, err
	}
	c := own.Clone()
	c.ClientAuth = tls.RequireAnyClientCert
	c.InsecureSkipVerify = true // VerifyConnection does it
	c.VerifyConnection = func(c tls.ConnectionState) error {
		if len(c.PeerCertificates) == 0 || c.PeerCertificates[0].CheckSignatureFrom(authority) != nil {
			return errors.New("it is not a head of this run (it has another certificate)")
		}
		return nil
	}
	return c, nil
}

// Away are the heads' servers that this one does not reach now, with why.
func (s *Server) Away() map[string]error {
	if s.peers == nil {
		return nil
	}
	away := map[string]error{}
	there := []string{s.peers.Self}
	if z, err := s.server.Routez(nil); err == nil {
		for _, r := range z.Routes {
			there = append(there, r.RemoteName)
		}
	}
	for _, a := range s.peers.All {
		if slices.Contains(there, a) {
			continue
		}
		away[a] = errors.New("it does not let this head in: another run, or another program")
		at, err := routeAddress(a)
		if err == nil {
			var c net.Conn
			if c, err = net.DialTimeout("tcp", at, time.Second); err == nil {
				if isMute(c) {
					away[a] = errors.New("it does not answer: it stands still, or its machine does")
				}
				_ = c.Close() // only to see whether somebody is there
			}
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		if err != nil {
			away[a] = err
		}
	}
	return away
}

// isMute reports whether who took a connection says nothing: a server greets at once.
func isMute(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// Connect makes a connection of this process to its own server, which may do anything
// there, beside that of Net. The caller closes it.
func (s *Server) Connect() (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(s.server), nats.UserInfo(headUser, s.auth.head),
		nats.Name(headUser), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
}
