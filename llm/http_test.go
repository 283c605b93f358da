package llm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"3": 3 * time.Second, " 0.5 ": 500 * time.Millisecond, "0": 0, "-1": 0, "soon": 0, "": 0, "1e99": 1e6 * time.Second, "1e999": 1e6 * time.Second, "NaN": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"1m30s":                         90 * time.Second, "2026-01-02T03:04:35Z": 30 * time.Second, "-5s": 0,
		fmt.Sprint(now.Unix() + 3): 3 * time.Second, fmt.Sprint(now.UnixMilli() + 3500): 3500 * time.Millisecond, fmt.Sprint(now.UnixMicro() + 3e6): 3 * time.Second,
		fmt.Sprint(now.Unix() - 3): 0, fmt.Sprintf("%d.5", now.Unix()): 500 * time.Millisecond, "86400": 24 * time.Hour,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {s}}, now).Round(time.Millisecond); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
	if got := RetryAfter(http.Header{"Retry-After": {"9"}, "Retry-After-Ms": {"1500"}}, now); got != 1500*time.Millisecond {
		t.Errorf("retry-after-ms: got %v", got)
	}
	if got := RetryAfter(http.Header{"Retry-After": {"9"}, "Retry-After-Ms": {"x"}}, now); got != 9*time.Second {
		t.Errorf("bad retry-after-ms: got %v", got)
	}
}

