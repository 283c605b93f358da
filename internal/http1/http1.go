// Package http1 is an HTTP/1.1 client without TLS or proxies, for thousands of
// calls that wait at once.
//
// What it is worth: a call to vLLM or another server of plain HTTP/1.1 takes half
// the memory of net/http while it waits (15 KB for 32 KB), and less CPU. HTTPS and
// HTTP/2 gain nothing by it.
package http1

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Transport is an http.RoundTripper for thousands of calls that wait at once. A
// request of up to 64 KiB that goes over HTTP/1.1 without TLS or a proxy, as to
// servers of one's own, is written and its reply read by the caller's goroutine,
// and a call that waits for its reply holds a connection and no buffer; anything
// else goes over the http.Transport.
//
// A request that is a GET or has an Idempotency-Key is sent again over a new
// connection where an idle one turns out, at once, to be closed. One goroutine
// reads and closes a body.
type Transport struct {
	other *http.Transport

	mu    sync.Mutex
	idle  map[string][]*conn // by host, the last used last
	sweep *time.Timer        // nil: nothing is idle
}

// New returns a Transport that dials as t does and keeps idle connections for
// as long. Only a t with a DialContext, of sockets, leaves anything to Transport.
func New(t *http.Transport) *Transport {
	return &Transport{other: t, idle: map[string][]*conn{}}
}

const (
	maxHead   = 1 << 20                // bytes of a response's head
	maxSent   = 64 << 10               // bytes of a body that the system takes from us where the server answers unread
	closing   = time.Second            // in which we see that a server has closed a connection
	roundTrip = 200 * time.Millisecond // in which we see that it had closed one before we sent: later it may have worked on the request
)

// RoundTrip implements http.RoundTripper.
func (p *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !p.suits(req) {
		return p.other.RoundTrip(req)
	}
	ctx := req.Context()
	host := hostPort(req)
	if c := p.take(ctx, host); c != nil {
		began := time.Now()
		res, err := p.exchange(ctx, c, req)
		if err == nil || ctx.Err() != nil || c.answered || !stale(err) || !again(req) || time.Since(began) > roundTrip {
			return res, err
		}
		if req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			r := *req
			r.Body, req = body, &r
		}
	}
	c, err := p.dial(ctx, host)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	return p.exchange(ctx, c, req)
}

// suits reports whether req is not for the http.Transport.
func (p *Transport) suits(req *http.Request) bool {
	u, t := req.URL, p.other
	switch {
	case u.Scheme != "http", u.Host == "", t.Protocols != nil, t.DialContext == nil:
		return false
	case req.Body != nil && (req.ContentLength <= 0 || req.ContentLength > maxSent):
		return false
	case strings.IndexFunc(u.Host, func(r rune) bool { return r > '~' }) >= 0: // has another name on the wire
		return false
	case t.Proxy == nil:
		return true
	}
	proxy, err := t.Proxy(req)
	return proxy == nil && err == nil
}

func hostPort(req *http.Request) string {
	if req.URL.Port() != "" {
		return req.URL.Host
	}
	return net.JoinHostPort(req.URL.Hostname(), "80")
}

// stale reports whether err may be that the server had closed an idle connection.
func stale(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// again reports whether a request may be sent twice.
func again(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Header["Idempotency-Key"] != nil) && (req.Body == nil || req.GetBody != nil)
}

// conn is a connection to a server. It carries one exchange at a time.
type conn struct {
	net.Conn
	raw      syscall.RawConn
	host     string
	since    time.Time // when it became idle
	answered bool      // some of the reply came
	left     int       // bytes that the head of the reply may still have

	chunk *[]byte // holds ahead; nil: nothing was read ahead
	ahead []byte
}

func (p *Transport) dial(ctx context.Context, host string) (*conn, error) {
	nc, err := p.other.DialContext(ctx, "tcp", host)
	if ctx.Err() != nil && err != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	if s, ok := nc.(syscall.Conn); ok {
		raw, err := s.SyscallConn()
		if err == nil {
			return &conn{Conn: nc, raw: raw, host: host}, nil
		}
	}
	nc.Close()
	return nil, fmt.Errorf("a connection to %s is a %T, want a socket", host, nc)
}

// take returns a connection that was idle and that the server has not closed,
// or nil. A call that has ended needs none.
func (p *Transport) take(ctx context.Context, host string) *conn {
	for ctx.Err() == nil {
		p.mu.Lock()
		idle := p.idle[host]
		if len(idle) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := idle[len(idle)-1]
		idle[len(idle)-1] = nil
		p.idle[host] = idle[:len(idle)-1]
		p.mu.Unlock()
		if c.quiet() {
			return c
		}
		c.Close()
	}
	return nil
}

// put keeps c for the next exchange.
func (p *Transport) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle[c.host] = append(p.idle[c.host], c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.other.IdleConnTimeout, func() { p.close(p.other.IdleConnTimeout) })
	}
}

// close closes the connections that have been idle for longer than age.
func (p *Transport) close(age time.Duration) {
	for _, c := range p.aged(age) {
		c.Close()
	}
}

// aged takes the connections out that have been idle for longer than age, and
// sees to it that the next ones will be closed in time.
func (p *Transport) aged(age time.Duration) (old []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	next := time.Duration(-1)
	for host, idle := range p.idle {
		n := 0
		for n < len(idle) && now.Sub(idle[n].since) >= age {
			n++
		}
		old = append(old, idle[:n]...)
		if n == len(idle) {
			delete(p.idle, host)
			continue
		}
		idle = slices.Delete(idle, 0, n)
		p.idle[host] = idle
		if wait := age - now.Sub(idle[0].since); next < 0 || wait < next {
			next = wait
		}
	}
	switch {
	case next >= 0:
		p.sweep.Reset(next)
	case p.sweep != nil:
		p.sweep.Stop()
		p.sweep = nil
	}
	return old
}

