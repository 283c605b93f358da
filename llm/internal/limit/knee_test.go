package limit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// draws are how often each figure of a knee is drawn. One run in many goes
// worse than the others: a knee judges what it sees, and that is random.
const draws = 12

// ordered draws a figure with several seeds.
func ordered(f func(seed uint64) float64) []float64 {
	var got []float64
	for seed := range uint64(draws) {
		got = append(got, f(seed+1))
	}
	slices.Sort(got)
	return got
}

// reported runs f for a service that reports tokens and for one that does not.
func reported(t *testing.T, f func(t *testing.T, blind bool)) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("tokens=%v", !blind), func(t *testing.T) { f(t, blind) })
	}
}

// TestClimbColdStart knows nothing, and does not overshoot far while it learns.
func TestClimbColdStart(t *testing.T) {
	for _, c := range []struct {
		slots   int
		seconds float64
		sigma   float64
		most    float64 // times the slots, at most in flight
	}{{50, 2, 0.6, 3.5}, {200, 2, 0.6, 2.3}, {200, 0.2, 0.6, 2.3}, {200, 20, 0.6, 2.3}, {200, 2, 1, 2.3}, {1000, 2, 0.3, 2.2}} {
		t.Run(fmt.Sprintf("%d slots, %v s, sigma %v", c.slots, c.seconds, c.sigma), func(t *testing.T) {
			reported(t, func(t *testing.T, blind bool) {
				var share, over []float64
				peak := ordered(func(seed uint64) float64 {
					svc := slots(c.slots, c.seconds)
					svc.sigma, svc.blind = c.sigma, blind
					s := simulate(seed, svc, New(0), 8*c.slots, 22*c.slots, 1e6)
					share = append(share, used(s.first, s.last))
					most, last, longest := 0.0, 0.0, 0.0
					for _, k := range s.ticks {
						r := float64(k.inFlight) / float64(c.slots)
						most = max(most, r)
						if r <= 2 {
							last = k.at
						}
						longest = max(longest, k.at-last)
					}
					over = append(over, longest/c.seconds)
					return most
				})
				slices.Sort(share)
				slices.Sort(over)
				t.Logf("most %.2f, above twice for %.2f calls, used %.3f", peak[draws/2], over[draws/2], share[draws/2])
				if got := peak[draws/2]; got > c.most {
					t.Errorf("most in flight: got %.2f times the slots, want %.2f at most", got, c.most)
				}
				if got := over[draws/2]; got > 1 && c.slots > 100 && c.seconds > 1 {
					t.Errorf("above twice the slots: got %.2f times as long as a call, want 1 at most", got)
				}
				atLeast(t, "use", share[draws/2], 0.98)
			})
		})
	}
}

// TestClimbStepUp doubles the slots of a full service.
func TestClimbStepUp(t *testing.T) {
	for _, c := range []struct {
		from, to int
		at       float64
	}{{200, 400, 20}, {200, 400, 60}, {1000, 2000, 40}} {
		t.Run(fmt.Sprintf("%d to %d at %v s", c.from, c.to, c.at), func(t *testing.T) {
			reported(t, func(t *testing.T, blind bool) {
				var late []float64
				full := ordered(func(seed uint64) float64 {
					at := c.at + 0.17*float64(seed)
					svc := slots(c.from, 2)
					svc.blind = blind
					svc.change = []simChange{{at: at, slots: c.to}}
					s := simulate(seed, svc, New(0), 5000, 1e6, at+40)
					late = append(late, used(s.tick(at+10), s.tick(at+30)))
					for d := 0.0; d < 30; d += 0.25 {
						if used(s.tick(at+d), s.tick(at+d+2)) >= 0.95 {
							return d
						}
					}
					return 30
				})
				slices.Sort(late)
				t.Logf("full after %.2f s, in the worst case %.2f s; used %.3f", full[draws/2], full[draws-1], late[draws/2])
				if got := full[draws/2]; got > 5 {
					t.Errorf("full use after %.2f s, want 5 at most", got)
				}
				if got := full[draws-2]; got > 10 {
					t.Errorf("full use after %.2f s in the second worst case, want 10 at most", got)
				}
				atLeast(t, "10 to 30 s later", late[draws/2], 0.97)
			})
		})
	}
}

