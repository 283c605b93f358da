package limit

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Constants of what is shared.
const (
	sharedSilent = 3 * SliceLife         // a process that has told nothing for so long is gone
	sharedNear   = 0.97                  // of the limit: with fewer calls at the service it is not full
	sharedTurn   = 10 * time.Second      // after which the calls that cannot be divided go to others
	sharedAgain  = 20 * time.Millisecond // for which a division holds
	LeaseLife    = 5 * time.Second       // for which a lease holds: from when it was asked for there, from when it was granted here
	leaseSpare   = 1.25                  // of the rate at which a process has sent lately: what it is taken to want while nothing waits there
)

// Shared finds, as a Limiter does, how many calls an endpoint can hold at once, for
// calls that several processes send, and gives each a slice of that. It knows what
// they tell it about once a second, so it looks for the knee by sums over
// periods of some seconds. A slice grows only by what others
// hold no more, so that all in flight together keep to the limit while it is
// divided anew. Calls are divided so that the least that somebody gets who wants
// more is as much as can be (max-min fairness).
//
// It has no clock and no lock of its own: its caller passes the time in, and guards it.
type Shared struct {
	fixed int // 0 to be found; less for none
	epoch time.Time
	clock time.Duration

	members map[string]*sharer
	ids     []string // of members, sorted
	serial  uint64
	divided time.Duration // when targets were set; less than 0 for never since something changed
	total   int           // that was divided then

	took   float64
	count  float64 // answered
	climb  climb
	gauge  gauge
	full   full
	looker string // who asks the service how busy it is
	mute   bool

	rpm, tpm float64 // limits a minute; 0 none
	given    [2]bool // by the config
}

// sharer is one of the processes that share.
type sharer struct {
	use    Use
	heard  time.Duration
	target int
	grants []grant    // that it may hold, oldest first: the last one is the newest
	rate   [2]float64 // requests and tokens a minute of late
	lease  [2]float64 // targets
}

// grant is a slice that a process may hold.
type grant struct {
	serial uint64
	limit  int
	leases [2]float64
	at     time.Duration
}

// NewShared returns what several processes share: fixed calls at once, or as many as
// are found for 0, or any number where it is less; rpm requests and tpm tokens a minute, or what
// the service tells for 0.
func NewShared(fixed int, rpm, tpm float64) *Shared {
	return &Shared{
		fixed: fixed, members: map[string]*sharer{}, climb: newClimb(), full: newFull(), divided: -1,
		rpm: rpm, tpm: tpm, given: [2]bool{rpm > 0, tpm > 0},
	}
}

func (s *Shared) advance(now time.Time) {
	if s.epoch.IsZero() {
		s.epoch = now
	}
	s.clock = max(s.clock, now.Sub(s.epoch))
}

// Report takes in what a process tells. What is told is to be newer than what it
// told before.
func (s *Shared) Report(now time.Time, id string, u Use) {
	s.advance(now)
	m := s.members[id]
	if m == nil {
		m = &sharer{use: Use{Done: u.Done, Refused: u.Refused, Tokens: u.Tokens}, heard: s.clock}
		s.members[id] = m
		s.divided = -1
		at, _ := slices.BinarySearch(s.ids, id)
		s.ids = slices.Insert(s.ids, at, id)
	}
	before, since := m.use, s.clock-m.heard
	m.use, m.heard = u, s.clock
	s.forgetSilent()
	m.drop(u.Ack)
	if (before.Waiting > 0) != (u.Waiting > 0) {
		s.divided = -1
	}
	s.quotas(m, &before, since.Seconds())
	if s.fixed != 0 {
		return
	}
	s.learn(m, &before, since)
}

// Forget takes a process out that is gone.
func (s *Shared) Forget(id string) {
	if s.members[id] == nil {
		return
	}
	delete(s.members, id)
	at, _ := slices.BinarySearch(s.ids, id)
	s.ids = slices.Delete(s.ids, at, at+1)
	s.divided = -1
	if s.looker == id {
		s.looker = ""
	}
}

func (s *Shared) forgetSilent() {
	for _, id := range slices.Clone(s.ids) {
		if s.clock-s.members[id].heard > sharedSilent {
			s.Forget(id)
		}
	}
}

