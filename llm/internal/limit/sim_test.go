package limit

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// A simulated service, in virtual time: calls of so many tokens run side by
// side, each at a speed that depends on how many run; the others wait in a queue.
type simService struct {
	slots    int                                 // most that run at once
	tokens   float64                             // mean of a call
	sigma    float64                             // of the logarithm of a call's tokens
	speed    func(running int) float64           // tokens a second of each
	overhead float64                             // tokens of work that no report shows, mean
	blind    bool                                // reports no tokens
	prompt   func(nth int) int                   // prompt tokens of the nth call
	line     int                                 // most calls in the queue; others are refused
	refuse   func(at float64, r *rand.Rand) bool // refuses a call for any other reason
	down     func(at float64) bool               // every call fails
	after    float64                             // seconds until a refused caller comes back
	delay    float64                             // seconds that a refusal takes
	change   []simChange                         // in order of time
}

type simChange struct {
	at      float64
	slots   int
	speed   func(running int) float64
	callers int
}

type simEvent struct {
	at  float64
	seq int
	f   func()
}

type simEvents []simEvent

func (h simEvents) Len() int { return len(h) }
func (h simEvents) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h simEvents) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *simEvents) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h *simEvents) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

type simCall struct {
	ticket Ticket
	tokens int
	prompt int
	end    float64 // in tokens of a call that runs all the time
	work   float64
}

type simCalls []*simCall

func (h simCalls) Len() int           { return len(h) }
func (h simCalls) Less(i, j int) bool { return h[i].end < h[j].end }
func (h simCalls) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *simCalls) Push(x any)        { *h = append(*h, x.(*simCall)) }
func (h *simCalls) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// simTick is a sample of the whole.
type simTick struct {
	at       float64
	done     float64 // tokens produced
	could    float64 // tokens that the service could have produced
	calls    int
	tries    int
	refused  int
	limit    int
	inFlight int
	base     float64
}

type sim struct {
	*simService
	r       *rand.Rand
	l       *Limiter
	at      float64
	seq     int
	events  simEvents
	running simCalls
	queue   []*simCall
	v       float64 // tokens of a call that runs all the time
	best    float64 // tokens a second at best
	version int

	total, begun int // calls to make
	waiting      int
	callers      int
	woken        float64

	simTick
	ticks       []simTick
	first, last simTick // at the first and last tenth of completions
}

var simEpoch = time.Unix(1_700_000_000, 0)

func (s *sim) now() time.Time { return simEpoch.Add(time.Duration(s.at * 1e9)) }

func (s *sim) after(d float64, f func()) {
	s.seq++
	heap.Push(&s.events, simEvent{s.at + d, s.seq, f})
}

// simulate runs until total calls are done or seconds are over.
func simulate(seed uint64, svc simService, l *Limiter, callers, total int, seconds float64) *sim {
	s := &sim{simService: &svc, r: rand.New(rand.NewPCG(seed, 1)), l: l, total: total, callers: callers, waiting: callers}
	s.measure()
	for _, c := range svc.change {
		s.after(c.at, func() {
			s.flow(s.at)
			if c.slots > 0 {
				s.slots = c.slots
			}
			if c.speed != nil {
				s.speed = c.speed
			}
			if c.callers > 0 {
				s.waiting += c.callers - s.callers
				s.callers = c.callers
			}
			s.measure()
			s.start()
			s.pump()
		})
	}
	if svc.down != nil {
		// Whatever runs when the service goes down fails.
		var look func()
		was := false
		look = func() {
			if is := svc.down(s.at); is != was {
				was = is
				if is {
					s.crash()
				}
			}
			s.after(0.05, look)
		}
		s.after(0, look)
	}
	var tick func()
	tick = func() {
		s.flow(s.at)
		s.note()
		s.ticks = append(s.ticks, s.simTick)
		s.after(0.25, tick)
	}
	s.after(0, tick)
	s.pump()
	for s.calls < total && len(s.events) > 0 && s.at < seconds {
		e := heap.Pop(&s.events).(simEvent)
		s.flow(e.at)
		e.f()
	}
	s.note()
	return s
}

func (s *sim) note() {
	s.simTick.at = s.at
	s.limit, s.inFlight = s.l.Limit(), s.l.InFlight()
	s.base = s.l.knee.base
}

func (s *sim) measure() {
	s.best = 0
	for n := 1; n <= min(s.slots, 3000); n++ {
		s.best = max(s.best, float64(n)*s.speed(n))
	}
}

// flow lets time pass.
func (s *sim) flow(to float64) {
	d := to - s.at
	if d <= 0 {
		return
	}
	v := s.speed(len(s.running))
	s.v += d * v
	s.done += d * v * float64(len(s.running))
	if s.down == nil || !s.down(s.at) {
		s.could += d * s.best
	}
	s.at = to
}

