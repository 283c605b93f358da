package tool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"matrix/internal/child"
	"matrix/internal/stopping"
)

const (
	tries     = 2 // of a call whose process ended, beside others
	suspected = 3 // and then alone in its process, before it is the call's fault
)

// lease is the state of a task, which one process keeps. What it has seen outlives that.
type lease struct {
	task   string
	using  chan struct{} // held by who uses what is below, but for held
	at     *server
	peer   *child.Peer // nil: no process has it
	name   string      // that it has there, and no other state before or after
	opened *Opened     // nil: not yet
	seen   []seen      // what the state was asked, oldest first
	used   time.Time

	generation int
	losses     int // processes that ended under the call with lossKey
	lossKey    string

	held bool // it has a place; guarded by Process.mu
}

// seen is a call that a state was asked.
type seen struct {
	key string
	sum [sha256.Size]byte
	did *done // nil: it is one of the past
}

// done is a call that is not one of the past yet, with its answer.
type done struct {
	request Request
	result  Result
}

// sumOf is the same for the same call, in whatever order its arguments are written.
func sumOf(r *Request) [sha256.Size]byte {
	args := []byte(r.Arguments)
	var v any
	if json.Unmarshal(args, &v) == nil {
		if sorted, err := json.Marshal(v); err == nil {
			args = sorted
		}
	}
	h := sha256.New()
	for _, s := range []string{r.As, r.Name, string(args)} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func stepOf(key string) string {
	step, _, _ := strings.Cut(key, "/")
	return step
}

// agrees reports whether the state was asked what stands in the past, and beside it
// only calls of the step of r, r among them as it is, if at all.
func (l *lease) agrees(past []Request, r *Request) bool {
	if len(l.seen) < len(past) {
		return false
	}
	for i := range past {
		if l.seen[i].key != past[i].Key || l.seen[i].sum != sumOf(&past[i]) {
			return false
		}
	}
	for i := range l.seen[len(past):] {
		s := &l.seen[len(past)+i]
		if stepOf(s.key) != stepOf(r.Key) || s.key == r.Key && s.sum != sumOf(r) {
			return false
		}
	}
	return true
}

// use hands the lease of a task to f, which is the only one that has it meanwhile.
func (p *Process) use(ctx context.Context, task string, f func(l *lease) error) error {
	p.mu.Lock()
	l := p.leases[task]
	if l == nil {
		l = &lease{task: task, using: make(chan struct{}, 1)}
		p.leases[task] = l
	}
	p.mu.Unlock()
	select {
	case l.using <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() {
		l.used = time.Now()
		<-l.using
	}()
	return f(l)
}

// State implements Stateful. What a state says of itself is asked for once.
func (p *Process) State(ctx context.Context, t Task) (Opened, Trace, error) {
	var out Opened
	trace := Trace{Lease: t.ID, Restored: Live}
	err := p.use(ctx, t.ID, func(l *lease) error {
		if l.opened == nil {
			err := p.insist(ctx, t, l, "", func() (bool, error) { return p.make(ctx, t, l, past(t), &trace) })
			if err != nil {
				return err
			}
		}
		out, trace.Generation = *l.opened, l.generation
		return nil
	})
	return out, trace, err
}

func past(t Task) []Request {
	if t.Past == nil {
		return nil
	}
	return t.Past()
}

// Call implements Pool.
func (p *Process) Call(ctx context.Context, t Task, r Request) (Result, error) {
	var result Result
	err := p.use(ctx, t.ID, func(l *lease) error {
		trace := Trace{Lease: t.ID, Restored: Live}
		err := p.insist(ctx, t, l, r.Key, func() (bool, error) { return p.call(ctx, t, l, r, &result, &trace) })
		trace.Generation = l.generation
		result.Trace = trace
		return err
	})
	return result, err
}

// insist tries again where a process ended under try, which reports that it did. A call
// under which processes end again and again is tried alone, so that no other is taken
// for it, and then is at fault.
func (p *Process) insist(ctx context.Context, t Task, l *lease, key string, try func() (ended bool, err error)) error {
	if l.lossKey != key {
		l.losses, l.lossKey = 0, key
	}
	for {
		alone := l.losses >= tries
		if alone {
			select {
			case p.alone <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if l.at != p.lone {
				p.leave(l)
				p.mu.Lock()
				l.at = p.lone
				l.at.holds++
				p.mu.Unlock()
			}
		}
		ended, err := try()
		if alone {
			<-p.alone
		}
		if !ended {
			if err == nil {
				l.losses = 0
			}
			return err
		}
		p.count(func(s *Stats) { s.Lost++ })
		l.losses++
		if p.config.Restore == "none" && l.generation > 0 || l.losses >= tries+suspected {
			return &TaskError{t.ID, err}
		}
		if stop := stopping.Of(ctx); stop.Err() != nil {
			return context.Cause(stop)
		}
	}
}

// call makes a call once. It reports whether its process ended meanwhile.
func (p *Process) call(ctx context.Context, t Task, l *lease, r Request, result *Result, trace *Trace) (ended bool, err error) {
	past := past(t)
	switch {
	case !l.agrees(past, &r):
		p.leave(l)
		l.seen = nil
	case l.peer != nil && gone(l.peer):
		p.leave(l)
	}
	for i := range min(len(past), len(l.seen)) {
		l.seen[i].did = nil
	}
	before := past
	for _, s := range l.seen[min(len(past), len(l.seen)):] {
		if s.key == r.Key && s.did != nil {
			*result = s.did.result
			return false, nil
		}
		before = append(slices.Clip(before), s.did.request)
	}
	if l.peer == nil {
		if ended, err := p.make(ctx, t, l, before, trace); err != nil {
			return ended, err
		}
	}
	p.count(func(s *Stats) { s.Calls++ })
	began := time.Now()
	var a answer
	err = p.ask(ctx, l.peer, question{Op: "call", Lease: l.name, Key: r.Key, As: r.As, Name: r.Name, Arguments: r.Arguments}, &a)
	trace.Took = time.Since(began)
	if err == nil && a.Content == nil {
		err = &refusedError{fmt.Sprintf("%s answered the call of %s without content", p.config.Run[0], r.Name)}
	}
	if err != nil {
		p.leave(l) // who knows what it has seen
		return p.fate(t, err)
	}
	l.at.works()
	*result = Result{Content: p.cut(*a.Content), IsError: a.IsError, Changed: a.Changed == nil || *a.Changed}
	r.Content, r.IsError, r.Changed = *a.Content, a.IsError, result.Changed
	l.seen = append(l.seen, seen{r.Key, sumOf(&r), &done{r, *result}})
	return false, nil
}

// fate is what an error of ask means for who asks. It reports whether the process ended.
func (p *Process) fate(t Task, err error) (ended bool, _ error) {
	if refused := (*refusedError)(nil); errors.As(err, &refused) {
		return false, &TaskError{t.ID, err}
	}
	lost := (*LostError)(nil)
	return errors.As(err, &lost), err
}

// cut leaves out the middle of a long text.
func (p *Process) cut(s string) string {
	most := p.config.Output
	if len(s) <= most {
		return s
	}
	head, tail := s[:most/2], s[len(s)-most/2:]
	return strings.ToValidUTF8(head, "") + fmt.Sprintf("\n[%d bytes left out]\n", len(s)-len(head)-len(tail)) + strings.ToValidUTF8(tail, "")
}

// make has a process make the state of t, of calls that were made before. It reports
// whether the process ended meanwhile.
func (p *Process) make(ctx context.Context, t Task, l *lease, before []Request, trace *Trace) (ended bool, err error) {
	began := time.Now()
	if err := p.place(ctx, l); err != nil {
		return false, err
	}
	peer, err := l.at.peer(ctx)
	trace.Wait += time.Since(began)
	if err != nil {
		return false, err
	}
	calls := []Request{} // those that may have changed it
	for _, r := range before {
		if r.Changed {
			calls = append(calls, r)
		}
	}
	if p.config.Restore == "none" && len(before) > 0 {
		return false, &TaskError{t.ID, errors.New("its state was lost, and restore: none has no way to make it again")}
	}
	p.count(func(s *Stats) {
		s.Made++
		l.name = fmt.Sprintf("%s@%d", t.ID, s.Made)
	})
	var a answer
	if err := p.ask(ctx, peer, question{Op: "open", Lease: l.name, Row: t.Row, Seed: &t.Seed, Calls: calls}, &a); err != nil {
		if ctx.Err() != nil {
			p.tell(peer, l.name)
		}
		return p.fate(t, err)
	}
	l.at.works()
	l.peer, l.opened = peer, &Opened{a.Data, a.Shared}
	if len(l.seen) != len(before) {
		l.seen = l.seen[:0]
		for i := range before {
			l.seen = append(l.seen, seen{before[i].Key, sumOf(&before[i]), nil})
		}
	}
	l.generation++
	trace.Restored = Fresh
	if len(before) > 0 {
		trace.Restored = Replay
		p.count(func(s *Stats) { s.Restored++ })
	}
	return false, nil
}

// leave gives up the process that has the state of l, and not its place.
func (p *Process) leave(l *lease) {
	if l.peer != nil {
		p.tell(l.peer, l.name)
		l.peer = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.at != nil {
		l.at.holds--
		l.at = nil
	}
}

// tell lets a process forget a state.
func (p *Process) tell(peer *child.Peer, name string) {
	p.background(func() {
		_ = p.ask(context.Background(), peer, question{Op: "close", Lease: name}, nil) // where it cannot, it has ended
	})
}

// place waits until l may have a state, and says which process is to keep it.
func (p *Process) place(ctx context.Context, l *lease) error {
	p.mu.Lock()
	if !l.held {
		if p.free > 0 && len(p.waiting) == 0 {
			p.free--
		} else {
			turn := make(chan struct{})
			p.waiting = append(p.waiting, turn)
			p.mu.Unlock()
			wait, free := stopping.Wait(ctx)
			select {
			case <-turn:
			case <-wait.Done():
			}
			free()
			p.mu.Lock()
			if i := slices.Index(p.waiting, turn); i >= 0 {
				p.waiting = slices.Delete(p.waiting, i, i+1)
				p.mu.Unlock()
				return context.Cause(wait)
			}
		}
		l.held = true
	}
	if l.at == nil {
		l.at = slices.MinFunc(p.keepers, func(a, b *server) int { return a.holds - b.holds })
		l.at.holds++
	}
	p.mu.Unlock()
	return nil
}

// vacate gives the place of l to who waits.
func (p *Process) vacate(l *lease) {
	p.leave(l)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !l.held:
	case len(p.waiting) > 0:
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
	default:
		p.free++
	}
	l.held = false
}

// Release implements Pool.
func (p *Process) Release(ctx context.Context, task string) error {
	p.mu.Lock()
	l := p.leases[task]
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	return p.use(ctx, task, func(l *lease) error {
		p.vacate(l)
		p.mu.Lock()
		delete(p.leases, task)
		p.mu.Unlock()
		return nil
	})
}

// tidy gives up states that nobody uses, until the pool is closed.
func (p *Process) tidy() {
	tick := time.NewTicker(max(time.Millisecond, min(p.config.Park, p.config.TTL, 4*time.Second)/4))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.park(time.Now())
		case <-p.end:
			return
		}
	}
}

// park gives up states that were not used for TTL, and as many as tasks wait for a
// place of those that were not for Park.
func (p *Process) park(now time.Time) {
	p.mu.Lock()
	wanted := len(p.waiting)
	var idle []*lease
	for _, l := range p.leases {
		if !l.held {
			continue
		}
		select {
		case l.using <- struct{}{}:
			idle = append(idle, l)
		default:
		}
	}
	p.mu.Unlock()
	slices.SortFunc(idle, func(a, b *lease) int { return a.used.Compare(b.used) })
	for i, l := range idle {
		since := now.Sub(l.used)
		if since >= p.config.TTL || since >= p.config.Park && i < wanted {
			p.vacate(l)
			p.count(func(s *Stats) { s.Parked++ })
		}
		<-l.using
	}
}

func (p *Process) count(f func(s *Stats)) {
	p.mu.Lock()
	f(&p.stats)
	p.mu.Unlock()
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Constant implements Stateful.
func (p *Process) Constant(ctx context.Context, t Task, hash string) (json.RawMessage, error) {
	p.mu.Lock()
	v, ok := p.constants[hash]
	p.mu.Unlock()
	if ok {
		return v, nil
	}
	if !plainName.MatchString(hash) {
		return nil, &TaskError{t.ID, fmt.Errorf("%s names a shared value %q, want a hash of it, in letters and digits", p.config.Run[0], hash)}
	}
	path := filepath.Join(p.dir, hash+".json")
	v, err := os.ReadFile(path)
	if p.dir == "" || err != nil || !json.Valid(v) {
		if v, err = p.fetch(ctx, t, hash); err != nil {
			return nil, err
		}
		if err := p.keep(path, v); err != nil {
			return nil, &LostError{err}
		}
	}
	p.mu.Lock()
	p.constants[hash] = v
	p.mu.Unlock()
	return v, nil
}

// fetch asks the process that has the state of t for a shared value.
func (p *Process) fetch(ctx context.Context, t Task, hash string) (json.RawMessage, error) {
	var v json.RawMessage
	err := p.use(ctx, t.ID, func(l *lease) error {
		return p.insist(ctx, t, l, "", func() (bool, error) {
			if l.peer != nil && gone(l.peer) {
				p.leave(l)
			}
			if l.peer == nil {
				if ended, err := p.make(ctx, t, l, past(t), &Trace{}); err != nil {
					return ended, err
				}
			}
			return p.fate(t, p.ask(ctx, l.peer, question{Op: "get", Shared: hash}, &v))
		})
	})
	if err == nil && v == nil {
		err = &TaskError{t.ID, fmt.Errorf("%s has no shared value %s", p.config.Run[0], hash)}
	}
	return v, err
}

// keep writes a file of which there is all or nothing.
func (p *Process) keep(path string, v []byte) error {
	if p.dir == "" {
		return nil
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(p.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(v)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), path)
}

// Tools implements Pool: they are the shared value "tools", where there is one.
func (p *Process) Tools(ctx context.Context, t Task) ([]Definition, error) {
	o, _, err := p.State(ctx, t)
	if err != nil || o.Shared["tools"] == "" {
		return nil, err
	}
	raw, err := p.Constant(ctx, t, o.Shared["tools"])
	if err != nil {
		return nil, err
	}
	var list []struct {
		Definition
		Function *Definition `json:"function"`
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&list); err != nil {
		return nil, &TaskError{t.ID, fmt.Errorf("the shared value tools of %s is no list of tools: %w", p.config.Run[0], err)}
	}
	out := make([]Definition, len(list))
	for i := range list {
		out[i] = list[i].Definition
		if f := list[i].Function; f != nil {
			out[i] = *f
		}
	}
	return out, nil
}

// Score implements Scorer.
func (p *Process) Score(ctx context.Context, t Task, s Scoring) (json.RawMessage, error) {
	var v json.RawMessage
	err := p.scorer(ctx, t, question{Op: "score", Row: t.Row, Turns: s.Turns, Reason: s.Reason, Verdicts: s.Verdicts}, &v)
	return v, err
}

// Judge implements Scorer.
func (p *Process) Judge(ctx context.Context, t Task, s Scoring) (json.RawMessage, error) {
	var v struct{ Messages json.RawMessage }
	err := p.scorer(ctx, t, question{Op: "judge", Row: t.Row, Turns: s.Turns, Reason: s.Reason}, &v)
	return v.Messages, err
}

// scorer asks a process that keeps no states.
func (p *Process) scorer(ctx context.Context, t Task, q question, out any) error {
	wait, free := stopping.Wait(ctx)
	defer free()
	var s *server
	select {
	case s = <-p.scorers:
		defer func() { p.scorers <- s }()
	case <-wait.Done():
		return context.Cause(wait)
	}
	for range tries + suspected { // each was alone in its process
		peer, err := s.peer(ctx)
		if err != nil {
			return err
		}
		ended, err := p.fate(t, p.ask(ctx, peer, q, out))
		if !ended {
			s.works()
			return err
		}
		if stopping.Of(ctx).Err() != nil {
			return err
		}
	}
	return &TaskError{t.ID, fmt.Errorf("%s ended %d times as it was asked to %s", p.config.Run[0], tries+suspected, q.Op)}
}
