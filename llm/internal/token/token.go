// Package token keeps an access token and renews it in time.
package token

import (
	"context"
	"strings"
	"sync/atomic"
	"time"
)

// Source returns an access token, and until when it may be used; the zero time
// where it does not end. refused is a token that the service did not take, and
// that is not to be given again; empty for none.
type Source func(ctx context.Context, refused string) (token string, until time.Time, err error)

// again is how long after a renewal that failed, of a token that still holds, the
// next one is tried.
const again = 5 * time.Second

// Keeper keeps a token. One call at a time renews it, for all.
type Keeper struct {
	source Source
	spare  time.Duration
	turn   chan struct{} // holds one while somebody renews
	kept   atomic.Pointer[kept]
}

type kept struct {
	token   string
	until   time.Time // zero: it does not end
	renew   time.Time // zero: never
	refused bool      // by the service
}

// New returns a source that caches the tokens of source, each renewed so long before its end.
func New(source Source, spare time.Duration) *Keeper {
	return &Keeper{source: source, spare: spare, turn: make(chan struct{}, 1)}
}

// Get returns a token that holds. Its error is that of the source, or ctx's.
func (k *Keeper) Get(ctx context.Context) (string, error) {
	if t := k.kept.Load(); t.fresh() {
		return t.token, nil
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	old := k.kept.Load()
	if old.fresh() { // somebody renewed it meanwhile
		return old.token, nil
	}
	refused := ""
	if old != nil && old.refused {
		refused = old.token
	}
	token, until, err := k.source(ctx, refused)
	if err != nil {
		if old == nil || old.refused || time.Until(old.until) <= 0 {
			return "", err
		}
		next := *old // it still holds
		next.renew = time.Now().Add(again)
		k.kept.CompareAndSwap(old, &next)
		return old.token, nil
	}
	next := &kept{token: token, until: until}
	if !until.IsZero() {
		next.renew = until.Add(-k.spare)
	}
	k.kept.Store(next)
	return token, nil
}

// fresh reports whether t is to be used as it is.
func (t *kept) fresh() bool {
	return t != nil && !t.refused && (t.renew.IsZero() || time.Now().Before(t.renew))
}

// Refused notes that the service did not take a token.
func (k *Keeper) Refused(token string) {
	if old := k.kept.Load(); old != nil && old.token == token && !old.refused {
		next := *old
		next.refused = true
		k.kept.CompareAndSwap(old, &next)
	}
}

// Hide takes the token out of a text.
func (k *Keeper) Hide(text string) string {
	if t := k.kept.Load(); t != nil && t.token != "" {
		return strings.ReplaceAll(text, t.token, "***")
	}
	return text
}
