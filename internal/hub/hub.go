// Package hub pushes datasets to the Hugging Face hub, or to another service that speaks
// its API: https://huggingface.co/docs/hub/api and, for large files, that of Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md). It knows nothing of
// runs and tasks.
package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"matrix/internal/pause"
	"matrix/internal/remote"
)

// Endpoint is where the hub is, unless HF_ENDPOINT says otherwise.
const Endpoint = "https://huggingface.co"

// Options of a client.
type Options struct {
	Endpoint string // URL of the hub; empty for Endpoint
	Token    string // that may write; shown nowhere
	Agent    string // name and version of this program

	// Again is told of a failure after which a request is made again; nil drops it.
	Again func(err error, after time.Duration)

	// Wait waits before a request is tried again; nil waits for so long.
	Wait func(context.Context, time.Duration) error
}

// Client speaks with a hub.
type Client struct {
	o    Options
	base *url.URL
	http *http.Client
}

// UsageError is something wrong with what was asked; nothing was done.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// New makes a client. The error is a UsageError.
func New(o Options) (*Client, error) {
	o.Endpoint, o.Token = strings.TrimRight(cmp.Or(o.Endpoint, Endpoint), "/"), strings.TrimSpace(o.Token)
	base, err := url.Parse(o.Endpoint)
	if err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.User != nil {
		return nil, usagef("the address of the hub must be a URL such as %s, without a user", Endpoint)
	}
	if o.Token == "" || strings.ContainsFunc(o.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, usagef("a token with the right to write is needed, one word of ASCII")
	}
	if o.Wait == nil {
		o.Wait = pause.For
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 5 * time.Minute
	return &Client{o: o, base: base, http: &http.Client{Transport: t, CheckRedirect: remote.Redirect}}, nil
}

// Error is what the hub, or the storage behind it, refused.
type Error struct {
	Doing   string // what was being done
	Status  int    // of HTTP
	Code    string // the hub's word for it, such as RepoNotFound; empty where it has none
	Message string // what it says, in one line
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: the hub says %d %s", e.Doing, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// UnreachableError is a hub that could not be spoken with.
type UnreachableError struct {
	Doing, Host string
	Err         error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s: %s cannot be reached: %v", e.Doing, e.Host, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// request is what is asked of a hub, as often as needed.
type request struct {
	doing   string
	method  string
	url     string // absolute, or a path at the hub
	kind    string // of the body
	accept  string
	body    func() (io.Reader, int64, error) // nil: none
	foreign bool                             // an address that the hub named: the token is not for it, unless it is the hub's own
	okay    []int                            // statuses that are no failure, beside 2xx
}

// How often a request is tried, and how long is waited before the second time; then
// twice as long each time.
const (
	tries      = 6
	firstPause = time.Second
	longPause  = 2 * time.Minute
)

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// maxReply is the largest reply that is read.
const maxReply = 64 << 20

// do makes a request, and makes it again where the service has a fault or is busy. Other
// refusals are an Error.
func (c *Client) do(ctx context.Context, q request) (*reply, error) {
	pause := firstPause
	for try := 1; ; try++ {
		r, err := c.once(ctx, q)
		var after time.Duration
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			var net *UnreachableError
			if !errors.As(err, &net) {
				return nil, err
			}
		case r.status/100 == 2 || slices.Contains(q.okay, r.status):
			return r, nil
		default:
			err = c.refused(q.doing, r)
			if r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout && r.status < 500 {
				return nil, err
			}
			if s, bad := strconv.Atoi(r.header.Get("Retry-After")); bad == nil && s > 0 {
				after = min(time.Duration(s)*time.Second, longPause)
			}
		}
		if try == tries {
			return nil, err
		}
		if c.o.Again != nil {
			c.o.Again(err, max(pause, after))
		}
		if err := c.o.Wait(ctx, max(pause, after)); err != nil {
			return nil, err
		}
		pause *= 2
	}
}

func (c *Client) once(ctx context.Context, q request) (*reply, error) {
	at, err := c.base.Parse(q.url)
	if err == nil && !strings.HasPrefix(q.url, "http") {
		at, err = url.Parse(c.o.Endpoint + q.url)
	}
	if err != nil || at.Scheme != "https" && at.Scheme != "http" {
		return nil, fmt.Errorf("%s: the hub named an address that is none", q.doing)
	}
	var body io.Reader
	size := int64(0)
	if q.body != nil {
		if body, size, err = q.body(); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, q.method, at.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: the hub named an address that is none", q.doing)
	}
	if q.body != nil {
		r.ContentLength = size
		r.GetBody = func() (io.ReadCloser, error) { // for a repository that has moved
			again, _, err := q.body()
			if c, ok := again.(io.ReadCloser); ok {
				return c, err
			}
			return io.NopCloser(again), err
		}
		if size == 0 {
			r.Body = http.NoBody
		}
	}
	r.Header.Set("User-Agent", c.o.Agent)
	if q.kind != "" {
		r.Header.Set("Content-Type", q.kind)
	}
	if q.accept != "" {
		r.Header.Set("Accept", q.accept)
	}
	if !q.foreign || at.Host == c.base.Host && at.Scheme == c.base.Scheme {
		r.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, which may be signed
		}
		return nil, &UnreachableError{q.doing, at.Host, err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return nil, &UnreachableError{q.doing, at.Host, err}
	}
	return &reply{res.StatusCode, res.Header, b}, nil
}

// refused is the error that a reply is.
func (c *Client) refused(doing string, r *reply) *Error {
	e := &Error{Doing: doing, Status: r.status, Code: r.header.Get("X-Error-Code"), Message: r.header.Get("X-Error-Message")}
	var said struct{ Error, Message any }
	if e.Message == "" && json.Unmarshal(r.body, &said) == nil {
		for _, x := range []any{said.Error, said.Message} {
			if s, ok := x.(string); ok && e.Message == "" {
				e.Message = s
			}
		}
	}
	e.Message = c.clean(e.Message)
	e.Code = c.clean(e.Code)
	return e
}

// clean is a text of the hub's as it may be shown: in one line, not too long, and
// without the token.
func (c *Client) clean(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	s = strings.ReplaceAll(s, c.o.Token, "***")
	if len(s) > 500 {
		s = s[:500]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return s
}

// asJSON makes a request with JSON, and reads what comes back into v.
func (c *Client) asJSON(ctx context.Context, q request, ask, v any) (*reply, error) {
	if ask != nil {
		b, err := json.Marshal(ask)
		if err != nil {
			return nil, err
		}
		q.kind = cmp.Or(q.kind, "application/json")
		q.body = func() (io.Reader, int64, error) { return bytes.NewReader(b), int64(len(b)), nil }
	}
	r, err := c.do(ctx, q)
	if err != nil || v == nil || r.status/100 != 2 {
		return r, err
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return r, fmt.Errorf("%s: what came back is not the reply of a hub: %w", q.doing, err)
	}
	return r, nil
}

// repoName is ORG/NAME.
var repoName = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$`)

// CheckRepo checks the name of a repository, ORG/NAME. The error is a UsageError.
func CheckRepo(repo string) error {
	if !repoName.MatchString(repo) || len(repo) > 96 || strings.Contains(repo, "--") || strings.Contains(repo, "..") || strings.HasSuffix(repo, ".git") {
		return usagef("%q does not name a dataset of the hub: want ORG/NAME, of letters, digits, -, _ and ., 96 at most", repo)
	}
	return nil
}
