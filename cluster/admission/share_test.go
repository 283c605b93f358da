package admission

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"matrix/internal/sim"
	"matrix/llm"
)

// TestShares has processes join one after the other, over a network that is not a good one.
// The service is full all the time and not much fuller, and each has as much of it as the others.
func TestShares(t *testing.T) {
	const slots, callers, between, after = 200, 500, 5 * time.Second, 45 * time.Second
	for _, n := range []int{1, 4, 16} {
		for _, c := range []struct {
			name  string
			tells bool
			queue int
			used  float64 // of the capacity, at least
			mean  float64 // in flight, times the slots, at most
		}{
			{"tells how busy it is", true, 0, 0.95, 1.1},
			{"does not", false, 0, 0.8, 1.45}, // nearly all draws: 0.95 and 1.25
			{"refuses", false, -1, 0.85, 1},
		} {
			t.Run(fmt.Sprintf("%d/%s", n, c.name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := newService(t, sim.Config{Preset: "slots", Slots: slots, Queue: c.queue, Latency: sim.Latency{Mean: 2 * time.Second, Sigma: 0.6}, Seed: int64(n)}, c.tells)
					f := newFleet(t, s, llm.Service{Timeout: time.Hour}, newWeather(uint64(n), 0.01))
					start := time.Now()
					f.serveOwn(callers)
					for range n - 1 {
						time.Sleep(between)
						f.join(callers)
					}
					joined := time.Since(start)
					warm := 15 * time.Second // from then on it is to be full
					inside, most, ticks, least := 0.0, 0, 0, 1.0
					var before, now sim.Replica
					for at := joined; at < joined+after; at += 250 * time.Millisecond {
						time.Sleep(250 * time.Millisecond)
						if now = s.engines[0].Stats().Replicas[0]; before.Calls == 0 && time.Since(start) > warm {
							before = now
						}
						if before.Calls > 0 {
							ticks++
							inside += float64(now.Running + now.Waiting)
							most = max(most, now.Running+now.Waiting)
						}
						if at > joined+10*time.Second {
							least = min(least, jain(f.shares()))
						}
					}
					stats := s.engines[0].Stats()
					used := stats.Share(0.1, 0.9)
					calls, refused := float64(now.Done), float64(now.Full)
					t.Logf("used %.3f, in flight on average %.0f, at most %d, Jain at least %.3f, refused a call %.3f, shares at the end %s",
						used, inside/float64(ticks), most, least, refused/calls, words(f.shares()))
					f.close()
					if used < c.used {
						t.Errorf("used: got %.3f of the capacity, want %.2f", used, c.used)
					}
					if mean := inside / float64(ticks) / slots; mean > c.mean {
						t.Errorf("in flight on average: got %.2f of the slots, want %.2f at most", mean, c.mean)
					}
					if least < 0.9 {
						t.Errorf("Jain's index: got %.3f, want 0.9 at least", least)
					}
					if refused > 0.35*calls { // nearly all draws: 0.1
						t.Errorf("refused: got %.3f a call, want 0.35 at most", refused/calls)
					}
				})
			})
		}
	}
}

// TestLateAnswer has an answer of a leader come when another one leads already. The
// member follows the one that goes on answering, as another process than before.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last report
		m := newMember(MemberOptions{ID: "w"}, func(r report) { last = r })
		answered := func(by string) {
			t.Helper()
			m.report(time.Now(), true)
			m.take(&answer{Head: by, Process: last.Process, N: last.N})
			m.report(time.Now(), true)
		}
		answered("new")
		first := last.Process
		answered("old")
		if answered("new"); last.Head != "old" || last.Process != first {
			t.Errorf("at once after an answer of another leader: follows %s, want the other one", last.Head)
		}
		time.Sleep(patience)
		if answered("new"); last.Head != "new" || last.Process == first {
			t.Errorf("when the other one is silent: follows %s, as the process from before: %t; want new, and another process", last.Head, last.Process == first)
		}
		if answered("old"); last.Head != "new" {
			t.Errorf("after a second late answer: follows %s, want new", last.Head)
		}
	})
}
