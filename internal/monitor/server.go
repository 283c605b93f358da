// Package monitor tells over HTTP how a process of a run stands: metrics for
// Prometheus, health for who starts and ends processes, and, on a socket in the
// folder of the run, what viewers show and a way to stop it. It looks at snapshots of
// a session, and drives nothing.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"matrix/session"
	"matrix/spec"
)

// States of a process. /readyz is 200 while it is running.
const (
	Starting = "starting"
	Running  = "running"
	Stopping = "stopping"
	Over     = "over"
)

// Status is how a process stands, as /status has it.
type Status struct {
	State             string `json:"state"`
	Why               string `json:"why,omitempty"` // it is not running, in a sentence
	*session.Snapshot        // nil while it is starting, and once it is over
}

// Options of a Server.
type Options struct {
	Version string // of the program
	Worker  bool   // the process is a worker: it knows of its roles and models, and not of the tasks and the money of the run
}

// Server tells how one process stands. Its methods may be called concurrently.
type Server struct {
	o       Options
	serving sync.WaitGroup
	looking sync.RWMutex // held to read while a snapshot is taken

	mu       sync.Mutex
	state    string
	why      string
	snapshot func() *session.Snapshot // nil while starting
	servers  []*http.Server
	sockets  []*socket
	viewers  map[chan Event]bool
	end      *End
	over     chan struct{} // closed with the end
}

// New makes a server that listens nowhere yet, of a process that is starting. The
// caller closes it.
func New(o Options) *Server {
	return &Server{o: o, state: Starting, viewers: map[chan Event]bool{}, over: make(chan struct{})}
}

// Ready says that the process works from now on, and how it stands. snapshot is
// called concurrently.
func (s *Server) Ready(snapshot func() *session.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.why, s.snapshot = Running, "", snapshot
}

// Stopping says that the process works no more for long, and why.
func (s *Server) Stopping(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.why = Stopping, why
}

// Status is how the process stands now.
func (s *Server) Status() *Status {
	s.looking.RLock()
	defer s.looking.RUnlock()
	s.mu.Lock()
	x, snapshot := &Status{State: s.state, Why: s.why}, s.snapshot
	s.mu.Unlock()
	if snapshot != nil {
		x.Snapshot = snapshot()
	}
	return x
}

// What a client may take of a server. Nobody needs more, and a process that
// does its work is not to be kept from it by who looks at it.
const (
	maxHeader  = 16 << 10
	maxClients = 64
	patience   = 10 * time.Second // to send a request, and to take a part of the answer
)

// Listen answers at an address of TCP: /metrics, /healthz, /readyz and /status. A
// bare port is one of loopback; 0 is any that is free; ":PORT" is that of all
// interfaces. It returns the URL. An address that is none is a spec.UsageError.
func (s *Server) Listen(address string) (url string, err error) {
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		address = net.JoinHostPort("127.0.0.1", address)
	}
	if _, port, err := net.SplitHostPort(address); err != nil {
		return "", spec.Usagef("%q is not an address to listen on: want a port, such as 9464, or HOST:PORT", address)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", spec.Usagef("%q is not an address to listen on: %q is not the number of a port", address, port)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	s.serve(l, s.open())
	return "http://" + l.Addr().String(), nil
}

// serve answers who connects to l.
func (s *Server) serve(l net.Listener, h http.Handler) {
	h = http.MaxBytesHandler(h, 0)
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxHeader, ErrorLog: quiet(),
	}
	s.mu.Lock()
	s.servers = append(s.servers, server)
	s.mu.Unlock()
	s.serving.Go(func() { _ = server.Serve(netutil.LimitListener(l, maxClients)) })
}

// open is what everybody may ask.
func (s *Server) open() *http.ServeMux {
	m := http.NewServeMux()
	m.Handle("GET /metrics", s.metrics())
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	m.HandleFunc("GET /readyz", s.ready)
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Status()) })
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "/metrics  for Prometheus\n/healthz  200 while the process lives\n/readyz   200 while it works\n/status   how it stands, as JSON")
	})
	return m
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	state, why := s.state, s.why
	s.mu.Unlock()
	if state != Running {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if why != "" {
		state += ": " + why
	}
	fmt.Fprintln(w, state)
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}

// farewell is how long viewers have to take the last word.
const farewell = 5 * time.Second

// Close ends the server, and with it what clients wait for. A process whose End was
// told has viewers take that first. No snapshot is taken any more.
func (s *Server) Close() error {
	s.mu.Lock()
	servers, sockets := s.servers, s.sockets
	s.servers, s.sockets = nil, nil
	if s.state != Over { // viewers hear nothing of an end that was not told
		s.finish()
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	var errs []error
	for _, x := range servers {
		if err := x.Shutdown(ctx); err != nil {
			_ = x.Close()
		}
	}
	for _, x := range sockets {
		errs = append(errs, x.remove())
	}
	s.serving.Wait()
	s.looking.Lock()
	defer s.looking.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = nil // a client that does not let go may still be served
	return errors.Join(errs...)
}
