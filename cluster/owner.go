package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
)

// OwnerQueue is what an Owner asks of the queue of its shard. A *local.Queue is one.
type OwnerQueue interface {
	matrix.Taker
	Claim(task string, hop int) (t matrix.Taken, ok bool, err error)
	Peek(ctx context.Context, id string) (m *matrix.Message, ok bool, err error)
}

// OwnerOptions are the options of NewOwner.
type OwnerOptions struct {
	Shard int // from 0
	Net   Net

	// Silent is after how long without a sign of life what a worker holds waits again;
	// 3 s where it is 0.
	Silent time.Duration

	// Fresh says that the queue was never before an owner. Else workers may hold tasks
	// that they had from an earlier one: for the time of Silent nothing is handed out,
	// until they have said what that is.
	Fresh bool

	// Holders are all workers that may hold such tasks: once each has said hello, the rest of
	// that time is not waited for. nil where nobody knows.
	Holders []string
}

const (
	gather     = 200 * time.Microsecond // what comes together is answered together
	maxUnread  = 64 << 20               // bytes of frames that wait to be read; more are lost
	maxWindow  = 16 << 20               // bytes on their way to one worker
	maxTake    = 256                    // tasks at once
	maxQueued  = 2048                   // tasks that are to be sent to one worker
	missing    = 2                      // a task that a worker does not know of so many times is not there
	forgetting = 20                     // after so many times Silent a worker is forgotten
)

// Owner hands out what waits in the queue of a shard to workers that have places for
// it, and commits what they did. Others may take from the same queue beside it. A task
// goes to the worker that had it last where that has a place free, or else to workers
// in turn.
type Owner struct {
	q       OwnerQueue
	o       OwnerOptions
	epoch   uint64
	address string
	size    int // of a frame

	wake  chan struct{} // holds one signal
	ready chan struct{} // closed once tasks are handed out
	calls sync.WaitGroup
	busy  atomic.Int64 // calls
	held  atomic.Pointer[[]Held]

	mu     sync.Mutex
	inbox  []arrival
	unread int // bytes in inbox
	landed []*landing
	ended  []string // tasks that workers are to be told of
	err    error    // of a call

	// All below is of the goroutine of Serve.
	ctx      context.Context // of its logs
	from     time.Time       // nothing is handed out before
	awaited  map[string]bool // workers that have not said hello, and whose hello ends that; nil: none does
	stopping bool
	emptied  time.Time // when all that was handed out has come back, while stopping
	peers    map[string]*peer
	roles    map[string]*ownerRole
	hands    map[string]*hand    // by task
	landing  map[string]*landing // by task: steps that are not durable yet
	last     recent
	serial   uint64
	dirty    []*peer // to be written to
	ticked   time.Time
	out      framer
	to       *peer  // of out
	seq      uint64 // of the frame in out
}

type arrival struct {
	frame []byte
	at    time.Time
}

// peer is a worker, in one incarnation.
type peer struct {
	id          string
	incarnation uint64
	address     string
	heard       time.Time
	greeted     bool   // it has said hello since it was heard of, or was silent
	told        uint64 // seq of the newest frame with places
	count       int    // of what it says it holds
	places      map[*ownerRole]*credit
	pieces      pieces

	hands []*hand
	hash  uint64 // of hands, and of what is landing

	seq    uint64 // of the newest frame to it
	flight []sent // frames that it has not seen
	bytes  int    // in flight

	dirty   bool
	acks    []ref
	stales  []ref
	settled []string
	deliver []*hand
	fetches []reply
	who     bool
	alive   bool
}

type sent struct {
	seq   uint64
	bytes int
}

// reply is what a worker has asked for.
type reply struct {
	fetch
	m *matrix.Message
}

// hand is a message in the hands of a worker.
type hand struct {
	t       matrix.Taken
	m       *matrix.Message
	mark    uint64
	serial  uint64
	p       *peer
	c       *credit
	i       int    // in p.hands
	from    int    // the first record that the worker lacks
	frame   uint64 // that it was sent in; 0: it waits to be sent, or was claimed
	sent    bool
	listed  uint64 // seq of the newest hello that names it
	missing int    // hellos that should have and did not
}

