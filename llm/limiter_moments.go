package llm

import "math"

// moments are sums over calls: of their work w, the seconds t they took, and x,
// the logarithm of the calls in flight when they were sent.
type moments struct{ n, w, t, x, ww, wt, tt float64 }

func (m *moments) add(w, t, x float64) {
	m.n++
	m.w += w
	m.t += t
	m.x += x
	m.ww += w * w
	m.wt += w * t
	m.tt += t * t
}

// contrast is what two groups of calls, with few and with more in flight, show.
type contrast struct {
	e     float64 // elasticity of throughput in calls in flight
	se    float64 // its standard error
	level float64 // calls in flight, where there were more
	time  float64 // seconds of a call of mean work, with more in flight
	few   float64 // seconds of a call that its work does not explain, with few
	many  float64 // and with more
	loose bool    // these are not known, since a call's work says little of its time
	ok    bool
}

// elasticity is how much throughput follows the calls in flight, between a
// group of calls with few and one with more: 1 where it grows with them, 0 where
// it stays, less where it falls. By Little's law (calls in flight = throughput
// times the time of a call) it is 1 less the elasticity of that time. Times are
// compared at equal work, by a line through each group: replies vary in length
// much more than a service in speed, and throughput counted over as many calls
// would be ten times as noisy.
func elasticity(lo, hi *moments, work float64) (c contrast) {
	if lo.n < 4 || hi.n < 4 {
		return c
	}
	dx := hi.x/hi.n - lo.x/lo.n
	if dx < 0.01 {
		return c
	}
	a, restA, slopeA := lo.line(work)
	b, restB, slopeB := hi.line(work)
	c.e = 1 - math.Log(b/a)/dx
	// A call also waits for the work of those before it, and the calls of a
	// group wait for much the same ones: their times are not independent.
	behind := 0.0
	if slopeA > 0 && slopeB > 0 {
		q := max(0, 1-slopeB*work/b)
		n := q * math.Exp(hi.x/hi.n)
		behind = q * q * (hi.ww*hi.n/(hi.w*hi.w) - 1) * (1/(n+lo.n) + 1/(n+hi.n))
	}
	c.se = math.Sqrt(restA/(a*a)+restB/(b*b)+behind) / dx
	c.loose = slopeA == 0 || slopeB == 0
	c.time = b
	if !c.loose {
		c.few, c.many = max(a-slopeA*work, 0), max(b-slopeB*work, 0)
	}
	c.level = math.Exp(hi.x / hi.n)
	c.ok = true
	return c
}

// line is the time that a call with work w takes, by a line through the calls,
// the variance of that, and the line's slope: 0 where work explains little.
func (m *moments) line(w float64) (t, rest, slope float64) {
	ww := m.ww - m.w*m.w/m.n
	wt := m.wt - m.w*m.t/m.n
	tt := m.tt - m.t*m.t/m.n
	if ww > 1e-9*m.ww && wt > 0 && wt*wt > 0.25*ww*tt {
		slope = wt / ww
	}
	off := w - m.w/m.n
	rest = max(tt-slope*wt, 0) / (m.n - 2) / m.n
	if slope > 0 {
		rest *= 1 + off*off*m.n/ww
	}
	return max(m.t/m.n+slope*off, 1e-9), rest, slope
}

func (m *moments) fade(by float64) {
	m.n *= by
	m.w *= by
	m.t *= by
	m.x *= by
	m.ww *= by
	m.wt *= by
	m.tt *= by
}

func (m *moments) plus(o *moments) (sum moments) {
	return moments{m.n + o.n, m.w + o.w, m.t + o.t, m.x + o.x, m.ww + o.ww, m.wt + o.wt, m.tt + o.tt}
}
