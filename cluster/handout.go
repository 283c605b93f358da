package cluster

import (
	"fmt"
	"slices"
	"sync/atomic"

	"matrix"
)

// ownerRole is a role that workers act for.
type ownerRole struct {
	name   string
	armed  bool        // the queue will call
	called atomic.Bool // it has
	more   bool        // there may be something to take
	ready  func()

	// Places of all workers: free ones, and those where a task waits for a slot.
	places [2]int
	turns  [2][]*credit // workers that have some, and some that have none any more
	turn   [2]int
}

const (
	free = iota
	extra
)

// credit is the places of a worker for a role.
type credit struct {
	p      *peer
	r      *ownerRole
	slots  int
	extra  int
	handed int

	left [2]int // what of it is free, as r.places has it
	in   [2]bool
}

func (o *Owner) role(name string) *ownerRole {
	r := o.roles[name]
	if r == nil {
		r = &ownerRole{name: name, more: true}
		r.ready = func() {
			r.called.Store(true)
			o.signal()
		}
		o.roles[name] = r
	}
	return r
}

func (o *Owner) credit(p *peer, role string) *credit {
	r := o.role(role)
	c := p.places[r]
	if c == nil {
		c = &credit{p: p, r: r}
		p.places[r] = c
	}
	return c
}

// place takes in how many places a worker has.
func (o *Owner) place(p *peer, list []places) {
	for _, c := range p.places {
		c.slots, c.extra = 0, 0
	}
	for _, x := range list {
		c := o.credit(p, x.role)
		c.slots, c.extra = x.slots, x.extra
	}
	p.refresh()
}

// open reports whether a worker may be given more.
func (p *peer) open() bool { return p.greeted && p.bytes < maxWindow && len(p.deliver) < maxQueued }

func (p *peer) refresh() {
	for _, c := range p.places {
		c.refresh()
	}
}

// refresh counts the free places of a worker anew.
func (c *credit) refresh() {
	var left [2]int
	if c.p.open() {
		left[free] = max(0, c.slots-c.handed)
		left[extra] = max(0, c.slots+c.extra-max(c.handed, c.slots))
	}
	for i, n := range left {
		c.r.places[i] += n - c.left[i]
		if n > 0 && !c.in[i] {
			c.in[i] = true
			c.r.turns[i] = append(c.r.turns[i], c)
		}
	}
	c.left = left
}

// next is the worker whose turn it is to be given a task; nil where none has a place
// of that kind.
func (r *ownerRole) next(kind int) *credit {
	for len(r.turns[kind]) > 0 {
		list := r.turns[kind]
		if r.turn[kind] >= len(list) {
			r.turn[kind] = 0
		}
		i := r.turn[kind]
		c := list[i]
		if c.left[kind] > 0 {
			r.turn[kind]++
			return c
		}
		c.in[kind] = false
		list[i] = list[len(list)-1]
		list[len(list)-1] = nil
		r.turns[kind] = list[:len(list)-1]
	}
	return nil
}

// match hands out what waits for a role as long as there are places: free ones first,
// and then those where a task waits for a slot.
func (o *Owner) match(r *ownerRole) error {
	for {
		if r.called.Swap(false) {
			r.armed, r.more = false, true
		}
		n := r.places[free]
		if n == 0 {
			n = r.places[extra]
		}
		if n = min(n, maxTake); n <= 0 || !r.more {
			return nil
		}
		var ready func()
		if !r.armed {
			r.armed, ready = true, r.ready
		}
		ts, err := o.q.Take(o.ctx, r.name, n, ready)
		if err != nil {
			return err
		}
		r.more = len(ts) == n
		o.settle() // what led to these has landed, and who did it is known
		o.handOut(r, ts)
	}
}

// handOut gives messages to workers that have places: to those that had them last,
// and then in turn.
func (o *Owner) handOut(r *ownerRole, ts []matrix.Taken) {
	rest := ts[:0]
	for _, t := range ts {
		m := t.Message()
		p, ok := o.last.take(m.Task, m.Hop, m.Sum)
		if c := p.of(r); c != nil && c.left[free]+c.left[extra] > 0 && (c.left[free] > 0 || r.places[free] == 0) {
			from := 0
			if ok {
				from = m.Hop + 1
			}
			o.deliver(c, t, from)
			continue
		}
		rest = append(rest, t)
	}
	for _, t := range rest {
		c := r.next(free)
		if c == nil {
			c = r.next(extra)
		}
		if c == nil { // what is on its way to them is enough
			t.Return(nil)
			continue
		}
		o.deliver(c, t, 0)
	}
}

// of is the worker's credit for a role; nil where it has none.
func (p *peer) of(r *ownerRole) *credit {
	if p == nil {
		return nil
	}
	return p.places[r]
}

