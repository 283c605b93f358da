package llm

import "time"

// outcome is how a call ended, as far as a limiter cares.
type outcome uint8

const (
	answered outcome = iota // the service did the work
	full                    // it refused the call for want of room: 429, 503, 529
	faulty                  // anything else that failed; it says nothing of room
	dropped                 // the caller took it back
)

// result is what became of a call. Tokens count for answered calls only; where
// a service does not report them, they are 0. PromptTokens are without those
// that came from a cache.
type result struct {
	outcome          outcome
	promptTokens     int
	completionTokens int
}

// ticket is a call that was sent. It is given back to done.
type ticket struct {
	at  time.Duration // since the epoch
	tag uint32        // of its cohort in the climb; 0 for none
	n   int32         // in flight with it
}

// limiter finds how many calls one endpoint can hold at once: full and no
// fuller. It has no clock and no lock of its own: its caller passes the time in,
// and guards it. Three limits hold, each found by itself:
//
//   - climb looks for the level from which more calls in flight bring no more
//     throughput. A service that makes calls wait shows it in no other way, and
//     the time of a call alone says little: on a batching engine both grow.
//     The idea is that of TCP Vegas and of gradient limits; the measure is the
//     elasticity of throughput, by Little's law.
//   - wall is how many calls the service holds where it refuses more: what it
//     was seen to hold lately, and a little more now and then (additive increase,
//     as TCP; the decrease is to what is held, so random refusals shrink nothing).
//   - pace bounds the tries a second at a service that refuses some, to a small
//     multiple of what it accepts, as an adaptive throttle does.
//
// A fault says nothing of room and changes no limit, though tries are paced. With
// a fixed limit only the pace is kept.
type limiter struct {
	fixed   int
	epoch   time.Time
	clock   time.Duration // of the newest event
	n       int           // in flight
	waiting bool

	took  float64 // mean seconds of a call, smoothed; 0 unknown
	pace  pacer
	wall  wall
	climb climb
	gauge gauge
}

// newLimiter returns a limiter of fixed calls, or of as many as it finds for 0.
func newLimiter(fixed int) *limiter {
	return &limiter{fixed: fixed, pace: newPacer(), wall: newWall(), climb: newClimb()}
}

// advance moves the clock.
func (l *limiter) advance(now time.Time) {
	if l.epoch.IsZero() {
		l.epoch = now
	}
	at := now.Sub(l.epoch)
	if at <= l.clock {
		return
	}
	l.clock = at
	if young, grown := l.pace.advance(at); grown > 0 {
		l.wall.accepted(at, l.n-young, grown)
	}
}

// demand reports whether callers wait for room. While none does, the limit stays.
func (l *limiter) demand(waiting bool) { l.waiting = waiting }

// room reports whether a call may be sent now. Where only the pace of tries
// forbids it, wake is when to ask again; it is zero where a call must end first.
func (l *limiter) room(now time.Time) (ok bool, wake time.Time) {
	l.advance(now)
	if l.n >= l.limit() {
		l.pace.placed = l.pace.placed || l.waiting
		return false, time.Time{}
	}
	if wait := l.pace.wait(l.clock); wait > 0 {
		l.pace.paced = l.pace.paced || l.waiting
		return false, now.Add(wait)
	}
	return true, time.Time{}
}

// sent takes a place for a call.
func (l *limiter) sent(now time.Time) ticket {
	l.advance(now)
	l.n++
	l.pace.sent(l.clock)
	t := ticket{at: l.clock, n: int32(l.n)}
	if l.fixed == 0 {
		t.tag = l.climb.tag(l)
	}
	return t
}

// done gives the place of a call back.
func (l *limiter) done(now time.Time, t ticket, r result) {
	l.advance(now)
	busy := l.waiting && float64(l.n) >= 0.9*float64(l.limit())-4
	l.n--
	switch r.outcome {
	case full:
		l.climb.lost(t.tag)
		l.pace.refused(l.clock, t.at)
		l.wall.refused(l.clock, l.n, int(t.n))
		return
	case faulty, dropped:
		l.climb.lost(t.tag)
		l.pace.failed(l.clock, t.at, r.outcome == faulty)
		return
	}
	if l.pace.answered(t.at) {
		l.wall.accepted(l.clock, int(t.n), 1)
	}
	seconds := max((l.clock - t.at).Seconds(), 1e-6)
	if l.took == 0 {
		l.took = seconds
	} else {
		l.took += (seconds - l.took) / float64(min(256, max(16, l.n)))
	}
	if l.fixed != 0 {
		return
	}
	if l.wall.answered(l.clock, l.n+1, l.took) {
		l.climb.base = min(l.climb.base, l.wall.height*1.25)
		l.wall = newWall()
	}
	l.climb.learn(l, t, seconds, work(r), busy)
}

// work is how much a call asked of the service, in completion tokens: one of the
// prompt is read many times faster than one of the reply is written.
func work(r result) float64 {
	return 1 + float64(max(r.completionTokens, 0)) + float64(max(r.promptTokens, 0))/16
}

// limit is how many calls may be in flight.
func (l *limiter) limit() int {
	if l.fixed != 0 {
		return l.fixed
	}
	return max(1, int(min(l.gauge.level(l.clock, l.climb.level()+0.5), l.wall.limit())))
}

// told is told how busy the service says that it is, which it says every so often.
func (l *limiter) told(now time.Time, every time.Duration, running, waiting int) {
	if l.fixed != 0 {
		return
	}
	l.advance(now)
	l.gauge.read(l.clock, every, running, waiting, l.n, l.climb.level(), l.waiting)
	l.climb.base = l.gauge.limit // to go on from, where the service falls silent
}

// inFlight is how many calls are.
func (l *limiter) inFlight() int { return l.n }
