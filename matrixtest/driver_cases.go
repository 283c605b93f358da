package matrixtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix/llm"
)

// driverSuite is one case.
type driverSuite struct {
	*testing.T
	fake *Fake

	mu    sync.Mutex
	calls []Call // that arrived, without probes
}

func (s *driverSuite) lacks(f Feature) bool { return slices.Contains(s.fake.Unsupported, f) }

// start makes a driver whose service answers as answer says. Probes are answered
// by a list of the model.
func (s *driverSuite) start(answer func(c Call) Answer) llm.Driver {
	s.Helper()
	w := s.fake.Start(s.T, func(c Call) Answer {
		if c.Probe {
			return Answer{Served: []string{s.fake.Model}}
		}
		s.mu.Lock()
		s.calls = append(s.calls, c)
		s.mu.Unlock()
		return answer(c)
	})
	s.Cleanup(func() {
		if err := w.Close(); err != nil {
			s.Errorf("close: %v", err)
		}
	})
	return w
}

// arrived returns the only call that came.
func (s *driverSuite) arrived() Call {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) != 1 {
		s.Fatalf("%d calls arrived, want 1", len(s.calls))
	}
	return s.calls[0]
}

// forget makes the next call the only one.
func (s *driverSuite) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// send sends r, which must bring a reply.
func (s *driverSuite) send(w llm.Driver, r *llm.Request) *llm.Reply {
	s.Helper()
	rep, err := w.Send(s.within(), r)
	if err != nil {
		s.Fatalf("send: %v", err)
	}
	if len(rep.Choices)+len(rep.Vectors) == 0 {
		s.Fatalf("got a reply without choices: %+v", rep)
	}
	s.hidden("endpoint", rep.Endpoint)
	if !strings.Contains(rep.Endpoint, "://") {
		s.Errorf("endpoint %q is not a base URL", rep.Endpoint)
	}
	s.params(rep.Params)
	return rep
}

// refuse sends r, which must fail.
func (s *driverSuite) refuse(w llm.Driver, r *llm.Request) *llm.Failure {
	s.Helper()
	rep, err := w.Send(s.within(), r)
	if err == nil {
		s.Fatalf("got a reply %+v, want a failure", rep)
	}
	f := failure(err)
	if f == nil {
		s.Fatalf("got error %v (%T), want a *llm.Failure", err, err)
	}
	if f.Msg == "" || strings.Contains(f.Msg, "\n") {
		s.Errorf("message %q, want one line", f.Msg)
	}
	if !strings.Contains(f.Endpoint, "://") {
		s.Errorf("endpoint %q of the failure is not a base URL", f.Endpoint)
	}
	s.hidden("failure", f.Error()+f.Hint+f.Code+string(f.Params))
	return f
}

// hidden checks that a text has no credentials.
func (s *driverSuite) hidden(what, text string) {
	s.Helper()
	for _, secret := range s.fake.Secrets {
		if strings.Contains(text, secret) {
			s.Errorf("%s shows a secret: %s", what, text)
		}
	}
}

// params checks that parameters as sent are an object without the conversation.
func (s *driverSuite) params(p json.RawMessage) {
	s.Helper()
	var v map[string]any
	if err := json.Unmarshal(p, &v); err != nil || v == nil {
		s.Errorf("params %s are not an object (%v)", p, err)
	}
	s.hidden("params", string(p))
	if bytes.Contains(p, []byte(marker)) {
		s.Errorf("params hold the conversation: %s", p)
	}
}

// within ends a case that hangs.
func (s *driverSuite) within() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	s.Cleanup(cancel)
	return ctx
}

// marker is in every prompt.
const marker = "the-marker"

func chat(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text + " " + marker}}, Key: "call-1"}
}

// says is an answer of one text.
func says(text string) Answer {
	return Answer{Reply: llm.Reply{
		Choices: []llm.Choice{{Text: text, Finish: "stop"}},
		Usage:   llm.Usage{Tokens: llm.Tokens{PromptTokens: 7, CompletionTokens: 3}},
	}}
}

