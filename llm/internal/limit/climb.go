package limit

import (
	"math"
	"time"
)

// Constants of a climb.
const (
	climbLeast  = 32   // calls of a period at least, in growth
	climbMost   = 64   // and then
	climbGrow   = 0.85 // of a level, from one to the next in growth, at most
	climbDoubt  = 3    // times as many calls before growth ends, where it is not plain
	climbSure   = 3.0  // standard errors that show that calls wait
	climbPlain  = 6.0  // standard errors that are plain
	climbOff    = 0.1  // part of a level that it may have been missed by
	climbNoise  = 0.01 // part of the time of a call that says nothing
	climbOver   = 1.08 // times the knee: a few wait, so that no place is empty
	climbProbe  = 1.25 // times that, to see whether throughput follows
	climbHolds  = 3    // periods from one probe to the next
	climbFollow = 0.5  // elasticity above which it does: it is 1 below the knee and 0 above
	climbSome   = 64   // calls that did not wait, at least, to know how long one takes
	climbAgain  = 0.3  // part of the full rate at which growth begins again
	climbDrain  = 0.85 // of the knee: none wait
	climbDeep   = 0.7  // the same, while little is known
	climbLess   = 0.05 // elasticity between many and few, above which the few do not wait
	climbStep   = 0.5  // of the way to what one period shows
	climbFirst  = 0.35 // kneeQueue, while there is next to nothing to compare with
)

// climb finds base, the knee of throughput over calls in flight, as a knee does, by sums
// over periods in each of which a level is held.
//
// It grows from level to level until calls wait or throughput does not follow. Then it
// holds fewer for a period, to know better how long a call takes that does not wait, and the
// knee is, by Little's law, throughput times that: the product of bandwidth and delay, as
// TCP BBR has it. It holds a little more than the knee, and far more for a period now and
// then: if throughput follows, growth goes on, whatever it was that ended it.
type climb struct {
	base float64
	grow float64 // part of the full rate of growth; 0 for none

	free   observation // of calls that do not wait
	few    observation // to compare with next: in growth, of a level below; else of all periods since the last probe
	slows  bool        // calls slow each other, rather than wait in a queue
	drains bool        // fewer calls are in flight than at the knee, so that none waits
	holds  int         // periods since the last probe
	period period
}

// period is a time in which as many calls were in flight as there may be.
type period struct {
	from  time.Duration // nothing counts before: calls end that were sent at the level before
	last  time.Duration // newest report
	span  float64       // seconds that count
	level float64       // calls in flight, times the seconds
	held  float64       // the same, of each process over the time that done is of
	done  moments       // of calls that were answered
	doubt bool          // it shows that growth is to end: it goes on, to be sure
}

func newClimb() climb { return climb{base: kneeStart, grow: 1} }

// level is how many calls may be in flight: a place more than found, among few.
func (c *climb) level() float64 {
	level := c.base*climbOver + 8/(4+c.base)
	switch {
	case c.grow > 0:
		return c.base
	case c.drains && c.free.n < climbSome:
		return max(1, c.base*climbDeep)
	case c.drains:
		return max(1, c.base*climbDrain)
	case c.holds == climbHolds:
		return level * climbProbe
	}
	return level
}

// learn takes in what a process tells of the time since it told last: the calls that were answered
// while it had own ones in flight, of n in all. demand says that callers wait for room. It
// reports whether the level is another.
func (c *climb) learn(s *Shared, since time.Duration, done *moments, own, n float64, demand bool) bool {
	p, most := &c.period, s.full.limit()
	dt := (s.clock - p.last).Seconds()
	p.last = s.clock
	if s.clock < p.from {
		return false
	}
	p.span += dt
	p.level += n * dt
	if since <= SliceLife && s.clock-since >= p.from {
		p.held += own * since.Seconds()
		p.done = p.done.plus(done)
	}
	enough, span := max(climbMost, 1.5*n), s.took
	if c.grow > 0 || c.drains {
		enough, span = max(climbLeast, 0.75*n), s.took/2
	}
	if p.doubt {
		enough *= climbDoubt
	}
	if p.done.n < enough || p.span < span {
		return false
	}
	level := p.level / p.span
	if !demand || p.held == 0 || math.Abs(level-float64(s.limit())) > (climbOff+s.full.refusing)*level+1 || most <= c.level() {
		*p = period{last: s.clock} // it was not held, or the service is full before calls wait
		return false
	}
	o := observation{moments: p.done}
	mean := o.t / o.n
	o.quick = p.held / o.n // by Little's law: those that ended are the short ones, as long as more and more are sent
	o.err = o.quick * (math.Sqrt(max(o.tt/o.n-mean*mean, 0)/o.n)/mean + climbNoise)
	o.x = o.n * math.Log(max(1, level))
	switch {
	case c.grow == 0:
		c.hold(&o)
	case !c.grown(&o, p.doubt):
		p.doubt = true
		return false
	}
	c.base = min(c.base, most)
	*p = period{from: s.clock + time.Duration(s.took*1e9), last: s.clock}
	return true
}

