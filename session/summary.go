package session

import (
	"encoding/json"
	"math"

	"matrix/internal/spend"
	"matrix/run"
)

// summary is the content of summary.json. All but tasks, owed, live and finished
// speaks of settled tasks, over all sessions of the run.
type summary struct {
	Name     string                   `json:"name"`
	Tasks    *int64                   `json:"tasks"` // null until the rows have been counted
	Done     int64                    `json:"done"`
	Dropped  int64                    `json:"dropped"`
	Expanded int64                    `json:"expanded"`
	Failed   int64                    `json:"failed"`
	Pending  *int64                   `json:"owed"`             // as tasks
	Unused   int64                    `json:"unused,omitempty"` // of tasks: never fed, since there was enough
	Goal     int64                    `json:"goal,omitempty"`   // of until: tasks that are to be kept, of all kinds together
	Live     int64                    `json:"live"`
	Children int64                    `json:"children,omitempty"` // of tasks: those that others became, so far
	Parents  int64                    `json:"parents,omitempty"`  // of live: those that wait for their children
	Hops     int64                    `json:"hops"`
	Seconds  float64                  `json:"seconds"`
	Finished bool                     `json:"finished"`
	Metrics  map[string]run.MetricSum `json:"metrics"`
	Usage    map[string]run.Usage     `json:"usage"`
	Causes   []run.CauseCount         `json:"causes"`             // of failed tasks, by kind, the most frequent first; an empty cause is all others
	Reasons  []run.CauseCount         `json:"reasons"`            // of dropped tasks, likewise
	Workers  *int                     `json:"workers,omitempty"`  // in other processes, now; missing where none may join
	Unserved []string                 `json:"unserved,omitempty"` // roles for which tasks wait, and that no process that is there serves
	Spending *spend.Spending          `json:"spending,omitempty"` // by all calls, those of tasks under way and of failed tries too
}

// Summary is the snapshot as summary.json holds it.
func (s *Snapshot) Summary() ([]byte, error) {
	x := summary{
		Name: s.Name, Done: s.Done, Dropped: s.Dropped, Expanded: s.Expanded, Failed: s.Failed, Unused: s.Unused, Goal: s.Goal, Live: s.Live, Children: s.Begun, Parents: s.Parents, Hops: s.Hops,
		Seconds: math.Round(s.Seconds*1e3) / 1e3, Finished: s.Finished, Metrics: s.Metrics, Usage: s.Usage, Spending: s.Spending,
		Causes: append([]run.CauseCount{}, s.FailedBy()...), Reasons: append([]run.CauseCount{}, s.DroppedBy()...), Unserved: s.Unserved(),
	}
	if s.Workers != nil {
		x.Workers = new(len(s.Workers))
	}
	if s.Total >= 0 {
		x.Tasks, x.Pending = &s.Total, &s.Pending
	}
	b, err := json.MarshalIndent(x, "", "  ")
	return append(b, '\n'), err
}
