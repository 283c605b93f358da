// Package stopping tells what waits that it is to give up, before what is under way
// must end. It is one meaning for packages that may not import each other: a task's
// step and a model's call.
package stopping

import "context"

type key struct{}

// told is what With has put into a ctx.
type told struct {
	done     <-chan struct{} // of that ctx
	stopping context.Context
}

// With makes a ctx of which stopping tells when to give up. stopping must end when
// ctx does.
func With(ctx, stopping context.Context) context.Context {
	return context.WithValue(ctx, key{}, told{ctx.Done(), stopping})
}

// Of is the context that ends when what waits with ctx is to give up: ctx itself
// where With made none. It may outlive a ctx that was derived after With.
func Of(ctx context.Context) context.Context {
	if t, ok := ctx.Value(key{}).(told); ok {
		return t.stopping
	}
	return ctx
}

// Wait is Of, and ends with ctx in any case, for the same cause. free is called when
// the waiting is over.
func Wait(ctx context.Context) (_ context.Context, free func()) {
	t, ok := ctx.Value(key{}).(told)
	switch {
	case !ok:
		return ctx, func() {}
	case t.done == ctx.Done(): // ctx is no shorter than the one that With was told of
		return t.stopping, func() {}
	}
	waiting, cancel := context.WithCancelCause(t.stopping)
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return waiting, func() {
		stop()
		cancel(nil)
	}
}
