// Package lease says which process of several has what only one should have: a shard
// of a run, or the lead. A lease is an entry that its holder writes anew all the time;
// whoever has watched it unchanged for long enough takes it.
//
// No clock is compared with another one: each process measures by its own, which a
// change of the time of day does not move. A holder that can be stopped and woken, or
// whose clock runs slow, may still believe in a lease that another one has: a lease
// keeps two from working against each other all the time, and what must not happen even
// once is refused elsewhere, as a log refuses who is no longer its writer. So a lease is
// not lost before somebody has taken it, and nobody takes it who could not write for some
// time either: servers that elect a leader take longer than a holder may be silent.
package lease

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"matrix/internal/pause"
)

// Store is where leases stand: entries that are written only where they are what the
// writer believes.
type Store interface {
	// Get returns what stands at a key and its revision: nil and 0 where nothing ever did.
	Get(ctx context.Context, key string) (value []byte, revision uint64, err error)

	// Put writes a key where it has that revision, and returns the next one, which is
	// larger than all before it. It returns ErrChanged where the key has another one.
	// After any other error it may have been written or not.
	Put(ctx context.Context, key string, value []byte, revision uint64) (next uint64, err error)
}

// ErrChanged is what Store.Put returns where somebody else has written.
var ErrChanged = errors.New("the entry has changed")

// Options of Acquire.
type Options struct {
	Holder string        // who takes it, for others to read
	Renew  time.Duration // how often it is written and looked at; 1 s where it is 0
	Silent time.Duration // after so long without a change it may be taken, three times Renew or more; 5 s where it is 0
}

// Lease is one that this process has.
type Lease struct {
	epoch uint64
	lost  chan struct{}
	end   context.CancelFunc
	done  chan struct{} // the keeper has ended

	k keeper
}

// entry is what stands at a key.
type entry struct {
	Holder string `json:"holder"` // "" where nobody has it
	Lease  string `json:"lease"`  // of one Acquire
}

// keeper writes a lease anew.
type keeper struct {
	store    Store
	key      string
	o        Options
	id       string // of this lease
	value    []byte // of it
	revision uint64
	renewed  time.Time                  // when the last write that came to stand was begun
	sure     *atomic.Pointer[time.Time] // until when nobody can have taken it, as renewed says
}

// Acquire waits until this process has the lease of a key: until nobody has it, or
// its holder was silent for too long. An error is that of ctx, with the last one of the store.
func Acquire(ctx context.Context, s Store, key string, o Options) (*Lease, error) {
	if o.Holder == "" {
		return nil, errors.New("lease: a holder has a name")
	}
	if o.Renew == 0 {
		o.Renew = time.Second
	}
	if o.Silent == 0 {
		o.Silent = 5 * time.Second
	}
	if o.Silent < 3*o.Renew {
		return nil, fmt.Errorf("lease: one that is renewed every %v is silent after %v; want three times as long or more", o.Renew, o.Silent)
	}
	id := rand.Text()
	value, err := json.Marshal(entry{o.Holder, id})
	if err != nil {
		return nil, err
	}
	k := keeper{store: s, key: key, o: o, id: id, value: value, sure: new(atomic.Pointer[time.Time])}
	var seen uint64
	var since time.Time
	var writes writes
	for {
		e, revision, err := k.get(ctx)
		free := err == nil && (e.Holder == "" || e.Lease == id) // which it is where the answer to a write was lost
		may := free || writes.on(ctx, &k)
		switch {
		case err != nil:
		case !free && (since.IsZero() || revision != seen):
			seen, since = revision, time.Now()
		case free || time.Since(since) >= o.Silent && may:
			k.revision = revision
			if _, err = k.renew(ctx); err == nil {
				return k.keep(), nil
			}
			since = time.Time{}
		}
		if pause.For(ctx, o.Renew) != nil {
			return nil, fmt.Errorf("lease %s: %w", key, errors.Join(ctx.Err(), err))
		}
	}
}

