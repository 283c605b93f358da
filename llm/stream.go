package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Stream puts a streamed reply together, for drivers. It notes when the first
// piece came, tells OnDelta, ends the reply where Until matches, and ends its
// context when no piece follows within Stall. One goroutine uses it.
//
//	ctx, s, err := llm.NewStream(ctx, r)
//	defer s.Close()
//	// send with ctx; for each piece: if !s.Text(0, piece) { break }
//	// an error: if f := s.Stalled(ctx, endpoint); f != nil { return nil, f }
//	// the end: s.Choices(), s.First()
type Stream struct {
	request *Request
	until   *regexp.Regexp // nil: none
	literal string         // that every match of until holds, and begins with
	began   time.Time
	first   time.Duration
	drafts  []*draft
	kept    int // bytes
	ctx     context.Context
	share   *share
	ended   bool

	cancel context.CancelCauseFunc
	stall  *time.Timer // nil: no limit, or nothing came yet
	pause  *time.Timer // nil: there was none yet
	came   int         // bytes, since the last one began
	since  time.Time
	quiet  func(bool) // of the body; nil for none
}

// draft is a choice that is not whole yet.
type draft struct {
	text, reasoning strings.Builder
	calls           []ToolCall
	arguments       []*strings.Builder // of calls
	finish          string
	think           thinker
	sure            bool // what is thought comes apart: the text is not searched for it
	near            bool // the text holds what every match of Until holds
	cut             int  // length at which Until matched
	done            bool // it did
}

// MaxReply is the most bytes of a reply.
const MaxReply = 64 << 20

// PartBytes is what a part of a reply counts for, for Keep, beside what is in it: a
// service may send parts without end.
const PartBytes = 64

var (
	errStalled = errors.New("the stream stalled")
	errLarge   = errors.New("the reply is too large")
)

