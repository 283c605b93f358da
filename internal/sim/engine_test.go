package sim

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// load is what a test gives an engine: jobs of a prompt and a reply.
func load(e engine, n, prompt, out int) []*job {
	jobs := make([]*job, n)
	for i := range jobs {
		jobs[i] = &job{prompt: prompt, out: out, width: 1, seed: uint64(i), woken: make(chan struct{}, 1)}
		e.submit(jobs[i])
	}
	return jobs
}

func (j *job) await() {
	for !j.done.Load() {
		<-j.woken
	}
}

// What NVIDIA measured, the engine does too, within 12%: see presets.
func TestPublished(t *testing.T) {
	for _, c := range []struct {
		preset      string
		prompt, out int
		want        float64 // output tokens/s
		n           int
	}{
		{"8b", 128, 2048, 22714, 3000},
		{"8b", 128, 4096, 14325, 1500},
		{"8b", 500, 2000, 17660, 3000},
		{"8b", 1000, 1000, 15220, 3000},
		{"8b", 1000, 2000, 13899, 1500},
		{"8b", 2048, 128, 3450, 3000},
		{"8b", 2048, 2048, 9305, 1500},
		{"8b", 5000, 500, 3459, 1500},
		{"8b", 20000, 2000, 1351, 1000},
		{"70b", 128, 2048, 4336, 3000},
		{"70b", 128, 4096, 2872, 1500},
		{"70b", 500, 2000, 3666, 3000},
		{"70b", 1000, 1000, 2909, 3000},
		{"70b", 1000, 2000, 2994, 1500},
		{"70b", 2048, 128, 442, 3000},
		{"70b", 2048, 2048, 2003, 1500},
		{"70b", 5000, 500, 566, 1500},
		{"70b", 20000, 2000, 283, 1000},
	} {
		t.Run(fmt.Sprintf("%s/%d/%d", c.preset, c.prompt, c.out), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engines(t, Config{Preset: c.preset})[0].work
				start := time.Now()
				for _, j := range load(e, c.n, c.prompt, c.out) {
					j.await()
				}
				got := float64(c.n*c.out) / time.Since(start).Seconds()
				t.Logf("%.0f tokens/s, published %.0f: %+.0f%%; %d preemptions", got, c.want, 100*(got/c.want-1), e.gauges().Preemptions)
				if !about(got, c.want, 0.12) {
					t.Errorf("got %.0f tokens/s, want %.0f give or take 12%%", got, c.want)
				}
			})
		})
	}
}

// alone is how long one sequence takes by itself, in closed form.
func alone(c Costs, prompt, out int) time.Duration {
	steps := (prompt + c.Batched - 1) / c.Batched
	d := time.Duration(steps)*c.Base + time.Duration(prompt)*c.PerPrompt
	m := out - 1
	d += time.Duration(m) * (c.Base + c.PerSequence)
	return d + time.Duration(m*(prompt+1)+m*(m-1)/2)*c.PerContext
}

func TestAlone(t *testing.T) {
	for _, c := range []struct {
		preset      string
		prompt, out int
	}{{"8b", 1, 1}, {"8b", 16, 16}, {"8b", 1000, 500}, {"8b", 30_000, 100}, {"70b", 5000, 2}} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%d/%d/stream=%v", c.preset, c.prompt, c.out, stream), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engines(t, Config{Preset: c.preset})[0]
					start := time.Now()
					j := &job{prompt: c.prompt, out: c.out, width: 1, stream: stream, woken: make(chan struct{}, 1)}
					e.work.submit(j)
					<-j.woken
					first := time.Since(start)
					j.await()
					if got, want := time.Since(start), alone(e.of.c.Engine, c.prompt, c.out); (got - want).Abs() > time.Microsecond*time.Duration(c.out) {
						t.Errorf("got %v, want %v", got, want)
					}
					if want := alone(e.of.c.Engine, c.prompt, 1); stream && (first-want).Abs() > time.Microsecond {
						t.Errorf("first token: got %v, want %v", first, want)
					}
				})
			})
		}
	}
}

