package llm

import (
	"math"
	"time"
)

// Constants of a climb. Elasticities are those of throughput in calls in flight.
const (
	climbStart = 16.0  // a server with one place, at 20 s a call, answers so many well within 10 minutes
	climbWant  = 0.15  // below, more calls in flight are not worth it: 10% more bring 1.5%
	climbEnd   = 0.3   // below, growth ends; then steps find the knee
	climbGrow  = 0.6   // above, with two standard errors to spare, the knee is far beyond
	climbHarm  = -0.3  // below, with two to spare, the service suffers
	climbLeast = 0.025 // a step: what it costs to be that much too low is not felt
	climbMost  = 0.1   // a step where calls' times do not tell how many wait
	climbSwing = 1.08  // least higher level: contrast enough for some 100 calls
	climbBins  = 4     // to an octave
	climbLine  = 0.6   // elasticity of times, above which calls stand in line
	climbFast  = 128.0 // up to here growth is twice as fast
	climbHolds = 15    // judgements at most before a step down is tried again
)

// climb finds the knee of throughput over calls in flight.
//
// It grows by a place for each answer, by two up to climbFast, which doubles or
// triples them in the time of a call (slow start, as TCP), until calls sent with
// more in flight show that throughput no longer follows. Then it alternates
// between two levels, base and a little above, for somewhat more than the time of
// a call each, contrasts the calls that were sent and answered within each, and
// moves base to where the elasticity between them is climbWant. Three phases are contrasted, the middle
// one with those around it, so that a drift of the service cancels out. After a
// step down that was one too many it rests, for twice as long each time.
type climb struct {
	base    float64
	high    bool // this phase is of the higher level
	swing   float64
	stretch float64 // of phases, where times are noisy
	until   time.Duration
	serial  uint32 // of the phase
	known   int    // phases since base moved, less 1; from restart all

	phases [4]moments // the newest first: calls that ended in the phase they were sent in
	all    [4]moments // and those that ended later
	late   moments    // the newest calls of this phase
	ref    moments    // calls with fewer in flight, to contrast late with
	seen   int

	step  float64
	up    bool    // direction of the last step
	down  float64 // the last step, where it was one down
	hold  int     // judgements without a step down
	holds int
	ups   int     // steps up since the last judgement
	harm  bool    // more calls than the service can hold make it slower
	flat  float64 // lowest level from which more brought nothing; 0 unknown

	idle  float64 // seconds of a call that its work does not explain, where none waits at the service; below 0 unknown
	work  float64 // of a call, smoothed
	count float64

	growing bool
	began   time.Duration
	line    moments                 // of newest calls: their time over the calls in flight when they were sent
	bins    [24 * climbBins]moments // by the logarithm of the calls in flight
}

// queue is the share of a call's time that it waits at the service, where r
// shows it. Where none was ever seen without a wait, only a long one counts.
func (c *climb) queue(r contrast) float64 {
	if r.loose {
		return 0
	}
	q := max(r.many-max(c.idle, 0), 0) / r.time
	if c.idle < 0 && q < 0.5 {
		return 0
	}
	return q
}

func newClimb() climb {
	return climb{base: climbStart, growing: true, step: 0.1, swing: 1.1, stretch: 1, serial: 8, idle: -1}
}

// top is the higher level. Few calls are noisy, and a place more among few is
// much; but where more do harm, the least swing is taken.
func (c *climb) top() float64 {
	swing := c.swing
	if !c.harm {
		swing = max(swing, 1+0.8/math.Sqrt(c.base))
	}
	return max(c.base*swing, c.base+1)
}

// level is how many calls may be in flight: a place more than found, among few.
func (c *climb) level() float64 {
	l := c.base
	if c.high && !c.growing {
		l = c.top()
	}
	return l + 8/(4+c.base)
}

// tag marks a call that is sent as the n-th in flight: one that is sent at the
// level of a phase speaks for it.
func (c *climb) tag(n int) uint32 {
	if l := c.level(); float64(n) > 1.05*l+1 || float64(n) < 0.9*l-1 {
		return 0
	}
	return c.serial
}

// next begins a phase.
func (c *climb) next(l *limiter, high bool) {
	c.high = high
	c.serial++
	c.late = moments{}
	c.seen = 0
	c.until = l.clock + time.Duration(l.took*(1.25+16/c.base)*c.stretch*float64(time.Second))
}

// turn ends the phase when it is time.
func (c *climb) turn(l *limiter) {
	if c.growing || l.took == 0 || l.clock < c.until {
		return
	}
	if l.wall.limit() < c.top() || !l.waiting {
		c.restart(l)
		return
	}
	if c.phases[0].n < 8 {
		c.until = l.clock + time.Duration(l.took*0.5*float64(time.Second))
		return
	}
	c.known++
	if c.known >= 2 {
		c.judge(l)
	}
	c.ref = moments{}
	if !c.high {
		c.ref = c.phases[0]
	}
	copy(c.phases[1:], c.phases[:3])
	copy(c.all[1:], c.all[:3])
	c.phases[0], c.all[0] = moments{}, moments{}
	// After a long step down the lower level comes first: the higher one is much
	// the same as the level before.
	c.next(l, !c.high && !(c.known < 0 && c.down > 0.05))
}