// landing is a step on its way to be durable.
type landing struct {
	ref
	mark   uint64
	sum    uint32
	role   string
	from   *peer // who acted; nil where it is gone
	holder *peer // whose hash has it
	others []answer
}

// answer is owed to a worker.
type answer struct {
	p *peer
	ref
}

// Held is what a worker has in hand of a shard.
type Held struct {
	Worker string
	Roles  map[string]int // tasks by the role that they were handed out for
	Heard  time.Time      // when it last gave a sign of life
}

// NewOwner makes the owner of a shard whose queue is q. One process at a time has an
// owner of a shard.
func NewOwner(q OwnerQueue, o OwnerOptions) (*Owner, error) {
	if o.Net == nil || o.Shard < 0 {
		return nil, errors.New("cluster.NewOwner: it needs a Net, and a shard from 0 on")
	}
	if o.Silent <= 0 {
		o.Silent = 3 * time.Second
	}
	size, err := frameSize(o.Net)
	if err != nil {
		return nil, err
	}
	w := &Owner{
		q: q, o: o, epoch: life(), address: ownerAddress(o.Shard), size: size,
		wake: make(chan struct{}, 1), ready: make(chan struct{}),
		peers: map[string]*peer{}, roles: map[string]*ownerRole{}, hands: map[string]*hand{}, landing: map[string]*landing{},
	}
	if o.Holders != nil {
		w.awaited = map[string]bool{}
		for _, id := range o.Holders {
			w.awaited[id] = true
		}
	}
	w.held.Store(new([]Held))
	w.out = framer{size: size, begin: w.begin, send: w.send}
	return w, nil
}

func ownerAddress(shard int) string   { return fmt.Sprint("x.", shard) }
func workerAddress(id string) string  { return "d." + id }
func life() uint64                    { return uint64(time.Now().UnixNano()) }
func (o *Owner) every() time.Duration { return min(o.o.Silent/12, 250*time.Millisecond) }
func (o *Owner) signal()              { signal(o.wake) }

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Workers says who holds how much. It may be half a second old.
func (o *Owner) Workers() []Held { return *o.held.Load() }

// Ready is closed once Serve hands out tasks: what workers held before is known.
func (o *Owner) Ready() <-chan struct{} { return o.ready }

// Settled tells the workers that are there of tasks that have ended, for whoever keeps
// something for them. It may be called at any time, and does not wait.
func (o *Owner) Settled(tasks ...string) {
	o.mu.Lock()
	o.ended = append(o.ended, tasks...)
	o.mu.Unlock()
	o.signal()
}

// Serve hands out tasks until Stopping(ctx) ends. Then it tells workers, waits until
// what they hold has landed or come back, or ctx ends, returns the rest to the queue
// and nil. It ends with an error where the queue does, or cannot be read. It is called
// once.
func (o *Owner) Serve(ctx context.Context) error {
	stop, err := o.o.Net.Receive(o.address, o.receive)
	if err != nil {
		return fmt.Errorf("serve shard %d: %w", o.o.Shard, err)
	}
	ended := make(chan error, 1)
	go func() { // a store that fails ends the goroutine
		err := errStore
		defer func() {
			o.recall()
			ended <- err
		}()
		err = o.serve(ctx)
	}()
	err = <-ended
	stop()
	o.calls.Wait()
	if err == errStore {
		err = o.q.Flush(context.WithoutCancel(ctx))
	}
	if err != nil {
		return fmt.Errorf("serve shard %d: %w", o.o.Shard, err)
	}
	return nil
}

var errStore = errors.New("the store has failed")

func (o *Owner) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now := time.Now()
	o.ctx, o.ticked = ctx, now
	if !o.o.Fresh {
		o.from = now.Add(o.o.Silent)
	}
	o.ask()
	tick := time.NewTicker(o.every())
	defer tick.Stop()
	soft := matrix.Stopping(ctx).Done()
	for {
		select {
		case <-o.wake:
			time.Sleep(gather)
		case <-tick.C:
		case <-soft:
			soft = nil
		case <-ctx.Done():
			return o.end()
		case <-o.q.Done():
			if err := o.q.Flush(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			return matrix.ErrClosed
		}
		if !o.stopping && matrix.Stopping(ctx).Err() != nil {
			o.stop()
		}
		if err := o.turn(time.Now()); err != nil {
			return err
		}
		if o.stopping && o.empty(time.Now()) {
			return o.end()
		}
	}
}

