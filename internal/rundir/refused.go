package rundir

import (
	"fmt"

	"matrix/spec"
)

// RefusedError says why a run does not begin or go on in a folder as it was asked to.
// Nothing was changed. Its message is what is so; what helps, in the words of whoever
// asked, follows from Cause.
type RefusedError struct {
	Dir   string
	Cause Refusal
	Keys  []string // of the config, that differ: ConfigChanged
	Err   error
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Refusal is a reason to refuse a folder.
type Refusal string

// The reasons, and what helps beside another folder.
const (
	ConfigChanged    Refusal = "config changed"         // the old values, to accept, or to start over
	ConfigGone       Refusal = "config gone"            // to accept what is given, or to start over
	ConfigUnreadable Refusal = "config unreadable"      // to accept: nothing is compared then
	ModelChanged     Refusal = "model changed"          // the old address, to accept, or to start over
	ShardsChanged    Refusal = "shards changed"         // as many as before, or to start over
	TrialsChanged    Refusal = "trials changed"         // likewise
	NotOfRun         Refusal = "not of a run"           // it cannot be started over: somebody else has made it
	HalfCleared      Refusal = "not cleared to the end" // to start over, as was begun
	OnHeads          Refusal = "on heads"               // to go on there
	HeadsGone        Refusal = "gone from its heads"    // the folders that the heads had before, or to repair without HeadsFile
	RetryUnderWay    Refusal = "retry under way"        // to go on in one process first
)

// Refused is a RefusedError that is a spec.UsageError.
func Refused(dir string, cause Refusal, format string, args ...any) error {
	return &spec.UsageError{Err: &RefusedError{Dir: dir, Cause: cause, Err: fmt.Errorf(format, args...)}}
}

// halfCleared is the error for the folder of a run that was being deleted.
func halfCleared(dir string) error {
	return &RefusedError{Dir: dir, Cause: HalfCleared, Err: fmt.Errorf("%s: what its run had made was being deleted, and that was interrupted", dir)}
}
