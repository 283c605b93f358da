package sandbox

import (
	"context"
	"sync/atomic"

	"matrix/sandbox/inside"
)

// A backend makes boxes. It is all that kinds of pools differ in.
type backend interface {
	// check reports whether boxes can be made here that keep what the config promises.
	// What cannot be kept and need not be is a warning.
	check(ctx context.Context) (warnings []string, err error)

	// start makes a box and returns when its supervisor is there. Errors: *ImageError
	// of what does not pass by itself, and any other.
	start(ctx context.Context, b boxSpec) (*box, error)

	// sweep removes what dead processes of this run left here, but for folders of
	// leases, and returns of how many boxes that was.
	sweep(ctx context.Context) (int, error)

	// layers reports whether boxes write what they change into a folder.
	layers() bool

	// close removes what the backend has of its own. No box lives.
	close() error
}

// boxSpec says what a box is made of.
type boxSpec struct {
	name   string
	spec   Spec
	layers []string // folders in one folder of what was changed, the oldest first: the last is written to. Nil: it is not kept
	work   string   // an empty folder on the same file system, where layers are given
}

// A box is a supervisor and all that is around it.
type box struct {
	conn *inside.Conn
	gone <-chan struct{} // closed when nothing of it is left
	kill func()          // ends it, and returns when it is gone
	oom  func() bool     // whether memory ran out since it was asked last; nil: nobody knows
	end  atomic.Bool     // it was asked to end
}

func (b *box) alive() bool {
	if b == nil {
		return false
	}
	select {
	case <-b.gone:
		return false
	case <-b.conn.Lost():
		return false
	default:
		return true
	}
}
