package limit

import (
	"math"
	"time"
)

// Constants of a wall.
const (
	wallGain  = 0.02            // growth for each answer: 2% of the tries look for more room
	wallStray = 0.1             // share of strays among refusals, above which they come at random
	wallLife  = 2 * time.Second // least life of a generation
	wallQuiet = 100             // answers without a refusal, after which a wall may be gone
)

// wall is how many calls a service holds, where it refuses some: the most that it
// held at once in this generation and the one before. In a generation it accepts
// as many calls as it holds, so each of its places was given out anew; one that
// accepts nothing for a minute loses no height. Calls that were sent while fewer
// were there than that, and refused all the same, are strays: room is not what
// they lacked, and while there are many of them the wall does not hold.
type wall struct {
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

// newWall presumes strays: a service is asked 40 times or so until it is held to be full.
func newWall() wall { return wall{height: math.Inf(1), gain: wallGain, stray: 1} }

// accepted is told that grown calls came of age, and held are at the service.
func (w *wall) accepted(at time.Duration, held, grown int) {
	w.count += grown
	if w.count >= max(w.now, 10) && at-w.start >= wallLife {
		w.last, w.now = w.now, 0
		w.count, w.start = 0, at
	}
	w.now = max(w.now, held)
	if held > w.top && !math.IsInf(w.height, 1) {
		w.top = held
		w.gain = min(1, w.gain*2)
	}
}

// refused is told of a call that was refused, sent as the nth in flight, while n
// others are there now.
func (w *wall) refused(at time.Duration, n, nth int) {
	w.bad, w.since = at, 0
	w.top = max(w.now, w.last, 1)
	if math.IsInf(w.height, 1) {
		w.height = float64(max(w.top, n))
	}
	w.stray *= 1 - 1.0/32
	if nth <= w.top {
		w.stray += 1.0 / 32
		return
	}
	w.gain = max(wallGain, w.gain*0.7)
	w.height = max(float64(w.top), float64(n), w.height-1)
}

// limit is how many calls may be in flight: any number while much is refused for
// other reasons than want of room.
func (w *wall) limit() float64 {
	if w.stray > wallStray {
		return math.Inf(1)
	}
	return w.height
}

// answered is told of an answer while n calls were in flight, each taking so
// many seconds. It reports whether the wall is gone: nothing was refused for long.
func (w *wall) answered(at time.Duration, n int, took float64) (gone bool) {
	if math.IsInf(w.height, 1) {
		return false
	}
	w.since++
	if w.since%max(24, int(w.height/2)) == 0 {
		w.gain = min(1, w.gain*2)
	}
	if float64(n) >= math.Floor(w.height) {
		w.height += w.gain
	}
	return w.since > wallQuiet && (at-w.bad).Seconds() > max(5, 3*took)
}
