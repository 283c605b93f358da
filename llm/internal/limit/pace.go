package limit

import (
	"math"
	"time"
)

// Constants of a pacer.
const (
	paceFloor   = 10.0                   // tries a second that are always allowed: a service that is back is found at once
	paceMost    = 4.0                    // tries for each call accepted, while they bring calls in: enough for 75% refusals
	paceLeast   = 1.25                   // and where more of them bring no more in
	paceQuiet   = 2 * time.Second        // without a refusal or a fault, tries are free
	paceBurst   = 250 * time.Millisecond // of tries that may be saved up
	paceWindow  = 500 * time.Millisecond // of a judgement, if it saw paceEnough
	paceTaken   = 250 * time.Millisecond // without an acceptance: it accepts none
	paceEnough  = 100                    // calls accepted
	paceHold    = 8 * time.Second        // of the multiple, after it was lowered in vain; then twice as long
	paceYoung   = 0.06                   // seconds at least until a call counts as accepted
	paceBucket  = 20 * time.Millisecond  // resolution of ages
	paceBuckets = 64                     // 1.28 s: what is refused later was accepted before
)

// pacer bounds the rate of tries at a service that refuses some: to a multiple
// of the rate at which it answers calls, or accepts them where that is more, and
// paceFloor. The multiple falls as
// long as that costs no acceptances (a service that allows so many a second),
// and jumps back where it does (one that refuses at random). A call counts as
// accepted once it has lived several times longer than refusals take.
type pacer struct {
	ring  [paceBuckets]int32 // calls sent and not ended, by time of sending
	aged  int64              // newest bucket whose calls are accepted
	young int                // calls in later ones
	after float64            // seconds until a call counts as accepted

	floor    float64 // tries a second that are always allowed
	on       bool
	bad      time.Duration // last refusal or fault
	at       time.Duration
	credit   float64 // tries that may be made
	multiple float64

	start         time.Duration // of the window
	placed, paced bool          // a call was kept back by the limit, by the pace
	took          time.Duration // last acceptance
	count         int           // accepted
	freed         int           // places that answers freed and none has filled
	rate          float64       // accepted a second, in windows before
	hold, next    time.Duration // of multiple, after it was lowered in vain
}

func newPacer() pacer {
	return pacer{floor: paceFloor, aged: -1, after: paceYoung, multiple: paceMost, hold: paceHold}
}

func bucket(at time.Duration) int64 { return int64(at / paceBucket) }

// advance moves the clock and returns how many calls are too young to count as
// accepted, and how many came of age.
func (p *pacer) advance(at time.Duration) (young, grown int) {
	to := bucket(at-time.Duration(p.after*1e9)) - 1
	if to > p.aged {
		if to-p.aged >= paceBuckets {
			p.ring = [paceBuckets]int32{}
			grown, p.young = p.young, 0
		} else {
			for b := p.aged + 1; b <= to; b++ {
				i := b & (paceBuckets - 1)
				grown += int(p.ring[i])
				p.ring[i] = 0
			}
			p.young -= grown
		}
		p.aged = to
		p.accept(grown)
	}
	if p.on {
		p.credit = min(p.credit+p.floor*(at-p.at).Seconds(), p.most())
		if at-p.bad > paceQuiet {
			p.on = false
			p.multiple, p.hold = paceMost, paceHold
		} else if at-p.start >= paceWindow {
			p.judge(at)
		}
	}
	p.at = at
	return p.young, grown
}

// most is how many tries may be saved up.
func (p *pacer) most() float64 { return max(1, p.floor, p.rate*p.multiple*paceBurst.Seconds()) }

// accept takes n calls for accepted. Those that fill a place that an answer freed
// bring no tries: the answer did.
func (p *pacer) accept(n int) {
	p.count += n
	if n > 0 {
		p.took = p.at
	}
	fill := min(n, p.freed)
	p.freed -= fill
	p.credit += float64(n-fill) * p.multiple
}

// judge lowers multiple as long as that costs no acceptances.
func (p *pacer) judge(at time.Duration) {
	if p.count < paceEnough && at-p.start < 4*paceWindow {
		return
	}
	rate := float64(p.count) / (at - p.start).Seconds()
	switch {
	case !p.paced || rate > 1.1*p.rate: // the pace is not what limits, or it brings calls in
		p.rate = rate
	case rate < 0.9*p.rate && p.multiple < paceMost && !p.placed:
		p.multiple = paceMost
		p.rate = rate
		p.hold = min(2*p.hold, 40*time.Second)
		p.next = at + p.hold
	default:
		p.rate = max(rate, 0.98*p.rate)
		if at > p.next {
			p.multiple = max(paceLeast, p.multiple*0.8)
		}
	}
	p.start, p.count, p.freed, p.placed, p.paced = at, 0, 0, false, false
}

// wait is how long the next try must wait.
func (p *pacer) wait(at time.Duration) time.Duration {
	if !p.on || p.credit >= 1 {
		return 0
	}
	w := time.Duration((1 - p.credit) / p.floor * float64(time.Second))
	if p.young > 0 {
		w = min(w, paceBucket)
	}
	return max(w, time.Millisecond)
}

func (p *pacer) sent(at time.Duration) {
	b := max(bucket(at), p.aged+1)
	p.ring[b&(paceBuckets-1)]++
	p.young++
	p.credit--
}

// ended takes a call out of the young ones, if it is one.
func (p *pacer) ended(sent time.Duration) (young bool) {
	b := bucket(sent)
	i := b & (paceBuckets - 1)
	if b <= p.aged || p.ring[i] == 0 {
		return false
	}
	p.ring[i]--
	p.young--
	return true
}

// answered is told of an answer, and reports whether the call was too young to
// count as accepted before.
func (p *pacer) answered(sent time.Duration) (young bool) {
	if young = p.ended(sent); young {
		p.accept(1)
	} else if p.at-p.took < paceTaken {
		p.freed++
		p.credit += p.multiple
	}
	return young
}

func (p *pacer) refused(at, sent time.Duration) {
	if !p.ended(sent) {
		p.count--
		p.credit -= p.multiple
	}
	p.after += (min(max(4*(at-sent).Seconds(), paceYoung), 1) - p.after) / 16
	p.startCounting(at)
}

func (p *pacer) failed(at, sent time.Duration, fault bool) {
	if p.ended(sent) && fault {
		p.startCounting(at)
	}
}

// startCounting begins to count tries.
func (p *pacer) startCounting(at time.Duration) {
	p.bad = at
	if p.on {
		return
	}
	p.on = true
	p.rate = float64(p.count) / math.Max((at-p.start).Seconds(), 0.1)
	p.start, p.count, p.freed, p.placed, p.paced = at, 0, 0, false, false
	p.credit = p.most()
}