// Steps taken together end when they would end one by one, whatever arrives in
// between.
func TestStepsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(stream bool) []time.Duration {
			e := engines(t, Config{Engine: Costs{KV: 4000, Sequences: 40}})[0].work
			if stream { // of a long reply: steps are cut short for it
				e.submit(&job{prompt: 16, out: 3000, width: 1, stream: true, woken: make(chan struct{}, 1)})
			} else {
				e.submit(&job{prompt: 16, out: 3000, width: 1, woken: make(chan struct{}, 1)})
			}
			r := random(5)
			ends := make([]time.Duration, 100)
			done := make(chan struct{})
			start := time.Now()
			for i := range ends {
				j := &job{prompt: 1 + r.below(200), out: 1 + r.below(200), width: 1 + r.below(2), woken: make(chan struct{}, 1)}
				time.Sleep(time.Duration(r.below(20)) * time.Millisecond)
				e.submit(j)
				go func() {
					j.await()
					ends[i] = time.Since(start)
					done <- struct{}{}
				}()
			}
			for range ends {
				<-done
			}
			if p := e.gauges().Preemptions; p == 0 {
				t.Error("nothing was preempted: the test says less than it should")
			}
			return ends
		}
		together, oneByOne := run(false), run(true)
		for i := range together {
			if (together[i] - oneByOne[i]).Abs() > 10*time.Microsecond {
				t.Errorf("job %d: got its end at %v, and %v when steps are cut short", i, together[i], oneByOne[i])
			}
		}
	})
}

// What a batch holds is given back, whatever was submitted and cancelled.
func TestBatchGivesBack(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) { giveBack(t, seed) })
	}
}

func giveBack(t *testing.T, seed uint64) {
	r := random(seed)
	c := Config{Engine: Costs{KV: block * (20 + r.below(200)), Batched: 64, Sequences: 8}}
	b := engines(t, c)[0].work.(*batch)
	var jobs []*job
	for range 1 + r.below(60) {
		switch r.below(4) {
		case 0, 1:
			prompt := 1 + r.below(150)
			p, family := prefix{keep: true}, uint64(r.below(2))
			for range prompt {
				p.token(family)
			}
			j := &job{prompt: prompt, blocks: p.blocks, out: 1 + r.below(100), width: 1 + r.below(3), woken: make(chan struct{}, 1)}
			b.submit(j)
			jobs = append(jobs, j)
		case 2:
			if len(jobs) > 0 {
				b.cancel(jobs[r.below(len(jobs))])
			}
		case 3:
			time.Sleep(time.Duration(r.below(200)) * time.Millisecond)
		}
	}
	time.Sleep(time.Hour)
	b.gauges()
	if b.seats != 0 || b.width != 0 || b.context != 0 || b.kv.private != 0 || b.kv.shared != 0 || b.phase != [block]int{} || b.waiting.count != 0 || b.decode.Len() != 0 || len(b.prefill) != 0 {
		t.Errorf("seed %d, at rest: seats %d, width %d, context %d, blocks %d and %d, phase %v, waiting %d, decoding %d, prefilling %d; want none",
			seed, b.seats, b.width, b.context, b.kv.private, b.kv.shared, b.phase, b.waiting.count, b.decode.Len(), len(b.prefill))
	}
	if n := len(b.kv.known); n != b.kv.idles || n > b.kv.total {
		t.Errorf("seed %d: got %d known blocks, %d of them idle, of %d", seed, n, b.kv.idles, b.kv.total)
	}
	for i, j := range jobs {
		if j.state != isOver {
			t.Errorf("seed %d: job %d is not over: state %d", seed, i, j.state)
		}
	}
}

// Twice the KV cache that is needed preempts nothing; half of it preempts, and
// loses nothing.
func TestPreemption(t *testing.T) {
	for _, c := range []struct {
		kv   int
		want bool
	}{{20 * 2 * 1024, false}, {20 * 512, true}} {
		synctest.Test(t, func(t *testing.T) {
			e := engines(t, Config{Engine: Costs{KV: c.kv}})[0].work
			for _, j := range load(e, 20, 24, 1000) {
				j.await()
			}
			g := e.gauges()
			if got := g.Preemptions > 0; got != c.want {
				t.Errorf("KV of %d tokens: got %d preemptions, want some: %v", c.kv, g.Preemptions, c.want)
			}
			if g.Generated != 20*1000 {
				t.Errorf("KV of %d tokens: got %d tokens, want 20000", c.kv, g.Generated)
			}
			if c.want && g.Computed <= 20*24 {
				t.Errorf("got %d tokens computed, want more than the prompts: what was lost is computed again", g.Computed)
			}
		})
	}
}

