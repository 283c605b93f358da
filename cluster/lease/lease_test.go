package lease_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"matrix/cluster/lease"
)

// scripted is a store in memory that does what a script says of each process.
type scripted struct {
	mu      sync.Mutex
	entries map[string]stored
	last    uint64 // revision, of all keys
}

type stored struct {
	value    []byte
	revision uint64
}

// process is how one process sees the store.
type process struct {
	*scripted
	fault func(ctx context.Context) (before, after error) // of a request: it never comes; its answer never does
}

func (p process) meet(ctx context.Context, f func() error) error {
	var before, after error
	if p.fault != nil {
		before, after = p.fault(ctx)
	}
	if before != nil {
		return before
	}
	p.mu.Lock()
	err := f()
	p.mu.Unlock()
	return errors.Join(err, after)
}

func (p process) Get(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	err = p.meet(ctx, func() error {
		value, revision = p.entries[key].value, p.entries[key].revision
		return nil
	})
	return value, revision, err
}

func (p process) Put(ctx context.Context, key string, value []byte, revision uint64) (next uint64, err error) {
	err = p.meet(ctx, func() error {
		if revision != p.entries[key].revision {
			return lease.ErrChanged
		}
		if p.entries == nil {
			p.entries = map[string]stored{}
		}
		p.last++
		next = p.last
		p.entries[key] = stored{value, next}
		return nil
	})
	return next, err
}

// away is a request that nobody answers.
func away(ctx context.Context) (before, after error) {
	<-ctx.Done()
	return ctx.Err(), nil
}

func acquire(t *testing.T, s lease.Store, name string) *lease.Lease {
	t.Helper()
	l, err := lease.Acquire(t.Context(), s, "k", lease.Options{Holder: name})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return l
}

func lost(l *lease.Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

func TestLeaseIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := process{scripted: &scripted{}}
		a := acquire(t, s, "a")
		next := make(chan *lease.Lease)
		go func() { next <- acquire(t, s, "b") }()
		time.Sleep(time.Hour)
		if holder, err := lease.Holder(t.Context(), s, "k"); holder != "a" || err != nil || lost(a) || !a.Sure() {
			t.Errorf("after an hour %q has it, %v", holder, err)
		}
		begin := time.Now()
		if err := a.Release(t.Context()); err != nil {
			t.Error(err)
		}
		b := <-next
		if d := time.Since(begin); d > time.Second {
			t.Errorf("what was given back was taken after %v", d)
		}
		if !lost(a) || lost(b) || b.Epoch() <= a.Epoch() {
			t.Errorf("a, of epoch %d, lost it: %v; b, of epoch %d: %v", a.Epoch(), lost(a), b.Epoch(), lost(b))
		}
		if err := errors.Join(a.Release(t.Context()), b.Release(t.Context())); err != nil {
			t.Error(err)
		}
		if holder, err := lease.Holder(t.Context(), s, "k"); holder != "" || err != nil {
			t.Errorf("given back, %q has it, %v", holder, err)
		}
	})
}

