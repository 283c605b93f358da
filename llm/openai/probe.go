package openai

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// owners are the servers by what they write into owned_by of their models.
var owners = map[string]string{
	"vllm":         api.VLLM,
	"matrix-sim":   api.VLLM, // the simulator takes what vLLM takes
	"sglang":       api.SGLang,
	"llamacpp":     api.LlamaCpp,
	"library":      api.Ollama,
	"tensorrt_llm": api.TensorRT,
}

// server is what serves.
type server struct {
	api.Server
	asked  bool // it was asked for its version
	unsure bool // it would not say what it is; Name is openai
}

// Probe implements llm.Driver: it asks for the list of models, and a server that
// has none for /health.
func (w *Driver) Probe(ctx context.Context) ([]llm.Served, error) {
	served, _, f := w.list(ctx)
	if f == nil && served == nil {
		f = w.webSite(ctx)
	}
	if f != nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, f
	}
	return served, nil
}

// list asks the server which models it has. It returns nil where the server
// does not say, and the response's Server header.
func (w *Driver) list(ctx context.Context) ([]llm.Served, string, *llm.Failure) {
	var last *llm.Failure
	var banner string
	for _, t := range w.order() {
		b, h, said, f := w.get(ctx, t, t.at[models])
		if f != nil {
			return nil, "", f
		}
		banner = said
		if h.status == http.StatusOK {
			if served, ok := api.ReadModels(b); ok {
				return served, banner, nil
			}
		}
		switch {
		case h.status == http.StatusOK:
			if strings.HasPrefix(h.media, "text/html") && !w.reached() {
				last = &llm.Failure{Kind: llm.Fatal, Endpoint: t.base, Status: h.status, Msg: "GET /models brought a web page", Hint: "this is a web page, not a model server: check base_url"}
			}
			continue
		}
		f = w.complain(t, h, b)
		if h.status != http.StatusNotFound && h.status != http.StatusMethodNotAllowed {
			return nil, "", f
		}
	}
	if last != nil {
		return nil, "", last
	}
	t := w.order()[0]
	b, h, said, f := w.get(ctx, t, siblingURL(t, "/health"))
	switch {
	case f != nil:
		return nil, "", f
	case h.status >= 500 && h.status != http.StatusNotImplemented:
		return nil, "", w.complain(t, h, b)
	case said != "":
		banner = said
	}
	return nil, banner, nil
}

// webSite says that the server is another than one of models: it has neither a
// list of models nor /health, and its errors are web pages.
func (w *Driver) webSite(ctx context.Context) *llm.Failure {
	t := w.order()[0]
	for _, u := range []*url.URL{t.at[models], siblingURL(t, "/health")} {
		b, h, _, f := w.get(ctx, t, u)
		if f != nil || h.status != http.StatusNotFound || !api.IsPage(b) || w.reached() {
			return f
		}
	}
	return &llm.Failure{
		Kind: llm.Fatal, Endpoint: t.base, Status: http.StatusNotFound,
		Msg: "no model server: " + t.at[models].Path + " and /health are not there", Hint: "check base_url",
	}
}

// siblingURL is the address of a path that a server has beside the API.
func siblingURL(t *target, path string) *url.URL {
	dir := strings.TrimSuffix(t.at[chat].EscapedPath(), chat.String())
	return at(t.at[models], strings.TrimSuffix(dir, "/v1")+path)
}

// get reads a whole response, and its Server header.
func (w *Driver) get(ctx context.Context, t *target, u *url.URL) ([]byte, *head, string, *llm.Failure) {
	res, h, f := w.open(ctx, t, models, u, "", nil)
	if f != nil {
		return nil, nil, "", f
	}
	defer res.Body.Close()
	b, f := w.body(ctx, t, res.Body, h)
	defer b.free()
	if f != nil {
		return nil, nil, "", f
	}
	return append([]byte{}, b.Bytes()...), h, res.Header.Get("Server"), nil
}

// plain says that the server answers over HTTP/1.1 and not over h2c.
func (w *Driver) plain(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	t := w.order()[0]
	if _, _, _, f := w.get(ctx, t, t.at[models]); f == nil || f.Kind != llm.Transport {
		return false
	}
	older := &Driver{header: w.header, auth: w.auth, max: w.max, http: llm.NewTransport(llm.TransportOptions{Addr: w.addr})}
	defer older.Close()
	_, _, _, f := older.get(ctx, t, t.at[models])
	return f == nil
}

// findTimeout is the longest wait for a server to say what it is.
const findTimeout = 5 * time.Second

// serving returns what serves, as far as it matters to r: to its format, and to
// how a reply is counted that Until ends. It asks the server once, and for a
// format again where that failed.
func (w *Driver) serving(ctx context.Context, r *llm.Request) (server, *llm.Failure) {
	s := w.server.Load()
	format := r.Format != nil && !r.Format.JSON && r.Sampling.ResponseFormat == nil
	known := func() bool { return s != nil && (!format || !s.unsure && (s.Name != api.VLLM || s.asked)) }
	switch {
	case known():
		return *s, nil
	case !format && r.Sampling.Until == "":
		return server{Server: api.Server{Name: api.OpenAI}}, nil
	}
	w.finding.Lock()
	defer w.finding.Unlock()
	if s = w.server.Load(); known() {
		return *s, nil
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	found := server{Server: api.Server{Name: api.OpenAI}, asked: format}
	if s != nil && !s.unsure {
		found.Name = s.Name
	} else {
		served, banner, f := w.list(ctx)
		switch {
		case f != nil && (format || f.Kind == llm.Unreachable || caller.Err() != nil):
			return server{}, f
		case f != nil:
			found.unsure = true
		}
		if strings.HasPrefix(banner, "llama.cpp") {
			found.Name = api.LlamaCpp
		}
		for _, m := range served {
			if name, ok := owners[m.Owner]; ok {
				found.Name = name
			}
		}
	}
	if found.Name == api.VLLM && format {
		guided, f := w.old(ctx)
		if f != nil {
			return server{}, f
		}
		found.Guided = guided
	}
	w.server.Store(&found)
	return found, nil
}

// old reports whether a vLLM is older than 0.11, the first that takes
// structured_outputs. One that does not tell its version is not.
func (w *Driver) old(ctx context.Context) (bool, *llm.Failure) {
	t := w.order()[0]
	b, h, _, f := w.get(ctx, t, siblingURL(t, "/version"))
	if f != nil {
		return false, f
	}
	var v struct {
		Version string `json:"version"`
	}
	if h.status != http.StatusOK || json.Unmarshal(b, &v) != nil {
		return false, nil
	}
	major, rest, _ := strings.Cut(v.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return major == "0" && err == nil && n < 11, nil
}
