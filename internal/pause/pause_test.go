package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		if err := For(ctx, 2*time.Second); err != nil || time.Since(begun) != 2*time.Second {
			t.Errorf("got %v after %v, want no error after 2 s", err, time.Since(begun))
		}
		if err := For(ctx, 2*time.Second); err != context.DeadlineExceeded || time.Since(begun) != 3*time.Second {
			t.Errorf("got %v after %v, want that the context ended after 3 s", err, time.Since(begun))
		}
		if err := For(ctx, 0); err != context.DeadlineExceeded {
			t.Errorf("got %v of a context that had ended", err)
		}
	})
}
