package matrixtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

// long is a text of many pieces.
const long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"

func streaming(text string) *llm.Request {
	r := chat(text)
	r.Sampling.Stream = ptr(true)
	return r
}

func streamed(s *driverSuite) {
	a := says(long)
	a.Reply.Model = "served-1"
	w := s.start(always(a))
	r := chat("count")
	var heard []string
	r.OnDelta = func(d llm.Delta) bool {
		if d.Reasoning != "" || d.Choice != 0 {
			s.Errorf("got delta %+v, want text of choice 0", d)
		}
		heard = append(heard, d.Text)
		return true
	}
	began := time.Now()
	rep := s.send(w, r)
	took := time.Since(began)
	same(s, "stream", s.arrived().Stream, true)
	same(s, "text", rep.Choices[0].Text, long)
	same(s, "pieces heard", strings.Join(heard, ""), long)
	if len(heard) < 10 {
		s.Errorf("heard %d pieces, want some 20", len(heard))
	}
	if rep.First <= 0 || rep.First > took {
		s.Errorf("first came after %v, of %v", rep.First, took)
	}
	if !s.lacks(ModelName) {
		same(s, "model", rep.Model, "served-1")
	}
	same(s, "end", ending(rep.Choices[0].Finish), "whole")

	s.forget()
	s.send(w, streaming("count")) // asked for by the config alone
	same(s, "stream", s.arrived().Stream, true)
}

func streamedReasoning(s *driverSuite) {
	w := s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: "it is 42", Reasoning: "six times seven", Finish: "stop"}}}}))
	r := chat("how much?")
	var text, thought string
	r.OnDelta = func(d llm.Delta) bool { text, thought = text+d.Text, thought+d.Reasoning; return true }
	rep := s.send(w, r)
	same(s, "text", rep.Choices[0].Text, "it is 42")
	same(s, "reasoning", rep.Choices[0].Reasoning, "six times seven")
	same(s, "text heard", text, "it is 42")
	same(s, "reasoning heard", thought, "six times seven")
}

func streamedCalls(s *driverSuite) {
	c, r := s.calling()
	c.Text = "Let me look."
	w := s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{c}}}))
	r.Sampling.Stream = ptr(true)
	rep := s.send(w, r)
	same(s, "text", rep.Choices[0].Text, c.Text)
	s.sameCalls(rep.Choices[0].ToolCalls, c.ToolCalls)
	same(s, "end", ending(rep.Choices[0].Finish), "whole")
}

// broken fails a streamed call by a fault in its middle.
func (s *driverSuite) broken(fault Fault, want llm.Kind) {
	s.Helper()
	a := says(long)
	a.Fault = fault
	w := s.start(always(a))
	f := s.refuse(w, streaming("count"))
	same(s, "kind", f.Kind, want)
	same(s, "sent", f.Sent, true)
	s.arrived()
}

func streamCutOff(s *driverSuite) { s.broken(CutOff, llm.Transport) }

func streamBreaks(s *driverSuite) { s.broken(Short, llm.Transport) }

func streamStalls(s *driverSuite) {
	a := says(long)
	a.Fault = Hang
	w := s.start(always(a))
	r := chat("count")
	r.Sampling.Stall = 150 * time.Millisecond
	began := time.Now()
	f := s.refuse(w, r)
	same(s, "kind", f.Kind, llm.Timeout)
	same(s, "sent", f.Sent, true)
	if d := time.Since(began); d < r.Sampling.Stall || d > 5*time.Second {
		s.Errorf("gave up after %v, want %v or a little more", d, r.Sampling.Stall)
	}
	s.arrived()
}

// streamWithoutEnd brings more than a reply may be.
func streamWithoutEnd(s *driverSuite) {
	w := s.start(always(says(strings.Repeat(strings.Repeat("x", 1<<20)+" ", llm.MaxReply>>20+1))))
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	_, err := s.client(w).Do(ctx, streaming("go on"))
	var e *llm.Error
	if !errors.As(err, &e) || e.Kind != llm.Refused || !strings.Contains(e.Msg, "larger than") {
		s.Errorf("got %v, want a reply that is too large", err)
	}
}

