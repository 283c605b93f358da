package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"matrix"
)

// entry is all that a live task costs in memory while it waits.
type entry struct {
	seq     uint64
	row     int64
	id      string // "" after a restart, until the log is read
	role    *role  // where it waits
	next    *entry // in its level
	since   int64  // when it joined the level, in ns of the queue's clock
	queued  int64  // ns waited for a consumer at this hop, before since
	delayed int64  // ns waited for retries at this hop
	hop     uint32
	sum     uint32 // of the newest record
	attempt uint16
	prio    int16
}

// level is the tasks of one priority, in order of arrival.
type level struct {
	prio       int16
	head, tail *entry
}

// levels is a small list of levels, highest priority first.
type levels []level

func (l *levels) push(e *entry) {
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
	e.next = nil
	if s[i].head == nil {
		s[i].head = e
	} else {
		s[i].tail.next = e
	}
	s[i].tail = e
}

func (l levels) pop() *entry {
	for i := range l {
		if e := l[i].head; e != nil {
			l[i].head, e.next = e.next, nil
			return e
		}
	}
	return nil
}

// remove takes the task of a seq out of its line, where it waits at a hop.
func (l levels) remove(seq uint64, hop uint32) *entry {
	for i := range l {
		var before *entry
		for e := l[i].head; e != nil; before, e = e, e.next {
			if e.seq != seq || e.hop != hop {
				continue
			}
			if before == nil {
				l[i].head = e.next
			} else {
				before.next = e.next
			}
			if l[i].tail == e {
				l[i].tail = before
			}
			e.next = nil
			return e
		}
	}
	return nil
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
	*m = matrix.Message{
		Task:     e.id,
		Role:     e.role.name,
		Priority: int(e.prio),
		Hop:      int(e.hop),
		Attempt:  int(e.attempt),
		Queued:   time.Duration(e.queued),
		Delayed:  time.Duration(e.delayed),
		Sum:      e.sum,
	}
	m.Log = func(_ context.Context, from int) ([][]byte, error) {
		log, err := q.log(e.seq, uint32(from), uint32(m.Hop))
		return log, q.ofTask(m.Task, err)
	}
	return nil
}

// A stored record is: priority, role, then (in the first record of a log) row
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
