package sim

import (
	"net/http"
	"strconv"
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
	if run.wait(r.Context()) != nil || run.slowed(r.Context(), f) != nil {
		panic(http.ErrAbortHandler)
	}
	if f != nil {
		switch f.Kind {
		case Stall:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case Garbage:
			answer(w, 200, []byte("\x00<<< this is not JSON, it is garbage >>>"))
			return
		}
	}
	buf := buffers.Get().(*buffer)
	defer buf.free()
	buf.b = o.whole(buf.b[:0])
	if f != nil && f.Kind == Truncate {
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = jsonType, []string{strconv.Itoa(len(buf.b))}
		_, _ = w.Write(buf.b[:len(buf.b)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	answer(w, 200, buf.b)
}

// take reads a call and gives it to the engine. Without a running call it has
// been answered. It is apart from serve so that what it needs is gone while
// the call waits.
func (e *Engine) take(w http.ResponseWriter, r *http.Request, chat bool, v *visit) (*running, *ask, *Fault, usage) {
	var b body
	if !e.read(w, r, &b) {
		return nil, nil, nil, usage{}
	}
	f, n := e.arrive()
	v.arrived(n, r.Header.Get(keyHeader), b.start, f)
	if no := f.refuses(); no != nil {
		v.refused(no)
		no.write(w)
		return nil, nil, nil, usage{}
	}
	if f != nil && f.Kind == Reset {
		breaks(w)
		return nil, nil, nil, usage{}
	}
	a, no := e.ask(&b, chat)
	if no == nil && !chat {
		no = a.readPrompt(&b)
	}
	if no != nil {
		v.refused(no)
		e.refuse(no).write(w)
		return nil, nil, nil, usage{}
	}
	a.key = r.Header.Get(keyHeader)
	run, no := e.begin(a)
	if no != nil {
		v.refused(no)
		no.write(w)
		return nil, nil, nil, usage{}
	}
	v.begun(run)
	return run, &ask{chat: chat, logprobs: a.logprobs, stream: a.stream}, f, usage{b.StreamOptions.IncludeUsage, b.StreamOptions.IncludeUsage && b.StreamOptions.Continuous}
}

// readPrompt reads the prompt of a completion.
func (a *ask) readPrompt(b *body) *refusal {
	list, err := promptsOf(b.Prompt)
	switch {
	case err != nil:
		return wrong("prompt", "prompt: %v", err)
	case len(list) != 1:
		return wrong("prompt", "prompt has %d entries; the simulator answers one at a time", len(list))
	case b.Echo:
		return wrong("echo", "the simulator does not echo prompts")
	}
	a.prompt = list[0]
	return nil
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

// head begins an object of the API.
func (o *output) head(b []byte, object string) []byte {
	prefix := "chatcmpl-"
	if !o.a.chat {
		prefix = "cmpl-"
	}
	b = append(b, `{"id":"`...)
	b = append(append(b, prefix...), o.id...)
	b = append(b, `","object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, o.created, 10)
	b = append(b, `,"model":`...)
	b = appendText(b, o.e.model)
	return append(b, `,"system_fingerprint":"fp_sim","choices":[`...)
}

// whole appends a reply that is not streamed.
func (o *output) whole(b []byte) []byte {
	if o.a.chat {
		b = o.head(b, "chat.completion")
	} else {
		b = o.head(b, "text_completion")
	}
	for i := range o.run.ds {
		d := &o.run.ds[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		if o.a.chat {
			b = append(b, `,"message":{"role":"assistant","content":`...)
			if d.calls != nil {
				b = append(b, `null,"tool_calls":[`...)
				for k := range d.calls {
					if k > 0 {
						b = append(b, ',')
					}
					b = d.calls[k].append(b, -1)
				}
				b = append(b, ']')
			} else {
				b = appendText(b, d.text)
			}
			b = append(b, `}`...)
		} else {
			b = append(b, `,"text":`...)
			b = appendText(b, d.text)
		}
		b = append(b, `,"logprobs":`...)
		b = o.logprobs(b, d, 0, len(d.text))
		b = append(b, `,"finish_reason":`...)
		b = append(appendText(b, d.finish), '}')
	}
	b = append(b, `],"usage":`...)
	_, completion, _ := o.run.usage()
	return append(o.appendUsage(b, completion), '}')
}

func (o *output) appendUsage(b []byte, completion int) []byte {
	prompt, _, cached := o.run.usage()
	b = append(b, `{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(prompt), 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, int64(completion), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(prompt+completion), 10)
	b = append(b, `,"prompt_tokens_details":{"cached_tokens":`...)
	b = strconv.AppendInt(b, int64(cached), 10)
	return append(b, "}}"...)
}

// append appends a tool call; of a stream with its index.
func (c *toolCall) append(b []byte, index int) []byte {
	b = append(b, '{')
	if index >= 0 {
		b = append(b, `"index":`...)
		b = append(strconv.AppendInt(b, int64(index), 10), ',')
	}
	b = append(b, `"id":`...)
	b = appendText(b, c.id)
	b = append(b, `,"type":"function","function":{"name":`...)
	b = appendText(b, c.name)
	b = append(b, `,"arguments":`...)
	if index >= 0 {
		b = append(b, `""`...)
	} else {
		b = appendText(b, c.args)
	}
	return append(b, "}}"...)
}

// logprobs appends the log probabilities of the tokens of a part of d.
func (o *output) logprobs(b []byte, d *draft, from, to int) []byte {
	if o.a.logprobs == 0 {
		return append(b, "null"...)
	}
	var parts []string
	for text := d.text[from:to]; text != ""; {
		n := max(1, upTo(text, 1))
		parts = append(parts, text[:n])
		text = text[n:]
	}
	r := random(blend(d.seed, uint64(from)))
	if !o.a.chat {
		return appendJSON(b, completionLogprobs(parts, &r, o.a.logprobs-1, from))
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
	return appendJSON(b, map[string]any{"content": content})
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
	var b []byte
	b = append(b, `{"id":`...)
	b = appendText(b, e.model)
	b = append(b, `,"object":"model","created":`...)
	b = strconv.AppendInt(b, e.of.born.Unix(), 10)
	b = append(b, `,"owned_by":"matrix-sim","max_model_len":`...)
	b = append(strconv.AppendInt(b, int64(e.of.c.Engine.Context), 10), '}')
	switch name := r.PathValue("name"); name {
	case "":
		answer(w, 200, append(append([]byte(`{"object":"list","data":[`), b...), "]}"...))
	case e.model:
		answer(w, 200, b)
	default:
		(&refusal{status: 404, typ: "NotFoundError", code: "model_not_found", param: "model", msg: "The model " + strconv.Quote(name) + " does not exist; this server has " + strconv.Quote(e.model) + "."}).write(w)
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