func streamUntil(s *driverSuite) {
	a := says(long)
	a.Fault = Hang // what follows the match is not waited for
	w := s.start(always(a))
	r := chat("count")
	r.Sampling.Until = `t\w+e f`
	rep := s.send(w, r)
	same(s, "text", rep.Choices[0].Text, "one two three f")
	same(s, "end", ending(rep.Choices[0].Finish), "whole")
	same(s, "stream", s.arrived().Stream, true)
}

func streamEnough(s *driverSuite) {
	a := says(long)
	a.Fault = Hang
	w := s.start(always(a))
	r := chat("count")
	r.OnDelta = func(d llm.Delta) bool { return !strings.Contains(d.Text, "three") }
	rep := s.send(w, r)
	same(s, "text", rep.Choices[0].Text, "one two three ")
	same(s, "end", ending(rep.Choices[0].Finish), "whole")
}

func complaints(s *driverSuite) {
	for _, c := range s.fake.Complaints {
		s.Run(c.Name, func(t *testing.T) {
			in := &driverSuite{T: t, fake: s.fake}
			w := in.start(always(Answer{Complaint: &c}))
			in.judged(w, chat("go"), &c)
			if in.lacks(Streaming) {
				return
			}
			in.forget()
			in.judged(w, streaming("go"), &c)
			if c.Event == "" {
				return
			}
			in.forget()
			a := says(long)
			a.Complaint, a.Fault = &c, Break
			w = in.start(always(a))
			f := in.refuse(w, streaming("count"))
			same(t, "kind in a stream", f.Kind, c.Kind)
			same(t, "sent in a stream", f.Sent, true)
			in.arrived()
		})
	}
}

// judged sends r, which c answers.
func (s *driverSuite) judged(w llm.Driver, r *llm.Request, c *Complaint) {
	s.Helper()
	f := s.refuse(w, r)
	s.arrived()
	same(s, "kind", f.Kind, c.Kind)
	if !s.lacks(HTTP) {
		same(s, "status", f.Status, c.Status)
	}
	if c.Code != "" {
		same(s, "code", f.Code, c.Code)
	}
	if !strings.Contains(f.Hint, c.Hint) {
		s.Errorf("hint: got %q, want one with %q", f.Hint, c.Hint)
	}
	if f.Kind == llm.Fatal && f.Hint == "" {
		s.Error("the failure stops the run, and has no hint what to do")
	}
	if d := f.After - c.After; d > 0 || d < -2*time.Second {
		s.Errorf("after: got %v, want %v", f.After, c.After)
	}
}

func fatesCovered(s *driverSuite) {
	for _, want := range []llm.Kind{llm.Capacity, llm.Fatal, llm.Context, llm.Refused, llm.Fault} {
		if want == llm.Context && s.lacks(ContextFate) {
			continue
		}
		if want == llm.Context && s.lacks(TooLong) {
			continue
		}
		if !slices.ContainsFunc(s.fake.Complaints, func(c Complaint) bool { return c.Kind == want }) {
			s.Errorf("the fake has no complaint of kind %v", want)
		}
	}
	statuses := map[int]bool{}
	for _, c := range s.fake.Complaints {
		statuses[c.Status] = true
	}
	if !s.lacks(HTTP) {
		for _, want := range []int{400, 403, 404, 429, 500, 503} {
			if !statuses[want] {
				s.Errorf("the fake has no complaint of status %d", want)
			}
		}
	}
	hasSecret := func(c Complaint) bool { return strings.Contains(c.Body, "{secret}") }
	if len(s.fake.Secrets) > 0 && !slices.ContainsFunc(s.fake.Complaints, hasSecret) {
		s.Error("no complaint of the fake repeats {secret}")
	}
	if !s.lacks(RetryAfter) && !slices.ContainsFunc(s.fake.Complaints, func(c Complaint) bool { return c.After > 0 }) {
		s.Error("no complaint of the fake says after how long to come back")
	}
}

