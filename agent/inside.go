package agent

import (
	"context"
	"errors"
	"io"

	"matrix"
	"matrix/sandbox"
)

type taskKey struct{}

// within is ctx for a pool of tools that may run programs in the sandboxes of t.
func within(ctx context.Context, t *matrix.Task) context.Context {
	return context.WithValue(ctx, taskKey{}, t)
}

// OpenIn runs a program in the sandbox of the task that a call of a pool of tools is of, and
// gives its stdin and stdout. It ends with the sandbox, and with Close.
func (s *Sandboxes) OpenIn(ctx context.Context, run []string, env map[string]string) (io.ReadWriteCloser, error) {
	t, ok := ctx.Value(taskKey{}).(*matrix.Task)
	if !ok {
		return nil, &matrix.StopError{Err: errors.New("a program in a sandbox of a task is asked for without a task")}
	}
	l, done, err := s.Lease(ctx, t, "")
	if err != nil {
		return nil, err
	}
	defer done()
	stream, err := l.Open(ctx, sandbox.Command{Args: run, Env: env})
	if err != nil {
		return nil, s.fate(err, false)
	}
	return stream, nil
}
