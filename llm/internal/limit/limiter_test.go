package limit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// seeds runs f with several seeds.
func seeds(t *testing.T, f func(t *testing.T, seed uint64)) {
	for seed := uint64(1); seed <= 4; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { f(t, seed) })
	}
}

// atLeast checks a share of what a service could do.
func atLeast(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want {
		t.Errorf("%s: got %.4f of the capacity, want %.2f or more", what, got, want)
	}
}

// TestLimiterFindsCapacity starts cold, and knows nothing.
func TestLimiterFindsCapacity(t *testing.T) {
	skewed := slots(200, 2)
	skewed.sigma = 1.2
	blind := slots(200, 2)
	blind.blind = true
	overhead := slots(200, 2)
	overhead.overhead = 100
	rounds := slots(200, 2)
	rounds.prompt = func(nth int) int { return nth / 1000 * 500 }
	for _, c := range []struct {
		name           string
		service        simService
		callers, calls int
		used           float64 // between the first and last tenth of completions, at least
		late           float64 // in the second half
		most           float64 // calls in flight on average then, at most
		refused        float64 // share of tries then, at most
	}{
		{"1 place", slots(1, 2), 100, 400, 0.98, 0.98, 50, 0},
		{"8 places", slots(8, 2), 132, 6000, 0.97, 0.97, 1.3*8 + 6, 0},
		{"32 places", slots(32, 2), 300, 3000, 0.98, 0.97, 1.3*32 + 4, 0},
		{"200 places", slots(200, 2), 900, 12000, 0.98, 0.98, 1.3 * 200, 0},
		{"1,000 places", slots(1000, 2), 4000, 15000, 0.98, 0.98, 1.3 * 1000, 0},
		{"calls of 0.2 s", slots(200, 0.2), 900, 12000, 0.98, 0.98, 1.3 * 200, 0},
		{"calls of 20 s", slots(200, 20), 900, 12000, 0.98, 0.98, 1.3 * 200, 0},
		{"skewed lengths", skewed, 900, 6000, 0.98, 0.98, 1.5 * 200, 0},
		{"tokens not reported", blind, 900, 6000, 0.98, 0.98, 2 * 200, 0},
		{"work not reported", overhead, 900, 6000, 0.95, 0.94, 1.5 * 200, 0},
		{"growing prompts", rounds, 2000, 12000, 0.98, 0.98, 2.3 * 200, 0},
		{"refusals", refusing(slots(200, 2), 0.1), 900, 4000, 0.98, 0.98, 201, 0.05},
		{"refusals with Retry-After", refusing(slots(200, 2), 1), 900, 4000, 0.98, 0.98, 201, 0.05},
		{"refusals of 8 places", refusing(slots(8, 2), 1), 132, 800, 0.98, 0.98, 9, 0.05},
		{"batching engine of 64", engine(64), 1000, 4000, 0.98, 0.98, 1.5 * 64, 0},
		{"batching engine of 256", engine(256), 2000, 8000, 0.98, 0.98, 1.3 * 256, 0},
		{"batching engine of 1,024", engine(1024), 3000, 15000, 0.98, 0.98, 1.3 * 1024, 0},
		{"thrashing above 60", thrashing(60), 1000, 6000, 0, 0.95, 70, 0},
		{"thrashing above 200", thrashing(200), 1000, 20000, 0, 0.95, 220, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				s := simulate(seed, c.service, New(0), c.callers, c.calls, 1e6)
				half := s.half()
				mean, _ := s.levels(half.at)
				refused := float64(s.refused-half.refused) / float64(s.tries-half.tries)
				t.Logf("used %.4f, late %.4f, limit %d, in flight %.0f, refused %.3f", used(s.first, s.last), used(half, s.last), s.l.Limit(), mean, refused)
				atLeast(t, "use", used(s.first, s.last), c.used)
				atLeast(t, "late use", used(half, s.last), c.late)
				if mean > c.most {
					t.Errorf("calls in flight: got %.0f, want %.0f at most", mean, c.most)
				}
				if refused > c.refused {
					t.Errorf("share of tries refused: got %.3f, want %.2f at most", refused, c.refused)
				}
			})
		})
	}
}

