// Package status is how a run stands at a moment, as one typed snapshot. What a
// terminal shows of it and summary.json are written from it; nothing reads what
// they say.
package status

import (
	"maps"
	"slices"
	"time"

	"matrix/internal/spend"
	"matrix/llm"
	"matrix/run"
)

// Snapshot is how far a run has come, what it does, and how fast it goes.
type Snapshot struct {
	run.Progress
	Name     string
	Roles    []Role  // in the order that was given for them
	Models   []Model // by name
	Rate     float64 // tasks settled a second; 0 unknown
	Spending *spend.Spending
}

// Role is what a role is doing.
type Role struct {
	Name string
	run.RoleProgress
	Rate float64 // hops a second; 0 unknown
}

// Model is what a model is doing.
type Model struct {
	Name string
	llm.Stats
	Rate float64 // tokens of replies a second; 0 unknown
}

// Of is a snapshot without rates: of a run called name, whose roles are listed in
// order and which talks to models.
func Of(name string, p run.Progress, order []string, models map[string]llm.Model, spent *spend.Spending) *Snapshot {
	s := &Snapshot{Progress: p, Name: name, Models: Models(models), Spending: spent}
	for _, role := range order {
		s.Roles = append(s.Roles, Role{Name: role, RoleProgress: p.Roles[role]})
	}
	return s
}

// Models are what models are doing, without rates.
func Models(models map[string]llm.Model) []Model {
	var all []Model
	for _, name := range slices.Sorted(maps.Keys(models)) {
		all = append(all, Model{Name: name, Stats: models[name].Stats()})
	}
	return all
}

// Left is the time until all tasks are settled, and whether it can be told.
func (s *Snapshot) Left() (time.Duration, bool) {
	if s.Pending < 0 || s.Rate <= 0 || s.Finished {
		return 0, false
	}
	return time.Duration(float64(s.Pending) / s.Rate * float64(time.Second)), true
}
