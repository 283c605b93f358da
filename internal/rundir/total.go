package rundir

import (
	"encoding/json"
	"os"
)

// Total is how many tasks the run has, as its summary says. ok is false where nobody
// knows: the rows have not been counted yet, or there is no summary that can be read.
func (d *Dir) Total() (n int64, ok bool) {
	var s struct {
		Tasks *int64 `json:"tasks"`
	}
	b, err := os.ReadFile(d.path(SummaryFile))
	if err != nil || json.Unmarshal(b, &s) != nil || s.Tasks == nil {
		return 0, false
	}
	return *s.Tasks, true
}