// restart forgets what the phases showed.
func (c *climb) restart(l *limiter) {
	c.known = 0
	c.phases, c.all = [4]moments{}, [4]moments{}
	c.serial += 4
	c.next(l, false)
}

// mean keeps what calls are like.
func (c *climb) mean(work float64) {
	by := max(0.01, 1/(c.count+1))
	c.count++
	c.work += (work - c.work) * by
}

// places is by how many calls more there may be after an answer: none where
// calls took the longer the more were there before them, as in a line.
func (c *climb) places() float64 {
	if c.line.n < 10 {
		return 1
	}
	n, t := c.line.w/c.line.n, c.line.t/c.line.n
	_, _, slope := c.line.line(n)
	switch {
	case slope*n > climbLine*t:
		return 0
	case c.base < climbFast:
		return 2
	}
	return 1
}

// learn takes an answer in. demand says that all places were taken and callers wait.
func (c *climb) learn(l *limiter, t ticket, seconds, work float64, demand bool) {
	c.mean(work)
	if c.growing {
		if t.at < c.began {
			return
		}
		x := math.Log(float64(t.n))
		i := min(int(x*(climbBins/math.Ln2)), len(c.bins)-1)
		c.bins[i].add(work, seconds, x)
		c.line.fade(0.96)
		c.line.add(float64(t.n), seconds, 0)
		if demand && c.base < l.wall.limit() {
			c.base += c.places()
		}
		if c.seen++; c.seen >= 8 {
			c.seen = 0
			c.ease(l, i)
		}
		return
	}
	age := c.serial - t.tag
	if age >= uint32(len(c.phases)) {
		return
	}
	x := math.Log(float64(t.n))
	c.all[age].add(work, seconds, x)
	if age > 0 {
		return
	}
	c.phases[0].add(work, seconds, x)
	if !c.high || c.ref.n == 0 {
		return
	}
	c.late.fade(0.95)
	c.late.add(work, seconds, x)
	if c.seen++; c.seen >= 16 && c.seen&7 == 0 {
		r := elasticity(&c.ref, &c.late, c.work)
		if r.ok && !r.loose && r.se < 0.12 && r.e-2*r.se > climbGrow {
			c.faster(l, r, &c.ref, &c.late)
		}
	}
}

// grow starts growth again, from a little above.
func (c *climb) grow(l *limiter, lo, hi *moments) {
	c.bins = [24 * climbBins]moments{}
	for _, m := range [...]*moments{lo, hi} {
		i := min(int(m.x/m.n*(climbBins/math.Ln2)), len(c.bins)-1)
		c.bins[i] = c.bins[i].plus(m)
	}
	c.base = 1.2 * c.top()
	c.growing = true
	c.line = moments{}
	c.flat, c.ups = 0, 0
	c.began = l.clock
	c.restart(l)
	c.step = 0.1
}

// faster is called when throughput follows the calls in flight closely. Below a
// level that was found to bring no more than a lower one it goes half the way
// there; beyond, the service can do more than it could.
func (c *climb) faster(l *limiter, r contrast, lo, hi *moments) {
	if !r.loose {
		c.idle = r.few
	}
	switch c.ups++; {
	case c.harm && c.ups < 4:
		c.base = c.top()
		c.again(lo)
	case c.top() > 1.02*c.flat || r.level > 0.97*c.flat && r.e-2*r.se > 0.9:
		c.grow(l, lo, hi)
	default:
		c.base = max(c.top(), math.Sqrt(c.base*c.flat))
		c.again(lo)
	}
}

// again goes on from a higher base, without waiting for the lower level.
func (c *climb) again(lo *moments) {
	c.taken()
	c.ref = *lo
	c.phases[0], c.late, c.seen = moments{}, moments{}, 0
	c.serial += 4
	c.known = -1
}

// taken notes that a step down was one too many.
func (c *climb) taken() {
	c.down = 0
	c.up = true
	c.step = climbLeast
	c.holds = min(2*c.holds+1, climbHolds)
	c.hold = c.holds
}

