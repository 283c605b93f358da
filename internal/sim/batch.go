package sim

import (
	"container/heap"
	"math"
	"time"
)

// batch is the engine of continuous batching, as vLLM has it: in each step
// every sequence that decodes gets one token, and what is left of the step's
// budget of tokens goes to prompts, in pieces. A job is admitted, in order of
// arrival, when the KV cache has room for its prompt; when a growing sequence
// finds none, the one admitted last loses its blocks and computes them again
// later.
//
// Where nothing but decoding is to be done, many steps are taken as one whose
// length is known in closed form, so that an engine costs a few events a job.
type batch struct {
	clocked
	c       Costs
	kv      *kv
	prefill []*job // admitted, prompt not computed yet; in order
	decode  doneHeap
	running job // ring of those admitted, the first behind it
	seats   int // sequences admitted
	width   int // sequences that decode
	context int // tokens that these attend to
	step    int64
	phase   [block]int // sequences by the step, modulo block, at which they need a new block
	behind  bool       // the last plan left jobs waiting
	tight   bool       // and it was the KV cache that had no room
	streams int        // running jobs that stream

	// What is under way: a piece of prompts, or some steps of decoding.
	busy   bool
	since  time.Duration
	until  time.Duration
	steps  int
	pieces int // tokens of prompts
}

func newBatch(c *Config, begun time.Time) *batch {
	b := &batch{c: c.Engine, kv: newKV(c.Engine.KV)}
	b.clocked = newClocked(b, c.Queue, c.Engine.Sequences, begun)
	b.running.prev, b.running.next = &b.running, &b.running
	b.decode.less = func(x, y *job) bool { return x.finish < y.finish }
	b.start()
	return b
}

func (b *batch) full(j *job) bool {
	if b.queue == 0 {
		return false
	}
	room := max(0, b.queue)
	return b.seats+b.waiting.count+j.width > b.limit+room || b.tight && b.waiting.count >= room
}

// begin starts what is next, where nothing is under way.
func (b *batch) begin(now time.Duration) {
	if !b.busy && !b.down {
		b.account(now)
		b.plan(now)
	}
}

