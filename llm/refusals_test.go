package llm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"matrix/internal/stopping"
)

// fates makes calls at once, so many at a time, and counts what became of them.
func fates(t *testing.T, c *Client, calls, atOnce int) (done, failed, fatal int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				_, err := c.Do(t.Context(), question(fmt.Sprint(i)))
				var e *Error
				mu.Lock()
				switch {
				case err == nil:
					done++
				case errors.As(err, &e) && e.Kind == Fatal:
					fatal++
				case errors.As(err, &e) && e.Kind == Refused:
					failed++
				default:
					t.Errorf("call %d: got %v", i, err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range calls {
		next <- i
	}
	close(next)
	wg.Wait()
	return done, failed, fatal
}

// Where credit ends, each call that met it ends as one of a model that stops,
// however many are asked at once and are left. Where the service goes on to
// answer, what it refuses fails alone.
func TestWhoIsAtFault(t *testing.T) {
	no := func(status int) *Failure {
		return &Failure{Kind: Refused, Endpoint: "http://x", Status: status, Code: "invalid_request_error", Msg: "no", Sent: true}
	}
	bad := func(r *Request, words ...string) bool {
		for _, w := range words {
			if r.Messages[0].Content == w {
				return true
			}
		}
		return false
	}
	for _, x := range []struct {
		name                string
		status              int
		credit              int      // calls that are answered before it ends; -1 for no end
		bad                 []string // refused in any case
		calls, atOnce       int
		done, failed, fatal int
	}{
		{"credit ends, many at once", 400, 150, nil, 600, 300, 150, 0, 450},
		{"credit ends, few at once", 400, 150, nil, 200, 8, 150, 0, 50},
		{"credit ends, one at a time", 400, 5, nil, 12, 1, 5, 0, 7},
		{"credit ends with the last call", 400, 5, nil, 6, 1, 5, 0, 1},
		{"no credit from the beginning", 400, 0, nil, 50, 50, 0, 0, 50},
		{"one prompt is blocked", 403, -1, []string{"7"}, 40, 4, 39, 1, 0},
		{"the first prompts are blocked", 403, -1, []string{"0", "1", "2"}, 40, 4, 37, 3, 0},
		{"the last prompt is blocked", 403, -1, []string{"39"}, 40, 4, 39, 1, 0},
		{"nothing but one blocked prompt", 403, -1, []string{"0"}, 1, 1, 0, 1, 0},
		{"a key that may do nothing", 403, 0, nil, 5, 5, 0, 0, 5},
		{"a bad row in a run of one at a time", 400, -1, []string{"3", "4"}, 10, 1, 8, 2, 0},
	} {
		answered := 0
		var mu sync.Mutex
		driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
			mu.Lock()
			ok := !bad(r, x.bad...) && (x.credit < 0 || answered < x.credit)
			if ok {
				answered++
			}
			mu.Unlock()
			if !ok {
				return nil, no(x.status)
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 9}}}, nil
		})
		virtual(t, Service{Refusals: 100}, []Driver{driver}, func(t *testing.T, c *Client) {
			done, failed, fatal := fates(t, c, x.calls, x.atOnce)
			if done != x.done || failed != x.failed || fatal != x.fatal {
				t.Errorf("%s: %d done, %d failed, %d stopped, want %d, %d, %d", x.name, done, failed, fatal, x.done, x.failed, x.fatal)
			}
		})
	}
}

// A refusal that is held gives up at once where the run is to stop.
func TestHeldGivesUp(t *testing.T) {
	driver := script(func(context.Context, *Request) (*Reply, error) {
		return nil, &Failure{Kind: Refused, Endpoint: "http://x", Status: 400, Msg: "no"}
	})
	virtual(t, Service{Refusals: 100}, []Driver{driver}, func(t *testing.T, c *Client) {
		soft, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { stop(errors.New("enough")) })
		_, err := c.Do(stopping.With(t.Context(), soft), question("x"))
		var e *Error
		if err == nil || errors.As(err, &e) || !strings.Contains(err.Error(), "enough") {
			t.Errorf("got %v, want the cause, and no verdict", err)
		}
	})
}

// Where the call that asks on behalf of the others gives up, they are judged all
// the same.
func TestHeldByOneThatGaveUp(t *testing.T) {
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		switch {
		case strings.HasSuffix(r.Key, "-again"):
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case r.Messages[0].Content != "good":
			return nil, &Failure{Kind: Refused, Endpoint: "http://x", Status: 400, Msg: "no", Sent: true}
		}
		return &Reply{Choices: []Choice{{Text: "x"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 9}}}, nil
	})
	virtual(t, Service{Refusals: 100}, []Driver{driver}, func(t *testing.T, c *Client) {
		if _, err := c.Do(t.Context(), question("good")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // while the good call is made again
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Do(ctx, question("first")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want that it has given up", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			within, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var e *Error
			if _, err := c.Do(within, question("second")); !errors.As(err, &e) || e.Kind != Refused {
				t.Errorf("got %v, want that it was refused", err)
			} else if e.Usage == nil || e.Usage.PromptTokens != 9 {
				t.Errorf("got the usage %+v, want that of the good call, which was made again for it", e.Usage)
			}
		})
		wg.Wait()
	})
}

// Of several endpoints one that forbids is at fault, not the request.
func TestForbiddenElsewhere(t *testing.T) {
	forbids := script(func(context.Context, *Request) (*Reply, error) {
		return nil, &Failure{Kind: Refused, Endpoint: "http://x0", Status: 403, Msg: "no"}
	})
	virtual(t, Service{Refusals: 100}, []Driver{forbids, &server{}}, func(t *testing.T, c *Client) {
		storm(t, c, 20, 3)
	})
}

// Where all of several endpoints forbid what is asked, and have answered nothing
// yet, it may be the request that is at fault.
func TestForbiddenEverywhere(t *testing.T) {
	for _, x := range []struct {
		name                string
		bad                 string // rows that are blocked; "" for all
		calls, atOnce       int
		done, failed, fatal int
	}{
		{"the first prompt is blocked", "0", 20, 1, 19, 1, 0},
		{"the first prompts are blocked", "012", 20, 4, 17, 3, 0},
		{"a key that may do nothing", "", 8, 8, 0, 0, 8},
	} {
		driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
			if x.bad == "" || len(r.Messages[0].Content) == 1 && strings.Contains(x.bad, r.Messages[0].Content) {
				return nil, &Failure{Kind: Refused, Endpoint: "http://x", Status: 403, Msg: "no"}
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return &Reply{Choices: []Choice{{Text: "x"}}}, nil
		})
		virtual(t, Service{Refusals: 100}, []Driver{driver, driver}, func(t *testing.T, c *Client) {
			done, failed, fatal := fates(t, c, x.calls, x.atOnce)
			if done != x.done || failed != x.failed || fatal != x.fatal {
				t.Errorf("%s: %d done, %d failed, %d stopped, want %d, %d, %d", x.name, done, failed, fatal, x.done, x.failed, x.fatal)
			}
		})
	}
}
