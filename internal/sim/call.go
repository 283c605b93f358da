package sim

import (
	"context"
	"time"
)

// running is a call at work.
type running struct {
	e     *Engine
	job   job
	ds    []draft
	key   string
	p     prefix // behind the prompt
	since time.Time

	settled bool
}

// wait waits until the reply is whole. An error is that ctx ended, or errDown.
func (r *running) wait(ctx context.Context) error {
	return r.follow(ctx, func(int, bool) bool { return true })
}

// follow calls f with the tokens of each choice that are there, whenever there are
// more, until the reply is whole, or f returns false. An error is that ctx ended, or
// errDown.
func (r *running) follow(ctx context.Context, f func(tokens int, done bool) bool) error {
	for {
		done := r.job.done.Load()
		if r.job.lost.Load() {
			r.e.cut.Add(1)
			return errDown
		}
		if done {
			r.settle()
		}
		if !f(int(r.job.progress.Load()), done) || done {
			return nil
		}
		select {
		case <-r.job.woken:
		case <-ctx.Done():
			r.abandon()
			return ctx.Err()
		}
	}
}

// abandon ends a call that nobody waits for any more: its client has left, or
// its connection was cut as the engine went down.
func (r *running) abandon() {
	r.e.work.cancel(&r.job)
	switch {
	case r.job.done.Load():
		r.settle()
	case r.e.down.Load() || r.job.lost.Load():
		r.e.cut.Add(1)
	default:
		r.e.givenUp.Add(1)
	}
}

// settle writes the texts, and the books, once.
func (r *running) settle() {
	if r.settled {
		return
	}
	r.settled = true
	r.e.done.Add(1)
	r.e.of.ledger.finished(r.key)
	for i := range r.ds {
		d := &r.ds[i]
		d.write()
		r.e.tokens.Add(int64(d.tokens))
		if r.p.keep {
			p := r.p
			p.text(d.text)
			p.close()
			r.e.work.remember(&r.job, p.blocks)
		}
	}
}

// slowed waits for as long as a slow fault adds.
func (r *running) slowed(ctx context.Context, f *Fault) error {
	if f == nil || f.Kind != Slow || f.Factor <= 1 {
		return nil
	}
	t := time.NewTimer(time.Duration(float64(time.Since(r.since)) * (f.Factor - 1)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usage is what the reply costs.
func (r *running) usage() (prompt, completion, cached int) {
	for i := range r.ds {
		completion += r.ds[i].tokens
	}
	return r.job.prompt, completion, r.job.cached
}

type errorText string

func (e errorText) Error() string { return string(e) }

// errDown is that the engine went down.
const errDown errorText = "the simulated server is down"

// read reads the prompt of a, and returns a hash of what it says.
func (p *prefix) read(a *ask) uint64 {
	h := uint64(17)
	if !a.chat {
		p.text(a.prompt)
		h = blend(h, hashOf(a.prompt))
		p.least()
		return h
	}
	if a.about != "" {
		p.open("tools")
		p.text(a.about)
		p.close()
		h = blend(h, hashOf(a.about))
	}
	for i := range a.messages {
		m := &a.messages[i]
		p.open(m.Role)
		p.text(m.Content)
		h = blend(blend(h, hashOf(m.Role)), hashOf(m.Content))
		for _, c := range m.ToolCalls {
			p.text(c.Name)
			p.text(c.Arguments)
			h = blend(h, hashOf(c.Arguments))
		}
		for range m.Images { // about what a picture of 512 by 512 costs
			for t := range uint64(256) {
				p.token(t)
			}
		}
		p.close()
	}
	p.open("assistant")
	return h
}

// least makes the prompt at least one token long.
func (p *prefix) least() {
	if p.tokens == 0 {
		p.token(0)
	}
}
