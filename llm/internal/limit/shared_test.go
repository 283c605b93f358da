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
	note            string
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
		s := sample{at: k.at, running: k.running, inside: k.running + len(k.queue), ended: k.ended, refused: k.refused, busy: k.busy, limit: k.shared.limit(), note: fmt.Sprintf("gauge %.0f base %.0f grow %.2f going %d total %d", k.shared.gauge.limit, k.shared.knee.base, k.shared.knee.grow, k.shared.going(), k.shared.total)}
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

func TestSharedProbe(t *testing.T) {
	for _, n := range []int{1, 4, 16} {
		for _, kind := range []string{"tells", "silent", "refuses"} {
			for seed := uint64(1); seed <= 4; seed++ {
				c := newCrowd(seed, crowd{slots: 200, seconds: 2, tells: kind == "tells", refuses: kind == "refuses"})
				for i := range n {
					c.run(float64(i) * 5)
					c.join(800)
				}
				last := float64(n-1) * 5
				c.run(last + 100)
				all := c.since(10)
				used := (c.samples[len(c.samples)-1].busy - all[0].busy) / 200 / (c.at - all[0].at)
				mean, most := 0.0, 0
				for _, s := range all {
					mean += float64(s.inside) / float64(len(all))
					most = max(most, s.inside)
				}
				late := c.since(last + 10)
				least := 1.0
				for _, s := range late {
					least = min(least, jain(s.shares))
				}
				t.Logf("%2d %-8s seed %d: used %.3f, inside mean %.0f most %d, jain at least %.3f, refused a call %.3f", n, kind, seed, used, mean, most, least, float64(c.refused)/float64(c.ended))
				if testing.Verbose() && seed == 2 {
					for i := 0; i < len(c.samples); i += 1 {
						s := c.samples[i]
						fmt.Printf("   %5.1f limit %d inside %d running %d refused %d %s shares %v\n", s.at, s.limit, s.inside, s.running, s.refused, s.note, s.shares)
						if s.at > 50 {
							break
						}
					}
				}
			}
		}
	}
}
