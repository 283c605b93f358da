package limit

import (
	"slices"
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

	// Calls to time: one in Every of those that are sent, at most Most, belong to the
	// cohort Tag. Those before From are done with. 0 is none.
	Tag     uint32 `json:"tag,omitempty"`
	From    uint32 `json:"from,omitempty"`
	Every   int    `json:"every,omitempty"`
	Most    int    `json:"most,omitempty"`
	Growing bool   `json:"growing,omitempty"` // also those that are sent below the limit

	RPM float64 `json:"rpm,omitempty"` // requests a minute, of a model as a whole, for LeaseLife
	TPM float64 `json:"tpm,omitempty"` // tokens
}

// Use is what one of several processes tells of its calls to an endpoint.
type Use struct {
	Ack      uint64  `json:"ack"` // serial of the slice that it holds
	InFlight int     `json:"in_flight"`
	Young    int     `json:"young,omitempty"` // of them: may yet be refused
	Waiting  int     `json:"waiting,omitempty"`
	Done     int64   `json:"done,omitempty"` // answered so far
	Refused  int64   `json:"refused,omitempty"`
	Tokens   int64   `json:"tokens,omitempty"`  // of those that were answered
	Seconds  float64 `json:"seconds,omitempty"` // that they took
	Work     float64 `json:"work,omitempty"`
	Parts    []Part  `json:"parts,omitempty"`
	Load     *Load   `json:"load,omitempty"`
	Mute     bool    `json:"mute,omitempty"` // the service does not say how busy it is

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

// Part is what one process has of a cohort so far.
type Part struct {
	Tag   uint32     `json:"tag"`
	Sent  int        `json:"sent"`
	Ago   float64    `json:"ago"`  // seconds since the last of them was sent
	Sums  [6]float64 `json:"sums"` // of those that ended: how many, work, seconds, and their products
	Times []float32  `json:"times"`
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
	parts             [4]cohort
	answered, refused int64
	told              int64 // of the refused
	tokens            int64
	seconds, work     float64
	load              *Load
	looks             int64
}

// Follow has the limiter keep to slices from now on, of a leader that is new.
func (l *Limiter) Follow(now time.Time) {
	l.advance(now)
	if l.follows == nil {
		l.follows = &follower{}
	}
	l.follows.Follow(now)
	l.follows.Tag, l.follows.parts = 0, [4]cohort{}
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
	u := Use{
		Ack: f.Serial, InFlight: l.n, Young: l.pace.young, Waiting: waiting, Load: f.load,
		Done: f.answered, Refused: f.refused, Tokens: f.tokens, Seconds: f.seconds, Work: f.work,
	}
	for i := range f.parts {
		if o := &f.parts[i]; o.serial != 0 && o.serial >= f.From && o.sent > 0 {
			u.Parts = append(u.Parts, Part{
				Tag: o.serial, Sent: o.sent, Ago: (l.clock - o.last).Seconds(),
				Sums: [6]float64{o.n, o.w, o.t, o.ww, o.wt, o.tt}, Times: slices.Clone(o.times[:int(o.n)]),
			})
		}
	}
	return u
}

// tag takes a call that is sent into the cohort of the slice: if it is at its level.
func (f *follower) tag(l *Limiter) uint32 {
	if f.Tag == 0 {
		return 0
	}
	o := &f.parts[f.Tag%uint32(len(f.parts))]
	if o.serial != f.Tag {
		*o = cohort{serial: f.Tag, every: max(1, f.Every), size: min(max(1, f.Most), cohortMany)}
	}
	n, limit := float64(l.n), float64(l.Limit())
	if o.sent >= o.size || n > 1.05*limit+1 || !f.Growing && n < 0.95*limit-1 || !o.take(l.clock) {
		return 0
	}
	return f.Tag
}

// done notes what became of a call.
func (f *follower) done(t Ticket, seconds float64, r Result) {
	o := &f.parts[t.tag%uint32(len(f.parts))]
	counted := t.tag != 0 && o.serial == t.tag
	switch r.Outcome {
	case Answered:
		f.answered++
		f.tokens += int64(r.PromptTokens + r.CompletionTokens)
		f.seconds += seconds
		f.work += work(r)
		if counted {
			o.end(seconds, work(r), 0)
		}
		return
	case Full:
		f.refused++
		f.cut++
	}
	if counted {
		o.sent--
	}
}
