package llm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// refusals judge what a service refuses: the request may be at fault, or the
// account (credit that has ended is told by a 400 as well as by a 402), the key,
// or a parameter that all requests have. Nothing in the answer says which, so a
// refusal is held until the service shows it:
//
//   - it answers a call that was sent later: what was refused is at fault;
//   - it has refused as many calls in a row as Refusals says: the service is, and
//     all of them are Fatal;
//   - nothing else is asked of it: a request that it has answered before is sent
//     once more, which settles it. Where there is none, several at once are the
//     service's, and few the requests'.
type refusals struct {
	mu    sync.Mutex
	inRow int // refused since the last call that was answered was sent
	held  []*heldRefusal
	good  *Request // answered before: the cheapest; nil for none
	cost  int      // of it, in tokens
}

// heldRefusal is a refusal that waits for its verdict.
type heldRefusal struct {
	at      time.Time
	failure *Failure
	verdict chan *Failure // has room for one
}

const (
	still = 200 * time.Millisecond // for which nothing is asked of a model, twice, before its refusals are judged without

	// So many refusals, while nothing else is asked of a service that has
	// answered nothing yet, are its own: fewer where it says that it forbids.
	severalRefused, severalForbidden = 10, 2
)

// refused is the failure that ends a call which the service has refused. An error
// is the cause of ctx's end.
func (c *Client) refused(ctx context.Context, f *Failure) (*Failure, error) {
	r := &c.refusals
	if f.Kind != Refused {
		return f, nil
	}
	r.mu.Lock()
	if f.Status/100 == 2 || slices.Contains(contentCodes, f.Code) { // it has read the request, and will not answer this one
		r.inRow = len(r.held)
		r.mu.Unlock()
		return f, nil
	}
	r.inRow++
	limit := c.service.Refusals
	if limit > 0 && r.inRow >= limit {
		n := r.inRow
		r.release(func(h *heldRefusal) *Failure { return overall(h.failure, n) })
		r.mu.Unlock()
		return overall(f, n), nil
	}
	if limit == 0 || f.Status == 0 && !f.Sent { // or nothing was asked of it
		r.mu.Unlock()
		return f, nil
	}
	h := &heldRefusal{time.Now(), f, make(chan *Failure, 1)}
	r.held = append(r.held, h)
	r.mu.Unlock()
	return c.hold(ctx, h)
}

// hold waits for the verdict on h.
func (c *Client) hold(ctx context.Context, h *heldRefusal) (*Failure, error) {
	r := &c.refusals
	defer r.drop(h)
	t := time.NewTicker(still)
	defer t.Stop()
	calm, before := false, -1
	var spent *Usage // on the call that was made again
	for {
		select {
		case f := <-h.verdict:
			if spent != nil {
				g := *f
				g.Usage, f = spent, &g
				if h.failure.Usage != nil {
					spent.add(*h.failure.Usage)
				}
			}
			return f, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-t.C:
		}
		busy, arrivals := c.scheduler.activity()
		was := calm && arrivals == before
		calm, before = !busy, arrivals
		if !calm || !was {
			continue
		}
		r.mu.Lock()
		first := len(r.held) > 0 && r.held[0] == h
		r.mu.Unlock()
		if first {
			used, err := c.judge(ctx)
			if err != nil {
				return nil, err
			}
			if used != nil {
				spent = used
			}
		}
	}
}

// drop forgets h, for whom nobody waits any more.
func (r *refusals) drop(h *heldRefusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = slices.DeleteFunc(r.held, func(x *heldRefusal) bool { return x == h })
}

// judge decides on all that are held, since nothing else will. It returns what a
// call cost that was made for it, which the task of whoever asks pays.
func (c *Client) judge(ctx context.Context) (*Usage, error) {
	r := &c.refusals
	r.mu.Lock()
	good, n, upTo := r.good, r.inRow, time.Now()
	if good == nil {
		several := severalRefused
		if slices.ContainsFunc(r.held, func(h *heldRefusal) bool { return h.failure.Status == http.StatusForbidden }) {
			several = severalForbidden
		}
		all := len(r.held) >= several
		r.release(func(h *heldRefusal) *Failure {
			if all {
				return overall(h.failure, n)
			}
			return h.failure
		})
	}
	r.mu.Unlock()
	if good == nil {
		return nil, nil
	}
	used, err := c.repeat(ctx, good)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var e *Error
	all := errors.As(err, &e) && (e.Kind == Refused || e.Kind == Fatal)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(func(h *heldRefusal) *Failure {
		switch {
		case all:
			return overall(h.failure, n)
		case h.at.After(upTo):
			return nil
		}
		return h.failure
	})
	return used, nil
}

// repeat makes a call once more that was answered before. Nobody gets the reply;
// what it cost is returned.
func (c *Client) repeat(ctx context.Context, r *Request) (*Usage, error) {
	req := *r
	req.Key += "-again"
	worst, err := c.worst(&req)
	if err != nil {
		return nil, err
	}
	call := c.call(&req, worst)
	call.again = true
	for {
		rep, err := call.try(ctx)
		if err != nil {
			return nil, err
		}
		if rep != nil {
			c.count.Add(rep)
			return &rep.Usage, nil
		}
	}
}

// answered notes that the service has answered r, which was sent at a time.
func (c *Client) answered(r *Request, rep *Reply, sent time.Time) {
	s := &c.refusals
	cost := rep.Usage.PromptTokens + rep.Usage.CompletionTokens
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good == nil || cost < s.cost {
		good := *r
		good.Messages, good.OnDelta, good.Ask.Item = slices.Clone(r.Messages), nil, nil
		s.good, s.cost = &good, cost
	}
	if s.inRow > 0 {
		s.release(func(h *heldRefusal) *Failure {
			if h.at.Before(sent) {
				return h.failure
			}
			return nil
		})
		s.inRow = len(s.held)
	}
}

// release ends the holding of those for which there is a verdict. The lock is
// held.
func (r *refusals) release(verdict func(h *heldRefusal) *Failure) {
	r.held = slices.DeleteFunc(r.held, func(h *heldRefusal) bool {
		f := verdict(h)
		if f != nil {
			h.verdict <- f
		}
		return f != nil
	})
}

// overall is f where the service refuses whatever it is asked: the n calls before.
func overall(f *Failure, n int) *Failure {
	g := *f
	g.Kind = Fatal
	g.Hint = fmt.Sprintf("%d calls in a row were refused and none was answered: check the account, the model and what the calls ask for; if it is the rows, set refusals higher, or to 0 for never", n)
	if f.Hint != "" {
		g.Hint = f.Hint + "; " + g.Hint
	}
	return &g
}
