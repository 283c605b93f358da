package local

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"matrix"
)

// committer groups what handlers did into batches. A group is written when it is
// full, by the handler that filled it; when no handler runs any more, so that
// nothing is about to join it; or when its most urgent op is due: a sync costs as
// much as many hops, so what a call of seconds leads to waits for company, by a
// small part of what the call took. The next group fills and is written while the last one is being synced. What
// a step leads to is let go only once its group is durable.
type committer struct {
	q *Queue

	mu       sync.Mutex
	room     sync.Cond // of mu: bytes has gone down
	pending  []op
	bytes    int // of records in pending
	spare    []op
	applying bool
	syncing  int           // groups written and not yet durable
	written  int64         // when the last group was taken, by the queue's clock
	due      int64         // when pending is to be written at the latest
	idle     chan struct{} // closed when nothing is under way, while close waits

	kick  chan struct{} // what is pending is to be written now
	timer *time.Timer   // or then
	syncs chan group
	loops sync.WaitGroup
}

// Limits of a group.
const (
	groupOps   = 64        // a handler that has filled so many writes them
	groupBytes = 512 << 10 // or so many bytes
	maxBytes   = 4 << 20   // in one group, but for a single larger record
	maxSyncs   = 4         // groups on their way to the disk at once
	maxWait    = 32 << 20  // bytes pending, before handlers wait for the disk
)

// Groups that are not full, while handlers run.
const (
	pace     = 5 * time.Millisecond  // between two groups
	patience = 100                   // a step waits for company by this part of what it took
	maxIdle  = 50 * time.Millisecond // and no longer than this
)

// op is one thing to commit: a hop, or what put puts, or both.
type op struct {
	e    *entry // a hop of e, as step says
	step matrix.Step
	due  int64 // of a hop: when it is to be written at the latest, by the queue's clock

	put  func(b *pebble.Batch) error
	done func() // after the sync; may be nil
	then func() // after the hop was let go; may be nil
}

// A batch keeps its memory for the next one.
var batchOptions = []pebble.BatchOption{pebble.WithInitialSizeBytes(64 << 10), pebble.WithMaxRetainedSizeBytes(8 << 20)}

type group struct {
	batch *pebble.Batch
	ops   []op
	none  bool // nothing was written
	wait  func() error
}

func newCommitter(q *Queue) *committer {
	c := &committer{q: q, kick: make(chan struct{}, 1), timer: time.NewTimer(time.Hour), syncs: make(chan group, maxSyncs)}
	c.timer.Stop()
	c.room.L = &c.mu
	return c
}

func (c *committer) start() {
	c.loops.Add(2)
	go c.kickLoop()
	go c.syncLoop()
}

// kickLoop writes what no handler has written.
func (c *committer) kickLoop() {
	defer c.loops.Done()
	defer c.timer.Stop()
	for {
		select {
		case _, ok := <-c.kick:
			if !ok {
				return
			}
		case <-c.timer.C:
		case <-c.q.failed:
			return
		}
		c.flush()
	}
}

// schedule has kickLoop write what is pending, at once or when it is due. The
// loop is not woken before that: waking costs more than the step that is pending.
// c.mu is held.
func (c *committer) schedule() {
	wait := time.Duration(c.due - now())
	if wait > 0 && !c.q.volatile() && c.q.handling.Load() > 0 && !c.full() {
		c.timer.Reset(wait)
		return
	}
	c.wake()
}

// hop commits a step of e, which took so long until now, and then makes it wait
// for its next role.
func (c *committer) hop(e *entry, s matrix.Step, durable func(), now, took int64) {
	s.Sum = sum(s.Sum, s.Record)
	c.add(op{e: e, step: s, done: durable, due: now + min(took/patience, int64(maxIdle))})
}

// sum is the checksum of a record, taken where it is not known.
func sum(known uint32, record []byte) uint32 {
	if known == 0 {
		known = matrix.Sum(record)
	}
	return known
}

func (c *committer) attempt(seq uint64, n uint16) {
	c.add(op{put: func(b *pebble.Batch) error {
		return b.Set(attemptKey(nil, seq), binary.AppendUvarint(nil, uint64(n)), nil)
	}})
}

// wait commits o and waits for it to be durable and let go.
func (c *committer) wait(ctx context.Context, o op) error { return c.until(ctx, c.begin(o)) }