// receive is called with a worker's frame.
func (o *Owner) receive(frame []byte) {
	hurry := !isBeat(frame) // beats of many workers are answered together, with the next tick
	o.mu.Lock()
	if o.unread+len(frame) <= maxUnread {
		o.inbox = append(o.inbox, arrival{frame, time.Now()})
		o.unread += len(frame)
	}
	o.mu.Unlock()
	if hurry {
		o.signal()
	}
}

// ask asks all workers for a hello.
func (o *Owner) ask() {
	h := ownerFrame{version: Version, shard: o.o.Shard, epoch: o.epoch}
	_ = o.o.Net.Send(workerAddress("all"), append(h.header(nil), kindWho))
}

// turn does what there is to do.
func (o *Owner) turn(now time.Time) error {
	o.read()
	if now.Sub(o.ticked) >= o.every() {
		o.tick(now)
	}
	if !o.stopping && o.begins(now) {
		for _, r := range o.roles {
			if err := o.match(r); err != nil {
				return err
			}
		}
	}
	return o.flush()
}

// begins reports whether tasks are handed out: it is known what workers hold.
func (o *Owner) begins(now time.Time) bool {
	if now.Before(o.from) && (o.awaited == nil || len(o.awaited) > 0) {
		return false
	}
	select {
	case <-o.ready:
	default:
		o.from, o.awaited = time.Time{}, nil
		close(o.ready)
	}
	return true
}

// settle takes in what is durable.
func (o *Owner) settle() {
	o.mu.Lock()
	landed, ended := o.landed, o.ended
	o.landed, o.ended = nil, nil
	o.mu.Unlock()
	for _, l := range landed {
		o.land(l)
	}
	if len(ended) == 0 {
		return
	}
	for _, p := range o.peers {
		if p.greeted {
			p.settled = append(p.settled, ended...)
			o.soil(p)
		}
	}
}

// read takes in what has come.
func (o *Owner) read() {
	o.settle()
	o.mu.Lock()
	inbox := o.inbox
	o.inbox, o.unread = nil, 0
	o.mu.Unlock()
	for _, a := range inbox {
		if f, err := readWorker(a.frame); err == nil {
			o.apply(f, a.at)
		}
	}
}

// apply takes in a frame.
func (o *Owner) apply(f *workerFrame, at time.Time) {
	if f.version != Version {
		// The header says it.
		h := ownerFrame{version: Version, shard: o.o.Shard, epoch: o.epoch, incarnation: f.incarnation}
		_ = o.o.Net.Send(workerAddress(f.worker), h.header(nil))
		return
	}
	p := o.peers[f.worker]
	if p == nil || f.incarnation > p.incarnation || f.incarnation != p.incarnation && o.silent(p, at) {
		if p != nil {
			o.lose(p)
		}
		p = &peer{id: f.worker, incarnation: f.incarnation, address: workerAddress(f.worker), places: map[*ownerRole]*credit{}}
		o.peers[f.worker] = p
	} else if f.incarnation != p.incarnation {
		p = nil // it is late, of one that is no more
	}
	if f.epoch != o.epoch {
		f.seen = 0
	}
	if p != nil {
		p.heard = at
		o.seen(p, f.seen)
	}
	o.items(p, f, at)
}