// NewStream begins the reply to r. The context is for the call that brings it.
func NewStream(ctx context.Context, r *Request) (context.Context, *Stream, error) {
	s := &Stream{request: r, began: time.Now(), share: shareOf(ctx)}
	s.since = s.began
	s.draft(0)
	if r.Sampling.Until != "" {
		re, err := regexp.Compile(r.Sampling.Until)
		if err != nil {
			return nil, nil, &FieldError{Field: "until", Err: err}
		}
		s.until = re
		s.literal, _ = re.LiteralPrefix()
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s.ctx, s, nil
}

// Exchange has do bring the reply to r from an endpoint, for drivers that say all by a
// Failure, in the context of the stream that it is given; params are those of the
// call. It returns ctx's error where that has ended.
func Exchange(ctx context.Context, r *Request, endpoint string, params json.RawMessage, do func(context.Context, *Stream) (*Reply, *Failure)) (*Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	inner, s, err := NewStream(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rep, f := do(inner, s)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f != nil {
		if stalled := s.Stalled(inner, endpoint); stalled != nil {
			stalled.Usage = f.Usage
			f = stalled
		}
		f.Params = params
		return nil, f
	}
	rep.Endpoint, rep.Params = endpoint, params
	for i := range r.Messages {
		rep.Usage.Images += len(r.Messages[i].Images)
	}
	return rep, nil
}

// Streams reports whether the reply to r is to be streamed.
func Streams(r *Request) bool {
	s := &r.Sampling
	return r.OnDelta != nil || s.Stall > 0 || s.Until != "" || s.Stream != nil && *s.Stream
}

// Close ends the context.
func (s *Stream) Close() {
	if s.stall != nil {
		s.stall.Stop()
	}
	if s.pause != nil {
		s.pause.Stop()
	}
	s.cancel(context.Canceled)
}

// Alive notes that something came which is not part of the reply, so that the
// stream did not stall.
func (s *Stream) Alive() {
	if s.request.Sampling.Stall <= 0 {
		return
	}
	if s.stall == nil {
		s.stall = time.AfterFunc(s.request.Sampling.Stall, func() { s.cancel(errStalled) })
		return
	}
	s.stall.Reset(s.request.Sampling.Stall)
}

// Quieter is a body whose connection wakes nobody for what comes, while it is on.
type Quieter interface{ Quiet(on bool) }

// Reads names the body that the pieces are read from, for Pause: its connection
// wakes nobody meanwhile, where the body is a Quieter, as those of plain HTTP/1.1 are.
func (s *Stream) Reads(body io.Reader) {
	if b, ok := body.(Quieter); ok {
		s.quiet = b.Quiet
	}
}

// The pauses between two reads of a stream, of which each is at most a part of
// the time that it has taken.
const (
	longestPause, shortestPause = 100 * time.Millisecond, 25 * time.Millisecond
	pausePart                   = 16
	fastStream                  = 32 << 10 // bytes a second, from which on a read brings many pieces anyway
)

// Pause waits, before a read, until some pieces have come together, where nobody
// looks at each; the read before brought so many bytes. To be
// woken for every token costs more than what is done with it.
// All streams wake at the same times. A reply is seen to end later for it by a 32nd
// of what it took, on average, or by 50 ms.
func (s *Stream) Pause(read int) {
	s.came += read
	if s.first == 0 || s.request.OnDelta != nil || s.until != nil {
		return
	}
	now := time.Now()
	if float64(s.came) > fastStream*now.Sub(s.since).Seconds() {
		return
	}
	most := now.Sub(s.began) / pausePart
	if stall := s.request.Sampling.Stall; stall > 0 {
		most = min(most, stall/pausePart)
	}
	tick := longestPause
	for tick > most {
		if tick /= 2; tick < shortestPause {
			return
		}
	}
	s.came, s.since = 0, now
	if s.quiet != nil {
		s.quiet(true)
		defer s.quiet(false)
	}
	d := tick - time.Duration(now.UnixNano()%int64(tick))
	if s.pause == nil {
		s.pause = time.NewTimer(d)
	} else {
		s.pause.Reset(d)
	}
	select {
	case <-s.pause.C:
	case <-s.ctx.Done():
	}
}

// Keep notes bytes of a reply that are kept beside its texts and tool calls. False:
// it is larger than MaxReply, or its call is over, and its context has ended.
func (s *Stream) Keep(n int) bool {
	if s.kept += n; s.kept > MaxReply {
		s.cancel(errLarge)
		return false
	}
	if s.stall != nil && s.share.short(n) { // to wait for other replies is not a stall
		s.stall.Stop()
		defer s.Alive()
	}
	return s.share.add(s.ctx, n) == nil
}

// TooLarge is the failure of a reply of more than so many bytes.
func TooLarge(endpoint string, status, most int) *Failure {
	return &Failure{Kind: Refused, Endpoint: endpoint, Status: status, Sent: true, Msg: fmt.Sprintf("the reply is larger than %d bytes", most), Hint: "set max_tokens"}
}

// Stalled returns the failure of a stream that stopped coming or did not stop, or
// nil. ctx is the one that NewStream returned.
func (s *Stream) Stalled(ctx context.Context, endpoint string) *Failure {
	if errors.Is(context.Cause(ctx), errLarge) {
		return TooLarge(endpoint, 200, MaxReply)
	}
	if !errors.Is(context.Cause(ctx), errStalled) {
		return nil
	}
	return &Failure{Kind: Timeout, Endpoint: endpoint, Sent: true, Msg: fmt.Sprintf("the reply stalled: nothing came for %v", s.request.Sampling.Stall)}
}

// Text adds to the text of a choice. False: the reply has ended, and nothing
// more need be read.
func (s *Stream) Text(choice int, text string) bool {
	if text == "" || s.ended {
		return !s.ended
	}
	d := s.piece(choice)
	if d.done || !s.Keep(len(text)) {
		return true
	}
	if d.sure {
		return s.say(choice, d, text)
	}
	thought, said, turned := d.think.add(text)
	if turned {
		d.reasoning.WriteString(d.text.String())
		d.text.Reset()
		d.near = false
		s.request.unmarked.learn(s.request, d.think.mark)
	}
	s.thought(choice, d, thought)
	return s.say(choice, d, said)
}

// say adds to what is certainly said.
func (s *Stream) say(choice int, d *draft, text string) bool {
	if text == "" || s.ended {
		return !s.ended
	}
	old := d.text.Len()
	d.text.WriteString(text)
	if at := s.match(d, old); at >= 0 {
		d.cut, d.done, d.finish = at, true, "stop"
		text = text[:max(0, at-old)]
	}
	if text != "" {
		s.emit(Delta{Choice: choice, Text: text})
	}
	s.ended = s.ended || len(s.drafts) >= s.request.Sampling.N && !slices.ContainsFunc(s.drafts, func(d *draft) bool { return !d.done })
	return !s.ended
}

// rest adds what was held back of a choice that has ended.
func (s *Stream) rest(choice int, d *draft) {
	if d.done {
		return
	}
	thought, said := d.think.end()
	s.thought(choice, d, thought)
	s.say(choice, d, said)
}

// match returns where the first match of until ends in d's text, or -1. There
// was none in its first old bytes.
func (s *Stream) match(d *draft, old int) int {
	if s.until == nil {
		return -1
	}
	text := d.text.String()
	d.near = d.near || strings.Contains(text[max(0, old-len(s.literal)):], s.literal)
	if !d.near {
		return -1 // so that a long reply is not searched again with each piece
	}
	if at := s.until.FindStringIndex(text); at != nil {
		return at[1]
	}
	return -1
}

// Reasoning adds to what the model thinks before its answer.
func (s *Stream) Reasoning(choice int, text string) bool {
	if text != "" && !s.ended {
		d := s.piece(choice)
		d.sure = true
		if s.Keep(len(text)) {
			s.thought(choice, d, text)
		}
	}
	return !s.ended
}

func (s *Stream) thought(choice int, d *draft, text string) {
	if text != "" && !s.ended {
		d.reasoning.WriteString(text)
		s.emit(Delta{Choice: choice, Reasoning: text})
	}
}

// ToolCall adds to the nth tool call of a choice: id and name where they are
// told, and a piece of the arguments.
func (s *Stream) ToolCall(choice, nth int, id, name, arguments string) {
	d := s.piece(choice)
	if nth < 0 || nth > 1<<10 || !s.Keep(len(id)+len(name)+len(arguments)) {
		return
	}
	for len(d.calls) <= nth {
		d.calls = append(d.calls, ToolCall{})
		d.arguments = append(d.arguments, new(strings.Builder))
	}
	if id != "" {
		d.calls[nth].ID = id
	}
	if name != "" {
		d.calls[nth].Name = name
	}
	d.arguments[nth].WriteString(arguments)
}

// Call is the nth tool call of a choice, as far as it came.
func (s *Stream) Call(choice, nth int) ToolCall {
	if choice >= len(s.drafts) || nth >= len(s.drafts[choice].calls) {
		return ToolCall{}
	}
	c := s.drafts[choice].calls[nth]
	c.Arguments = s.drafts[choice].arguments[nth].String()
	return c
}

// Finish says why a choice ended.
func (s *Stream) Finish(choice int, reason string) {
	d := s.draft(choice)
	s.rest(choice, d)
	if !d.done {
		d.finish = reason
	}
}

// First is how long the first piece took; 0 while there is none.
func (s *Stream) First() time.Duration { return s.first }

// Ended reports whether OnDelta or Until ended the reply.
func (s *Stream) Ended() bool { return s.ended }

// Tokens estimates what came, at 4 bytes a token: for a reply that was ended
// early, so that its service never said what it cost.
func (s *Stream) Tokens() int {
	n := 0
	for _, d := range s.drafts {
		n += d.text.Len() + d.reasoning.Len()
		for _, a := range d.arguments {
			n += a.Len()
		}
	}
	return (n + 3) / 4
}

// Choices returns what came. Those that Until ended, or OnDelta, finish with
// "stop".
func (s *Stream) Choices() []Choice {
	out := make([]Choice, len(s.drafts))
	for i, d := range s.drafts {
		s.rest(i, d)
		c := Choice{Text: d.text.String(), Reasoning: d.reasoning.String(), ToolCalls: d.calls, Finish: d.finish}
		if d.done {
			c.Text = c.Text[:d.cut]
		}
		if !d.sure {
			c.Reasoning = trimThought(c.Reasoning)
		}
		if d.think.guess && !d.sure && d.think.state == thinking && !brokenOff(s.request, d.finish) {
			c.Text, c.Reasoning = c.Reasoning, ""
		}
		if s.ended && c.Finish == "" {
			c.Finish = "stop"
		}
		if s.kept > MaxReply {
			c.Finish = endless
		}
		for k := range c.ToolCalls {
			c.ToolCalls[k].Arguments = d.arguments[k].String()
		}
		out[i] = c
	}
	return out
}

// piece notes that something came for a choice.
func (s *Stream) piece(choice int) *draft {
	if s.first == 0 {
		s.first = max(time.Since(s.began), 1)
	}
	s.Alive()
	return s.draft(choice)
}

func (s *Stream) draft(choice int) *draft {
	choice = max(0, min(choice, 1<<10))
	for len(s.drafts) <= choice {
		s.drafts = append(s.drafts, &draft{think: s.request.unmarked.begin(s.request)})
	}
	return s.drafts[choice]
}

func (s *Stream) emit(d Delta) {
	if s.request.OnDelta != nil && !s.request.OnDelta(d) {
		s.ended = true
	}
}
