package vllmgrpc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"matrix/llm"
)

// driver is a driver to one server.
type driver struct {
	model    string
	key      string
	template *template // nil: chats cannot be written out
	secrets  llm.Secrets

	endpoint string
	http     *http.Transport
	reached  atomic.Bool  // a gRPC server has answered
	service  atomic.Int32 // of services, +1; 0 while none has answered
	aborts   sync.WaitGroup
}

var _ llm.Driver = (*driver)(nil)

// services are the names that inference had: the newer, and that of vLLM 0.25.
var services = []string{"vllm.Inference", "vllm.Generate"}

// Close implements llm.Driver.
func (w *driver) Close() error {
	w.aborts.Wait()
	w.http.CloseIdleConnections()
	return nil
}

// Send implements llm.Driver.
func (w *driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	if r.Messages != nil && w.template == nil {
		return nil, &llm.Failure{
			Kind: llm.Fatal, Endpoint: w.endpoint, Code: "template", Msg: "vLLM's gRPC API takes texts, and the model has no template to write a chat as one",
			Hint: "set template to the format of the model: " + names() + "; or use kind openai",
		}
	}
	id := fmt.Sprintf("%016x", rand.Uint64()) // another in each try: the one before may still be at work
	if r.Key != "" {
		id = r.Key + "-" + id[:8]
	}
	in, params, f := w.request(r, id)
	if f != nil {
		return nil, f
	}
	var d draft
	rep, err := llm.Exchange(ctx, r, w.endpoint, params, func(ctx context.Context, s *llm.Stream) (*llm.Reply, *llm.Failure) {
		var f *llm.Failure
		if llm.Streams(r) {
			f = w.stream(ctx, s, in, &d)
		} else {
			f = w.whole(ctx, in, &d)
		}
		if stalled := s.Stalled(ctx, w.endpoint); stalled != nil {
			f, d.left = cmp.Or(f, stalled), true
		}
		return &llm.Reply{Choices: []llm.Choice{d.choice}, Usage: d.usage, First: s.First()}, f
	})
	if d.left || ctx.Err() != nil {
		w.abort(id)
	}
	return rep, err
}

// draft is a reply that comes.
type draft struct {
	choice llm.Choice
	usage  llm.Usage
	probs  logprobs
	left   bool // while the server was at work
}

// logprobs is what a choice has of them, in lists as long as each other.
type logprobs struct {
	Tokens   []uint32      `json:"token_ids"`
	Logprobs []float32     `json:"logprobs"`
	Others   [][]candidate `json:"candidate_tokens,omitempty"`
}

// open begins an RPC of inference. Until one has answered, the other name of the
// service is tried too where a server does not know the first.
func (w *driver) open(ctx context.Context, method string, in message) (*stream, *llm.Failure) {
	if i := w.service.Load(); i > 0 {
		return w.call(ctx, services[i-1]+"/"+method, in)
	}
	for i, name := range services {
		s, f := w.call(ctx, name+"/"+method, in)
		if f == nil || f.Code != unimplemented {
			if f == nil || f.Code != "" {
				w.service.CompareAndSwap(0, int32(i)+1)
			}
			return s, f
		}
	}
	return nil, &llm.Failure{
		Kind: llm.Fatal, Endpoint: w.endpoint, Code: unimplemented, Msg: "the server has none of " + services[0] + " and " + services[1],
		Hint: "start vLLM's Rust frontend with --grpc-port; what vllm serve --grpc offers is another API, without texts",
	}
}

// whole brings a reply in one piece.
func (w *driver) whole(ctx context.Context, in message, d *draft) *llm.Failure {
	s, f := w.open(ctx, "Generate", in)
	if f != nil {
		return f
	}
	defer s.close()
	s.body = llm.Counted(ctx, s.body)
	b, more, f := s.next()
	switch {
	case f != nil:
		return f
	case !more:
		return s.fault("the server answered with success, and without a reply")
	}
	g, err := decodeGenerated(b)
	if err != nil {
		return s.fault("the reply is " + err.Error())
	}
	switch _, more, f := s.next(); { // how it ended
	case f != nil:
		return f
	case more:
		return s.fault("the reply came twice")
	}
	d.choice.Text = g.text
	if f := d.take(s, g); f != nil {
		return f
	}
	return d.conclude(s, g)
}

// take adds what is counted.
func (d *draft) take(s *stream, g *generated) *llm.Failure {
	if g.prompted {
		d.usage.PromptTokens = g.prompt
	}
	d.usage.CompletionTokens += g.tokens
	if len(g.logprobs) > 0 {
		if len(g.logprobs) != len(g.ids) || len(g.others) > 0 && len(g.others) != len(g.ids) {
			return s.fault("the logprobs of the reply do not fit its tokens")
		}
		d.probs.Tokens = append(d.probs.Tokens, g.ids...)
		d.probs.Logprobs = append(d.probs.Logprobs, g.logprobs...)
		d.probs.Others = append(d.probs.Others, g.others...)
	}
	return nil
}