func (o *Owner) items(p *peer, f *workerFrame, at time.Time) {
	known := f.epoch == o.epoch
	for i := range f.results {
		r := &f.results[i]
		if !known {
			r.serial = 0
		}
		o.result(p, r)
	}
	if p == nil {
		return
	}
	for _, x := range f.pieces {
		if item := p.pieces.add(x, at); item != nil {
			whole := &workerFrame{version: f.version, worker: f.worker, incarnation: f.incarnation, seq: f.seq, epoch: f.epoch, seen: f.seen}
			r := &reader{b: item}
			if whole.items(r); r.err() == nil && whole.pieces == nil {
				o.items(p, whole, at)
			}
		}
	}
	if f.leave && f.seq >= p.told {
		o.lose(p)
		delete(o.peers, p.id)
		return
	}
	newer := f.seq > p.told
	if newer && (f.placed || f.beat) {
		p.told = f.seq
	}
	if f.hello && newer {
		o.greet(p, f, known)
	}
	if !p.greeted {
		p.who = true
		o.soil(p)
		return
	}
	if f.placed && newer {
		o.place(p, f.places)
	}
	if f.beat && newer {
		p.count = f.count
		p.alive = true
		p.who = p.who || f.hash != p.hash
		o.soil(p)
	}
	for _, x := range f.fetches {
		o.fetch(p, x)
	}
}

// soil notes that there is something to write to p.
func (o *Owner) soil(p *peer) {
	if !p.dirty {
		p.dirty = true
		o.dirty = append(o.dirty, p)
	}
}

func (o *Owner) silent(p *peer, at time.Time) bool { return at.Sub(p.heard) >= o.o.Silent }

// seen notes that a worker has seen frames up to seq.
func (o *Owner) seen(p *peer, seq uint64) {
	n := 0
	for n < len(p.flight) && p.flight[n].seq <= seq {
		p.bytes -= p.flight[n].bytes
		n++
	}
	if n == 0 {
		return
	}
	p.flight = append(p.flight[:0], p.flight[n:]...)
	if len(p.deliver) > 0 || len(p.fetches) > 0 {
		o.soil(p)
	}
	p.refresh()
}

// greet takes in a hello: what the worker holds is its own, unless the task is further,
// and what it should hold and does not is not there.
func (o *Owner) greet(p *peer, f *workerFrame, known bool) {
	p.greeted = true
	delete(o.awaited, p.id)
	p.alive = true
	o.soil(p)
	o.place(p, f.places)
	for _, x := range f.holds {
		if !known {
			x.serial = 0
		}
		o.hold(p, x, f.seq)
	}
	for i := len(p.hands) - 1; i >= 0; i-- {
		h := p.hands[i]
		if !h.sent || h.listed == f.seq || h.frame > f.seen {
			continue
		}
		if h.missing++; h.missing >= missing {
			o.drop(h)
			h.t.Return(nil)
		}
	}
}

// hold takes in that a worker holds a task at a hop.
func (o *Owner) hold(p *peer, x hold, seq uint64) {
	if h := o.hands[x.task]; h != nil {
		switch {
		case h.m.Hop > x.hop, h.m.Hop == x.hop && !x.of(h.m):
			o.stale(p, x.ref)
		case h.m.Hop == x.hop && h.p == p:
			h.listed, h.missing = seq, 0
		}
		return // where two have it, the first to be done commits
	}
	if l := o.landing[x.task]; l != nil {
		if l.hop > x.hop || l.hop == x.hop && l.base != x.base {
			o.stale(p, x.ref)
		}
		return
	}
	if x.returned {
		return // it may be delayed by now
	}
	t, ok, err := o.claim(x.ref)
	switch {
	case err != nil:
	case ok:
		h := o.hand(t, p, o.credit(p, t.Message().Role))
		h.serial, h.sent, h.listed = x.serial, true, seq
	default:
		m, live, err := o.q.Peek(o.ctx, x.task)
		if err == nil && (!live || !x.of(m)) {
			o.stale(p, x.ref)
		}
	}
}

// claim claims what a worker has, where it waits as the worker had it.
func (o *Owner) claim(x ref) (t matrix.Taken, ok bool, err error) {
	t, ok, err = o.q.Claim(x.task, x.hop)
	if ok && !x.of(t.Message()) {
		t.Return(nil)
		return nil, false, err
	}
	return t, ok, err
}

// of reports whether x names a delivery of m.
func (x ref) of(m *matrix.Message) bool { return m.Hop == x.hop && m.Sum == x.base }

func (o *Owner) stale(p *peer, x ref) {
	if p != nil {
		p.stales = append(p.stales, x)
		o.soil(p)
	}
}