// TestLimiterFollowsCapacity changes a service while it is full.
func TestLimiterFollowsCapacity(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to int
		refusing bool
	}{
		{"twice the places", 200, 400, false},
		{"half the places", 400, 200, false},
		{"twice the places, with refusals", 200, 400, true},
		{"half the places, with refusals", 400, 200, true},
		{"1,000 to 2,000", 1000, 2000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				at := 60 + float64(seed)*0.75
				svc := slots(c.from, 2)
				if c.refusing {
					svc = refusing(svc, 1)
				}
				svc.change = []simChange{{at: at, slots: c.to}}
				s := simulate(seed, svc, New(0), 5000, 1e6, at+60)
				full := 0.0
				for d := 0.0; full == 0 && d < 30; d += 0.25 {
					if used(s.tick(at+d), s.tick(at+d+2)) >= 0.95 {
						full = d + 2
					}
				}
				t.Logf("full after %v s, limit %d", full, s.l.Limit())
				if full == 0 || full > 10 {
					t.Errorf("full use again after %v s, want 10 at most", full)
				}
				atLeast(t, "10 to 30 s later", used(s.tick(at+10), s.tick(at+30)), 0.95)
			})
		})
	}
}

func TestLimiterSlowerService(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		svc := slots(200, 2)
		svc.change = []simChange{{at: 60, speed: func(int) float64 { return 10 }}}
		s := simulate(seed, svc, New(0), 2000, 1e6, 400)
		most := 0
		for _, tick := range s.ticks {
			if tick.at > 60 {
				most = max(most, tick.inFlight)
			}
		}
		t.Logf("most in flight %d, limit %d", most, s.l.Limit())
		if most > 400 {
			t.Errorf("in flight at a service 10 times slower: got %d, want 400 at most", most)
		}
		atLeast(t, "use", used(s.tick(60), s.tick(400)), 0.97)
	})
}

func TestLimiterLowDemand(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		svc := slots(200, 2)
		svc.change = []simChange{{at: 120, callers: 1000}, {at: 200, callers: 1001}}
		s := simulate(seed, svc, New(0), 20, 1e6, 200)
		if got, want := s.tick(119).limit, s.tick(20).limit; got != want {
			t.Errorf("limit after a minute without demand: got %d, want %d", got, want)
		}
		if got := s.tick(119).limit; got < 20 || got > 40 {
			t.Errorf("limit with 20 callers: got %d, want 20 to 40", got)
		}
		atLeast(t, "8 to 10 s after demand came", used(s.tick(128), s.tick(130)), 0.95)
		atLeast(t, "later", used(s.tick(130), s.tick(200)), 0.98)
	})
}

// TestLimiterStorm refuses 60% of all tries for 20 s, however few calls there are.
func TestLimiterStorm(t *testing.T) {
	for _, c := range []struct {
		name    string
		service simService
	}{{"calls wait", slots(200, 2)}, {"calls are refused", refusing(slots(200, 2), 1)}} {
		t.Run(c.name, func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				svc := c.service
				svc.refuse = func(at float64, r *rand.Rand) bool { return at >= 40 && at < 60 && r.Float64() < 0.6 }
				s := simulate(seed, svc, New(0), 700, 1e6, 90)
				tries := float64(s.tick(60).tries-s.tick(40).tries) / 20
				t.Logf("used %.4f, after %.4f, %.0f tries a second, limit %d", used(s.tick(40), s.tick(60)), used(s.tick(60), s.tick(90)), tries, s.tick(60).limit)
				atLeast(t, "in the storm", used(s.tick(40), s.tick(60)), 0.95)
				atLeast(t, "after it", used(s.tick(60), s.tick(90)), 0.98)
				if tries > 450 { // 4 for each call accepted, and some
					t.Errorf("tries a second: got %.0f, want 450 at most", tries)
				}
			})
		})
	}
}

// TestLimiterStormFromTheStart finds a service in a storm, which ends.
func TestLimiterStormFromTheStart(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		svc := slots(200, 2)
		svc.refuse = func(at float64, r *rand.Rand) bool { return at < 20 && r.Float64() < 0.6 }
		s := simulate(seed, svc, New(0), 700, 1e6, 60)
		t.Logf("in the storm %.3f, after 10 s %.3f", used(s.tick(0), s.tick(20)), used(s.tick(30), s.tick(60)))
		atLeast(t, "in the storm", used(s.tick(0), s.tick(20)), 0.6)
		atLeast(t, "10 s after the storm", used(s.tick(30), s.tick(60)), 0.97)
	})
}

