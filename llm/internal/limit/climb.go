package limit

import "math"

// Constants of a climb. Elasticities are those of throughput in calls in flight.
const (
	climbStart = 16.0 // a server with one place, at 20 s a call, answers so many well within 10 minutes
	climbGain  = 1.5  // places more for each answer, at full growth
	climbAhead = 1.75 // growth stops to wait for a verdict at so many times what was found to be well
	climbWell  = 0.6  // above, growth goes on at its full rate
	climbWant  = 0.15 // below, more calls in flight are not worth it: 10% more bring 1.5%
	climbAll   = 0.95 // above, calls do not slow each other
	climbLine  = 0.1  // share of a call's time: that much more of waiting ends growth, where it is sure
	climbSure  = 2.5  // standard errors that one sight must show, for that
	climbHint  = 1.5  // and each of two that follow each other
	climbOver  = 1.05 // above what the end of growth shows, which is less than there is: noise would set off growth again
	climbDrop  = 0.85 // a step down at most: what looks like a line may be a service that became slower
	climbDeep  = 0.3  // the lower level at most below base, where both may be in the line
	climbStep  = 0.05 // a step up at most, where calls slow each other
	climbNoise = 3.0  // standard errors of a sight that the levels are apart, within
	climbLeast = 0.05 // this
	climbMost  = 0.25 // and this
	climbLower = 6.0  // how much closer to base the lower level is than the higher one
	climbLows  = 3    // cohorts of the lower level
	climbHighs = 7    // and then of the higher one
	climbPart  = 4    // cohorts for as many calls as are in flight
	climbRing  = 8    // cohorts that are kept
)

// climb finds base, the knee of throughput over calls in flight, by comparing
// cohorts of calls that were sent with few and with more of them in flight.
//
// It grows with each answer, as TCP in slow start, until calls wait or throughput
// does not follow, and never far beyond what was seen to be well. Then it
// holds two levels in turn, one just below base, where none waits, and one above
// it, where some do. The calls of the higher level wait for (n-knee)/n of their
// time, by Little's law (calls in flight = throughput times the time of a call),
// so each of its cohorts shows where the knee is. When they do not wait any more
// growth starts again.
type climb struct {
	base   float64
	grow   float64 // part of the full rate of growth; 0 for none
	well   float64 // calls in flight up to which throughput followed them
	margin float64 // of the higher level above base
	depth  float64 // of the next lower level below it, where there seems to be a line
	alone  float64 // share of a call's time that its work does not explain, where none waits
	hints  int     // cohorts that followed each other and showed the same
	slows  bool    // calls slow each other, rather than wait in line

	serial uint32 // of the newest cohort
	from   uint32 // those before do not count
	turn   int    // of the levels
	fresh  bool   // few is of the lower level that has just been
	ring   [climbRing]cohort
	few    sight // of fewer calls, to compare with
	mid    sight // in growth: that to compare with next

	work, count float64 // of a call, smoothed
}

func newClimb() climb {
	c := climb{base: climbStart, grow: 1, well: 1.5 * climbStart, margin: 0.1, alone: 1, serial: climbRing}
	c.open()
	return c
}

// level is how many calls may be in flight: a place more than found, among few.
func (c *climb) level() float64 {
	switch {
	case c.grow > 0:
		return c.base
	case c.ring[c.serial%climbRing].low:
		return max(1, c.base*(1-max(c.margin/climbLower, c.depth)))
	}
	return c.base*(1+c.margin) + 8/(4+c.base)
}

// open begins a cohort. Where calls slow each other it is long, as those that
// are sent feel the ones before and after them.
func (c *climb) open() {
	low := false
	if c.grow == 0 {
		low = c.turn < climbLows
		c.turn = (c.turn + 1) % (climbLows + climbHighs)
	}
	calls := c.base / climbPart
	if c.slows && c.grow == 0 {
		calls = c.base
	}
	c.serial++
	c.ring[c.serial%climbRing] = newCohort(c.serial, low, calls)
}

// tag takes a call that is sent, as the nth in flight, into a cohort: if it is at
// its level.
func (c *climb) tag(l *Limiter) uint32 {
	if o := &c.ring[c.serial%climbRing]; o.sent == o.size {
		c.open()
	}
	n, level := float64(l.n), c.level()
	if n > 1.05*level+1 || c.grow == 0 && n < 0.95*level-1 || !c.ring[c.serial%climbRing].take(l.clock) {
		return 0
	}
	return c.serial
}

