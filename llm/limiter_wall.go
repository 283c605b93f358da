package llm

import (
	"math"
	"time"
)

// wall is how many calls a service has accepted at once at most, where it
// refuses some.
type wall struct {
	height float64 // infinite while nothing is refused
	gain   float64 // growth for each answer while all places are taken
	top    int     // when height was set
	now    int     // most calls held at once in this generation
	last   int     // and in the one before
	count  int     // accepted in this generation
	start  time.Duration
	bad    time.Duration // last refusal
}

const (
	wallGain = 0.02            // at most 2% of the tries look for more room
	wallLife = 2 * time.Second // least life of a generation
)

func newWall() wall { return wall{height: math.Inf(1), gain: wallGain} }

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

// refused is told of a call that was refused while held others were there.
func (w *wall) refused(at time.Duration, held int) {
	w.bad = at
	w.now = max(w.now, held)
	w.top = max(w.now, w.last, 1)
	w.gain = max(wallGain, w.gain*0.7)
	w.height = min(w.height, float64(w.top))
	w.height = max(w.height, float64(w.top))
}

// grow is told of an answer while n calls were in flight.
func (w *wall) grow(at time.Duration, n int, took float64) {
	if math.IsInf(w.height, 1) {
		return
	}
	if float64(n) >= math.Floor(w.height) {
		w.height += w.gain
	}
	if (at - w.bad).Seconds() > max(5, 3*took) {
		*w = newWall()
	}
}
