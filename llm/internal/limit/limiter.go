// Package limit finds how many calls one endpoint of a service can hold, and divides
// them among the processes that send them.
package limit

import "time"

// Outcome is how a call ended, as far as a limiter cares.
type Outcome uint8

// The outcomes.
const (
	Answered Outcome = iota // the service did the work
	Full                    // it refused the call for want of room: 429, 503, 529
	Faulty                  // anything else that failed; it says nothing of room
	Dropped                 // the caller took it back
)

// Result is what became of a call. Tokens count for answered calls only; where
// a service does not report them, they are 0. PromptTokens are without those
// that came from a cache.
type Result struct {
	Outcome          Outcome
	PromptTokens     int
	CompletionTokens int
}

// Ticket is a call that was sent. It is given back to Done.
type Ticket struct {
	at  time.Duration // since the epoch
	tag uint32        // of its cohort at the knee; 0 for none
	n   int32         // in flight with it
}

// A Limiter finds how many calls one endpoint can hold at once: full and no
// fuller. It has no clock and no lock of its own: its caller passes the time in,
// and guards it. Three limits hold, each found by itself:
//
//   - knee looks for the level from which more calls in flight bring no more
//     throughput. A service that makes calls wait shows it in no other way, and
//     the time of a call alone says little: on a batching engine both grow.
//     The idea is that of TCP Vegas and of gradient limits; the measure is the
//     elasticity of throughput, by Little's law.
//   - ceiling is how many calls the service holds where it refuses more: what it
//     was seen to hold lately, and a little more now and then (additive increase,
//     as TCP; the decrease is to what is held, so random refusals shrink nothing).
//   - pace bounds the tries a second at a service that refuses some, to a small
//     multiple of what it accepts, as an adaptive throttle does.
//
// A fault says nothing of room and changes no limit, though tries are paced. With
// a fixed limit only the pace is kept.
type Limiter struct {
	fixed   int
	epoch   time.Time
	clock   time.Duration // of the newest event
	n       int           // in flight
	waiting bool

	took    float64 // mean seconds of a call, smoothed; 0 unknown
	pace    pacer
	ceiling ceiling
	knee    knee
	gauge   gauge
	follows *follower // nil: it finds its limit by itself
}

// New returns a limiter of fixed calls, or of as many as it finds for 0.
func New(fixed int) *Limiter {
	return &Limiter{fixed: fixed, pace: newPacer(), ceiling: newCeiling(), knee: newKnee()}
}

// advance moves the clock.
func (l *Limiter) advance(now time.Time) {
	if l.epoch.IsZero() {
		l.epoch = now
	}
	at := now.Sub(l.epoch)
	if at <= l.clock {
		return
	}
	l.clock = at
	if young, grown := l.pace.advance(at); grown > 0 {
		l.ceiling.accepted(at, l.n-young, grown)
	}
}

// Demand reports whether callers wait for room. While none does, the limit stays.
func (l *Limiter) Demand(waiting bool) { l.waiting = waiting }

// Ready reports whether a call may be sent now. Where time alone may change that,
// wake is when to ask again; it is zero where a call must end first.
func (l *Limiter) Ready(now time.Time) (ok bool, wake time.Time) {
	l.advance(now)
	if l.n >= l.Limit() {
		l.pace.placed = l.pace.placed || l.waiting
		if l.pace.on && l.pace.young > 0 {
			return false, now.Add(paceBucket) // the limit may move once the newest calls count as accepted
		}
		return false, time.Time{}
	}
	if wait := l.pace.wait(l.clock); wait > 0 {
		l.pace.paced = l.pace.paced || l.waiting
		return false, now.Add(wait)
	}
	return true, time.Time{}
}

// Sent takes a place for a call.
func (l *Limiter) Sent(now time.Time) Ticket {
	l.advance(now)
	l.n++
	l.pace.sent(l.clock)
	t := Ticket{at: l.clock, n: int32(l.n)}
	if l.fixed == 0 && l.follows == nil {
		t.tag = l.knee.tag(l)
	}
	return t
}

// Done gives the place of a call back.
func (l *Limiter) Done(now time.Time, t Ticket, r Result) {
	l.advance(now)
	busy := l.waiting && float64(l.n) >= 0.9*float64(l.Limit())-4
	l.n--
	if l.follows != nil {
		l.told(t, r)
		return
	}
	switch r.Outcome {
	case Full:
		l.knee.lost(t.tag)
		l.pace.refused(l.clock, t.at)
		l.ceiling.refused(l.clock, l.n, int(t.n))
		return
	case Faulty, Dropped:
		l.knee.lost(t.tag)
		l.pace.failed(l.clock, t.at, r.Outcome == Faulty)
		return
	}
	if l.pace.answered(t.at) {
		l.ceiling.accepted(l.clock, int(t.n), 1)
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
	if l.ceiling.answered(l.clock, l.n+1, l.took) {
		l.knee.base = min(l.knee.base, l.ceiling.height*1.25)
		l.ceiling = newCeiling()
	}
	l.knee.learn(l, t, seconds, work(r), busy)
}

// told notes what became of a call where a leader decides on limits. The pace of
// tries is kept here all the same.
func (l *Limiter) told(t Ticket, r Result) {
	l.follows.ended(max((l.clock-t.at).Seconds(), 1e-6), r)
	switch r.Outcome {
	case Answered:
		l.pace.answered(t.at)
	case Full:
		l.pace.refused(l.clock, t.at)
	default:
		l.pace.failed(l.clock, t.at, r.Outcome == Faulty)
	}
}

// work is how much a call asked of the service, in completion tokens: one of the
// prompt is read many times faster than one of the reply is written.
func work(r Result) float64 {
	return 1 + float64(max(r.CompletionTokens, 0)) + float64(max(r.PromptTokens, 0))/16
}

// Limit is how many calls may be in flight.
func (l *Limiter) Limit() int {
	if l.follows != nil {
		return l.follows.Calls(l.epoch.Add(l.clock))
	}
	if l.fixed != 0 {
		return l.fixed
	}
	return max(1, int(min(l.gauge.level(l.clock, l.knee.level()+0.5), l.ceiling.limit())))
}

// ReportLoad is told how busy the service says that it is, which it says every so often.
func (l *Limiter) ReportLoad(now time.Time, every time.Duration, running, waiting int) {
	if l.follows != nil {
		l.follows.looks++
		l.follows.load = &Load{Serial: l.follows.looks, Every: every, Running: running, Waiting: waiting}
		return
	}
	if l.fixed != 0 {
		return
	}
	l.advance(now)
	l.gauge.read(l.clock, every, running, waiting, l.n, l.knee.level(), l.waiting)
	l.knee.base = l.gauge.limit // to go on from, where the service falls silent
}

// InFlight is how many calls are.
func (l *Limiter) InFlight() int { return l.n }
