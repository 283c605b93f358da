package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix/llm"
)

// ending is what became of a call.
type ending struct {
	status int
	body   string
	kind   llm.Kind // of the failure
	sent   bool
	times  int32 // that the server got the request
}

// Whatever a server does, Transport makes of it what an http.Transport does, over a
// new connection and over one that was used before.
func TestAsTransport(t *testing.T) {
	for name, reply := range map[string]string{
		"closes":              "",
		"resets":              "!",
		"cut in the status":   "HTTP/1.",
		"cut after status":    "HTTP/1.1 200 OK\r\n",
		"cut in the head":     "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b",
		"resets in the head":  "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b!",
		"cut in the body":     "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
		"cut in a chunk":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
		"cut after chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
		"bad chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n",
		"trailer":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n2\r\nhi\r\n0\r\nX-A: b\r\n\r\n",
		"until closed":        "HTTP/1.1 200 OK\r\n\r\nhi",
		"HTTP/1.0":            "HTTP/1.0 200 OK\r\n\r\nhi",
		"HTTP/2":              "HTTP/2.0 200 OK\r\n\r\nhi",
		"no version":          "hi there\r\n\r\n",
		"TLS":                 "\x15\x03\x01\x00\x02\x02\x16",
		"bare newlines":       "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
		"folded header":       "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi",
		"NUL in the head":     "HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 2\r\n\r\nhi",
		"no colon":            "HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 2\r\n\r\nhi",
		"odd status":          "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
		"one length twice":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
		"negative length":     "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
		"length and chunked":  "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"unknown encoding":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
		"no content":          "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi",
		"not modified":        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
		"moved":               "HTTP/1.1 307 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
		"timeout while idle":  "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
		"continue":            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"cut after continue":  "HTTP/1.1 100 Continue\r\n\r\n",
		"switching protocols": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"two replies":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
	} {
		for _, key := range []string{"", "a key"} {
			for _, used := range []bool{false, true} {
				try := func(rt http.RoundTripper) (o ending, err error) {
					var times atomic.Int32
					s, to := serveRaw(t, func(c net.Conn, conn, request int, _ string) bool {
						if used && conn == 0 && request == 0 {
							_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
							return true
						}
						times.Add(1)
						text, hard := strings.CutSuffix(reply, "!")
						_, _ = io.WriteString(c, text)
						if hard {
							_ = c.(*net.TCPConn).SetLinger(0)
						}
						return false
					})
					defer s.Close()
					if used {
						_, _, _ = post(t.Context(), rt, to, key, "x")
					}
					o.status, o.body, err = post(t.Context(), rt, to, key, "x")
					if err != nil {
						f := llm.Broken(t.Context(), err, "", true)
						o.kind, o.sent = f.Kind, f.Sent
					}
					o.times = times.Load()
					return o, err
				}
				tr := llm.NewTransport(llm.TransportOptions{})
				want, wantErr := try(tr)
				tr.CloseIdleConnections()
				if got, err := try(plain(t)); got != want {
					t.Errorf("%s, key %q, used %v: got %+v (%v), want %+v (%v)", name, key, used, got, err, want, wantErr)
				}
			}
		}
	}
}

// Calls of which many end at any moment, to a server that breaks and delays what
// it likes: what comes is the reply to the call, or its beginning and an error,
// and no connection is left.
func TestStress(t *testing.T) {
	const callers, calls = 16, 150
	s, to := serveRaw(t, func(c net.Conn, _, _ int, body string) bool {
		head := "HTTP/1.1 200 OK\r\nContent-Length: "
		text := "the reply to " + body
		reply := fmt.Sprintf("%s%d\r\n\r\n%s", head, len(text), text)
		if rand.IntN(2) == 0 {
			n := rand.IntN(len(text))
			reply = fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", len(text)-n, text[:len(text)-n], n, text[len(text)-n:])
			if n == 0 {
				reply = "HTTP/1.1 103 Early Hints\r\n\r\n" + fmt.Sprintf("%s%d\r\n\r\n%s", head, len(text), text)
			}
		}
		goOn, extra := true, ""
		switch rand.IntN(12) {
		case 0: // closes with the reply, and does not say so
			goOn = false
		case 1: // cuts it
			reply, goOn = reply[:rand.IntN(len(reply))], false
		case 2: // resets
			reply, goOn = reply[:rand.IntN(len(reply))], false
			_ = c.(*net.TCPConn).SetLinger(0)
		case 3: // says more than it was asked
			extra = reply
		case 4: // says that it has waited too long, maybe when the next request is on its way
			defer func() {
				time.Sleep(time.Duration(rand.IntN(int(2 * time.Millisecond))))
				_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nidle")
			}()
			goOn = false
		}
		for reply != "" {
			n := 1 + rand.IntN(2*len(reply))
			if n >= len(reply) {
				n, reply = len(reply)+len(extra), reply+extra
			}
			if _, err := io.WriteString(c, reply[:n]); err != nil {
				return false
			}
			if reply = reply[n:]; reply != "" {
				time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
			}
		}
		return goOn
	})
	p := plain(t)
	var good, ended, broken atomic.Int32
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for k := range calls {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(3) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(int(2*time.Millisecond))), cancel)
				}
				body := fmt.Sprintf("call %d of %d %s", k, i, strings.Repeat("x", rand.IntN(100)*rand.IntN(100)))
				status, got, err := post(ctx, p, to, []string{"", "a key"}[k%2], body)
				switch want := "the reply to " + body; {
				case err == nil && status == http.StatusRequestTimeout && got == "idle": // crossed the request
				case err == nil && (status != 200 || got != want), !strings.HasPrefix(want, got) && status == 200:
					t.Errorf("got %d %.60q, want %.60q", status, got, want)
				case err == nil:
					good.Add(1)
				case errors.Is(err, context.Canceled):
					ended.Add(1)
				case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
					t.Errorf("got %v", err)
				default:
					broken.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if good.Load() == 0 || ended.Load() == 0 || broken.Load() == 0 {
		t.Errorf("of %d calls %d were good, %d ended and %d broken; want some of each", callers*calls, good.Load(), ended.Load(), broken.Load())
	}
	p.CloseIdleConnections()
	s.Close()
	closed := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("some connections stay open")
	}
}
