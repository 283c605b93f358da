package sim

import (
	"container/heap"
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
	clocked
	latency Latency
	running doneHeap
	streams []*job // running; those that are over are taken out at the next tick
}

func newSlots(c *Config, begun time.Time) *slots {
	s := &slots{latency: c.Latency}
	s.clocked = newClocked(s, c.Queue, c.Slots, begun)
	s.running.less = func(a, b *job) bool { return a.due < b.due }
	s.start()
	return s
}

func (s *slots) account(now time.Duration) {
	possible := float64(max(s.limit, s.running.Len()))
	if s.down {
		possible = 0
	}
	s.rec.advance(now, float64(s.running.Len()), possible)
}

func (s *slots) full(*job) bool {
	return s.running.Len() >= s.limit && (s.queue < 0 || s.queue > 0 && s.waiting.count >= s.queue)
}

func (s *slots) interrupt(time.Duration) {}

// begin gives free slots to those that wait.
func (s *slots) begin(now time.Duration) {
	for s.running.Len() < s.limit && !s.down {
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
		s.begin(at)
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

func (s *slots) next(now time.Duration) time.Duration {
	var at time.Duration
	if s.running.Len() > 0 {
		at = s.running.list[0].due
	}
	if t := s.ticked + tick(len(s.streams)); len(s.streams) > 0 && (at == 0 || t < at) {
		at = max(t, now+grain)
	}
	return (at + grain - 1) / grain * grain
}

func (s *slots) leave(j *job, _ time.Duration) { heap.Remove(&s.running, j.index) }

func (s *slots) empty() []*job {
	lost := s.running.list
	s.running.list, s.streams = nil, nil
	return lost
}

func (s *slots) gauge(g *Gauges) {
	g.Running = s.running.Len()
	g.KV = min(1, float64(g.Running)/float64(s.limit))
}
