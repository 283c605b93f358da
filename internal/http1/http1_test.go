package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"matrix/llm"
)

var _ llm.Quieter = (*body)(nil) // else each token of a stream would wake who reads it

// plain returns a Transport and closes its connections at the end.
func plain(t *testing.T) *Transport {
	p := New(llm.NewTransport(llm.TransportOptions{}))
	t.Cleanup(p.CloseIdleConnections)
	return p
}

// post sends body and returns the whole response.
func post(ctx context.Context, p http.RoundTripper, to, key, body string) (status int, got string, err error) {
	req, err := http.NewRequestWithContext(ctx, "POST", to, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if key != "" {
		req.Header["Idempotency-Key"] = []string{key}
	}
	res, err := p.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// rawServer is a server that answers each request, and each connection, as
// written: serve gets the connection's and the request's number from 0 on, and
// reports whether the connection goes on.
type rawServer struct {
	net.Listener
	conns atomic.Int32
	wg    sync.WaitGroup
}

func serveRaw(t *testing.T, serve func(c net.Conn, conn, request int, body string) bool) (*rawServer, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{Listener: l}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conn := int(s.conns.Add(1)) - 1
			s.wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for i := 0; ; i++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, err := io.ReadAll(req.Body)
					if err != nil || !serve(c, conn, i, string(body)) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.wg.Wait()
	})
	return s, "http://" + l.Addr().String()
}

func TestReplies(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, c := range map[string]struct {
		raw    string
		status int
		want   string
		err    string
		kept   bool // the connection serves the next, too
	}{
		"length":         {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", "", true},
		"empty":          {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", "", true},
		"no content":     {"HTTP/1.1 204 No Content\r\n\r\n", 204, "", "", true},
		"long":           {"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + long, 200, long, "", true},
		"chunked":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n!!!\r\n0\r\n\r\n", 200, "hi!!!", "", true},
		"error":          {"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", 429, "no", "", true},
		"early hints":    {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", "", true},
		"other protocol": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, "", "", false},
		"asks to close":  {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", "", false},
		"old":            {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", "", false},
		"more than said": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi there", 200, "hi", "", false},
		"until closed":   {"HTTP/1.1 200 OK\r\n\r\nhi", 200, "hi", "", false},
		"cut off":        {"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhi", 200, "hi", "unexpected EOF", false},
		"cut off chunk":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nhi", 200, "hi", "unexpected EOF", false},
		"cut off head":   {"HTTP/1.1 200 OK\r\nContent-Le", 0, "", "malformed", false},
		"nothing":        {"", 0, "", "EOF", false},
		"not HTTP":       {"SSH-2.0-OpenSSH\r\n", 0, "", "malformed", false},
		"endless head":   {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: "+long[:1000]+"\r\n", 1100), 0, "", "larger than 1048576 bytes", false},
	} {
		t.Run(name, func(t *testing.T) {
			ends := map[string]bool{"until closed": true, "cut off": true, "cut off chunk": true, "cut off head": true, "nothing": true, "not HTTP": true, "endless head": true}[name]
			s, to := serveRaw(t, func(conn net.Conn, _, _ int, body string) bool {
				if body != "a request" {
					t.Errorf("the server got %q", body)
				}
				_, _ = io.WriteString(conn, c.raw)
				return !ends
			})
			p := plain(t)
			for range 2 {
				status, got, err := post(t.Context(), p, to, "", "a request")
				if status != c.status || got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %d %.20q %v, want %d %.20q %q", status, got, err, c.status, c.want, c.err)
				}
			}
			if n := int(s.conns.Load()); n != map[bool]int{true: 1, false: 2}[c.kept] {
				t.Errorf("two calls took %d connections", n)
			}
		})
	}
}

// A call that ends while it waits, or while the reply comes, takes its
// connection along.
func TestEnds(t *testing.T) {
	for _, begun := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		s, to := serveRaw(t, func(c net.Conn, conn, _ int, _ string) bool {
			if conn > 0 {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
				return true
			}
			if begun {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
			}
			cancel()
			return true
		})
		p := plain(t)
		if _, got, err := post(ctx, p, to, "", "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("begun %v: got %q %v, want %v", begun, got, err, context.Canceled)
		}
		if _, got, err := post(t.Context(), p, to, "", "x"); got != "hi" || err != nil || s.conns.Load() != 2 {
			t.Errorf("the next: got %q %v over connection %d", got, err, s.conns.Load())
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := post(ctx, plain(t), "http://"+l.Addr().String(), "", strings.Repeat("x", 32<<20)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a body that nobody reads: got %v", err)
	}

	// One that has ended before is not sent.
	var sent atomic.Int32
	_, to := serveRaw(t, func(c net.Conn, _, _ int, _ string) bool {
		sent.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		return true
	})
	p := plain(t)
	for range 2 {
		if _, _, err := post(t.Context(), p, to, "", "x"); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 {
			if _, _, err := post(ended, p, to, "", "x"); !errors.Is(err, context.Canceled) {
				t.Errorf("ended before: got %v", err)
			}
		}
	}
	if n := sent.Load(); n != 2 {
		t.Errorf("the server got %d requests, want 2", n)
	}
}

// The server has closed an idle connection: it is not used. Where that is seen
// too late, the request is sent again if it may be.
func TestStale(t *testing.T) {
	closed := make(chan struct{}, 9)
	s, to := serveRaw(t, func(c net.Conn, _, _ int, _ string) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		c.Close()
		closed <- struct{}{}
		return false
	})
	p := plain(t)
	for range 3 {
		if _, got, err := post(t.Context(), p, to, "", "x"); got != "hi" || err != nil {
			t.Errorf("got %q %v", got, err)
		}
		<-closed
	}
	if n := s.conns.Load(); n != 3 {
		t.Errorf("got %d connections, want 3", n)
	}

	for key, want := range map[string]string{"": "EOF", "a key": ""} {
		var sent atomic.Int32
		_, to := serveRaw(t, func(c net.Conn, conn, request int, body string) bool {
			if sent.Add(1); body != "x" {
				t.Errorf("the server got %q", body)
			}
			if conn == 0 && request == 1 {
				return false // closes as the request comes
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			return true
		})
		p := plain(t)
		if _, got, err := post(t.Context(), p, to, key, "x"); got != "hi" || err != nil {
			t.Errorf("got %q %v", got, err)
		}
		_, got, err := post(t.Context(), p, to, key, "x")
		if want == "" && (got != "hi" || err != nil || sent.Load() != 3) || want != "" && (!errors.Is(err, io.EOF) || sent.Load() != 2) {
			t.Errorf("key %q: got %q %v after %d requests, want %q", key, got, err, sent.Load(), want)
		}
	}
}

// A server that breaks off what it has worked at was not an idle connection: who
// called decides whether to pay again.
func TestBrokenLater(t *testing.T) {
	var sent atomic.Int32
	_, to := serveRaw(t, func(c net.Conn, _, request int, _ string) bool {
		if sent.Add(1); request > 0 {
			time.Sleep(roundTrip + 50*time.Millisecond)
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		return true
	})
	p := plain(t)
	if _, _, err := post(t.Context(), p, to, "a key", "x"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := post(t.Context(), p, to, "a key", "x"); !errors.Is(err, io.EOF) || sent.Load() != 2 {
		t.Errorf("got %v after %d requests, want %v after 2", err, sent.Load(), io.EOF)
	}
}

// A server may answer before it has read a request, and read no more or hang up.
func TestEarlyAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns sync.WaitGroup
	over := make(chan struct{})
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 10))
				_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
				<-over
			})
		}
	})
	for _, size := range []int{maxSent, 32 << 20} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		status, got, err := post(ctx, plain(t), "http://"+l.Addr().String(), "", strings.Repeat("x", size))
		if status != http.StatusRequestEntityTooLarge || got != "no" || err != nil {
			t.Errorf("%d bytes unread: got %d %q %v", size, status, got, err)
		}
		cancel()
	}
	close(over)
	l.Close()
	conns.Wait()

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	}))
	defer s.Close()
	status, _, err := post(t.Context(), plain(t), s.URL, "", strings.Repeat("x", 8<<20))
	if status != http.StatusRequestEntityTooLarge && !stale(err) { // its answer may be lost with the connection
		t.Errorf("got %d %v", status, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, iotest.ErrReader(errors.New("broken")))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1
	if _, err := plain(t).RoundTrip(req); err == nil || !strings.Contains(err.Error(), "broken") { //nolint:bodyclose // there is none
		t.Errorf("a body that cannot be read: got %v", err)
	}
}

