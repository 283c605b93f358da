package gemini

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/internal/rest"
)

// DefaultBaseURL is the address of the Gemini API.
const DefaultBaseURL = "https://generativelanguage.googleapis.com"

// Driver is the service at one address.
type Driver struct {
	config Config
	conn   *rest.Conn
	prefix string // of paths, up to the model's
	newer  bool   // the model is of Gemini 3 or later
}

var _ llm.Driver = (*Driver)(nil)

// address is the base URL that c means.
func (c Config) address() string {
	switch {
	case c.BaseURL != "":
		return c.BaseURL
	case !c.Vertex:
		return cmp.Or(os.Getenv("GOOGLE_GEMINI_BASE_URL"), DefaultBaseURL)
	}
	if s := os.Getenv("GOOGLE_VERTEX_BASE_URL"); s != "" {
		return s
	}
	switch l := c.location(); l {
	case "global":
		return "https://aiplatform.googleapis.com"
	case "us", "eu":
		return "https://aiplatform." + l + ".rep.googleapis.com"
	default:
		return "https://" + l + "-aiplatform.googleapis.com"
	}
}

func (c Config) location() string {
	return cmp.Or(c.Location, os.Getenv("GOOGLE_CLOUD_LOCATION"), os.Getenv("GOOGLE_CLOUD_REGION"), "global")
}

// New returns a driver. It does not call the service. The error is a
// *llm.FieldError.
func New(c Config) (*Driver, error) {
	if c.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like gemini-2.5-flash")}
	}
	conn, err := rest.New(c.address(), DefaultBaseURL, "/v1beta1", "/v1beta", "/v1")
	if err != nil {
		return nil, err
	}
	w := &Driver{config: c, conn: conn, newer: generation(c.Model) >= 3}
	conn.Complain = w.complain
	if c.Vertex {
		err = w.vertex()
	} else {
		err = w.key()
	}
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(c.Model, "?&#") || strings.Contains(c.Model, "..") {
		return nil, &llm.FieldError{Field: "model", Err: fmt.Errorf("%q is not a name of a model", c.Model)}
	}
	return w, llm.AddHeaders(conn.Header, &conn.Secrets, c.Headers)
}

// key has calls go to the Gemini API, by a key.
func (w *Driver) key() error {
	key := cmp.Or(w.config.APIKey, os.Getenv("GOOGLE_API_KEY"), os.Getenv("GEMINI_API_KEY"))
	if key == "" {
		return &llm.FieldError{Field: "api_key", Err: errors.New("there is no key: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the environment, or use Vertex AI with vertex: true")}
	}
	w.conn.Header.Set("X-Goog-Api-Key", key)
	w.conn.Secrets.Add(key)
	w.prefix = "/v1beta/"
	return nil
}

// model is the model's name as paths have it.
func (w *Driver) model() string {
	m := w.config.Model
	at := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(m, p) })
	}
	switch {
	case !w.config.Vertex && at("models/", "tunedModels/"), w.config.Vertex && at("projects/", "models/", "publishers/"):
		return m
	case !w.config.Vertex:
		return "models/" + m
	}
	if publisher, name, ok := strings.Cut(m, "/"); ok {
		return "publishers/" + publisher + "/models/" + name
	}
	return "publishers/google/models/" + m
}

// path is that of a method of the model.
func (w *Driver) path(method string) string {
	m := w.model()
	if strings.HasPrefix(m, "projects/") {
		return "/" + vertexVersion + "/" + m + ":" + method
	}
	return w.prefix + m + ":" + method
}

// generation is the n of gemini-n in the name of a model; 0 where it has none.
func generation(model string) int {
	n := 0
	if _, rest, ok := strings.Cut(model, "gemini-"); ok {
		_, _ = fmt.Sscanf(rest, "%d", &n)
	}
	return n
}

// Close implements llm.Driver.
func (w *Driver) Close() error { return w.conn.Close() }

// Send implements llm.Driver.
func (w *Driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	if f := w.unsupported(r); f != nil {
		return nil, f
	}
	if r.Input != nil {
		return w.embed(ctx, r)
	}
	body, params, f := w.body(r)
	if f != nil {
		return nil, f
	}
	return llm.Exchange(ctx, r, w.conn.Base, params, func(ctx context.Context, s *llm.Stream) (*llm.Reply, *llm.Failure) {
		if llm.Streams(r) {
			res, f := w.do(ctx, w.path("streamGenerateContent")+"?alt=sse", body)
			if f != nil {
				return nil, f
			}
			defer res.Body.Close()
			return w.stream(ctx, res, s)
		}
		var a answer
		res, f := w.whole(ctx, w.path("generateContent"), body, &a) //nolint:bodyclose // Read closes it
		if f != nil {
			return nil, f
		}
		in := reading{driver: w, res: res}
		in.take(&a)
		return in.judge(&llm.Reply{Choices: in.choices})
	})
}

