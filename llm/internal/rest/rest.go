// Package rest is what drivers have in common whose services are called over HTTP
// at one address: how a request is sent once, and what comes of that. It does not
// know any service.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"matrix/internal/http1"
	"matrix/llm"
	"matrix/llm/internal/sse"
	"matrix/llm/internal/token"
)

// MaxReply is the longest reply that is read, in bytes, and the longest event of
// a stream.
const MaxReply = llm.MaxReply

// Conn leads to one address.
type Conn struct {
	Base    string      // of all requests; without credentials and query, and without a slash at the end
	Header  http.Header // of all requests
	Secrets llm.Secrets // never shown

	// Token signs the requests that have no Authorization. Nil: none does. An
	// error of its source that is no *llm.Failure is judged as one of a connection.
	Token *token.Keeper

	// Complain judges what a response says in the place of a reply. Nil: Do returns it.
	Complain func(res *http.Response, said []byte) *llm.Failure

	transport *http1.Transport
	answered  atomic.Bool
}

// New returns a connection to a base URL, of which a last part that is one of
// versions is cut off. It calls nobody. The error is a *llm.FieldError that names
// example.
func New(base, example string, versions ...string) (*Conn, error) {
	base, addr := llm.Pinned(base)
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("want an address like " + example)}
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	u.Path = strings.TrimSuffix(u.Path, "/")
	for _, v := range versions {
		u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, v), "/")
	}
	return &Conn{
		Base:      u.String(),
		Header:    http.Header{"Accept": {"application/json"}, "User-Agent": {"matrix"}},
		transport: http1.New(llm.NewTransport(llm.TransportOptions{Addr: addr})),
	}, nil
}

// Do sends a request once and returns the response as soon as it begins; one that is
// not of success is what Complain says of it. A token that the service does not take is
// replaced, and the request sent again. A redirect is not followed, but a failure. more
// are headers beside those of all requests; a nil body is that of a GET.
func (c *Conn) Do(ctx context.Context, path string, more http.Header, body []byte) (*http.Response, *llm.Failure) {
	res, f := c.do(ctx, path, more, body)
	if f != nil || res.StatusCode < 300 || c.Complain == nil {
		return res, f
	}
	said, f := c.Read(ctx, res)
	if f != nil {
		return nil, f
	}
	return nil, c.Complain(res, said)
}

func (c *Conn) do(ctx context.Context, path string, more http.Header, body []byte) (*http.Response, *llm.Failure) {
	u, err := url.Parse(c.Base + path)
	if err != nil {
		return nil, llm.Unsupported(c.Base, "the address of the call is none", "check model")
	}
	h := c.Header.Clone()
	maps.Copy(h, more)
	signed := ""
	if c.Token != nil && h.Get("Authorization") == "" {
		if signed, err = c.Token.Get(ctx); err != nil {
			return nil, c.unsigned(ctx, err)
		}
		h.Set("Authorization", "Bearer "+signed)
	}
	res, f := c.send(ctx, u, h, body)
	if f != nil || signed == "" || res.StatusCode != http.StatusUnauthorized {
		return res, f
	}
	c.Token.Refused(signed)
	next, err := c.Token.Get(ctx)
	if err != nil || next == signed {
		return res, nil
	}
	res.Body.Close()
	h = h.Clone()
	h.Set("Authorization", "Bearer "+next)
	return c.send(ctx, u, h, body)
}

func (c *Conn) send(ctx context.Context, u *url.URL, h http.Header, body []byte) (*http.Response, *llm.Failure) {
	if body != nil {
		h.Set("Content-Type", "application/json")
	}
	res, err := c.transport.RoundTrip(llm.NewRequest(ctx, u, h, body))
	if err != nil {
		return nil, c.Broken(ctx, err)
	}
	c.answered.Store(true)
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		res.Body.Close()
		f := &llm.Failure{Endpoint: c.Base, Status: res.StatusCode, Msg: "redirected"}
		f.Kind, f.Hint = llm.Judge(res.StatusCode, "", "")
		return nil, f
	}
	if err := llm.Unpack(res); err != nil {
		return nil, &llm.Failure{Kind: llm.Fatal, Endpoint: c.Base, Status: res.StatusCode, Sent: true,
			Msg: err.Error(), Hint: "have the service, or what is before it, send replies as they are"}
	}
	return res, nil
}

