package session

import "time"

// Rates are taken over the last seconds, or over more where little happens.
const (
	rateWindow  = 10 * time.Second
	rateSamples = 64
	sampleEvery = time.Second
)

// meter turns the counts of snapshots that follow each other into rates. The zero
// meter is ready. It is used by one goroutine at a time.
type meter struct {
	samples []sample // oldest first
}

type sample struct {
	at      time.Time
	settled int64
	hops    map[string]int64 // by role
	tokens  map[string]int64 // by model
}

// observe fills in the rates of s, which was taken at now.
func (m *meter) observe(now time.Time, s *Snapshot) {
	x := sample{at: now, settled: s.Settled(), hops: map[string]int64{}, tokens: map[string]int64{}}
	for _, r := range s.Roles {
		x.hops[r.Name] = r.Hops
	}
	for _, y := range s.Models {
		x.tokens[y.Name] = y.CompletionTokens
	}
	if n := len(m.samples); n == 0 || now.Sub(m.samples[n-1].at) >= sampleEvery {
		if n == rateSamples {
			m.samples = append(m.samples[:0], m.samples[1:]...)
		}
		m.samples = append(m.samples, x)
	}
	s.Rate = m.rate(x, func(x sample) int64 { return x.settled })
	for i := range s.Roles {
		s.Roles[i].Rate = m.rate(x, func(x sample) int64 { return x.hops[s.Roles[i].Name] })
	}
	for i := range s.Models {
		s.Models[i].Rate = m.rate(x, func(x sample) int64 { return x.tokens[s.Models[i].Name] })
	}
}

// rate is that of a count until now: over the window, and over all that is
// remembered where nothing happened in the window.
func (m *meter) rate(now sample, count func(sample) int64) float64 {
	var x float64
	for i := len(m.samples) - 1; i >= 0; i-- {
		old := m.samples[i]
		dt := now.at.Sub(old.at)
		if dt <= 0 {
			continue
		}
		x = float64(count(now)-count(old)) / dt.Seconds()
		if dt >= rateWindow && x > 0 {
			break
		}
	}
	return x
}