// writes is whether a process that waits for a lease can write.
type writes struct {
	revision uint64
	since    time.Time // it could all the time
}

// on writes beside the lease, and reports whether that has worked for so long that the
// holder would have written, too.
func (w *writes) on(ctx context.Context, k *keeper) bool {
	ctx, cancel := context.WithTimeout(ctx, k.o.Renew)
	defer cancel()
	next, err := k.store.Put(ctx, k.key+".waiting", nil, w.revision)
	if errors.Is(err, ErrChanged) { // another one waits, too
		_, next, err = k.store.Get(ctx, k.key+".waiting")
	}
	if err != nil {
		w.since = time.Time{}
		return false
	}
	if w.revision = next; w.since.IsZero() {
		w.since = time.Now()
	}
	return time.Since(w.since) >= 3*k.o.Renew // one in which its last try ends, one of pause, one for the next
}

// Holder tells who has the lease of a key, or had it last: "" where it was given back, or never taken.
func Holder(ctx context.Context, s Store, key string) (string, error) {
	k := keeper{store: s, key: key, o: Options{Renew: time.Second}}
	e, _, err := k.get(ctx)
	return e.Holder, err
}

// Epoch is larger than that of all who had the lease before.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Lost is closed once another process is seen to have taken the lease.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Sure reports whether nobody else can have taken the lease yet, as far as clocks run
// evenly: it was renewed lately. A process that was stopped and woken is not sure.
func (l *Lease) Sure() bool { return time.Now().Before(*l.k.sure.Load()) }

// Release gives the lease back, so that the next one need not wait. One that was lost,
// or cannot be given back, is left as it is: the others wait until it was silent.
func (l *Lease) Release(ctx context.Context) error {
	l.end()
	<-l.done
	select {
	case <-l.lost:
		return nil
	default:
	}
	close(l.lost)
	_, err := l.k.put(ctx, []byte("{}"))
	if errors.Is(err, ErrChanged) {
		err = nil
	}
	return err
}

func (k *keeper) keep() *Lease {
	ctx, end := context.WithCancel(context.Background())
	l := &Lease{epoch: k.revision, lost: make(chan struct{}), end: end, done: make(chan struct{}), k: *k}
	go func() {
		defer close(l.done)
		if !l.k.keepOn(ctx) {
			close(l.lost)
		}
	}()
	return l
}

// until is when another process may take the lease if it is not renewed, less a little: it
// has seen the last write after that was begun.
func (k *keeper) until() time.Time { return k.renewed.Add(k.o.Silent - k.o.Renew) }

// keepOn renews the lease until ctx ends, and reports whether it is not lost.
func (k *keeper) keepOn(ctx context.Context) bool {
	for pause.For(ctx, k.o.Renew) == nil {
		if lost, _ := k.renew(ctx); lost && ctx.Err() == nil { // tried again
			return false
		}
	}
	return true
}

// renew writes the lease, and reports whether another one has it.
func (k *keeper) renew(ctx context.Context) (lost bool, err error) {
	begin := time.Now()
	next, err := k.put(ctx, k.value)
	if errors.Is(err, ErrChanged) {
		e, revision, getErr := k.get(ctx)
		if getErr != nil {
			return false, getErr
		}
		if e.Lease != k.id {
			return true, err
		}
		k.revision, begin = revision, time.Now() // one was written whose answer was lost
		next, err = k.put(ctx, k.value)
	}
	if err == nil {
		k.revision, k.renewed = next, begin
		k.sure.Store(new(k.until()))
	}
	return false, err
}

// get and put give each request its own time: one that meets no server is never answered.

func (k *keeper) get(ctx context.Context) (e entry, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, k.o.Renew)
	defer cancel()
	value, revision, err := k.store.Get(ctx, k.key)
	if err == nil && len(value) > 0 {
		err = json.Unmarshal(value, &e)
	}
	return e, revision, err
}

func (k *keeper) put(ctx context.Context, value []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, k.o.Renew)
	defer cancel()
	return k.store.Put(ctx, k.key, value, k.revision)
}
