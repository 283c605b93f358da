package sim

import (
	"net/http"
	"strconv"
)

// streamer is a reply on its way.
type streamer struct {
	*output
	w     http.ResponseWriter
	flush *http.ResponseController
	b     []byte
	sent  []int // bytes of each choice; of tools, 1 once the calls are named
	ended []bool
	now   int // tokens of each choice that are there
}

// stream writes the reply as it is made.
func (o *output) stream(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	h["Cache-Control"] = []string{"no-cache"}
	n := len(o.run.ds)
	s := &streamer{output: o, w: w, flush: http.NewResponseController(w), sent: make([]int, n), ended: make([]bool, n)}
	for i := range o.run.ds {
		o.run.ds[i].write()
	}
	garbled := o.fault != nil && o.fault.Kind == Garbage
	begun := false
	for {
		done := o.run.job.done.Load()
		if o.run.job.lost.Load() {
			o.run.e.cut.Add(1)
			panic(http.ErrAbortHandler)
		}
		if done {
			o.run.settle()
			if o.run.slowed(r.Context(), o.fault) != nil {
				panic(http.ErrAbortHandler)
			}
		}
		if tokens := int(o.run.job.progress.Load()); tokens > 0 || done {
			s.now = tokens
			if !begun {
				begun = true
				s.begin()
			}
			s.advance(tokens, done)
			if garbled {
				s.b = append(s.b[:0], "data: {\"choices\": [<<< garbage\n\n"...)
			}
			if !s.send() {
				s.run.abandon()
				return
			}
			s.spoil(r, tokens)
		}
		if done {
			s.finish()
			return
		}
		select {
		case <-o.run.job.woken:
		case <-r.Context().Done():
			s.run.abandon()
			panic(http.ErrAbortHandler)
		}
	}
}

// spoil stalls, or breaks off, where a fault says so.
func (s *streamer) spoil(r *http.Request, tokens int) {
	if s.fault == nil {
		return
	}
	switch {
	case s.fault.Kind == Stall:
		<-r.Context().Done()
	case s.fault.Kind == Truncate && tokens*2 >= s.run.job.out:
	default:
		return
	}
	s.run.abandon()
	panic(http.ErrAbortHandler)
}

// event begins an event about a choice.
func (s *streamer) event(i int) {
	s.b = append(s.b, "data: "...)
	if s.a.chat {
		s.b = s.head(s.b, "chat.completion.chunk")
	} else {
		s.b = s.head(s.b, "text_completion")
	}
	s.b = append(s.b, `{"index":`...)
	s.b = strconv.AppendInt(s.b, int64(i), 10)
}

// begin says who speaks.
func (s *streamer) begin() {
	if !s.a.chat {
		return
	}
	for i := range s.run.ds {
		s.event(i)
		s.b = append(s.b, `,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`...)
		s.end()
	}
}

// end ends an event about a choice.
func (s *streamer) end() {
	s.b = append(s.b, ']')
	if s.usage.each {
		n := 0
		for i := range s.run.ds {
			if d := &s.run.ds[i]; s.ended[i] {
				n += d.tokens
			} else {
				n += min(s.now, d.tokens)
			}
		}
		s.b = s.appendUsage(append(s.b, `,"usage":`...), n)
	}
	s.b = append(s.b, "}\n\n"...)
}

// advance appends what is new when so many tokens are there.
func (s *streamer) advance(tokens int, done bool) {
	for i := range s.run.ds {
		d := &s.run.ds[i]
		if s.ended[i] {
			continue
		}
		over := done || tokens >= d.tokens
		switch {
		case d.calls != nil:
			s.tools(i, over)
		case over:
			s.text(i, len(d.text))
		default:
			s.text(i, upTo(d.text, tokens))
		}
		if over {
			s.ended[i] = true
			s.event(i)
			if s.a.chat {
				s.b = append(s.b, `,"delta":{}`...)
			} else {
				s.b = append(s.b, `,"text":""`...)
			}
			s.b = append(s.b, `,"logprobs":null,"finish_reason":`...)
			s.b = append(appendText(s.b, d.finish), '}')
			s.end()
		}
	}
}

func (s *streamer) text(i, to int) {
	d := &s.run.ds[i]
	if to <= s.sent[i] {
		return
	}
	s.event(i)
	if s.a.chat {
		s.b = append(s.b, `,"delta":{"content":`...)
		s.b = append(appendText(s.b, d.text[s.sent[i]:to]), '}')
	} else {
		s.b = append(s.b, `,"text":`...)
		s.b = appendText(s.b, d.text[s.sent[i]:to])
	}
	s.b = append(s.b, `,"logprobs":`...)
	s.b = s.logprobs(s.b, d, s.sent[i], to)
	s.b = append(s.b, `,"finish_reason":null}`...)
	s.end()
	s.sent[i] = to
}

// tools names the calls, and gives their arguments in two pieces at the end.
func (s *streamer) tools(i int, over bool) {
	calls := s.run.ds[i].calls
	delta := func(write func()) {
		s.event(i)
		s.b = append(s.b, `,"delta":{"tool_calls":[`...)
		write()
		s.b = append(s.b, `]},"logprobs":null,"finish_reason":null}`...)
		s.end()
	}
	if s.sent[i] == 0 {
		for k := range calls {
			delta(func() { s.b = calls[k].append(s.b, k) })
		}
		s.sent[i] = 1
	}
	if !over {
		return
	}
	for k := range calls {
		args := calls[k].args
		half := upTo(args, tokensOf(args)/2)
		for _, piece := range []string{args[:half], args[half:]} {
			if piece == "" {
				continue
			}
			delta(func() {
				s.b = append(s.b, `{"index":`...)
				s.b = strconv.AppendInt(s.b, int64(k), 10)
				s.b = append(s.b, `,"function":{"arguments":`...)
				s.b = append(appendText(s.b, piece), "}}"...)
			})
		}
	}
}

func (s *streamer) finish() {
	if s.usage.last {
		s.b = append(s.b, "data: "...)
		if s.a.chat {
			s.b = s.head(s.b, "chat.completion.chunk")
		} else {
			s.b = s.head(s.b, "text_completion")
		}
		s.b = append(s.b, `],"usage":`...)
		_, completion, _ := s.run.usage()
		s.b = append(s.appendUsage(s.b, completion), "}\n\n"...)
	}
	s.b = append(s.b, "data: [DONE]\n\n"...)
	s.send()
}

// send sends what has been appended; false where nobody listens.
func (s *streamer) send() bool {
	if len(s.b) == 0 {
		return true
	}
	_, err := s.w.Write(s.b)
	s.b = s.b[:0]
	return err == nil && s.flush.Flush() == nil
}
