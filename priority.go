package matrix

import (
	"fmt"
	"slices"
)

// Priority is the class of a task: of those that wait for the same, tasks of a
// higher class go first.
type Priority int8

// The classes, lowest first. A row that says nothing is Normal.
const (
	Bulk   Priority = -1
	Normal Priority = 0
	Urgent Priority = 1
)

// Priorities lists the names of the classes, lowest first.
func Priorities() []string { return []string{"bulk", "normal", "urgent"} }

func (p Priority) String() string {
	if p.Check() != nil {
		return fmt.Sprintf("Priority(%d)", int(p))
	}
	return Priorities()[p-Bulk]
}

// Check returns an error where p is not one of the classes.
func (p Priority) Check() error {
	if p < Bulk || p > Urgent {
		return fmt.Errorf("there is no priority %d", int(p))
	}
	return nil
}

// MarshalText writes the name of the class.
func (p Priority) MarshalText() ([]byte, error) { return []byte(p.String()), p.Check() }

// UnmarshalText reads the name of a class.
func (p *Priority) UnmarshalText(text []byte) error {
	i := slices.Index(Priorities(), string(text))
	if i < 0 {
		return fmt.Errorf("got %q, want bulk, normal or urgent", text)
	}
	*p = Bulk + Priority(i)
	return nil
}