// conclude says why the reply ended, by the last piece of it.
func (d *draft) conclude(s *stream, g *generated) *llm.Failure {
	switch {
	case !g.finished || g.finish == notFinished:
		return s.fault("the reply ended before it was whole")
	case g.finish == finishLength:
		d.choice.Finish = "length"
	case g.finish == finishStop:
		d.choice.Finish = "stop"
	case g.finish == finishAborted:
		return s.fault("the server broke off the reply (ABORTED)")
	default:
		d.choice.Finish = fmt.Sprintf("finish_reason %d", g.finish)
	}
	d.usage.CompletionTokens = max(g.output, d.usage.CompletionTokens)
	return d.account(s)
}

func (d *draft) account(s *stream) *llm.Failure {
	if len(d.probs.Logprobs) == 0 {
		return nil
	}
	var err error
	if d.choice.Logprobs, err = json.Marshal(d.probs); err != nil {
		return s.fault("the logprobs of the reply cannot be kept: " + err.Error())
	}
	return nil
}

// stream brings a reply piece by piece.
func (w *driver) stream(ctx context.Context, ls *llm.Stream, in message, d *draft) *llm.Failure {
	s, f := w.open(ctx, "GenerateStream", in)
	if f != nil {
		return f
	}
	defer s.close()
	var last *generated
	for {
		b, more, f := s.next()
		if f != nil {
			return f
		}
		if !more {
			break
		}
		g, err := decodeGenerated(b)
		if err != nil {
			return s.fault("a piece of the reply is " + err.Error())
		}
		ls.Alive()
		if len(g.logprobs) > 0 {
			ls.Keep(len(b))
		}
		if f := d.take(s, g); f != nil {
			return f
		}
		if !ls.Text(0, g.text) {
			d.left = true
			d.choice = ls.Choices()[0]
			return d.account(s)
		}
		if g.finished {
			last = g
		}
	}
	switch {
	case !s.began:
		return s.fault("the stream holds no reply")
	case last == nil:
		return &llm.Failure{Kind: llm.Transport, Endpoint: w.endpoint, Sent: true, Msg: "the stream ended before the reply did"}
	}
	d.choice = ls.Choices()[0]
	return d.conclude(s, last)
}

// abortTimeout is the longest that an abort takes.
const abortTimeout = 2 * time.Second

// abort tells the server to stop work on a request that nobody waits for: it
// may not see that the RPC was left.
func (w *driver) abort(id string) {
	if !w.reached.Load() {
		return
	}
	w.aborts.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
		defer cancel()
		var in message
		in.text(1, id)
		if s, f := w.call(ctx, "vllm.Control/Abort", in); f == nil {
			_, _, _ = s.next() // it need not succeed
			s.close()
		}
	})
}

// unary makes an RPC of one message each way. ok is false where the server does
// not know it.
func (w *driver) unary(ctx context.Context, method string, in message) (out []byte, ok bool, err error) {
	s, f := w.call(ctx, method, in)
	if f != nil {
		return nil, false, w.ended(ctx, f)
	}
	defer s.close()
	out, more, f := s.next()
	if f == nil && more {
		if _, more, f = s.next(); f == nil && !more {
			return out, true, nil
		}
	}
	if f == nil {
		f = s.fault("the server did not answer with one message")
	}
	return nil, false, w.ended(ctx, f)
}

// ended is why an RPC brought nothing; nil where the server does not know it.
func (w *driver) ended(ctx context.Context, f *llm.Failure) error {
	switch {
	case f.Code == unimplemented:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return f
}

// Probe implements llm.Driver: by vllm.Control, and where an older server has
// none, by gRPC's own health service.
func (w *driver) Probe(ctx context.Context) ([]llm.Served, error) {
	b, ok, err := w.unary(ctx, "vllm.Control/GetModelInfo", nil)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, w.health(ctx)
	}
	var name, aliases []llm.Served
	err = fields(b, func(f field) error {
		s := llm.Served{Name: llm.Shorten(string(f.b), 200), Owner: "vllm"}
		switch f.n {
		case 2: // served_model_name
			name = []llm.Served{s}
		case 3: // served_model_aliases
			aliases = append(aliases, s)
		}
		return nil
	})
	served := append(name, aliases...)
	if err != nil {
		return nil, &llm.Failure{Kind: llm.Fault, Endpoint: w.endpoint, Msg: "ModelInfo is " + err.Error()}
	}
	b, ok, err = w.unary(ctx, "vllm.Control/GetServerInfo", nil)
	if err != nil || !ok {
		return served, err
	}
	err = fields(b, func(f field) error {
		if f.n == 5 { // max_model_len
			for i := range served {
				served[i].Context = int(f.v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, &llm.Failure{Kind: llm.Fault, Endpoint: w.endpoint, Msg: "ServerInfo is " + err.Error()}
	}
	return served, nil
}

// health asks whether the server serves:
// https://github.com/grpc/grpc/blob/master/doc/health-checking.md
func (w *driver) health(ctx context.Context) error {
	const serving = 1
	b, ok, err := w.unary(ctx, "grpc.health.v1.Health/Check", nil)
	if err != nil || !ok {
		return err
	}
	status := uint64(0)
	if err := fields(b, func(f field) error {
		if f.n == 1 {
			status = f.v
		}
		return nil
	}); err != nil || status != serving {
		return &llm.Failure{Kind: llm.Capacity, Endpoint: w.endpoint, Msg: "the server says that it does not serve now"}
	}
	return nil
}
