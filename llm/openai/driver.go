package openai

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"matrix/internal/http1"
	"matrix/llm"
	"matrix/llm/openai/api"
)

// Options says where a driver leads. It is what other packages build on whose
// services speak the OpenAI API at addresses or with credentials of their own.
type Options struct {
	BaseURL   string // with or without /v1; its query is part of every address
	Exact     bool   // BaseURL is the whole address but for /chat/completions and the like
	ModelsURL string // of the list of models; empty: BaseURL + /models
	Model     string // empty: none is sent, or to a server that wants one, its only one
	APIKey    string // sent as bearer token
	Header    map[string]string
	Server    string // as in Config; empty: auto
	H2C       bool

	// Auth returns a header for each request, such as a token that is renewed.
	// Nil: none. An error that is no *llm.Failure stops the model.
	Auth func(ctx context.Context) (header, value string, err error)

	// Transport carries the requests where it is not plain HTTP that does. Nil:
	// llm.NewTransport's.
	Transport http.RoundTripper
}

// Driver is an llm.Driver to a server that speaks the OpenAI API.
type Driver struct {
	model string
	names bool                   // an address is that of a server, not of a model
	only  atomic.Pointer[string] // the server's only model, where it wants a name and none is given
	auth  func(context.Context) (string, string, error)

	targets []target     // what the base URL may mean, the likeliest first
	target  atomic.Int32 // the one that answered, +1; 0 while none has
	worked  [lastOp + 1]atomic.Bool
	header  http.Header // of every request; never changed
	secrets llm.Secrets // never shown
	http    http.RoundTripper
	h2c     bool
	addr    string // of the server, where it is pinned
	max     int64
	newer   atomic.Bool // the server wants max_completion_tokens

	finishes atomic.Bool // the server says why a stream ended

	server  atomic.Pointer[server] // nil: not known yet
	finding sync.Mutex
}

var _ llm.Driver = (*Driver)(nil)

// New returns a driver. It does not call the server. The error is a
// *llm.FieldError.
func New(o Options) (*Driver, error) {
	w := &Driver{model: o.Model, names: !o.Exact, auth: o.Auth, max: llm.MaxReply, h2c: o.H2C}
	switch o.Server {
	case "", "auto":
	case api.OpenAI, api.VLLM, api.SGLang, api.LlamaCpp, api.Ollama, api.TensorRT:
		w.server.Store(&server{Server: api.Server{Name: o.Server}})
	default:
		return nil, &llm.FieldError{Field: "server", Err: fmt.Errorf("got %q", o.Server)}
	}
	o.BaseURL, w.addr = llm.Pinned(o.BaseURL)
	if err := w.address(&o); err != nil {
		return nil, err
	}
	if o.H2C && strings.HasPrefix(w.targets[0].base, "https:") {
		return nil, &llm.FieldError{Field: "http2", Err: errors.New("is for http:// addresses; over https:// HTTP/2 is used where the server has it")}
	}
	w.http = o.Transport
	if w.http == nil {
		w.http = http1.New(llm.NewTransport(llm.TransportOptions{H2C: o.H2C, Addr: w.addr}))
	}
	return w, nil
}

// Close implements llm.Driver.
func (w *Driver) Close() error {
	if c, ok := w.http.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
	return nil
}

// reached says that the server has ever answered a call.
func (w *Driver) reached() bool { return w.target.Load() > 0 }

// Send implements llm.Driver.
func (w *Driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	s, f := w.serving(ctx, r)
	for f == nil {
		newer := w.newer.Load()
		name := w.name()
		var c *call
		if c, f = w.encode(r, s.Server, name); f != nil {
			break
		}
		var rep *llm.Reply
		if rep, f = w.exchange(ctx, c); f == nil {
			return rep, nil
		}
		f.Params = c.params
		if w.h2c && f.Kind == llm.Transport && !w.reached() && w.plain(ctx) {
			f.Kind, f.Sent = llm.Fatal, false
			f.Msg, f.Hint = "the server does not speak HTTP/2 without TLS", "leave out http2, or have the server speak h2c"
		}
		if f.Code == codeMaxTokens {
			f.Code = "unsupported_parameter"
			if c.op == chat && !newer {
				w.newer.Store(true)
				f = nil
			}
		} else if name == "" && w.names && unnamed(f) {
			if found, why := w.find(ctx, f); found {
				f = nil
			} else {
				f = why
			}
		}
	}
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return nil, f
}