func (o *Owner) ack(p *peer, x ref) {
	if p != nil {
		p.acks = append(p.acks, x)
		o.soil(p)
	}
}

// hand puts a message into the hands of a worker.
func (o *Owner) hand(t matrix.Taken, p *peer, c *credit) *hand {
	m := t.Message()
	h := &hand{t: t, m: m, mark: mark(m.Task, m.Hop), p: p, c: c, i: len(p.hands)}
	o.hands[m.Task] = h
	p.hands = append(p.hands, h)
	p.hash ^= h.mark
	c.handed++
	c.refresh()
	return h
}

// drop takes a message out of the hands of a worker.
func (o *Owner) drop(h *hand) {
	p := h.p
	o.unhand(h)
	p.hash ^= h.mark
}

// unhand leaves it in the hash.
func (o *Owner) unhand(h *hand) {
	p, n := h.p, len(h.p.hands)-1
	delete(o.hands, h.m.Task)
	p.hands[h.i] = p.hands[n]
	p.hands[h.i].i = h.i
	p.hands[n] = nil
	p.hands = p.hands[:n]
	h.c.handed--
	h.c.refresh()
	if !h.sent { // it is not to be sent any more
		for i, x := range p.deliver {
			if x == h {
				p.deliver = append(p.deliver[:i], p.deliver[i+1:]...)
				break
			}
		}
	}
}

// result takes in what a handler did.
func (o *Owner) result(p *peer, r *result) {
	if h := o.hands[r.task]; h != nil {
		switch {
		case !r.of(h.m), r.failed && (h.p != p || h.serial != r.serial):
			o.stale(p, r.ref)
		case r.failed:
			o.drop(h)
			o.ack(p, r.ref)
			h.t.Return(r.err)
		case h.p == p:
			o.unhand(h)
			o.commit(h.t, r, p, p)
		default: // two had it
			o.drop(h)
			o.stale(h.p, ref{r.task, r.hop, r.base, h.serial})
			o.commit(h.t, r, p, nil)
		}
		return
	}
	if l := o.landing[r.task]; l != nil {
		switch {
		case l.hop != r.hop || l.base != r.base || r.failed:
			o.stale(p, r.ref)
		case l.from != p:
			l.others = append(l.others, answer{p, r.ref})
		default:
			l.serial = r.serial
		}
		return
	}
	if r.failed && !o.spends(r) {
		o.stale(p, r.ref)
		return
	}
	t, ok, err := o.claim(r.ref)
	switch {
	case err != nil: // the queue is ending; who comes after it is told again
	case !ok:
		o.stale(p, r.ref)
	case !r.failed:
		o.commit(t, r, p, nil)
	case t.Message().Attempt == r.attempt:
		o.ack(p, r.ref)
		t.Return(r.err)
	default:
		o.stale(p, r.ref)
		t.Return(nil)
	}
}

// spends reports whether an error that comes late is to be told to the queue: one that
// spends an attempt that has not been spent yet.
func (o *Owner) spends(r *result) bool {
	var retry *matrix.RetryError
	if r.err == nil || errors.As(r.err, new(*matrix.StopError)) || errors.As(r.err, &retry) && retry.Free {
		return false
	}
	m, ok, err := o.q.Peek(o.ctx, r.task)
	return err == nil && ok && r.of(m) && m.Attempt == r.attempt
}

// commit commits a step of from, in whose hands it was if it was in holder's.
func (o *Owner) commit(t matrix.Taken, r *result, from, holder *peer) {
	l := &landing{ref: r.ref, sum: r.step.Sum, role: r.step.Role, from: from, holder: holder}
	if holder != nil {
		l.mark = mark(r.task, r.hop)
	}
	o.landing[r.task] = l
	durable := func() {
		o.mu.Lock()
		o.landed = append(o.landed, l)
		o.mu.Unlock()
		o.signal()
	}
	if len(r.step.Children) == 0 {
		o.committed(t.Commit(r.step, durable))
		return
	}
	step := r.step
	o.busy.Add(1)
	o.calls.Go(func() { // it waits until it is durable
		defer o.busy.Add(-1)
		o.committed(t.Commit(step, durable))
	})
}

