package llm

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// endpoint is one address of a service, with what is known of its health and
// its speed. An endpoint whose failures follow each other with no success
// between them is out: it gets no calls but one trial at a time, at intervals
// that grow, and the first that succeeds brings it back. A room guards it.
type endpoint struct {
	url     string
	hash    uint64
	wire    Wire
	limiter *limiter
	gone    bool // not listed any more: it gets no calls, and is closed with its last one

	calls  int64         // that succeeded
	speed  float64       // tokens a second of one call, smoothed; 0 unknown
	took   time.Duration // of a call, smoothed
	heard  time.Time     // the last reply, or when the calls that are under way began
	weight float64       // share of the calls that it should have, against the others

	score  int       // weight of the failures since the last success
	failed time.Time // the first of them
	why    string    // the newest
	fatal  *Failure  // set where it was one that no call gets past
	out    bool
	next   time.Time // while out: when the next trial is due
	trials int       // that failed since it went out
	trial  time.Time // when the one under way began; zero for none
}

func newEndpoint(url string, w Wire, fixed int) *endpoint {
	h := fnv.New64a()
	h.Write([]byte(url))
	return &endpoint{url: url, hash: h.Sum64(), wire: w, limiter: newLimiter(fixed), weight: 1}
}

// ready says whether the endpoint takes one more call. If it does not now, wake
// is when to ask again; zero where something else must happen first.
func (e *endpoint) ready(now time.Time) (ok bool, wake time.Time) {
	switch {
	case e.gone:
		return false, time.Time{}
	case e.out && !e.trial.IsZero():
		return false, time.Time{}
	case e.out:
		return !now.Before(e.next), e.next
	}
	ok, wake = e.limiter.room(now)
	if p := &e.limiter.pace; !ok && wake.IsZero() && p.on && p.young > 0 {
		wake = now.Add(paceBucket) // the limit may move once the newest calls count as accepted
	}
	return ok, wake
}

// load is what the endpoint has to do, in calls of an endpoint of full speed.
func (e *endpoint) load(more int) float64 {
	return float64(e.limiter.inFlight()+more) / e.weight
}

// succeeded notes that the service answered, with a reply or with a refusal.
func (e *endpoint) succeeded() {
	e.score, e.fatal, e.out, e.trials, e.why = 0, nil, false, 0, ""
}

// replied notes how fast a reply came.
func (e *endpoint) replied(r *Reply, now time.Time) {
	const share = 1. / 16
	e.calls++
	e.heard = now
	speed := float64(r.Usage.CompletionTokens+8) / max(r.Took, time.Millisecond).Seconds()
	if e.speed == 0 {
		e.speed, e.took = speed, r.Took
		return
	}
	e.speed += share * (speed - e.speed)
	e.took += time.Duration(share * float64(r.Took-e.took))
}

// failedBy notes a failure, and puts the endpoint out where that makes one too
// many. trial says that it was a trial that failed.
func (e *endpoint) failedBy(f *Failure, now time.Time, trial bool, pace backoff) {
	if f.Kind == Capacity && !trial && e.limiter.inFlight() > 0 {
		e.why = f.Error()
		return // it is at work on what it has taken
	}
	if e.score == 0 {
		e.failed = now
	}
	e.why = f.Error()
	if f.Kind == Fatal {
		e.fatal = f
		e.score = max(e.score, gateLimit)
	} else {
		e.score += weights[f.Kind].gate
	}
	switch {
	case trial:
		e.trials++
		e.next = now.Add(max(pace.wait(e.trials), f.After, 4*now.Sub(e.trial)))
	case !e.out && e.score >= gateLimit:
		e.out, e.trials = true, 0
		e.next = now.Add(max(pace.wait(0), f.After))
	}
}

// patience is how long a trial may take at most: a server that hangs shall not
// keep the call that tries it for as long as the longest reply may take.
func (e *endpoint) patience(timeout time.Duration) time.Duration {
	return min(timeout, max(silent, 5*e.took))
}

