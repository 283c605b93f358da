package run

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"iter"
	"strconv"
	"strings"

	"matrix"
)

// childPrefix begins the key of each child and the name of no row: it is no UTF-8, as
// what stands in an output must be.
const childPrefix = "\xff"

// ChildID is the key under which a ledger has a task that began with a step of
// another: of the row and the trial that it comes from, by the way from there, each
// step of which says the how-manieth child it was, from 0. No row's TaskID is equal to
// it, whatever the ids of rows are, and no other child's.
func ChildID(row string, trial int, path ...int) string {
	b := binary.AppendUvarint([]byte(childPrefix), uint64(len(row)))
	b = binary.AppendUvarint(append(b, row...), uint64(trial))
	for _, n := range path {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return string(b)
}

// isChild reports whether a key is a child's.
func isChild(key string) bool { return strings.HasPrefix(key, childPrefix) }

// lineage is what the key of a child says.
type lineage struct {
	row   string
	trial int
	path  []int
}

// childOf reads the key of a child; ok is false of what is none.
func childOf(key string) (c lineage, ok bool) {
	rest, ok := strings.CutPrefix(key, childPrefix)
	if !ok {
		return c, false
	}
	b := []byte(rest)
	number := func() int {
		n, used := binary.Uvarint(b)
		if ok = ok && used > 0 && n <= 1<<40; !ok {
			return 0
		}
		b = b[used:]
		return int(n)
	}
	n := number()
	if ok = ok && n <= len(b); !ok {
		return c, false
	}
	c.row, b = string(b[:n]), b[n:]
	c.trial = number()
	for ok && len(b) > 0 {
		c.path = append(c.path, number())
	}
	return c, ok && len(c.path) > 0
}

// parent is the key of the task that a child's is of.
func (c lineage) parent() string {
	if up := c.path[:len(c.path)-1]; len(up) > 0 {
		return ChildID(c.row, c.trial, up...)
	}
	return matrix.TaskID(c.row, c.trial)
}

// root is the key of the task that a row began.
func (c lineage) root() string { return matrix.TaskID(c.row, c.trial) }

// id is that of the child, as people see it: PARENT/3.
func (c lineage) id() string {
	b := []byte(c.root())
	for _, n := range c.path {
		b = strconv.AppendInt(append(b, '/'), int64(n), 10)
	}
	return string(b)
}

// NameOf is the id of the task that a ledger has under a key, as people see it.
func NameOf(key string) string {
	if c, ok := childOf(key); ok {
		return c.id()
	}
	return key
}

// KeyOf is the key under which a ledger has t.
func KeyOf(t *matrix.Task) string {
	if len(t.Path) == 0 {
		return t.ID
	}
	return ChildID(t.Row, t.Trial, t.Path...)
}

// KeysOf are the keys under which a ledger may have the task that people call by an
// id: that of a row's task, and those of children, since a row may have a name that
// looks like a child's.
func KeysOf(id string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(id) {
			return
		}
		rest, path := id, []int(nil)
		for {
			i := strings.LastIndexByte(rest, '/')
			if i < 0 {
				return
			}
			n, ok := digits(rest[i+1:])
			if !ok {
				return
			}
			rest, path = rest[:i], append([]int{n}, path...)
			for of := range lineages(rest) {
				if !yield(ChildID(of.row, of.trial, path...)) {
					return
				}
			}
		}
	}
}

// lineages are what the task of a key may be: which trial of which row's a row's task
// is, its key does not say for sure.
func lineages(key string) iter.Seq[lineage] {
	return func(yield func(lineage) bool) {
		if c, ok := childOf(key); ok {
			yield(c)
			return
		}
		if !yield(lineage{row: key}) {
			return
		}
		if k := strings.LastIndexByte(key, '#'); k >= 0 {
			if trial, ok := digits(key[k+1:]); ok && trial > 0 {
				yield(lineage{row: key[:k], trial: trial})
			}
		}
	}
}

// digits reads a number as ids have it.
func digits(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

// written is what a line of an output says of its task's place among others.
type written struct {
	ID       string `json:"id"`
	Row      string `json:"row"`
	Trial    int    `json:"trial"`
	Expanded int    `json:"expanded"`
}

// key is that of the task; empty of a line that names none.
func (w *written) key() string {
	if path := matrix.PathOf(w.ID, w.Row, w.Trial); len(path) > 0 {
		return ChildID(w.Row, w.Trial, path...)
	}
	return w.ID
}

// lineKey is the key of the task in a line of an output; empty where there is none.
func lineKey(line []byte) string {
	var w written
	_ = json.Unmarshal(line, &w)
	return w.key()
}

// place notes what the key of a task says of it.
func place(t *matrix.Task, key string) {
	t.ID = key
	if c, ok := childOf(key); ok {
		t.ID, t.Path = c.id(), c.path
		t.Parent = NameOf(c.parent())
	}
}

// liveTasks counts the live tasks of a store, those of rows and children. Where there
// cannot be any, children are not looked for.
func liveTasks(ctx context.Context, l matrix.Ledger, mayBe bool) (rows, children int64, err error) {
	if !mayBe {
		return int64(l.Counts().Live), 0, nil
	}
	err = l.Live(ctx, func(key string) error {
		if isChild(key) {
			children++
		} else {
			rows++
		}
		return nil
	})
	return rows, children, err
}
