package llm

import (
	"math"
	"time"
)

// moments are sums over calls: what they asked for and how long they took.
type moments struct{ n, w, t, ww, wt, tt, tx float64 }

func (m *moments) add(w, t, x float64) {
	m.n++
	m.w += w
	m.t += t
	m.ww += w * w
	m.wt += w * t
	m.tt += t * t
	m.tx += t * x
}

// speed is work a second of one call.
func (m *moments) speed() float64 { return m.w / m.t }

// noise is the variance of the logarithm of speed.
func (m *moments) noise() float64 {
	s := m.speed()
	return max(m.ww-2*s*m.wt+s*s*m.tt, 0) / (m.w * m.w) * m.n / (m.n - 1)
}

// x is the mean logarithm of the calls in flight.
func (m *moments) x() float64 { return m.tx / m.t }

// elasticity of throughput in calls in flight between two groups of calls, and
// its standard error.
func elasticity(lo, hi *moments) (e, se float64, ok bool) {
	if lo.n < 4 || hi.n < 4 {
		return 0, 0, false
	}
	dx := hi.x() - lo.x()
	if dx < 0.02 {
		return 0, 0, false
	}
	return 1 + math.Log(hi.speed()/lo.speed())/dx, math.Sqrt(lo.noise()+hi.noise()) / dx, true
}

const (
	climbStart = 32.0
	climbWant  = 0.15 // elasticity at the knee
	climbLeast = 0.025
	climbMost  = 0.3
)

// climb finds the knee.
type climb struct {
	base    float64
	swing   float64 // the higher level, as a multiple of base
	growing bool
	bins    [48]moments // by half octaves, while growing

	step    float64
	up      bool // direction of the last step
	high    bool
	phase   int // of lo, hi, hi, lo
	until   time.Duration
	periods int
	lo, hi  moments
	speed   float64
	seen    int
}

func newClimb() climb {
	return climb{base: climbStart, growing: true, step: 0.1, swing: 1.1}
}

func (c *climb) top() float64 { return max(c.base*c.swing, c.base+1) }

func (c *climb) level() float64 {
	if c.high && !c.growing {
		return c.top()
	}
	return c.base
}

// half is the length of a half phase.
func (c *climb) half(l *limiter) time.Duration {
	s := l.took * max(0.75, 20/c.base)
	return time.Duration(s * float64(time.Second))
}

// turn goes to the next phase when it is time.
func (c *climb) turn(l *limiter) {
	if c.growing || l.took == 0 || l.clock < c.until {
		return
	}
	if l.wall.height < c.top() || !l.waiting {
		c.reset(l)
		return
	}
	c.phase = (c.phase + 1) % 4
	c.high = c.phase == 1 || c.phase == 2
	c.until = l.clock + c.half(l)
	if c.phase == 0 {
		c.periods++
		c.judge(l)
	}
}

func (c *climb) reset(l *limiter) {
	c.phase, c.high, c.periods = 0, false, 0
	c.lo, c.hi = moments{}, moments{}
	c.until = l.clock + c.half(l)
	c.seen = 0
}

// learn takes an answer in. mean is how many calls were in flight during its life.
func (c *climb) learn(l *limiter, mean, seconds, work float64, demand bool) {
	if c.speed == 0 {
		c.speed = work / seconds
	} else {
		c.speed *= 1 + 0.01*(work/(c.speed*seconds)-1)
	}
	x := math.Log(mean)
	if c.growing {
		i := min(int(x*(2/math.Ln2)), len(c.bins)-1)
		c.bins[i].add(work, seconds, x)
		if demand {
			c.base++
		}
		if c.seen++; c.seen >= 8 {
			c.seen = 0
			c.ease(l, i)
		}
		return
	}
	if mean < c.base*0.9 || mean > c.top()*1.1 {
		return
	}
	if mean*mean > c.base*c.top() {
		c.hi.add(work, seconds, x)
	} else {
		c.lo.add(work, seconds, x)
	}
	if c.seen++; c.seen >= 16 && c.high {
		c.seen = 0
		if e, se, ok := elasticity(&c.lo, &c.hi); ok && c.hi.n >= 16 && e-2*se > 0.6 {
			c.grow(l)
		}
	}
}

func (c *climb) grow(l *limiter) {
	c.base = c.top()
	c.growing = true
	c.bins = [48]moments{}
	c.reset(l)
	c.step = 0.1
}

// ease ends growth when it brings little.
func (c *climb) ease(l *limiter, i int) {
	hi := &c.bins[i]
	if hi.n < 16 {
		return
	}
	var lo moments
	for j := i - 2; j >= max(0, i-4); j-- {
		if c.bins[j].n >= 12 {
			lo = c.bins[j]
			break
		}
	}
	e, se, ok := elasticity(&lo, hi)
	if !ok || e+se > 0.5 {
		return
	}
	// The lowest level that does nearly all.
	best := 0.0
	for j := range c.bins {
		if b := &c.bins[j]; b.n >= 12 {
			best = max(best, b.speed()*math.Exp(b.x()))
		}
	}
	for j := range c.bins {
		if b := &c.bins[j]; b.n >= 12 && b.speed()*math.Exp(b.x()) >= 0.95*best {
			c.base = min(c.base, math.Exp(b.x())*1.05)
			break
		}
	}
	c.growing = false
	c.step, c.up = 0.1, false
	c.reset(l)
}

// judge moves base by what the last periods showed.
func (c *climb) judge(l *limiter) {
	e, se, ok := elasticity(&c.lo, &c.hi)
	if !ok || se > 0.25 && c.periods < 6 {
		if c.periods > 12 {
			c.reset(l)
		}
		return
	}
	if se > 0.3 {
		c.swing = min(1.5, c.swing*1.1)
	} else if se < 0.1 {
		c.swing = max(1.08, c.swing*0.97)
	}
	up := e > climbWant
	if up == c.up {
		c.step = min(climbMost, c.step*1.5)
	} else {
		c.step = max(climbLeast, c.step*0.5)
	}
	c.up = up
	if up {
		c.base *= 1 + c.step
	} else {
		c.base /= 1 + c.step
	}
	c.base = max(c.base, 1)
	c.reset(l)
}
