package stopping_test

import (
	"context"
	"errors"
	"testing"

	"matrix/internal/stopping"
)

func TestWait(t *testing.T) {
	type mine struct{}
	errStop, errLate := errors.New("stop"), errors.New("late")
	for _, c := range []struct {
		name string
		ctx  func(base context.Context) (context.Context, context.CancelCauseFunc)
		stop error // of stopping
		late error // of the ctx that waits
		want error // the end of the waiting; nil: it goes on
	}{
		{"as it was made", nil, nil, nil, nil},
		{"stopping", nil, errStop, nil, errStop},
		{"with a value, stopping", withValue, errStop, nil, errStop},
		{"derived", context.WithCancelCause, nil, nil, nil},
		{"derived, stopping", context.WithCancelCause, errStop, nil, errStop},
		{"derived, and that one ends", context.WithCancelCause, nil, errLate, errLate},
	} {
		soft, stop := context.WithCancelCause(t.Context())
		ctx, end := stopping.With(t.Context(), soft), context.CancelCauseFunc(nil)
		if c.ctx != nil {
			ctx, end = c.ctx(ctx)
		}
		waiting, free := stopping.Wait(ctx)
		if c.stop != nil {
			stop(c.stop)
		}
		if c.late != nil {
			end(c.late)
		}
		if c.want != nil {
			<-waiting.Done()
		}
		if got := context.Cause(waiting); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		free()
		stop(nil)
		if end != nil {
			end(nil)
		}
	}
	ctx := context.WithValue(t.Context(), mine{}, 1)
	if waiting, free := stopping.Wait(ctx); waiting != ctx || stopping.Of(ctx) != ctx {
		t.Errorf("without stopping: got %v, want the ctx itself", waiting)
	} else {
		free()
	}
}

// withValue is a ctx that ends as ctx does.
func withValue(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	type key struct{}
	return context.WithValue(ctx, key{}, 1), func(error) {}
}