// exchange sends a call and reads the reply. Until a target has answered, a
// 404 or 405 from one leads on to the next.
func (w *Driver) exchange(ctx context.Context, c *call) (*llm.Reply, *llm.Failure) {
	if i := w.target.Load(); i > 0 {
		rep, f := w.exchangeWith(ctx, &w.targets[i-1], c)
		if f == nil {
			w.worked[c.op].Store(true)
		}
		return rep, f
	}
	var first *llm.Failure
	for i := range w.targets {
		t := &w.targets[i]
		rep, f := w.exchangeWith(ctx, t, c)
		if f == nil {
			w.target.CompareAndSwap(0, int32(i)+1)
			w.worked[c.op].Store(true)
			return rep, nil
		}
		switch {
		case !lost(f) && (first == nil || f.Kind != llm.Fatal && f.Kind != llm.Fault):
			return nil, f
		case first == nil:
			first = f
			first.Msg = fmt.Sprintf("POST %s: %s", t.shown(c.op), f.Msg)
		default:
			first.Msg += fmt.Sprintf("; also tried %s: %s", t.shown(c.op), f.Msg)
		}
	}
	return nil, first
}

func (w *Driver) exchangeWith(ctx context.Context, t *target, c *call) (*llm.Reply, *llm.Failure) {
	if c.stream {
		return w.streamWith(ctx, t, c)
	}
	res, h, f := w.open(ctx, t, c.op, t.at[c.op], c.r.Key, c.body)
	if f != nil {
		return nil, f
	}
	defer res.Body.Close()
	b, f := w.body(ctx, t, res.Body, h)
	defer b.free()
	if f != nil {
		return nil, f
	}
	return w.read(t, c, h, nil, b.Bytes())
}

// head is what is kept of a response's status and headers.
type head struct {
	op       op
	status   int
	media    string // Content-Type
	location string
	after    time.Duration
	quota    []llm.Quota
}

// open sends a request, whose body can be sent again, and returns the response
// as soon as it begins. Redirects are not followed.
func (w *Driver) open(ctx context.Context, t *target, o op, u *url.URL, key string, body []byte) (*http.Response, *head, *llm.Failure) {
	header := w.header
	if key != "" || w.auth != nil {
		header = maps.Clone(header)
	}
	if key != "" {
		header["Idempotency-Key"] = []string{headerText(key)}
	}
	if w.auth != nil {
		k, v, err := w.auth(ctx)
		if err != nil {
			return nil, nil, w.unauthorized(ctx, t, err)
		}
		header.Set(k, v)
	}
	res, err := w.http.RoundTrip(llm.NewRequest(ctx, u, header, body))
	if err != nil {
		return nil, nil, w.broken(ctx, err, t, 0)
	}
	if err := llm.Unpack(res); err != nil {
		return nil, nil, &llm.Failure{Kind: llm.Fatal, Endpoint: t.base, Status: res.StatusCode, Msg: err.Error(), Hint: "have the server, or what is before it, send replies as they are", Sent: true}
	}
	now := time.Now()
	return res, &head{
		op: o, status: res.StatusCode, media: res.Header.Get("Content-Type"), location: res.Header.Get("Location"),
		after: llm.RetryAfter(res.Header, now), quota: llm.Quotas(res.Header, now),
	}, nil
}

// unauthorized judges an error of Auth.
func (w *Driver) unauthorized(ctx context.Context, t *target, err error) *llm.Failure {
	var f *llm.Failure
	if errors.As(err, &f) {
		g := *f
		g.Endpoint = t.base
		return &g
	}
	if ctx.Err() != nil {
		return w.broken(ctx, err, t, 0)
	}
	return &llm.Failure{Kind: llm.Fatal, Endpoint: t.base, Msg: llm.Shorten(w.secrets.Hide(err.Error()), 300), Hint: "check the credentials"}
}

// broken judges an error of the connection.
func (w *Driver) broken(ctx context.Context, err error, t *target, status int) *llm.Failure {
	f := llm.Broken(ctx, err, t.base, w.reached())
	f.Status, f.Msg = status, w.secrets.Hide(f.Msg)
	return f
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

// body reads a whole response. The buffer is the caller's to free, also after a
// failure.
func (w *Driver) body(ctx context.Context, t *target, r io.Reader, h *head) (*buffer, *llm.Failure) {
	b := buffers.Get().(*buffer)
	n, err := b.ReadFrom(io.LimitReader(llm.Counted(ctx, r), w.max+1))
	if n > w.max {
		return b, w.tooLarge(t, h)
	}
	if err != nil {
		return b, w.broken(ctx, err, t, h.status)
	}
	return b, nil
}

func (w *Driver) tooLarge(t *target, h *head) *llm.Failure {
	return llm.TooLarge(t.base, h.status, int(w.max))
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

// order returns the targets, the one that answered first.
func (w *Driver) order() []*target {
	var list []*target
	for i := range w.targets {
		list = append(list, &w.targets[i])
	}
	if i := int(w.target.Load()); i > 1 {
		list[0], list[i-1] = list[i-1], list[0]
	}
	return slices.Clip(list)
}
