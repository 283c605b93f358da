package vllmgrpc

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"matrix/llm"
	"matrix/matrixtest"
)

func says(text string) func(matrixtest.Call) matrixtest.Answer {
	return func(matrixtest.Call) matrixtest.Answer {
		return matrixtest.Answer{
			Reply:  llm.Reply{Choices: []llm.Choice{{Text: text, Finish: "stop"}}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 7, CompletionTokens: 3}}},
			Served: []string{model, "alias"},
		}
	}
}

func chat(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}, Key: "call-1"}
}

func failure(t testing.TB, err error) *llm.Failure {
	t.Helper()
	var f *llm.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v (%T), want a *llm.Failure", err, err)
	}
	return f
}

// A server of vLLM 0.25 has another name for inference, and no control.
func TestOlderServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		health int
		want   string // of the failure of a probe
	}{{"serving", 1, ""}, {"not serving", 2, "does not serve"}} {
		t.Run(c.name, func(t *testing.T) {
			f, at := serve(t, &fake{answer: says("so"), lacks: []string{"/vllm.Inference/", "/vllm.Control/"}, health: c.health})
			w := open(t, Config{}, at)
			defer w.Close()
			for range 2 {
				rep, err := w.Send(t.Context(), chat("go"))
				if err != nil {
					t.Fatal(err)
				}
				if got := rep.Choices[0].Text; got != "so" {
					t.Errorf("got %q, want %q", got, "so")
				}
			}
			if len(f.ids) != 2 || f.ids[0] == f.ids[1] || !strings.HasPrefix(f.ids[0], "call-1-") {
				t.Errorf("got request ids %q, want two that begin with the call's key", f.ids)
			}
			served, err := w.Probe(t.Context())
			if served != nil || (err == nil) != (c.want == "") {
				t.Errorf("probe: got %v, %v, want none and %q", served, err, c.want)
			}
			if c.want != "" {
				if f := failure(t, err); f.Kind != llm.Capacity || !strings.Contains(f.Msg, c.want) {
					t.Errorf("got %v %v, want capacity and %q", f.Kind, f, c.want)
				}
			}
		})
	}
}

// A server of the other gRPC API, or of another service, is told from vLLM's.
func TestOtherService(t *testing.T) {
	_, at := serve(t, &fake{answer: says("so"), lacks: []string{"/"}})
	w := open(t, Config{}, at)
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Fatal || f.Code != unimplemented || !strings.Contains(f.Hint, "--grpc-port") {
		t.Errorf("got %v %q %q %v, want fatal with what to start", f.Kind, f.Code, f.Hint, f)
	}
	if served, err := w.Probe(t.Context()); served != nil || err != nil {
		t.Errorf("probe: got %v, %v, want nothing", served, err)
	}
}

// The HTTP port of a server is not its gRPC port.
func TestWrongPort(t *testing.T) {
	for _, c := range []struct {
		name string
		h2c  bool
		kind llm.Kind
	}{{"HTTP/1.1", false, llm.Transport}, {"h2c", true, llm.Fatal}} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(!c.h2c)
			s.Config.Protocols.SetUnencryptedHTTP2(c.h2c)
			s.Start()
			defer s.Close()
			w := open(t, Config{}, s.URL)
			defer w.Close()
			_, err := w.Send(t.Context(), chat("go"))
			if f := failure(t, err); f.Kind != c.kind || !strings.Contains(f.Hint, "--grpc-port") {
				t.Errorf("got %v %v (%s), want %v with a hint", f.Kind, f, f.Hint, c.kind)
			}
		})
	}
}