// CloseIdleConnections closes all connections that no exchange uses.
func (p *Transport) CloseIdleConnections() {
	p.close(0)
	p.other.CloseIdleConnections()
}

// quiet says that nothing has come, nor the end, while c was idle.
func (c *conn) quiet() bool {
	ok := false
	var b [1]byte
	err := c.raw.Read(func(fd uintptr) bool {
		_, err := syscall.Read(int(fd), b[:])
		ok = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && ok
}

var (
	heads   = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	chunks  = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}
)

// exchange sends req over c and returns the response when its head has come. c
// is kept or closed when that is over.
func (p *Transport) exchange(ctx context.Context, c *conn, req *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	c.answered = false
	sent := c.send(req)
	res, r, err := c.receive(req, sent)
	if err != nil {
		stop()
		c.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	b := &body{p: p, c: c, ctx: ctx, stop: stop, r: r, body: res.Body}
	b.keep = sent == nil && !req.Close && !res.Close && res.StatusCode != http.StatusSwitchingProtocols
	res.Body = b
	if b.body == http.NoBody {
		b.end(io.EOF)
	}
	return res, nil
}

// send writes req in one piece.
func (c *conn) send(req *http.Request) error {
	b := heads.Get().(*bytes.Buffer)
	if req.ContentLength > 0 {
		b.Grow(int(req.ContentLength) + 1024)
	}
	err := req.Write(b)
	if err == nil {
		_, err = c.Write(b.Bytes())
	}
	b.Reset()
	heads.Put(b)
	return err
}

// receive waits for the reply and reads its head. The body is read from r. A
// server may have answered before it broke off what was sent: that error counts
// only where there is no reply.
func (c *conn) receive(req *http.Request, sent error) (res *http.Response, r *bufio.Reader, err error) {
	if sent != nil {
		if !errors.As(sent, new(*net.OpError)) {
			return nil, nil, sent
		}
		_ = c.SetReadDeadline(time.Now().Add(closing))
		if req.Context().Err() != nil { // its deadline may be the one just overwritten
			return nil, nil, sent
		}
	}
	if err := c.await(); err != nil {
		return nil, nil, cmp.Or(sent, err)
	}
	c.left = maxHead
	r = readers.Get().(*bufio.Reader)
	r.Reset(c)
	for {
		res, err = http.ReadResponse(r, req)
		if err != nil {
			c.release(r)
			return nil, nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt
			return res, r, nil
		}
	}
}

// release gives back what a reply was read with.
func (c *conn) release(r *bufio.Reader) {
	c.drop()
	r.Reset(nil)
	readers.Put(r)
}

// drop gives back what was read ahead.
func (c *conn) drop() {
	if c.chunk != nil {
		chunks.Put(c.chunk)
		c.chunk, c.ahead = nil, nil
	}
}

// await waits until some of the reply has come, and reads it. It has a buffer
// only then.
func (c *conn) await() error {
	var n int
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		b := chunks.Get().(*[]byte)
		for n, failed = syscall.Read(int(fd), *b); errors.Is(failed, syscall.EINTR); {
			n, failed = syscall.Read(int(fd), *b)
		}
		if n > 0 {
			c.chunk, c.ahead = b, (*b)[:n]
			return true
		}
		chunks.Put(b)
		return !errors.Is(failed, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: failed}
	case n == 0:
		return io.EOF
	}
	c.answered = true
	return nil
}

// Read reads what is left of the reply.
func (c *conn) Read(b []byte) (n int, err error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the head of the response is larger than %d bytes", maxHead)
	}
	if len(c.ahead) > 0 {
		n = copy(b, c.ahead)
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.drop()
		}
	} else {
		n, err = c.Conn.Read(b)
	}
	c.left -= n
	return n, err
}

// body is the body of a response. At its end the connection is free.
type body struct {
	p    *Transport
	c    *conn
	ctx  context.Context
	stop func() bool
	r    *bufio.Reader // nil: it has ended
	body io.ReadCloser
	err  error // that it ended with
	keep bool  // the connection can serve another
}

func (b *body) Read(to []byte) (int, error) {
	if b.r == nil {
		return 0, b.err
	}
	n, err := b.body.Read(to)
	switch {
	case err == io.EOF:
		b.end(io.EOF)
	case err != nil && b.ctx.Err() != nil:
		b.end(b.ctx.Err())
	case err != nil:
		b.end(err)
	}
	return n, b.err
}

// Quiet has the connection wake nobody for what comes, but for very much of it or
// its end, until it is set off again.
func (b *body) Quiet(on bool) {
	if b.r == nil {
		return
	}
	least := 1
	if on {
		least = 32 << 10
	}
	_ = b.c.raw.Control(func(fd uintptr) { wakeAt(fd, least) }) // else it wakes somebody, who finds nothing to do
}

// Close ends a body that was not read to its end, and its connection.
func (b *body) Close() error {
	if b.r != nil {
		b.end(http.ErrBodyReadAfterClose)
	}
	return nil
}

func (b *body) end(err error) {
	b.err = err
	rest := b.r.Buffered() + len(b.c.ahead)
	b.c.release(b.r)
	b.r = nil
	if ours := b.stop(); ours && err == io.EOF && b.keep && rest == 0 {
		b.p.put(b.c)
	} else {
		b.c.Close()
	}
}
