package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// engine is the Pool of all kinds whose boxes have a supervisor.
type engine struct {
	config  Config
	options Options
	backend backend
	room    *room

	shelfOnce sync.Once
	shelf     *shelf // where files are kept; nil where they are not
	shelfErr  error

	stop chan struct{}
	ends sync.WaitGroup // what this engine began

	mu       sync.Mutex
	closed   bool
	warnings []string
	entries  map[string]*entry // by task
	idle     []*entry          // in nobody's hand, the one that was used longest ago first
	boxes    map[*box]struct{}
	stats    Stats
	fails    int       // starts that failed, one after another
	out      time.Time // nothing is started before
	outWhy   error
}

var _ Pool = (*engine)(nil)

var poolName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// newEngine makes a pool of boxes that b makes.
func newEngine(c Config, o Options, b backend) (*engine, error) {
	if !poolName.MatchString(o.Pool) {
		return nil, fmt.Errorf("%q is no name of a pool: letters, digits, - and _", o.Pool)
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	switch {
	case c.Restore == RestoreDisk && c.Keep != KeepTask:
		return nil, fmt.Errorf("restore: disk keeps the sandboxes of tasks, and keep is %s", c.Keep)
	case c.Restore == RestoreDisk && !b.layers():
		return nil, errors.New("restore: disk is not possible with sandboxes of this kind: their files cannot be kept apart")
	case c.Restore == RestoreDisk && o.Folder == "":
		return nil, errors.New("restore: disk needs a folder of the run")
	case len(c.Network.Allow) > 0:
		return nil, errors.New("network: allow is not possible yet: a sandbox has no network")
	}
	e := &engine{config: c, options: o, backend: b, room: &room{size: int(c.Size)}, stop: make(chan struct{}),
		entries: map[string]*entry{}, boxes: map[*box]struct{}{}}
	if e.room.size == 0 {
		e.room.size = autoSize(c)
	}
	e.ends.Go(e.tidy)
	return e, nil
}

// shelved returns where files are kept, nil where they are not.
func (e *engine) shelved() (*shelf, error) {
	if e.config.Restore != RestoreDisk {
		return nil, nil
	}
	e.shelfOnce.Do(func() { e.shelf, e.shelfErr = openShelf(e.options.Folder) })
	return e.shelf, e.shelfErr
}

var errClosed = errors.New("the pool is closed")

// Lease implements Pool.
func (e *engine) Lease(ctx context.Context, key Key, s Spec, past Past) (Lease, error) {
	if s.Dir == "" {
		s.Dir = DefaultDir
	}
	if e.config.Keep != KeepTask {
		past = Past{}
	}
	n, err := e.take(ctx, key)
	if err != nil {
		return nil, err
	}
	waited, err := n.prepare(ctx, s, past.Calls)
	if err != nil {
		e.put(n)
		return nil, err
	}
	l := &lease{n: n, past: slices.Clone(past.Calls), shared: e.config.Keep == KeepRun, box: n.box}
	l.info = Info{Key: key, Name: n.name, Generation: n.generation, Restored: n.restored, Waited: waited}
	e.mu.Lock()
	if e.stats.Restored == nil {
		e.stats.Restored = map[Restored]int64{}
	}
	e.stats.Restored[n.restored]++
	e.mu.Unlock()
	if l.shared {
		e.put(n)
	}
	return l, nil
}

// take returns the entry of key when it is in nobody else's hand.
func (e *engine) take(ctx context.Context, key Key) (*entry, error) {
	if e.config.Keep == KeepCall {
		return newEntry(e, key), nil
	}
	task := key.Task
	if e.config.Keep == KeepRun {
		task = ""
	}
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return nil, errClosed
		}
		n := e.entries[task]
		if n == nil {
			n = newEntry(e, Key{key.Run, key.Pool, task})
			e.entries[task] = n
		}
		e.mu.Unlock()
		select {
		case n.hand <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		e.mu.Lock()
		same := e.entries[task] == n
		e.unidle(n)
		e.mu.Unlock()
		if same {
			return n, nil
		}
		<-n.hand // it was released meanwhile
	}
}

// put gives back what take returned.
func (e *engine) put(n *entry) {
	if e.config.Keep == KeepCall {
		n.endBox()
		return
	}
	e.mu.Lock()
	n.used = time.Now()
	if e.config.Keep == KeepTask && e.entries[n.key.Task] == n {
		e.idle = append(e.idle, n)
	}
	e.mu.Unlock()
	<-n.hand
	if e.room.waits() > 0 {
		e.makeRoom()
	}
}

