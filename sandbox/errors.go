package sandbox

import (
	"fmt"
	"strings"
	"time"
)

// LostError is of a sandbox that is lost and is not made again: nothing is known
// of the command. It says nothing of the task that asked.
type LostError struct {
	Name  string
	Err   error
	Final bool // by restore: none, and there is no use in asking again
}

func (e *LostError) Error() string { return fmt.Sprintf("sandbox %s is lost: %v", e.Name, e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// FullError is of a machine or an engine that can start no sandbox just now.
type FullError struct {
	Pool  string
	After time.Duration // not to be asked before this long from now
	Err   error
}

func (e *FullError) Error() string {
	return fmt.Sprintf("pool %s starts no sandbox just now: %v", e.Pool, e.Err)
}
func (e *FullError) Unwrap() error { return e.Err }

// ImageError is of what a sandbox is to be made of and is not there or does not
// work: an image, a root, the program that makes sandboxes, a limit that cannot be
// kept. It does not pass by itself; its text says what to do.
type ImageError struct {
	What string
	Err  error
}

func (e *ImageError) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }
func (e *ImageError) Unwrap() error { return e.Err }

// SetupError is of a command of Spec.Setup that failed: what was asked for is at fault.
type SetupError struct {
	Command string
	Result  Result
}

func (e *SetupError) Error() string {
	text := e.Result.Err
	if len(text) == 0 {
		text = e.Result.Out
	}
	if len(text) > 1000 {
		text = text[len(text)-1000:]
	}
	how := fmt.Sprintf("ended with exit code %d", e.Result.Code)
	if e.Result.TimedOut {
		how = "ran into its time-out"
	}
	return fmt.Sprintf("setup: %q %s: %s", e.Command, how, strings.ToValidUTF8(strings.TrimSpace(string(text)), "\uFFFD"))
}

// InDoubtError is of a command that had begun when its sandbox was lost, in a pool
// of in_doubt: turn. It may have run, or a part of it.
type InDoubtError struct {
	Name    string
	Command string // its key
	Err     error
}

func (e *InDoubtError) Error() string {
	return fmt.Sprintf("sandbox %s was lost while command %s ran, which may have run or not: %v", e.Name, e.Command, e.Err)
}
func (e *InDoubtError) Unwrap() error { return e.Err }

// FencedError is of somebody whose view of the past is older than what ran here
// since: another process has the task now.
type FencedError struct {
	Name string
	Hop  int64 // that was asked for
	At   int64 // that the sandbox has come to
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("sandbox %s is at hop %d, and a command of hop %d came late: another process has the task", e.Name, e.At, e.Hop)
}

var _ = []error{(*LostError)(nil), (*FullError)(nil), (*ImageError)(nil), (*SetupError)(nil), (*InDoubtError)(nil), (*FencedError)(nil)}
