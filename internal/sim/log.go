package sim

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// How a call ended.
const (
	EndDone    = "done"     // the work was done; a fault may have kept the answer from the client
	EndRefused = "refused"  // with Status, before any work
	EndReset   = "reset"    // by a fault, before any work
	EndGivenUp = "given_up" // the client left before the work was done
	EndCut     = "cut"      // the replica went down
)

// Entry is a line of Config.Log: a call that reached a replica, written when it
// is over. Times are in seconds; At is on the clock of the timelines in Stats.
type Entry struct {
	At      float64 `json:"at"` // when it had arrived
	Replica int     `json:"replica"`
	Nth     uint64  `json:"nth"`              // of the calls that came to this replica, from 1: faults hit by it
	Key     string  `json:"key,omitempty"`    // Idempotency-Key
	Prompt  string  `json:"prompt,omitempty"` // how the last message begins: up to 40 bytes
	Fault   string  `json:"fault,omitempty"`  // kind of the fault that hit it
	Status  int     `json:"status,omitempty"` // of a refusal
	End     string  `json:"end"`
	Waited  float64 `json:"waited"` // for a slot
	Worked  float64 `json:"worked"` // in a slot
	Took    float64 `json:"took"`   // from its arrival until it was answered, or the client had left
}

// promptBytes is how much of a prompt an entry holds.
const promptBytes = 40

// callLog writes entries.
type callLog struct {
	mu sync.Mutex
	w  io.Writer
}

// write writes one line. What the log cannot take is lost: the service goes on.
func (l *callLog) write(x *Entry) {
	b, err := json.Marshal(x)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(append(b, '\n'))
}

// callRecord is a call on its way to the log; nil where there is none.
type callRecord struct {
	Entry
	e   *Engine
	run *running
}

// enter begins a visit, which the log takes once it has arrived and left.
func (e *Engine) enter() *callRecord {
	if e.of.log == nil {
		return nil
	}
	return &callRecord{e: e}
}

// arrived notes that the call is there, and what it met.
func (v *callRecord) arrived(n uint64, q *api.Request, f *Fault) {
	if v == nil {
		return
	}
	v.At, v.Replica, v.Nth, v.Key = v.e.of.clock(), v.e.index, n, q.Key
	text := startOf(q.Request)
	v.Prompt = text[:min(len(text), promptBytes)]
	if f != nil {
		v.Fault = f.Kind
	}
}

// admitted notes the work on it, or the answer that is an error.
func (v *callRecord) admitted(run *running, no *refusal) {
	if v == nil {
		return
	}
	if v.run = run; no != nil {
		v.Status = no.status
	}
}

// leave writes the entry of a call that is over.
func (v *callRecord) leave() {
	if v == nil || v.Nth == 0 {
		return
	}
	v.Took = v.e.of.clock() - v.At
	switch r := v.run; {
	case v.Status > 0:
		v.End = EndRefused
	case r == nil:
		v.End = EndReset
	default:
		v.Waited, v.Worked = r.job.times(v.Took)
		switch {
		case r.job.done.Load():
			v.End = EndDone
		case r.job.lost.Load() || v.e.down.Load():
			v.End = EndCut
		default:
			v.End = EndGivenUp
		}
	}
	v.e.of.log.write(&v.Entry)
}

// clock is the time on the clock of the timelines, in seconds.
func (s *service) clock() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.begun).Seconds()
}

// times are how long a job that is over has waited for a slot, and worked in
// it: all in all at most took.
func (j *job) times(took float64) (waited, worked float64) {
	if j.begun == 0 {
		return took, 0
	}
	waited = max(0, (j.begun - j.came).Seconds())
	return waited, max(0, (j.over - j.begun).Seconds())
}

// keyHeader names a call, the same in every try.
const keyHeader = "Idempotency-Key"

// startOf is how the last message begins, or a prompt that is a text.
func startOf(r *llm.Request) string {
	if n := len(r.Messages); n > 0 {
		return r.Messages[n-1].Content
	}
	return r.Prompt
}
