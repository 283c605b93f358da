// Package tool calls tools: pools of programs, servers and functions that answer calls
// by name, with arguments, and may keep state for as long as somebody needs it. It
// knows nothing of tasks, models and flows, only who asks (Task) and what.
package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Task is what a pool may know of who asks.
type Task struct {
	ID   string          // names it in the run; state is kept under it
	Row  json.RawMessage // what it began with, never changed
	Seed int64

	// Past returns the calls of the task at this pool that are committed, in order, with
	// what they were answered. A pool keeps state for a task only while what the state
	// has seen is exactly this. Nil: there are none.
	Past func() []Request
}

// Request is a call of a tool. Content, IsError and Changed are what it was answered,
// where it is one of the past.
type Request struct {
	Key       string          `json:"key"`          // STEP/INDEX, the same each time the same call is made: one that was answered is not made again
	As        string          `json:"as,omitempty"` // who calls, where several do: user, assistant
	Name      string          `json:"name"`         // of the tool
	Arguments json.RawMessage `json:"arguments"`    // JSON as the model wrote it, an object where it is right

	Content string `json:"content"`
	IsError bool   `json:"is_error"`
	Changed bool   `json:"-"` // whether the state may be another one since: what did not change it need not be made again
}

// Result is what a tool answered. A call that cannot be made (no such tool, arguments
// that do not fit) is answered, too, with IsError: the model is told.
type Result struct {
	Content    string
	IsError    bool
	Structured json.RawMessage // beside Content, where the tool has it
	Images     []string        // data: URLs
	Changed    bool
	Trace      Trace
}

// Trace says how a call went.
type Trace struct {
	Lease      string        // names the state that was asked
	Generation int           // how often that state was made, 1 for the first time
	Restored   Restored      // how the state came to be that the call met
	Wait       time.Duration // for a place in the pool
	Took       time.Duration // in the tool
}

// Restored says how a state came to be.
type Restored string

// The ways: it was made new, it was there, or it was made again by the calls of the past.
const (
	Fresh  Restored = "fresh"
	Live   Restored = "live"
	Replay Restored = "replay"
)

// Definition describes a tool to a model.
type Definition struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // a JSON Schema of an object
}

// Pool answers calls. Its methods may be called by many goroutines at once; those of one
// task come one after the other. Where there is no room a call waits, until ctx ends or
// the run is asked to stop. Errors are of the types below.
type Pool interface {
	// Tools are those that t may call.
	Tools(ctx context.Context, t Task) ([]Definition, error)
	// Call makes a call, or answers it as before where that key was answered.
	Call(ctx context.Context, t Task, r Request) (Result, error)
	// Release gives up what is kept for a task. It may be called again, and for one that nothing is kept for.
	Release(ctx context.Context, task string) error
	// Check reports whether the pool can work, before anything is asked of it.
	Check(ctx context.Context) error
	// Close ends all that the pool started, and returns when it is gone.
	Close() error
}

// Stateful is a Pool whose state says something of itself as it is made.
type Stateful interface {
	Pool
	// State says what the state of t says of itself. It makes the state where there is none.
	State(ctx context.Context, t Task) (Opened, Trace, error)
	// Constant returns one of the values that Opened names: t's state knows it.
	Constant(ctx context.Context, t Task, hash string) (json.RawMessage, error)
}

// Opened is what a state says of itself: the same each time for the same task.
type Opened struct {
	Data   json.RawMessage   `json:"data,omitempty"`   // an object: of this task alone
	Shared map[string]string `json:"shared,omitempty"` // name to the hash of a value that many tasks have: a policy, the schemas of tools
}

// Scorer is a Pool that can judge how a task went. What it is given is all that it
// knows: no state is kept for it.
type Scorer interface {
	Pool
	// Score returns an object with what it came to. reason says why the task ended; verdicts are
	// those of a judge, or nil.
	Score(ctx context.Context, t Task, s Scoring) (json.RawMessage, error)
	// Judge returns the messages that a judge is to be asked before Score, as a JSON list of {role, content};
	// nil where none is needed.
	Judge(ctx context.Context, t Task, s Scoring) (json.RawMessage, error)
}

// Scoring is what a Scorer is given.
type Scoring struct {
	Turns    json.RawMessage // of the task, as a command is given them
	Reason   string
	Verdicts json.RawMessage // what the judge answered; of Score alone
}

// An error of a pool has one fate, told by its type; any other is one of ctx.

// LostError says that what the pool runs on failed, and no caller is at fault. The call may be made again.
type LostError struct{ Err error }

func (e *LostError) Error() string { return e.Err.Error() }
func (e *LostError) Unwrap() error { return e.Err }

// BrokenError says that nothing can be asked of the pool until somebody mends it: no such
// program, one that ends as it starts, a server that does not know us.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// TaskError says that the state of this task cannot be made, or made again: its row is not
// what the pool needs, or its past came out in another way.
type TaskError struct {
	Task string // empty where who asks knows it
	Err  error
}

func (e *TaskError) Error() string {
	if e.Task == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("task %s: %v", e.Task, e.Err)
}
func (e *TaskError) Unwrap() error { return e.Err }