// TestClimbStepDown halves the slots of a full service.
func TestClimbStepDown(t *testing.T) {
	reported(t, func(t *testing.T, blind bool) {
		var use []float64
		level := ordered(func(seed uint64) float64 {
			at := 30 + 0.17*float64(seed)
			svc := slots(400, 2)
			svc.blind = blind
			svc.change = []simChange{{at: at, slots: 200}}
			s := simulate(seed, svc, New(0), 5000, 1e6, at+40)
			use = append(use, used(s.tick(at), s.tick(at+40)))
			sum, n := 0.0, 0.0
			for d := 30.0; d < 40; d += 0.25 {
				sum += float64(s.tick(at+d).inFlight) / 200
				n++
			}
			return sum / n
		})
		slices.Sort(use)
		t.Logf("in flight after 30 s %.2f, in the worst case %.2f; used %.3f", level[draws/2], level[draws-1], use[draws/2])
		if got := level[draws/2]; got > 1.75 {
			t.Errorf("in flight after 30 s: got %.2f times the slots, want 1.75 at most", got)
		}
		atLeast(t, "use", use[draws/2], 0.99)
	})
}

// TestClimbWild answers, refuses, fails and drops calls at random, at times that
// follow no rule: the limit stays sound, and no call is lost count of.
func TestClimbWild(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		l, now := New(0), simEpoch
		var ts []Ticket
		for range 30_000 {
			now = now.Add(time.Duration(r.ExpFloat64() * 1e6 * math.Exp(3*r.NormFloat64())))
			l.Demand(r.IntN(8) > 0)
			if ok, _ := l.Ready(now); ok {
				ts = append(ts, l.Sent(now))
			}
			if n := len(ts); n > 0 && r.IntN(3) > 0 {
				i := r.IntN(n)
				l.Done(now, ts[i], Result{Outcome(r.IntN(4) * r.IntN(2)), r.IntN(3) * r.IntN(1e5), r.IntN(3) * r.IntN(1e5)})
				ts[i] = ts[n-1]
				ts = ts[:n-1]
			}
			if b := l.knee.base; !(b >= 1 && b < 1e6) || l.Limit() < 1 || l.InFlight() != len(ts) {
				t.Fatalf("seed %d: got base %v, limit %d, %d in flight, want %d", seed, b, l.Limit(), l.InFlight(), len(ts))
			}
		}
	}
}

// TestCohortSight says what a quick call takes as soon as no call under way can
// change it, and not before.
func TestCohortSight(t *testing.T) {
	second := func(s float64) time.Duration { return time.Duration(s * 1e9) }
	o := newCohort(1, false, 16)
	for i := range 16 {
		if !o.take(second(float64(i) / 16)) {
			t.Fatalf("call %d of a cohort of 16: not taken", i)
		}
	}
	o.drop(false) // one fails
	for i := range 15 {
		at := 1 + float64(i)/8
		if i < 8 {
			o.end(at, 1, 3)
		}
		if _, ok := o.observe(second(at)); ok {
			t.Errorf("%d calls ended, %v s: an observation, but calls sent at %v s may be quicker than the quarter's %v s", i+1, at, o.last.Seconds(), o.times[3])
		}
		if at >= 2.25 {
			break
		}
	}
	s, ok := o.observe(second(2.4))
	if !ok || s.quick != 1.375 || s.n != 8 {
		t.Errorf("at 2.4 s: got %v s, %v calls, %v; want 1.375 s, 8 calls", s.quick, s.n, ok)
	}
}

// TestContrast compares calls of a service with 200 places, of 2 s on average, that wait in a queue.
func TestContrast(t *testing.T) {
	group := func(n float64, work bool) *observation {
		o := newCohort(1, false, 100)
		for i := range 100 {
			o.take(0)
			tokens := 1 + 4*float64(i)
			seconds := tokens/100 + max(n-200, 0)/100
			if !work {
				tokens = 1
			}
			o.end(seconds, tokens, math.Log(n))
		}
		s, ok := o.observe(time.Hour)
		if !ok {
			t.Fatal("all calls ended: no observation")
		}
		return &s
	}
	for _, c := range []struct {
		few, many float64
		work      bool
		line, e   float64
	}{
		{100, 150, true, 0, 1},
		{150, 300, true, 1. / 3, 0.415},
		{250, 300, true, 1. / 6, 0},
		{150, 300, false, 1. / 3, 0.415},
		{100, 200, false, 0, 1},
	} {
		work := 199.0
		if !c.work {
			work = 1
		}
		few, many := group(c.few, c.work), group(c.many, c.work)
		v := many.against(few, work, 1.99)
		if !v.ok || math.Abs(v.queued-c.line) > 0.01 || math.Abs(v.e-c.e) > 0.02 {
			t.Errorf("%v calls against %v, work known %v: got queued %.3f, elasticity %.3f, want %.3f, %.3f", c.many, c.few, c.work, v.queued, v.e, c.line, c.e)
		}
	}
}
