package sandbox

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"time"

	"matrix/internal/child"
	"matrix/sandbox/inside"
)

const startMost = time.Minute // for a supervisor to say that it is there

// spawn starts a supervisor, or what starts one, and returns its box. after is called
// when it is gone, and removes what is around it.
func spawn(ctx context.Context, s *child.Spawner, cmd *exec.Cmd, after func()) (*box, error) {
	p, err := s.Start(cmd, child.Options{Contained: true})
	if err != nil {
		after()
		return nil, err
	}
	conn := inside.NewConn(pipe{p})
	gone := make(chan struct{})
	go func() {
		<-p.Gone()
		conn.Close()
		after()
		close(gone)
	}()
	kill := func() {
		conn.Close()
		p.Kill()
		<-gone
	}
	ready, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	if err := conn.Ready(ready); err != nil {
		kill()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errors.New(err.Error() + p.LastStderr()) // no *inside.LostError: nothing was lost yet
	}
	return &box{conn: conn, gone: gone, kill: kill}, nil
}

// pipe is what a process reads and writes.
type pipe struct{ p *child.Process }

func (c pipe) Read(b []byte) (int, error)  { return c.p.Out().Read(b) }
func (c pipe) Write(b []byte) (int, error) { return c.p.In.Write(b) }

func (c pipe) Close() error {
	err := c.p.In.Close()
	if out, ok := c.p.Out().(io.Closer); ok {
		out.Close()
	}
	return err
}