// begin commits o; landed is closed when it is durable and let go.
func (c *committer) begin(o op) (landed <-chan struct{}) {
	done, then := make(chan struct{}), o.then
	o.then = func() {
		if then != nil {
			then()
		}
		close(done)
	}
	c.add(o)
	return done
}

func (c *committer) until(ctx context.Context, landed <-chan struct{}) error {
	select {
	case <-landed:
		return nil
	case <-c.q.failed:
		return c.q.fault
	case <-ctx.Done():
		return ctx.Err()
	}
}

// barrier waits until all that was added before it is durable and let go.
func (c *committer) barrier(ctx context.Context) error {
	return c.wait(ctx, op{})
}

func (c *committer) add(o op) {
	c.mu.Lock()
	for o.e != nil && c.bytes > maxWait && !isClosed(c.q.failed) {
		c.room.Wait()
	}
	c.pending = append(c.pending, o)
	c.bytes += len(o.step.Record)
	due := c.written + int64(pace)
	if o.e != nil {
		due = max(due, o.due)
	}
	full := o.e != nil && c.full()
	if len(c.pending) == 1 || due < c.due {
		c.due = due
		if !full {
			c.schedule()
		}
	}
	c.mu.Unlock()
	if full {
		// In the handler's goroutine, and only there: a store that fails ends
		// the goroutine it fails in.
		c.flush()
	}
}

// full reports whether what is pending is worth a group. c.mu is held.
func (c *committer) full() bool { return len(c.pending) >= groupOps || c.bytes >= groupBytes }

// wake has kickLoop write what is pending.
func (c *committer) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// flush writes what is pending, unless somebody does so already or enough is
// on its way to the disk: then whoever ends that sees to what is left.
func (c *committer) flush() {
	c.mu.Lock()
	if c.applying || c.syncing >= maxSyncs || len(c.pending) == 0 || isClosed(c.q.failed) {
		c.mu.Unlock()
		return
	}
	c.applying = true
	c.timer.Stop()
	c.written = now()
	ops := c.take()
	c.mu.Unlock()

	g, err := c.write(ops)
	if err != nil {
		c.q.fail(err)
		return
	}
	c.mu.Lock()
	c.syncing++
	c.mu.Unlock()
	if c.q.volatile() {
		c.publish(g)
	} else {
		c.syncs <- g // never blocks: there are at most maxSyncs
	}
	// Only now may the next group be written: groups are let go in order.
	c.mu.Lock()
	c.applying = false
	c.rest()
	c.mu.Unlock()
}

