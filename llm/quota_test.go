package llm

import (
	"math/rand/v2"
	"testing"
	"time"
)

var quotaEpoch = time.Unix(1_700_000_000, 0)

// spend takes calls of q as fast as it gives them, for so long, and returns
// when. Each reserves estimated tokens and turns out after took to have used real.
func spend(q *quota, from time.Time, d, took time.Duration, estimated int, real func() int) (at []time.Time, tokens []int) {
	type call struct {
		end  time.Time
		real int
	}
	var open []call
	for now := from; now.Before(from.Add(d)); {
		for len(open) > 0 && !open[0].end.After(now) {
			q.settle(open[0].end, estimated, open[0].real)
			open = open[1:]
		}
		ok, wake := q.take(now, estimated)
		if ok {
			r := real()
			at, tokens = append(at, now), append(tokens, r)
			open = append(open, call{now.Add(took), r})
			continue
		}
		if len(open) > 0 && open[0].end.Before(wake) {
			wake = open[0].end
		}
		now = wake
	}
	return at, tokens
}

// window is the most that any 60 s saw.
func window(at []time.Time, n []int) (most int) {
	sum, first := 0, 0
	for i := range at {
		sum += n[i]
		for at[i].Sub(at[first]) >= time.Minute {
			sum -= n[first]
			first++
		}
		most = max(most, sum)
	}
	return most
}

func ones(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = 1
	}
	return s
}

func TestQuotaRequests(t *testing.T) {
	for _, rpm := range []int{3, 60, 600, 100_000} {
		q := newQuota(rpm, 0)
		at, _ := spend(q, quotaEpoch, 5*time.Minute, time.Second, 1000, func() int { return 1000 })
		if got, want := len(at), rpm*5; float64(got) < 0.98*float64(want) {
			t.Errorf("%d a minute: got %d requests in 5 minutes, want 98%% of %d", rpm, got, want)
		}
		if got := window(at, ones(len(at))); float64(got) > 1.05*float64(rpm)+1 {
			t.Errorf("%d a minute: got %d in 60 s", rpm, got)
		}
		// Spread: no second sees more than twice its share and the burst.
		sum, first := 0, 0
		for i := range at {
			sum++
			for at[i].Sub(at[first]) >= time.Second {
				sum--
				first++
			}
			if float64(sum) > float64(rpm)/60*2+float64(rpm)*meterBurst+1 {
				t.Fatalf("%d a minute: got %d in a second", rpm, sum)
			}
		}
	}
}

func TestQuotaTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		name            string
		estimated, real int // real: mean
	}{
		{"estimates that are right", 500, 500},
		{"estimates 8 times too high", 4000, 500},
		{"estimates too low", 250, 500},
		{"calls larger than a burst", 20_000, 20_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			const tpm = 200_000
			q := newQuota(0, tpm)
			at, tokens := spend(q, quotaEpoch, 10*time.Minute, 3*time.Second, c.estimated, func() int { return c.real/2 + r.IntN(c.real+1) })
			// The first minute pays for what is reserved.
			sum := 0
			for i := range at {
				if at[i].After(quotaEpoch.Add(time.Minute)) {
					sum += tokens[i]
				}
			}
			if float64(sum) < 0.97*9*tpm || float64(sum) > 1.04*9*tpm {
				t.Errorf("tokens in 9 minutes: got %d, want some %d", sum, 9*tpm)
			}
			if got := window(at, tokens); float64(got) > 1.05*tpm+float64(2*c.real)+float64(c.real)*50 && c.estimated < c.real || float64(got) > 1.2*tpm {
				t.Errorf("tokens in 60 s: got %d of %d", got, tpm)
			}
		})
	}
}

func TestQuotaBoth(t *testing.T) {
	q := newQuota(600, 60_000)
	at, _ := spend(q, quotaEpoch, 5*time.Minute, time.Second, 1000, func() int { return 1000 })
	if got := len(at); got < 294 || got > 306 {
		t.Errorf("requests of 1,000 tokens in 5 minutes at 60,000 a minute: got %d, want 300", got)
	}
}

