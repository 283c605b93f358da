package llm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
)

// newTransport returns a pool of connections for n calls at once. Servers
// close idle connections, vLLM after 5 s: the pool closes them before that.
func newTransport(n int) *http.Transport {
	dialer := &net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		MaxIdleConns:        n,
		MaxIdleConnsPerHost: n,
		IdleConnTimeout:     4 * time.Second,
		DisableCompression:  true, // replies are small, and CPU is what a client is short of
	}
}

// failure is a try that brought no reply.
type failure struct {
	class  class
	where  string // base URL
	status int    // HTTP status, 0 where there was none
	code   string // the service's code
	msg    string
	hint   string
	after  time.Duration // Retry-After
	pause  time.Duration // how long to wait before the next try
	hollow bool          // the server answered with success, and without a completion
}

func (f *failure) Error() string {
	if f.status != 0 {
		return fmt.Sprintf("%s: %d: %s", f.where, f.status, f.msg)
	}
	return f.where + ": " + f.msg
}

// exchange sends a call and reads the reply. Until a target has answered, a
// 404 or 405 from one leads on to the next.
func (m *openAI) exchange(ctx context.Context, key string, body []byte) (*Reply, *failure) {
	if i := m.target.Load(); i > 0 {
		return m.exchangeWith(ctx, &m.targets[i-1], key, body)
	}
	var first *failure
	for i := range m.targets {
		rep, f := m.exchangeWith(ctx, &m.targets[i], key, body)
		if f == nil {
			m.target.CompareAndSwap(0, int32(i)+1)
			return rep, nil
		}
		switch {
		case !lost(f) && (first == nil || f.class != fatal && f.class != fault):
			return nil, f
		case first == nil:
			first = f
			first.msg = fmt.Sprintf("POST %s%s: %s", m.targets[i].base, chatPath, f.msg)
		default:
			first.msg += fmt.Sprintf("; also tried %s%s: %s", m.targets[i].base, chatPath, f.msg)
		}
	}
	return nil, first
}

// lost says that there is no such place at the server, rather than no such
// model.
func lost(f *failure) bool {
	return f.class == fatal && f.code != "model_not_found" &&
		(f.status == http.StatusNotFound || f.status == http.StatusMethodNotAllowed)
}

func (m *openAI) exchangeWith(ctx context.Context, t *target, key string, body []byte) (*Reply, *failure) {
	ctx, cancel := context.WithTimeout(ctx, m.config.Timeout)
	defer cancel()
	b, head, f := m.roundTrip(m.request(ctx, http.MethodPost, t.chat, key, body), t.base)
	defer b.free()
	if f != nil {
		return nil, f
	}
	return m.read(t, head, b.Bytes())
}

