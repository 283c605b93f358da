package sim

import (
	"sync"
	"time"
)

// clocked is what both engines are made of: jobs that wait in order of arrival, a
// timer for what comes next, and what is known of the work. The engine itself says
// how jobs are worked on.
type clocked struct {
	inner inner
	queue int // as in Config
	most  int // limit at the beginning

	mu      sync.Mutex
	begun   time.Time
	down    bool
	limit   int // jobs, or sequences of them, at once
	factor  float64
	waiting fifo
	ticked  time.Duration // when streams were told last
	timer   *time.Timer
	armed   time.Duration // when timer fires; 0 where it does not
	rec     *recorder
	g       Gauges
}

// inner is how an engine works on jobs. mu is held by who calls it.
type inner interface {
	full(j *job) bool          // there is no room for j, not even to wait
	pass(now time.Duration)    // ends what is over at now, and begins what comes after it
	account(now time.Duration) // notes what was in use until now; it comes before every change
	interrupt(now time.Duration)
	begin(now time.Duration)              // begins what waits and has room
	next(now time.Duration) time.Duration // when something ends, or a stream is to be told; 0 for never
	leave(j *job, now time.Duration)      // j is given up in the midst of the work
	empty() []*job                        // forgets all work, and returns the jobs that were worked on
	gauge(g *Gauges)
}

func newClocked(of inner, queue, most int, begun time.Time) clocked {
	return clocked{inner: of, queue: queue, most: most, begun: begun, limit: most, factor: 1, rec: newRecorder()}
}

// start makes the timer, which does not fire yet.
func (c *clocked) start() {
	c.timer = time.AfterFunc(time.Hour, c.fire)
	c.timer.Stop()
}

func (c *clocked) now() time.Duration { return time.Since(c.begun) }

func (c *clocked) submit(j *job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		j.lost.Store(true)
		return true
	}
	now := c.now()
	j.came = now
	c.inner.pass(now)
	if c.inner.full(j) {
		return false
	}
	j.state, j.left = isWaiting, j.prompt
	c.waiting.push(j)
	c.inner.interrupt(now)
	c.inner.begin(now)
	c.arm(now)
	return true
}

func (c *clocked) cancel(j *job) {
	c.change(func(now time.Duration) {
		switch j.state {
		case isWaiting:
			c.waiting.drop()
		case isPrefilling, isDecoding:
			c.inner.leave(j, now)
		}
		if j.state != isOver {
			j.state, j.over = isOver, now
		}
	})
}

func (c *clocked) remember(*job, []uint64) {}

func (c *clocked) resize(n int) {
	c.change(func(now time.Duration) { c.limit = n; c.inner.interrupt(now) })
}

// slow makes what begins from now on take so many times as long.
func (c *clocked) slow(factor float64) {
	c.change(func(now time.Duration) { c.inner.interrupt(now); c.factor = factor })
}

func (c *clocked) rise() { c.change(func(time.Duration) { c.down = false }) }

func (c *clocked) fall() { c.change(func(time.Duration) { c.down = true; c.lose() }) }

func (c *clocked) renew(begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose()
	c.begun, c.down, c.limit, c.factor = begun, false, c.most, 1
	c.ticked, c.armed, c.rec, c.g = 0, 0, newRecorder(), Gauges{}
	c.timer.Stop()
}

// lose ends all jobs without a reply.
func (c *clocked) lose() {
	now, lost := c.now(), c.inner.empty()
	for j := c.waiting.first(); j != nil; j = c.waiting.first() {
		c.waiting.pop()
		lost = append(lost, j)
	}
	for _, j := range lost {
		j.state, j.over, j.prev, j.next = isOver, now, nil, nil
		j.lost.Store(true)
		j.wake()
	}
}

// change has f change the engine as it is now.
func (c *clocked) change(f func(now time.Duration)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.inner.pass(now)
	c.inner.account(now)
	f(now)
	c.inner.begin(now)
	c.arm(now)
}

func (c *clocked) gauges() (g Gauges) {
	c.change(func(time.Duration) {
		g = c.g
		g.Waiting, g.timeline = c.waiting.count, c.rec.timeline()
		c.inner.gauge(&g)
	})
	return g
}

// arm sets the timer to what comes next.
func (c *clocked) arm(now time.Duration) {
	if at := c.inner.next(now); at != 0 && at != c.armed {
		c.armed = at
		c.timer.Reset(max(0, at-now))
	}
}

func (c *clocked) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.armed = 0
	c.inner.pass(now)
	c.arm(now)
}

func (c *clocked) close() { c.timer.Stop() }