// unidle takes n from the list of those in nobody's hand. The caller holds e.mu.
func (e *engine) unidle(n *entry) {
	if i := slices.Index(e.idle, n); i >= 0 {
		e.idle = slices.Delete(e.idle, i, i+1)
	}
}

// makeRoom ends the box that was used longest ago and need not be there, if there is one.
func (e *engine) makeRoom() {
	var n *entry
	e.mu.Lock()
	for _, x := range e.idle {
		if e.config.Restore == RestoreNone || e.config.Restore == RestoreReplay && time.Since(x.used) < e.config.Park {
			break
		}
		select {
		case x.hand <- struct{}{}:
		default:
			continue
		}
		if x.box.alive() {
			n = x
			break
		}
		<-x.hand
	}
	e.mu.Unlock()
	if n != nil {
		e.ends.Go(func() {
			n.park()
			<-n.hand
		})
	}
}

// tidy parks and removes what nobody uses, until the pool is closed.
func (e *engine) tidy() {
	tick := time.NewTicker(max(5*time.Millisecond, min(e.config.Park, e.config.TTL, 2*time.Second)/2))
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		if e.room.waits() > 0 {
			e.makeRoom()
		}
		for _, n := range e.unused() {
			if time.Since(n.used) >= e.config.TTL {
				if err := e.drop(n); err != nil {
					e.options.Log(fmt.Sprintf("pool %s: %v", e.options.Pool, err))
				}
			} else {
				n.park()
			}
			<-n.hand
		}
	}
}

// unused returns the entries whose time has come, each in the caller's hand.
func (e *engine) unused() []*entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due []*entry
	for _, n := range e.idle {
		for_ := time.Since(n.used)
		if for_ < min(e.config.Park, e.config.TTL) {
			break
		}
		select {
		case n.hand <- struct{}{}:
		default:
			continue
		}
		if for_ >= e.config.TTL || e.config.Restore == RestoreDisk && n.box != nil && n.streams.Load() == 0 { // a server of tools in it may be in use
			due = append(due, n)
			continue
		}
		<-n.hand
	}
	return due
}

// Release implements Pool.
func (e *engine) Release(ctx context.Context, key Key) error {
	if e.config.Keep != KeepTask {
		return nil
	}
	e.mu.Lock()
	n := e.entries[key.Task]
	e.mu.Unlock()
	if n == nil { // of an earlier process, perhaps
		s, err := e.shelved()
		if err != nil || s == nil {
			return err
		}
		return s.journal(key.Name()).remove()
	}
	select {
	case n.hand <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-n.hand }()
	return e.drop(n)
}

// drop ends and removes n, which is in the caller's hand.
func (e *engine) drop(n *entry) error {
	e.mu.Lock()
	if e.entries[n.key.Task] == n {
		delete(e.entries, n.key.Task)
	}
	e.unidle(n)
	e.mu.Unlock()
	n.endBox()
	s, err := e.shelved()
	if err != nil || s == nil {
		return err
	}
	return s.journal(n.name).remove()
}

// Sweep implements Pool.
func (e *engine) Sweep(ctx context.Context, live func(Key) bool) (int, error) {
	swept, err := e.backend.sweep(ctx)
	if err != nil {
		return swept, err
	}
	mine, err := e.shelved()
	if err != nil || mine == nil {
		return swept, err
	}
	n, err := e.sweepShelf(mine, live)
	swept += n
	others, globErr := filepath.Glob(filepath.Join(e.options.Folder, "*.lock"))
	err = errors.Join(err, globErr)
	for _, lock := range others {
		dir := lock[:len(lock)-len(".lock")]
		if dir == mine.dir {
			continue
		}
		s, claimErr := claimShelf(dir)
		if errors.Is(claimErr, errHeld) {
			continue
		}
		if claimErr != nil {
			err = errors.Join(err, claimErr)
			continue
		}
		n, shelfErr := e.sweepShelf(s, live)
		swept += n
		err = errors.Join(err, shelfErr, s.close())
	}
	e.mu.Lock()
	e.stats.Swept += int64(swept)
	e.mu.Unlock()
	return swept, err
}

func (e *engine) sweepShelf(s *shelf, live func(Key) bool) (swept int, err error) {
	all, err := s.leases()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		j := all[name]
		st, readErr := j.read()
		key := st.lease.Key
		if readErr == nil && live != nil && live(key) {
			continue
		}
		if readErr == nil {
			e.mu.Lock()
			used := e.entries[key.Task] != nil
			e.mu.Unlock()
			if used {
				continue
			}
		}
		err = errors.Join(err, j.remove())
		swept++
	}
	return swept, err
}

