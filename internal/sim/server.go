package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// Server serves the engines of a Config over HTTP/1.1 and h2c, each on a port
// of its own.
type Server struct {
	of    *service
	sites []*listener
	once  sync.Once
}

// Start serves c on c.Host and c.Port. It returns when every replica listens.
// An error is a *llm.FieldError.
func Start(c Config) (*Server, error) {
	of, err := newService(c)
	if err != nil {
		return nil, err
	}
	s := &Server{of: of}
	host := cmp.Or(of.c.Host, "127.0.0.1")
	for i, e := range of.engines {
		port := 0
		if of.c.Port > 0 {
			port = of.c.Port + i
		}
		t := &listener{e: e, addr: net.JoinHostPort(host, strconv.Itoa(port)), handler: s.handler(e)}
		if err := t.open(); err != nil {
			s.Close()
			return nil, listenError(host, port, err)
		}
		e.url = "http://" + t.addr + "/v1"
		e.listen = t.turn
		s.sites = append(s.sites, t)
	}
	of.start()
	return s, nil
}

func listenError(host string, port int, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return &llm.FieldError{Field: "port", Err: fmt.Errorf("%d is taken on %s: stop what listens there, or choose another; 0 takes any that is free", port, host)}
	}
	return &llm.FieldError{Field: "host", Err: err}
}

// URLs are the base URLs, one for each replica.
func (s *Server) URLs() []string {
	urls := make([]string, len(s.of.engines))
	for i, e := range s.of.engines {
		urls[i] = e.url
	}
	return urls
}

// Stats tells what the server has done so far.
func (s *Server) Stats() Stats { return s.of.stats() }

// Reset sets the stats to zero, empties the caches, and puts the clock of the
// faults back to its beginning. No call may be under way.
func (s *Server) Reset() { s.of.reset(); s.of.start() }

// Close cuts all connections and ends the server.
func (s *Server) Close() {
	s.once.Do(func() {
		s.of.close()
		for _, t := range s.sites {
			t.shut(true)
		}
	})
}

// listener is where a replica listens.
type listener struct {
	e       *Engine
	addr    string // with the port that was found
	handler http.Handler

	mu     sync.Mutex
	server *http.Server
	ended  bool
	serves sync.WaitGroup // Serve, and the handlers
}

func (t *listener) open() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil
	}
	l, err := net.Listen("tcp", t.addr)
	if err != nil {
		return err
	}
	t.addr = l.Addr().String()
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           http.HandlerFunc(t.serve),
		Protocols:         p,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1 << 20},
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       5 * time.Second, // as vLLM
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	t.server = srv
	t.serves.Go(func() { _ = srv.Serve(l) }) // it ends with Close
	return nil
}

func (t *listener) serve(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	if t.ended { // nobody may join whom shut waits for
		t.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	t.serves.Add(1)
	t.mu.Unlock()
	defer t.serves.Done()
	t.handler.ServeHTTP(w, r)
}

// turn listens again, or cuts everything.
func (t *listener) turn(up bool) {
	if !up {
		t.shut(false)
		return
	}
	for range 100 { // a client's own port may be there for a moment
		if t.open() == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// shut closes the listener and all connections, for good and waiting for
// handlers where end is set.
func (t *listener) shut(end bool) {
	t.mu.Lock()
	srv := t.server
	t.server = nil
	t.ended = t.ended || end
	t.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
	}
	if end {
		t.serves.Wait()
	}
}

func (s *Server) handler(e *Engine) http.Handler {
	m := http.NewServeMux()
	for _, at := range []string{"", "/v1"} {
		m.HandleFunc("POST "+at+"/chat/completions", e.chat)
		m.HandleFunc("POST "+at+"/completions", e.completions)
		m.HandleFunc("POST "+at+"/embeddings", e.embeddings)
		m.HandleFunc("GET "+at+"/models", e.models)
		m.HandleFunc("GET "+at+"/models/{name...}", e.models)
	}
	m.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	m.HandleFunc("GET /ping", func(http.ResponseWriter, *http.Request) {})
	m.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, []byte(`{"version":"sim"}`)) })
	m.HandleFunc("GET /metrics", e.metrics)
	m.HandleFunc("GET /sim/stats", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, appendJSON(nil, s.Stats())) })
	m.HandleFunc("POST /sim/reset", func(w http.ResponseWriter, _ *http.Request) { s.Reset(); answer(w, 200, []byte("{}")) })
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&refusal{status: 404, typ: "NotFoundError", msg: "there is no " + r.Method + " " + r.URL.Path}).write(w)
	})
	return m
}

var jsonType = []string{"application/json"}

func answer(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // whoever asked has left
}

func (r *refusal) write(w http.ResponseWriter) {
	if r.after > 0 {
		seconds := (r.after + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
		w.Header().Set("Retry-After-Ms", strconv.Itoa(int(r.after.Milliseconds())))
	}
	answer(w, r.status, (&api.Error{Msg: r.msg, Type: r.typ, Param: r.param, Code: r.code, Status: r.status}).Append(nil))
}

// maxBody is the longest request that is read.
const maxBody = 64 << 20

// read reads a call with a body. Where it returns nil the call has been answered.
func (e *Engine) read(w http.ResponseWriter, r *http.Request) *api.Request {
	if key := e.of.c.APIKey; key != "" && r.Header.Get("Authorization") != "Bearer "+key {
		(&refusal{status: 401, typ: "invalid_request_error", code: "invalid_api_key", msg: "Incorrect API key provided."}).write(w)
		return nil
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer free(buf)
	if n := r.ContentLength; n > 0 && n < 1<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		wrong("", "the body cannot be read: %v", err).write(w)
		return nil
	}
	q, err := api.Read(buf.Bytes())
	if err != nil {
		e.refused.Add(1)
		wrong("", "the body is not JSON as this API has it: %v", err).write(w)
		return nil
	}
	q.Key = r.Header.Get(keyHeader)
	return q
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// free keeps a buffer for another call, unless it is large.
func free(b *bytes.Buffer) {
	if b.Cap() <= 1<<16 {
		b.Reset()
		buffers.Put(b)
	}
}

// breaks breaks the connection of a call by a reset.
func breaks(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if c, _, err := h.Hijack(); err == nil {
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.SetLinger(0)
			}
			_ = c.Close()
			return
		}
	}
	panic(http.ErrAbortHandler) // of h2: the stream alone is reset
}
