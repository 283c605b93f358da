package export

import (
	"slices"
	"time"

	"matrix"
)

// Made is what made rows: which models answered, and when. It tells of 100 models at
// most.
type Made struct {
	Models      []Model   `json:"models,omitempty"`
	First, Last time.Time // when the first turn began, and the last one
}

// Model is what a model answered a role.
type Model struct {
	Role, Name      string // in the config
	Model, Revision string // as the service says
	Calls           int64
	Prompt, Reply   int64 // tokens
	USD             float64
}

const maxModels = 100

// add adds what made a task.
func (m *Made) add(t *matrix.Task) {
	for i := range t.Turns {
		turn := &t.Turns[i]
		m.between(turn.Timing.At, turn.Timing.At)
		for k := range turn.Calls {
			if c := &turn.Calls[k]; c.Kind == matrix.KindModel {
				m.model(&Model{turn.Role, c.Name, c.Model, c.Revision, 1, int64(c.PromptTokens), int64(c.CompletionTokens), c.USD})
			}
		}
	}
}

// merge adds what made other rows.
func (m *Made) merge(o *Made) {
	m.between(o.First, o.Last)
	for i := range o.Models {
		m.model(&o.Models[i])
	}
}

func (m *Made) between(first, last time.Time) {
	if !first.IsZero() && (m.First.IsZero() || first.Before(m.First)) {
		m.First = first
	}
	if last.After(m.Last) {
		m.Last = last
	}
}

func (m *Made) model(o *Model) {
	i := slices.IndexFunc(m.Models, func(x Model) bool {
		return x.Role == o.Role && x.Name == o.Name && x.Model == o.Model && x.Revision == o.Revision
	})
	switch {
	case i < 0 && len(m.Models) < maxModels:
		m.Models = append(m.Models, *o)
	case i >= 0:
		x := &m.Models[i]
		x.Calls, x.Prompt, x.Reply, x.USD = x.Calls+o.Calls, x.Prompt+o.Prompt, x.Reply+o.Reply, x.USD+o.USD
	}
}
