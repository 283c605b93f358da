package limit

import (
	"math"
	"time"
)

// Constants of a ceiling.
const (
	ceilingGain  = 0.02            // growth for each answer: 2% of the tries look for more room
	ceilingStray = 0.1             // share of strays among refusals, above which they come at random
	ceilingLife  = 2 * time.Second // least life of a generation
	ceilingQuiet = 100             // answers without a refusal, after which a ceiling may be gone
)

// ceiling is how many calls a service holds, where it refuses some: the most that it
// held at once in this generation and the one before. In a generation it accepts
// as many calls as it holds, so each of its places was given out anew; one that
// accepts nothing for a minute loses no height. Calls that were sent while fewer
// were there than that, and refused all the same, are strays: room is not what
// they lacked, and while there are many of them the ceiling does not hold.
type ceiling struct {
	height float64 // infinite while nothing is refused
	gain   float64 // growth for each answer while all places are taken
	top    int     // most that was held, as of the last refusal
	now    int     // most calls held at once in this generation
	last   int     // and in the one before
	count  int     // accepted in this generation
	start  time.Duration
	bad    time.Duration // last refusal
	since  int           // answers since then
	stray  float64       // share of strays among refusals, smoothed
}

// newCeiling presumes strays: a service is asked 40 times or so until it is held to be full.
func newCeiling() ceiling { return ceiling{height: math.Inf(1), gain: ceilingGain, stray: 1} }

// accepted is told that grown calls came of age, and held are at the service.
func (c *ceiling) accepted(at time.Duration, held, grown int) {
	c.count += grown
	if c.count >= max(c.now, 10) && at-c.start >= ceilingLife {
		c.last, c.now = c.now, 0
		c.count, c.start = 0, at
	}
	c.now = max(c.now, held)
	if held > c.top && !math.IsInf(c.height, 1) {
		c.top = held
		c.gain = min(1, c.gain*2)
	}
}

// refused is told of a call that was refused, sent as the nth in flight, while n
// others are there now.
func (c *ceiling) refused(at time.Duration, n, nth int) {
	c.bad, c.since = at, 0
	c.top = max(c.now, c.last, 1)
	if math.IsInf(c.height, 1) {
		c.height = float64(max(c.top, n))
	}
	c.stray *= 1 - 1.0/32
	if nth <= c.top {
		c.stray += 1.0 / 32
		return
	}
	c.gain = max(ceilingGain, c.gain*0.7)
	c.height = max(float64(c.top), float64(n), c.height-1)
}

// limit is how many calls may be in flight: any number while much is refused for
// other reasons than want of room.
func (c *ceiling) limit() float64 {
	if c.stray > ceilingStray {
		return math.Inf(1)
	}
	return c.height
}

// answered is told of an answer while n calls were in flight, each taking so
// many seconds. It reports whether the ceiling is gone: nothing was refused for long.
func (c *ceiling) answered(at time.Duration, n int, took float64) (gone bool) {
	if math.IsInf(c.height, 1) {
		return false
	}
	c.since++
	if c.since%max(24, int(c.height/2)) == 0 {
		c.gain = min(1, c.gain*2)
	}
	if float64(n) >= math.Floor(c.height) {
		c.height += c.gain
	}
	return c.since > ceilingQuiet && (at-c.bad).Seconds() > max(5, 3*took)
}
