package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
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

// Children gives the child of t that is made of the element i. Its seed and its times
// are not set.
func (x *Expansion) Children(t *Task) (child func(i int) *Task, err error) {
	base, err := childItem(t.Item, x)
	if err != nil {
		return nil, err
	}
	return func(i int) *Task {
		c := &Task{
			ID: t.ChildID(x.First + i), Row: t.Row, Trial: t.Trial, Parent: t.ID, Path: append(slices.Clone(t.Path), x.First+i), Siblings: len(x.Items), Waited: x.Then != "",
			Priority: t.Priority, Item: RawValue(append(append(slices.Clone(base), x.Items[i].Raw()...), '}')),
		}
		for _, turn := range t.Turns {
			if slices.Contains(x.Carry, turn.Role) {
				turn.Calls, turn.Hop, turn.Timing = nil, 0, Timing{} // what it cost is the parent's
				c.Turns = append(c.Turns, turn)
			}
		}
		return c
	}, nil
}

// childItem is the item of children up to the element of each: that of their parent,
// less what it is to leave out, and the name of the element.
func childItem(item Value, x *Expansion) ([]byte, error) {
	b := []byte{'{'}
	raw := bytes.TrimSpace(item.Raw())
	if len(raw) > 0 && raw[0] == '{' {
		d := json.NewDecoder(bytes.NewReader(raw))
		_, err := d.Token()
		for err == nil && d.More() {
			var key json.Token
			var value json.RawMessage
			if key, err = d.Token(); err == nil {
				err = d.Decode(&value)
			}
			name, _ := key.(string)
			if err == nil && name != x.As && !slices.Contains(x.Omit, name) {
				b = append(jsontext.AppendString(b, name), ':')
				b = append(append(b, value...), ',')
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return append(jsontext.AppendString(b, x.As), ':'), nil
}

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
