package launch

import (
	"context"
	"errors"
)

// Fleet is the servers that this process keeps up.
type Fleet struct {
	Over <-chan struct{} // closed once none is left of some model, or all were told to end

	stop context.CancelFunc
	err  error // read it after Over
}

// Up starts the servers of g and returns when all are ready. Where ctx ends before,
// they are ended, too.
func Up(ctx context.Context, g *Group) (*Fleet, error) {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	over, ready := make(chan struct{}), make(chan struct{})
	f := &Fleet{Over: over, stop: stop}
	go func() {
		defer close(over)
		f.err = g.Run(own, func() { close(ready) })
	}()
	select {
	case <-ready:
		return f, nil
	case <-over:
		stop()
		if f.err == nil {
			return nil, errors.New("ended before all were ready: another process told them to")
		}
		return nil, f.err
	case <-ctx.Done():
		_ = f.End()
		return nil, ctx.Err()
	}
}

// End ends the servers, and returns what was wrong with them.
func (f *Fleet) End() error {
	f.stop()
	<-f.Over
	return f.err
}