// lost takes a call out of its cohort that was not answered.
func (c *climb) lost(tag uint32) {
	if o := &c.ring[tag%climbRing]; tag != 0 && o.serial == tag {
		o.drop(tag == c.serial)
	}
}

// learn takes an answer in. demand says that all places were taken and callers wait.
func (c *climb) learn(l *Limiter, t Ticket, seconds, work float64, demand bool) {
	c.count++
	c.work += (work - c.work) * max(0.01, 1/c.count)
	if most := climbAhead * c.well; demand && c.base < min(most, l.ceiling.limit()) {
		c.base = min(c.base+climbGain*c.grow, most)
	}
	o := &c.ring[t.tag%climbRing]
	if t.tag == 0 || o.serial != t.tag || t.tag < c.from {
		return
	}
	o.end(seconds, work, math.Log(float64(t.n)))
	if s, ok := o.sight(l.clock); ok {
		c.from = o.serial + 1
		c.judge(&s, o.low, l.took)
	}
}

// judge moves base by what a cohort showed. took is the time of a call.
func (c *climb) judge(s *sight, low bool, took float64) {
	switch {
	case c.few.n == 0:
		c.few, c.mid = *s, *s
	case low && c.fresh:
		c.few.merge(s)
	case low:
		c.few, c.fresh = *s, true
	default:
		if c.fresh {
			c.fresh = false
			c.sound(took)
		}
		v := s.against(&c.few, c.work, took)
		switch {
		case c.grow > 0:
			c.grown(s, v)
		case v.ok:
			c.margin = min(max(climbNoise*v.err, climbLeast), climbMost)
			c.follow(s, v)
		}
	}
}

// grown goes on with growth, or ends it.
func (c *climb) grown(s *sight, v contrast) {
	hint := v.line > max(climbLine, climbHint*v.err)
	switch {
	case !v.ok:
		c.mid.merge(s)
		return
	case v.line > max(climbLine, climbSure*v.err) || hint && c.hints > 0:
		c.slows = false
		c.settle(climbOver * v.n * (1 - v.line))
		return
	case v.e+v.se < climbWant:
		c.slows = v.line < 0.5*(1-v.e)*v.dx // less than half of the time more is spent in line
		c.settle(0.9 * v.n)
		return
	}
	c.hints = 0
	if hint {
		c.hints = 1
	}
	c.grow = min(1, (v.e+v.se-climbWant)/(climbWell-climbWant))
	c.well = max(c.well, v.n)
	if v.n < 1.3*c.mid.level() {
		c.mid.merge(s)
	} else { // compare with what is not far below: calls may slow each other a little
		c.few, c.mid = c.mid, *s
	}
}

// follow moves base to the knee.
func (c *climb) follow(s *sight, v contrast) {
	knee := v.n * (1 - v.line)
	if v.e < climbWant {
		knee = min(knee, c.few.level()*math.Exp(v.e*v.dx))
	}
	c.hints++
	if v.e < climbWell {
		c.hints = 0
	}
	switch {
	case c.slows && v.e < climbAll && v.e-v.se > climbWant:
		c.base *= 1 + min(0.4*(v.e-climbWant), climbStep)
		c.hints = 0
		c.open()
		c.from = c.serial
	case v.e-2*v.se > climbWell || c.hints > 1:
		c.base = max(c.base, v.n)
		c.grow, c.well, c.mid = 1, v.n, *s
		c.slows, c.hints = false, 0
	case v.e+2*v.se < -0.5: // slower, or fewer places: more than two levels can tell
		c.settle(max(knee, climbDrop*c.base))
	case knee < c.base*(1-3*v.err):
		c.base = max(1, knee, climbDrop*c.base)
	default:
		c.base = max(1, (c.base+max(knee, climbDrop*c.base))/2)
	}
}

// settle ends growth at a base, and goes to the lower level at once.
func (c *climb) settle(base float64) {
	c.base = max(1, min(base, c.base))
	c.grow, c.hints, c.turn = 0, 0, 0
	c.open()
	c.from = c.serial
}

// sound sets how deep the next lower level is. Both levels may be in the line,
// where the service lost places: then more of a call's time is unexplained by
// its work than before, and the next lower level is where none should be.
func (c *climb) sound(took float64) {
	alone, err := c.few.unexplained(c.work, took)
	if c.depth > 0 || alone < c.alone {
		c.alone, c.depth = alone, 0
	} else if more := alone - c.alone; more > err {
		c.depth = min(more/(1-c.alone), climbDeep)
	}
}