func (o *Owner) deliver(c *credit, t matrix.Taken, from int) {
	h := o.hand(t, c.p, c)
	o.serial++
	h.serial, h.from = o.serial, from
	c.p.deliver = append(c.p.deliver, h)
	if len(c.p.deliver) >= maxQueued {
		c.p.refresh()
	}
	o.soil(c.p)
}

// flush writes what is to be said to workers.
func (o *Owner) flush() error {
	o.mu.Lock()
	err := o.err
	o.mu.Unlock()
	dirty := o.dirty
	o.dirty = o.dirty[len(o.dirty):]
	for _, p := range dirty {
		p.dirty = false
		if err == nil {
			err = o.write(p)
		}
	}
	if len(o.dirty) == 0 {
		o.dirty = dirty[:0]
	}
	return err
}

const settledEach = 64 // tasks in an item: few are as long as a frame

// write writes to a worker what there is to say, as far as its window goes.
func (o *Owner) write(p *peer) error {
	o.to = p
	o.out.start()
	for _, x := range p.acks {
		start := len(o.out.b)
		o.out.b = putRef(append(o.out.b, kindAck), x)
		o.out.end(start)
	}
	for _, x := range p.stales {
		start := len(o.out.b)
		o.out.b = putRef(append(o.out.b, kindStale), x)
		o.out.end(start)
	}
	for some := range slices.Chunk(p.settled, settledEach) {
		start := len(o.out.b)
		o.out.b = putSettled(o.out.b, some)
		o.out.end(start)
	}
	p.acks, p.stales, p.settled = p.acks[:0], p.stales[:0], p.settled[:0]
	if p.who {
		o.out.b = append(o.out.b, kindWho)
	}
	if p.alive {
		start := len(o.out.b)
		var waiting []string
		for _, c := range p.places {
			if c.r.more && c.slots+c.extra > 0 {
				waiting = append(waiting, c.r.name)
			}
		}
		o.out.b = putAlive(o.out.b, o.stopping, waiting)
		o.out.end(start)
	}
	p.who, p.alive = false, false
	n := 0
	for ; n < len(p.fetches) && p.bytes < maxWindow; n++ {
		x := &p.fetches[n]
		log, err := x.m.Log(o.ctx, x.from)
		if err != nil {
			continue // it was settled, or the worker's hands are the queue's; it asks again
		}
		start := len(o.out.b)
		o.out.id++
		o.out.b = putFetched(o.out.b, x.fetch, log)
		o.out.end(start)
	}
	p.fetches = append(p.fetches[:0], p.fetches[n:]...)
	n = 0
	var err error
	for ; n < len(p.deliver) && p.bytes < maxWindow; n++ {
		if err = o.task(p.deliver[n]); err != nil {
			break
		}
	}
	clear(p.deliver[:n])
	p.deliver = append(p.deliver[:0], p.deliver[n:]...)
	o.out.flush()
	if n > 0 || p.bytes >= maxWindow {
		p.refresh()
	}
	return err
}

// task writes a delivery.
func (o *Owner) task(h *hand) error {
	var log [][]byte
	if h.from <= h.m.Hop {
		var err error
		if log, err = h.m.Log(o.ctx, h.from); err != nil {
			return &matrix.StopError{Err: fmt.Errorf("read task %s: %w", h.m.Task, err)}
		}
	}
	start := len(o.out.b)
	o.out.id++
	o.out.b = putTask(o.out.b, h.serial, h.m, h.from, log)
	o.out.end(start)
	h.sent, h.frame = true, o.seq
	return nil
}

// begin appends the header of the next frame to a worker.
func (o *Owner) begin(b []byte) []byte {
	o.seq = o.to.seq + 1
	h := ownerFrame{version: Version, shard: o.o.Shard, epoch: o.epoch, incarnation: o.to.incarnation, seq: o.seq}
	return h.header(b)
}

func (o *Owner) send(frame []byte) {
	p := o.to
	p.seq = o.seq
	p.flight = append(p.flight, sent{o.seq, len(frame)})
	p.bytes += len(frame)
	_ = o.o.Net.Send(p.address, frame)
}

// recent remembers who acted last for tasks, and what that led to. It keeps those of the
// newest steps.
type recent struct {
	young, old map[string]step
}

type step struct {
	p   *peer
	hop int
	sum uint32
}

const manyRecent = 1 << 17

func (r *recent) put(task string, p *peer, hop int, sum uint32) {
	if len(r.young) >= manyRecent {
		r.old, r.young = r.young, nil
	}
	if r.young == nil {
		r.young = map[string]step{}
	}
	r.young[task] = step{p, hop, sum}
}

// take forgets who acted last for a task, and says who it was. all reports whether the
// task is as that left it.
func (r *recent) take(task string, hop int, sum uint32) (p *peer, all bool) {
	s, ok := r.young[task]
	if ok {
		delete(r.young, task)
	} else if s, ok = r.old[task]; ok {
		delete(r.old, task)
	}
	return s.p, ok && s.hop == hop && s.sum == sum
}