// TestLimiterOutage lets every try fail for a while, or be refused.
func TestLimiterOutage(t *testing.T) {
	for _, refused := range []bool{false, true} {
		for _, d := range []float64{5, 60} {
			t.Run(fmt.Sprintf("refused=%v/%v s", refused, d), func(t *testing.T) {
				seeds(t, func(t *testing.T, seed uint64) {
					out := func(at float64) bool { return at >= 40 && at < 40+d }
					svc := slots(200, 2)
					if refused {
						svc.refuse = func(at float64, _ *rand.Rand) bool { return out(at) }
					} else {
						svc.down = out
					}
					s := simulate(seed, svc, New(0), 700, 1e6, 80+d)
					tries := float64(s.tick(39+d).tries-s.tick(41).tries) / (d - 2)
					back := 40 + d
					t.Logf("limit %d, %d; %.1f tries a second; %.3f, %.3f", s.tick(39).limit, s.tick(back).limit, tries, used(s.tick(back), s.tick(back+2)), used(s.tick(back+1), s.tick(back+3)))
					if got, want := s.tick(back-1).limit, s.tick(39).limit; float64(got) < 0.85*float64(want) || float64(got) > 1.2*float64(want) {
						t.Errorf("limit in the outage: got %d, want some %d, as before", got, want)
					}
					if tries > 11 {
						t.Errorf("tries a second in the outage: got %.1f, want 10 at most", tries)
					}
					atLeast(t, "1 to 3 s after it", used(s.tick(back+1), s.tick(back+3)), 0.9)
					atLeast(t, "later", used(s.tick(back+3), s.tick(back+40)), 0.97)
				})
			})
		}
	}
}

// TestLimiterRate finds a service that accepts 50 calls a second, whatever it holds.
func TestLimiterRate(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		svc := slots(1<<20, 2)
		svc.speed = func(int) float64 { return 100 }
		saved, last := 50.0, 0.0
		svc.refuse = func(at float64, _ *rand.Rand) bool {
			saved = min(50, saved+(at-last)*50)
			if last = at; saved < 1 {
				return true
			}
			saved--
			return false
		}
		s := simulate(seed, svc, New(0), 700, 1e6, 120)
		a, b := s.tick(20), s.tick(120)
		calls, tries := float64(b.calls-a.calls), float64(b.tries-a.tries)
		t.Logf("%.1f calls a second, %.2f tries each", calls/100, tries/calls)
		if calls < 0.98*50*100 {
			t.Errorf("calls a second: got %.1f, want 49 or more of 50", calls/100)
		}
		if tries > 2.2*calls {
			t.Errorf("tries for each call: got %.2f, want 2.2 at most", tries/calls)
		}
	})
}

func TestLimiterFixed(t *testing.T) {
	l := New(3)
	now := simEpoch
	var ts []Ticket
	for range 3 {
		ok, _ := l.Ready(now)
		if !ok {
			t.Fatalf("room with %d of 3 in flight: got none", l.InFlight())
		}
		ts = append(ts, l.Sent(now))
	}
	if ok, wake := l.Ready(now); ok || !wake.IsZero() {
		t.Errorf("room with 3 of 3 in flight: got %v, wake %v; want none, and no time", ok, wake)
	}
	now = now.Add(time.Second)
	l.Done(now, ts[0], Result{CompletionTokens: 100})
	if ok, _ := l.Ready(now); !ok || l.InFlight() != 2 || l.Limit() != 3 {
		t.Errorf("after an answer: got room %v, %d in flight, limit %d", ok, l.InFlight(), l.Limit())
	}
	for _, c := range ts[1:] {
		l.Done(now, c, Result{Outcome: Dropped})
	}
	if l.InFlight() != 0 {
		t.Errorf("in flight at the end: got %d", l.InFlight())
	}
}

// TestLimiterWake asks again when it is told to, and no sooner.
func TestLimiterWake(t *testing.T) {
	l := New(0)
	now, tries := simEpoch, 0
	l.Demand(true)
	for now.Before(simEpoch.Add(10 * time.Second)) {
		ok, wake := l.Ready(now)
		if ok {
			tries++
			l.Done(now.Add(time.Millisecond), l.Sent(now), Result{Outcome: Full})
			continue
		}
		if !wake.After(now) {
			t.Fatalf("wake: got %v at %v, want a time to come", wake, now)
		}
		now = wake
	}
	if tries < 90 || tries > 130 {
		t.Errorf("tries in 10 s at a service that refuses all: got %d, want some 100", tries)
	}
}

func BenchmarkLimiter(b *testing.B) {
	for _, refusals := range []bool{false, true} {
		b.Run(fmt.Sprintf("refusals=%v", refusals), func(b *testing.B) {
			b.ReportAllocs()
			l := New(0)
			r := rand.New(rand.NewPCG(1, 1))
			now := simEpoch
			var ts [4096]Ticket
			n := 0
			l.Demand(true)
			for b.Loop() {
				now = now.Add(100 * time.Microsecond)
				if ok, _ := l.Ready(now); ok && n < len(ts) {
					ts[n] = l.Sent(now)
					n++
				}
				if n > 200 || n > 0 && n >= l.Limit() {
					i := r.IntN(n)
					res := Result{CompletionTokens: 100 + i, PromptTokens: 500}
					if refusals && i%16 == 0 {
						res = Result{Outcome: Full}
					}
					l.Done(now, ts[i], res)
					n--
					ts[i] = ts[n]
				}
			}
		})
	}
}
