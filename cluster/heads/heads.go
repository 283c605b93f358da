// Package heads makes the processes of a run that any of them may lead: one has the
// lease and owns all shards, the others stand by. What it commits stands in streams of
// NATS JetStream: on servers in these processes, or on those of somebody else. Who
// takes over reads it from there.
//
// A lease keeps two from leading at once most of the time, and not always: a process
// that was stopped and woken believes in its own for a moment. What such a one commits
// is refused by the log, whose writer is who opened it last.
package heads

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/cluster/natsnet"
)

// Options of Open. Secrets, Store, and either Peers or NATS must be set.
type Options struct {
	Secrets *natsnet.Secrets
	Name    string // of this head, which no other has; with Peers it is its address among them
	Store   string // a folder on a disk of this machine: what servers keep, and the leader's view of its shards

	// Of servers in the processes of the heads: where this one listens, and where all
	// of them, this one among them, are found by others and by workers.
	Host      string   // empty for all addresses of this machine
	Port      int      // heads talk with each other at the one behind it
	Peers     []string // HOST:PORT, or HOST where the port is the same
	Advertise []string // HOST or HOST:PORT by which this one is found among Peers, where its addresses do not tell

	NATS string // URL of the servers of somebody else
}

// Heads is this process as one of the heads of a run.
type Heads struct {
	o        Options
	server   *natsnet.Server // nil with NATS
	nc       *nats.Conn
	replicas int
	weak     []string
	denied   chan error // by the servers of somebody else

	present sync.WaitGroup
	leave   context.CancelFunc

	mu    sync.Mutex
	self  Head
	heard map[string]Head // by name
}

// Head is one of the heads of a run, as it tells of itself.
type Head struct {
	Name  string  `json:"name"`
	Host  string  `json:"host"`
	PID   int     `json:"pid"`
	State string  `json:"state"`
	For   float64 `json:"for"`            // seconds in this state
	Away  string  `json:"away,omitempty"` // it cannot be reached, and why; then nothing but its name is known

	since time.Time // in this state, of this head; of another one when it was heard of last
}

// States of a head.
const (
	Leading = "leading"
	Standby = "standby"
	Leaving = "leaving" // it knows that the run has ended
)

// StoreError says what is wrong with the folder of this head.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return e.Err.Error() }
func (e *StoreError) Unwrap() error { return e.Err }

// Open makes this process one of the heads. It does not wait for the others: Lead
// does. What is wrong with Peers is a *PeersError, with Store a *StoreError, with the
// address to listen at a *net.OpError, and with NATS a *NATSError. The caller closes it.
func Open(ctx context.Context, o Options) (h *Heads, err error) {
	h = &Heads{o: o, denied: make(chan error, 1), heard: map[string]Head{}}
	if err := os.MkdirAll(h.dir(), 0o700); err != nil {
		return nil, &StoreError{err}
	}
	if o.NATS != "" {
		h.nc, err = h.dial(ctx)
	} else {
		err = h.serve(ctx)
	}
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = h.o.Name
	}
	h.self = Head{Name: h.o.Name, Host: host, PID: os.Getpid(), State: Standby, since: time.Now()}
	if err := h.meet(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// serve begins the server of this head.
func (h *Heads) serve(ctx context.Context) error {
	all, self, err := peers(ctx, h.o)
	if err != nil {
		return err
	}
	h.o.Name, h.o.Peers, h.replicas = self, all, len(all)
	if err := h.mark(); err != nil {
		return err
	}
	h.server, err = natsnet.Serve(natsnet.ServerOptions{
		Secrets: h.o.Secrets, Host: h.o.Host, Port: h.o.Port,
		Peers: &natsnet.Peers{Self: self, All: all, Store: filepath.Join(h.dir(), "jetstream")},
	})
	if err != nil {
		return err
	}
	if h.nc, err = h.server.Connect(); err != nil {
		h.server.Close()
	}
	return err
}

// mark puts this head's name into its store, which no other head may have: on a disk
// that they share, each would write into the files of the others. A link has its
// content from the first moment on.
func (h *Heads) mark() error {
	path := filepath.Join(h.dir(), "head")
	err := os.Symlink(h.o.Name, path)
	if !errors.Is(err, fs.ErrExist) {
		return storeError(err)
	}
	of, err := os.Readlink(path)
	if err == nil && of != h.o.Name {
		err = fmt.Errorf("%s is that of the head %s: each head needs a folder of its own, on a disk of its own machine", h.o.Store, of)
	}
	return storeError(err)
}

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return &StoreError{err}
}

// dir is where all stands that this head keeps of the run.
func (h *Heads) dir() string { return filepath.Join(h.o.Store, h.o.Secrets.Run) }

// Server is the network of all heads, for workers; nil with NATS: who leads has one of its own then.
func (h *Heads) Server() *natsnet.Server { return h.server }

// Name is that of this head.
func (h *Heads) Name() string { return h.o.Name }

func (h *Heads) prefix() string            { return "mx." + h.o.Secrets.Run + "." }
func (h *Heads) bucket() string            { return "mx-" + h.o.Secrets.Run }
func (h *Heads) stream(shard int) string   { return fmt.Sprintf("%s-%d", h.bucket(), shard) }
func (h *Heads) subject(shard int) string  { return fmt.Sprintf("%slog.%d", h.prefix(), shard) }
func (h *Heads) presence(of string) string { return h.prefix() + "s." + of }

// Close ends being a head. What it keeps stays, and it can be one again.
func (h *Heads) Close() error {
	if h.leave != nil {
		h.leave()
		h.present.Wait()
	}
	if h.nc != nil {
		h.nc.Close()
	}
	if h.server != nil {
		h.server.Close()
	}
	return nil
}

// Remove closes h, and removes what this head keeps of the run, which has finished.
func (h *Heads) Remove() error {
	err := errors.Join(h.Close(), os.RemoveAll(h.dir()))
	_ = os.Remove(h.o.Store) // it stays where there is more in it
	return err
}

// Removing says that the heads of a run are not there any more, and this one is not
// to be opened: it removes what is kept of it in a store.
func Removing(store, run string) error {
	err := os.RemoveAll(filepath.Join(store, run))
	_ = os.Remove(store) // it stays where there is more in it
	return err
}
