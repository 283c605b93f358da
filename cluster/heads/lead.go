package heads

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"matrix/cluster/jslog"
	"matrix/cluster/lease"
	"matrix/internal/pause"
	"matrix/local"
)

// Keys of the bucket of a run.
const (
	leadKey = "leader"
	endKey  = "end" // ended
)

// Standing is how a head that waits for the lead stands.
type Standing struct {
	Leader string            // who leads, or led last; empty where nobody does
	Away   map[string]string // why the heads cannot be reached without which nobody can lead; nil where somebody can
	Quorum bool              // most heads are there: to begin all are needed, and later most of them
}

// ended is what a leader tells all heads of the end of the run.
type ended struct {
	Code int    `json:"code"`
	Says string `json:"says"`
}

// EndedError says that the run has ended under another head.
type EndedError struct {
	By   string // the head
	Code int    // its exit code
	Says string // its last words
}

func (e *EndedError) Error() string { return fmt.Sprintf("the run has ended: %s", e.Says) }

// Lead is the lead of a run, which this process has until it is lost or given back.
type Lead struct {
	h     *Heads
	store lease.Store
	lease *lease.Lease

	mu   sync.Mutex
	logs []*jslog.Log
}

// Lead waits until this process leads the run. stand, unless it is nil, is told now and
// then how it stands meanwhile, one call at a time. An error is that of ctx, an
// *EndedError where the run has ended under another head, or a *NATSError.
func (h *Heads) Lead(ctx context.Context, stand func(Standing)) (*Lead, error) {
	ctx, cancel := h.allowed(ctx)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end(nil)
	opened := make(chan lease.Store, 1)
	watch.Go(func() { h.watch(ctx, opened, end, stand) })
	store, err := lease.NATS(ctx, h.nc, h.bucket(), h.replicas)
	if err != nil {
		return nil, h.refused(ctx, err)
	}
	opened <- store
	h.be(Standby)
	l, err := lease.Acquire(ctx, store, leadKey, lease.Options{Holder: h.o.Name})
	if err != nil {
		return nil, h.refused(ctx, err)
	}
	h.apart(ctx)
	h.be(Leading)
	return &Lead{h: h, store: store, lease: l}, nil
}

// refused is why the lead was not waited for any longer.
func (h *Heads) refused(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if h.o.NATS != "" {
		return h.natsErrorf("%w", err)
	}
	return err
}

// watch tells how this head stands while it waits, and ends that where the run has ended.
func (h *Heads) watch(ctx context.Context, opened <-chan lease.Store, end func(error), stand func(Standing)) {
	var store lease.Store
	var before uint64 // revision of an end that was told before this head was there
	var leader string
	known := false
	for ; ; _ = pause.For(ctx, time.Second) {
		if ctx.Err() != nil {
			return
		}
		if store == nil {
			select {
			case store = <-opened:
			default:
			}
		}
		var s Standing
		away := h.away()
		s.Quorum = 2*len(away) < h.replicas
		if store == nil || !s.Quorum { // what the own server tells then is old
			s.Away = away
		} else if b, revision, err := h.get(ctx, store, endKey); err != nil {
			s.Away = away
		} else if !known {
			known, before = true, revision
		} else if e := (ended{}); revision > before && json.Unmarshal(b, &e) == nil {
			h.be(Leaving)
			end(&EndedError{leader, e.Code, e.Says})
			return
		}
		if store != nil && s.Away == nil {
			asking, cancel := context.WithTimeout(ctx, request)
			if name, err := lease.Holder(asking, store, leadKey); err == nil {
				leader = name
			}
			cancel()
		}
		if s.Leader = leader; stand != nil && ctx.Err() == nil {
			stand(s)
		}
	}
}

// away is why the heads cannot be reached that are missing; never nil.
func (h *Heads) away() map[string]string {
	all := map[string]string{}
	if h.server != nil {
		for name, err := range h.server.Away() {
			all[name] = err.Error()
		}
	}
	return all
}

func (h *Heads) get(ctx context.Context, s lease.Store, key string) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	return s.Get(ctx, key)
}

// Epoch is larger than that of all who led before.
func (l *Lead) Epoch() uint64 { return l.lease.Epoch() }

// Lost is closed when another process leads. What this one commits from then on is
// refused once the other has opened the logs.
func (l *Lead) Lost() <-chan struct{} { return l.lease.Lost() }

// Sure reports whether no other process can lead yet, as far as clocks run evenly.
func (l *Lead) Sure() bool { return l.lease.Sure() }

// View is a folder on a disk of this machine for the queue of a shard over its log.
func (l *Lead) View(shard int) string {
	return filepath.Join(l.h.dir(), fmt.Sprintf("shard-%05d", shard))
}

// Log opens the log of a shard, which it makes where there is none. Release closes it.
func (l *Lead) Log(ctx context.Context, shard int) (local.Log, error) {
	ctx, cancel := l.h.allowed(ctx)
	defer cancel()
	log, err := jslog.Open(ctx, l.h.nc, jslog.Options{Stream: l.h.stream(shard), Subject: l.h.subject(shard), Replicas: l.h.replicas})
	if err != nil {
		return nil, l.h.refused(ctx, err)
	}
	l.h.near(ctx, l.h.stream(shard))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs = append(l.logs, log)
	return log, nil
}

