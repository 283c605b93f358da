package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"matrix/internal/human"
	"matrix/session"
)

// mostTold is how many workers are told of one by one.
const mostTold = 5

// workersLine says how many workers in other processes there are: "3 workers (1
// draining), 24 slots"; empty of a run that lets none join.
func workersLine(v *session.Snapshot) string {
	if v.Workers == nil {
		return ""
	}
	if len(v.Workers) == 0 && v.Finished {
		return ""
	}
	if len(v.Workers) == 0 {
		return "no workers"
	}
	slots, states := 0, map[string]int{}
	for i := range v.Workers {
		slots += v.Workers[i].Slots
		states[v.Workers[i].State]++
	}
	delete(states, "working")
	var others []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		others = append(others, human.Commas(states[state])+" "+oneLine(state))
	}
	line := human.Plural(int64(len(v.Workers)), "worker")
	if len(others) > 0 {
		line += " (" + strings.Join(others, ", ") + ")"
	}
	if slots > 0 {
		line += ", " + human.Plural(int64(slots), "slot")
	}
	return line
}

// unservedLine says that nobody who is there serves a role.
func unservedLine(r *session.RoleSnapshot) string {
	line := "nobody serves " + r.Name
	if r.Where != "" {
		line += ", which acts where " + oneLine(r.Where)
	}
	if r.Waiting > 0 {
		line += fmt.Sprintf(": %s", human.Plural(int64(r.Waiting), "task")) + wait(r.Waiting)
	}
	return line
}

func wait(n int) string {
	if n == 1 {
		return " waits"
	}
	return " wait"
}

// workerName is a worker as a person knows it.
func workerName(w *session.WorkerState) string {
	name := "worker " + oneLine(w.ID)
	if w.Host != "" && !strings.Contains(w.ID, w.Host) {
		name += " on " + oneLine(w.Host)
	}
	return name
}

// concerns are the roles that nobody serves, and what workers have to say.
func concerns(v *session.Snapshot) []string {
	var lines []string
	for i := range v.Roles {
		if v.Roles[i].Unserved {
			lines = append(lines, unservedLine(&v.Roles[i]))
		}
	}
	told := 0
	for i := range v.Workers {
		w := &v.Workers[i]
		if w.Why == "" {
			continue
		}
		if told++; told <= mostTold {
			lines = append(lines, workerName(w)+": "+oneLine(w.Why))
		}
	}
	if told > mostTold {
		lines = append(lines, fmt.Sprintf("%s more say why they do not work", human.Plural(int64(told-mostTold), "worker")))
	}
	return lines
}

// roll is what a plain display told of workers and roles last.
type roll struct {
	workers  map[string]string // ID to what is to be said of it
	unserved map[string]bool   // by role
}

// print says which workers do not work, and why, and which roles nobody serves any
// more, or somebody again. Who joins and goes is told by the session.
func (x *roll) print(w io.Writer, at string, v *session.Snapshot) {
	if v.Workers == nil {
		return
	}
	workers := map[string]string{}
	var lines []string
	for i := range v.Workers {
		y := &v.Workers[i]
		says := ""
		if y.State != "working" {
			says = " is " + oneLine(y.State)
		}
		if y.Why != "" {
			says += ": " + oneLine(y.Why)
		}
		told, known := x.workers[y.ID]
		if workers[y.ID] = says; says != "" && says != told && (known || y.State != "working") {
			lines = append(lines, workerName(y)+says)
		}
	}
	if n := len(lines); n > mostTold {
		lines = []string{workersLine(v)}
	}
	unserved := map[string]bool{}
	for i := range v.Roles {
		r := &v.Roles[i]
		switch {
		case r.Unserved && !x.unserved[r.Name]:
			lines = append(lines, unservedLine(r))
		case !r.Unserved && x.unserved[r.Name]:
			lines = append(lines, r.Name+" is served again")
		}
		if r.Unserved {
			unserved[r.Name] = true
		}
	}
	x.workers, x.unserved = workers, unserved
	for _, l := range lines {
		fmt.Fprintf(w, "%s  %s\n", at, l)
	}
}
