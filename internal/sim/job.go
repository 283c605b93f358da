package sim

import (
	"sync/atomic"
	"time"
)

// job is one call at work.
type job struct {
	// Set before it is submitted.
	prompt int      // tokens
	blocks []uint64 // hashes of the full blocks of the prompt; nil where prefixes are not cached
	out    int      // tokens to be made, of each choice
	width  int      // choices
	stream bool
	seed   uint64        // of its time, with slots
	woken  chan struct{} // capacity 1: something below has changed

	// Of the engine, under its lock.
	state   state
	index   int  // in a heap
	known   bool // its first token has been told of
	taken   int  // of blocks, that are shared in the KV cache
	private int  // blocks of its own, until it decodes
	made    int  // tokens made before it was preempted
	left    int  // tokens of the prompt still to be computed
	start   int64
	finish  int64 // step at which it is done
	prev    *job  // among the running, admitted before
	next    *job
	came    time.Duration
	begun   time.Duration
	over    time.Duration
	due     time.Duration // with slots
	cached  int           // tokens of the prompt, at the first admission

	progress atomic.Int64 // tokens of each choice so far, for streams
	done     atomic.Bool
	lost     atomic.Bool // the engine went down under it
}

type state uint8

const (
	isNew state = iota
	isWaiting
	isPrefilling
	isDecoding
	isOver
)

func (j *job) wake() {
	select {
	case j.woken <- struct{}{}:
	default:
	}
}

// engine is what takes time. Its methods may be called concurrently.
type engine interface {
	submit(j *job) bool // false where the queue is full
	cancel(j *job)      // of a job that is over it does nothing
	remember(j *job, blocks []uint64)
	resize(slots int)
	slow(factor float64)
	fall()                 // all jobs are lost, and the cache is empty
	rise()                 // after fall
	renew(begun time.Time) // as new: all jobs are lost
	gauges() Gauges
	close()
}

// Gauges is how an engine stands.
type Gauges struct {
	Running     int     `json:"running"`
	Waiting     int     `json:"waiting"`
	KV          float64 `json:"kv_use"`
	Prompt      int64   `json:"prompt_tokens"`     // of the calls that were begun
	Cached      int64   `json:"cached_tokens"`     // of these, found in the prefix cache
	Computed    int64   `json:"prefill_tokens"`    // computed, again after preemption too
	Generated   int64   `json:"generation_tokens"` // made, also for calls that were given up
	Preemptions int64   `json:"preemptions"`
	timeline    Timeline
}

// doneHeap is jobs by the step, or the time, at which they are done.
type doneHeap struct {
	list []*job
	less func(a, b *job) bool
}

func (h *doneHeap) Len() int           { return len(h.list) }
func (h *doneHeap) Less(i, k int) bool { return h.less(h.list[i], h.list[k]) }
func (h *doneHeap) Swap(i, k int) {
	h.list[i], h.list[k] = h.list[k], h.list[i]
	h.list[i].index, h.list[k].index = i, k
}
func (h *doneHeap) Push(x any) {
	j := x.(*job)
	j.index = len(h.list)
	h.list = append(h.list, j)
}
func (h *doneHeap) Pop() any {
	last := len(h.list) - 1
	j := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return j
}

// fifo is jobs in the order of their arrival. The zero value is empty.
type fifo struct {
	list  []*job // nil where one was taken out
	head  int
	count int
}

func (q *fifo) push(j *job) {
	q.list = append(q.list, j)
	q.count++
}

// unshift puts j before all others.
func (q *fifo) unshift(j *job) {
	if q.head == 0 {
		grown := make([]*job, len(q.list)+16)
		copy(grown[16:], q.list)
		q.list, q.head = grown, 16
	}
	q.head--
	q.list[q.head] = j
	q.count++
}

func (q *fifo) first() *job {
	for q.head < len(q.list) {
		if j := q.list[q.head]; j != nil && j.state == isWaiting {
			return j
		}
		q.list[q.head] = nil
		q.head++
	}
	q.list, q.head = q.list[:0], 0
	return nil
}

// pop takes what first returned.
func (q *fifo) pop() {
	q.list[q.head] = nil
	q.head++
	q.count--
	if q.head > 1024 && q.head > len(q.list)/2 {
		q.list = append(q.list[:0], q.list[q.head:]...)
		q.head = 0
	}
}

// drop forgets a job whose state has been changed already.
func (q *fifo) drop() { q.count-- }
