package matrix

import (
	"context"

	"matrix/internal/stopping"
)

// Agent takes one step for a role. It reads t, never changes it, and keeps
// nothing between calls. Role, Hop and Timing of its turn are the engine's to set.
//
// An error is one of the fates in errors.go; any other error is retried and
// spends one of the task's attempts. What an agent did but could not bring to
// a good end (a reply that does not parse) is not an error: it is a Turn whose
// Error says why, and the router judges it.
type Agent interface {
	Act(ctx context.Context, t *Task) (Turn, error)
}

// AgentFunc is an Agent that is one function.
type AgentFunc func(ctx context.Context, t *Task) (Turn, error)

// Act calls f.
func (f AgentFunc) Act(ctx context.Context, t *Task) (Turn, error) { return f(ctx, t) }

// Role is an agent under a name, and how it is served.
type Role struct {
	Agent Agent
	Kind  string // of the agent, for people: chat, compute, command, ...; may be empty
	// Inline agents act in the hop of the agent before them, without one of
	// their own: for what costs microseconds and calls nobody.
	Inline      bool
	Concurrency int // steps at once; 0 for as many as tasks are live
	Attempts    int // tries of one step before the task fails; 0 for 3
}

// Limits cut a single task short. Zero is no limit, but for Hops.
type Limits struct {
	Rounds  int     // turns of any one role; a run that was begun when none was the default keeps that
	Hops    int     // 0 for 10,000: no flow may go round for ever
	Tokens  int     // of prompts and completions together
	USD     float64 // that the calls of the turns cost
	Seconds float64 // of waiting and acting, as the turns tell; time in which nothing ran does not count
	Finish  bool    // a task at a limit is done, with the value null, instead of failed
}

// Metric is an expression over a finished task: a number, a bool, or nil where it
// says nothing of this task.
type Metric func(t *Task) (any, error)

// Router decides who acts next. It is pure: no I/O, no clock, no memory but t.
type Router interface {
	// Start decides for a task that was just fed.
	Start(t *Task) Decision
	// Next decides after the turn t.Last().
	Next(t *Task) Decision
}

// Decision is a router's answer. Make it with To, Finish, Stop, Drop, Fail or Expand.
type Decision struct {
	Role    string     // who acts next
	Open    []Turn     // from Start only: turns the task begins with
	Outcome *Outcome   // set: the task has ended
	Expand  *Expansion // set: the task becomes children
}

// To sends the task to role.
func To(role string) Decision { return Decision{Role: role} }

// Finish ends the task as done. The value may be absent.
func Finish(value Value) Decision {
	return Decision{Outcome: &Outcome{Status: Done, Value: value}}
}

// Stop ends the task as done before its flow came to an end. by says why.
func Stop(by string, value Value) Decision {
	return Decision{Outcome: &Outcome{Status: Done, Value: value, Stopped: by}}
}

// Drop ends the task as dropped: what came of it is not wanted. reason says why.
func Drop(reason string) Decision {
	return Decision{Outcome: &Outcome{Status: Dropped, Cause: reason}}
}

// Fail ends the task as failed, because the flow says so.
func Fail(cause string) Decision { return FailBy(FaultFlow, cause) }

// FailBy ends the task as failed, through a fault of something.
func FailBy(f Fault, cause string) Decision {
	return Decision{Outcome: &Outcome{Status: Failed, Cause: cause, Fault: f}}
}

// Stopping returns the context that ends when the run is asked to stop. The ctx
// of an Act goes on for a grace period, for what is under way to land; what only
// waits (for a free slot, for a service to come back) gives up when Stopping
// ends, with its error.
func Stopping(ctx context.Context) context.Context {
	return stopping.Of(ctx)
}

// WithStopping makes a ctx for agents, and for calls of models, whose Stopping is
// soft. soft must end when ctx does.
func WithStopping(ctx, soft context.Context) context.Context { return stopping.With(ctx, soft) }
