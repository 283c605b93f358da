package limit

import (
	"math"
	"slices"
	"time"
)

// Constants of a cohort.
const (
	cohortFew   = 16   // calls at least
	cohortMany  = 128  // that are looked at, at most
	cohortEarly = 0.25 // part of the calls that are quick
	cohortNoise = 0.7  // least error of the time of a quick call, times the root of the calls
)

// cohort is a group of calls that were sent one after the other, with about as
// many in flight.
type cohort struct {
	serial  uint32
	low     bool          // of the lower level
	every   int           // one in so many calls is looked at
	skipped int           // since the last one
	size    int           // calls to look at
	sent    int           // of them
	last    time.Duration // when the last one was sent
	moments               // of those that ended
	times   [cohortMany]float32
}

func newCohort(serial uint32, low bool, calls float64) cohort {
	calls = max(calls, cohortFew)
	size := min(calls, cohortMany)
	return cohort{serial: serial, low: low, size: int(size), every: int(math.Round(calls / size))}
}

// take reports whether a call that is sent is one of those to look at.
func (o *cohort) take(at time.Duration) bool {
	if o.skipped++; o.skipped < o.every {
		return false
	}
	o.skipped = 0
	o.sent++
	o.last = at
	return true
}

// drop takes a call out that was not answered; another takes its place, if the
// cohort is still open.
func (o *cohort) drop(open bool) {
	o.sent--
	if !open {
		o.size--
	}
}

// end notes that a call was answered. x is the logarithm of the calls in flight
// when it was sent.
func (o *cohort) end(seconds, work, x float64) {
	n := int(o.n)
	i, _ := slices.BinarySearch(o.times[:n], float32(seconds))
	copy(o.times[i+1:n+1], o.times[i:n])
	o.times[i] = float32(seconds)
	o.add(work, seconds, x)
}

// observation is what a cohort shows as soon as its quick calls have ended.
type observation struct {
	moments
	quick float64 // seconds of the slowest of the quick calls
	err   float64 // its standard error
}

// observe is known once all calls that take no longer than a quick one have ended:
// those that are still under way cannot change it then.
func (o *cohort) observe(now time.Duration) (s observation, ok bool) {
	k := int(cohortEarly * float64(o.size))
	if o.sent < o.size || int(o.n) <= k || float64(o.times[k]) > (now-o.last).Seconds() {
		return s, false
	}
	d := int(math.Sqrt(cohortEarly * (1 - cohortEarly) * float64(o.size)))
	spread := o.times[min(k+d, int(o.n)-1)] - o.times[max(k-d, 0)]
	s = observation{moments: o.moments, quick: float64(o.times[k])}
	s.err = max(float64(spread)/2, cohortNoise*s.quick/math.Sqrt(float64(o.size)))
	return s, true
}

// level is how many calls were in flight.
func (s *observation) level() float64 { return math.Exp(s.x / s.n) }

func (s *observation) merge(o *observation) {
	by := o.n / (s.n + o.n)
	s.quick += by * (o.quick - s.quick)
	s.err = math.Hypot((1-by)*s.err, by*o.err)
	s.moments = s.plus(&o.moments)
}

// unexplained is the share of a call's time that its work does not explain, and
// how much more of it means something. Where work says little of the time, it is that
// of a quick call, which grows likewise with what all calls wait.
func (s *observation) unexplained(work, took float64) (share, err float64) {
	t, _, slope := s.line(work)
	if slope == 0 {
		return min(s.quick/took, 0.9), 2.5 * s.err / took
	}
	return max(t-slope*work, 0) / t, 0.05
}

// contrast is what two sights, with few calls in flight and with more, show.
type contrast struct {
	n      float64 // calls in flight, where there were more
	dx     float64 // their logarithm above that of the few
	e      float64 // elasticity of throughput in calls in flight
	se     float64 // its standard error
	queued float64 // share of a call's time that it waits more than with few
	err    float64 // its standard error
	ok     bool
}

// against contrasts calls with few. The elasticity is how much throughput follows
// the calls in flight: 1 where it grows with them, 0 where it stays, less where
// it falls. By Little's law it is 1 less the elasticity of the time of a call.
//
// Times are compared at equal work, by a line through each group: replies vary in
// length much more than a service in speed. Where work says little of the time, those
// of quick calls are compared: the slow ones are not known yet, and a line
// delays all alike. took is the time of a call then.
func (s *observation) against(few *observation, work, took float64) (c contrast) {
	c.n = s.level()
	c.dx = math.Log(c.n / few.level())
	if c.dx < 0.02 {
		return c
	}
	c.ok = true
	a, restA, slopeA := few.line(work)
	b, restB, slopeB := s.line(work)
	if slopeA == 0 || slopeB == 0 {
		took = max(took, s.quick)
		more := max(s.quick-few.quick, -took/2)
		c.e = 1 - math.Log(1+more/took)/c.dx
		c.queued = max(more, 0) / (took + more)
		c.err = math.Hypot(s.err, few.err) / took
		c.se = c.err / c.dx
		return c
	}
	c.e = 1 - math.Log(b/a)/c.dx
	// At the work of those that ended, which are the short ones as yet.
	young, _, _ := s.line(s.w / s.n)
	before, _, _ := few.line(s.w / s.n)
	wait := max(b-slopeB*work, 0) - max(a-slopeA*work, 0)
	c.queued = max(min(wait, young-before), 0) / b
	// A call also waits for the work of those before it, and the calls of a
	// group wait for much the same ones: their times are not independent.
	q := max(0, 1-slopeB*work/b)
	n := q * c.n
	behind := q * q * max(0, s.ww*s.n/(s.w*s.w)-1) * (1/(n+few.n) + 1/(n+s.n))
	c.err = math.Sqrt(restA/(a*a) + restB/(b*b) + behind)
	c.se = c.err / c.dx
	return c
}
