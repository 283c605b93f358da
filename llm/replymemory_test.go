package llm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// trickle is a body of so many bytes that comes a piece at a time.
type trickle struct {
	left int
	held *atomic.Int64 // bytes that were read, of all bodies
}

func (s *trickle) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, fmt.Errorf("the end")
	}
	time.Sleep(time.Millisecond)
	n := min(len(b), s.left, 64<<10)
	s.left -= n
	s.held.Add(int64(n))
	return n, nil
}

// However many large replies come at once, what is being read stays within the
// bound, all come to their end, and nothing new is sent meanwhile.
func TestReadingIsBounded(t *testing.T) {
	const calls, size, most = 60, 2 << 20, 8 << 20
	var held, sent, peak atomic.Int64
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		sent.Add(1)
		body := Counted(ctx, &trickle{size, &held})
		b := make([]byte, 64<<10)
		for {
			_, err := body.Read(b)
			for p := peak.Load(); held.Load() > p && !peak.CompareAndSwap(p, held.Load()); p = peak.Load() {
			}
			if err != nil {
				break
			}
		}
		return &Reply{Choices: []Choice{{Text: "x", Finish: "stop"}}}, ctx.Err()
	})
	virtual(t, Service{Concurrency: calls}, []Driver{driver}, func(t *testing.T, c *Client) {
		r := NewReplyMemory(most)
		c.Share(r)
		var wg sync.WaitGroup
		for i := range 2 * calls {
			wg.Go(func() {
				ctx, free := WithReplies(t.Context())
				for range 2 { // what it had is given back before it asks again
					if _, err := c.Do(ctx, question(fmt.Sprint(i))); err != nil {
						t.Error(err)
					}
					held.Add(-size)
				}
				time.Sleep(time.Millisecond)
				free()
			})
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if n := sent.Load(); n >= 2*calls {
			t.Errorf("%d calls were sent while there was no room to read their replies", n)
		}
		wg.Wait()
		if got, want := peak.Load(), int64(most+size+calls*(freeShare+64<<10)); got > want {
			t.Errorf("%d bytes at once, want %d at most", got, want)
		}
		if r.taken.Load() != 0 || len(r.shares) != 0 || len(r.queue) != 0 {
			t.Errorf("%d bytes are still taken, by %d", r.taken.Load(), len(r.shares))
		}
	})
}

// A reply that waits for room gives up with its call, and leaves the queue.
func TestReadingGivesUp(t *testing.T) {
	r := NewReplyMemory(1 << 20)
	first, second := &share{of: r}, &share{of: r}
	if err := first.add(t.Context(), 3<<20); err != nil { // more than there is: it is the first
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.add(ctx, 1<<20); err == nil {
		t.Error("got room that is not there")
	}
	if err := second.add(ctx, 1); err == nil {
		t.Error("got room after it had given up")
	}
	if len(r.queue) != 0 {
		t.Errorf("%d are still in the queue", len(r.queue))
	}
	second.free()
	if len(r.queue) != 0 || len(r.shares) != 1 || !r.tight() {
		t.Errorf("got %d in the queue and %d shares", len(r.queue), len(r.shares))
	}
	first.free()
	if r.tight() || r.taken.Load() != 0 {
		t.Errorf("%d bytes are still taken", r.taken.Load())
	}
}

// A stream whose call ends while it waits for room has lost a piece: it is no
// reply, even where the rest of it was there already.
func TestStreamThatGaveUpIsNoReply(t *testing.T) {
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		_, s, err := NewStream(ctx, r)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		s.Text(0, strings.Repeat("a", 3<<20))
		s.Text(0, "the end")
		s.Finish(0, "stop")
		return &Reply{Choices: s.Choices(), First: s.First()}, nil
	})
	virtual(t, Service{Sampling: Sampling{Stall: time.Second}, Timeout: time.Minute}, []Driver{driver}, func(t *testing.T, c *Client) {
		r := NewReplyMemory(4 << 20)
		c.Share(r)
		for _, ends := range []bool{true, false} {
			other := &share{of: r}
			if err := other.add(t.Context(), 2<<20); err != nil { // the call is sent, and does not fit beside it
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Second, func() {
				if ends {
					cancel()
				} else {
					other.free()
				}
			})
			rep, err := c.Do(ctx, question("x"))
			switch {
			case ends && !errors.Is(err, context.Canceled):
				t.Errorf("got %v, %v, want that the call was cancelled", rep, err)
			case !ends && (err != nil || len(rep.Choices[0].Text) != 3<<20+7 || rep.Retries > 0):
				t.Errorf("got %v, want the whole reply at the first try: to wait is not a stall", err)
			}
			other.free()
			cancel()
		}
		if len(r.shares) != 0 || len(r.queue) != 0 || r.taken.Load() != 0 {
			t.Errorf("%d shares and %d in the queue are left", len(r.shares), len(r.queue))
		}
	})
}
