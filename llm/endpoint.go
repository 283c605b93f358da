package llm

import (
	"hash/fnv"
	"net/url"
	"slices"
	"time"

	"matrix/llm/internal/limit"
)

// endpoint is one address of a service, with what is known of its health and
// its speed. An endpoint whose failures follow each other with no success
// between them is out: it gets no calls but one trial at a time, at intervals
// that grow, and the first that succeeds brings it back. A scheduler guards it.
type endpoint struct {
	url     string
	shown   string // without credentials
	hash    uint64
	key     string // that names it among processes
	driver  Driver
	limiter *limit.Limiter
	mute    bool // it does not tell how busy it is
	gone    bool // not listed any more: it gets no calls, and is closed with its last one

	index  int  // among those that are ready, from 1; 0 for none
	due    bool // and a trial is
	asleep bool // it is to be asked again at wake, if that is a time
	wake   time.Time

	calls     int64         // that succeeded
	speed     float64       // tokens a second of one call, smoothed; 0 unknown
	took      time.Duration // of a call, smoothed
	lastReply time.Time     // the last reply, or when the calls that are under way began
	weight    float64       // share of the calls that it should have, against the others

	score  int       // weight of the failures since the last success
	failed time.Time // the first of them
	why    string    // the newest
	kind   Kind      // of it
	fatal  *Failure  // set where it was one that no call gets past
	out    bool
	next   time.Time // while out: when the next trial is due
	trials int       // that failed since it went out
	trial  time.Time // when the one under way began; zero for none
}

func newEndpoint(at string, w Driver, fixed int) *endpoint {
	h := fnv.New64a()
	h.Write([]byte(at))
	return &endpoint{url: at, shown: bare(at), hash: h.Sum64(), key: keyOf(h.Sum64(), at), driver: w, limiter: limit.New(fixed), weight: 1}
}

// bare is a URL without what may be secret in it: user, password and query.
func bare(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil && u.RawQuery == "" {
		return text
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// ready reports whether the endpoint takes one more call. If it does not now, wake
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
	return e.limiter.Ready(now)
}

// load is what the endpoint has to do, in calls of an endpoint of full speed.
func (e *endpoint) load(more int) float64 {
	return float64(e.limiter.InFlight()+more) / e.weight
}

// succeeded notes that the service answered, with a reply or with a refusal.
func (e *endpoint) succeeded() {
	e.score, e.fatal, e.out, e.trials, e.why = 0, nil, false, 0, ""
}

// replied notes how fast a reply came.
func (e *endpoint) replied(r *Reply, now time.Time) {
	const share = 1. / 16
	e.calls++
	e.lastReply = now
	speed := float64(r.Usage.CompletionTokens+8) / max(r.Took, time.Millisecond).Seconds()
	if e.speed == 0 {
		e.speed, e.took = speed, r.Took
		return
	}
	e.speed += share * (speed - e.speed)
	e.took += time.Duration(share * float64(r.Took-e.took))
}

// failedBy notes a failure, and puts the endpoint out where that makes one too
// many. trial says that it was a trial that failed, and when that began.
func (e *endpoint) failedBy(f *Failure, now, began time.Time, trial bool, pace backoff) {
	if f.Kind == Capacity && !trial && e.limiter.InFlight() > 0 {
		e.why, e.kind = f.Error(), f.Kind
		return // it is at work on what it has taken
	}
	if e.score == 0 {
		e.failed = now
	}
	e.why, e.kind = f.Error(), f.Kind
	if f.Hint != "" && len(f.Hint) <= shortHint {
		e.why += " (" + f.Hint + ")"
	}
	if f.Kind == Fatal {
		e.fatal = f
		e.score = max(e.score, gateLimit)
	} else {
		e.score += weights[f.Kind].gate
	}
	switch {
	case trial:
		e.trials++
		e.next = now.Add(max(pace.wait(e.trials), f.After, min(4*now.Sub(began), hungLonger)))
	case !e.out && e.score >= gateLimit:
		e.out, e.trials = true, 0
		e.next = now.Add(max(pace.wait(0), f.After))
	}
}

// shortHint is the longest hint that the line on a pause shows, in bytes.
const shortHint = 40

// trialTimeout is how long a trial may take at most: a server that hangs shall not
// keep the call that tries it for as long as the longest reply may take. It
// doubles with each trial that fails: the server may be one that answers late.
func (e *endpoint) trialTimeout() time.Duration {
	usual := 5 * e.took
	if e.took == 0 {
		usual = time.Minute
	}
	return max(silent, usual) << min(e.trials, 4)
}

// stats says how the endpoint does.
func (e *endpoint) stats() EndpointStats {
	s := EndpointStats{URL: e.shown, InFlight: e.limiter.InFlight(), Limit: e.limiter.Limit(), Calls: e.calls}
	if e.out {
		s.Fault = e.trouble()
	}
	return s
}

// trouble is what an endpoint that is out has failed with.
func (e *endpoint) trouble() *Trouble { return &Trouble{e.failed, e.kind, e.why} }

const (
	slow   = 0.6  // of the median speed: below, an endpoint is slower than the others, rather than unlucky with what it is asked
	fast   = 0.75 // above, it is so no more: between the two its sessions stay where they are
	scarce = 0.05 // the least weight: of an endpoint that has gone silent, too
	silent = 10 * time.Second

	hungLonger = 2 * time.Minute // between the trials of one that hangs, at most
)

// weigh gives every endpoint the share that its speed deserves. One that has
// calls under way and has brought no reply for long gets next to none.
func weigh(all []*endpoint, now time.Time) {
	var speeds []float64
	var tooks []time.Duration
	for _, e := range all {
		if e.speed > 0 {
			speeds, tooks = append(speeds, e.speed), append(tooks, e.took)
		}
	}
	if len(speeds) == 0 {
		return
	}
	slices.Sort(speeds)
	slices.Sort(tooks)
	speed, took := speeds[len(speeds)/2], tooks[len(tooks)/2]
	for _, e := range all {
		previous := e.weight
		e.weight = 1
		if e.limiter.InFlight() > 0 && now.Sub(e.lastReply) > max(silent, 4*took) {
			e.weight = scarce
		} else if x := e.speed / speed; e.speed > 0 && (x < slow || previous < 1 && x < fast) {
			e.weight = max(scarce, x)
		}
	}
}
