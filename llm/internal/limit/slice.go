package limit

import (
	"time"
)

// SliceLife is for how long a slice holds, from when it was asked for. One that is not
// renewed by then shrinks by half, and again every so long, down to one call.
const SliceLife = 3 * time.Second

// Slice is what one of several processes may have of an endpoint.
type Slice struct {
	Serial uint64  `json:"serial"` // of a leader's slices of this endpoint: a lower one is older
	Limit  int     `json:"limit"`  // calls in flight
	Tries  float64 `json:"tries"`  // a second that are always allowed at a service that refuses
	Look   bool    `json:"look,omitempty"`

	Again bool `json:"again,omitempty"` // more is to come as soon as others have told that they have less

	RPM float64 `json:"rpm,omitempty"` // requests a minute, of a model as a whole, for LeaseLife
	TPM float64 `json:"tpm,omitempty"` // tokens
}

// Use is what one of several processes tells of its calls to an endpoint.
type Use struct {
	Ack      uint64 `json:"ack"` // serial of the slice that it holds
	InFlight int    `json:"in_flight"`
	Young    int    `json:"young,omitempty"` // of them: may yet be refused
	Waiting  int    `json:"waiting,omitempty"`
	Refused  int64  `json:"refused,omitempty"` // so far
	Done     Sums   `json:"done"`              // answered so far
	Tokens   int64  `json:"tokens,omitempty"`
	Load     *Load  `json:"load,omitempty"`
	Mute     bool   `json:"mute,omitempty"` // the service does not say how busy it is

	RPM float64 `json:"rpm,omitempty"` // limits a minute that the service has told
	TPM float64 `json:"tpm,omitempty"`
}

// Load is how busy a service says that it is.
type Load struct {
	Serial  int64         `json:"serial"` // of the looks of this process
	Every   time.Duration `json:"every"`
	Running int           `json:"running"`
	Waiting int           `json:"waiting"`
}

// Sums are sums over calls that were answered: how many, their work w, the seconds t that they took, w*w,
// w*t and t*t.
type Sums [6]float64

func (s *Sums) moments() moments {
	return moments{n: s[0], w: s[1], t: s[2], ww: s[3], wt: s[4], tt: s[5]}
}

// Holder keeps a slice, and lets it shrink.
type Holder struct {
	Slice
	until time.Time
	cut   int // calls less, since then: one for each that was refused
}

// Take takes a slice in that was asked for at a time, and reports whether it is
// newer than the one before.
func (h *Holder) Take(s Slice, asked time.Time) bool {
	if s.Serial <= h.Serial {
		return false
	}
	h.Slice, h.until = s, asked.Add(SliceLife)
	return true
}

// Follow has it wait for slices of a leader that is new, and keep to the one that it has.
func (h *Holder) Follow(now time.Time) {
	if h.Serial = 0; h.until.IsZero() {
		h.until = now.Add(SliceLife)
	}
}

// Calls is how many may be in flight.
func (h *Holder) Calls(now time.Time) int {
	late := now.Sub(h.until)
	if late < 0 {
		return max(min(1, h.Limit), h.Limit-h.cut)
	}
	return max(1, shrunk(h.Limit-h.cut, late))
}

// shrunk is a limit, so long after its slice has ended.
func shrunk(limit int, late time.Duration) int {
	if late < 0 {
		return limit
	}
	return limit >> min(31, 1+late/SliceLife)
}

// follower is what a limiter has that keeps to slices: nothing is found here, but
// what is needed to find it is noted.
type follower struct {
	Holder
	refused, told int64 // of which the leader was told
	done          moments
	tokens        int64
	load          *Load
	looks         int64
}

// Follow has the limiter keep to slices from now on, of a leader that is new.
func (l *Limiter) Follow(now time.Time) {
	l.advance(now)
	if l.follows == nil {
		l.follows = &follower{}
	}
	l.follows.Follow(now)
}

// Take takes in a slice that was asked for at a time, and reports whether it is new.
func (l *Limiter) Take(now time.Time, s Slice, asked time.Time) bool {
	l.advance(now)
	if !l.follows.Holder.Take(s, asked) {
		return false
	}
	l.pace.floor = s.Tries
	l.follows.cut = int(l.follows.refused - l.follows.told)
	return true
}

// SetTries sets the tries a second that are always allowed.
func (l *Limiter) SetTries(tries float64) { l.pace.floor = tries }

// Looks reports whether this process is to ask the service how busy it is.
func (l *Limiter) Looks() bool { return l.follows == nil || l.follows.Look }

// Use is what there is to tell. waiting is how many calls wait for room.
func (l *Limiter) Use(now time.Time, waiting int) Use {
	l.advance(now)
	f := l.follows
	f.told = f.refused
	d := &f.done
	return Use{
		Ack: f.Serial, InFlight: l.n, Young: l.pace.young, Waiting: waiting, Load: f.load,
		Done: Sums{d.n, d.w, d.t, d.ww, d.wt, d.tt}, Refused: f.refused, Tokens: f.tokens,
	}
}

// ended notes what became of a call.
func (f *follower) ended(seconds float64, r Result) {
	switch r.Outcome {
	case Answered:
		f.tokens += int64(r.PromptTokens + r.CompletionTokens)
		f.done.add(work(r), seconds, 0)
	case Full:
		f.refused++
		f.cut++
	}
}
