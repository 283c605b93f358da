package session

import (
	"maps"
	"slices"
	"time"

	"matrix/internal/spend"
	"matrix/llm"
	"matrix/run"
)

// Snapshot is how a run stands at a moment: how far it has come (Done, Dropped, Expanded, Failed and
// Pending, which is -1 while rows may still come, and the rest of run.Progress),
// what it does, and how fast it goes. summary.json is written from it.
type Snapshot struct {
	run.Progress
	Name     string          `json:"name"`
	Roles    []RoleSnapshot  `json:"roles"`              // as the flow comes upon them
	Models   []ModelSnapshot `json:"models"`             // of this process, by name
	Pools    []PoolSnapshot  `json:"pools,omitempty"`    // of sandboxes, of this process, by name
	Head     *WorkerState    `json:"head,omitempty"`     // this process, of a run that lets workers join and acts itself, too
	Workers  []WorkerState   `json:"workers,omitzero"`   // in other processes, by ID; nil of a run that lets none join
	Heads    []HeadState     `json:"heads,omitempty"`    // of a run that has several, by name; those that are away, too
	Logs     []LogState      `json:"logs,omitempty"`     // of the shards of such a run; nil where they cannot be looked at
	Rate     float64         `json:"rate"`               // tasks settled a second; 0 unknown
	Spending *spend.Spending `json:"spending,omitempty"` // USD and Tokens, the Limit, what is Projected for all tasks, and these of each of Models
}

// RoleSnapshot is what a role is doing.
type RoleSnapshot struct {
	Name string `json:"name"`
	run.RoleProgress
	Rate     float64 `json:"rate"`               // hops a second; 0 unknown
	Where    string  `json:"where,omitempty"`    // on which machines it acts; empty for all
	Unserved bool    `json:"unserved,omitempty"` // tasks wait for it, and no process that is there serves it
}

// ModelSnapshot is what a model is doing.
type ModelSnapshot struct {
	Name string `json:"name"`
	llm.Stats
	Rate float64 `json:"rate"` // tokens of replies a second; 0 unknown
}

// Snapshot is how the run stands now. It may be called at any time; rates are
// those between the snapshots that were taken.
func (s *Session) Snapshot() *Snapshot {
	p := s.Progress()
	v := &Snapshot{Progress: p, Name: s.Plan.Run.Name, Models: s.Models(), Pools: poolsOf(s.Plan), Spending: s.money.Spending(p)}
	for _, role := range s.Plan.RoleOrder() {
		r := RoleSnapshot{Name: role, RoleProgress: p.Roles[role]}
		if where := s.Plan.Where[role]; where != nil {
			r.Where = where.String()
		}
		v.Roles = append(v.Roles, r)
	}
	if s.head != nil {
		s.head.show(v)
	}
	if s.among != nil {
		s.among.show(v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meter.observe(time.Now(), v)
	return v
}

// join adds who acts for the run: head, which is nil where this process does not act,
// and workers in other processes, as they say of themselves. The steps that are under
// way are those that the ones here are at: who is silent has lost its tasks. A role for which
// tasks wait and that none of them serves is Unserved.
func (s *Snapshot) join(head *WorkerState, workers []WorkerState) {
	s.Head, s.Workers = head, append([]WorkerState{}, workers...)
	all := workers
	if head != nil {
		all = append([]WorkerState{*head}, workers...)
	}
	for i := range s.Roles {
		r := &s.Roles[i]
		r.Acting = 0
		served := false
		for k := range all {
			r.Acting += all[k].Steps[r.Name].Acting
			served = served || all[k].State == workerWorking && slices.Contains(all[k].Roles, r.Name)
		}
		r.Unserved = !s.Finished && !r.Inline && r.Waiting > 0 && !served
	}
}

// Unserved lists the roles that nobody serves and for which tasks wait.
func (s *Snapshot) Unserved() []string {
	var names []string
	for i := range s.Roles {
		if s.Roles[i].Unserved {
			names = append(names, s.Roles[i].Name)
		}
	}
	return names
}

// Models is what the models are doing now, without rates.
func (s *Session) Models() []ModelSnapshot { return modelsOf(s.Plan) }

func modelsOf(p *Plan) []ModelSnapshot {
	var all []ModelSnapshot
	for _, name := range slices.Sorted(maps.Keys(p.Models)) {
		all = append(all, ModelSnapshot{Name: name, Stats: p.Models[name].Stats()})
	}
	return all
}

// Left is the time until all tasks are settled, and whether it can be told.
func (s *Snapshot) Left() (time.Duration, bool) {
	if s.Goal > 0 && s.Done > 0 && s.Rate > 0 && !s.Finished { // by what was kept so far
		return time.Duration(float64(s.Goal-s.Done) / (s.Rate * float64(s.Done) / float64(s.Settled())) * float64(time.Second)), true
	}
	if s.Pending < 0 || s.Rate <= 0 || s.Finished || s.Goal > 0 {
		return 0, false
	}
	return time.Duration(float64(s.Pending) / s.Rate * float64(time.Second)), true
}
