package matrix

import (
	"fmt"
	"strconv"
	"strings"
)

// Expansion makes children of a task: tasks of their own, each of which begins with one
// of a list's elements. See Decision.
type Expansion struct {
	Items []Value  // an element for each child, in order
	As    string   // the field of the child's item that is its element; the others are those of the task's item
	Omit  []string // fields of the task's item that children do not have
	Carry []string // roles whose turns a child begins with, in the order in which they were taken
	Role  string   // who acts first in a child
	Then  string   // who acts in the task once all of its children have ended; empty: it ends as expanded when all have begun

	First int // the index of the first child: the task's Expanded before. The engine sets it
}

// Bounds of an Expansion. A task that would pass one fails.
const (
	MaxExpansion     = 8 << 20 // bytes of all elements: for more there are offsets into what the item holds
	MaxChildren      = 1 << 20 // of one expansion
	MaxDepth         = 64      // children of children, so deep
	MaxChildrenValue = 8 << 20 // bytes of what children end with, of which their parent is told
)

// Expand has the task become children.
func Expand(x Expansion) Decision { return Decision{Expand: &x} }

// Child is what a task is told of a child that has ended.
type Child struct {
	ID     string `json:"id"`
	Index  int    `json:"index"` // among the children of the task, from 0; those of a later expansion go on behind those of an earlier one
	Status Status `json:"status"`
	Value  Value  `json:"value"`
	Cause  string `json:"cause"` // why it failed or was dropped, 1 KiB at most

	Omitted int `json:"-"` // bytes of value and cause that are left out, since all have more than MaxChildrenValue
}

// TaskID is the id of the task of a row: its n-th trial, from 0.
func TaskID(row string, trial int) string {
	if trial == 0 {
		return row
	}
	return fmt.Sprintf("%s#%d", row, trial)
}

// PathOf is the way from the task of a row to the one with an id, as Task.Path; empty
// where that is the row's own.
func PathOf(id, row string, trial int) []int {
	rest, ok := strings.CutPrefix(id, TaskID(row, trial)+"/")
	if !ok {
		return nil
	}
	var path []int
	for step := range strings.SplitSeq(rest, "/") {
		n, err := strconv.Atoi(step)
		if err != nil || n < 0 || strconv.Itoa(n) != step {
			return nil
		}
		path = append(path, n)
	}
	return path
}

// Depth says how many ancestors the task has: 0 of one that a row began.
func (t *Task) Depth() int { return len(t.Path) }

// Index is the how-manieth child of its parent the task is, from 0.
func (t *Task) Index() int {
	if len(t.Path) == 0 {
		return 0
	}
	return t.Path[len(t.Path)-1]
}

// ChildID is the id of the task's n-th child, from 0.
func (t *Task) ChildID(n int) string { return t.ID + "/" + strconv.Itoa(n) }
