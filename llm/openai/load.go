package openai

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"

	"matrix/llm"
)

var _ llm.Loader = (*Driver)(nil)

// gauges are the names under which servers tell, at /metrics, of the calls that
// they work on and of those that wait: vLLM (docs.vllm.ai, Production Metrics),
// SGLang (docs.sglang.ai, Production Metrics) and llama.cpp (tools/server,
// GET /metrics).
var gauges = []struct{ running, waiting string }{
	{"vllm:num_requests_running", "vllm:num_requests_waiting"},
	{"sglang:num_running_reqs", "sglang:num_queue_reqs"},
	{"llamacpp:requests_processing", "llamacpp:requests_deferred"},
}

// Load implements llm.Loader, for servers with Prometheus metrics beside the
// API. Those of other hosts than one's own have none, as a rule.
func (w *Driver) Load(ctx context.Context) (running, waiting int, ok bool, err error) {
	t := w.order()[0]
	body, h, _, f := w.get(ctx, t, siblingURL(t, "/metrics"))
	if f != nil {
		return 0, 0, true, f
	}
	if h.status != http.StatusOK {
		return 0, 0, h.status >= 500, nil
	}
	for _, g := range gauges {
		r, has := sum(body, g.running)
		q, and := sum(body, g.waiting)
		if has && and {
			return int(r), int(q), true, nil
		}
	}
	return 0, 0, false, nil
}

// sum adds up the samples of a metric in the text format of Prometheus.
func sum(text []byte, name string) (total float64, found bool) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok || len(rest) == 0 || !bytes.ContainsAny(rest[:1], "{ \t") {
			continue
		}
		if i := bytes.LastIndexByte(rest, '}'); i >= 0 {
			rest = rest[i+1:]
		}
		value, _, _ := strings.Cut(strings.TrimSpace(string(rest)), " ") // a timestamp may follow
		if v, err := strconv.ParseFloat(value, 64); err == nil && v >= 0 {
			total, found = total+v, true
		}
	}
	return total, found
}
