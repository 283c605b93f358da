package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/internal/rest"
)

// Defaults of Options.
const (
	DefaultBaseURL   = "https://api.anthropic.com"
	DefaultMaxTokens = 4096 // every model of the service takes it
)

// version is that of the API: https://platform.claude.com/docs/en/api/versioning.
const version = "2023-06-01"

// kind is who reads the Opaque of this package's replies.
const kind = "anthropic"

// Options says how to reach the service.
type Options struct {
	BaseURL   string            // with or without /v1; empty for ANTHROPIC_BASE_URL, or DefaultBaseURL
	Model     string            // required
	APIKey    string            // empty: AuthToken, or as Anthropic's tools find it: ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, a profile, workload identity
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

// Driver is the service at one address.
type Driver struct {
	options Options
	conn    *rest.Conn
}

var _ llm.Driver = (*Driver)(nil)

// New returns a driver. It does not call the service. The error is a
// *llm.FieldError.
func New(o Options) (*Driver, error) {
	if o.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like claude-sonnet-4-5")}
	}
	if o.MaxTokens < 0 {
		return nil, &llm.FieldError{Field: "max_tokens", Err: fmt.Errorf("got %d, want 1 or more", o.MaxTokens)}
	}
	if o.MaxTokens == 0 {
		o.MaxTokens = DefaultMaxTokens
	}
	conn, err := rest.New(o.address(), DefaultBaseURL, "/v1")
	if err != nil {
		return nil, err
	}
	w := &Driver{options: o, conn: conn}
	conn.Header.Set("Anthropic-Version", version)
	if err := w.login(o); err != nil {
		return nil, err
	}
	if err := conn.Add(o.Headers); err != nil {
		return nil, err
	}
	if beta := conn.Header.Get("Anthropic-Beta"); conn.Token != nil && !strings.Contains(beta, betaOAuth) {
		conn.Header.Set("Anthropic-Beta", strings.TrimPrefix(beta+","+betaOAuth, ","))
	}
	for _, s := range []string{o.APIKey, o.AuthToken, os.Getenv("ANTHROPIC_API_KEY"), os.Getenv("ANTHROPIC_AUTH_TOKEN")} {
		conn.Secrets.Add(s)
	}
	return w, nil
}

// Close implements llm.Driver.
func (w *Driver) Close() error { return w.conn.Close() }

// Send implements llm.Driver.
func (w *Driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
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
	res, f := w.do(ctx, "/v1/messages", body)
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
		if stalled := stream.Stalled(ctx, w.conn.Base); stalled != nil {
			f = stalled
		}
		f.Params = params
		return nil, f
	}
	rep.Endpoint, rep.Params = w.conn.Base, params
	rep.Asked.MaxTokens = w.options.MaxTokens // unless r says
	for i := range r.Messages {
		rep.Usage.Images += len(r.Messages[i].Images)
	}
	rep.Quota = llm.Quotas(res.Header, time.Now())
	return rep, nil
}

// do sends a request; a response is one of success.
func (w *Driver) do(ctx context.Context, path string, body []byte) (*http.Response, *llm.Failure) {
	res, f := w.conn.Do(ctx, path, nil, body)
	if f != nil || res.StatusCode < 300 {
		return res, f
	}
	said, f := w.conn.Read(ctx, res)
	if f != nil {
		return nil, f
	}
	return nil, w.complain(res, said)
}

// Probe implements llm.Driver: it lists the models, which costs nothing.
func (w *Driver) Probe(ctx context.Context) ([]llm.Served, error) {
	res, f := w.do(ctx, "/v1/models?limit=1000", nil) //nolint:bodyclose // Read closes it
	var body []byte
	if f == nil {
		body, f = w.conn.Read(ctx, res)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f != nil {
		return nil, f
	}
	var list struct {
		Data []struct {
			ID        string `json:"id"`
			MaxTokens int    `json:"max_input_tokens"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, &llm.Failure{Kind: llm.Fault, Endpoint: w.conn.Base, Status: res.StatusCode, Msg: "the list of models is not JSON"}
	}
	served := make([]llm.Served, len(list.Data))
	for i, m := range list.Data {
		served[i] = llm.Served{Name: m.ID, Owner: "anthropic", Context: m.MaxTokens}
	}
	return served, nil
}
