package limit

import "math"

// Constants of a knee. Elasticities are those of throughput in calls in flight.
const (
	kneeStart = 16.0 // a server with one place, at 20 s a call, answers so many well within 10 minutes
	kneeGain  = 1.5  // places more for each answer, at full growth
	kneeAhead = 1.75 // growth stops to wait for a verdict at so many times what was found to be well
	kneeWell  = 0.6  // above, growth goes on at its full rate
	kneeWant  = 0.15 // below, more calls in flight are not worth it: 10% more bring 1.5%
	kneeAll   = 0.95 // above, calls do not slow each other
	kneeQueue = 0.1  // share of a call's time: that much more of waiting ends growth, where it is sure
	kneeSure  = 2.5  // standard errors that one observation must show, for that
	kneeHint  = 1.5  // and each of two that follow each other
	kneeOver  = 1.05 // above what the end of growth shows, which is less than there is: noise would set off growth again
	kneeDrop  = 0.85 // a step down at most: what looks like a queue may be a service that became slower
	kneeDeep  = 0.3  // the lower level at most below base, where both may be queued
	kneeStep  = 0.05 // a step up at most, where calls slow each other
	kneeNoise = 3.0  // standard errors of an observation that the levels are apart, within
	kneeLeast = 0.05 // this
	kneeMost  = 0.25 // and this
	kneeLower = 6.0  // how much closer to base the lower level is than the higher one
	kneeLows  = 3    // cohorts of the lower level
	kneeHighs = 7    // and then of the higher one
	kneePart  = 4    // cohorts for as many calls as are in flight
	kneeRing  = 8    // cohorts that are kept
)

// knee finds base, the knee of throughput over calls in flight, by comparing
// cohorts of calls that were sent with few and with more of them in flight.
//
// It grows with each answer, as TCP in slow start, until calls wait or throughput
// does not follow, and never far beyond what was seen to be well. Then it
// holds two levels in turn, one just below base, where none waits, and one above
// it, where some do. The calls of the higher level wait for (n-knee)/n of their
// time, by Little's law (calls in flight = throughput times the time of a call),
// so each of its cohorts shows where the knee is. When they do not wait any more
// growth starts again.
type knee struct {
	base   float64
	grow   float64 // part of the full rate of growth; 0 for none
	well   float64 // calls in flight up to which throughput followed them
	margin float64 // of the higher level above base
	depth  float64 // of the next lower level below it, where there seems to be a queue
	alone  float64 // share of a call's time that its work does not explain, where none waits
	hints  int     // cohorts that followed each other and showed the same
	slows  bool    // calls slow each other, rather than wait in a queue

	serial uint32 // of the newest cohort
	from   uint32 // those before do not count
	turn   int    // of the levels
	fresh  bool   // few is of the lower level that has just been
	ring   [kneeRing]cohort
	few    observation // of fewer calls, to compare with
	mid    observation // in growth: that to compare with next

	work, count float64 // of a call, smoothed
}

func newKnee() knee {
	c := knee{base: kneeStart, grow: 1, well: 1.5 * kneeStart, margin: 0.1, alone: 1, serial: kneeRing}
	c.open()
	return c
}

// level is how many calls may be in flight: a place more than found, among few.
func (k *knee) level() float64 {
	switch {
	case k.grow > 0:
		return k.base
	case k.ring[k.serial%kneeRing].low:
		return max(1, k.base*(1-max(k.margin/kneeLower, k.depth)))
	}
	return k.base*(1+k.margin) + 8/(4+k.base)
}

// open begins a cohort. Where calls slow each other it is long, as those that
// are sent feel the ones before and after them.
func (k *knee) open() {
	low := false
	if k.grow == 0 {
		low = k.turn < kneeLows
		k.turn = (k.turn + 1) % (kneeLows + kneeHighs)
	}
	calls := k.base / kneePart
	if k.slows && k.grow == 0 {
		calls = k.base
	}
	k.serial++
	k.ring[k.serial%kneeRing] = newCohort(k.serial, low, calls)
}

// tag takes a call that is sent, as the nth in flight, into a cohort: if it is at
// its level.
func (k *knee) tag(l *Limiter) uint32 {
	if o := &k.ring[k.serial%kneeRing]; o.sent == o.size {
		k.open()
	}
	n, level := float64(l.n), k.level()
	if n > 1.05*level+1 || k.grow == 0 && n < 0.95*level-1 || !k.ring[k.serial%kneeRing].take(l.clock) {
		return 0
	}
	return k.serial
}