// take takes the next group from what is pending. c.mu is held.
func (c *committer) take() []op {
	n, bytes := 0, 0
	for n < len(c.pending) {
		size := len(c.pending[n].step.Record)
		if n > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		n++
	}
	ops, rest := c.pending[:n:n], c.pending[n:]
	c.pending, c.spare = append(c.spare[:0], rest...), nil
	clear(rest)
	c.due = c.written // what is left is written next
	c.bytes -= bytes
	c.room.Broadcast()
	return ops
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (c *committer) write(ops []op) (group, error) {
	b := c.q.db.NewBatch(batchOptions...)
	for i := range ops {
		o := &ops[i]
		if o.put != nil {
			if err := o.put(b); err != nil {
				return group{}, err
			}
		}
		if o.e != nil {
			putHop(b, o.e, &o.step)
		}
	}
	g := group{batch: b, ops: ops, none: b.Empty()}
	switch {
	case g.none: // barriers alone
		return g, nil
	case c.q.journal != nil:
		var err error
		g.wait, err = c.q.journal.append(b)
		return g, err
	case c.q.opts.Memory:
		return g, c.q.db.Apply(b, pebble.NoSync)
	}
	g.wait = b.SyncWait
	return g, c.q.db.ApplyNoSyncWait(b, pebble.Sync)
}

func putHop(b *pebble.Batch, e *entry, s *matrix.Step) {
	d := b.SetDeferred(recordKeyLen, recordSize(s.Role, s.Record))
	e.written++
	recordKey(d.Key[:0], e.seq, e.written)
	putRecord(d.Value, int16(s.Priority), s.Role, s.Record)
	_ = d.Finish() // fails only for an indexed batch
	if s.Role != "" && e.attempt > 0 {
		_ = b.Delete(attemptKey(nil, e.seq), nil)
	}
}

func (c *committer) syncLoop() {
	defer c.loops.Done()
	for {
		select {
		case g, ok := <-c.syncs:
			if !ok {
				return
			}
			if !g.none {
				if err := g.wait(); err != nil {
					c.q.fail(err)
					return
				}
			}
			if isClosed(c.q.failed) {
				return // it seemed well: see freezer
			}
			c.publish(g)
		case <-c.q.failed:
			return
		}
	}
}

// publish lets go what the group's steps lead to.
func (c *committer) publish(g group) {
	_ = g.batch.Close()
	for i := range g.ops {
		o := &g.ops[i]
		if o.done != nil {
			o.done()
		}
		if o.e != nil {
			c.advance(o)
		}
		if o.then != nil {
			o.then()
		}
	}
	clear(g.ops)
	c.mu.Lock()
	c.spare = g.ops[:0]
	c.syncing--
	c.rest()
	c.mu.Unlock()
}

// rest has what is left written, or tells close that nothing is under way. c.mu
// is held.
func (c *committer) rest() {
	if len(c.pending) > 0 {
		c.schedule()
	}
	if c.idle != nil && c.syncing == 0 && len(c.pending) == 0 && !c.applying {
		close(c.idle)
		c.idle = nil
	}
}

// advance lets a task go on from a step that is durable.
func (c *committer) advance(o *op) {
	e := o.e
	hop, _ := e.at()
	e.setAt(hop+1, o.step.Sum)
	if o.step.Role == "" { // it was appended
		return
	}
	e.attempt, e.queued, e.delayed = 0, 0, 0
	e.prio = int16(o.step.Priority)
	if e.role.name != o.step.Role {
		e.role = c.q.role(o.step.Role)
	}
	e.role.push(e)
}

// close waits for everything added to be durable. Nothing is added any more.
func (c *committer) close() {
	c.mu.Lock()
	var idle chan struct{}
	if c.syncing > 0 || len(c.pending) > 0 || c.applying {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()
	if idle != nil {
		c.wake()
		select {
		case <-idle:
		case <-c.q.failed:
			return // its goroutines may be stuck in the store
		}
	}
	close(c.kick)
	close(c.syncs)
	c.loops.Wait()
}

// settle commits the fates of a batch, its checkpoints, the end of its records, and what
// is appended to others.
func (c *committer) settle(batch []*entry, s matrix.Settlement) error {
	appends, err := c.q.appends(s.Appends)
	if err != nil {
		return err
	}
	err = c.wait(context.Background(), op{
		put: func(b *pebble.Batch) error {
			var key [recordKeyLen]byte
			for i, e := range batch {
				f := s.Fates[i]
				f.Row = e.row
				if err := putFate(b, e.id, e.seq, f); err != nil {
					return err
				}
				for hop := range e.written + 1 {
					if err := c.q.drop(b, recordKey(key[:0], e.seq, hop)); err != nil {
						return err
					}
				}
				if e.attempt > 0 {
					if err := b.Delete(attemptKey(nil, e.seq), nil); err != nil {
						return err
					}
				}
				e.over = true
			}
			appends = slices.DeleteFunc(appends, func(o op) bool { return o.e.over })
			for i := range appends {
				putHop(b, appends[i].e, &appends[i].step)
			}
			return putCheckpoints(b, s.Checkpoints)
		},
		then: func() {
			for i := range appends {
				c.advance(&appends[i])
			}
		},
	})
	if err != nil {
		return err
	}
	c.q.live.remove(batch)
	if s.Then != nil {
		s.Then()
	}
	return nil
}

// drop deletes a record, which is set once: but a view of a log that carried it was
// told of it twice, and a single delete would leave the other one.
func (q *Queue) drop(b *pebble.Batch, key []byte) error {
	if q.journal != nil {
		return b.Delete(key, nil)
	}
	return b.SingleDelete(key, nil)
}

func putCheckpoints(b *pebble.Batch, checkpoints map[string][]byte) error {
	for name, v := range checkpoints {
		if err := b.Set(checkpointKey(nil, name), v, nil); err != nil {
			return err
		}
	}
	return nil
}
