package run

import (
	"context"
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
	then  string // who acts then
	rank  int    // of the task
	total int
	told  int // children that it has been told of
	bytes int // of what they ended with
}

// merging are the broods of a shard whose parents wait: no more than there are such
// parents of which a child has ended in this session.
type merging map[string]*brood

// news is what a batch of settled tasks has for their parents.
type news struct {
	after map[string]brood          // by the key of the parent: as it is once it has been told
	ended map[string][]matrix.Child // what it is told
}

// tell notes for parents how their children have ended that are about to be written.
func (b *settling) tell(ctx context.Context) error {
	n := &b.news
	for _, t := range b.tasks {
		if !t.Waited {
			continue
		}
		if n.after == nil {
			n.after, n.ended = map[string]brood{}, map[string][]matrix.Child{}
		}
		key := parentOf(t)
		x, ok := n.after[key]
		if !ok {
			known, err := b.of.brood(ctx, key)
			if err != nil {
				return err
			}
			if known == nil {
				if f, err := fate(ctx, b.of.Store, key); err != nil {
					return err
				} else if f.Status == matrix.Dropped { // there was enough before all of its children had begun
					continue
				}
				return fmt.Errorf("task %s has ended, and %s, which waits for it, is not live: %w", t.ID, t.Parent, ErrDamaged)
			}
			x = *known
		}
		c := childEnded(t)
		x.told++
		if x.bytes += endedWith(&c); x.bytes > matrix.MaxChildrenValue { // it will fail
			c = matrix.Child{Index: c.Index, Status: c.Status, Omitted: endedWith(&c)}
		}
		n.ended[key] = append(n.ended[key], c)
		n.after[key] = x
	}
	return nil
}

// append appends the news to the logs of parents, and makes ready those that wait for
// no more.
func (b *settling) append() {
	if len(b.news.after) > 0 {
		b.Appends = map[string]matrix.Step{}
	}
	for key, x := range b.news.after {
		var step matrix.Step
		var o *matrix.Outcome
		if x.told == x.total {
			step.Role, step.Priority = x.then, x.rank
			if x.bytes > matrix.MaxChildrenValue {
				step.Role = sinkRole
				o = &matrix.Outcome{Status: matrix.Failed, Fault: matrix.FaultLimit, Cause: fmt.Sprintf(
					"expand: the values that its %d children ended with have %d bytes together, and %d (8 MiB) is the most: finish them with less", x.total, x.bytes, matrix.MaxChildrenValue)}
			}
		}
		step.Record = encodeTold(b.news.ended[key], o)
		b.Appends[key] = step
	}
}

// heard notes that parents have been told.
func (r *Run) heard(s *shard, n *news) {
	for key, b := range n.after {
		if b.told == b.total {
			delete(s.merging, key)
			r.parked.Add(-1)
		} else {
			*s.merging[key] = b
		}
	}
}

// brood is that of a task that waits for its children; nil where it does not.
func (s *shard) brood(ctx context.Context, key string) (*brood, error) {
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
	b := &brood{then: t.Expansion.Then, total: len(t.Expansion.Items), told: len(t.Children)}
	for i := range t.Children {
		b.bytes += endedWith(&t.Children[i])
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

// endedWith is how many bytes a child ended with.
func endedWith(c *matrix.Child) int { return len(c.Value.Raw()) + len(c.Cause) + c.Omitted }

// checkWaiting refuses to go on where nothing is under way but tasks that wait for
// children: none of them would ever go on.
func (r *Run) checkWaiting() error {
	n := r.parked.Load()
	if n == 0 || int64(r.live()) != n {
		return nil
	}
	if c := r.ledger().Counts(); int64(c.Live) == n && int64(c.Waiting[waitRole]) == n { // else something has moved meanwhile
		return fmt.Errorf("%d tasks wait for their children, and none of these is left: %w", n, ErrDamaged)
	}
	return nil
}