// Members is how many processes share.
func (s *Shared) Members() int { return len(s.ids) }

// drop forgets the slices before the one that a process has acknowledged.
func (m *sharer) drop(ack uint64) {
	m.grants = slices.DeleteFunc(m.grants, func(g grant) bool { return g.serial < ack })
}

// held is how many calls a process may have in flight by now.
func (m *sharer) held(at time.Duration) int {
	n := m.use.InFlight
	for _, g := range m.grants {
		n = max(n, shrunk(g.limit, at-g.at-SliceLife))
	}
	return n
}

// leased is how many requests, or tokens, a minute a process may send by now.
func (m *sharer) leased(i int, at time.Duration) float64 {
	most := 0.0
	for _, g := range m.grants {
		if at-g.at < LeaseLife {
			most = max(most, g.leases[i])
		}
	}
	return most
}

// wants is how many calls a process has or would send.
func (m *sharer) wants() int { return m.use.InFlight + m.use.Waiting }

// newest is what is left by now of the newest slice.
func (m *sharer) newest(at time.Duration) (limit int, leases [2]float64) {
	if n := len(m.grants); n > 0 {
		g := &m.grants[n-1]
		if limit = shrunk(g.limit, at-g.at-SliceLife); at-g.at < LeaseLife {
			leases = g.leases
		}
	}
	return limit, leases
}

// sums are the calls in flight, those of them that may yet be refused, and those
// that wait.
func (s *Shared) sums() (n, young, waiting int) {
	for _, m := range s.members {
		n += m.use.InFlight
		young += m.use.Young
		waiting += m.use.Waiting
	}
	return n, young, waiting
}

// going is how many calls are in flight once those are sent for which slices were
// given.
func (s *Shared) going() int {
	n := 0
	for _, m := range s.members {
		limit, _ := m.newest(s.clock)
		n += max(m.use.InFlight, min(limit, m.wants()))
	}
	return n
}

// learn takes in what a process tells of its calls.
func (s *Shared) learn(m *sharer, before *Use, since time.Duration) {
	u := &m.use
	done := u.Done.moments()
	done = done.plus(before.Done.moments().times(-1))
	n, young, waiting := s.sums()
	c := &s.climb
	s.count += done.n
	if done.n > 0 {
		if s.took == 0 {
			s.took = done.t / done.n
		}
		s.took += (done.t/done.n - s.took) * min(1, done.n/float64(min(256, max(16, n))))
	}
	if s.full.observe(s.clock, float64(n), float64(young), done.n, float64(u.Refused-before.Refused), float64(s.limit()), s.took) {
		c.base = min(c.base, s.full.height*1.25)
		s.full = newFull()
	}
	if u.Mute {
		s.mute = true
	}
	if l := u.Load; l != nil && (before.Load == nil || before.Load.Serial != l.Serial) {
		inside := l.Running + l.Waiting
		s.gauge.read(s.clock, l.Every, l.Running, l.Waiting, min(s.going(), inside), c.level(), waiting > 0 && float64(inside) >= sharedNear*(1-s.full.refusing)*float64(s.limit())-1)
		c.base = max(s.gauge.limit, float64(inside))
		s.divided = -1
	}
	if s.count < float64(n) && c.few.n == 0 || s.gauge.fresh(s.clock) { // the first ones were sent all at once
		c.period = period{last: s.clock}
	} else if c.learn(s, since, &done, float64(before.InFlight+u.InFlight)/2, float64(n), waiting > 0) {
		s.divided = -1
	}
}

// limit is how many calls may be in flight together.
func (s *Shared) limit() int {
	switch {
	case s.fixed > 0:
		return s.fixed
	case s.fixed < 0:
		return math.MaxInt32
	}
	return max(1, int(min(s.gauge.level(s.clock, s.climb.level()+0.5), s.full.limit())))
}

// Limit is how many calls may be in flight together.
func (s *Shared) Limit(now time.Time) int {
	s.advance(now)
	return s.limit()
}

