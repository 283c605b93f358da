package lang

import "matrix"

// FinishedLocals are the locals of expressions over a task that has ended: its metrics by
// name, what its flow finished with, and what stopped it.
func FinishedLocals() []string { return []string{"metrics", "value", "stopped"} }

// DoneLocals are the locals of expressions over a task that is about to be kept: what its flow
// finished with.
func DoneLocals() []string { return []string{"value"} }

// Done are the values of DoneLocals.
func Done(t *matrix.Task) []any {
	if t.Outcome == nil {
		return []any{nil}
	}
	return []any{t.Outcome.Value.Any()}
}

// Finished are the values of FinishedLocals.
func Finished(t *matrix.Task) []any {
	metrics := make(map[string]any, len(t.Metrics))
	for name, v := range t.Metrics {
		if metrics[name] = nil; v != nil {
			metrics[name] = *v
		}
	}
	if t.Outcome == nil {
		return []any{metrics, nil, nil}
	}
	return []any{metrics, t.Outcome.Value.Any(), t.Outcome.Stopped}
}
