package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// ErrNotRunning says that no process drives the run in a folder.
var ErrNotRunning = errors.New("no process is running there")

// ErrGone says that the process of a run went away without a word, as one does that
// is killed.
var ErrGone = errors.New("the process of the run has gone away without a last word: it was killed, or its machine was")

// Client asks the process that drives the run in a folder of this machine.
type Client struct {
	http http.Client
}

// Dial finds the process that drives the run in dir; ErrNotRunning where there is
// none. The caller closes the client.
func Dial(dir string) (*Client, error) {
	conn, err := dial(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) { // refused: what a process left that was killed
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	c := &Client{}
	c.http.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(dir) }}
	return c, nil
}

// Close closes the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://run"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the process of the run answers %s to %s: is it of another version?", resp.Status, path)
	}
	return resp, nil
}

// Status is how the run stands.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	resp, err := c.do(ctx, http.MethodGet, "/status")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	x := &Status{}
	if err := json.NewDecoder(resp.Body).Decode(x); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	return x, nil
}

// Stop asks the process to stop: nothing new is begun, and what is under way lands; with
// now it does not. It does not wait for that.
func (c *Client) Stop(ctx context.Context, now bool) error {
	path := "/stop"
	if now {
		path += "?now"
	}
	resp, err := c.do(ctx, http.MethodPost, path)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Watch calls f for each event until the last, which it returns: how the process
// stands every so often, and what happens. ErrGone says that it ended without one.
func (c *Client) Watch(ctx context.Context, every time.Duration, f func(Event)) (*End, error) {
	resp, err := c.do(ctx, http.MethodGet, "/watch?every="+every.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for from := json.NewDecoder(resp.Body); ; {
		var e Event
		switch err := from.Decode(&e); {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, ErrGone
		case err != nil:
			return nil, fmt.Errorf("%w (%w)", ErrGone, err)
		}
		if e.End != nil {
			return e.End, nil
		}
		f(e)
	}
}
