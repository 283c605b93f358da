package run

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"matrix"
)

// maxToldCause is how many bytes of the cause of a child its parent is told.
const maxToldCause = 1 << 10

// brood is what is known of a task that waits for its children: as much as says when
// all of them have ended. It is read from the task's log once, and then goes along
// with what is appended to it.
type brood struct {
	id    string
	then  string // who acts then
	rank  int    // of the task
	total int
	told  int // children that it has been told of
	bytes int // of what they ended with
}

// merging are the broods of a shard whose parents wait: no more than there are such
// parents of which a child has ended in this session.
type merging map[string]*brood

// news is what a batch of settled tasks has to tell their parents.
type news struct {
	after map[string]brood // by the key of the parent: as it is once it has been told
	ready int              // parents that go on
}

// tell appends to the logs of parents how their children have ended, of those that are
// settled together, and makes ready those that wait for no more.
func (r *Run) tell(ctx context.Context, s *shard, tasks []*matrix.Task, to *matrix.Settlement) (news, error) {
	n := news{after: map[string]brood{}}
	ended := map[string][]matrix.Child{}
	for _, t := range tasks {
		if !t.Waited {
			continue
		}
		key := parentOf(t)
		b, ok := n.after[key]
		if !ok {
			known, err := r.brood(ctx, s, key)
			if err != nil {
				return n, err
			}
			if known == nil {
				return n, fmt.Errorf("task %s has ended, and %s, which waits for it, is not live: %w", t.ID, t.Parent, ErrDamaged)
			}
			b = *known
		}
		c := childEnded(t)
		b.told++
		if b.bytes += told(&c); b.bytes > matrix.MaxChildrenValue { // it will fail
			c = matrix.Child{Index: c.Index, Status: c.Status, Omitted: told(&c)}
		}
		ended[key] = append(ended[key], c)
		n.after[key] = b
	}
	for key, b := range n.after {
		if to.Appends == nil {
			to.Appends = map[string]matrix.Step{}
		}
		var step matrix.Step
		var o *matrix.Outcome
		if b.told == b.total {
			n.ready++
			step.Role, step.Priority = b.then, b.rank
			if b.bytes > matrix.MaxChildrenValue {
				step.Role = sinkRole
				o = &matrix.Outcome{Status: matrix.Failed, Fault: matrix.FaultLimit, Cause: fmt.Sprintf(
					"expand: the values that its %d children ended with have %d bytes together, and %d (8 MiB) is the most: finish them with less", b.total, b.bytes, matrix.MaxChildrenValue)}
			}
		}
		step.Record = encodeTold(ended[key], o)
		to.Appends[key] = step
	}
	return n, nil
}

// heard notes that parents have been told.
func (r *Run) heard(s *shard, n news) {
	for key, b := range n.after {
		if b.told == b.total {
			delete(s.merging, key)
		} else {
			*s.merging[key] = b
		}
	}
	r.parked.Add(int64(-n.ready))
}

// brood is that of a task that waits for its children; nil where it does not.
func (r *Run) brood(ctx context.Context, s *shard, key string) (*brood, error) {
	if b := s.merging[key]; b != nil {
		return b, nil
	}
	m, ok, err := s.Store.Peek(ctx, key)
	if err != nil || !ok {
		return nil, err
	}
	log, err := m.Log(ctx, 0)
	if err != nil {
		return nil, err
	}
	t, err := Decode(key, log)
	if err != nil {
		return nil, err
	}
	if t.Expansion == nil {
		return nil, nil
	}
	b := &brood{id: t.ID, then: t.Expansion.Then, total: len(t.Expansion.Items), told: len(t.Children)}
	for i := range t.Children {
		b.bytes += told(&t.Children[i])
	}
	t.Hop++ // of the step that follows
	b.rank = t.Rank()
	if s.merging == nil {
		s.merging = merging{}
	}
	s.merging[key] = b
	return b, nil
}

// parentOf is the key of the task that t is a child of.
func parentOf(t *matrix.Task) string {
	up := t.Path[:len(t.Path)-1]
	if len(up) == 0 {
		return matrix.TaskID(t.Row, t.Trial)
	}
	return ChildID(t.Row, t.Trial, up...)
}

// childEnded is what a parent is told of t.
func childEnded(t *matrix.Task) matrix.Child {
	c := matrix.Child{ID: t.ID, Index: t.Index(), Status: t.Outcome.Status, Value: t.Outcome.Value, Cause: t.Outcome.Cause}
	if len(c.Cause) > maxToldCause {
		c.Cause = strings.ToValidUTF8(c.Cause[:maxToldCause], "") + " ..."
	}
	return c
}

// told is how many bytes a child ended with.
func told(c *matrix.Child) int { return len(c.Value.Raw()) + len(c.Cause) + c.Omitted }

// errWaiting says that tasks wait for children that are not there.
var errWaiting = errors.New("tasks wait for their children, and none of these is left")

// checkWaiting refuses to go on where nothing is under way but tasks that wait for
// children: none of them would ever go on.
func (r *Run) checkWaiting() error {
	parked := r.parked.Load()
	if n := int64(r.live()); parked == 0 || n > parked {
		return nil
	}
	return fmt.Errorf("%d %w: %w", parked, errWaiting, ErrDamaged)
}
