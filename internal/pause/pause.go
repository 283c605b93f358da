// Package pause waits for a while, or for the end of a context.
package pause

import (
	"context"
	"time"
)

// For waits for d. Its error is that of ctx, where ctx ends before that, or has ended.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}