// grown goes on with growth, or ends it: once that is sure, which it reports.
func (c *climb) grown(o *observation, doubted bool) bool {
	if c.few.n == 0 {
		c.few = *o
		c.faster(o.level())
		return true
	}
	queue := kneeQueue
	ref := &c.free
	if c.free.n == 0 {
		ref = &c.few
		if !doubted {
			queue = climbFirst
		}
	}
	wait, few := o.beyond(ref), o.beyond(&c.few)
	waits := wait.queued > max(queue, climbSure*wait.err)
	if waits || few.e+few.se < kneeWant {
		if !doubted && wait.queued < climbPlain*wait.err {
			return false
		}
		c.grow, c.holds = 0, climbHolds-1 // that growth ended early is found out soon
		c.slows, c.drains = !waits, waits
		if waits {
			c.base, c.few = o.level()*(1-wait.queued), *o
		} else {
			c.base, c.few = 0.9*o.level(), observation{}
		}
		return true
	}
	if few.e+few.se > kneeAll {
		add(&c.free, o)
	}
	c.grow = min(1, max(climbAgain, (few.e-kneeWant)/(kneeWell-kneeWant)))
	c.few = *o
	c.faster(o.level())
	return true
}

func (c *climb) faster(level float64) { c.base = level * (1 + climbGrow*c.grow) }

// hold moves base to what a period shows.
func (c *climb) hold(o *observation) {
	switch v := o.beyond(&c.few); {
	case c.drains:
		if v = c.few.beyond(o); v.e-v.se > climbLess || o.level() < 2 {
			add(&c.free, o)
			c.base, c.few, c.drains = c.knee(&c.few), observation{}, false
		} else {
			c.base = o.level() // they wait there, too
		}
	case c.holds < climbHolds:
		c.holds++
		add(&c.few, o)
	case v.e > climbFollow: // none waited, whatever it had seemed
		c.grow, c.slows, c.holds, c.free = climbAgain, false, 0, c.few
		c.few = *o
		c.faster(o.level())
	case c.slows:
		c.base *= 1 + max(kneeDrop-1, min(v.e-kneeWant, kneeStep))
		c.holds, c.few = 0, observation{}
	default:
		c.base += climbStep * (max(c.knee(o), kneeDrop*c.base) - c.base)
		c.holds, c.few = 0, observation{}
	}
}

// knee is how many calls the service works on, while it has more.
func (c *climb) knee(o *observation) float64 { return o.level() * min(1, c.free.quick/o.quick) }

// add takes what another period shows into what those before did.
func add(to, o *observation) {
	if to.n == 0 {
		*to = *o
		return
	}
	to.merge(o)
}

// beyond compares a period with one of fewer calls in flight. What a call takes longer it waits,
// unless its work explains that: then calls slow each other.
func (s *observation) beyond(few *observation) (c contrast) {
	c.n = s.level()
	c.dx = max(math.Log(c.n/few.level()), 0.02)
	c.e = 1 - math.Log(s.quick/few.quick)/c.dx
	c.err = math.Hypot(s.err/s.quick, few.err/few.quick)
	c.se = c.err / c.dx
	c.queued = 1 - few.quick/s.quick
	t, _, slope := s.line(0)
	before, _, was := few.line(0)
	if slope > 0 && was > 0 && t-before < (s.quick-few.quick)/2 {
		c.queued = min(c.queued, 0)
	}
	return c
}
