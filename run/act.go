package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"matrix"
)

const maxInline = 100 // inline steps in one hop, before a hop is paid all the same

// hop takes one message through its agent, the inline agents after it and the
// router, to the step that replaces it.
func (w *Worker) hop(ctx context.Context, x *role, m *matrix.Message) (matrix.Step, error) {
	x.acting.Add(1)
	defer x.acting.Add(-1)
	k, err := w.cache.load(ctx, m)
	switch {
	case err == nil:
	case gaveUp(ctx, err), errors.Is(err, matrix.ErrLost):
		return matrix.Step{}, &matrix.RetryError{Err: err, Free: true}
	case errors.As(err, new(*matrix.RetryError)):
		return matrix.Step{}, err
	default:
		return matrix.Step{}, &matrix.StopError{Err: err}
	}
	t := k.t
	from := len(t.Turns)
	t.Hop++
	t.Expansion = nil // it has been told of all that came of it
	next := w.turn(ctx, x, t, m)
	if err := next.err; err != nil {
		err = fmt.Errorf("role %s: %w", x.name, err)
		if gaveUp(ctx, err) {
			err = &matrix.RetryError{Err: err, Free: true}
		}
		return matrix.Step{}, err
	}
	for n := 0; next.Outcome == nil && next.Expand == nil; n++ {
		inline := w.roles[next.Role]
		if !inline.Inline || !inline.served() || n == maxInline {
			break
		}
		d := w.turn(ctx, inline, t, nil)
		if d.err != nil {
			break // it shall act by itself: what has been done so far is kept
		}
		next = d
	}
	x.hops.Add(1)
	s := matrix.Step{}
	s.Role, s.Priority = w.lead(t, next.Decision)
	s.Record = encodeStep(t, from)
	s.Sum = matrix.Sum(s.Record)
	k.size, k.hop, k.sum = size(k.size, s.Record), m.Hop+1, s.Sum
	w.keep(k, s.Role)
	return s, nil
}

// lead says where t waits next, and how soon it is to be taken there, as d says.
func (w *Worker) lead(t *matrix.Task, d matrix.Decision) (role string, priority int) {
	switch {
	case d.Outcome != nil:
		w.finish(t, d.Outcome)
		return sinkRole, t.Rank()
	case d.Expand != nil:
		return expandRole, expandRank(t)
	}
	return d.Role, t.Rank()
}

// decision is a router's, or the error that brings the message back.
type decision struct {
	matrix.Decision
	err error
}

// turn is a turn of x, of which those hear who watch.
func (w *Worker) turn(ctx context.Context, x *role, t *matrix.Task, m *matrix.Message) decision {
	d := w.actOnce(ctx, x, t, m)
	w.notifyStep(t, x.name, d.err)
	return d
}

// actOnce lets x act once, adds its turn to t and asks the router. m is nil for
// an inline step, whose errors mean that it must act in a hop of its own.
func (w *Worker) actOnce(ctx context.Context, x *role, t *matrix.Task, m *matrix.Message) decision {
	at := time.Now()
	turn, err := x.act(ctx, t)
	var failed *matrix.FailError
	if err != nil && !errors.As(err, &failed) {
		if !x.spent(ctx, err, m) {
			return decision{err: err}
		}
		failed = &matrix.FailError{Err: fmt.Errorf("gave up after %d attempts: %w", m.Attempt+1, err)}
	}
	turn.Role, turn.Hop = x.name, t.Hop
	for i := range turn.Calls {
		turn.Calls[i].Kind = cmp.Or(turn.Calls[i].Kind, matrix.KindModel)
	}
	took, queued := time.Since(at), time.Duration(0)
	if m != nil {
		queued = m.Queued
	}
	if w.cfg.Limits.Seconds > 0 {
		took, queued = w.suspensions.running(took, at.Add(took)), w.suspensions.running(queued, at)
	}
	turn.Timing = matrix.Timing{At: at, TookMS: ms(took), QueuedMS: ms(queued)}
	if m != nil {
		turn.Timing.DelayMS, turn.Timing.Attempts = ms(m.Delayed), m.Attempt
	}
	if failed != nil {
		turn.Error = cmp.Or(turn.Error, failed.Error())
		t.Turns = append(t.Turns, turn)
		return w.tally(x, t, matrix.FailBy(matrix.FaultStep, x.name+": "+failed.Error()))
	}
	t.Turns = append(t.Turns, turn)
	d := w.after(t)
	if err := w.sign(ctx, t, d.Outcome); err != nil {
		if !errors.As(err, &failed) {
			if !x.spent(ctx, err, m) {
				t.Turns = t.Turns[:len(t.Turns)-1]
				return decision{err: err}
			}
			err = fmt.Errorf("gave up after %d attempts: %w", m.Attempt+1, err)
		}
		d = matrix.FailBy(matrix.FaultStep, err.Error())
	}
	return w.tally(x, t, d)
}

// sign gives a task that is done the signature by which it is compared with others.
func (w *Worker) sign(ctx context.Context, t *matrix.Task, o *matrix.Outcome) error {
	if w.cfg.Sign == nil || o == nil || o.Status != matrix.Done {
		return nil
	}
	t.Outcome = o // which it may look at
	signature, calls, err := w.cfg.Sign(ctx, t)
	t.Outcome = nil
	for i := range calls {
		calls[i].Kind = cmp.Or(calls[i].Kind, matrix.KindModel)
	}
	last := t.Last()
	last.Calls = append(slices.Clip(last.Calls), calls...)
	o.Signature = signature
	return err
}

