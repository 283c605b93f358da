package standing

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"matrix/cluster/natsnet"
	"matrix/internal/bundle"
	"matrix/internal/monitor"
	"matrix/internal/packed"
	"matrix/session"
	"matrix/spec"
)

// Client asks a standing head.
type Client struct {
	id, version string
	net         *natsnet.Net

	mu   sync.Mutex
	told func(monitor.Event) // of a connection that breaks, while somebody watches
}

// Dial connects to the head of a line for clients. The caller closes the client.
func Dial(ctx context.Context, line natsnet.Join, version string) (*Client, error) {
	c := &Client{id: natsnet.NewID("client"), version: version}
	away := false
	var err error
	c.net, err = natsnet.Dial(ctx, line, c.id, func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		line := "The head is there again."
		if err != nil {
			line = fmt.Sprintf("The head cannot be reached (%v); trying on.", err)
		}
		if c.told != nil && away != (err != nil) {
			c.told(monitor.Event{Line: line})
		}
		away = err != nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { c.net.Close() }

// RefusedError is what a head says to what it does not do.
type RefusedError struct{ Msg string }

func (e *RefusedError) Error() string { return e.Msg }

// ask asks until there is an answer, or ctx ends.
func (c *Client) ask(ctx context.Context, q question) (*answer, error) {
	q.Version = c.version
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	b, err := c.net.Request(ctx, clientAddress, body)
	if err != nil {
		return nil, err
	}
	a := &answer{}
	switch err := packed.Read(b, a); {
	case err != nil:
		return nil, fmt.Errorf("the head's answer cannot be read: %w", err)
	case a.Version != c.version:
		return nil, fmt.Errorf("this is matrix %s, and the head is matrix %s: have the same on both", c.version, a.Version)
	case a.Refused != "" && a.Usage:
		return nil, &spec.UsageError{Err: &RefusedError{a.Refused}}
	case a.Refused != "":
		return nil, &RefusedError{a.Refused}
	}
	return a, nil
}

// Submit gives a run to the head, with the files that it needs, and returns what
// became of that in words. What the head refuses is a RefusedError.
func (c *Client) Submit(ctx context.Context, s Submission, b *bundle.Bundle) (says string, err error) {
	stop, err := b.Serve(asHead{c.net, "f." + c.id})
	if err != nil {
		return "", err
	}
	defer stop()
	q := question{Ask: "submit", Run: s.Name, Client: c.id, Key: natsnet.NewToken(), Submission: &s}
	for {
		a, err := c.ask(ctx, q)
		if err != nil {
			return "", err
		}
		if !a.Again {
			return a.Says, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// asHead has what asks at a bundle's address ask at another one.
type asHead struct {
	*natsnet.Net
	address string
}

func (a asHead) Answer(_ string, f func([]byte) []byte) (func(), error) {
	return a.Net.Answer(a.address, f)
}

func (a asHead) Request(ctx context.Context, _ string, body []byte) ([]byte, error) {
	return a.Net.Request(ctx, a.address, body)
}

// Runs are all runs of the head, by name, and the workers that are there.
func (c *Client) Runs(ctx context.Context) ([]Info, []session.WorkerState, error) {
	a, err := c.ask(ctx, question{Ask: "runs"})
	if err != nil {
		return nil, nil, err
	}
	return a.Runs, a.Workers, nil
}

// Stop has a run stop, so that its command goes on later; with now, without waiting for what is
// under way. It does not wait for that.
func (c *Client) Stop(ctx context.Context, name string, now bool) error {
	_, err := c.ask(ctx, question{Ask: "stop", Run: name, Now: now})
	return err
}

// Cancel ends a run for good: what is finished stays.
func (c *Client) Cancel(ctx context.Context, name string) error {
	_, err := c.ask(ctx, question{Ask: "cancel", Run: name})
	return err
}

// Logs are the last lines that the process of a run, or a worker, has said: as many as asked for, and
// as an answer holds.
func (c *Client) Logs(ctx context.Context, name string, lines int) ([]string, error) {
	a, err := c.ask(ctx, question{Ask: "logs", Run: name, Lines: lines})
	if err != nil {
		return nil, err
	}
	return a.Lines, nil
}

// Watch calls f for how a run stands, every so often, and for what happens, until it
// has ended, and returns how. While the head is away it waits for it.
func (c *Client) Watch(ctx context.Context, every time.Duration, name string, f func(monitor.Event)) (*monitor.End, error) {
	var mu sync.Mutex
	c.tell(func(e monitor.Event) {
		mu.Lock()
		defer mu.Unlock()
		f(e)
	})
	defer c.tell(nil)
	q := question{Ask: "watch", Run: name}
	tick := time.NewTicker(max(every, 200*time.Millisecond))
	defer tick.Stop()
	for {
		a, err := c.ask(ctx, q)
		if err != nil {
			return nil, cmp.Or(ctx.Err(), err)
		}
		mu.Lock()
		for _, line := range a.Lines {
			f(monitor.Event{Line: line})
		}
		if a.Status != nil {
			f(monitor.Event{Status: a.Status})
		}
		mu.Unlock()
		if a.End != nil {
			return a.End, nil
		}
		q.After = a.Next
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// tell has somebody be told of the connection; nil ends that.
func (c *Client) tell(f func(monitor.Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = f
}