// stats says how the endpoint does. now is the time.
func (e *endpoint) stats(now time.Time) EndpointStats {
	s := EndpointStats{URL: e.url, InFlight: e.limiter.inFlight(), Limit: e.limiter.limit(), Calls: e.calls}
	if e.out {
		s.Fault = fmt.Sprintf("%s, %d s", e.why, int(now.Sub(e.failed).Seconds()))
	}
	return s
}

const (
	slow   = 0.6  // of the median speed: below, an endpoint is slower than the others, rather than unlucky with what it is asked
	scarce = 0.05 // the least weight: of an endpoint that has gone silent, too
	silent = 10 * time.Second
)

// weigh gives every endpoint the share that its speed deserves. One that has
// calls under way and has brought no reply for long gets next to none.
func weigh(all []*endpoint, now time.Time) (changed bool) {
	var speeds []float64
	var tooks []time.Duration
	for _, e := range all {
		if e.speed > 0 {
			speeds, tooks = append(speeds, e.speed), append(tooks, e.took)
		}
	}
	if len(speeds) == 0 {
		return false
	}
	slices.Sort(speeds)
	slices.Sort(tooks)
	speed, took := speeds[len(speeds)/2], tooks[len(tooks)/2]
	for _, e := range all {
		was := e.weight
		e.weight = 1
		if e.limiter.inFlight() > 0 && now.Sub(e.heard) > max(silent, 4*took) {
			e.weight = scarce
		} else if x := e.speed / speed; e.speed > 0 && x < slow {
			e.weight = max(scarce, x)
		}
		changed = changed || (was < 1) != (e.weight < 1)
	}
	return changed
}

// mix is the score of an endpoint for a session: the highest has it
// (rendezvous hashing), so that sessions stay where they are when others come
// and go.
func mix(session, endpoint uint64) uint64 {
	x := session ^ endpoint
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// overload is how far above the mean load a session's endpoint may be: beyond
// it the session goes to the next one (consistent hashing with bounded loads,
// Mirrokni, Thorup and Zadimoghaddam 2018).
const overload = 1.2

// choose picks an endpoint among those that are ready: for a session the one
// that has it, unless that is loaded above the bound or slow; otherwise the less
// loaded of two. avoid, where a try of the call has failed, is left out if there
// is another, and so are trials then. nil where none is ready.
func choose(ready, all []*endpoint, session uint64, avoid *endpoint) *endpoint {
	if avoid != nil && len(ready) > 1 {
		others := make([]*endpoint, 0, len(ready))
		for _, e := range ready {
			if e != avoid && !e.out {
				others = append(others, e)
			}
		}
		if len(others) > 0 {
			ready = others
		}
	}
	switch len(ready) {
	case 0:
		return nil
	case 1:
		return ready[0]
	}
	for _, e := range ready {
		if e.out { // a trial is due
			return e
		}
	}
	if session != 0 {
		bound := bound(all)
		var best *endpoint
		var high uint64
		for _, e := range ready {
			if h := mix(session, e.hash); e.weight == 1 && (best == nil || h > high) && e.load(1) <= bound {
				best, high = e, h
			}
		}
		if best != nil {
			return best
		}
	}
	i := rand.IntN(len(ready))
	j := rand.IntN(len(ready) - 1)
	if j >= i {
		j++
	}
	if ready[j].load(1) < ready[i].load(1) {
		return ready[j]
	}
	return ready[i]
}

// bound is the load that an endpoint may have with one more session's call.
func bound(all []*endpoint) float64 {
	calls, weight := 1.0, 0.0
	for _, e := range all {
		if !e.out && !e.gone {
			calls += float64(e.limiter.inFlight())
			weight += e.weight
		}
	}
	return max(2, overload*calls/max(weight, 0.05))
}

// home is the endpoint that has a session, whatever its load: of those that are
// neither out nor slow, but for avoid.
func home(all []*endpoint, session uint64, avoid *endpoint) *endpoint {
	var best *endpoint
	var high uint64
	for _, e := range all {
		if e.gone || e.out || e == avoid || e.weight < 1 {
			continue
		}
		if h := mix(session, e.hash); best == nil || h > high {
			best, high = e, h
		}
	}
	return best
}