// do sends a request; a response is one of success.
func (w *Driver) do(ctx context.Context, path string, body []byte) (*http.Response, *llm.Failure) {
	var more http.Header
	if until, ok := ctx.Deadline(); ok { // the service need not work on it for longer
		more = http.Header{"X-Server-Timeout": {strconv.Itoa(max(1, int(math.Ceil(time.Until(until).Seconds()))))}}
	}
	return w.conn.Do(ctx, path, more, body)
}

// whole sends a request and reads what comes into v.
func (w *Driver) whole(ctx context.Context, path string, body []byte, v any) (*http.Response, *llm.Failure) {
	res, f := w.do(ctx, path, body)
	if f != nil {
		return nil, f
	}
	said, f := w.conn.Read(ctx, res)
	if f == nil && json.Unmarshal(said, v) != nil {
		f = w.conn.EmptyReply(res, "the reply cannot be read: "+w.conn.Shown(said))
	}
	return res, f
}

// stream reads a reply that is streamed.
func (w *Driver) stream(ctx context.Context, res *http.Response, s *llm.Stream) (*llm.Reply, *llm.Failure) {
	in := reading{driver: w, res: res, stream: s}
	stray, f := rest.Events(ctx, w.conn, res, s, func(a *answer, said []byte) (bool, *llm.Failure) {
		if a.Error != nil {
			return false, w.complain(res, said)
		}
		in.take(a)
		return true, nil
	})
	switch {
	case f != nil:
		return nil, f
	case len(stray) > 0: // an error, written bare
		return nil, w.complain(res, stray)
	}
	return in.streamed()
}

// embedding is a vector, and what it cost.
type embedding struct {
	Values     []float32 `json:"values"`
	Statistics struct {
		Tokens float64 `json:"token_count"`
	} `json:"statistics"`
}

// embed asks for vectors: by batchEmbedContents of the Gemini API, by predict of
// Vertex AI, or by its embedContent for models that take one text a call.
func (w *Driver) embed(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	body, params, method, err := w.embedding(r)
	if err != nil {
		return nil, llm.Unsupported(w.conn.Base, "extra_body: "+err.Error(), "embeddings take taskType, title and outputDimensionality")
	}
	return llm.Exchange(ctx, r, w.conn.Base, params, func(ctx context.Context, _ *llm.Stream) (*llm.Reply, *llm.Failure) {
		return w.vectors(ctx, w.path(method), body, len(r.Input))
	})
}

// vectors asks for n of them.
func (w *Driver) vectors(ctx context.Context, path string, body []byte, n int) (*llm.Reply, *llm.Failure) {
	var a struct {
		Embeddings  []embedding // of batchEmbedContents
		Predictions []struct{ Embeddings embedding }
		Embedding   *embedding // of embedContent
		Usage       struct {
			Tokens int `json:"promptTokenCount"`
		} `json:"usageMetadata"`
	}
	res, f := w.whole(ctx, path, body, &a) //nolint:bodyclose // Read closes it
	if f != nil {
		return nil, f
	}
	vectors := a.Embeddings
	if w.config.Vertex {
		vectors = nil
		for _, p := range a.Predictions {
			vectors = append(vectors, p.Embeddings)
		}
	}
	if a.Embedding != nil {
		vectors = []embedding{*a.Embedding}
	}
	if len(vectors) != n {
		return nil, w.conn.EmptyReply(res, fmt.Sprintf("the reply holds %d embeddings for %d inputs", len(vectors), n))
	}
	rep := &llm.Reply{Vectors: make([][]float32, len(vectors)), Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: a.Usage.Tokens}}, Quota: llm.Quotas(res.Header, time.Now())}
	for i, e := range vectors {
		rep.Vectors[i] = e.Values
		rep.Usage.PromptTokens += int(e.Statistics.Tokens)
	}
	return rep, nil
}

// Probe implements llm.Driver. The Gemini API lists its models; Vertex AI does not
// say which a project may use.
func (w *Driver) Probe(ctx context.Context) ([]llm.Served, error) {
	if w.config.Vertex {
		return nil, nil
	}
	var list struct {
		Models []struct {
			Name    string `json:"name"`
			Context int    `json:"inputTokenLimit"`
		} `json:"models"`
	}
	_, f := w.whole(ctx, "/v1beta/models?pageSize=1000", nil, &list) //nolint:bodyclose // Read closes it
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f != nil {
		return nil, f
	}
	served := make([]llm.Served, 0, len(list.Models))
	for _, m := range list.Models {
		served = append(served, llm.Served{Name: strings.TrimPrefix(m.Name, "models/"), Owner: "google", Context: m.Context})
	}
	return served, nil
}