func TestSlots(t *testing.T) {
	for _, c := range []struct {
		sigma float64
		n     int
		want  time.Duration // closed form: waves, or work over slots and the tail
	}{{0, 1000, 10 * time.Second}, {0, 1001, 12 * time.Second}, {0.6, 20_000, 200 * time.Second}} {
		t.Run(fmt.Sprint(c.sigma, "/", c.n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engines(t, Config{Preset: "slots", Latency: Latency{Mean: 2 * time.Second, Sigma: c.sigma}})[0]
				start := time.Now()
				for _, j := range load(e.work, c.n, 10, 10) {
					j.await()
				}
				if got := time.Since(start); !about(got.Seconds(), c.want.Seconds(), 0.05) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				s := e.Stats()
				if got := s.Share(0.1, 0.9); got < 0.999 || got > 1.001 {
					t.Errorf("share of capacity used: got %v, want 1", got)
				}
			})
		})
	}
}

// Half of the slots busy is half of the capacity used, and steps in the slots
// are steps in the throughput.
func TestShareAndSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engines(t, Config{Preset: "slots", Slots: 20, Latency: Latency{Mean: time.Second}, Steps: []Step{{At: 10 * time.Second, Slots: 40}}})[0]
		e.of.first()
		for range 20 {
			for _, j := range load(e.work, 20, 10, 10) {
				j.await()
			}
		}
		s := e.Stats()
		for _, c := range []struct{ from, to, want float64 }{{0, 10, 1}, {10, 20, 0.5}, {5, 15, 2. / 3}} {
			if got := s.Used(c.from, c.to); math.Abs(got-c.want) > 0.001 {
				t.Errorf("from %v to %v s: got %v, want %v", c.from, c.to, got, c.want)
			}
		}
		start := time.Now()
		for _, j := range load(e.work, 400, 10, 10) {
			j.await()
		}
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("400 calls of 1 s in 40 slots: got %v, want 10s", got)
		}
	})
}

func TestQueueLimit(t *testing.T) {
	for _, c := range []struct {
		preset      string
		queue, want int // accepted of 100
	}{{"slots", 0, 100}, {"slots", -1, 10}, {"slots", 5, 15}, {"8b", -1, 10}, {"8b", 0, 100}} {
		synctest.Test(t, func(t *testing.T) {
			e := engines(t, Config{Preset: c.preset, Slots: 10, Queue: c.queue})[0].work
			n := 0
			for range 100 {
				if e.submit(&job{prompt: 10, out: 10, width: 1, woken: make(chan struct{}, 1)}) {
					n++
				}
			}
			time.Sleep(time.Hour)
			if got := e.gauges(); n != c.want || got.Generated != int64(10*n) {
				t.Errorf("%s, queue %d: got %d accepted and %d tokens made, want %d and %d", c.preset, c.queue, n, got.Generated, c.want, 10*c.want)
			}
		})
	}
}

// The timeline keeps its sums when its spans grow.
func TestTimeline(t *testing.T) {
	r := newRecorder()
	for i := 1; i <= 4000; i++ {
		at := time.Duration(i) * time.Second
		r.advance(at, 3, 4)
		r.finished(at - 1)
	}
	tl := r.timeline()
	var busy float64
	done := 0
	for i := range tl.Busy {
		busy += tl.Busy[i]
		done += tl.Done[i]
	}
	share := Stats{Replicas: []Replica{{Timeline: tl}}}.Used(0, 4000)
	if !about(busy, 12000, 1e-9) || done != 4000 || len(tl.Busy) > maxSpans || !about(share, 0.75, 1e-9) {
		t.Errorf("got %v busy, %d done, %d spans, share %v; want 12000, 4000, at most %d, 0.75", busy, done, len(tl.Busy), share, maxSpans)
	}
}
