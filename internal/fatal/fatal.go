// Package fatal has a store of Pebble's that fails end what waits for it, and not the
// process.
package fatal

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Guard is the Logger of a store: it hears what Pebble would end the process for, and
// ends that goroutine, since Pebble does not expect Fatalf to return. Who uses the store
// does so by Do.
type Guard struct {
	once   sync.Once
	failed chan struct{}
	err    error // set before failed is closed
}

var _ pebble.Logger = (*Guard)(nil)

// New makes the Guard of one store.
func New() *Guard { return &Guard{failed: make(chan struct{})} }

// Do calls f, which may use the store, and returns what it returns. Once the store has
// failed it returns why, and f is not called, or left to itself: a store that has failed
// gives nothing back, and cannot be closed.
func (g *Guard) Do(f func() error) error {
	if err := g.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-g.failed:
		return g.Err()
	}
}

// Err says why the store has failed; nil where it has not.
func (g *Guard) Err() error {
	select {
	case <-g.failed:
		return g.err
	default:
		return nil
	}
}

// Infof implements pebble.Logger.
func (*Guard) Infof(string, ...any) {}

// Errorf implements pebble.Logger.
func (*Guard) Errorf(string, ...any) {}

// Fatalf implements pebble.Logger. It does not return.
func (g *Guard) Fatalf(format string, args ...any) {
	g.once.Do(func() {
		g.err = errors.New("the store has failed: " + fmt.Sprintf(format, args...))
		for _, a := range args {
			if err, ok := a.(error); ok {
				g.err = fmt.Errorf("the store has failed: %w", err)
			}
		}
		close(g.failed)
	})
	runtime.Goexit()
}