// Slice is what a process may have, from now on.
func (s *Shared) Slice(now time.Time, id string) Slice {
	s.advance(now)
	m := s.members[id]
	s.divide()
	have, leases := m.newest(s.clock)
	g := grant{at: s.clock, limit: m.target, leases: m.lease}
	if g.limit > have {
		free := s.total
		for _, other := range s.members {
			if other != m {
				free -= other.held(s.clock)
			}
		}
		g.limit = max(have, min(g.limit, free))
	}
	for i, limit := range [2]float64{s.rpm, s.tpm} {
		if g.leases[i] > leases[i] {
			free := limit
			for _, other := range s.members {
				if other != m {
					free -= other.leased(i, s.clock)
				}
			}
			g.leases[i] = max(min(leases[i], m.lease[i]), min(g.leases[i], free), 0)
		}
	}
	s.serial++
	g.serial = s.serial
	m.grants = slices.DeleteFunc(m.grants, func(g grant) bool { return s.clock-g.at > max(sharedSilent, LeaseLife) })
	m.grants = append(m.grants, g)
	out := Slice{Serial: g.serial, Limit: g.limit, Tries: paceFloor / float64(len(s.ids)), Again: g.limit < m.target && g.limit < m.wants(), RPM: g.leases[0], TPM: g.leases[1]}
	if s.fixed == 0 {
		s.steer(id, &out)
	}
	return out
}

// steer says what else a process is to do, where the limit is to be found.
func (s *Shared) steer(id string, out *Slice) {
	_, _, waiting := s.sums()
	out.Again = out.Again || s.climb.grow > 0 && waiting > 0 && math.IsInf(s.full.height, 1)
	if s.mute || waiting == 0 {
		return
	}
	if m := s.members[s.looker]; m == nil || m.use.Waiting == 0 {
		for _, id := range s.ids {
			if s.members[id].use.Waiting > 0 {
				s.looker = id
				break
			}
		}
	}
	out.Look = id == s.looker
}

// divide sets what each process is to have.
func (s *Shared) divide() {
	total := s.limit()
	if s.divided >= 0 && s.clock-s.divided < sharedAgain && total == s.total {
		return
	}
	s.divided, s.total = s.clock, total
	n := len(s.ids)
	first := int(s.clock/sharedTurn) % max(1, n)
	wants := make([]float64, n)
	all := make([]*sharer, n)
	for i := range n {
		all[i] = s.members[s.ids[(first+i)%n]]
		wants[i] = float64(all[i].wants())
	}
	for i, x := range maxMin(float64(total), wants, true) {
		all[i].target = int(x)
	}
	for q, limit := range [2]float64{s.rpm, s.tpm} {
		if limit == 0 {
			continue
		}
		for i, m := range all {
			if wants[i] = leaseSpare * m.rate[q]; m.use.Waiting > 0 {
				wants[i] = limit
			}
		}
		for i, x := range maxMin(limit, wants, false) {
			all[i].lease[q] = x
		}
	}
}

// maxMin divides a total so that the least that anybody gets who wants more is as
// much as can be. What nobody wants is divided evenly, with a part for who comes next. Where
// parts are whole, the first get one more of what does not divide.
func maxMin(total float64, wants []float64, whole bool) []float64 {
	parts := make([]float64, len(wants))
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(wants[a], wants[b]) })
	for at, i := range order {
		left := float64(len(order) - at)
		if wants[i]*left <= total {
			parts[i] = wants[i]
			total -= wants[i]
			continue
		}
		share := total / left
		rest := 0
		if whole {
			share = math.Floor(share)
			rest = int(total - share*left)
		}
		poor := slices.Clone(order[at:])
		slices.Sort(poor)
		for n, i := range poor {
			parts[i] = share
			if n < rest {
				parts[i]++
			}
		}
		return parts
	}
	if len(parts) == 0 {
		return parts
	}
	share := total / float64(len(parts)+1)
	if whole {
		share = math.Floor(share)
	}
	for i := range parts {
		parts[i] += share
	}
	return parts
}

// quotas takes in at which rate a process sends, and what it was told of limits.
func (s *Shared) quotas(m *sharer, before *Use, since float64) {
	u := &m.use
	for i, told := range [2]float64{u.RPM, u.TPM} {
		if limit := [2]*float64{&s.rpm, &s.tpm}[i]; !s.given[i] && told > 0 && told != *limit {
			*limit = told
			s.divided = -1
		}
		sent := u.Done[0] - before.Done[0]
		if i == 1 {
			sent = float64(u.Tokens - before.Tokens)
		}
		if since > 0 {
			m.rate[i] += (sent/since*60 - m.rate[i]) * min(1, since/5)
		}
	}
}