// Idle connections are closed by themselves, the oldest first.
func TestIdle(t *testing.T) {
	s, to := serveRaw(t, func(c net.Conn, _, _ int, _ string) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		return true
	})
	tr := llm.NewTransport(llm.TransportOptions{})
	tr.IdleConnTimeout = 50 * time.Millisecond
	p := New(tr)
	defer p.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, got, err := post(t.Context(), p, to, "", "x"); got != "hi" || err != nil {
				t.Errorf("got %q %v", got, err)
			}
		})
	}
	wg.Wait()
	served := make(chan struct{})
	go func() {
		s.Close()
		s.wg.Wait() // all connections have ended
		close(served)
	}()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("idle connections stay open")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != 0 || p.sweep != nil {
		t.Errorf("still idle: %v", p.idle)
	}
}

// What goes through a proxy or over TLS is the http.Transport's.
func TestOthers(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	defer s.Close()
	tr := llm.NewTransport(llm.TransportOptions{})
	tr.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	p := New(tr)
	if _, got, err := post(t.Context(), p, s.URL, "", "x"); got != "HTTP/1.1" || err != nil {
		t.Errorf("TLS: got %q %v", got, err)
	}
	p.CloseIdleConnections()

	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hi") }))
	defer web.Close()
	p = New(&http.Transport{})
	if _, got, err := post(t.Context(), p, web.URL, "", "x"); got != "hi" || err != nil {
		t.Errorf("no DialContext: got %q %v", got, err)
	}
	p.CloseIdleConnections()
	near, far := net.Pipe()
	defer far.Close()
	p = New(&http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }})
	if _, _, err := post(t.Context(), p, web.URL, "", "x"); err == nil || !strings.Contains(err.Error(), "want a socket") {
		t.Errorf("no socket: got %v", err)
	}

	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "for ", r.URL.Host) }))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	tr = llm.NewTransport(llm.TransportOptions{})
	tr.Proxy = http.ProxyURL(u)
	p = New(tr)
	if _, got, err := post(t.Context(), p, "http://models.invalid/v1", "", "x"); got != "for models.invalid" || err != nil {
		t.Errorf("proxy: got %q %v", got, err)
	}
	p.CloseIdleConnections()
}
