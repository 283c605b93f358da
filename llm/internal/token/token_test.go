package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// giver gives tokens t1, t2, ... for an hour each, unless it fails.
type giver struct {
	n       int
	err     error
	refused string
	forever bool
}

func (g *giver) give(ctx context.Context, refused string) (string, time.Time, error) {
	g.n++
	time.Sleep(time.Second)
	g.refused = refused
	switch {
	case g.err != nil:
		return "", time.Time{}, g.err
	case g.forever:
		return fmt.Sprintf("t%d", g.n), time.Time{}, ctx.Err()
	}
	return fmt.Sprintf("t%d", g.n), time.Now().Add(time.Hour), ctx.Err()
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &giver{}
		k := New(g.give, 5*time.Minute)
		want := func(step, token string, n int) {
			t.Helper()
			got, err := k.Get(t.Context())
			if err != nil || got != token || g.n != n {
				t.Errorf("%s: got %q, %v after %d tokens, want %q after %d", step, got, err, g.n, token, n)
			}
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if got, err := k.Get(t.Context()); got != "t1" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
		want("many at once", "t1", 1)
		time.Sleep(54 * time.Minute)
		want("while it holds", "t1", 1)
		time.Sleep(2 * time.Minute)
		want("about to end", "t2", 2)
		time.Sleep(56 * time.Minute)
		g.err = errors.New("no")
		want("it still holds", "t2", 3)
		want("not again at once", "t2", 3)
		time.Sleep(again)
		want("again", "t2", 4)
		time.Sleep(5 * time.Minute)
		if got, err := k.Get(t.Context()); !errors.Is(err, g.err) {
			t.Errorf("past its end: got %q, %v, want an error", got, err)
		}
		g.err = nil
		want("given again", "t6", 6)
		k.Refused("another")
		want("another was refused", "t6", 6)
		k.Refused("t6")
		want("refused", "t7", 7)
		if g.refused != "t6" {
			t.Errorf("the source was told of %q, want t6", g.refused)
		}
		if got := k.Hide("is t7 so"); got != "is *** so" {
			t.Errorf("hidden: got %q", got)
		}
	})
}

func TestWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &giver{forever: true}
		k := New(g.give, time.Minute)
		for range 3 {
			if got, err := k.Get(t.Context()); got != "t1" || err != nil {
				t.Errorf("got %q, %v, want t1", got, err)
			}
			time.Sleep(1000 * time.Hour)
		}
	})
}

// Who waits for a token that somebody else asks for can leave.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New((&giver{}).give, time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = k.Get(t.Context()) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if got, err := k.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %q, %v, want the context's error", got, err)
		}
		wg.Wait()
	})
}