// Constants of a full service.
const (
	fullStray  = 0.1             // share of tries that are refused with no more calls in flight than were held, above which refusals come at random
	fullNear   = 1.02            // times what is held: no more are in flight than that
	fullSettle = 2 * time.Second // after more were allowed, when their refusals are no more told
	fullTries  = 100.0           // over which the share is smoothed at most; four times as many after each time that this was wrong
	fullTest   = 3 * time.Second // for which it does not hold then, to see whether more are held
	fullOpen   = 1.25            // times what is held: so many are allowed then
	fullFew    = 8               // and so many more
	fullMore   = 1.05            // times what was held: more are
	fullLeast  = 0.95            // of what was held, which is known by sums of different moments: it may seem more than it was
	fullStep   = 0.02            // of the height: growth by what one process tells, at most
)

// full is how many calls a service holds that refuses some, as a ceiling is, by sums:
// the most that it held of late, and a little more now and then. Where it refuses
// as much with no more calls in flight than that, room is not what they lack, and it does not
// hold: more are allowed, unless it turns out that no more are held then.
type full struct {
	height    float64 // infinite while nothing is refused
	gain      float64
	now, last float64 // most held in this generation, and in the one before
	count     float64 // answered in this generation
	start     time.Duration
	bad       time.Duration // last refusal
	since     float64       // answers since then
	refusing  float64       // share of tries that are refused, smoothed
	stray     float64       // the same, while no more were in flight than were held
	over      time.Duration // when more were allowed last than were held
	wrong     float64       // the more often it was, the more tries that is smoothed over
	open      bool          // refusals come at random
	test      time.Duration // when that was found, or found again
	held      float64       // most held then
}

func newFull() full { return full{height: math.Inf(1), gain: ceilingGain, wrong: 1} }

func (c *full) top() float64 { return max(c.now, c.last, 1) }

// limit is how many calls may be in flight.
func (c *full) limit() float64 {
	if c.open {
		return fullOpen*c.top() + fullFew
	}
	return c.height
}

// observe is told of n calls in flight, some of which may yet be refused, and of what
// became of others; limit is how many were allowed. It reports whether nothing was
// refused for long.
func (c *full) observe(at time.Duration, n, young, done, refused, limit, took float64) (gone bool) {
	if limit > fullNear*c.top()+1 {
		c.over = at
	}
	if tries := done + refused; tries > 0 {
		c.refusing += (refused/tries - c.refusing) * tries / (tries + fullTries/4)
		if !c.open && at-c.over > fullSettle {
			c.stray += (refused/tries - c.stray) * tries / (tries + c.wrong*min(max(c.top(), fullTries/6), fullTries))
		}
	}
	c.count += done
	if c.count >= max(c.now, 10) && at-c.start >= ceilingLife {
		c.last, c.now = c.now, 0
		c.count, c.start = 0, at
	}
	c.now = max(c.now, n-young)
	held := max(1, n-young*c.refusing)
	switch {
	case !c.open && c.stray > fullStray:
		c.open, c.test, c.held = true, at, c.top()
	case c.open && c.top() > fullMore*c.held:
		c.test, c.held = at, c.top()
	case c.open && at-c.test > fullTest:
		c.open, c.stray, c.height = false, 0, held
		c.wrong *= 4
	}
	if refused > 0 {
		c.bad, c.since = at, 0
		if math.IsInf(c.height, 1) {
			c.height = held
		} else {
			c.height = max(held, fullLeast*c.top(), c.height-refused)
		}
		c.gain = max(ceilingGain, c.gain*math.Pow(0.7, refused))
		return false
	}
	if math.IsInf(c.height, 1) || done == 0 {
		return false
	}
	step := max(24, math.Floor(c.height/2))
	if math.Floor((c.since+done)/step) > math.Floor(c.since/step) {
		c.gain = min(1, c.gain*2)
	}
	c.since += done
	if n >= math.Floor(c.height) {
		c.height += min(c.gain*done, max(1, fullStep*c.height))
	}
	return c.since > ceilingQuiet && (at-c.bad).Seconds() > max(5, 3*took)
}
