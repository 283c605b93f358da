package cluster

import (
	"time"

	"matrix"
)

// window knows which of the newest frames of an owner have come.
type window struct {
	top  uint64
	bits [windowBits / 64]uint64
}

const windowBits = 4096

// add reports whether a frame is new. One that comes too late to tell is not.
func (w *window) add(seq uint64) bool {
	switch {
	case seq > w.top:
		if seq-w.top >= windowBits {
			w.bits = [windowBits / 64]uint64{}
		} else {
			for i := w.top + 1; i < seq; i++ {
				w.bits[i%windowBits/64] &^= 1 << (i % 64)
			}
		}
		w.top = seq
	case w.top-seq >= windowBits || w.bits[seq%windowBits/64]&(1<<(seq%64)) != 0:
		return false
	}
	w.bits[seq%windowBits/64] |= 1 << (seq % 64)
	return true
}

// receive is called with an owner's frame.
func (w *Worker) receive(b []byte) {
	f, err := readOwner(b)
	if err != nil || f.shard >= len(w.links) || f.incarnation != 0 && f.incarnation != w.incarnation {
		return
	}
	if f.version != Version {
		if f.incarnation == w.incarnation {
			w.fail(&VersionError{Owner: f.version, Worker: Version})
		}
		return
	}
	now := time.Now()
	var calls []func()
	w.mu.Lock()
	if l := w.links[f.shard]; w.err == nil && w.known(l, f, now) {
		l.unseen += len(b)
		calls = w.apply(l, f, now)
	}
	w.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// known reports whether a frame is of the owner that there is, and has not come before.
func (w *Worker) known(l *link, f *ownerFrame, now time.Time) bool {
	if f.epoch != l.epoch {
		if f.epoch < l.epoch && now.Sub(l.heard) < 3*w.o.Beat {
			return false
		}
		l.epoch, l.newest, l.seen = f.epoch, 0, window{}
		l.stopping, l.waiting, l.pieces = false, nil, pieces{}
		l.hello = true
		w.placing = true
		for _, t := range w.held {
			if t.l == l && t.state == ended {
				t.send()
			}
		}
		signal(w.wake)
	}
	l.heard = now
	if f.seq > 0 && !l.seen.add(f.seq) {
		return false
	}
	l.newest = max(l.newest, f.seq)
	return true
}

// apply takes in what an owner says. calls are to be made without w.mu, which is held.
func (w *Worker) apply(l *link, f *ownerFrame, now time.Time) (calls []func()) {
	for _, x := range f.acks {
		if t := w.held[x.task]; t != nil && t.l == l && t.is(x) && t.state == ended && (!t.failed || t.now() == x.serial) {
			calls = t.acked(calls)
		}
	}
	for _, x := range f.stales {
		t := w.held[x.task]
		if t != nil && t.l == l && t.is(x) && t.now() == x.serial {
			t.forget()
		}
	}
	for i := range f.tasks {
		calls = w.deliver(l, &f.tasks[i], now, calls)
	}
	for _, x := range f.fetched {
		if t := w.held[x.task]; t != nil && t.l == l && t.is(x.ref) && (t.state == queued || t.state == begun) && x.from < t.first {
			t.first, t.records = x.from, own(x.records)
			if t.first <= t.wanted {
				t.answered()
			}
		}
	}
	for _, x := range f.pieces {
		if item := l.pieces.add(x, now); item != nil {
			whole := &ownerFrame{version: f.version, shard: f.shard, epoch: f.epoch, incarnation: f.incarnation, seq: f.seq}
			r := &reader{b: item}
			if whole.items(r); r.err() == nil && whole.pieces == nil {
				calls = append(calls, w.apply(l, whole, now)...)
			}
		}
	}
	if tasks := f.settled; len(tasks) > 0 && w.o.Settled != nil {
		calls = append(calls, func() { w.o.Settled(tasks) })
	}
	if f.who {
		l.hello = true
		signal(w.wake)
	}
	if f.alive {
		w.alive(l, f)
	}
	if l.unseen > maxWindow/8 {
		signal(w.wake)
	}
	return calls
}

// alive takes in how things stand at an owner.
func (w *Worker) alive(l *link, f *ownerFrame) {
	had := len(l.waiting) > 0
	l.waiting = nil
	for _, role := range f.waiting {
		if l.waiting == nil {
			l.waiting = map[string]bool{}
		}
		l.waiting[role] = true
	}
	if len(w.links) > 1 && (had || l.waiting != nil) {
		w.placing = true
	}
	if !f.stopping || l.stopping {
		return
	}
	l.stopping, l.beat, w.placing = true, true, true
	for _, r := range w.roles {
		kept := r.queue[:0]
		for _, t := range r.queue {
			if t.l == l {
				t.end(nil, true)
			} else {
				kept = append(kept, t)
			}
		}
		clear(r.queue[len(kept):])
		r.queue = kept
	}
	signal(w.wake)
	for _, l := range w.links {
		if !l.stopping {
			return
		}
	}
	select {
	case <-w.stopped:
	default:
		close(w.stopped)
	}
}

// own copies records out of a frame, which is kept for them alone otherwise.
func own(records [][]byte) [][]byte {
	n := 0
	for _, r := range records {
		n += len(r)
	}
	all := make([]byte, 0, n)
	for i, r := range records {
		k := len(all)
		all = append(all, r...)
		records[i] = all[k:len(all):len(all)]
	}
	return records
}

// now is the serial of a delivery in the present epoch.
func (t *task) now() uint64 {
	if t.epoch != t.l.epoch {
		return 0
	}
	return t.serial
}

// ref names the delivery of a task.
func (t *task) ref() ref { return ref{t.m.Task, t.m.Hop, t.m.Sum, t.now()} }

// is reports whether x is of the same task at the same hop, upon the same record.
func (t *task) is(x ref) bool { return t.m.Hop == x.hop && t.m.Sum == x.base }

// acked notes that a result has come to its owner.
func (t *task) acked(calls []func()) []func() {
	if t.durable != nil {
		calls = append(calls, t.durable)
	}
	t.forget()
	return calls
}

// deliver takes in a task.
func (w *Worker) deliver(l *link, d *delivery, now time.Time, calls []func()) []func() {
	if t := w.held[d.m.Task]; t != nil {
		switch {
		case t.l != l || t.m.Hop > d.m.Hop: // late
			return calls
		case t.m.Hop < d.m.Hop && t.state == ended && !t.failed:
			calls = t.acked(calls) // this is what it led to
		case t.m.Hop < d.m.Hop || t.m.Sum != d.m.Sum || t.state == ended && t.failed:
			t.forget()
		default: // it is here already
			t.epoch, t.serial = l.epoch, d.serial
			if t.state == ended {
				t.send()
				signal(w.wake)
			}
			return calls
		}
	}
	t := &task{w: w, l: l, m: d.m, epoch: l.epoch, serial: d.serial, came: now, first: d.from}
	if len(d.records) > 0 {
		t.records = own(d.records)
	}
	t.m.Log = t.log
	w.held[t.m.Task] = t
	l.count++
	l.hash ^= mark(t.m.Task, t.m.Hop)
	r := w.roles[t.m.Role]
	if r == nil || w.draining || l.stopping {
		t.r = r
		t.end(nil, true)
		signal(w.wake)
		return calls
	}
	t.r = r
	i := len(r.queue)
	for i > 0 && r.queue[i-1].m.Priority < t.m.Priority {
		i--
	}
	r.queue = append(r.queue, nil)
	copy(r.queue[i+1:], r.queue[i:])
	r.queue[i] = t
	for _, x := range r.waiters {
		if x.ctx.Err() == nil {
			calls = append(calls, x.call)
		}
	}
	r.waiters = nil
	return calls
}

// run sends what there is to send.
func (w *Worker) run() {
	defer close(w.gone)
	every := w.o.Beat / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	signal(w.wake)
	for {
		select {
		case <-w.wake:
			time.Sleep(gather)
		case <-tick.C:
		case <-w.quit:
			w.turn(time.Now(), every)
			return
		}
		w.turn(time.Now(), every)
	}
}

func (w *Worker) turn(now time.Time, every time.Duration) {
	w.mu.Lock()
	placing := w.placing
	w.mu.Unlock()
	due := now.Sub(w.ticked) >= every
	placing = placing || due
	var room map[string]int
	if placing && w.o.Room != nil {
		room = make(map[string]int, len(w.o.Roles))
		for name := range w.o.Roles {
			room[name] = w.o.Room(name)
		}
	}
	w.mu.Lock()
	if placing {
		w.place(room)
	}
	if due {
		w.tick(now)
	}
	for _, l := range w.links {
		w.write(l, now)
	}
	w.mu.Unlock()
	for i, f := range w.frames {
		_ = w.o.Net.Send(f.address, f.b)
		w.frames[i].b = nil
	}
	w.frames = w.frames[:0]
}

// tick has sent again what was not answered. w.mu is held.
func (w *Worker) tick(now time.Time) {
	w.ticked = now
	beat := now.Sub(w.beaten) >= w.o.Beat-w.o.Beat/8
	if beat {
		w.beaten = now
	}
	for _, l := range w.links {
		l.pieces.expire(now.Add(-6 * w.o.Beat))
		if !beat {
			continue
		}
		if l.epoch == 0 {
			l.hello = true
		} else {
			l.beat, l.tell = true, true
		}
	}
	for _, t := range w.held {
		switch {
		case t.state == ended && !t.sending && now.Sub(t.since) >= w.o.Resend:
			t.send()
		case t.answer != nil && now.Sub(t.asked) >= w.o.Resend/2:
			t.asked = now
			t.l.fetches = append(t.l.fetches, t)
		}
	}
}

// write writes what there is to say to an owner. w.mu is held.
func (w *Worker) write(l *link, now time.Time) {
	leave := w.leaving
	if !l.hello && !l.beat && !l.tell && !leave && len(l.results) == 0 && len(l.fetches) == 0 && l.unseen <= maxWindow/8 {
		return
	}
	w.to = l
	w.out.start()
	l.unseen = 0
	for i, t := range l.results {
		t.sending = false
		l.results[i] = nil
		if t.state != ended {
			continue
		}
		if t.piece == 0 {
			w.pieceID++
			t.piece = w.pieceID
		}
		w.out.id = t.piece // a piece that was lost may come with the next time
		start := len(w.out.b)
		x := t.ref()
		if t.failed {
			w.out.b = putFailure(w.out.b, x, t.m.Attempt, t.err)
		} else {
			w.out.b = putStep(w.out.b, x, &t.step)
		}
		w.out.end(start)
		t.since = now
	}
	l.results = l.results[:0]
	for _, t := range l.fetches {
		if t.answer == nil {
			continue
		}
		start := len(w.out.b)
		w.out.b = putFetch(w.out.b, fetch{t.ref(), t.wanted})
		w.out.end(start)
	}
	clear(l.fetches)
	l.fetches = l.fetches[:0]
	start := len(w.out.b)
	switch {
	case leave:
		w.out.b = append(w.out.b, kindLeave)
	case l.hello:
		holds := make([]hold, 0, l.count)
		for _, t := range w.held {
			if t.l == l {
				holds = append(holds, hold{t.ref(), t.state == ended && t.failed})
			}
		}
		w.pieceID++
		w.out.id = w.pieceID
		w.out.b = putHello(w.out.b, l.placed, holds)
	case l.tell:
		w.out.b = putPlaces(w.out.b, l.placed)
	}
	w.out.end(start)
	if l.beat && !leave {
		start := len(w.out.b)
		w.out.b = putBeat(w.out.b, l.count, l.hash)
		w.out.end(start)
	}
	l.hello, l.tell, l.beat = false, false, false
	w.out.finish()
}

// begin appends the header of the next frame to an owner.
func (w *Worker) begin(b []byte) []byte {
	l := w.to
	w.seq = l.seq + 1
	f := workerFrame{version: Version, worker: w.o.ID, incarnation: w.incarnation, seq: w.seq, epoch: l.epoch, seen: l.newest}
	return f.header(b)
}

// keep keeps a frame until w.mu is not held any more.
func (w *Worker) keep(b []byte) {
	w.to.seq = w.seq
	w.frames = append(w.frames, frame{w.to.address, append([]byte(nil), b...)})
}

var _ matrix.Taken = (*task)(nil)
