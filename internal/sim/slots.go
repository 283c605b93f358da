package sim

import (
	"container/heap"
	"sync"
	"time"
)

// grain is how finely time is kept where many jobs end: one timer serves all
// that end within it.
const grain = time.Millisecond

// tick is how often a stream is told of its progress, and more seldom where
// there are so many that all together would be told oftener than 10,000 times
// a second.
func tick(streams int) time.Duration {
	return max(50*time.Millisecond, time.Duration(streams)*100*time.Microsecond)
}

// slots is the engine that works on so many jobs at once, each for a drawn
// time. The first token of a reply comes after a tenth of it.
type slots struct {
	latency Latency
	queue   int
	all     int // at the beginning

	mu      sync.Mutex
	begun   time.Time
	down    bool
	n       int
	factor  float64
	running doneHeap
	waiting fifo
	streams []*job // running; those that are over are taken out at the next tick
	ticked  time.Duration
	timer   *time.Timer
	next    time.Duration // when timer fires; 0 where it does not
	rec     *recorder
	g       Gauges
}

func newSlots(c *Config, begun time.Time) *slots {
	s := &slots{latency: c.Latency, queue: c.Queue, begun: begun, all: c.Slots, n: c.Slots, factor: 1, rec: newRecorder()}
	s.running.less = func(a, b *job) bool { return a.due < b.due }
	s.timer = time.AfterFunc(time.Hour, s.fire)
	s.timer.Stop()
	return s
}

func (s *slots) now() time.Duration { return time.Since(s.begun) }

// account notes what was in use until now. It comes before every change.
func (s *slots) account(now time.Duration) {
	possible := float64(max(s.n, s.running.Len()))
	if s.down {
		possible = 0
	}
	s.rec.advance(now, float64(s.running.Len()), possible)
}

func (s *slots) submit(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	j.came = now
	s.pass(now)
	if s.down {
		j.lost.Store(true)
		return true
	}
	if s.running.Len() >= s.n && (s.queue < 0 || s.queue > 0 && s.waiting.count >= s.queue) {
		return false
	}
	j.state = isWaiting
	s.waiting.push(j)
	s.fill(now)
	s.arm(now)
	return true
}

// fill gives free slots to those that wait.
func (s *slots) fill(now time.Duration) {
	for s.running.Len() < s.n {
		j := s.waiting.first()
		if j == nil {
			return
		}
		s.account(now)
		s.waiting.pop()
		r := random(j.seed)
		took := time.Duration(s.factor * r.lognormal(float64(s.latency.Mean), s.latency.Sigma))
		j.state, j.begun = isDecoding, now
		j.due = max(now+took, now+1)
		s.g.Prompt += int64(j.prompt)
		s.g.Computed += int64(j.prompt)
		heap.Push(&s.running, j)
		if j.stream {
			s.streams = append(s.streams, j)
		}
	}
}

// pass ends what is over at now.
func (s *slots) pass(now time.Duration) {
	for s.running.Len() > 0 && s.running.list[0].due <= now {
		at := s.running.list[0].due
		s.account(at)
		for s.running.Len() > 0 && s.running.list[0].due <= at {
			j := heap.Pop(&s.running).(*job)
			s.rec.finished(at)
			s.g.Generated += int64(j.out * j.width)
			j.progress.Store(int64(j.out))
			j.state, j.over = isOver, at
			j.done.Store(true)
			j.wake()
		}
		s.fill(at)
	}
	if s.next > 0 && s.next <= now {
		s.next = 0
	}
	s.tell(now)
}

// tell wakes streams that have more to send.
func (s *slots) tell(now time.Duration) {
	if len(s.streams) == 0 || now < s.ticked+tick(len(s.streams)) {
		return
	}
	s.ticked = now
	kept := s.streams[:0]
	for _, j := range s.streams {
		if j.state != isDecoding {
			continue
		}
		kept = append(kept, j)
		whole := j.due - j.begun
		first := whole / 10
		if now < j.begun+first {
			continue
		}
		n := min(j.out, 1+int(float64(j.out-1)*float64(now-j.begun-first)/float64(whole-first)))
		if int64(n) > j.progress.Load() {
			j.progress.Store(int64(n))
			j.wake()
		}
	}
	clear(s.streams[len(kept):])
	s.streams = kept
}

// arm sets the timer to what comes next.
func (s *slots) arm(now time.Duration) {
	var at time.Duration
	if s.running.Len() > 0 {
		at = s.running.list[0].due
	}
	if t := s.ticked + tick(len(s.streams)); len(s.streams) > 0 && (at == 0 || t < at) {
		at = max(t, now+grain)
	}
	if at == 0 {
		return
	}
	at = (at + grain - 1) / grain * grain
	if s.next > 0 && s.next <= at {
		return
	}
	s.next = at
	s.timer.Reset(at - now)
}

func (s *slots) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.next = 0
	s.pass(now)
	s.arm(now)
}

func (s *slots) cancel(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.pass(now)
	switch j.state {
	case isWaiting:
		s.waiting.drop()
	case isDecoding:
		s.account(now)
		heap.Remove(&s.running, j.index)
	}
	if j.state != isOver {
		j.state, j.over = isOver, now
	}
	s.fill(now)
	s.arm(now)
}

func (s *slots) remember(*job, []uint64) {}

func (s *slots) resize(n int) { s.change(func() { s.n = n }) }

// slow makes jobs that begin from now on take so many times as long.
func (s *slots) slow(factor float64) { s.change(func() { s.factor = factor }) }

func (s *slots) rise() { s.change(func() { s.down = false }) }

func (s *slots) fall() { s.change(func() { s.down = true; s.lose() }) }

func (s *slots) renew(begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose()
	s.begun, s.down, s.n, s.factor = begun, false, s.all, 1
	s.ticked, s.next, s.rec, s.g = 0, 0, newRecorder(), Gauges{}
	s.timer.Stop()
}

// lose ends all jobs without a reply.
func (s *slots) lose() {
	now, lost := s.now(), s.running.list
	for j := s.waiting.first(); j != nil; j = s.waiting.first() {
		s.waiting.pop()
		lost = append(lost, j)
	}
	for _, j := range lost {
		j.state, j.over = isOver, now
		j.lost.Store(true)
		j.wake()
	}
	s.running.list, s.streams = nil, nil
}

func (s *slots) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.pass(now)
	s.account(now)
	f()
	s.fill(now)
	s.arm(now)
}

func (s *slots) gauges() Gauges {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.pass(now)
	s.account(now)
	s.arm(now)
	g := s.g
	g.Running, g.Waiting, g.timeline = s.running.Len(), s.waiting.count, s.rec.timeline()
	g.KV = min(1, float64(g.Running)/float64(s.n))
	return g
}

func (s *slots) close() { s.timer.Stop() }