// near has the server of this process lead the log of a shard: then the death of another
// one does not stop it, and what is committed goes out from here.
func (h *Heads) near(ctx context.Context, stream string) {
	if h.server != nil {
		h.move(ctx, stream, h.o.Name)
	}
}

// apart has the server of another head lead where the lease stands: when this one dies,
// nobody needs to elect another one first.
func (h *Heads) apart(ctx context.Context) {
	if h.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	js, err := jetstream.New(h.nc)
	if err != nil {
		return
	}
	stream := "KV_" + h.bucket()
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader != h.o.Name {
		return
	}
	for _, r := range s.CachedInfo().Cluster.Replicas {
		if r.Current && !r.Offline {
			h.move(ctx, stream, strings.TrimSpace(r.Name))
			return
		}
	}
}

// Place has the logs, which stand as Logs told, be led by the server of this process, and
// the lease by another one. Servers that come and go move them; it is called now and then.
func (l *Lead) Place(ctx context.Context, logs []LogState) {
	for _, x := range logs {
		if x.Leader != "" && x.Leader != l.h.o.Name && !slices.Contains(x.Behind, l.h.o.Name) {
			l.h.near(ctx, l.h.stream(x.Shard))
		}
	}
	l.h.apart(ctx)
}

// move has a server lead a stream. It may come to nothing, which costs time alone.
func (h *Heads) move(ctx context.Context, stream, to string) {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	b, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": to}})
	if err == nil {
		_, _ = h.nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, b)
	}
}

// Cut closes the logs: what waits for them ends, and nothing more is committed. It is
// for who has lost the lead.
func (l *Lead) Cut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, log := range l.logs {
		errs = append(errs, log.Close())
	}
	l.logs = nil
	return errors.Join(errs...)
}

// Release closes the logs, after what is over them, and gives the lead back: another
// head has it at once.
func (l *Lead) Release(ctx context.Context) error {
	err := l.Cut()
	l.h.be(Standby)
	return errors.Join(err, l.lease.Release(ctx))
}

// End tells the other heads that the run has ended, with which exit code and which
// last words, until those that are there know it or ctx ends.
func (l *Lead) End(ctx context.Context, code int, says string) error {
	value, err := json.Marshal(ended{code, says})
	if err != nil {
		return err
	}
	var told time.Time
	for told.IsZero() || l.h.others(Leaving) {
		if time.Since(told) > presentEvery { // again, for one that has only begun to listen
			if err = l.put(ctx, endKey, value); err == nil {
				told = time.Now()
			}
		}
		if pause.For(ctx, presentEvery/20) != nil {
			return err
		}
	}
	return nil
}

// put writes what stands at a key.
func (l *Lead) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	_, revision, err := l.store.Get(ctx, key)
	if err == nil {
		_, err = l.store.Put(ctx, key, value, revision)
	}
	return err
}

// Remove deletes what the run has on the servers of somebody else, once it has
// finished. What it has on those of the heads goes with what each of them keeps.
func (l *Lead) Remove(ctx context.Context) error {
	if l.h.server != nil {
		return nil
	}
	js, err := jetstream.New(l.h.nc)
	if err != nil {
		return err
	}
	var names []string
	list := js.StreamNames(ctx, jetstream.WithStreamListSubject(l.h.prefix()+"log.*"))
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := js.DeleteStream(ctx, name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			errs = append(errs, err)
		}
	}
	if err := js.DeleteKeyValue(ctx, l.h.bucket()); !errors.Is(err, jetstream.ErrBucketNotFound) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// LogState is where the log of a shard stands.
type LogState struct {
	Shard  int      `json:"shard"`
	Bytes  uint64   `json:"bytes"`
	Leader string   `json:"leader"`           // the server that takes what is appended; empty where there is none
	Behind []string `json:"behind,omitempty"` // servers that lack some of it, or are away
	Of     int      `json:"of"`               // servers that shall have it
}

// Logs is how the logs stand.
func (l *Lead) Logs(ctx context.Context) ([]LogState, error) {
	js, err := jetstream.New(l.h.nc)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	n := len(l.logs)
	l.mu.Unlock()
	states := make([]LogState, n)
	for k := range states {
		x, err := js.Stream(ctx, l.h.stream(k))
		if err != nil {
			return nil, err
		}
		states[k] = stateOf(k, x.CachedInfo())
	}
	return states, nil
}

func stateOf(shard int, i *jetstream.StreamInfo) LogState {
	x := LogState{Shard: shard, Bytes: i.State.Bytes, Of: i.Config.Replicas}
	if i.Cluster == nil {
		return x
	}
	x.Leader = i.Cluster.Leader
	for _, r := range i.Cluster.Replicas {
		if r.Offline || !r.Current {
			x.Behind = append(x.Behind, strings.TrimSpace(r.Name))
		}
	}
	slices.Sort(x.Behind)
	return x
}
