package llm

import "time"

// quota keeps a model within its requests and tokens a minute. It has no clock
// and no lock of its own: its caller passes the time in, and guards it. Tokens
// are reserved as estimated; the nearer an estimate is to what a call uses in the
// end, the sooner the whole limit is used.
type quota struct {
	requests, tokens meter
	asked            int64   // requests so far
	used             float64 // tokens, as far as is known
}

// newQuota returns a quota of rpm requests and tpm tokens a minute; 0 is for
// what the service says in its replies, and for no bound until it does.
func newQuota(rpm, tpm int) *quota {
	q := &quota{}
	q.requests = meter{limit: float64(rpm), given: rpm > 0}
	q.tokens = meter{limit: float64(tpm), given: tpm > 0}
	return q
}

// take reserves one request of so many tokens, as estimated. Where it cannot,
// wake is when to ask again.
func (q *quota) take(now time.Time, tokens int) (ok bool, wake time.Time) {
	r, t := q.requests.wait(now, 1), q.tokens.wait(now, float64(tokens))
	if w := max(r, t); w > 0 {
		return false, now.Add(w)
	}
	q.requests.spend(1)
	q.tokens.spend(float64(tokens))
	q.asked++
	q.used += float64(tokens)
	return true, time.Time{}
}

// settle corrects a reservation of tokens by what was really used: 0 for a
// request that the service did not take.
func (q *quota) settle(now time.Time, estimated, real int) {
	q.tokens.refill(now)
	q.tokens.spend(float64(real - estimated))
	q.used += float64(real - estimated)
}

// follow has both limits, where there are any, divided among processes: nothing is
// allowed until a part of them is lent to this one.
func (q *quota) follow() { q.requests.lent, q.tokens.lent = true, true }

// lease lends requests and tokens a minute until a time.
func (q *quota) lease(now time.Time, rpm, tpm float64, until time.Time) {
	q.requests.lease(now, rpm, until)
	q.tokens.lease(now, tpm, until)
}

// learn takes in what the service says of its limits.
func (q *quota) learn(now time.Time, said []Quota) {
	for i := range said {
		m := &q.requests
		if said[i].Tokens {
			m = &q.tokens
		}
		m.learn(now, said[i])
	}
}

// Constants of a meter.
const (
	meterBurst  = 0.01 // of a limit may be spent at once: the rest is spread over the minute
	meterRefill = 0.02 // of a limit, for which an empty bucket is waited for

	leaseAgain = time.Second // after which a meter without a lease is asked again; a lease that comes says so itself
)

// meter is a bucket that fills at limit a minute and holds little, so that no 60
// seconds see more than the limit, that little, and one call. What is given back
// to it was taken before and may be more.
type meter struct {
	limit float64 // a minute; 0 for none
	given bool    // by the config: the service cannot change it
	left  float64
	at    time.Time
	until time.Time // nothing before

	lent bool    // this process has a part of the limit
	part float64 // a minute
	ends time.Time
}

// rate is what comes in a minute.
func (m *meter) rate() float64 {
	if m.lent {
		return m.part
	}
	return m.limit
}

func (m *meter) burst() float64 { return max(1, m.rate()*meterBurst) }

// lease sets the part of the limit that this process has until a time. It begins
// with nothing: what all have together is never more than the limit.
func (m *meter) lease(now time.Time, part float64, until time.Time) {
	if m.limit == 0 {
		return
	}
	m.refill(now)
	if m.at.IsZero() {
		m.at = now
	}
	m.part, m.ends = part, until
	m.left = min(m.left, m.burst())
}

func (m *meter) refill(now time.Time) {
	if m.limit == 0 {
		return
	}
	if m.lent && (m.part == 0 || m.at.IsZero()) {
		m.at = now
		return
	}
	if m.at.IsZero() {
		m.at, m.left = now, m.burst()
		return
	}
	to := now
	if m.lent && m.ends.Before(now) {
		to = m.ends
	}
	if d := to.Sub(m.at); d > 0 {
		if b := m.burst(); m.left < b {
			m.left = min(m.left+m.rate()*d.Seconds()/60, b)
		}
	}
	if now.After(m.at) {
		m.at = now
	}
}

// wait is how long n must wait. More than a burst waits for a whole one, and
// leaves a debt.
func (m *meter) wait(now time.Time, n float64) time.Duration {
	if !m.until.IsZero() {
		if w := m.until.Sub(now); w > 0 {
			return w
		}
		m.until = time.Time{}
	}
	if m.limit == 0 {
		return 0
	}
	m.refill(now)
	if m.lent && (m.part == 0 || !now.Before(m.ends)) {
		return leaseAgain
	}
	lack := min(n, m.burst()) - m.left
	if lack <= 1e-9 {
		return 0
	}
	return time.Duration(lack/m.rate()*60*1e9) + 1
}

func (m *meter) spend(n float64) {
	if m.limit != 0 {
		m.left -= n
	}
}

// learn takes in what the service says. A limit that is used up is waited for
// until it is whole again; but one that takes a minute for that fills all the
// time, and is waited for a little. One that takes very long is asked about again
// before.
func (m *meter) learn(now time.Time, q Quota) {
	if !m.given && q.Limit > 0 && float64(q.Limit) != m.limit {
		m.refill(now)
		m.limit = float64(q.Limit)
		m.refill(now)
		m.left = min(m.left, m.burst())
	}
	if q.Left > 0 || q.Reset <= 0 {
		return
	}
	wait := q.Reset
	if s := q.Reset.Seconds(); q.Limit > 0 && s > 54 && s < 66 {
		wait = time.Duration(float64(q.Reset) * max(meterRefill, 1/float64(q.Limit)))
	}
	wait = min(wait, tuned.maxAfter)
	if t := now.Add(wait); t.After(m.until) {
		m.until = t
	}
}
