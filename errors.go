package matrix

import (
	"errors"
	"time"
)

// An error that an agent or a handler returns has one fate, told by its type:
//
//	*RetryError   the step did not happen; the task comes back later
//	*FailError    this task fails with the cause, others go on
//	*StopError    the run stops, and every unfinished task stays pending
//	any other     as RetryError, after a backoff, one attempt spent

// RetryError brings the task back later.
type RetryError struct {
	Err   error
	After time.Duration // not before this long from now
	Free  bool          // spends no attempt: the fault is not the task's
}

// FreeRetry is how long a free retry waits that names no time.
const FreeRetry = 100 * time.Millisecond

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// FailError fails the task that met it.
type FailError struct{ Err error }

func (e *FailError) Error() string { return e.Err.Error() }
func (e *FailError) Unwrap() error { return e.Err }

// StopError stops the run: what it reports will not pass by itself, and every
// task would meet it (a wrong key, an unknown model, a full disk).
type StopError struct{ Err error }

func (e *StopError) Error() string { return e.Err.Error() }
func (e *StopError) Unwrap() error { return e.Err }

// ErrLost is the cause of a handler's end whose claim on its message is lost:
// somebody else may have taken it, and one of the two commits.
var ErrLost = errors.New("the claim on the task is lost")

// ErrClosed is returned by the calls of a queue that has been closed.
var ErrClosed = errors.New("queue is closed")