func always(a Answer) func(Call) Answer { return func(Call) Answer { return a } }

func ptr[T any](v T) *T { return &v }

// same compares what arrived with what was meant.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %s, want %s", what, show(got), show(want))
	}
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%+v", v)
	}
	return string(b)
}

// sameJSON compares JSON by value.
func sameJSON(t testing.TB, what string, got, want []byte) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Errorf("%s: got %q, which is not JSON: %v", what, got, err)
		return
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func plainChat(s *driverSuite) {
	w := s.start(always(Answer{Reply: llm.Reply{
		Model:   "served-1",
		Choices: []llm.Choice{{Text: "hello\n\"you\" \u00e9\U0001F600", Finish: "stop"}},
		Usage:   llm.Usage{Tokens: llm.Tokens{PromptTokens: 7, CompletionTokens: 3}},
	}}))
	r := chat("say hello")
	if !s.lacks(System) {
		r.Messages = append([]llm.Message{{Role: "system", Content: "be \"brief\"\n\u2028 <b>"}}, r.Messages...)
	}
	rep := s.send(w, r)
	if got, want := rep.Choices[0].Text, "hello\n\"you\" \u00e9\U0001F600"; got != want {
		s.Errorf("text: got %q, want %q", got, want)
	}
	if rep.Choices[0].Reasoning != "" || len(rep.Choices[0].ToolCalls) > 0 {
		s.Errorf("got %+v, want a text alone", rep.Choices[0])
	}
	if !s.lacks(ModelName) {
		same(s, "model", rep.Model, "served-1")
	}
	if rep.First != 0 {
		s.Errorf("first is %v without a stream", rep.First)
	}
	c := s.arrived()
	same(s, "messages", c.Messages, r.Messages)
	same(s, "model asked for", c.Model, s.fake.Model)
	same(s, "stream", c.Stream, false)
	same(s, "known", c.Known, true)
	if !s.lacks(Keys) {
		same(s, "key", c.Key, "call-1")
	}
}

func manyTurns(s *driverSuite) {
	w := s.start(always(says("so")))
	r := &llm.Request{Messages: []llm.Message{
		{Role: "user", Content: "one"}, {Role: "assistant", Content: "two"},
		{Role: "user", Content: "three"}, {Role: "assistant", Content: "four"},
		{Role: "user", Content: "five " + marker},
	}}
	if !s.lacks(System) {
		r.Messages = append([]llm.Message{{Role: "system", Content: "zero"}}, r.Messages...)
	}
	s.send(w, r)
	same(s, "messages", s.arrived().Messages, r.Messages)
}

func samplingArrives(s *driverSuite) {
	w := s.start(always(says("so")))
	r := chat("draw")
	want := &r.Sampling
	want.Temperature, want.MaxTokens, want.Seed = ptr(0.5), 77, ptr(int64(42))
	if !s.lacks(TopP) {
		want.TopP = ptr(0.9)
	}
	if !s.lacks(Stop) {
		want.Stop = []string{"END", "\n\n"}
	}
	if !s.lacks(Penalties) {
		want.PresencePenalty, want.FrequencyPenalty = ptr(0.25), ptr(-0.5)
	}
	if !s.lacks(Effort) {
		want.Effort = "low"
	}
	rep := s.send(w, r)
	got := s.arrived().Sampling
	if s.lacks(Seed) {
		want.Seed = nil
	}
	same(s, "temperature", got.Temperature, want.Temperature)
	same(s, "max_tokens", got.MaxTokens, want.MaxTokens)
	same(s, "seed", got.Seed, want.Seed)
	same(s, "top_p", got.TopP, want.TopP)
	same(s, "stop", got.Stop, want.Stop)
	same(s, "presence_penalty", got.PresencePenalty, want.PresencePenalty)
	same(s, "frequency_penalty", got.FrequencyPenalty, want.FrequencyPenalty)
	same(s, "reasoning_effort", got.Effort, want.Effort)
	if !bytes.Contains(rep.Params, []byte("77")) || !bytes.Contains(rep.Params, []byte("0.5")) {
		s.Errorf("params %s do not tell of max_tokens 77 and temperature 0.5", rep.Params)
	}
	if s.lacks(Seed) && bytes.Contains(rep.Params, []byte("42")) {
		s.Errorf("params %s tell of a seed that was not sent", rep.Params)
	}

	s.forget()
	s.send(w, chat("draw")) // nothing is sent that nobody asked for
	got = s.arrived().Sampling
	if got.Temperature != nil || got.TopP != nil || got.Stop != nil || got.Seed != nil || got.N > 1 || got.Effort != "" {
		s.Errorf("parameters that were not asked for arrived: %+v", got)
	}
	s.forget()
	r = chat("draw")
	r.Sampling.Temperature = ptr(0.0)
	s.send(w, r)
	same(s, "temperature 0", s.arrived().Sampling.Temperature, ptr(0.0))
	if !s.lacks(Logprobs) {
		s.forget()
		r = chat("draw")
		r.Sampling.Logprobs = 2
		s.send(w, r)
		same(s, "logprobs", s.arrived().Sampling.Logprobs, 2)
	}
}

