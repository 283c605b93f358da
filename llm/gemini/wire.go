package gemini

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genai"

	"matrix/llm"
)

// DefaultBaseURL is the address of the Gemini API.
const DefaultBaseURL = "https://generativelanguage.googleapis.com"

// Options says how to reach the service.
type Options struct {
	BaseURL string // empty: DefaultBaseURL, or Vertex AI's address of the location
	Model   string // required
	APIKey  string // empty: GOOGLE_API_KEY or GEMINI_API_KEY; not for Vertex AI

	Vertex   bool
	Project  string // empty: GOOGLE_CLOUD_PROJECT
	Location string // empty: GOOGLE_CLOUD_LOCATION, GOOGLE_CLOUD_REGION, or global

	Headers map[string]string // more HTTP headers
}

// Wire is the service at one address.
type Wire struct {
	options   Options
	base      string
	client    *genai.Client
	transport *http.Transport
	secrets   llm.Secrets
	newer     bool // the model is of Gemini 3 or later
	answered  atomic.Bool
}

var _ llm.Wire = (*Wire)(nil)

// Address returns the base URL that o means.
func (o Options) Address() string {
	switch {
	case o.BaseURL != "":
		return o.BaseURL
	case !o.Vertex:
		return first(os.Getenv("GOOGLE_GEMINI_BASE_URL"), DefaultBaseURL)
	}
	if s := os.Getenv("GOOGLE_VERTEX_BASE_URL"); s != "" {
		return s
	}
	switch l := o.location(); l {
	case "global":
		return "https://aiplatform.googleapis.com"
	case "us", "eu":
		return "https://aiplatform." + l + ".rep.googleapis.com"
	default:
		return "https://" + l + "-aiplatform.googleapis.com"
	}
}

func (o Options) location() string {
	return first(o.Location, os.Getenv("GOOGLE_CLOUD_LOCATION"), os.Getenv("GOOGLE_CLOUD_REGION"), "global")
}