// What nobody waits for is aborted at the server.
func TestAbort(t *testing.T) {
	for _, c := range []struct {
		name   string
		cancel bool // once the call has arrived
		edit   func(r *llm.Request)
		ok     bool
	}{
		{"cancelled", true, func(r *llm.Request) {}, false},
		{"stalled", false, func(r *llm.Request) { r.Sampling.Stall = 50 * time.Millisecond }, false},
		{"enough", false, func(r *llm.Request) { r.Sampling.Until = "two" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f, at := serve(t, &fake{answer: func(call matrixtest.Call) matrixtest.Answer {
				if c.cancel && !call.Probe {
					cancel()
				}
				a := says("one two three four")(call)
				a.Fault = matrixtest.Hang
				return a
			}})
			w := open(t, Config{}, at)
			if _, err := w.Probe(t.Context()); err != nil { // the server has answered before
				t.Fatal(err)
			}
			r := chat("go")
			c.edit(r)
			if _, err := w.Send(ctx, r); (err == nil) != c.ok {
				t.Errorf("got %v, want success %v", err, c.ok)
			}
			select {
			case id := <-f.seen:
				if id != f.ids[0] {
					t.Errorf("aborted %q, want %q", id, f.ids[0])
				}
			case <-time.After(5 * time.Second):
				t.Error("nothing was aborted")
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that goes away in the middle of a reply breaks the exchange, and may
// have worked on it.
func TestCutOff(t *testing.T) {
	for _, stream := range []bool{false, true} {
		arrived := make(chan struct{}, 1)
		f, at := serve(t, &fake{answer: func(call matrixtest.Call) matrixtest.Answer {
			arrived <- struct{}{}
			a := says("one two three four")(call)
			a.Fault = matrixtest.Hang
			return a
		}})
		w := open(t, Config{}, at)
		r := chat("go")
		heard := make(chan struct{})
		if stream {
			r.OnDelta = func(d llm.Delta) bool {
				if strings.HasPrefix(d.Text, "two") {
					close(heard)
				}
				return true
			}
		}
		go func() {
			<-arrived
			if stream {
				<-heard
			}
			f.server.Stop()
		}()
		_, err := w.Send(t.Context(), r)
		if f := failure(t, err); f.Kind != llm.Transport || !f.Sent || len(f.Params) == 0 {
			t.Errorf("stream %v: got %v %v, sent %v, want transport and sent", stream, f.Kind, f, f.Sent)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A reply in whole that never ends in a status is not taken for one.
func TestNoStatus(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Write([]byte{0, 0, 0, 0, 0})
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	w := open(t, Config{}, s.URL)
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Transport {
		t.Errorf("got %v %v, want transport", f.Kind, f)
	}
}

func TestProbe(t *testing.T) {
	_, at := serve(t, &fake{answer: says("so")})
	w := open(t, Config{}, at)
	defer w.Close()
	got, err := w.Probe(t.Context())
	want := []llm.Served{{Name: model, Owner: "vllm", Context: 4096}, {Name: "alias", Owner: "vllm", Context: 4096}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestLogprobs(t *testing.T) {
	w := start(t, says("one two"))
	defer w.Close()
	for _, stream := range []bool{false, true} {
		r := chat("go")
		r.Sampling.Logprobs, r.Sampling.Stream = 2, &stream
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"token_ids":[7],"logprobs":[-0.5],"candidate_tokens":[[{"id":9,"logprob":-1.5,"rank":2}]]}`
		if stream {
			want = `{"token_ids":[7,7],"logprobs":[-0.5,-0.5],"candidate_tokens":[[{"id":9,"logprob":-1.5,"rank":2}],[{"id":9,"logprob":-1.5,"rank":2}]]}`
		}
		if got := string(rep.Choices[0].Logprobs); got != want {
			t.Errorf("stream %v: got %s, want %s", stream, got, want)
		}
	}
}

// A chat is written as the models' own templates do.
func TestTemplates(t *testing.T) {
	ms := []llm.Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: " Hi "}, {Role: "assistant", Content: "Yes?"}, {Role: "user", Content: "Bye"}}
	for name, want := range map[string]string{
		"chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
		"llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
		"gemma":  "<start_of_turn>user\nBe brief.\n\n Hi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
	} {
		tpl := templates[name]
		if got := tpl.write(ms); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	tpl := templates["gemma"]
	if got, want := tpl.write(ms[:1]), "<start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\n"; got != want {
		t.Errorf("system alone: got %q, want %q", got, want)
	}
}

// Without a template a prompt goes, and a chat stops the model.
func TestNoTemplate(t *testing.T) {
	_, at := serve(t, &fake{answer: says("so")})
	w, err := Config{Model: model}.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Send(t.Context(), &llm.Request{Prompt: "Once"}); err != nil {
		t.Error(err)
	}
	_, err = w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Hint, "set template") || !strings.Contains(f.Hint, "llama3") {
		t.Errorf("got %v %v (%s), want fatal that says to set template", f.Kind, f, f.Hint)
	}
}

// extra_body has vLLM's own parameters, each in its place.
func TestExtra(t *testing.T) {
	w := &driver{}
	r := &llm.Request{Prompt: "x"}
	r.Sampling.Extra = map[string]any{
		"top_k": 5, "min_p": 0.5, "repetition_penalty": 1.5, "logit_bias": map[string]any{"3": -1, "2": 1}, "allowed_token_ids": []any{1, 300},
		"min_tokens": 4, "stop_token_ids": []any{2}, "include_stop_str_in_output": true, "ignore_eos": true, "skip_special_tokens": false,
		"cache_salt": "salt", "truncate_prompt_tokens": 9, "priority": -3, "lora_name": "lo",
	}
	b, params, err := w.request(r, "id")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, fd: compile(schema)}
	got := strings.Join(strings.Fields(textOf(f.read("GenerateRequest", b))), " ")
	want := `request_id:"id" text:"x" sampling:{top_k:5 min_p:0.5} decoding:{repetition_penalty:1.5 logit_bias:{key:2 value:1} logit_bias:{key:3 value:-1} ` +
		`allowed_token_ids:1 allowed_token_ids:300} stopping:{min_new_tokens:4 stop_token_ids:2 include_stop_strings:true ignore_eos:true} ` +
		`response:{skip_special_tokens:false} kv:{cache_salt:"salt"} truncate_prompt_tokens:9 priority:-3 lora_name:"lo"`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !strings.Contains(string(params), `"min_p":0.5`) {
		t.Errorf("params %s do not tell of min_p", params)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name, url string
		edit      func(c *Config)
		field     string
		want      string
	}{
		{"no scheme", "localhost:50051", nil, "base_url", "http://HOST:PORT"},
		{"scheme", "grpc://localhost:50051", nil, "base_url", "want http"},
		{"no host", "http://", nil, "base_url", "names no host"},
		{"path", "http://localhost:8000/v1", nil, "base_url", "leave it out"},
		{"credentials", "http://a:b@localhost:8000", nil, "base_url", "leave them out"},
		{"template", "http://localhost:1", func(c *Config) { c.Template = "alpaca" }, "template", "chatml, gemma, llama3"},
		{"key", "http://localhost:1", func(c *Config) { c.APIKey = "a b" }, "api_key", "blank"},
		{"extra", "http://localhost:1", func(c *Config) { c.Extra = map[string]any{"typical_p": 1} }, "extra_body", `no "typical_p"`},
		{"type of extra", "http://localhost:1", func(c *Config) { c.Extra = map[string]any{"top_k": "x"} }, "extra_body", "top_k: got a string"},
		{"format", "http://localhost:1", func(c *Config) { c.ResponseFormat = map[string]any{"type": "xml"} }, "response_format", "json_schema"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conf Config
			if c.edit != nil {
				c.edit(&conf)
			}
			_, err := conf.Open(c.url)
			var bad *llm.FieldError
			if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one of %s with %q", err, c.field, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "a:b") {
				t.Errorf("%v shows credentials", err)
			}
		})
	}
}

func TestWhere(t *testing.T) {
	one, two := llm.Endpoints{{URL: "http://a:1"}}, llm.Endpoints{{URL: "http://a:1"}, {URL: "http://b:1"}}
	for _, c := range []struct {
		name string
		conf Config
		want llm.Endpoints
		err  string
	}{
		{"base_url", Config{BaseURL: "http://a:1"}, one, ""},
		{"endpoints", Config{Endpoints: two}, two, ""},
		{"both", Config{BaseURL: "http://a:1", Endpoints: two}, nil, "not both"},
		{"neither", Config{}, nil, "50051"},
	} {
		got, err := c.conf.Where()
		if !reflect.DeepEqual(got, c.want) || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, %v, want %v and %q", c.name, got, err, c.want, c.err)
		}
	}
}

// A pinned address is where the connection goes.
func TestPinned(t *testing.T) {
	_, at := serve(t, &fake{answer: says("so")})
	port := at[strings.LastIndex(at, ":")+1:]
	w := open(t, Config{}, "http://nowhere.invalid:"+port+"#127.0.0.1")
	defer w.Close()
	rep, err := w.Send(t.Context(), chat("go"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://nowhere.invalid:" + port; rep.Endpoint != want {
		t.Errorf("got endpoint %s, want %s", rep.Endpoint, want)
	}
}

// FuzzGenerated: no bytes from outside make it panic.
func FuzzGenerated(f *testing.F) {
	f.Add([]byte("\n\x02\x08\x07\x12\x0e\x12\x05hello\x42\x04\x08\x03\x10\x02"))
	f.Add([]byte("\x12\x03\x2a\x02\x01\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := decodeGenerated(b); err == nil && g == nil {
			t.Error("got nothing")
		}
	})
}