// start lets calls run and sets the next end.
func (s *sim) start() {
	for len(s.queue) > 0 && len(s.running) < s.slots {
		c := s.queue[0]
		s.queue = s.queue[1:]
		c.end = s.v + c.work
		heap.Push(&s.running, c)
	}
	s.version++
	if len(s.running) == 0 {
		return
	}
	version := s.version
	d := max(s.running[0].end-s.v, 0) / s.speed(len(s.running))
	s.after(d, func() {
		if version != s.version {
			return
		}
		for len(s.running) > 0 && s.running[0].end <= s.v+1e-6 {
			c := heap.Pop(&s.running).(*simCall)
			s.finish(c)
		}
		s.start()
		s.pump()
	})
}

func (s *sim) finish(c *simCall) {
	r := Result{CompletionTokens: c.tokens, PromptTokens: c.prompt}
	if s.blind {
		r = Result{}
	}
	s.waiting++
	s.l.Demand(s.waiting > 0)
	s.l.Done(s.now(), c.ticket, r)
	s.calls++
	if s.calls == s.total/10 {
		s.note()
		s.first = s.simTick
	}
	if s.calls == s.total-s.total/10 {
		s.note()
		s.last = s.simTick
	}
}

func (s *sim) crash() {
	s.queue = append(s.queue, s.running...)
	s.running = nil
	for _, c := range s.queue {
		s.begun--
		s.l.Done(s.now(), c.ticket, Result{Outcome: Faulty})
		s.back()
	}
	s.queue = nil
	s.start()
	s.pump()
}

func (s *sim) back() {
	s.after(s.simService.after*(0.75+0.5*s.r.Float64()), func() {
		s.waiting++
		s.pump()
	})
}

// pump sends what there is room for.
func (s *sim) pump() {
	for s.waiting > 0 && s.begun < s.total {
		s.l.Demand(true)
		ok, wake := s.l.Ready(s.now())
		if !ok {
			if d := wake.Sub(s.now()).Seconds(); !wake.IsZero() && (s.woken <= s.at || s.at+d < s.woken) {
				s.woken = s.at + d
				s.after(d+1e-9, s.pump)
			}
			return
		}
		s.waiting--
		s.send()
	}
	s.l.Demand(false)
}

func (s *sim) send() {
	t := s.l.Sent(s.now())
	s.tries++
	fail := func(o Outcome) {
		if o == Full {
			s.refused++
		}
		s.after(s.delay, func() {
			s.l.Done(s.now(), t, Result{Outcome: o})
			s.back()
			s.pump()
		})
	}
	switch {
	case s.down != nil && s.down(s.at):
		fail(Faulty)
		return
	case s.refuse != nil && s.refuse(s.at, s.r), len(s.running)+len(s.queue) >= s.slots+s.line:
		fail(Full)
		return
	}
	draw := func() float64 { return math.Exp(s.r.NormFloat64()*s.sigma - s.sigma*s.sigma/2) }
	k := max(1, math.Round(s.tokens*draw()))
	c := &simCall{ticket: t, tokens: int(k), work: k + s.overhead*draw()}
	if s.prompt != nil {
		c.prompt = s.prompt(s.begun)
		c.work += float64(c.prompt) / 100
	}
	s.begun++
	s.queue = append(s.queue, c)
	s.start()
}

// used is the share of what the service could have done from a to b.
func used(a, b simTick) float64 { return (b.done - a.done) / (b.could - a.could) }

// tick is the sample at a time.
func (s *sim) tick(at float64) simTick {
	i := int(math.Round(at / 0.25))
	return s.ticks[min(max(i, 0), len(s.ticks)-1)]
}

// half is the sample in the middle of all completions.
func (s *sim) half() simTick {
	for _, t := range s.ticks {
		if t.calls >= s.calls/2 {
			return t
		}
	}
	return s.ticks[len(s.ticks)-1]
}

// levels are the mean and the largest limit and calls in flight since a time.
func (s *sim) levels(since float64) (mean float64, most int) {
	n := 0
	for _, t := range s.ticks {
		if t.at >= since && t.at <= s.last.at {
			mean += float64(t.inFlight)
			most = max(most, t.inFlight)
			n++
		}
	}
	return mean / float64(max(n, 1)), most
}

// slots is a service of n slots with calls of so many seconds.
func slots(n int, seconds float64) simService {
	return simService{
		slots: n, tokens: 200, sigma: 0.6, line: 1 << 30, after: 1, delay: 0.002,
		speed: func(int) float64 { return 200 / seconds },
	}
}

// engine is a batching engine.
func engine(most int) simService {
	s := slots(most, 0)
	s.speed = func(n int) float64 { return 1 / (0.020 + 0.00006*float64(n)) }
	return s
}

// thrashing is an engine that does less with more than knee calls.
func thrashing(knee int) simService {
	s := slots(1<<20, 0)
	s.speed = func(n int) float64 {
		v := 1 / (0.020 + 0.00006*float64(n))
		if n > knee {
			over := float64(n-knee) / float64(knee)
			// What n calls do together falls by over, to a third.
			v = float64(knee) / (0.020 + 0.00006*float64(knee)) * max(1-over, 0.33) / float64(n)
		}
		return v
	}
	return s
}

func refusing(s simService, after float64) simService {
	s.line, s.after = 0, after
	return s
}