func TestQuotas(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		header map[string]string
		want   []Quota
	}{
		"none": {map[string]string{"Content-Type": "x"}, nil},
		"openai": {map[string]string{
			"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1m2s",
			"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms",
		}, []Quota{{Limit: 60, Left: 59, Reset: 62 * time.Second}, {Tokens: true, Limit: 150000, Reset: 20 * time.Millisecond}}},
		"azure": {map[string]string{"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "10"}, []Quota{{Tokens: true, Left: 7, Reset: 10 * time.Second}}},
		"anthropic": {map[string]string{
			"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49", "anthropic-ratelimit-requests-reset": "2026-01-02T03:05:05Z",
		}, []Quota{{Limit: 50, Left: 49, Reset: time.Minute}}},
		"unix times": {map[string]string{
			"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": fmt.Sprint(now.Unix() + 3),
			"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": fmt.Sprint(now.UnixMilli() + 3000),
		}, []Quota{{Reset: 3 * time.Second}, {Tokens: true, Reset: 3 * time.Second}}},
		"a date":     {map[string]string{"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "Fri, 02 Jan 2026 03:04:35 GMT"}, []Quota{{Reset: 30 * time.Second}}},
		"limit only": {map[string]string{"x-ratelimit-limit-requests": "60"}, []Quota{{Limit: 60, Left: 60}}},
		"no numbers": {map[string]string{"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "-3"}, nil},
		"past reset": {map[string]string{"x-ratelimit-limit-requests": "1", "x-ratelimit-reset-requests": "-5s"}, []Quota{{Limit: 1, Left: 1}}},
	} {
		h := http.Header{}
		for k, v := range c.header {
			h.Set(k, v)
		}
		if got := Quotas(h, now); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestBroken(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: err} }
	for name, c := range map[string]struct {
		err     error
		reached bool
		kind    Kind
		sent    bool
		want    string
	}{
		"refused":                {dial(syscall.ECONNREFUSED), true, Unreachable, false, "refused"},
		"refused from the first": {dial(syscall.ECONNREFUSED), false, Unreachable, false, "refused"},
		"no route":               {dial(syscall.EHOSTUNREACH), false, Unreachable, false, "no route"},
		"reset":                  {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true, Transport, true, "reset"},
		"black hole":             {&net.OpError{Op: "read", Err: syscall.ETIMEDOUT}, true, Transport, true, ""},
		"cut off":                {io.ErrUnexpectedEOF, true, Transport, true, "cut off"},
		"no reply":               {io.EOF, true, Transport, true, "without a reply"},
		"typing error":           {dial(&net.DNSError{Name: "nowhere.invalid", IsNotFound: true}), false, Fatal, false, "nowhere.invalid"},
		"name gone":              {dial(&net.DNSError{Name: "nowhere.invalid", IsNotFound: true}), true, Unreachable, false, "nowhere.invalid"},
		"name server is out":     {dial(&net.DNSError{Name: "x", IsTemporary: true}), false, Unreachable, false, "no address"},
		"proxy is out":           {&net.OpError{Op: "proxyconnect", Err: dial(syscall.ECONNREFUSED)}, false, Unreachable, false, "proxy: connection refused"},
		"proxy wants a name":     {&proxyError{407}, false, Fatal, false, "407"},
		"proxy does not reach":   {&proxyError{502}, false, Unreachable, false, "502"},
		"anything else":          {errors.New("odd"), true, Transport, true, "odd"},
	} {
		f := Broken(t.Context(), c.err, "http://x", c.reached)
		if f.Kind != c.kind || f.Sent != c.sent || !strings.Contains(f.Msg, c.want) || f.Endpoint != "http://x" || (f.Kind == Fatal) != (f.Hint != "") && name != "proxy is out" && f.Msg != "connection refused" {
			t.Errorf("%s: got %v %+v, want %v", name, f.Kind, f, c.kind)
		}
		if hint := map[bool]string{true: "is the server up?", false: "is the server up? check base_url"}[c.reached]; f.Msg == "connection refused" && f.Hint != hint {
			t.Errorf("%s: got hint %q, want %q", name, f.Hint, hint)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if f := Broken(ctx, ctx.Err(), "http://x", true); f.Kind != Timeout || !f.Sent {
		t.Errorf("deadline: got %+v", f)
	}
}

// What is asked of a proxy that is not there says where that should be, and a
// server that closes connections to https:// may not speak TLS.
func TestBrokenHints(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	tr := NewTransport(TransportOptions{})
	tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: address})
	try := func(to string) *Failure {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", to, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := tr.RoundTrip(req)
		if err == nil {
			res.Body.Close()
			t.Fatal("got a reply")
		}
		return Broken(t.Context(), err, to, false)
	}
	for _, to := range []string{"http://models.invalid", "https://models.invalid"} {
		if f := try(to); f.Kind != Unreachable || f.Msg != "proxy "+address+": connection refused" || f.Hint != hintProxy || len(f.Hint) > shortHint {
			t.Errorf("%s: got %+v", to, f)
		}
	}
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1<<10))
			c.Close()
		}
	}()
	tr.Proxy = nil
	if f := try("https://" + l.Addr().String()); f.Kind != Transport || f.Hint != hintTLS || len(f.Hint) > shortHint {
		t.Errorf("got %+v, want a hint at TLS", f)
	}
	if f := try("http://" + l.Addr().String()); f.Hint != "" {
		t.Errorf("got %+v, want no hint", f)
	}
}

// A proxy of the environment that is not an address ends the run, where net/http
// would go without one. Its password is not shown.
func TestWrongProxy(t *testing.T) {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTP_PROXY", "http://u:secret@proxy:port")
	t.Setenv("http_proxy", "http://proxy:1") // does not count beside the other, as in net/http
	tr := NewTransport(TransportOptions{})
	for to, want := range map[string]bool{"http://models.invalid": true, "https://models.invalid": false, "http://127.0.0.1:1": false, "http://localhost:1": false} {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tr.Proxy(&http.Request{URL: u})
		if (err != nil) != want {
			t.Errorf("%s: got %v, want an error: %v", to, err, want)
		}
		if err == nil {
			continue
		}
		if f := Broken(t.Context(), err, to, false); f.Kind != Fatal || f.Sent || !strings.HasPrefix(f.Msg, "HTTP_PROXY is not an address: ") || strings.Contains(f.Msg, "secret") || f.Hint == "" {
			t.Errorf("got %+v", f)
		}
	}
	t.Setenv("http_proxy", "http:// a")
	for value, want := range map[string]bool{
		"": true, "proxy:3128": false, "proxy": false, "http://u:p@proxy:1": false, "socks5://proxy:1": false, "http://[::1]:3": false,
		"http://u:sec/ret@proxy:1": true, "http://u:sec#ret@proxy:1": true, "http://u:se%zzret@proxy:1": true, "http://u:1/sec@proxy:1": true,
		"http://u:p%2F@proxy:1": false,
		"proxy:port":            true, "http://": true, "ftp://proxy": true, "http://[::1": true, ":3128": true, "http://a b": true,
	} {
		t.Setenv("HTTP_PROXY", value) // goes before the other
		if err := wrongProxy("HTTP_PROXY", "http_proxy"); (err != nil) != want {
			t.Errorf("%q: got %v, want an error: %v", value, err, want)
		} else if err != nil && regexp.MustCompile("sec|ret|zz").MatchString(err.Error()) {
			t.Errorf("%q: %v shows the password", value, err)
		}
	}
}

// What a proxy that refuses leads to, over a real one.
func TestProxy(t *testing.T) {
	for status, kind := range map[int]Kind{407: Fatal, 403: Fatal, 502: Unreachable, 503: Unreachable} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodConnect {
				t.Errorf("got %s", r.Method)
			}
			w.WriteHeader(status)
		}))
		u, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		tr := NewTransport(TransportOptions{})
		tr.Proxy = http.ProxyURL(u)
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://models.invalid/v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tr.RoundTrip(req)
		if f := Broken(t.Context(), err, "https://models.invalid/v1", false); f.Kind != kind || !strings.Contains(f.Msg, "proxy") || f.Sent {
			t.Errorf("%d: got %v %+v, want %v", status, f.Kind, f, kind)
		}
		tr.CloseIdleConnections()
		proxy.Close()
	}
}

// A connection that has been idle for 4 s is closed, before a server does so.
func TestIdleConnections(t *testing.T) {
	if got := NewTransport(TransportOptions{}).IdleConnTimeout; got != 4*time.Second {
		t.Errorf("got %v, want 4s", got)
	}
}
