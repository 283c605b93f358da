package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"matrix"
)

// entry is all that a live task costs in memory while it waits.
type entry struct {
	seq     uint64
	row     int64
	id      string               // "" after a restart, until the log is read
	role    *role                // that it waits for, or was taken for
	queue   atomic.Pointer[role] // the role in whose queue it is: changed under that role's lock
	next    *entry               // in its level
	prev    *entry
	since   int64         // when it joined the level, in ns of the queue's clock; when its delay ends
	queued  int64         // ns waited for a consumer at this hop, before since
	delayed int64         // ns waited for retries at this hop
	newest  atomic.Uint64 // record of its log that is durable: hop and checksum
	attempt uint16
	prio    int16
	over    bool   // its fate is written; changed as batches are
	written uint32 // hop of the newest record that is written; changed as batches are
}

// at is where the log ends.
func (e *entry) at() (hop, sum uint32) {
	x := e.newest.Load()
	return uint32(x >> 32), uint32(x)
}

// isAt reports whether it ends at that hop.
func (e *entry) isAt(hop int) bool {
	at, _ := e.at()
	return hop == anyHop || int(at) == hop
}

func (e *entry) setAt(hop, sum uint32) { e.newest.Store(uint64(hop)<<32 | uint64(sum)) }

// level is the tasks of one priority, in order of arrival.
type level struct {
	prio       int16
	head, tail *entry
}

// levels is a small list of levels, highest priority first.
type levels []level

// push puts e at the end of its level, or before all others.
func (l *levels) push(e *entry, first bool) {
	s := *l
	i := 0
	for i < len(s) && s[i].prio > e.prio {
		i++
	}
	if i == len(s) || s[i].prio != e.prio {
		s = append(s, level{})
		copy(s[i+1:], s[i:])
		s[i] = level{prio: e.prio}
		*l = s
	}
	switch x := &s[i]; {
	case x.head == nil:
		x.head, x.tail = e, e
	case first:
		e.next, x.head.prev, x.head = x.head, e, e
	default:
		e.prev, x.tail.next, x.tail = x.tail, e, e
	}
}

// first is whose turn it is; nil where nobody waits.
func (l levels) first() *entry {
	for i := range l {
		if l[i].head != nil {
			return l[i].head
		}
	}
	return nil
}

// remove takes e out of its level.
func (l levels) remove(e *entry) {
	i := 0
	for l[i].prio != e.prio {
		i++
	}
	if e.prev == nil {
		l[i].head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l[i].tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.next, e.prev = nil, nil
}

var started = time.Now()

// now is a monotonic clock in ns.
func now() int64 { return int64(time.Since(started)) }

// message fills in what a handler sees.
func (q *Queue) message(m *matrix.Message, e *entry) error {
	if e.id == "" {
		if err := q.identify(e); err != nil {
			return err
		}
	}
	hop, sum := e.at()
	*m = matrix.Message{
		Task:     e.id,
		Role:     e.role.name,
		Priority: int(e.prio),
		Hop:      int(hop),
		Attempt:  int(e.attempt),
		Queued:   time.Duration(e.queued),
		Delayed:  time.Duration(e.delayed),
		Sum:      sum,
	}
	m.Log = func(_ context.Context, from int) ([][]byte, error) {
		log, err := q.log(e.seq, uint32(from), hop)
		return log, q.ofTask(m.Task, err)
	}
	return nil
}

// A stored record is: priority, role (none in one that was appended: the task stays
// where it is), then (in the first record of a log) row
// and id, then the record itself.

func recordSize(roleName string, parts ...[]byte) int {
	n := 2 + 1 + len(roleName)
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// putRecord fills b with a record that is given in parts.
func putRecord(b []byte, prio int16, roleName string, parts ...[]byte) {
	binary.BigEndian.PutUint16(b, uint16(prio))
	b[2] = byte(len(roleName))
	n := 3 + copy(b[3:], roleName)
	for _, p := range parts {
		n += copy(b[n:], p)
	}
}

// appendSeed begins the first record of a log.
func appendSeed(b []byte, row int64, id string) []byte {
	b = binary.AppendUvarint(b, uint64(row))
	b = binary.AppendUvarint(b, uint64(len(id)))
	return append(b, id...)
}

func splitRecord(b []byte) (prio int16, roleName, record []byte, err error) {
	if len(b) < 3 || len(b) < 3+int(b[2]) {
		return 0, nil, nil, &DamagedError{Err: fmt.Errorf("a record of %d bytes is too short", len(b))}
	}
	n := 3 + int(b[2])
	return int16(binary.BigEndian.Uint16(b)), b[3:n:n], b[n:], nil
}

// splitNewest splits the record of a hop.
func splitNewest(b []byte, hop uint32) (prio int16, roleName, record []byte, err error) {
	prio, roleName, record, err = splitRecord(b)
	if err == nil && hop == 0 {
		_, _, record, err = splitSeed(record)
	}
	return prio, roleName, record, err
}

func splitSeed(b []byte) (row int64, id string, record []byte, err error) {
	r, n := binary.Uvarint(b)
	if n > 0 {
		b = b[n:]
		l, n := binary.Uvarint(b)
		if n > 0 && uint64(len(b)-n) >= l {
			b = b[n:]
			return int64(r), string(b[:l]), b[l:], nil
		}
	}
	return 0, "", nil, &DamagedError{Err: errors.New("a first record is cut short")}
}
