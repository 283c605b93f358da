package limit

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// crowd is several processes at one service of slots, in virtual time. Each has
// a limiter that follows a Shared, and tells it of its calls every so often; what
// they tell one another takes a while, and some of it is lost.
type crowd struct {
	slots   int
	refuses bool    // what finds no slot
	random  float64 // share of calls that are refused all the same
	tells   bool    // how busy it is
	seconds float64 // of a call, mean
	loss    float64 // of messages
	backoff float64 // seconds until a refused caller comes back

	r       *rand.Rand
	at      float64
	seq     int
	events  simEvents
	running int
	queue   []func()
	shared  *Shared
	members []*member

	ended, refused int
	busy, inside   float64 // integrals of calls at work and calls in the service
	samples        []sample
}

type sample struct {
	at              float64
	running, inside int
	ended, refused  int
	busy            float64
	shares          []float64
	limit           int
}

type member struct {
	id      string
	l       *Limiter
	waiting int
	woken   float64
	dead    bool
	asked   float64 // when it told last
	news    bool
	looked  float64
}

func (c *crowd) now() time.Time { return simEpoch.Add(time.Duration(c.at * 1e9)) }

func (c *crowd) after(d float64, f func()) {
	c.seq++
	heap.Push(&c.events, simEvent{c.at + d, c.seq, f})
}

// join adds a process with so many callers.
func (c *crowd) join(callers int) *member {
	m := &member{id: fmt.Sprint(len(c.members)), l: New(0), waiting: callers}
	m.l.Follow(c.now())
	c.members = append(c.members, m)
	m.news = true
	var tick func()
	tick = func() {
		if m.dead {
			return
		}
		if d := c.at - m.asked; d >= tellEvery || m.news && d >= tellSoon {
			c.tell(m)
		}
		c.after(tellSoon/2, tick)
	}
	c.after(c.r.Float64()*tellSoon, tick)
	c.pump(m)
	return m
}

// How often a process tells: at most, and when there is news.
const tellEvery, tellSoon = 1.0, 0.1

func (c *crowd) tell(m *member) {
	m.news, m.asked = false, c.at
	if m.l.Looks() && c.tells && c.at-m.looked >= 1 {
		m.looked = c.at
		m.l.ReportLoad(c.now(), time.Second, c.running, len(c.queue))
	}
	u, asked := m.l.Use(c.now(), m.waiting), c.now()
	if !c.tells {
		u.Mute = true
	}
	c.after(0.002, func() {
		if c.r.Float64() < c.loss {
			return
		}
		c.shared.Report(c.now(), m.id, u)
		s := c.shared.Slice(c.now(), m.id)
		c.after(0.002, func() {
			if m.dead || c.r.Float64() < c.loss {
				return
			}
			m.l.Take(c.now(), s, asked)
			m.news = m.news || s.Again
			c.pump(m)
		})
	})
}

func (c *crowd) pump(m *member) {
	for !m.dead && m.waiting > 0 {
		m.l.Demand(true)
		ok, wake := m.l.Ready(c.now())
		if !ok {
			if d := wake.Sub(c.now()).Seconds(); !wake.IsZero() && (m.woken <= c.at || c.at+d < m.woken) {
				m.woken = c.at + d
				c.after(d+1e-9, func() { c.pump(m) })
			}
			return
		}
		m.waiting--
		c.send(m)
	}
	m.l.Demand(false)
}