// Who reaches the store no more is not sure of the lease before another one takes it, and
// has lost it as soon as it comes back. While nobody can write, nobody takes it.
func TestHolderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut, down atomic.Bool
		s := &scripted{}
		reach := func(cut *atomic.Bool) func(ctx context.Context) (before, after error) {
			return func(ctx context.Context) (before, after error) {
				if cut.Load() {
					return away(ctx)
				}
				return nil, nil
			}
		}
		a := acquire(t, process{s, reach(&cut)}, "a")
		next := make(chan *lease.Lease)
		go func() { next <- acquire(t, process{s, reach(&down)}, "b") }()
		time.Sleep(time.Minute)
		cut.Store(true)
		down.Store(true)
		time.Sleep(time.Minute)
		if a.Sure() || lost(a) {
			t.Error("a is sure of it, or has lost it to nobody")
		}
		cut.Store(false)
		down.Store(false)
		time.Sleep(time.Minute)
		if !a.Sure() {
			t.Error("a does not have it again, though nobody took it")
		}
		cut.Store(true)
		begin := time.Now()
		b := <-next
		if taken := time.Since(begin); taken > 8*time.Second || a.Sure() || !b.Sure() {
			t.Errorf("b took it after %v; a is sure: %v", taken, a.Sure())
		}
		cut.Store(false)
		<-a.Lost()
		time.Sleep(time.Minute)
		if lost(b) {
			t.Error("b lost it to one that came back")
		}
		if err := errors.Join(a.Release(t.Context()), b.Release(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// A process that was stopped and is woken finds that it has lost the lease.
func TestHolderIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Bool
		s := &scripted{}
		a := acquire(t, process{s, func(context.Context) (before, after error) {
			for stopped.Load() { // whatever its deadline
				time.Sleep(time.Millisecond)
			}
			return nil, nil
		}}, "a")
		stopped.Store(true)
		b := acquire(t, process{scripted: s}, "b")
		if a.Sure() || !b.Sure() {
			t.Error("a is still sure of it, or b is not")
		}
		stopped.Store(false)
		<-a.Lost()
		time.Sleep(time.Minute)
		if lost(b) {
			t.Error("b lost it to one that was woken")
		}
		if err := errors.Join(a.Release(t.Context()), b.Release(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// A store that fails for less than a lease lasts, and loses requests and answers, moves
// no lease; nor do two that want one get it both.
func TestLeaseDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		flaky := func() func(ctx context.Context) (before, after error) {
			var n atomic.Int64
			return func(ctx context.Context) (before, after error) {
				switch {
				case time.Now().Second()%10 < 2:
					return away(ctx)
				case n.Add(1)%5 == 0:
					return nil, context.DeadlineExceeded
				}
				return nil, nil
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var holders, taken atomic.Int64
		for i := range 3 {
			wg.Go(func() {
				for {
					l, err := lease.Acquire(ctx, process{s, flaky()}, "k", lease.Options{Holder: fmt.Sprint(i), Silent: 10 * time.Second})
					if err != nil {
						if !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
						return
					}
					taken.Add(1)
					if holders.Add(1) > 1 {
						t.Error("two have the lease")
					}
					select {
					case <-l.Lost():
					case <-ctx.Done():
					}
					holders.Add(-1)
					_ = l.Release(t.Context())
				}
			})
		}
		time.Sleep(time.Hour)
		if n := taken.Load(); n != 1 {
			t.Errorf("the lease was taken %d times in an hour", n)
		}
		cancel()
		wg.Wait()
	})
}

// Whoever comes and goes, no two are sure of the lease at once, by a clock that all share.
func TestManyTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		var mu sync.Mutex
		held, taken := map[*lease.Lease]bool{}, 0
		for i := range 5 {
			wg.Go(func() {
				var cut atomic.Bool
				p := process{s, func(ctx context.Context) (before, after error) {
					if cut.Load() {
						return away(ctx)
					}
					if rand.IntN(5) == 0 {
						return nil, context.DeadlineExceeded
					}
					return nil, nil
				}}
				for {
					l, err := lease.Acquire(ctx, p, "k", lease.Options{Holder: fmt.Sprint(i)})
					if err != nil {
						return
					}
					mu.Lock()
					for other := range held {
						if other.Sure() && l.Sure() {
							t.Error("two are sure of the lease")
						}
					}
					held[l] = true
					taken++
					mu.Unlock()
					pause := time.After(rand.N(20 * time.Second))
					select {
					case <-pause:
					case <-l.Lost():
					case <-ctx.Done():
					}
					if rand.IntN(2) == 0 {
						cut.Store(true)
						time.Sleep(10 * time.Second)
						cut.Store(false)
					}
					mu.Lock()
					delete(held, l)
					mu.Unlock()
					_ = l.Release(t.Context())
				}
			})
		}
		wg.Wait()
		if taken < 100 {
			t.Errorf("the lease was taken %d times in an hour, want more", taken)
		}
	})
}

func TestAcquireEnds(t *testing.T) {
	s := process{scripted: &scripted{}}
	if _, err := lease.Acquire(t.Context(), s, "k", lease.Options{}); err == nil {
		t.Error("a lease was taken by nobody")
	}
	l := acquire(t, s, "a")
	defer l.Release(context.Background())
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lease.Acquire(ctx, s, "k", lease.Options{Holder: "b"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// Over NATS: entries are written where they are as the writer believes, and two
// processes hand a lease over.
func TestNATS(t *testing.T) {
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	open := func() lease.Store {
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		st, err := lease.NATS(ctx, nc, "mx-RUN", 1)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	a, b := open(), open()
	if v, revision, err := a.Get(t.Context(), "x"); v != nil || revision != 0 || err != nil {
		t.Errorf("get: got %q, %d, %v", v, revision, err)
	}
	first, err := a.Put(t.Context(), "x", []byte("1"), 0)
	if err != nil || first == 0 {
		t.Fatalf("put: got %d, %v", first, err)
	}
	for _, wrong := range []uint64{0, first + 1} {
		if _, err := b.Put(t.Context(), "x", []byte("2"), wrong); !errors.Is(err, lease.ErrChanged) {
			t.Errorf("put over revision %d: got %v, want %v", wrong, err, lease.ErrChanged)
		}
	}
	next, err := b.Put(t.Context(), "x", []byte("3"), first)
	if err != nil || next <= first {
		t.Errorf("put: got %d after %d, %v", next, first, err)
	}
	if v, revision, err := a.Get(t.Context(), "x"); string(v) != "3" || revision != next || err != nil {
		t.Errorf("get: got %q, %d, %v", v, revision, err)
	}

	o := lease.Options{Holder: "a", Renew: 10 * time.Millisecond, Silent: 30 * time.Second}
	la, err := lease.Acquire(t.Context(), a, "shard.0", o)
	if err != nil {
		t.Fatal(err)
	}
	o.Holder = "b"
	taken := make(chan *lease.Lease)
	go func() {
		lb, err := lease.Acquire(t.Context(), b, "shard.0", o)
		if err != nil {
			t.Error(err)
		}
		taken <- lb
	}()
	if err := la.Release(t.Context()); err != nil {
		t.Error(err)
	}
	lb := <-taken
	if holder, err := lease.Holder(t.Context(), a, "shard.0"); holder != "b" || err != nil || lb.Epoch() <= la.Epoch() {
		t.Errorf("%q has it, %v; epochs %d and %d", holder, err, la.Epoch(), lb.Epoch())
	}
	if err := lb.Release(t.Context()); err != nil {
		t.Error(err)
	}
}
