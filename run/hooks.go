package run

import (
	"fmt"

	"matrix"
)

// Middleware wraps the agent of a role: it sees each task before next acts, and
// each turn or error behind it, and may answer in its place. It is an Agent, with
// an Agent's duties, and where it panics, its step fails as that of an agent that does.
type Middleware func(role string, next matrix.Agent) matrix.Agent

// EventKind is what has happened.
type EventKind string

// The kinds of events.
const (
	TaskFed     EventKind = "task fed"     // the queue has the task; again where a crash came between it and its checkpoint, or it is tried again
	CallDone    EventKind = "call done"    // one of the calls of a step, before its StepDone
	StepDone    EventKind = "step done"    // an agent has acted, or could not: then there is an Err, and it acts again
	TaskSettled EventKind = "task settled" // its line in the output and its fate are durable; not told where a crash comes then
)

// Event is something that has happened in a run. Those of a task come in order, but
// that a TaskFed may be told behind the first steps. What an event points to is
// valid while it is told, and not to be changed.
type Event struct {
	Kind EventKind
	Task string       // its id
	Role string       // who acted; of the first to act where the task was fed; else empty
	Turn *matrix.Turn // of a StepDone without Err; its hop is not committed yet, and is made again after a crash
	Call *matrix.Call // of a CallDone
	Err  error        // why the step is to be done again
	Fate matrix.Fate  // of a TaskSettled; its Row is not set
	Why  string       // what made a settled task fail, or why it was dropped
}

// notify tells who watches, if anybody does. Where that panics, the run stops.
func (w *Worker) notify(e Event) {
	if w.cfg.On == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			w.halt(fmt.Errorf("who is told of what happens (Config.On) panicked at %q of task %s: %v%s", e.Kind, e.Task, p, panicSite()))
		}
	}()
	w.cfg.On(e)
}

// notifyFed tells of tasks that the queue has.
func (r *Run) notifyFed(seeds []matrix.Seed) {
	for i := range seeds {
		e := Event{Kind: TaskFed, Task: NameOf(seeds[i].Task)}
		if role := seeds[i].Role; role != sinkRole {
			e.Role = role
		}
		r.worker.notify(e)
	}
}

// notifyStep tells of a step by role and its calls.
func (w *Worker) notifyStep(t *matrix.Task, role string, err error) {
	if w.cfg.On == nil {
		return
	}
	e := Event{Kind: StepDone, Task: t.ID, Role: role, Err: err}
	if err == nil {
		e.Turn = t.Last()
		for i := range e.Turn.Calls {
			w.notify(Event{Kind: CallDone, Task: t.ID, Role: role, Call: &e.Turn.Calls[i]})
		}
	}
	w.notify(e)
}
