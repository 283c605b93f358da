package sim

import (
	"net/http"

	"matrix/llm/openai/api"
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

	piece  api.Reply // the event that is written
	choice [1]api.Choice
}

// stream writes the reply as it is made.
func (o *output) stream(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	h["Cache-Control"] = []string{"no-cache"}
	n := len(o.run.ds)
	s := &streamer{output: o, w: w, flush: http.NewResponseController(w), sent: make([]int, n), ended: make([]bool, n), piece: o.head("chat.completion.chunk")}
	for i := range o.run.ds {
		o.run.ds[i].write()
	}
	garbled := o.fault != nil && o.fault.Kind == Garbage
	begun := false
	err := o.run.follow(r.Context(), func(tokens int, done bool) bool {
		if done && o.run.slowed(r.Context(), o.fault) != nil {
			panic(http.ErrAbortHandler)
		}
		if tokens > 0 || done {
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
				return false
			}
			s.spoil(r, tokens)
		}
		if done {
			s.finish()
		}
		return true
	})
	if err != nil {
		panic(http.ErrAbortHandler)
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

// event appends an event about a choice.
func (s *streamer) event(c api.Choice) {
	s.choice[0] = c
	s.piece.Choices = s.choice[:]
	if s.usage.each {
		n := 0
		for i := range s.run.ds {
			if d := &s.run.ds[i]; s.ended[i] {
				n += d.tokens
			} else {
				n += min(s.now, d.tokens)
			}
		}
		s.piece.Usage = s.cost(n)
	}
	s.b = append(s.piece.Append(append(s.b, "data: "...)), "\n\n"...)
}

func (s *streamer) cost(completion int) *api.Usage {
	prompt, _, cached := s.run.usage()
	return &api.Usage{Prompt: prompt, Completion: completion, Cached: cached}
}

// begin says who speaks.
func (s *streamer) begin() {
	if !s.a.chat {
		return
	}
	for i := range s.run.ds {
		s.event(api.Choice{Index: i, Piece: true, First: true})
	}
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
			s.event(api.Choice{Index: i, Piece: s.a.chat, Finish: d.finish})
		}
	}
}

func (s *streamer) text(i, to int) {
	d := &s.run.ds[i]
	if to <= s.sent[i] {
		return
	}
	c := api.Choice{Index: i, Piece: s.a.chat, Logprobs: string(s.logprobs(d, s.sent[i], to))}
	if s.a.chat {
		c.Delta.Content = d.text[s.sent[i]:to]
	} else {
		c.Text = d.text[s.sent[i]:to]
	}
	s.event(c)
	s.sent[i] = to
}

// tools names the calls, and gives their arguments in two pieces at the end.
func (s *streamer) tools(i int, over bool) {
	calls := s.run.ds[i].calls
	delta := func(c api.ToolCall) {
		s.event(api.Choice{Index: i, Piece: true, Delta: api.Message{Tools: []api.ToolCall{c}}})
	}
	if s.sent[i] == 0 {
		for k := range calls {
			delta(api.ToolCall{Index: k, Numbered: true, ID: calls[k].ID, Name: calls[k].Name})
		}
		s.sent[i] = 1
	}
	if !over {
		return
	}
	for k := range calls {
		args := calls[k].Arguments
		half := upTo(args, tokensOf(args)/2)
		for _, piece := range []string{args[:half], args[half:]} {
			if piece != "" {
				delta(api.ToolCall{Index: k, Numbered: true, Arguments: piece})
			}
		}
	}
}

func (s *streamer) finish() {
	if s.usage.last {
		_, completion, _ := s.run.usage()
		s.piece.Choices, s.piece.Usage = []api.Choice{}, s.cost(completion)
		s.b = append(s.piece.Append(append(s.b, "data: "...)), "\n\n"...)
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
