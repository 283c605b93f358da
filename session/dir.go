package session

import (
	"matrix/internal/rundir"
)

// What a session and the folder of a run give and fail with.
type (
	Dir          = rundir.Dir          // the folder of a run, to be read
	Record       = rundir.Record       // a task as it was found there
	UnknownTask  = rundir.UnknownTask  // the run has no task of an id
	DamagedError = rundir.DamagedError // a state or an output is not as it was written
	RefusedError = rundir.RefusedError // a run does not begin or go on in a folder; its Cause says why
)

// Causes of a RefusedError, and what helps beside another Options.Dir.
const (
	ConfigChanged    = rundir.ConfigChanged    // the old values, Accept or Fresh
	ConfigGone       = rundir.ConfigGone       // Accept or Fresh
	ConfigUnreadable = rundir.ConfigUnreadable // Accept
	ModelChanged     = rundir.ModelChanged     // the old address, Accept or Fresh
	ShardsChanged    = rundir.ShardsChanged    // as many as before, or Fresh
	TrialsChanged    = rundir.TrialsChanged    // likewise
	NotOfRun         = rundir.NotOfRun         // Fresh deletes it not: who has made it may
	HalfCleared      = rundir.HalfCleared      // Fresh, which had begun it
	OnHeads          = rundir.OnHeads          // to go on with its heads
	HeadsGone        = rundir.HeadsGone        // the stores that the heads had, or Repair without heads.json
	RetryUnderWay    = rundir.RetryUnderWay    // to go on without heads first
)

// OpenDir opens the folder of a run, to read its tasks or to Verify it. It also works
// while the run is under way, as far as tasks are finished. A folder that is not one
// is a spec.UsageError. The caller closes it.
func OpenDir(path string) (*Dir, error) { return rundir.Open(path) }