func (o *Owner) committed(err error) {
	if err != nil {
		o.mu.Lock()
		o.err = errors.Join(o.err, err)
		o.mu.Unlock()
		o.signal()
	}
}

// land takes in that a step is durable.
func (o *Owner) land(l *landing) {
	delete(o.landing, l.task)
	if l.holder != nil {
		l.holder.hash ^= l.mark
	}
	o.ack(l.from, l.ref)
	for _, a := range l.others {
		o.ack(a.p, a.ref)
	}
	if l.from != nil && o.roles[l.role] != nil {
		o.last.put(l.task, l.from, l.hop+1, l.sum)
	}
}

// fetch answers a worker that lacks records.
func (o *Owner) fetch(p *peer, x fetch) {
	var m *matrix.Message
	if h := o.hands[x.task]; h != nil && x.of(h.m) {
		m = h.m
	} else if found, ok, err := o.q.Peek(o.ctx, x.task); err == nil && ok && x.of(found) {
		m = found
	} else if err != nil {
		return
	}
	if m == nil || x.from > x.hop {
		o.stale(p, x.ref)
		return
	}
	p.fetches = append(p.fetches, reply{x, m})
	o.soil(p)
}

// tick finds out who is silent.
func (o *Owner) tick(now time.Time) {
	if gap := now.Sub(o.ticked); gap > o.o.Silent/2 { // it is this process that was not there
		for _, p := range o.peers {
			if at := now.Add(-o.o.Silent / 2); p.heard.Before(at) {
				p.heard = at
			}
		}
	}
	o.ticked = now
	held := make([]Held, 0, len(o.peers))
	for id, p := range o.peers {
		p.pieces.expire(now.Add(-2 * o.o.Silent))
		switch {
		case !o.silent(p, now):
		case now.Sub(p.heard) >= forgetting*o.o.Silent:
			o.lose(p)
			delete(o.peers, id)
			continue
		case p.greeted:
			o.lose(p)
		}
		h := Held{Worker: id, Roles: map[string]int{}, Heard: p.heard}
		for r, c := range p.places {
			if c.handed > 0 {
				h.Roles[r.name] = c.handed
			}
		}
		held = append(held, h)
	}
	o.held.Store(&held)
}

// lose returns what a worker holds. It must say hello before it gets anything.
func (o *Owner) lose(p *peer) {
	p.greeted = false
	o.place(p, nil)
	p.flight, p.bytes, p.count = nil, 0, 0
	p.fetches = nil
	for len(p.hands) > 0 {
		h := p.hands[len(p.hands)-1]
		o.drop(h)
		h.t.Return(nil)
	}
}

// recall returns all that is in hands.
func (o *Owner) recall() {
	for _, h := range o.hands {
		o.drop(h)
		h.t.Return(nil)
	}
	o.tick(time.Now())
}

// stop ends the handing out.
func (o *Owner) stop() {
	o.stopping = true
	for _, p := range o.peers {
		p.alive = true
		o.soil(p)
		for _, h := range p.deliver { // they have not left
			o.unsent(h)
		}
		p.deliver = nil
	}
}

func (o *Owner) unsent(h *hand) {
	h.sent = true // it is not in deliver for drop to find
	o.drop(h)
	h.t.Return(nil)
}

// empty reports whether all that was handed out has landed or come back, and workers
// know it; those who do not answer are not waited for.
func (o *Owner) empty(now time.Time) bool {
	if len(o.hands) > 0 || len(o.landing) > 0 || o.busy.Load() > 0 {
		o.emptied = time.Time{}
		return false
	}
	if o.emptied.IsZero() {
		o.emptied = now
	}
	for _, p := range o.peers {
		if p.greeted && p.count > 0 && now.Sub(o.emptied) < o.o.Silent {
			return false
		}
	}
	return true
}

// end takes in what has come, returns what has not, and says what is durable.
func (o *Owner) end() error {
	o.stop()
	o.read()
	o.recall()
	o.calls.Wait()
	err := o.q.Flush(context.WithoutCancel(o.ctx))
	o.settle()
	return errors.Join(err, o.flush())
}
