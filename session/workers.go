package session

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"matrix/lang"
	"matrix/run"
	"matrix/spec"
)

// WorkerState is what a process that acts for a run says of itself.
type WorkerState struct {
	ID      string                      `json:"id"`
	Host    string                      `json:"host"`
	PID     int                         `json:"pid"`
	Version string                      `json:"version"`
	Labels  map[string]string           `json:"labels,omitempty"`
	State   string                      `json:"state"`            // joining, working, draining, leaving, or silent: not heard of for some seconds
	Why     string                      `json:"why,omitempty"`    // it is not working, or does not serve a role
	Roles   []string                    `json:"roles"`            // that it serves, sorted
	Runs    []string                    `json:"runs,omitempty"`   // of a standing head, that it acts for
	Slots   int                         `json:"slots"`            // steps at once; 0 for no limit
	Steps   map[string]run.RoleProgress `json:"steps,omitempty"`  // by role
	Silent  float64                     `json:"silent,omitempty"` // seconds since then, of one that is silent
	Heard   time.Time                   `json:"heard"`            // when it said so, by the clock of the head
}

// Labels are those of this machine, for which `where` of a role asks: given, each
// as key=value, over host, os and arch. What is wrong with one that is given is a
// spec.UsageError.
func Labels(given []string) (map[string]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this machine: %w", err)
	}
	labels := map[string]string{"host": host, "os": runtime.GOOS, "arch": runtime.GOARCH}
	var names []string
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, spec.Usagef("label %q: want key=value, such as gpu=h100", text)
		}
		if err := lang.CheckLabel(name); err != nil {
			return nil, spec.Usagef("label %q: %w", text, err)
		}
		if slices.Contains(names, name) {
			return nil, spec.Usagef("label %q: %s is given twice", text, name)
		}
		names = append(names, name)
		labels[name] = value
	}
	return labels, nil
}