func brokenExchanges(s *driverSuite) {
	if s.lacks(HTTP) {
		s.Skip("the exchange is not HTTP")
	}
	for _, c := range []struct {
		name  string
		fault Fault
		want  []llm.Kind
		empty bool
	}{
		{"reset before the reply", Reset, []llm.Kind{llm.Transport}, false},
		{"cut off in the reply", CutOff, []llm.Kind{llm.Transport}, false},
		{"not a reply", NotAReply, []llm.Kind{llm.Fault, llm.Transport}, false},
		{"success without a reply", Empty, []llm.Kind{llm.Fault}, true},
		{"a bare 500", Bare, []llm.Kind{llm.Fault}, false},
		{"a web page", WebPage, []llm.Kind{llm.Transport, llm.Fault, llm.Fatal}, false},
		{"a redirect", Redirected, []llm.Kind{llm.Fatal}, false},
	} {
		for _, stream := range []bool{false, true} {
			name := c.name
			if stream {
				name += ", in a stream"
				if s.lacks(Streaming) {
					continue
				}
			}
			s.Run(name, func(t *testing.T) {
				in := &driverSuite{T: t, fake: s.fake}
				a := says(long)
				a.Fault = c.fault
				w := in.start(always(a))
				r := chat("go")
				r.Sampling.Stream = &stream
				f := in.refuse(w, r)
				in.arrived() // not tried again
				if !slices.Contains(c.want, f.Kind) {
					t.Errorf("kind: got %v, want one of %v: %v", f.Kind, c.want, f)
				}
				if c.empty && !f.EmptyReply {
					t.Error("the failure does not say that the reply was empty")
				}
				if c.fault == Reset || c.fault == CutOff {
					same(t, "sent", f.Sent, true)
				}
			})
		}
	}
}

func nobodyThere(s *driverSuite) {
	var w llm.Driver
	s.Run("serve", func(t *testing.T) { w = s.fake.Start(t, always(says("so"))) }) // ends with this
	defer w.Close()
	f := s.refuse(w, chat("go"))
	same(s, "kind", f.Kind, llm.Unreachable)
	same(s, "sent", f.Sent, false)
}

func quotas(s *driverSuite) {
	q := s.fake.Quota
	if q == nil {
		s.Skip("the vendor does not tell its limits")
	}
	a := says("so")
	a.Header = q.Header
	w := s.start(always(a))
	got := s.send(w, chat("go")).Quota
	if len(got) != len(q.Want) {
		s.Fatalf("got %+v, want %+v", got, q.Want)
	}
	for _, want := range q.Want {
		i := slices.IndexFunc(got, func(g llm.Quota) bool { return g.Tokens == want.Tokens && g.Limit == want.Limit })
		if i < 0 {
			s.Errorf("got %+v, want %+v among it", got, want)
			continue
		}
		same(s, "left", got[i].Left, want.Left)
		if d := got[i].Reset - want.Reset; d > 0 || d < -max(2*time.Second, want.Reset/10) {
			s.Errorf("reset: got %v, want %v", got[i].Reset, want.Reset)
		}
	}
	if s.lacks(Streaming) {
		return
	}
	if got := s.send(w, streaming("go")).Quota; len(got) != len(q.Want) {
		s.Errorf("in a stream: got %+v, want %+v", got, q.Want)
	}
}

// left sends r to a service that does not go on, and leaves.
func (s *driverSuite) left(r *llm.Request) {
	s.Helper()
	arrived := make(chan struct{}, 1)
	w := s.start(func(Call) Answer {
		arrived <- struct{}{}
		a := says(long)
		a.Fault = Hang
		return a
	})
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan error, 1)
	go func() {
		_, err := w.Send(ctx, r)
		done <- err
	}()
	<-arrived
	cancel()
	select {
	case err := <-done:
		if err == nil {
			s.Error("got a reply to a call that was cancelled")
		}
	case <-time.After(5 * time.Second):
		s.Fatal("the call went on after its context ended")
	}
	s.arrived()
}

func cancelledSend(s *driverSuite) { s.left(chat("go")) }

func cancelledStream(s *driverSuite) { s.left(streaming("go")) }
