package sim

import (
	"slices"
	"time"
)

// Timeline is what became of an engine's capacity, in spans of equal length
// from the start of the service. Its unit is the second of a slot: of a place
// in a batching engine's step, of a slot of preset slots.
type Timeline struct {
	Every    float64   `json:"every_s"`  // length of a span, in seconds
	Busy     []float64 `json:"busy"`     // capacity used
	Possible []float64 `json:"possible"` // capacity there was
	Done     []int     `json:"done"`     // calls finished
}

const (
	spanLength = 100 * time.Millisecond
	maxSpans   = 8192 // then spans of twice the length
)

// recorder fills a timeline.
type recorder struct {
	every          time.Duration
	at             time.Duration // all before is noted
	busy, possible []float64
	done           []int
}

func newRecorder() *recorder { return &recorder{every: spanLength} }

// span is the index of the span at a time.
func (r *recorder) span(at time.Duration) int {
	for at/r.every >= maxSpans {
		half := (len(r.busy) + 1) / 2
		for i := range half {
			r.busy[i], r.possible[i], r.done[i] = r.busy[2*i], r.possible[2*i], r.done[2*i]
			if k := 2*i + 1; k < len(r.busy) {
				r.busy[i] += r.busy[k]
				r.possible[i] += r.possible[k]
				r.done[i] += r.done[k]
			}
		}
		r.busy, r.possible, r.done = r.busy[:half], r.possible[:half], r.done[:half]
		r.every *= 2
	}
	i := int(at / r.every)
	for len(r.busy) <= i {
		r.busy, r.possible, r.done = append(r.busy, 0), append(r.possible, 0), append(r.done, 0)
	}
	return i
}

// advance notes that since the last call so many slots were busy, of so many.
func (r *recorder) advance(to time.Duration, busy, possible float64) {
	for r.at < to {
		i := r.span(r.at)
		end := min(to, time.Duration(i+1)*r.every)
		d := (end - r.at).Seconds()
		r.busy[i] += d * busy
		r.possible[i] += d * possible
		r.at = end
	}
}

// finished counts a call that ended; what ends with a span belongs to it.
func (r *recorder) finished(at time.Duration) { r.done[r.span(max(0, at-1))]++ }

func (r *recorder) timeline() Timeline {
	return Timeline{Every: r.every.Seconds(), Busy: slices.Clone(r.busy), Possible: slices.Clone(r.possible), Done: slices.Clone(r.done)}
}
