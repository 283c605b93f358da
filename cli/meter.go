package cli

import (
	"time"

	"matrix/llm"
	"matrix/run"
	"matrix/spend"
)

// view is what a display shows: how far the run has come, and how fast it goes.
type view struct {
	run.Progress
	Name     string
	Roles    []roleView // in the order of the flow
	Inline   []string   // roles without hops of their own
	Models   []modelView
	Rate     float64 // tasks settled a second; 0 unknown
	Stopping string  // what a Ctrl-C has begun
	Spending *spend.Spending
}

type roleView struct {
	Name string
	run.RoleProgress
	Rate float64 // hops a second
}

type modelView struct {
	Name string
	llm.Stats
	Rate float64 // tokens of replies a second
}

// Rates are taken over the last seconds, or over more where little happens.
const (
	rateWindow  = 10 * time.Second
	rateSamples = 64
	sampleEvery = time.Second
)

// meter turns counts into rates.
type meter struct {
	samples []sample // oldest first
}

type sample struct {
	at      time.Time
	settled int64
	hops    map[string]int64 // by role
	tokens  map[string]int64 // by model
}

// observe fills in the rates of v at a time.
func (m *meter) observe(now time.Time, v *view) {
	s := sample{at: now, settled: v.Done + v.Failed, hops: map[string]int64{}, tokens: map[string]int64{}}
	for _, r := range v.Roles {
		s.hops[r.Name] = r.Hops
	}
	for _, x := range v.Models {
		s.tokens[x.Name] = x.CompletionTokens
	}
	if n := len(m.samples); n == 0 || now.Sub(m.samples[n-1].at) >= sampleEvery {
		if n == rateSamples {
			m.samples = append(m.samples[:0], m.samples[1:]...)
		}
		m.samples = append(m.samples, s)
	}
	v.Rate = m.rate(s, func(s sample) int64 { return s.settled })
	for i := range v.Roles {
		v.Roles[i].Rate = m.rate(s, func(s sample) int64 { return s.hops[v.Roles[i].Name] })
	}
	for i := range v.Models {
		v.Models[i].Rate = m.rate(s, func(s sample) int64 { return s.tokens[v.Models[i].Name] })
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

// left is the time until all tasks are settled, and whether it can be told.
func (v *view) left() (time.Duration, bool) {
	if v.Owed < 0 || v.Rate <= 0 || v.Finished {
		return 0, false
	}
	return time.Duration(float64(v.Owed) / v.Rate * float64(time.Second)), true
}
