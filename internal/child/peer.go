package child

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
)

// Peer is a child that is asked many things at once: each question is a line of
// JSON with a number, and so is each answer, which carries the number back. Answers
// come in any order.
type Peer struct {
	p     *Process
	ended chan struct{} // closed when no answer comes any more
	err   error         // why; read it after ended

	mu      sync.Mutex // of the fields below
	seq     int64
	waiting map[int64]chan json.RawMessage

	write sync.Mutex // one line at a time
}

// EndedError says that a child gives no more answers: it has ended, or said what
// nobody asked it.
type EndedError struct {
	Err error
}

func (e *EndedError) Error() string { return e.Err.Error() }
func (e *EndedError) Unwrap() error { return e.Err }

// NewPeer takes over a process, whose lines it reads, and which it kills where
// that says what is not an answer. Close ends both.
func NewPeer(p *Process) *Peer {
	c := &Peer{p: p, ended: make(chan struct{}), waiting: map[int64]chan json.RawMessage{}}
	go c.read()
	return c
}

// Process is the child.
func (c *Peer) Process() *Process { return c.p }

// Ended is closed when the child gives no more answers.
func (c *Peer) Ended() <-chan struct{} { return c.ended }

// Ask writes a question, a JSON object without "seq", and returns the object that
// answers it. An *EndedError says that there will be none. The end of ctx ends the
// wait and nothing else: an answer that comes then is dropped.
func (c *Peer) Ask(ctx context.Context, question []byte) (json.RawMessage, error) {
	answer := make(chan json.RawMessage, 1)
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.waiting[seq] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, seq)
		c.mu.Unlock()
	}()
	line := strconv.AppendInt([]byte(`{"seq":`), seq, 10)
	if rest := bytes.TrimSpace(bytes.TrimSpace(question)[1:]); len(rest) > 1 {
		line = append(line, ',')
		line = append(line, rest...)
	} else {
		line = append(line, '}')
	}
	go func() { // a child that reads nothing holds up who asks it, and not for longer than ctx
		c.write.Lock()
		defer c.write.Unlock()
		_, _ = c.p.In.Write(append(line, '\n')) // where this fails, the child has ended, or will have
	}()
	select {
	case out := <-answer:
		return out, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ended:
	}
	select {
	case out := <-answer:
		return out, nil
	default:
		return nil, &EndedError{c.err}
	}
}

// read hands out the answers until there are no more.
func (c *Peer) read() {
	defer close(c.ended)
	for line := range c.p.Lines() {
		var head struct {
			Seq *int64 `json:"seq"`
		}
		text := bytes.TrimSpace(line.Text)
		if err := json.Unmarshal(text, &head); err != nil || len(text) == 0 || text[0] != '{' || head.Seq == nil {
			c.err = fmt.Errorf("printed %q, which is no JSON object with seq; print diagnostics to stderr%s", c.shown(text), c.p.LastStderr())
			c.p.Kill()
			return
		}
		c.mu.Lock()
		answer := c.waiting[*head.Seq]
		delete(c.waiting, *head.Seq)
		known := *head.Seq > 0 && *head.Seq <= c.seq
		c.mu.Unlock()
		if !known {
			c.err = fmt.Errorf("answered with seq %d, which nobody asked%s", *head.Seq, c.p.LastStderr())
			c.p.Kill()
			return
		}
		if answer != nil {
			answer <- text
		}
	}
	err := c.p.ExitError()
	c.p.Kill()
	c.err = fmt.Errorf("%w%s", err, c.p.LastStderr())
}

// shown is the beginning of what a child said, without secrets.
func (c *Peer) shown(text []byte) string {
	const most = 200
	s := c.p.tail.hide(string(text[:min(len(text), maxLogged)]))
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}

// Close ends the child: it sees the end of its stdin, and is killed where it has not
// ended a while later.
func (c *Peer) Close() {
	c.p.End()
	<-c.ended
}
