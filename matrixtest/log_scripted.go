package matrixtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"matrix/local"
)

// ScriptedLog is a log in memory whose writers meet what a script says. It stands for
// a replicated one and outlives the processes that open it.
type ScriptedLog struct {
	// Before is called before a process is told that a group is durable. It may
	// block; nil does nothing.
	Before func()
	// Trims says what becomes of a trim: which position it comes to. nil: that
	// which it asks for.
	Trims func(before uint64) uint64

	most int

	mu     sync.Mutex
	first  uint64 // position of the oldest group
	groups []*logged
}

// logged is a group, or the claim of a writer.
type logged struct {
	position uint64
	group    []byte // nil: a claim
}

// NewScriptedLog makes a log whose groups have at most so many bytes.
func NewScriptedLog(maxGroup int) *ScriptedLog { return &ScriptedLog{most: maxGroup, first: 1} }

// Open opens the log for one more process. fault, unless it is nil, says what
// becomes of its n-th request to append, from 0.
func (s *ScriptedLog) Open(fault func(n int) LogFault) local.Log {
	if fault == nil {
		fault = func(int) LogFault { return Answered }
	}
	return &logProcess{s: s, fault: fault}
}

// Groups returns what is in the log.
func (s *ScriptedLog) Groups() (groups [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.group != nil {
			groups = append(groups, slices.Clone(g.group))
		}
	}
	return groups
}

// SetGroups replaces what is in the log, which nobody has open: by what is left of
// it where some has been lost, or has changed.
func (s *ScriptedLog) SetGroups(groups [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = nil
	for i, group := range groups {
		s.groups = append(s.groups, &logged{s.first + uint64(i), slices.Clone(group)})
	}
}

// Size is how many bytes the log has.
func (s *ScriptedLog) Size() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		n += len(g.group)
	}
	return n
}

// next is the position of the next group. s.mu is held.
func (s *ScriptedLog) next() uint64 { return s.first + uint64(len(s.groups)) }

// add adds g, which may stand there already.
func (s *ScriptedLog) add(g *logged) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch next := s.next(); {
	case g.position == next:
		s.groups = append(s.groups, g)
		return nil
	case g.position > next:
		return fmt.Errorf("the log ends before %d and has lost what was before %d", next, g.position)
	case g.position >= s.first && s.groups[g.position-s.first] == g:
		return nil
	}
	return local.ErrFenced // by whoever stands there, or has trimmed it
}

// read returns the oldest group after a position. Where there is none it adds a
// claim, and ok is false.
func (s *ScriptedLog) read(after uint64) (g *logged, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from := max(after+1, s.first); from < s.next() {
		return s.groups[from-s.first], true
	}
	g = &logged{position: s.next()}
	s.groups = append(s.groups, g)
	return g, false
}

// logProcess is a process that has the log open.
type logProcess struct {
	s     *ScriptedLog
	fault func(n int) LogFault

	mu       sync.Mutex
	last     uint64    // position of the last group appended
	requests int       // made
	asked    []*logged // appended and not answered, oldest first
	err      error     // for good
}

// ErrCut is what a process meets that cannot reach the log any more.
var ErrCut = errors.New("the log cannot be reached")

// Replay implements local.Log.
func (p *logProcess) Replay(apply func(group []byte) error) error {
	at := uint64(0)
	for {
		g, ok := p.s.read(at)
		if ok && at > 0 && g.position > at+1 {
			if err := apply(nil); err != nil {
				return err
			}
		}
		at = g.position
		if !ok {
			p.mu.Lock()
			p.last = at
			p.mu.Unlock()
			return nil
		}
		if g.group != nil {
			if err := apply(slices.Clone(g.group)); err != nil {
				return err
			}
		}
	}
}

// Append implements local.Log.
func (p *logProcess) Append(group []byte) (wait func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(group) == 0 || len(group) > p.s.most {
		p.err = errors.Join(p.err, fmt.Errorf("a group of %d bytes; want 1 to %d", len(group), p.s.most))
	}
	p.last++
	g := &logged{p.last, slices.Clone(group)}
	p.asked = append(p.asked, g)
	p.ask(false)
	return func() error {
		if p.s.Before != nil {
			p.s.Before()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for len(p.asked) > 0 && p.asked[0].position <= g.position && p.err == nil {
			p.ask(true)
		}
		if len(p.asked) > 0 && p.asked[0].position <= g.position {
			return p.err
		}
		return nil
	}
}

// ask makes a request for the oldest group that was not answered, and for those
// after it as long as they are answered. p.mu is held.
func (p *logProcess) ask(waited bool) {
	for len(p.asked) > 0 && p.err == nil {
		g, fault := p.asked[0], p.fault(p.requests)
		if fault == Late && !waited {
			return
		}
		p.requests++
		switch fault {
		case RequestLost:
			return
		case Cut:
			p.err = ErrCut
			return
		}
		err := p.s.add(g)
		if fault == AnswerLost {
			return
		}
		if p.err = err; fault == CutAfter {
			p.err = ErrCut
		}
		if p.err == nil {
			p.asked = p.asked[1:]
		}
	}
}

// Next implements local.Log.
func (p *logProcess) Next() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last + 1
}

// Trim implements local.Log.
func (p *logProcess) Trim(before uint64) {
	if p.s.Trims != nil {
		before = p.s.Trims(before)
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for len(p.s.groups) > 0 && p.s.first < before {
		p.s.groups = p.s.groups[1:]
		p.s.first++
	}
}

// MaxGroup implements local.Log.
func (p *logProcess) MaxGroup() int { return p.s.most }
