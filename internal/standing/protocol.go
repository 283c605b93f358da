// Package standing is a head that stands: a process with one network for workers and
// one for clients, a folder of runs, and a process for each of them, which goes on
// where it is killed and is killed by nothing that happens to another. It knows what
// the folder of a run tells of it, and nothing of how one is driven.
package standing

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/internal/monitor"
	"matrix/internal/rundir"
	"matrix/session"
)

// clientAddress is where clients ask.
const clientAddress = "c.head"

// States of a run.
const (
	Starting  = "starting"
	Running   = "running"
	Stopping  = "stopping"
	Stopped   = "stopped"   // tasks are pending: its command goes on
	Finished  = "finished"  // nothing is left
	Failed    = "failed"    // it ended with an error
	Cancelled = "cancelled" // a person ended it for good
)

// Info is how a run stands.
type Info struct {
	Name     string          `json:"name"`
	State    string          `json:"state"`
	Why      string          `json:"why,omitempty"`
	Weight   int             `json:"weight"`
	Priority matrix.Priority `json:"priority"`
	Since    time.Time       `json:"since"`         // it was submitted last
	PID      int             `json:"pid,omitempty"` // of its process, on the head's machine
	Done     int64           `json:"done"`
	Dropped  int64           `json:"dropped"`
	Expanded int64           `json:"expanded"`
	Failed   int64           `json:"failed"`
	Pending  int64           `json:"pending"` // -1 unknown
	Live     int64           `json:"live"`
	Acting   int             `json:"acting"`          // steps under way
	Rate     float64         `json:"rate"`            // tasks settled a second
	USD      float64         `json:"usd"`             // spent
	Tokens   int64           `json:"tokens"`          // used
	Workers  int             `json:"workers"`         // that act for it
	Waits    string          `json:"waits,omitempty"` // for a role that nobody serves
}

// Submission is a run that a client gives to a head.
type Submission struct {
	Name     string   `json:"name"`
	Weight   int      `json:"weight,omitempty"`   // 0: as it has, or 1
	Priority *string  `json:"priority,omitempty"` // nil: as it has, or normal
	Fresh    bool     `json:"fresh,omitempty"`    // start over
	Flags    []string `json:"flags,omitempty"`    // of matrix run, for how it goes on
	Words    []string `json:"words"`              // the command as a person would type it
}

// question is what a client asks.
type question struct {
	Version string `json:"version"`
	Ask     string `json:"ask"`
	Run     string `json:"run,omitempty"`
	Now     bool   `json:"now,omitempty"`
	After   int64  `json:"after,omitempty"` // line
	Lines   int    `json:"lines,omitempty"`
	Client  string `json:"client,omitempty"` // where it answers what its bundle has
	Key     string `json:"key,omitempty"`    // of a submission, which is asked for again until it has come to something

	Submission *Submission `json:"submission,omitempty"`
}

// answer is what it is answered.
type answer struct {
	Refused string   `json:"refused,omitempty"` // why nothing was done
	Usage   bool     `json:"usage,omitempty"`   // what was asked for is wrong
	Again   bool     `json:"again,omitempty"`   // it takes time: ask again
	Says    string   `json:"says,omitempty"`
	Version string   `json:"version"`
	Lines   []string `json:"lines,omitempty"`
	Next    int64    `json:"next,omitempty"` // line

	Runs    []Info                `json:"runs,omitempty"`
	Workers []session.WorkerState `json:"workers,omitempty"`
	Status  *monitor.Status       `json:"status,omitempty"`
	End     *monitor.End          `json:"end,omitempty"`
}

// Seat is what the process of a run is told in a file.
type Seat struct {
	natsnet.Seat
	Words []string // the command that a person typed
}

// nameForm is what a run of a standing head may be called: its name is that of its folder.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// CheckName says why a run of a standing head cannot have a name.
func CheckName(name string) error {
	if nameForm.MatchString(name) && !slices.Contains([]string{JoinFile, ClientsFile, rundir.WorkersDir}, name) {
		return nil
	}
	return fmt.Errorf("name %q cannot be the name of a run of a cluster: want letters, digits, dots, - and _, 100 at most, and not join, clients or workers: name=NAME", name)
}