// unsigned judges an error of who gives tokens.
func (c *Conn) unsigned(ctx context.Context, err error) *llm.Failure {
	var f *llm.Failure
	if !errors.As(err, &f) {
		f = c.Broken(ctx, err)
		f.Msg, f.Sent = "no access token: "+f.Msg, false
		return f
	}
	g := *f
	g.Endpoint, g.Msg = c.Base, c.Hide(f.Msg)
	return &g
}

// Hide takes what is secret out of a text.
func (c *Conn) Hide(text string) string {
	text = c.Secrets.Hide(text)
	if c.Token != nil {
		text = c.Token.Hide(text)
	}
	return text
}

// Read reads a whole response, and closes it.
func (c *Conn) Read(ctx context.Context, res *http.Response) ([]byte, *llm.Failure) {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(llm.Counted(ctx, res.Body), MaxReply+1))
	switch {
	case err != nil:
		return nil, c.Broken(ctx, err)
	case len(body) > MaxReply:
		return nil, c.TooLong(res)
	}
	return body, nil
}

// Complaint is f with what all services say alike of why there is no reply: f has its
// kind, its status, and what it says for people, if anything.
func (c *Conn) Complaint(f *llm.Failure, res *http.Response, said []byte) *llm.Failure {
	f.Endpoint = c.Base
	f.Sent = res.StatusCode < 300 || f.Kind == llm.Fault || f.Kind == llm.Timeout // in a stream, or after it had begun
	if f.Msg == "" {
		f.Msg = string(said)
	}
	if f.Msg = llm.Shorten(c.Hide(f.Msg), 1000); f.Msg == "" {
		f.Msg = http.StatusText(f.Status)
	}
	now := time.Now()
	if after := llm.RetryAfter(res.Header, now); after > 0 {
		f.After = after
	}
	f.Quota = llm.Quotas(res.Header, now)
	return f
}

// Events gives take each event of a stream, as long as it wants more and nobody ended
// the reply. stray are lines of no event, of a stream that came to its end.
func Events[T any](ctx context.Context, c *Conn, res *http.Response, s *llm.Stream, take func(v *T, said []byte) (more bool, f *llm.Failure)) (stray []byte, f *llm.Failure) {
	events := sse.New(res.Body, nil, MaxReply)
	s.Reads(res.Body)
	events.Wait = s.Pause
	for more := true; more && f == nil && !s.Ended(); {
		data, err := events.Next(s.Alive)
		switch {
		case errors.Is(err, io.EOF):
			return events.Stray, nil
		case errors.Is(err, sse.ErrLong):
			return nil, c.TooLong(res)
		case err != nil:
			return nil, c.Broken(ctx, err)
		}
		s.Alive()
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, c.EmptyReply(res, "an event of the stream is not JSON: "+c.Shown(data))
		}
		more, f = take(&v, data)
	}
	return nil, f
}

// Shown is the beginning of what the service said, without secrets.
func (c *Conn) Shown(said []byte) string { return llm.Shorten(c.Hide(string(said)), 120) }

// TooLong is the failure of a reply that is longer than MaxReply.
func (c *Conn) TooLong(res *http.Response) *llm.Failure {
	return llm.TooLarge(c.Base, res.StatusCode, MaxReply)
}

// Broken judges an error of the connection.
func (c *Conn) Broken(ctx context.Context, err error) *llm.Failure {
	f := llm.Broken(ctx, err, c.Base, c.answered.Load())
	f.Msg = c.Hide(f.Msg)
	return f
}

// EmptyReply is the failure of a response of success that brought no reply.
func (c *Conn) EmptyReply(res *http.Response, msg string) *llm.Failure {
	f := &llm.Failure{Kind: llm.Fault, Endpoint: c.Base, Status: res.StatusCode, EmptyReply: true, Sent: true, Msg: llm.Shorten(c.Hide(msg), 300)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		f.Kind, f.EmptyReply = llm.Transport, false // somebody on the way to the service answered
	}
	return f
}

// Transport carries requests that are not the service's own, such as for a
// token.
func (c *Conn) Transport() http.RoundTripper { return c.transport }

// Close ends idle connections.
func (c *Conn) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}
