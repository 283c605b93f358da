package llm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// TransportOptions says how NewTransport connects.
type TransportOptions struct {
	H2C  bool   // HTTP/2 without TLS, for servers that are known to speak it
	Addr string // IP address that all connections go to, past any proxy; empty: where the URL says (Pinned)
}

// NewTransport returns a pool of connections for thousands of calls at once. It
// closes an idle connection after 4 s, before servers do (vLLM after 5 s), and
// neither asks for compressed replies nor follows redirects. It goes through
// the proxy that the environment names.
func NewTransport(o TransportOptions) *http.Transport {
	dialer := &net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4},
		Control:         patientSocket,
	}
	t := &http.Transport{
		Proxy:                  environmentProxy(),
		OnProxyConnectResponse: refusedByProxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		MaxIdleConnsPerHost:    1 << 20, // a connection that has served one of many calls serves the next
		IdleConnTimeout:        4 * time.Second,
		DisableCompression:     true, // replies are small, and CPU is what a client is short of
	}
	if o.Addr != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, network, hostPort string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(hostPort)
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, net.JoinHostPort(o.Addr, port))
		}
	}
	if o.H2C {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP2(true)
	}
	return t
}

// NewRequest returns a call of u with the headers h: a POST of body, which can be sent
// again, or a GET where body is nil.
func NewRequest(ctx context.Context, u *url.URL, h http.Header, body []byte) *http.Request {
	req := (&http.Request{
		Method: http.MethodGet, URL: u, Host: u.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if body != nil {
		req.Method, req.ContentLength = http.MethodPost, int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req
}

// AddHeaders adds headers of a config's to h, and their values to secrets. They win
// over those that are there. The error is a *FieldError.
func AddHeaders(h http.Header, secrets *Secrets, headers map[string]string) error {
	for k, v := range headers {
		if k == "" || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) || strings.ContainsAny(v, "\r\n\x00") {
			return &FieldError{Field: "headers", Err: fmt.Errorf("%q is not a header that can be sent", k)}
		}
		h.Set(k, v)
		secrets.Add(v)
		if _, token, ok := strings.Cut(v, " "); ok {
			secrets.Add(token)
		}
	}
	return nil
}

// proxyError is a proxy that will not connect.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

func refusedByProxy(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyError{res.StatusCode}
}

// environmentProxy is http.ProxyFromEnvironment, but for a proxy that is no
// address: net/http goes without one then or asks for a host of another name, and
// nobody hears of it.
func environmentProxy() func(*http.Request) (*url.URL, error) {
	wrong := map[string]error{"http": wrongProxy("HTTP_PROXY", "http_proxy"), "https": wrongProxy("HTTPS_PROXY", "https_proxy")}
	return func(req *http.Request) (*url.URL, error) {
		host := req.URL.Hostname()
		if err := wrong[req.URL.Scheme]; err != nil && host != "localhost" && !net.ParseIP(host).IsLoopback() {
			return nil, err
		}
		return http.ProxyFromEnvironment(req)
	}
}

// wrongProxyError is a proxy of the environment that is not an address. It shows no
// password.
type wrongProxyError struct {
	name string
	err  error
}

func (e *wrongProxyError) Error() string { return e.name + " is not an address: " + e.err.Error() }

// wrongProxy judges the first of the variables that is set: a URL, or host and
// port.
func wrongProxy(names ...string) error {
	for _, name := range names {
		v := os.Getenv(name)
		if v == "" {
			continue
		}
		if !strings.Contains(v, "://") {
			v = "http://" + v
		}
		u, err := url.Parse(v)
		inner := (*url.Error)(nil)
		switch {
		case strings.Contains(v, "@") && (err != nil || u.User == nil): // the error may quote the password
			return &wrongProxyError{name, errors.New("is its port a number, and are /, #, ? and % in its password written %2F, %23, %3F and %25?")}
		case errors.As(err, &inner):
			return &wrongProxyError{name, inner.Err}
		case err != nil:
			return &wrongProxyError{name, err}
		case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
			return &wrongProxyError{name, fmt.Errorf("its scheme is %q, want http, https or socks5", u.Scheme)}
		case u.Hostname() == "":
			return &wrongProxyError{name, errors.New("it names no host")}
		}
		return nil
	}
	return nil
}

const (
	hintProxy = "check HTTP_PROXY and HTTPS_PROXY"
	hintTLS   = "does the server speak TLS on this port?"
)

// Broken judges an error of a connection by its type: an http.RoundTripper's,
// or a body's that is being read. reached says that the endpoint has ever
// answered: until then, a host without an address is a typing error rather than
// an outage. The message may hold secrets.
func Broken(ctx context.Context, err error, endpoint string, reached bool) *Failure {
	f := &Failure{Kind: Transport, Endpoint: endpoint, Msg: Shorten(err.Error(), 300), Sent: true}
	var (
		op    *net.OpError
		dns   *net.DNSError
		cert  *tls.CertificateVerificationError
		rec   tls.RecordHeaderError
		alert tls.AlertError
		proxy *proxyError
		wrong *wrongProxyError
		nerr  net.Error
	)
	fresh := !reached && strings.HasPrefix(endpoint, "https:")
	if errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect") {
		f.Kind, f.Sent = Unreachable, false
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		f.Kind, f.Msg, f.Sent = Timeout, "no reply in time", true
	case errors.As(err, &wrong):
		f.Kind, f.Sent, f.Hint = Fatal, false, "fix it, or unset it"
	case errors.As(err, &proxy):
		f.Kind, f.Sent = Unreachable, false
		if proxy.status == http.StatusProxyAuthRequired || proxy.status == http.StatusForbidden {
			f.Kind, f.Hint = Fatal, hintProxy
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Msg, f.Hint = "connection refused", "is the server up?"
		if !reached {
			f.Hint += " " + hintURL
		}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		f.Msg = "connection reset"
		if fresh {
			f.Hint = hintTLS
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		f.Msg = "the reply was cut off"
	case errors.Is(err, io.EOF):
		f.Msg = "the connection was closed without a reply"
		if fresh {
			f.Hint = hintTLS
		}
	case errors.As(err, &dns):
		f.Kind, f.Msg, f.Sent = Unreachable, fmt.Sprintf("no address for host %q", dns.Name), false
		if dns.IsNotFound && !reached {
			f.Kind, f.Hint = Fatal, hintURL
		}
	case errors.As(err, &cert):
		f.Kind, f.Sent = Fatal, false
		f.Hint = "check base_url, or add the server's certificate authority to the system's (SSL_CERT_FILE)"
	case errors.As(err, &rec), errors.Is(err, http.ErrSchemeMismatch):
		f.Kind, f.Msg, f.Sent = Fatal, "the server does not speak TLS on this port", false
		f.Hint = "write http:// in base_url, or check the port"
	case errors.As(err, &alert):
		f.Kind, f.Sent = Fatal, false
		f.Hint = "the server ended the TLS handshake: check base_url, and what it wants of its clients"
	case errors.As(err, &nerr) && nerr.Timeout():
		f.Msg = "no connection in time"
	}
	if op != nil && op.Op == "proxyconnect" {
		who := "proxy"
		if inner := (*net.OpError)(nil); errors.As(op.Err, &inner) && inner.Addr != nil {
			who += " " + inner.Addr.String()
		}
		f.Msg = who + ": " + f.Msg
		if f.Kind == Unreachable || f.Hint == hintURL {
			f.Hint = hintProxy
		}
	}
	return f
}

// RetryAfter reads when to try again: retry-after-ms, or Retry-After in seconds or
// as later reads it. It is 0 for what is not one of these or lies in the past.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	if d := later(h.Get("Retry-After-Ms"), time.Millisecond, now); d > 0 {
		return d
	}
	return later(h.Get("Retry-After"), time.Second, now)
}

// later reads how long it is until something: a number of units, a duration such
// as 6m0s, a date, or a Unix time in seconds or a fraction of them. It is 0 for
// what is not one of these or lies in the past, and at most 1e6 s.
func later(s string, unit time.Duration, now time.Time) time.Duration {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	var d time.Duration
	n, err := strconv.ParseFloat(s, 64)
	switch {
	case err == nil || errors.Is(err, strconv.ErrRange):
		for _, second := range []float64{1, 1e3, 1e6, 1e9} {
			if at := n / second; at >= unixTimes && at < 100*unixTimes {
				n, unit = at-float64(now.UnixNano())/1e9, time.Second
				break
			}
		}
		if !(n > 0) {
			return 0
		}
		d = time.Duration(min(n*float64(unit), 1e15)).Round(time.Microsecond)
	default:
		if d, err = time.ParseDuration(s); err == nil {
			break
		}
		t, err := http.ParseTime(s)
		if err != nil {
			if t, err = time.Parse(time.RFC3339, s); err != nil {
				return 0
			}
		}
		d = t.Sub(now)
	}
	return max(0, min(d, 1e6*time.Second))
}

// unixTimes is from which number on a number of seconds is a time: 2001.
const unixTimes = 1e9

// quotaHeaders are the headers of the limits that Quotas knows: limit,
// remaining, reset.
var quotaHeaders = [...]struct {
	tokens             bool
	limit, left, reset string // in canonical form
}{
	{false, "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
	{true, "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
	{false, "Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset"},
	{true, "Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset"},
}

// Quotas reads the limits that a service tells of in x-ratelimit-* and
// anthropic-ratelimit-*; nil where it tells of none.
func Quotas(h http.Header, now time.Time) []Quota {
	var qs []Quota
	for i := range quotaHeaders {
		k := &quotaHeaders[i]
		limit, ok := number(h, k.limit)
		left, some := number(h, k.left)
		if !ok && !some {
			continue
		}
		if !some {
			left = limit
		}
		qs = append(qs, Quota{Tokens: k.tokens, Limit: limit, Left: left, Reset: until(h, k.reset, now)})
	}
	return qs
}

// number reads a header that counts.
func number(h http.Header, key string) (int, bool) {
	if vs := h[key]; len(vs) > 0 {
		n, err := strconv.Atoi(strings.TrimSpace(vs[0]))
		return n, err == nil && n >= 0
	}
	return 0, false
}

// until reads a header that says when.
func until(h http.Header, key string, now time.Time) time.Duration {
	if vs := h[key]; len(vs) > 0 {
		return later(vs[0], time.Second, now)
	}
	return 0
}