func TestQuotaNone(t *testing.T) {
	q := newQuota(0, 0)
	for range 1000 {
		if ok, _ := q.take(quotaEpoch, 1e6); !ok {
			t.Fatal("a quota without limits: got no")
		}
	}
}

func TestQuotaLearns(t *testing.T) {
	q := newQuota(0, 0)
	q.learn(quotaEpoch, []Quota{{Limit: 600, Left: 400, Reset: 20 * time.Second}, {Tokens: true, Limit: 90_000, Left: 80_000}})
	at, tokens := spend(q, quotaEpoch, 5*time.Minute, time.Second, 100, func() int { return 100 })
	if got := len(at); got < 2940 || got > 3010 {
		t.Errorf("requests in 5 minutes under a limit learnt of 600: got %d, want 3,000", got)
	}
	if got := window(at, tokens); got > 94_500 {
		t.Errorf("tokens in 60 s: got %d", got)
	}
	// A limit that changes is followed.
	from := quotaEpoch.Add(5 * time.Minute)
	q.learn(from, []Quota{{Limit: 1200, Left: 1000}, {Tokens: true, Limit: 1_000_000, Left: 1}})
	at, _ = spend(q, from, time.Minute, time.Second, 100, func() int { return 100 })
	if got := len(at); got < 1176 || got > 1215 {
		t.Errorf("requests in a minute under a limit of 1,200: got %d", got)
	}
}

func TestQuotaWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		rpm  int
		said Quota
		want time.Duration
	}{
		{"used up", 0, Quota{Left: 0, Reset: 3 * time.Second}, 3 * time.Second},
		{"used up, tokens", 0, Quota{Tokens: true, Limit: 1000, Left: 0, Reset: 3 * time.Second}, 3 * time.Second},
		{"used up, under a limit given", 600, Quota{Limit: 6000, Left: 0, Reset: 3 * time.Second}, 3 * time.Second},
		{"one that fills all the time", 0, Quota{Limit: 600, Left: 0, Reset: time.Minute}, 1200 * time.Millisecond},
		{"something left", 0, Quota{Limit: 600, Left: 2, Reset: 3 * time.Second}, 0},
		{"no time said", 0, Quota{Limit: 600, Left: 0}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQuota(c.rpm, 0)
			q.learn(quotaEpoch, []Quota{c.said})
			ok, wake := q.take(quotaEpoch, 1)
			if ok != (c.want == 0) {
				t.Fatalf("take: got %v, want a wait of %v", ok, c.want)
			}
			if !ok && wake.Sub(quotaEpoch) != c.want {
				t.Errorf("wait: got %v, want %v", wake.Sub(quotaEpoch), c.want)
			}
			if !ok {
				if ok, _ := q.take(wake, 1); !ok {
					t.Error("take at that time: got no")
				}
			}
		})
	}
}

func TestQuotaKeepsWhatWasGiven(t *testing.T) {
	q := newQuota(60, 0)
	q.learn(quotaEpoch, []Quota{{Limit: 6000, Left: 6000}})
	at, _ := spend(q, quotaEpoch, time.Minute, time.Second, 1, func() int { return 1 })
	if got := len(at); got > 62 {
		t.Errorf("requests in a minute at 60 given and 6,000 said: got %d", got)
	}
}

func BenchmarkQuota(b *testing.B) {
	b.ReportAllocs()
	q := newQuota(1e6, 1e9)
	now := quotaEpoch
	said := []Quota{{Limit: 1e6, Left: 10}, {Tokens: true, Limit: 1e9, Left: 10}}
	for b.Loop() {
		now = now.Add(50 * time.Microsecond)
		if ok, _ := q.take(now, 500); ok {
			q.settle(now, 500, 400)
			q.learn(now, said)
		}
	}
}