func (c *crowd) send(m *member) {
	t := m.l.Sent(c.now())
	if c.refuses && c.running >= c.slots || c.r.Float64() < c.random {
		c.refused++
		c.after(0.002, func() {
			m.l.Done(c.now(), t, Result{Outcome: Full})
			m.news = true
			c.after(c.backoff*2*c.r.Float64(), func() {
				m.waiting++
				c.pump(m)
			})
			c.pump(m)
		})
		return
	}
	run := func() {
		c.running++
		k := max(1, math.Round(200*math.Exp(c.r.NormFloat64()*0.6-0.18)))
		c.after(k/200*c.seconds, func() {
			c.running--
			c.ended++
			if len(c.queue) > 0 {
				next := c.queue[0]
				c.queue = c.queue[1:]
				next()
			}
			m.waiting++
			m.l.Demand(true)
			m.l.Done(c.now(), t, Result{CompletionTokens: int(k)})
			c.pump(m)
		})
	}
	if c.running < c.slots {
		run()
	} else {
		c.queue = append(c.queue, run)
	}
}

func (c *crowd) run(seconds float64) {
	for len(c.events) > 0 && c.events[0].at < seconds {
		e := heap.Pop(&c.events).(simEvent)
		c.busy += (e.at - c.at) * float64(c.running)
		c.inside += (e.at - c.at) * float64(c.running+len(c.queue))
		c.at = e.at
		e.f()
	}
}

func newCrowd(seed uint64, c crowd) *crowd {
	c.r = rand.New(rand.NewPCG(seed, 2))
	c.shared = NewShared(0, 0, 0)
	if c.backoff == 0 {
		c.backoff = 0.5
	}
	var look func()
	k := &c
	look = func() {
		s := sample{at: k.at, running: k.running, inside: k.running + len(k.queue), ended: k.ended, refused: k.refused, busy: k.busy, limit: k.shared.limit()}
		for _, m := range k.members {
			if !m.dead {
				s.shares = append(s.shares, float64(m.l.InFlight()))
			}
		}
		k.samples = append(k.samples, s)
		k.after(0.25, look)
	}
	k.after(0, look)
	return k
}

// jain is Jain's index of fairness: 1 where all have the same.
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	return sum * sum / (float64(len(x)) * squares)
}

func (c *crowd) since(at float64) []sample {
	i, _ := slices.BinarySearchFunc(c.samples, at, func(s sample, at float64) int {
		if s.at < at {
			return -1
		}
		return 1
	})
	return c.samples[i:]
}

// TestShared has processes join one after the other at a service whose calls take as
// long as their work says, over a network that loses some of what they tell.
func TestShared(t *testing.T) {
	for _, n := range []int{1, 4, 16} {
		for _, k := range []struct {
			name           string
			tells, refuses bool
			random         float64
			slots          int
			used           float64 // of the capacity, at least
			mean           float64 // in flight, times the slots, at most
		}{
			{"tells", true, false, 0, 200, 0.95, 1.1},
			{"silent", false, false, 0, 200, 0.95, 1.25},
			{"refuses", false, true, 0, 200, 0.95, 1},
			{"refuses at random", true, false, 0.3, 200, 0.3, 1.1},
			{"few places", true, false, 0, 8, 0.9, 1.8},
		} {
			t.Run(fmt.Sprintf("%d/%s", n, k.name), func(t *testing.T) {
				seeds(t, func(t *testing.T, seed uint64) {
					c := newCrowd(seed, crowd{slots: k.slots, seconds: 2, tells: k.tells, refuses: k.refuses, random: k.random, loss: 0.02})
					for i := range n {
						c.run(float64(i) * 5)
						c.join(800)
					}
					last := float64(n-1) * 5
					c.run(last + 60)
					all := c.since(20)
					end := c.samples[len(c.samples)-1]
					use := (end.busy - all[0].busy) / float64(k.slots) / (end.at - all[0].at)
					mean := 0.0
					for _, s := range all {
						mean += float64(s.inside) / float64(len(all))
					}
					least := 1.0
					for _, s := range c.since(last + 10) {
						least = min(least, jain(s.shares))
					}
					refused := float64(end.refused) / float64(end.ended)
					t.Logf("used %.3f, in flight on average %.0f, Jain at least %.3f, refused a call %.3f", use, mean, least, refused)
					atLeast(t, "use", use, k.used)
					if mean > k.mean*float64(k.slots) {
						t.Errorf("in flight on average: got %.0f, want %.0f at most", mean, k.mean*float64(k.slots))
					}
					if k.random == 0 && k.slots > 2*n && least < 0.9 {
						t.Errorf("Jain's index: got %.3f, want 0.9", least)
					}
					if k.random == 0 && refused > 0.1 {
						t.Errorf("refused: got %.3f a call, want 0.1 at most", refused)
					}
				})
			})
		}
	}
}