// ease ends growth when it brings little: when calls sent with the most in
// flight, those of bin i, show less throughput for each than those with fewer.
func (c *climb) ease(l *limiter, i int) {
	hi := &c.bins[i]
	if hi.n < 16 {
		return
	}
	var lo, first moments
	var last contrast
	knee, most := 0.0, 0.0 // and by how much more went through at the knee, as a logarithm
	for j := i - climbBins/2; j >= 0; j-- {
		lo = lo.plus(&c.bins[j])
		if lo.n < 8 {
			continue
		}
		first = lo
		r := elasticity(&lo, hi, c.work)
		sure := r.se
		if r.loose {
			sure *= 2.5
		}
		if knee == 0 && j >= i-2*climbBins && r.ok && r.e+sure < climbEnd {
			// From the lower level on, throughput grew by this much.
			low := math.Exp(lo.x / lo.n)
			knee = low * math.Pow(r.level/low, max(r.e, 0))
			c.flat = 1.1 * knee
			if !r.loose {
				last = r
				c.harm = c.harm || r.e+2*r.se < climbHarm && c.queue(r) < 0.05 && r.many < 0.05*r.time
			}
		}
		if low := math.Exp(lo.x / lo.n); knee > low && r.ok && !r.loose {
			if more := -r.e * math.Log(r.level/low); more-r.se*math.Log(r.level/low) > most+0.1 {
				most, knee = more, low
				c.flat, c.harm = 1.1*knee, true
			}
		}
		lo = moments{}
	}
	if knee == 0 {
		return
	}
	least := knee
	if last.ok {
		least = min(knee, last.level*(1-c.queue(last)))
		knee = math.Sqrt(knee * least)
	}
	if c.idle < 0 && math.Exp(first.x/first.n) < least/1.5 {
		// None waited when growth began.
		if r := elasticity(&first, hi, c.work); r.ok && !r.loose {
			c.idle = r.few
			if last.ok {
				knee = min(c.flat, math.Sqrt(c.flat*last.level*(1-c.queue(last))))
			}
		}
	}
	c.base = min(c.base, max(1, 1.1*knee))
	c.growing = false
	c.step, c.up, c.hold, c.holds, c.down = 0.1, false, 0, 0, 0
	c.restart(l)
}

// judge moves base by what the newest phases showed: the middle one against
// those around it, so that a steady drift of the service cancels out.
func (c *climb) judge(l *limiter) {
	r, lo, hi := c.against(0)
	known, kept := c.known, c.known
	if r.ok && r.loose {
		// Only complete phases say something.
		if known--; known < 2 {
			return
		}
		r, lo, hi = c.against(1)
	}
	if !r.ok || known < 3 && !(r.e < climbWant && c.queue(r) > 0.2) && r.e-2*r.se < 0.4 {
		return
	}
	least := climbSwing
	if c.harm {
		least = 1 + (climbSwing-1)/2
	}
	if r.se > 0.25 {
		c.swing = min(1.5, c.swing*1.1)
		c.stretch = min(4, c.stretch*1.3)
		if r.se > 0.5 {
			return
		}
	} else if r.se < 0.1 {
		c.swing = max(least, c.swing*0.97)
		c.stretch = max(1, c.stretch*0.9)
	}
	if r.se < 0.2 && r.e-2*r.se > climbGrow {
		c.faster(l, r, &lo, &hi)
		return
	}
	c.ups = 0
	if q := c.queue(r); q < 0.05 && !r.loose && r.e+2*r.se < climbHarm {
		c.harm = true
	} else if q > 0.1 {
		c.harm = false
	}
	if r.e < climbWant {
		c.flat = math.Exp(lo.x / lo.n)
	}
	c.known = -1
	switch up := r.e > climbWant; {
	case up && c.down > 0:
		if !r.loose {
			c.idle = r.few
		}
		c.base *= 1.02 * (1 + c.down)
		c.taken()
	case up:
		c.pick(up)
		c.base *= 1 + max(c.step, min(0.6*(r.e-climbWant), 0.3))
	case c.hold > 0 && c.queue(r) < 0.2 && r.e > -0.25:
		c.hold--
		c.known = kept
	default:
		c.pick(up)
		c.down = c.step
		if !r.loose {
			q := c.queue(r)
			by := c.base/(1.03*r.level*(1-q)) - 1
			if c.holds > 0 && q < 0.35 {
				by = min(by, 0.1)
			}
			if q < 0.05 {
				by = max(by, min(-0.1*(r.e+2*r.se), 0.2))
			}
			c.down = max(min(c.step, climbLeast), by)
		}
		c.base = max(c.base/(1+c.down), 1)
	}
}

// pick sets the size of a step: larger in the same direction, smaller in the other.
func (c *climb) pick(up bool) {
	if up == c.up {
		c.step = min(climbMost, c.step*1.5)
	} else {
		c.step = max(climbLeast, c.step*0.5)
	}
	c.up = up
}

// against contrasts three phases, from one on.
func (c *climb) against(from int) (r contrast, lo, hi moments) {
	p := &c.phases
	if from > 0 {
		p = &c.all
	}
	lo, hi = p[from], p[from+1]
	if c.known > from+2 {
		lo = lo.plus(&p[from+2])
	}
	if c.high == (from == 0) {
		lo, hi = hi, lo
	}
	r = elasticity(&lo, &hi, c.work)
	if hi.x/hi.n-lo.x/lo.n < 0.5*math.Log(c.top()/c.base) {
		r.ok = false
	}
	return r, lo, hi
}
