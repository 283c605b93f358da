package llm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick is tuned for tests: waits of at most a few milliseconds.
var quick = tune{
	retry:    backoff{time.Millisecond, 4 * time.Millisecond},
	probe:    backoff{time.Millisecond, 4 * time.Millisecond},
	maxAfter: 50 * time.Millisecond,
	maxBody:  1 << 20,
}

// good is a reply as servers give it.
const good = `{"id":"x","object":"chat.completion","model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`

func reply(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, body)
}

// serve starts a server on loopback and a client of it.
func serve(t testing.TB, c OpenAI, h http.HandlerFunc) *openAI {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c.BaseURL = s.URL + "/v1"
	return client(t, c, quick)
}

func client(t testing.TB, c OpenAI, tn tune) *openAI {
	t.Helper()
	m, err := newOpenAI("teacher", c, tn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func ask(text string) *Request {
	return &Request{Messages: []Message{{"user", text}}, Key: "key-" + text}
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

// said returns the text of the last message sent.
func said(t testing.TB, r *http.Request) string {
	ms := sent(t, r)["messages"].([]any)
	return ms[len(ms)-1].(map[string]any)["content"].(string)
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

// kindOf returns the *Error in err.
func kindOf(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want *Error", err, err)
	}
	return e
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

func (l *log) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list)
}
