package matrixtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"matrix/llm"
)

// Codec is a vendor's wire format over HTTP, from the service's side.
type Codec struct {
	// Read reads a call; an error fails the test.
	Read func(r *http.Request, body []byte) (Call, error)

	// Write writes a whole reply: headers, of which the content type is one,
	// and the body. A reply without choices and vectors is one of success that
	// says nothing.
	Write func(c *Call, rep *llm.Reply) (http.Header, []byte)

	// Events writes a streamed reply. Each text is cut by Pieces, one event or
	// more for each piece.
	Events func(c *Call, rep *llm.Reply) (http.Header, [][]byte)

	// List answers a Probe. nil answers it with success and {}.
	List func(served []string) []byte
}

// Pieces cuts a text as a stream brings it.
func Pieces(text string) []string { return strings.SplitAfter(text, " ") }

// Serve serves the format until t ends and returns where.
func (k Codec) Serve(t testing.TB, secret string, answer func(Call) Answer) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client left
		}
		c, err := k.Read(r, body)
		if err != nil {
			t.Errorf("%s %s: %v in %s", r.Method, r.URL.Path, err, body)
			http.Error(w, "the fake cannot read that", http.StatusTeapot)
			return
		}
		a := answer(c)
		for name, v := range a.Header {
			w.Header().Set(name, v)
		}
		k.serve(w, r, &c, &a, secret)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func (k Codec) serve(w http.ResponseWriter, r *http.Request, c *Call, a *Answer, secret string) {
	switch {
	case a.Fault == Reset:
		reset(w)
		return
	case a.Fault == Bare:
		http.Error(w, "upstream is gone", http.StatusInternalServerError)
		return
	case a.Fault == Redirected:
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
		return
	case a.Fault == NotAReply:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"error`)
		return
	case a.Fault == WebPage:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>Sign in</title>")
		return
	case a.Complaint != nil && a.Fault != Break:
		w.Header().Set("Content-Type", "application/json")
		for name, v := range a.Complaint.Header {
			w.Header().Set(name, v)
		}
		w.WriteHeader(a.Complaint.Status)
		fmt.Fprint(w, strings.ReplaceAll(a.Complaint.Body, "{secret}", secret))
		return
	case c.Probe:
		w.Header().Set("Content-Type", "application/json")
		if k.List == nil {
			fmt.Fprint(w, "{}")
			return
		}
		_, _ = w.Write(k.List(a.Served))
		return
	}
	if a.Fault == Empty {
		a.Reply = llm.Reply{Model: a.Reply.Model}
	}
	var (
		head   http.Header
		events [][]byte
	)
	if c.Stream {
		head, events = k.Events(c, &a.Reply)
	} else {
		var body []byte
		head, body = k.Write(c, &a.Reply)
		events = [][]byte{body[:len(body)/2], body[len(body)/2:]}
	}
	for name := range head {
		w.Header().Set(name, head.Get(name))
	}
	flush := http.NewResponseController(w)
	for i, e := range events {
		if i == len(events)/2 && a.Fault != Fine && a.Fault != Empty {
			k.fail(w, r, a, secret)
			return
		}
		_, _ = w.Write(e) // a client may leave
		if c.Stream || a.Fault != Fine {
			_ = flush.Flush()
		}
	}
}

// fail is what goes wrong in the middle of an answer.
func (k Codec) fail(w http.ResponseWriter, r *http.Request, a *Answer, secret string) {
	switch a.Fault {
	case CutOff:
		reset(w)
	case Hang:
		<-r.Context().Done()
	case Break:
		fmt.Fprint(w, strings.ReplaceAll(a.Complaint.Event, "{secret}", secret))
	}
}

// reset ends a connection by a TCP reset.
func reset(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// SSE writes an event of a stream of server-sent events. event may be empty.
func SSE(event, data string) []byte {
	if event != "" {
		return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, data)
	}
	return fmt.Appendf(nil, "data: %s\n\n", data)
}

// failure returns the *llm.Failure in err, or nil.
func failure(err error) *llm.Failure {
	var f *llm.Failure
	errors.As(err, &f)
	return f
}
