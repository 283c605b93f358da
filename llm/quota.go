package llm

import "time"

// quota keeps a model within its requests and tokens a minute. It takes the
// time from its caller, who also guards it.
type quota struct {
	requests, tokens meter
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
	return true, time.Time{}
}

// settle corrects a reservation of tokens by what was really used. A request
// that never reached the service gives all back with real 0.
func (q *quota) settle(now time.Time, estimated, real int) {
	q.tokens.refill(now)
	q.tokens.spend(float64(real - estimated))
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

// meter is a bucket of tokens that fills at limit a minute. What it holds is
// small, so that a limit is spread over the minute and no 60 s see more than
// the limit and the burst.
type meter struct {
	limit float64 // a minute; 0 for none
	given bool    // by the config: the service cannot change it
	left  float64
	at    time.Time
	until time.Time // nothing before
}

const (
	quotaBurst = 0.01 // of a limit may be spent at once
)

func (m *meter) burst() float64 { return max(1, m.limit*quotaBurst) }

func (m *meter) refill(now time.Time) {
	if m.limit == 0 {
		return
	}
	if m.at.IsZero() {
		m.at, m.left = now, m.burst()
		return
	}
	if d := now.Sub(m.at); d > 0 {
		m.at = now
		m.left = min(m.left+m.limit*d.Seconds()/60, m.burst())
	}
}

// wait is how long n must wait. More than a burst waits for a whole one, and
// leaves a debt.
func (m *meter) wait(now time.Time, n float64) time.Duration {
	if w := m.until.Sub(now); w > 0 {
		return w
	}
	if m.limit == 0 {
		return 0
	}
	m.refill(now)
	lack := min(n, m.burst()) - m.left
	if lack <= 1e-9 {
		return 0
	}
	return time.Duration(lack/m.limit*60*1e9) + 1
}

func (m *meter) spend(n float64) {
	if m.limit != 0 {
		m.left -= n
	}
}

func (m *meter) learn(now time.Time, q Quota) {
	if !m.given && q.Limit > 0 && float64(q.Limit) != m.limit {
		m.refill(now)
		m.limit = float64(q.Limit)
		m.left = min(m.left, m.burst())
		if m.at.IsZero() {
			m.refill(now)
		}
	}
	if q.Left <= 0 && q.Reset > 0 {
		if t := now.Add(q.Reset); t.After(m.until) {
			m.until = t
		}
	}
}
