package llm

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ended is the error of a call whose waiting ended.
func (k *call) ended(cause error) error {
	if k.last != nil {
		return fmt.Errorf("model %q: %w; before that, %d tries failed, the last one with: %w", k.c.name, cause, k.tries, k.last)
	}
	return fmt.Errorf("model %q: %w", k.c.name, cause)
}

// verdict makes the error of a call that nothing will come of.
func (k *call) verdict(ctx context.Context, f *Failure) *Error {
	e := &Error{
		Kind: f.Kind, Model: k.c.name, Endpoint: f.Endpoint, Status: f.Status, Code: f.Code, Msg: f.Msg, Hint: f.Hint,
		Params: f.Params, Usage: f.Usage, Retries: k.tries, Wait: k.wait, Retry: k.lost,
	}
	if !f.Kind.final() {
		e.Kind, e.Hint = Transient, fmt.Sprintf("given up after %d tries", k.tries+1)
	}
	if f.Status == http.StatusNotFound && f.Kind == Fatal && ctx.Err() == nil {
		if names := k.c.served(ctx); len(names) > 0 {
			e.Hint = fmt.Sprintf("check model; the server has %s", strings.Join(names, ", "))
		}
	}
	return e
}

// naming is what the endpoints were found to serve, for hints.
type naming struct {
	turn  chan struct{} // holds one while somebody asks
	asked time.Time
	names []string
}

// served asks which models there are: some of them, for a hint. All calls may
// want it at once, and one of them asks.
func (c *Client) served(ctx context.Context) []string {
	n := &c.naming
	select {
	case n.turn <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-n.turn }()
	if time.Since(n.asked) < 10*time.Second {
		return n.names
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n.names = nil
	for _, r := range c.Probe(ctx) {
		for _, s := range r.Served {
			if name := Shorten(s.Name, 80); !slices.Contains(n.names, name) && len(n.names) < 12 {
				n.names = append(n.names, name)
			}
		}
	}
	n.asked = time.Now()
	return n.names
}