// lost takes a call out of its cohort that was not answered.
func (k *knee) lost(tag uint32) {
	if o := &k.ring[tag%kneeRing]; tag != 0 && o.serial == tag {
		o.drop(tag == k.serial)
	}
}

// learn takes an answer in. demand says that all places were taken and callers wait.
func (k *knee) learn(l *Limiter, t Ticket, seconds, work float64, demand bool) {
	k.count++
	k.work += (work - k.work) * max(0.01, 1/k.count)
	if most := kneeAhead * k.well; demand && k.base < min(most, l.ceiling.limit()) {
		k.base = min(k.base+kneeGain*k.grow, most)
	}
	o := &k.ring[t.tag%kneeRing]
	if t.tag == 0 || o.serial != t.tag || t.tag < k.from {
		return
	}
	o.end(seconds, work, math.Log(float64(t.n)))
	if s, ok := o.observe(l.clock); ok {
		k.from = o.serial + 1
		k.judge(&s, o.low, l.took)
	}
}

// judge moves base by what a cohort showed. took is the time of a call.
func (k *knee) judge(s *observation, low bool, took float64) {
	switch {
	case k.few.n == 0:
		k.few, k.mid = *s, *s
	case low && k.fresh:
		k.few.merge(s)
	case low:
		k.few, k.fresh = *s, true
	default:
		if k.fresh {
			k.fresh = false
			k.setDepth(took)
		}
		v := s.against(&k.few, k.work, took)
		switch {
		case k.grow > 0:
			k.grown(s, v)
		case v.ok:
			k.margin = min(max(kneeNoise*v.err, kneeLeast), kneeMost)
			k.follow(s, v)
		}
	}
}

// grown goes on with growth, or ends it.
func (k *knee) grown(s *observation, v contrast) {
	hint := v.queued > max(kneeQueue, kneeHint*v.err)
	switch {
	case !v.ok:
		k.mid.merge(s)
		return
	case v.queued > max(kneeQueue, kneeSure*v.err) || hint && k.hints > 0:
		k.slows = false
		k.settle(kneeOver * v.n * (1 - v.queued))
		return
	case v.e+v.se < kneeWant:
		k.slows = v.queued < 0.5*(1-v.e)*v.dx // less than half of the time more is spent in the queue
		k.settle(0.9 * v.n)
		return
	}
	k.hints = 0
	if hint {
		k.hints = 1
	}
	k.grow = min(1, (v.e+v.se-kneeWant)/(kneeWell-kneeWant))
	k.well = max(k.well, v.n)
	if v.n < 1.3*k.mid.level() {
		k.mid.merge(s)
	} else { // compare with what is not far below: calls may slow each other a little
		k.few, k.mid = k.mid, *s
	}
}

// follow moves base to the knee.
func (k *knee) follow(s *observation, v contrast) {
	knee := v.n * (1 - v.queued)
	if v.e < kneeWant {
		knee = min(knee, k.few.level()*math.Exp(v.e*v.dx))
	}
	k.hints++
	if v.e < kneeWell {
		k.hints = 0
	}
	switch {
	case k.slows && v.e < kneeAll && v.e-v.se > kneeWant:
		k.base *= 1 + min(0.4*(v.e-kneeWant), kneeStep)
		k.hints = 0
		k.open()
		k.from = k.serial
	case v.e-2*v.se > kneeWell || k.hints > 1:
		k.base = max(k.base, v.n)
		k.grow, k.well, k.mid = 1, v.n, *s
		k.slows, k.hints = false, 0
	case v.e+2*v.se < -0.5: // slower, or fewer places: more than two levels can tell
		k.settle(max(knee, kneeDrop*k.base))
	case knee < k.base*(1-3*v.err):
		k.base = max(1, knee, kneeDrop*k.base)
	default:
		k.base = max(1, (k.base+max(knee, kneeDrop*k.base))/2)
	}
}

// settle ends growth at a base, and goes to the lower level at once.
func (k *knee) settle(base float64) {
	k.base = max(1, min(base, k.base))
	k.grow, k.hints, k.turn = 0, 0, 0
	k.open()
	k.from = k.serial
}

// setDepth sets how deep the next lower level is. Both levels may be queued,
// where the service lost places: then more of a call's time is unexplained by
// its work than before, and the next lower level is where none should be.
func (k *knee) setDepth(took float64) {
	alone, err := k.few.unexplained(k.work, took)
	if k.depth > 0 || alone < k.alone {
		k.alone, k.depth = alone, 0
	} else if more := alone - k.alone; more > err {
		k.depth = min(more/(1-k.alone), kneeDeep)
	}
}
