package sim

import (
	"bytes"
	"net/http"
	"strconv"

	"matrix/llm"
	"matrix/llm/openai/api"
)

func (e *Engine) chat(w http.ResponseWriter, r *http.Request) {
	e.serve(w, r, true)
}

func (e *Engine) completions(w http.ResponseWriter, r *http.Request) {
	e.serve(w, r, false)
}

// serve answers a chat, or a completion.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request, chat bool) {
	v := e.enter()
	defer v.leave()
	run, a, f, told := e.take(w, r, chat, v)
	if run == nil {
		return
	}
	o := &output{e: e, run: run, a: a, fault: f, usage: told, id: strconv.FormatUint(blend(run.job.seed, uint64(run.since.UnixNano())), 16)}
	o.created = run.since.Unix()
	if a.stream {
		o.stream(w, r)
		return
	}
	run.answer(w, r, f, o.whole)
}

// answer sends a reply that is not streamed, once it is there, as far as f lets it.
func (r *running) answer(w http.ResponseWriter, req *http.Request, f *Fault, whole func(b []byte) []byte) {
	if r.wait(req.Context()) != nil || r.slowed(req.Context(), f) != nil {
		panic(http.ErrAbortHandler)
	}
	kind := ""
	if f != nil {
		kind = f.Kind
	}
	if kind == Stall {
		<-req.Context().Done()
		panic(http.ErrAbortHandler)
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer free(buf)
	if kind == Garbage {
		buf.WriteString("\x00<<< this is not JSON, it is garbage >>>")
	} else {
		buf.Write(whole(buf.AvailableBuffer()))
	}
	if kind == Truncate {
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = jsonType, []string{strconv.Itoa(buf.Len())}
		_, _ = w.Write(buf.Bytes()[:buf.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	answer(w, 200, buf.Bytes())
}

// take reads a call and gives it to the engine. Without a running call it has
// been answered. It is apart from serve so that what it needs is gone while
// the call waits.
func (e *Engine) take(w http.ResponseWriter, r *http.Request, chat bool, v *callRecord) (*running, *ask, *Fault, usage) {
	q := e.read(w, r)
	if q == nil {
		return nil, nil, nil, usage{}
	}
	if chat && q.Messages == nil {
		q.Messages = []llm.Message{}
	} else if !chat {
		q.Messages = nil
	}
	run, a, f := e.accept(w, q, v, func(a *ask) *refusal {
		if chat || q.Other == "" {
			return nil
		}
		list, err := promptsIn(q.Other)
		switch {
		case err != nil:
			return wrong("prompt", "prompt: %v", err)
		case len(list) != 1:
			return wrong("prompt", "prompt has %d entries; the simulator answers one at a time", len(list))
		}
		a.prompt = list[0]
		return nil
	})
	if run == nil {
		return nil, nil, nil, usage{}
	}
	return run, &ask{chat: chat, logprobs: a.logprobs, stream: a.stream}, f, usage{q.Usage, q.Usage && q.Counts}
}

// accept admits a call. Without a running call it has been answered.
func (e *Engine) accept(w http.ResponseWriter, q *api.Request, v *callRecord, more func(*ask) *refusal) (*running, *ask, *Fault) {
	run, a, f, no := e.admit(q, v, more)
	switch {
	case no != nil:
		no.write(w)
	case run == nil:
		breaks(w)
	}
	return run, a, f
}

// usage says where a stream tells what it costs.
type usage struct {
	last bool // at its end
	each bool // with each piece too, so far
}

// output writes the reply to one call.
type output struct {
	e       *Engine
	run     *running
	a       *ask
	fault   *Fault
	usage   usage
	id      string
	created int64
}

// head is what every object of the reply says, whole or a piece.
func (o *output) head(object string) api.Reply {
	prefix := "chatcmpl-"
	if !o.a.chat {
		prefix, object = "cmpl-", "text_completion"
	}
	return api.Reply{ID: prefix + o.id, Object: object, Created: o.created, Model: o.e.model, Revision: "fp_sim"}
}

// whole appends a reply that is not streamed.
func (o *output) whole(b []byte) []byte {
	r := o.head("chat.completion")
	said := api.ReplyOf(o.reply(), o.a.chat)
	r.Choices, r.Usage = said.Choices, said.Usage
	return r.Append(b)
}

// reply is what has been made.
func (o *output) reply() *llm.Reply {
	rep := &llm.Reply{Model: o.e.model, Revision: "fp_sim", Choices: make([]llm.Choice, len(o.run.ds))}
	u := &rep.Usage
	u.PromptTokens, u.CompletionTokens, u.CachedTokens = o.run.usage()
	for i := range o.run.ds {
		d, c := &o.run.ds[i], &rep.Choices[i]
		c.Text, c.ToolCalls, c.Finish, c.Logprobs = d.text, d.calls, d.finish, o.logprobs(d, 0, len(d.text))
	}
	return rep
}

// logprobs are the log probabilities of the tokens of a part of d.
func (o *output) logprobs(d *draft, from, to int) []byte {
	if o.a.logprobs == 0 {
		return nil
	}
	var parts []string
	for text := d.text[from:to]; text != ""; {
		n := max(1, upTo(text, 1))
		parts = append(parts, text[:n])
		text = text[n:]
	}
	r := random(blend(d.seed, uint64(from)))
	if !o.a.chat {
		return appendJSON(nil, completionLogprobs(parts, &r, o.a.logprobs-1, from))
	}
	type one struct {
		Token   string  `json:"token"`
		Logprob float64 `json:"logprob"`
		Bytes   []int   `json:"bytes"`
		Top     []one   `json:"top_logprobs,omitempty"`
	}
	of := func(token string, p float64) one {
		x := one{Token: token, Logprob: p}
		for i := range len(token) {
			x.Bytes = append(x.Bytes, int(token[i]))
		}
		return x
	}
	content := make([]one, 0, len(parts))
	for _, t := range parts {
		p := -r.float()
		x := of(t, p)
		for k := range o.a.logprobs - 1 {
			if k == 0 {
				x.Top = append(x.Top, of(t, p))
				continue
			}
			p -= 0.5 + r.float()
			x.Top = append(x.Top, of(vocabulary[r.below(len(vocabulary))], p))
		}
		content = append(content, x)
	}
	return appendJSON(nil, map[string]any{"content": content})
}

// completionLogprobs is the form that completions have.
func completionLogprobs(parts []string, r *random, top, offset int) any {
	var l struct {
		Tokens  []string             `json:"tokens"`
		Probs   []float64            `json:"token_logprobs"`
		Top     []map[string]float64 `json:"top_logprobs"`
		Offsets []int                `json:"text_offset"`
	}
	for _, t := range parts {
		p := -r.float()
		best := map[string]float64{t: p}
		for q := p; len(best) < top; {
			q -= 0.5 + r.float()
			best[vocabulary[r.below(len(vocabulary))]] = q
		}
		l.Tokens, l.Probs, l.Top, l.Offsets = append(l.Tokens, t), append(l.Probs, p), append(l.Top, best), append(l.Offsets, offset)
		offset += len(t)
	}
	return l
}

func (e *Engine) models(w http.ResponseWriter, r *http.Request) {
	served := llm.Served{Name: e.model, Owner: "matrix-sim", Context: e.of.c.Engine.Context}
	switch name := r.PathValue("name"); name {
	case "":
		answer(w, 200, api.AppendModels(nil, []llm.Served{served}, e.of.born.Unix()))
	case e.model:
		answer(w, 200, api.AppendModel(nil, &served, e.of.born.Unix()))
	default:
		e.unknown(name).write(w)
	}
}

// metrics are those of the names that vLLM has.
func (e *Engine) metrics(w http.ResponseWriter, _ *http.Request) {
	r := e.replica()
	label := `{model_name=` + strconv.Quote(e.model) + `} `
	var b []byte
	put := func(name, kind string, v float64) {
		b = append(b, "# TYPE "+name+" "+kind+"\n"+name+label...)
		b = append(strconv.AppendFloat(b, v, 'g', -1, 64), '\n')
	}
	put("vllm:num_requests_running", "gauge", float64(r.Running))
	put("vllm:num_requests_waiting", "gauge", float64(r.Waiting))
	put("vllm:kv_cache_usage_perc", "gauge", r.KV)
	put("vllm:prefix_cache_queries_total", "counter", float64(r.Prompt))
	put("vllm:prefix_cache_hits_total", "counter", float64(r.Cached))
	put("vllm:num_preemptions_total", "counter", float64(r.Preemptions))
	put("vllm:prompt_tokens_total", "counter", float64(r.Prompt))
	put("vllm:generation_tokens_total", "counter", float64(r.Generated))
	put("vllm:request_success_total", "counter", float64(r.Done))
	put("process_cpu_seconds_total", "counter", cpu().Seconds())
	put("process_start_time_seconds", "gauge", float64(e.of.born.UnixMilli())/1000)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	w.Write(b) //nolint:errcheck // whoever asked has left
}
