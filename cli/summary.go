package cli

import (
	"encoding/json"
	"math"

	"matrix/run"
	"matrix/rundir"
	"matrix/spend"
)

// summary is the content of summary.json. All but tasks, owed, live and finished
// speaks of settled tasks, over all sessions of the run.
type summary struct {
	Name     string                   `json:"name"`
	Tasks    *int64                   `json:"tasks"` // null until the rows have been counted
	Done     int64                    `json:"done"`
	Failed   int64                    `json:"failed"`
	Owed     *int64                   `json:"owed"` // as tasks
	Live     int64                    `json:"live"`
	Hops     int64                    `json:"hops"`
	Seconds  float64                  `json:"seconds"`
	Finished bool                     `json:"finished"`
	Metrics  map[string]run.MetricSum `json:"metrics"`
	Usage    map[string]run.Usage     `json:"usage"`
	Causes   []run.CauseCount         `json:"causes"`             // of failed tasks, by kind, the most frequent first; an empty cause is all others
	Spending *spend.Spending          `json:"spending,omitempty"` // by all calls, those of tasks under way and of failed tries too
}

func summarize(name string, p run.Progress, spent *spend.Spending) summary {
	s := summary{
		Name: name, Done: p.Done, Failed: p.Failed, Live: p.Live, Hops: p.Hops,
		Seconds: math.Round(p.Seconds*1e3) / 1e3, Finished: p.Finished, Metrics: p.Metrics, Usage: p.Usage, Spending: spent,
		Causes: append([]run.CauseCount{}, p.FailedBy()...),
	}
	if p.Total >= 0 {
		s.Tasks, s.Owed = &p.Total, &p.Owed
	}
	return s
}

func (s summary) write(to *rundir.Claim) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return to.Summarize(append(b, '\n'))
}
