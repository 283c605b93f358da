package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/config"
	"github.com/anthropics/anthropic-sdk-go/option"

	"matrix/llm"
)

// Defaults of Options.
const (
	DefaultBaseURL   = "https://api.anthropic.com"
	DefaultMaxTokens = 4096 // every model of the service takes it
)

// kind is who reads the Opaque of this package's replies.
const kind = "anthropic"

// Options says how to reach the service.
type Options struct {
	BaseURL   string            // with or without /v1; empty for ANTHROPIC_BASE_URL, or DefaultBaseURL
	Model     string            // required
	APIKey    string            // empty: AuthToken, or as the SDK finds it: ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, a profile
	AuthToken string            // a bearer token instead of a key
	MaxTokens int               // of a reply, where a call does not say; 0 for DefaultMaxTokens
	Cache     bool              // have the service cache the system message and the conversation so far
	Headers   map[string]string // more HTTP headers
}

// address is the base URL that o means.
func (o Options) address() string {
	if o.BaseURL != "" {
		return o.BaseURL
	}
	if s := os.Getenv("ANTHROPIC_BASE_URL"); s != "" {
		return s
	}
	return DefaultBaseURL
}

// Wire is the service at one address.
type Wire struct {
	options   Options
	base      string // without /v1, without credentials
	client    sdk.Client
	transport *http.Transport
	secrets   llm.Secrets
	answered  atomic.Bool
}

var _ llm.Wire = (*Wire)(nil)

// maxBody is the longest reply that is read, in bytes.
const maxBody = 64 << 20

// New returns a wire. It does not call the service. The error is a
// *llm.FieldError.
func New(o Options) (*Wire, error) {
	if o.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like claude-sonnet-4-5")}
	}
	if o.MaxTokens < 0 {
		return nil, &llm.FieldError{Field: "max_tokens", Err: fmt.Errorf("got %d, want 1 or more", o.MaxTokens)}
	}
	if o.MaxTokens == 0 {
		o.MaxTokens = DefaultMaxTokens
	}
	base, addr := llm.Pinned(o.address())
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("want an address like " + DefaultBaseURL)}
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1")
	w := &Wire{options: o, base: u.String(), transport: llm.NewTransport(llm.TransportOptions{Addr: addr})}
	opts := []option.RequestOption{
		option.WithBaseURL(w.base + "/"),
		option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{
			Transport:     w.transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
	}
	switch {
	case o.APIKey != "":
		opts = append(opts, option.WithoutEnvironmentDefaults(), option.WithAPIKey(o.APIKey))
	case o.AuthToken != "":
		opts = append(opts, option.WithoutEnvironmentDefaults(), option.WithAuthToken(o.AuthToken))
	case !credentials():
		return nil, &llm.FieldError{Field: "api_key", Err: errors.New("there is no key: set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN) in the environment")}
	}
	for k, v := range o.Headers {
		opts = append(opts, option.WithHeader(k, v))
		w.secrets.Add(v)
	}
	for _, s := range []string{o.APIKey, o.AuthToken, os.Getenv("ANTHROPIC_API_KEY"), os.Getenv("ANTHROPIC_AUTH_TOKEN")} {
		w.secrets.Add(s)
	}
	w.client = sdk.NewClient(opts...)
	return w, nil
}

// credentials says whether the SDK can find any in the environment.
func credentials() bool {
	for _, name := range []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_FEDERATION_RULE_ID"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	_, err := config.LoadConfig()
	return err == nil
}

// Close implements llm.Wire.
func (w *Wire) Close() error {
	w.transport.CloseIdleConnections()
	return nil
}

// Send implements llm.Wire.
func (w *Wire) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	body, params, f := w.request(r)
	if f != nil {
		return nil, f
	}
	outer := ctx
	ctx, stream, err := llm.NewStream(ctx, r)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var rep *llm.Reply
	res, f := w.post(ctx, "v1/messages", body)
	if f == nil {
		defer res.Body.Close()
		if llm.Streams(r) {
			rep, f = w.stream(ctx, res, stream)
		} else {
			rep, f = w.whole(ctx, res)
		}
	}
	if err := outer.Err(); err != nil {
		return nil, err
	}
	if f != nil {
		if stalled := stream.Stalled(ctx, w.base); stalled != nil {
			f = stalled
		}
		f.Params = params
		return nil, f
	}
	rep.Endpoint, rep.Params = w.base, params
	for i := range r.Messages {
		rep.Usage.Images += len(r.Messages[i].Images)
	}
	rep.Quota = llm.Quotas(res.Header, time.Now())
	return rep, nil
}

// post sends a body; a response is one of success.
func (w *Wire) post(ctx context.Context, path string, body []byte) (*http.Response, *llm.Failure) {
	var res *http.Response
	if err := w.client.Post(ctx, path, body, &res); err != nil {
		return nil, w.failed(ctx, err)
	}
	w.answered.Store(true)
	if res.StatusCode >= 300 {
		res.Body.Close()
		return nil, w.redirected(res)
	}
	return res, nil
}

func (w *Wire) redirected(res *http.Response) *llm.Failure {
	f := &llm.Failure{Endpoint: w.base, Status: res.StatusCode, Msg: "redirected"}
	f.Kind, f.Hint = llm.Judge(res.StatusCode, "", "")
	return f
}

// Probe implements llm.Wire: it lists the models, which costs nothing.
func (w *Wire) Probe(ctx context.Context) ([]llm.Served, error) {
	var res *http.Response
	if err := w.client.Get(ctx, "v1/models", nil, &res, option.WithQuery("limit", "1000")); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, w.failed(ctx, err)
	}
	defer res.Body.Close()
	w.answered.Store(true)
	if res.StatusCode >= 300 {
		return nil, w.redirected(res)
	}
	var list struct {
		Data []struct {
			ID        string `json:"id"`
			MaxTokens int    `json:"max_input_tokens"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&list); err != nil {
		return nil, &llm.Failure{Kind: llm.Fault, Endpoint: w.base, Status: res.StatusCode, Msg: "the list of models is not JSON"}
	}
	served := make([]llm.Served, len(list.Data))
	for i, m := range list.Data {
		served[i] = llm.Served{Name: m.ID, Owner: "anthropic", Context: m.MaxTokens}
	}
	return served, nil
}