// interrupt ends a long run of steps with the one that is under way, so that
// what is new is part of the next.
func (b *batch) interrupt(now time.Duration) {
	if !b.busy || b.steps <= 1 || b.pieces > 0 {
		return
	}
	lo, hi := 1, b.steps
	for lo < hi {
		if mid := (lo + hi) / 2; b.since+b.length(mid) >= now {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo < b.steps {
		b.steps, b.until = lo, b.since+b.length(lo)
	}
}

// length is how long n steps take from now on.
func (b *batch) length(n int) time.Duration {
	f := float64(n)
	attended := f*float64(b.context) + float64(b.width)*f*(f-1)/2
	ns := f*(float64(b.c.Base)+float64(b.width)*float64(b.c.PerSequence)) + attended*float64(b.c.PerContext) + float64(b.pieces)*float64(b.c.PerPrompt)
	return max(1, time.Duration(ns*b.factor))
}

// plan decides on the next step, which begins at a time.
func (b *batch) plan(at time.Duration) {
	preempted := b.makeRoom()
	budget := b.c.Batched - b.width
	if !preempted {
		b.admit(at, budget)
	}
	b.behind = b.waiting.count > 0
	b.pieces = 0
	for _, j := range b.prefill {
		n := min(j.left, budget-b.pieces)
		if n <= 0 {
			break
		}
		j.left -= n
		b.pieces += n
	}
	if b.width == 0 && b.pieces == 0 {
		b.busy = false
		return
	}
	b.busy, b.since, b.steps = true, at, 1
	if b.pieces == 0 && !preempted {
		b.steps = b.ahead()
	}
	b.until = at + b.length(b.steps)
}

// ahead is how many steps of decoding come until something else happens.
func (b *batch) ahead() int {
	n := int(b.decode.list[0].finish - b.step)
	if most := (b.kv.free()/b.width - 1) * block; n > most {
		n = most
	}
	if b.streams > 0 {
		one := float64(b.length(1))
		n = min(n, int(float64(tick(b.streams))/one))
	}
	return max(1, min(n, math.MaxInt32))
}

// makeRoom preempts until the next step finds its blocks.
func (b *batch) makeRoom() bool {
	preempted := false
	for b.running.prev != b.running.next { // one alone always fits
		if b.kv.used()+b.phase[-b.step&(block-1)] <= b.kv.total {
			break
		}
		b.preempt(b.running.prev)
		preempted = true
	}
	return preempted
}

func (b *batch) preempt(j *job) {
	b.g.Preemptions++
	made := 0
	if j.state == isDecoding {
		made = j.made + 1 + int(b.step-j.start)
		heap.Remove(&b.decode, j.index)
	}
	b.vacate(j)
	j.made = made
	j.left = j.prompt + made
	j.state = isWaiting
	b.waiting.unshift(j)
}

// vacate takes a running job out, and its blocks back.
func (b *batch) vacate(j *job) {
	if j.state == isDecoding {
		made := 1 + int(b.step-j.start)
		length := j.base() + made
		b.width -= j.width
		b.context -= j.width * length
		b.phase[-(j.start-int64(j.base()+1))&(block-1)] -= j.width
		b.kv.private -= j.width * (blocksOf(length) - j.taken)
	} else {
		for i, p := range b.prefill {
			if p == j {
				b.prefill = append(b.prefill[:i], b.prefill[i+1:]...)
				break
			}
		}
		b.kv.private -= j.private
	}
	b.kv.release(j.blocks[:j.taken])
	j.taken, j.private = 0, 0
	b.seats -= j.width
	if j.stream {
		b.streams--
	}
	j.prev.next, j.next.prev = j.next, j.prev
	j.prev, j.next = nil, nil
}

// base is what j has to compute before it decodes: its prompt, and what it had
// made when it was preempted.
func (j *job) base() int { return j.prompt + j.made }

func blocksOf(tokens int) int { return (tokens + block - 1) / block }

// admit gives seats to those that wait, while there are any, a prompt's first
// piece fits the budget, and the prompt fits the KV cache with 1% to spare.
func (b *batch) admit(at time.Duration, budget int) {
	b.tight = false
	for _, j := range b.prefill {
		budget -= j.left
	}
	for budget > 0 {
		j := b.waiting.first()
		if j == nil || b.seats > 0 && b.seats+j.width > b.limit {
			return
		}
		most := (j.base() - 1) / block // the last token is always computed
		hits, idle := 0, 0
		if !b.c.NoPrefix {
			hits, idle = b.kv.peek(j.blocks, most)
		}
		need := blocksOf(j.base()) - hits
		if b.seats > 0 && b.kv.free() < need+idle+b.kv.total/100 {
			b.tight = true
			return
		}
		b.waiting.pop()
		j.taken = b.kv.hit(j.blocks, hits)
		j.left = j.base() - j.taken*block
		j.private = need
		b.kv.private += need
		b.kv.trim()
		if j.begun == 0 {
			j.begun = max(at, 1)
			j.cached = j.taken * block
			b.g.Prompt += int64(j.prompt)
			b.g.Cached += int64(j.cached)
		}
		b.g.Computed += int64(j.left)
		j.state = isPrefilling
		b.prefill = append(b.prefill, j)
		last := b.running.prev
		j.prev, j.next = last, &b.running
		last.next, b.running.prev = j, j
		b.seats += j.width
		if j.stream {
			b.streams++
		}
		budget -= j.left
	}
}

func (b *batch) pass(now time.Duration) {
	for b.busy && b.until <= now {
		at := b.until
		b.account(at)
		b.end(at)
		b.plan(at)
	}
}

// end is the end of the steps under way.
func (b *batch) end(at time.Duration) {
	n := b.steps
	grown := n / block * b.width
	for i := range n % block {
		grown += b.phase[-(b.step+int64(i))&(block-1)]
	}
	b.kv.private += grown
	b.kv.trim()
	b.step += int64(n)
	b.context += n * b.width
	done := 0
	for _, j := range b.prefill {
		if j.left > 0 {
			break
		}
		b.turn(j)
		done++
	}
	b.prefill = append(b.prefill[:0], b.prefill[done:]...)
	for b.decode.Len() > 0 && b.decode.list[0].finish <= b.step {
		j := heap.Pop(&b.decode).(*job)
		b.vacate(j)
		b.g.Generated += int64(j.width * j.out)
		b.rec.finished(at)
		j.state, j.over = isOver, at
		j.progress.Store(int64(j.out))
		j.done.Store(true)
		j.wake()
	}
	b.tell(at)
}

// turn makes a job decode whose prompt is computed; its first token is there.
func (b *batch) turn(j *job) {
	length := j.base() + 1
	full := 0
	if !b.c.NoPrefix {
		full = len(j.blocks)
	}
	before := j.taken
	j.taken += b.kv.publish(j.blocks[before:full:full])
	// What is not shared counts for each choice from here on.
	b.kv.private += j.width*(blocksOf(length)-j.taken) - (blocksOf(j.base()) - j.taken)
	b.kv.trim()
	j.private = 0
	j.state = isDecoding
	j.start = b.step
	j.finish = b.step + int64(max(0, j.out-j.made-1))
	b.width += j.width
	b.context += j.width * length
	b.phase[-(j.start-int64(length))&(block-1)] += j.width
	heap.Push(&b.decode, j)
	if j.stream && !j.known {
		j.known = true
		j.progress.Store(1)
		j.wake()
	}
}

// tell wakes streams that have more to send.
func (b *batch) tell(at time.Duration) {
	if b.streams == 0 || at < b.ticked+tick(b.streams) {
		return
	}
	b.ticked = at
	for j := b.running.next; j != &b.running; j = j.next {
		if !j.stream || j.state != isDecoding {
			continue
		}
		if n := int64(j.made) + 1 + b.step - j.start; n > j.progress.Load() {
			j.progress.Store(n)
			j.wake()
		}
	}
}

// account notes what was in use until at. Capacity is what the limit on
// sequences leaves possible, or the KV cache at the size that sequences have
// now; where jobs wait, the engine is as full as it can be.
func (b *batch) account(at time.Duration) {
	used, possible := float64(b.seats), float64(b.limit)
	switch {
	case b.down:
		possible = 0
	case b.behind && b.seats > 0:
		possible = used
	case b.seats > 0 && b.kv.used() > 0:
		possible = max(used, min(possible, used*float64(b.kv.total)/float64(b.kv.used())))
	}
	b.rec.advance(at, used, possible)
}

func (b *batch) next(time.Duration) time.Duration {
	if !b.busy {
		return 0
	}
	return b.until
}

func (b *batch) leave(j *job, now time.Duration) {
	b.interrupt(now)
	made := j.made
	if j.state == isDecoding {
		made += 1 + int(b.step-j.start)
		heap.Remove(&b.decode, j.index)
	}
	b.g.Generated += int64(j.width * made)
	b.vacate(j)
}

// remember keeps the blocks of a reply for prompts that begin with it.
func (b *batch) remember(j *job, blocks []uint64) {
	if b.c.NoPrefix || len(blocks) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.down {
		b.kv.remember(blocks)
	}
}

// empty forgets the cache, too.
func (b *batch) empty() (lost []*job) {
	for j := b.running.next; j != &b.running; j = j.next {
		lost = append(lost, j)
	}
	b.busy, b.behind, b.tight, b.step = false, false, false, 0
	b.running.prev, b.running.next = &b.running, &b.running
	b.prefill, b.decode.list, b.kv = nil, nil, newKV(b.c.KV)
	b.seats, b.width, b.context, b.streams, b.phase = 0, 0, 0, 0, [block]int{}
	return lost
}

func (b *batch) gauge(g *Gauges) { g.Running, g.KV = b.seats, b.kv.share() }
