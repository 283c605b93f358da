package openai

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"matrix/llm"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(benchServer); address != "" { // the benchmarks' server, in a process of its own
		serveBench(address)
		return
	}
	goleak.VerifyTestMain(m)
}

// good is a reply as servers give it.
const good = `{"id":"x","object":"chat.completion","model":"m-1","system_fingerprint":"fp-9","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`

func reply(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, body)
}

// serve starts a server on loopback and a driver to it.
func serve(t testing.TB, o Options, h http.HandlerFunc) *Driver {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	o.BaseURL = s.URL + "/v1"
	return open(t, o)
}

func open(t testing.TB, o Options) *Driver {
	t.Helper()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func ask(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}, Key: "key-" + text}
}

// sent reads the body of a request.
func sent(t testing.TB, r *http.Request) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		t.Errorf("body sent: %v", err)
	}
	return v
}

// reset ends the connection of a request by a TCP reset.
func reset(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// failure returns the *llm.Failure that err is.
func failure(t testing.TB, err error) *llm.Failure {
	t.Helper()
	var f *llm.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got error %v (%T), want *llm.Failure", err, err)
	}
	return f
}

// within ends a test that hangs.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// log collects texts from several goroutines.
type log struct {
	mu   sync.Mutex
	list []string
}

func (l *log) add(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, s)
	return len(l.list)
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.list...)
}
