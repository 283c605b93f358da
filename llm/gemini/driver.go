package gemini

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/internal/rest"
	"matrix/llm/internal/sse"
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

// Driver is the service at one address.
type Driver struct {
	options Options
	conn    *rest.Conn
	prefix  string // of paths, up to the model's
	newer   bool   // the model is of Gemini 3 or later
}

var _ llm.Driver = (*Driver)(nil)

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

// New returns a driver. It does not call the service. The error is a
// *llm.FieldError.
func New(o Options) (*Driver, error) {
	if o.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing: name one, like gemini-2.5-flash")}
	}
	conn, err := rest.New(o.Address(), DefaultBaseURL, "/v1beta1", "/v1beta", "/v1")
	if err != nil {
		return nil, err
	}
	w := &Driver{options: o, conn: conn, newer: generation(o.Model) >= 3}
	if o.Vertex {
		err = w.vertex()
	} else {
		err = w.key()
	}
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(o.Model, "?&#") || strings.Contains(o.Model, "..") {
		return nil, &llm.FieldError{Field: "model", Err: fmt.Errorf("%q is not a name of a model", o.Model)}
	}
	return w, conn.Add(o.Headers)
}

// key has calls go to the Gemini API, by a key.
func (w *Driver) key() error {
	key := first(w.options.APIKey, os.Getenv("GOOGLE_API_KEY"), os.Getenv("GEMINI_API_KEY"))
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
	m := w.options.Model
	at := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(m, p) })
	}
	switch {
	case !w.options.Vertex && at("models/", "tunedModels/"), w.options.Vertex && at("projects/", "models/", "publishers/"):
		return m
	case !w.options.Vertex:
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
	var (
		rep    *llm.Reply
		f      *llm.Failure
		params json.RawMessage
	)
	if r.Input != nil {
		rep, params, f = w.embed(ctx, r)
	} else {
		rep, params, f = w.chat(ctx, r, stream)
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
	for i := range r.Messages {
		rep.Usage.Images += len(r.Messages[i].Images)
	}
	return rep, nil
}

// do sends a request; a response is one of success.
func (w *Driver) do(ctx context.Context, path string, body []byte) (*http.Response, *llm.Failure) {
	var more http.Header
	if until, ok := ctx.Deadline(); ok { // the service need not work on it for longer
		more = http.Header{"X-Server-Timeout": {strconv.Itoa(max(1, int(math.Ceil(time.Until(until).Seconds()))))}}
	}
	res, f := w.conn.Do(ctx, path, more, body)
	if f != nil || res.StatusCode < 300 {
		return res, f
	}
	said, f := w.conn.Read(ctx, res)
	if f != nil {
		return nil, f
	}
	return nil, w.complain(res, said)
}

// whole sends a request and reads what comes into v.
func (w *Driver) whole(ctx context.Context, path string, body []byte, v any) (*http.Response, *llm.Failure) {
	res, f := w.do(ctx, path, body)
	if f != nil {
		return nil, f
	}
	said, f := w.conn.Read(ctx, res)
	if f == nil && json.Unmarshal(said, v) != nil {
		f = w.conn.Hollow(res, "the reply cannot be read: "+llm.Shorten(w.conn.Hide(string(said)), 120))
	}
	return res, f
}

// chat asks for a reply.
func (w *Driver) chat(ctx context.Context, r *llm.Request, s *llm.Stream) (*llm.Reply, json.RawMessage, *llm.Failure) {
	b, params, f := w.body(r)
	if f != nil {
		return nil, params, f
	}
	body, err := json.Marshal(b)
	if err != nil {
		return nil, params, llm.Lack(w.conn.Base, "the request cannot be written as JSON: "+err.Error(), "check the schemas of tools")
	}
	if llm.Streams(r) {
		res, f := w.do(ctx, w.path("streamGenerateContent")+"?alt=sse", body)
		if f != nil {
			return nil, params, f
		}
		defer res.Body.Close()
		rep, f := w.stream(ctx, res, s)
		return rep, params, f
	}
	var a answer
	res, f := w.whole(ctx, w.path("generateContent"), body, &a) //nolint:bodyclose // Read closes it
	if f != nil {
		return nil, params, f
	}
	in := reading{driver: w, res: res}
	in.take(&a)
	rep, f := in.judge(&llm.Reply{Choices: in.choices})
	return rep, params, f
}

// stream reads a reply that is streamed.
func (w *Driver) stream(ctx context.Context, res *http.Response, s *llm.Stream) (*llm.Reply, *llm.Failure) {
	in := reading{driver: w, res: res, stream: s}
	events := sse.New(res.Body, nil, rest.MaxReply)
	s.Reads(res.Body)
	events.Wait = s.Pause
	for !s.Ended() {
		data, err := events.Next(s.Alive)
		if err == io.EOF {
			break
		}
		switch {
		case errors.Is(err, sse.ErrLong):
			return nil, w.conn.TooLong(res)
		case err != nil:
			return nil, w.conn.Broken(ctx, err)
		}
		s.Alive()
		var a answer
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, w.conn.Hollow(res, "an event of the stream is not JSON: "+llm.Shorten(w.conn.Hide(string(data)), 120))
		}
		if a.Error != nil {
			return nil, w.complain(res, data)
		}
		in.take(&a)
	}
	if len(events.Stray) > 0 && !s.Ended() { // an error, written bare
		return nil, w.complain(res, events.Stray)
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
func (w *Driver) embed(ctx context.Context, r *llm.Request) (*llm.Reply, json.RawMessage, *llm.Failure) {
	body, params, method, err := w.embedding(r)
	if err != nil {
		return nil, nil, llm.Lack(w.conn.Base, "extra_body: "+err.Error(), "embeddings take taskType, title and outputDimensionality")
	}
	var a struct {
		Embeddings  []embedding // of batchEmbedContents
		Predictions []struct{ Embeddings embedding }
		Embedding   *embedding // of embedContent
		Usage       struct {
			Tokens int `json:"promptTokenCount"`
		} `json:"usageMetadata"`
	}
	res, f := w.whole(ctx, w.path(method), body, &a) //nolint:bodyclose // Read closes it
	if f != nil {
		return nil, params, f
	}
	vectors := a.Embeddings
	if w.options.Vertex {
		vectors = nil
		for _, p := range a.Predictions {
			vectors = append(vectors, p.Embeddings)
		}
	}
	if a.Embedding != nil {
		vectors = []embedding{*a.Embedding}
	}
	if len(vectors) != len(r.Input) {
		return nil, params, w.conn.Hollow(res, fmt.Sprintf("the reply holds %d embeddings for %d inputs", len(vectors), len(r.Input)))
	}
	rep := &llm.Reply{Vectors: make([][]float32, len(vectors)), Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: a.Usage.Tokens}}, Quota: llm.Quotas(res.Header, time.Now())}
	for i, e := range vectors {
		rep.Vectors[i] = e.Values
		rep.Usage.PromptTokens += int(e.Statistics.Tokens)
	}
	return rep, params, nil
}

// Probe implements llm.Driver. The Gemini API lists its models; Vertex AI does not
// say which a project may use.
func (w *Driver) Probe(ctx context.Context) ([]llm.Served, error) {
	if w.options.Vertex {
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