func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// New returns a wire. It does not call the service. The error is a
// *llm.FieldError.
func New(o Options) (*Wire, error) {
	if o.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like gemini-2.5-flash")}
	}
	base, addr := llm.Pinned(o.Address())
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("want an address like " + DefaultBaseURL)}
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	for _, version := range []string{"/v1beta1", "/v1beta", "/v1"} {
		u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), version)
	}
	w := &Wire{options: o, base: u.String(), newer: generation(o.Model) >= 3, transport: llm.NewTransport(llm.TransportOptions{Addr: addr})}
	c := &genai.ClientConfig{
		HTTPClient: &http.Client{
			Transport:     tap{w.transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPOptions: genai.HTTPOptions{BaseURL: w.base, Headers: http.Header{}},
	}
	for k, v := range o.Headers {
		c.HTTPOptions.Headers.Set(k, v)
		w.secrets.Add(v)
	}
	if o.Vertex {
		err = w.vertex(c)
	} else {
		err = w.key(c)
	}
	if err != nil {
		return nil, err
	}
	if w.client, err = genai.NewClient(context.Background(), c); err != nil {
		return nil, &llm.FieldError{Field: "model", Err: errors.New(w.secrets.Hide(llm.Shorten(err.Error(), 300)))}
	}
	return w, nil
}

// key has the client use a key.
func (w *Wire) key(c *genai.ClientConfig) error {
	c.Backend = genai.BackendGeminiAPI
	c.APIKey = first(w.options.APIKey, os.Getenv("GOOGLE_API_KEY"), os.Getenv("GEMINI_API_KEY"))
	if c.APIKey == "" {
		return &llm.FieldError{Field: "api_key", Err: errors.New("there is no key: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the environment, or use Vertex AI with vertex: true")}
	}
	w.secrets.Add(c.APIKey)
	return nil
}

// vertex has the client use application default credentials. Their token is
// renewed as long as the wire lives.
func (w *Wire) vertex(c *genai.ClientConfig) error {
	c.Backend = genai.BackendVertexAI
	c.Project, c.Location = first(w.options.Project, os.Getenv("GOOGLE_CLOUD_PROJECT")), w.options.location()
	if c.Project == "" {
		return &llm.FieldError{Field: "project", Err: errors.New("there is no project: set GOOGLE_CLOUD_PROJECT in the environment")}
	}
	if w.options.APIKey != "" {
		return &llm.FieldError{Field: "api_key", Err: errors.New("is not for Vertex AI: leave it out, and log in by gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS")}
	}
	if err := c.UseDefaultCredentials(); err != nil {
		return &llm.FieldError{Field: "vertex", Err: fmt.Errorf("%s; log in by gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS", llm.Shorten(err.Error(), 300))}
	}
	return nil
}

// generation is the n of gemini-n in the name of a model; 0 where it has none.
func generation(model string) int {
	n := 0
	if _, rest, ok := strings.Cut(model, "gemini-"); ok {
		_, _ = fmt.Sscanf(rest, "%d", &n)
	}
	return n
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
	if f := w.lacking(r); f != nil {
		return nil, f
	}
	outer := ctx
	ctx, stream, err := llm.NewStream(ctx, r)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	x := &exchange{}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	var (
		rep    *llm.Reply
		f      *llm.Failure
		params json.RawMessage
	)
	if r.Input != nil {
		rep, params, f = w.embed(ctx, x, r)
	} else {
		rep, params, f = w.chat(ctx, x, r, stream)
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
	rep.Quota = llm.Quotas(x.header, time.Now())
	return rep, nil
}

// chat asks for a reply.
func (w *Wire) chat(ctx context.Context, x *exchange, r *llm.Request, s *llm.Stream) (*llm.Reply, json.RawMessage, *llm.Failure) {
	body, params, f := w.body(r)
	if f != nil {
		return nil, params, f
	}
	once := false
	config := &genai.GenerateContentConfig{
		AutomaticContinuation: &once,
		HTTPOptions:           &genai.HTTPOptions{ExtrasRequestProvider: func(map[string]any) map[string]any { return body }},
	}
	if !llm.Streams(r) {
		res, err := w.client.Models.GenerateContent(ctx, w.options.Model, nil, config)
		if f := w.failed(ctx, x, err); f != nil {
			return nil, params, f
		}
		in := reading{wire: w}
		in.take(res)
		rep, f := in.whole(x)
		return rep, params, f
	}
	in := reading{wire: w, stream: s}
	for res, err := range w.client.Models.GenerateContentStream(ctx, w.options.Model, nil, config) {
		if f := w.failed(ctx, x, err); f != nil {
			return nil, params, f
		}
		s.Alive()
		if in.take(res); s.Ended() {
			break
		}
	}
	if x.err != nil && !s.Ended() {
		return nil, params, w.broken(ctx, x.err)
	}
	rep, f := in.streamed(x)
	return rep, params, f
}

// embed asks for vectors.
func (w *Wire) embed(ctx context.Context, x *exchange, r *llm.Request) (*llm.Reply, json.RawMessage, *llm.Failure) {
	params := json.RawMessage("{}")
	contents := make([]*genai.Content, len(r.Input))
	for i, text := range r.Input {
		contents[i] = genai.NewContentFromText(text, genai.RoleUser)
	}
	config := &genai.EmbedContentConfig{HTTPOptions: &genai.HTTPOptions{}}
	if len(r.Sampling.Extra) > 0 {
		b, err := json.Marshal(r.Sampling.Extra)
		if err == nil {
			err = json.Unmarshal(b, config)
		}
		if err != nil {
			return nil, nil, llm.Lack(w.base, "extra_body: "+err.Error(), "embeddings take taskType, title and outputDimensionality")
		}
		params = b
	}
	res, err := w.client.Models.EmbedContent(ctx, w.options.Model, contents, config)
	if f := w.failed(ctx, x, err); f != nil {
		return nil, params, f
	}
	if len(res.Embeddings) != len(r.Input) {
		return nil, params, w.hollow(x, fmt.Sprintf("the reply holds %d embeddings for %d inputs", len(res.Embeddings), len(r.Input)))
	}
	rep := &llm.Reply{Vectors: make([][]float32, len(res.Embeddings))}
	for i, e := range res.Embeddings {
		rep.Vectors[i] = e.Values
		if e.Statistics != nil {
			rep.Usage.PromptTokens += int(e.Statistics.TokenCount)
		}
	}
	return rep, params, nil
}

// Probe implements llm.Wire. The Gemini API lists its models; Vertex AI does not
// say which a project may use.
func (w *Wire) Probe(ctx context.Context) ([]llm.Served, error) {
	if w.options.Vertex {
		return nil, nil
	}
	x := &exchange{}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	page, err := w.client.Models.List(ctx, &genai.ListModelsConfig{PageSize: 1000})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f := w.failed(ctx, x, err); f != nil {
		return nil, f
	}
	served := make([]llm.Served, 0, len(page.Items))
	for _, m := range page.Items {
		served = append(served, llm.Served{Name: strings.TrimPrefix(m.Name, "models/"), Owner: "google", Context: int(m.InputTokenLimit)})
	}
	return served, nil
}