// request makes an HTTP request whose body can be sent again.
func (m *openAI) request(ctx context.Context, method string, u *url.URL, key string, body []byte) *http.Request {
	h := m.header
	if key != "" {
		h = maps.Clone(h)
		h["Idempotency-Key"] = []string{headerText(key)}
	}
	req := &http.Request{
		Method: method, URL: u, Host: u.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if body != nil {
		req.ContentLength = int64(len(body))
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return req.WithContext(ctx)
}

// headerText returns s as it can stand in a header: what cannot is escaped,
// and what is long is hashed.
func headerText(s string) string {
	if len(s) > 200 {
		h := xxh3.HashString128(s).Bytes()
		return hex.EncodeToString(h[:])
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return url.QueryEscape(s)
	}
	return s
}

// head is what is kept of a response's status and headers.
type head struct {
	code     int
	media    string // Content-Type
	location string
	after    time.Duration
}

// buffer is a body that was read, from a pool.
type buffer struct{ bytes.Buffer }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) free() {
	if b == nil || b.Cap() > 1<<20 {
		return
	}
	b.Reset()
	buffers.Put(b)
}

// roundTrip sends a request and reads the whole response. Redirects are not
// followed. The buffer is the caller's to free, also after a failure.
func (m *openAI) roundTrip(req *http.Request, where string) (*buffer, head, *failure) {
	res, err := m.http.RoundTrip(req)
	if err != nil {
		return nil, head{}, m.broken(req, err, where, 0)
	}
	defer res.Body.Close()
	h := head{code: res.StatusCode, media: res.Header.Get("Content-Type"), location: res.Header.Get("Location")}
	if s := res.Header.Get("Retry-After"); s != "" {
		h.after = min(retryAfter(s, time.Now()), m.tune.maxAfter)
	}
	b := buffers.Get().(*buffer)
	n, err := b.ReadFrom(io.LimitReader(res.Body, m.tune.maxBody+1))
	if n > m.tune.maxBody {
		return b, h, &failure{class: refused, where: where, status: h.code,
			msg: fmt.Sprintf("the reply is larger than %d bytes", m.tune.maxBody), hint: "set max_tokens"}
	}
	if err != nil {
		return b, h, m.broken(req, err, where, h.code)
	}
	return b, h, nil
}

// retryAfter reads a Retry-After header, seconds or an HTTP date; 0 for what
// is neither or lies in the past.
func retryAfter(s string, now time.Time) time.Duration {
	if sec, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
		if sec > 0 && sec < 1e6 {
			return time.Duration(sec * float64(time.Second))
		}
		if sec >= 1e6 {
			return 1e6 * time.Second
		}
		return 0
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// broken judges an error of the connection.
func (m *openAI) broken(req *http.Request, err error, where string, status int) *failure {
	f := &failure{class: transport, where: where, status: status, msg: m.hide(shorten(err.Error(), 300))}
	var (
		op   *net.OpError
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		rec  tls.RecordHeaderError
		nerr net.Error
	)
	if errors.As(err, &op) && op.Op == "dial" {
		f.class = unreachable
	}
	switch {
	case errors.Is(req.Context().Err(), context.DeadlineExceeded):
		f.class, f.msg = timeout, fmt.Sprintf("no reply within %v", m.config.Timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		f.msg = "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		f.msg = "connection reset"
	case errors.Is(err, io.ErrUnexpectedEOF):
		f.msg = "the reply was cut off"
	case errors.Is(err, io.EOF):
		f.msg = "the connection was closed without a reply"
	case errors.As(err, &dns):
		f.msg = fmt.Sprintf("no address for host %q", dns.Name)
		if dns.IsNotFound && m.target.Load() == 0 { // never reached: a typing error rather than an outage
			f.class, f.hint = fatal, hintURL
		}
	case errors.As(err, &cert):
		f.class, f.hint = fatal, "check base_url, or add the server's certificate authority to the system's (SSL_CERT_FILE)"
	case errors.As(err, &rec), errors.Is(err, http.ErrSchemeMismatch):
		f.class, f.msg, f.hint = fatal, "the server does not speak TLS on this port", "write http:// in base_url, or check the port"
	case errors.As(err, &nerr) && nerr.Timeout():
		f.msg = "no connection in time"
	}
	return f
}

// read judges a whole response.
func (m *openAI) read(t *target, h head, body []byte) (*Reply, *failure) {
	if h.code < 200 || h.code > 299 {
		return nil, m.complain(t, h, body)
	}
	f := &failure{class: fault, where: t.base, status: h.code, hollow: true}
	var w wireReply
	if err := json.Unmarshal(body, &w); err != nil {
		f.msg = m.hide(fmt.Sprintf("the reply is not the JSON of a chat completion (%v): %s", err, shorten(string(body), 120)))
		if strings.HasPrefix(h.media, "text/html") {
			f.class, f.hollow = transport, false // somebody on the way to the server answered
			if m.target.Load() == 0 {
				f.class, f.hint = fatal, "this is a web page, not a model server: check base_url"
			}
		}
		return nil, f
	}
	if present(w.Error) {
		h.code = http.StatusInternalServerError
		return nil, m.complain(t, h, body)
	}
	if len(w.Choices) == 0 {
		f.msg = m.hide("the reply holds no choices: " + shorten(string(body), 120))
		return nil, f
	}
	for i := range w.Choices {
		c := &w.Choices[i]
		switch {
		case present(c.Error):
			h.code = http.StatusInternalServerError
			return nil, m.complain(t, h, slices.Concat([]byte(`{"error":`), c.Error, []byte("}")))
		case c.FinishReason == "error" || c.FinishReason == "abort":
			f.msg = fmt.Sprintf("the server broke off the reply (finish_reason %q)", c.FinishReason)
			return nil, f
		}
	}
	rep := &Reply{Choices: make([]Choice, len(w.Choices)), Usage: w.Usage, Model: w.Model, Endpoint: t.base}
	declined := 0
	for i := range w.Choices {
		c := &w.Choices[i]
		rep.Choices[i] = Choice{Text: string(c.Message.Content), Finish: c.FinishReason}
		if c.Message.Content == "" && c.Message.Refusal != "" {
			declined++
		}
	}
	if declined == len(w.Choices) {
		f.class, f.msg = refused, "the model declined: "+shorten(w.Choices[0].Message.Refusal, 1000)
		return nil, f
	}
	return rep, nil
}

// complain judges a response that says why there is no reply.
func (m *openAI) complain(t *target, h head, body []byte) *failure {
	c := parseComplaint(body)
	if h.code >= 500 && c.status != 0 {
		h.code = c.status // a gateway that passes on what another server said
	}
	f := &failure{where: t.base, status: h.code, code: c.code, msg: m.hide(c.msg), after: h.after}
	f.class, f.hint = judge(h.code, c.code, c.typ)
	if lost(f) && m.target.Load() != 0 && c.code == "" && c.status == 0 && c.typ == "" {
		f.class, f.hint = transport, "" // not the server's words: somebody before it has no way to it for now
	}
	switch {
	case h.code < 400 && h.location != "":
		f.msg = "redirected to " + m.hide(shorten(stripQuery(h.location), 200))
	case f.msg == "":
		f.msg = http.StatusText(h.code)
	}
	return f
}

// stripQuery cuts credentials and query off a URL.
func stripQuery(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "an address that is none"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
