package anthropic

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/internal/rest"
)

// Defaults of Config.
const (
	DefaultBaseURL   = "https://api.anthropic.com"
	DefaultMaxTokens = 4096 // every model of the service takes it
)

// version is that of the API: https://platform.claude.com/docs/en/api/versioning.
const version = "2023-06-01"

// kind is who reads the Opaque of this package's replies.
const kind = "anthropic"

// address is the base URL that c means.
func (c Config) address() string {
	return cmp.Or(c.BaseURL, os.Getenv("ANTHROPIC_BASE_URL"), DefaultBaseURL)
}

// Driver is the service at one address.
type Driver struct {
	config Config
	conn   *rest.Conn
}

var _ llm.Driver = (*Driver)(nil)

// New returns a driver. It does not call the service. The error is a
// *llm.FieldError.
func New(c Config) (*Driver, error) {
	if c.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like claude-sonnet-4-5")}
	}
	if c.MaxTokens < 0 {
		return nil, &llm.FieldError{Field: "max_tokens", Err: fmt.Errorf("got %d, want 1 or more", c.MaxTokens)}
	}
	c.MaxTokens = cmp.Or(c.MaxTokens, DefaultMaxTokens)
	conn, err := rest.New(c.address(), DefaultBaseURL, "/v1")
	if err != nil {
		return nil, err
	}
	w := &Driver{config: c, conn: conn}
	conn.Complain = w.complain
	conn.Header.Set("Anthropic-Version", version)
	if err := w.login(); err != nil {
		return nil, err
	}
	if err := llm.AddHeaders(conn.Header, &conn.Secrets, c.Headers); err != nil {
		return nil, err
	}
	if beta := conn.Header.Get("Anthropic-Beta"); conn.Token != nil && !strings.Contains(beta, betaOAuth) {
		conn.Header.Set("Anthropic-Beta", strings.TrimPrefix(beta+","+betaOAuth, ","))
	}
	for _, s := range []string{c.APIKey, os.Getenv("ANTHROPIC_API_KEY"), os.Getenv("ANTHROPIC_AUTH_TOKEN")} {
		conn.Secrets.Add(s)
	}
	return w, nil
}

// Close implements llm.Driver.
func (w *Driver) Close() error { return w.conn.Close() }

// Send implements llm.Driver.
func (w *Driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	body, params, f := w.request(r)
	if f != nil {
		return nil, f
	}
	return llm.Exchange(ctx, r, w.conn.Base, params, func(ctx context.Context, s *llm.Stream) (*llm.Reply, *llm.Failure) {
		res, f := w.conn.Do(ctx, "/v1/messages", nil, body)
		if f != nil {
			return nil, f
		}
		defer res.Body.Close()
		var rep *llm.Reply
		if llm.Streams(r) {
			rep, f = w.stream(ctx, res, s)
		} else {
			rep, f = w.whole(ctx, res)
		}
		if f != nil {
			return nil, f
		}
		rep.Asked.MaxTokens = w.config.MaxTokens // unless r says
		rep.Quota = llm.Quotas(res.Header, time.Now())
		return rep, nil
	})
}

// Probe implements llm.Driver: it lists the models, which costs nothing.
func (w *Driver) Probe(ctx context.Context) ([]llm.Served, error) {
	res, f := w.conn.Do(ctx, "/v1/models?limit=1000", nil, nil) //nolint:bodyclose // Read closes it
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