// Check implements Pool.
func (e *engine) Check(ctx context.Context) error {
	warnings, err := e.backend.check(ctx)
	if err != nil {
		return err
	}
	if _, err := e.shelved(); err != nil {
		return &ImageError{"restore: disk", err}
	}
	e.mu.Lock()
	e.warnings = warnings
	e.mu.Unlock()
	return nil
}

// Warnings implements Pool.
func (e *engine) Warnings() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.warnings
}

// Stats implements Pool.
func (e *engine) Stats() Stats {
	e.mu.Lock()
	s := e.stats
	s.Restored = maps.Clone(s.Restored)
	s.Parked = 0
	for _, n := range e.idle {
		if n.journal != nil && !n.held.Load() {
			s.Parked++
		}
	}
	if time.Now().Before(e.out) {
		s.Out = e.outWhy.Error()
	}
	e.mu.Unlock()
	r := e.room
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Size, s.Held, s.Waiting, s.Waited = r.size, r.held, len(r.waiting), r.waited
	return s
}

// Close implements Pool.
func (e *engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	boxes := slices.Collect(maps.Keys(e.boxes))
	entries := slices.Collect(maps.Values(e.entries))
	e.mu.Unlock()
	close(e.stop)
	for _, b := range boxes {
		e.ends.Go(func() {
			b.end.Store(true)
			b.kill()
		})
	}
	patience, cancel := context.WithTimeout(context.Background(), 10*time.Second) // whose box is gone, nobody has it for long
	defer cancel()
	for _, n := range entries {
		select {
		case n.hand <- struct{}{}:
			n.endBox()
			<-n.hand
		case <-patience.Done():
		}
	}
	e.ends.Wait()
	err := e.backend.close()
	if e.shelf != nil {
		err = errors.Join(err, e.shelf.close())
	}
	return err
}

// How often a start may fail, one after another, until nothing is started for a
// while, and how long that is.
const (
	failsOut = 3
	outFirst = time.Second
	outMost  = time.Minute
)

// start starts a box where there is room, and waits where nothing can be started.
func (e *engine) start(ctx context.Context, s boxSpec) (*box, time.Duration, error) {
	waited, err := e.room.acquire(ctx, e.makeRoom)
	if err != nil {
		return nil, waited, err
	}
	for {
		e.mu.Lock()
		wait := time.Until(e.out)
		closed := e.closed
		e.mu.Unlock()
		if closed {
			e.room.release()
			return nil, waited, errClosed
		}
		if wait <= 0 {
			break
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.stop:
		case <-ctx.Done():
		}
		timer.Stop()
		waited += wait
		if ctx.Err() != nil {
			e.room.release()
			return nil, waited, ctx.Err()
		}
	}
	b, err := e.backend.start(ctx, s)
	if err != nil {
		e.room.release()
		return nil, waited, e.failed(ctx, err)
	}
	e.mu.Lock()
	if e.fails >= failsOut {
		e.options.Log(fmt.Sprintf("pool %s starts sandboxes again", e.options.Pool))
	}
	e.fails = 0
	e.stats.Made++
	e.boxes[b] = struct{}{}
	closed := e.closed
	e.ends.Go(func() {
		<-b.gone
		b.conn.Close()
		e.mu.Lock()
		delete(e.boxes, b)
		if !b.end.Load() {
			e.stats.Lost++
		}
		e.mu.Unlock()
		e.room.release()
	})
	e.mu.Unlock()
	if closed {
		b.end.Store(true)
		b.kill()
		return nil, waited, errClosed
	}
	return b, waited, nil
}

// failed says what becomes of a start that failed.
func (e *engine) failed(ctx context.Context, err error) error {
	var image *ImageError
	if errors.As(err, &image) || ctx.Err() != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fails++
	full := &FullError{Pool: e.options.Pool, Err: err}
	if e.fails >= failsOut {
		full.After = min(outFirst<<min(e.fails-failsOut, 10), outMost)
		e.out, e.outWhy = time.Now().Add(full.After), err
		if e.fails == failsOut {
			e.options.Log(fmt.Sprintf("pool %s is out: %d sandboxes in a row could not be started: %v", e.options.Pool, e.fails, err))
		}
	}
	return full
}

// bootID tells this start of this machine from others.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(b[:min(len(b), 36)])
}