// asks is a request for a feature.
func asks(f Feature) *llm.Request {
	r := chat("draw")
	switch f {
	case Embeddings:
		return &llm.Request{Input: []string{"a text"}}
	case Completions:
		return &llm.Request{Prompt: "Once upon"}
	case Tools:
		r.Tools = []llm.Tool{weather}
	case ToolChoice:
		r.Tools, r.ToolChoice = []llm.Tool{weather}, "required"
	case Images:
		r.Messages[0].Images = []llm.Image{{Data: pixel, Media: "image/png"}}
	case ImageURLs:
		r.Messages[0].Images = []llm.Image{{URL: "https://example.com/a.png"}}
	case JSON:
		r.Format = &llm.Format{JSON: true}
	case Schema:
		r.Format = &llm.Format{Schema: personSchema, Name: "person"}
	case Regex:
		r.Format = &llm.Format{Regex: "[0-9]+"}
	case Choices:
		r.Format = &llm.Format{Choice: []string{"yes", "no"}}
	case Grammar:
		r.Format = &llm.Format{Grammar: `root ::= "a"`}
	case TopP:
		r.Sampling.TopP = ptr(0.5)
	case Stop:
		r.Sampling.Stop = []string{"END"}
	case Penalties:
		r.Sampling.PresencePenalty = ptr(0.5)
	case Effort:
		r.Sampling.Effort = "low"
	case Logprobs:
		r.Sampling.Logprobs = 2
	case Streaming:
		r.OnDelta = func(llm.Delta) bool { return true }
	case ExtraBody:
		r.Sampling.Extra = map[string]any{"x_test": 1}
	default:
		return nil
	}
	return r
}

func unsupportedRefused(s *driverSuite) {
	w := s.start(always(says("so")))
	for _, f := range s.fake.Unsupported {
		r := asks(f)
		if r == nil {
			continue
		}
		s.Run(string(f), func(t *testing.T) {
			in := &driverSuite{T: t, fake: s.fake}
			got := in.refuse(w, r)
			want := llm.Refused
			if r.Format != nil { // the config asks for it, of every row
				want = llm.Fatal
			}
			same(t, "kind", got.Kind, want)
			if got.Sent {
				t.Error("the failure says that something was sent")
			}
			if got.Hint == "" {
				t.Error("the failure has no hint")
			}
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) > 0 {
		s.Errorf("%d calls arrived, want none", len(s.calls))
	}
}

func extraArrives(s *driverSuite) {
	w := s.start(always(says("so")))
	r := chat("draw")
	r.Sampling.Extra = map[string]any{"x_test": map[string]any{"deep": []any{1.0, "two"}}}
	rep := s.send(w, r)
	sameJSON(s, "extra_body", encoded(s.arrived().Sampling.Extra["x_test"]), encoded(r.Sampling.Extra["x_test"]))
	if !bytes.Contains(rep.Params, []byte("x_test")) {
		s.Errorf("params %s do not tell of extra_body", rep.Params)
	}
}