// TestSharedNeverMore: what several processes may have is never more than what there is,
// though they come and go and hear of little.
func TestSharedNeverMore(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	s := NewShared(50, 600, 0)
	now := simEpoch
	type holder struct {
		limit int
		rpm   float64
		asked time.Time
		ack   uint64
		n     int
	}
	all := map[string]*holder{}
	for step := range 20_000 {
		now = now.Add(time.Duration(r.IntN(200)) * time.Millisecond)
		id := fmt.Sprint(r.IntN(9))
		h := all[id]
		if h == nil {
			h = &holder{}
			all[id] = h
		}
		asked := now
		s.Report(now, id, Use{Ack: h.ack, InFlight: h.n, Waiting: r.IntN(40)})
		g := s.Slice(now, id)
		if r.IntN(3) > 0 {
			*h = holder{limit: g.Limit, rpm: g.RPM, asked: asked, ack: g.Serial, n: r.IntN(g.Limit + 1)}
		}
		calls, rpm := 0, 0.0
		for _, h := range all {
			if now.Sub(h.asked) < SliceLife {
				calls += h.limit
			}
			if now.Sub(h.asked) < LeaseLife {
				rpm += h.rpm
			}
		}
		if calls > 50 || rpm > 600.001 {
			t.Fatalf("step %d: %d of 50 calls and %.2f of 600 requests a minute are given", step, calls, rpm)
		}
	}
}

func TestMaxMin(t *testing.T) {
	for _, c := range []struct {
		total       float64
		wants, want []float64
	}{
		{10, []float64{3, 100, 100}, []float64{3, 4, 3}},
		{10, []float64{1, 1, 1}, []float64{2, 2, 2}},
		{2, []float64{5, 5, 5}, []float64{1, 1, 0}},
		{7, nil, []float64{}},
	} {
		if got := maxMin(c.total, c.wants, true); !slices.Equal(got, c.want) {
			t.Errorf("maxMin(%v, %v): got %v, want %v", c.total, c.wants, got, c.want)
		}
	}
}

// TestHolder: a slice that is not renewed shrinks, to one call and not to none.
func TestHolder(t *testing.T) {
	var h Holder
	h.Follow(simEpoch)
	if !h.Take(Slice{Serial: 2, Limit: 10}, simEpoch) || h.Take(Slice{Serial: 1, Limit: 50}, simEpoch) {
		t.Error("an older slice was taken")
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {2999 * time.Millisecond, 10}, {3 * time.Second, 5}, {6 * time.Second, 2}, {9 * time.Second, 1}, {time.Hour, 1}} {
		if got := h.Calls(simEpoch.Add(c.after)); got != c.want {
			t.Errorf("after %v: got %d calls, want %d", c.after, got, c.want)
		}
	}
}

// A process that tells again after a long silence, or to a leader that was away as
// long, is there as before.
func TestSharedAfterSilence(t *testing.T) {
	s := NewShared(4, 0, 0)
	for _, at := range []time.Duration{0, 2 * sharedSilent} {
		for _, id := range []string{"a", "b"} {
			now := simEpoch.Add(at)
			s.Report(now, id, Use{Waiting: 4})
			if x := s.Slice(now, id); id == "a" && x.Limit < 1 { // b may have what a says that it has left
				t.Errorf("%s at %v: got %+v, want some", id, at, x)
			}
		}
		if s.Members() != 2 {
			t.Errorf("at %v: %d members, want 2", at, s.Members())
		}
	}
}