// tally counts how a step of x ended. One that would fail its task after too
// many others did is not to be committed: the task stays pending.
func (w *Worker) tally(x *role, t *matrix.Task, d matrix.Decision) decision {
	first, broken := x.steps.add(x.name, d.Outcome)
	switch {
	case first:
		w.halt(x.steps.broken)
	case broken != nil:
		t.Turns = t.Turns[:len(t.Turns)-1]
		return decision{err: &matrix.RetryError{Err: broken, Free: true}}
	}
	return decision{Decision: d}
}

// start asks the router who begins, and opens t as it says.
func (w *Worker) start(t *matrix.Task) matrix.Decision {
	d := w.ask(w.cfg.Router.Start, t)
	t.Turns = d.Open
	for i := range t.Turns {
		t.Turns[i].Timing.At = t.Fed
	}
	return d
}

// after asks the router who acts after the last turn, and cuts a task short that
// has come to a limit.
func (w *Worker) after(t *matrix.Task) matrix.Decision {
	d := w.ask(w.cfg.Router.Next, t)
	if d.Outcome == nil {
		if cause := w.limit(t); cause != "" {
			t.Expansion = nil
			if w.cfg.Limits.Finish {
				return matrix.Stop(cause, matrix.Value{})
			}
			return matrix.FailBy(matrix.FaultLimit, cause)
		}
	}
	return d
}

// ask has the router decide, and fails a decision that leads nowhere.
func (w *Worker) ask(router func(*matrix.Task) matrix.Decision, t *matrix.Task) (d matrix.Decision) {
	defer func() {
		if x := recover(); x != nil {
			d = matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("the router panicked: %v", x))
		}
	}()
	d = router(t)
	if d.Expand != nil && d.Outcome == nil {
		return w.expand(t, d)
	}
	if d.Outcome == nil && w.roles[d.Role] == nil {
		return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("the router sent the task to %q, and there is no such role", d.Role))
	}
	return d
}

// spent reports whether err has used up the message's attempts. An inline step
// (m is nil) has none: it gets its attempts in a hop of its own.
func (x *role) spent(ctx context.Context, err error, m *matrix.Message) bool {
	var retry *matrix.RetryError
	var stop *matrix.StopError
	if m == nil || gaveUp(ctx, err) || errors.As(err, &stop) || errors.As(err, &retry) && retry.Free {
		return false
	}
	return m.Attempt+1 >= x.Attempts
}

// gaveUp reports whether err is that of a step that gave up because the run is to
// end: nothing that is the task's fault.
func gaveUp(ctx context.Context, err error) bool {
	return ctx.Err() != nil || matrix.Stopping(ctx).Err() != nil && errors.Is(err, context.Canceled)
}

func (x *role) act(ctx context.Context, t *matrix.Task) (turn matrix.Turn, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the agent panicked: %v%s", p, panicSite())
		}
	}()
	return x.Agent.Act(ctx, t)
}

// panicSite finds the first frame outside the runtime above a recover.
func panicSite() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf(" (%s:%d)", f.File[strings.LastIndexByte(f.File, '/')+1:], f.Line)
		}
		if !more {
			return ""
		}
	}
}

// limit says which limit the task has reached, if any.
func (w *Worker) limit(t *matrix.Task) string {
	l := &w.cfg.Limits
	if t.Hop >= l.Hops {
		return fmt.Sprintf("limit: %d hops", l.Hops)
	}
	if last := t.Last(); l.Rounds > 0 && t.Rounds(last.Role) >= l.Rounds {
		return fmt.Sprintf("limit: %d rounds of %s; limits.rounds in the config raises it, 0 lifts it", l.Rounds, last.Role)
	}
	if l.Tokens > 0 {
		n := 0
		for c := range t.Calls() {
			n += c.PromptTokens + c.CompletionTokens
		}
		if n >= l.Tokens {
			return fmt.Sprintf("limit: %d tokens (used %d)", l.Tokens, n)
		}
	}
	if l.USD > 0 {
		usd := 0.0
		for c := range t.Calls() {
			usd += c.USD
		}
		if usd >= l.USD {
			return fmt.Sprintf("limit: %g USD (used %.4g)", l.USD, usd)
		}
	}
	if l.Seconds > 0 {
		ms := 0.0
		for i := range t.Turns {
			x := &t.Turns[i].Timing
			ms += x.QueuedMS + x.DelayMS + x.TookMS
		}
		if ms >= l.Seconds*1e3 {
			return fmt.Sprintf("limit: %g s", l.Seconds)
		}
	}
	return ""
}

// finish sets the outcome, and the metrics of a task that is done.
func (w *Worker) finish(t *matrix.Task, o *matrix.Outcome) {
	t.Outcome = o
	if o.Status != matrix.Done || len(w.cfg.Metrics) == 0 {
		return
	}
	t.Metrics = make(map[string]*float64, len(w.cfg.Metrics))
	for name, f := range w.cfg.Metrics {
		t.Metrics[name] = measure(f, t)
	}
}

// measure returns nil where a metric is nil, no number, or an error for t.
func measure(f matrix.Metric, t *matrix.Task) (v *float64) {
	defer func() { _ = recover() }()
	x, err := f(t)
	if err != nil {
		return nil
	}
	switch x := x.(type) {
	case bool:
		if x {
			return new(1.0)
		}
		return new(0.0)
	case int:
		return new(float64(x))
	case float64:
		if x-x == 0 { // else NaN or an infinity
			return &x
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
