package llm

import (
	"math/rand/v2"
	"time"
)

// balance is what a scheduler knows of its endpoints as a whole, kept so that a call
// pays for the endpoint that it goes to, and not for a look at all of them.
type balance struct {
	all      []*endpoint
	ready    []*endpoint // that took calls when they were asked last
	due      int         // of these: out, and a trial is due
	asleep   []*endpoint // that are to be asked again at a time
	nextWake time.Time   // the first of these times, or none

	homes   []home  // of sessions
	epoch   int     // of homes
	calls   int     // in flight at endpoints that are in
	weight  float64 // of these endpoints
	weighed time.Time
	others  []*endpoint // scratch
}

// home is an endpoint that sessions may have: neither out nor slow.
type home struct {
	hash uint64
	*endpoint
}

// weighEvery is how often the endpoints' shares are looked at again.
const weighEvery = 200 * time.Millisecond

// refresh does what is due by now.
func (b *balance) refresh(now time.Time, demand bool) {
	if len(b.all) > 1 && now.Sub(b.weighed) > weighEvery {
		b.weighed = now
		weigh(b.all, now)
		b.survey()
	}
	if !b.nextWake.IsZero() && !now.Before(b.nextWake) {
		b.nextWake = time.Time{}
		asleep := b.asleep
		b.asleep = nil
		for _, e := range asleep {
			switch e.asleep = false; {
			case e.wake.IsZero():
			case now.Before(e.wake):
				b.sleep(e, e.wake)
			default:
				b.check(e, now, demand)
			}
		}
		if next := now.Add(time.Millisecond); len(asleep) > 1 && !b.nextWake.IsZero() && b.nextWake.Before(next) {
			b.nextWake = next
		}
	}
}

// check asks an endpoint whether it takes one more call, and notes the answer. It
// is asked whenever something became of it. demand says that calls wait.
func (b *balance) check(e *endpoint, now time.Time, demand bool) bool {
	e.limiter.Demand(demand)
	ok, wake := e.ready(now)
	b.setReady(e, ok)
	e.wake = time.Time{}
	if !ok && !wake.IsZero() {
		b.sleep(e, wake)
	}
	return ok
}

// setReady enters e among those that are ready, or takes it out.
func (b *balance) setReady(e *endpoint, ok bool) {
	if e.index > 0 {
		last := b.ready[len(b.ready)-1]
		b.ready[e.index-1], last.index = last, e.index
		b.ready = b.ready[:len(b.ready)-1]
		e.index = 0
		if e.due {
			e.due = false
			b.due--
		}
	}
	if ok {
		b.ready = append(b.ready, e)
		e.index = len(b.ready)
		if e.out {
			e.due = true
			b.due++
		}
	}
}

func (b *balance) sleep(e *endpoint, wake time.Time) {
	e.wake = wake
	if !e.asleep {
		e.asleep = true
		b.asleep = append(b.asleep, e)
	}
	if b.nextWake.IsZero() || wake.Before(b.nextWake) {
		b.nextWake = wake
	}
}

// use replaces the endpoints.
func (b *balance) use(all []*endpoint, now time.Time, demand bool) {
	for _, e := range b.all {
		b.setReady(e, false)
		e.asleep = false
	}
	b.all, b.asleep, b.nextWake = all, nil, time.Time{}
	b.survey()
	for _, e := range all {
		b.check(e, now, demand)
	}
}

// survey sums up the endpoints. It follows every change of who is out, gone or
// slow.
func (b *balance) survey() {
	b.epoch++
	b.homes, b.calls, b.weight = b.homes[:0], 0, 0
	for _, e := range b.all {
		if e.out || e.gone {
			continue
		}
		b.calls += e.limiter.InFlight()
		b.weight += e.weight
		if e.weight == 1 {
			b.homes = append(b.homes, home{e.hash, e})
		}
	}
}

// count adds to the calls in flight at e.
func (b *balance) count(e *endpoint, n int) {
	if !e.out && !e.gone {
		b.calls += n
	}
}

// overload is how far above the mean load a session's endpoint may be: beyond
// it the session goes to the next one (consistent hashing with bounded loads,
// Mirrokni, Thorup and Zadimoghaddam 2018).
const overload = 1.2

// mayTake reports whether an endpoint may have one more session's call.
func (b *balance) mayTake(e *endpoint) bool {
	return e.load(1) <= max(2, overload*float64(1+b.calls)/max(b.weight, scarce))
}

// home is the endpoint that has w's session, whatever its load; nil for none.
func (b *balance) home(w *waiter) *endpoint {
	if w.session != 0 && (w.epoch != b.epoch || w.home != nil && w.home == w.avoid) {
		w.home, w.epoch = nil, b.epoch
		var high uint64
		for i := range b.homes {
			if h := mix(w.session, b.homes[i].hash); (w.home == nil || h > high) && b.homes[i].endpoint != w.avoid {
				w.home, high = b.homes[i].endpoint, h
			}
		}
	}
	return w.home
}

// mix is the score of an endpoint for a session: the highest has it
// (rendezvous hashing), so that sessions stay where they are when others come
// and go.
func mix(session, endpoint uint64) uint64 {
	x := session ^ endpoint
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// choose picks an endpoint that is ready: for a session the one that has it,
// unless that is loaded above the bound or slow; otherwise the less loaded of
// two. The one where a try of the call has failed is left out if there is
// another, and so are trials then. nil where none is ready.
func (b *balance) choose(now time.Time, w *waiter, demand bool) *endpoint {
	for len(b.ready) > 0 {
		if e := b.pick(w); b.check(e, now, demand) {
			return e
		}
	}
	return nil
}

func (b *balance) pick(w *waiter) *endpoint {
	ready := b.ready
	if w.avoid != nil {
		b.others = b.others[:0]
		for _, e := range ready {
			if e != w.avoid && !e.out {
				b.others = append(b.others, e)
			}
		}
		if len(b.others) > 0 {
			ready = b.others
		}
	}
	if len(ready) == 1 {
		return ready[0]
	}
	if b.due > 0 {
		for _, e := range ready {
			if e.out { // a trial is due
				return e
			}
		}
	}
	if w.session != 0 {
		if e := b.home(w); e != nil && e.index > 0 && b.mayTake(e) {
			return e
		}
		var best *endpoint
		var high uint64
		for _, e := range ready {
			if h := mix(w.session, e.hash); (best == nil || h > high) && e.weight == 1 && b.mayTake(e) {
				best, high = e, h
			}
		}
		if best != nil {
			return best
		}
	}
	i := rand.IntN(len(ready))
	j := rand.IntN(len(ready) - 1)
	if j >= i {
		j++
	}
	if ready[j].load(1) < ready[i].load(1) {
		return ready[j]
	}
	return ready[i]
}
