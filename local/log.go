package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"matrix"
)

// Log is where what a queue commits is durable, in place of the log on this disk: a
// replicated one, so that a shard outlives the machine of the process that owns it.
// It is a list of groups that has one writer at a time. A queue calls Replay first
// and once; then Append and Next from one goroutine at a time, and Trim and what
// Append returned from another. Whoever opened a log closes it: after the queue, or
// before it to give up, and then no wait goes on.
type Log interface {
	// Replay calls apply for each group that stands in the log, oldest first, and
	// makes this process the writer: nothing that another one appends after the last
	// of them is added any more. A nil group says that the log was trimmed while it
	// was read: what came before it is to be forgotten. apply may change the group
	// and does not keep it. An error of apply ends the Replay, which returns it.
	Replay(apply func(group []byte) error) error

	// Append adds a group of 1 to MaxGroup bytes, which stays as it is until wait
	// has returned, and does not wait for that. Groups become durable in the order
	// in which they were appended: a nil of wait, which need not be called, says
	// that this one is, with all before it. An error says that this process will
	// add no more: ErrFenced where another one is the writer. This group, and those
	// before it whose wait has not returned nil, may stand in the log then, none
	// without those before it.
	Append(group []byte) (wait func() error)

	// Next is the position of the group that is appended next. A later group has a
	// larger one.
	Next() uint64

	// Trim says that the groups before a position are not needed any more: all of
	// them may go, or the oldest of them, or none. It does not wait.
	Trim(before uint64)

	// MaxGroup is how many bytes a group has at most, 1 KiB or more.
	MaxGroup() int
}

// ErrFenced is what a writer of a Log meets when another process has become the
// writer. Its queue has failed then: what it had not been told is durable may be so
// or not, and the other one knows.
var ErrFenced = errors.New("another process has become the writer of the log")

// ErrNoLog says that a Log which a queue was committed to is empty: whoever kept it has
// lost it.
var ErrNoLog = errors.New("the log is empty")

// journal is the queue's side of a Log. A group is a batch of the store, and is
// appended as one frame, or as several where it does not fit one.
//
// A log that has grown long is swept: with each group that is appended then goes
// one that carries some of what the store holds, key after key. When all keys were
// carried, what stood in the log before the sweep says nothing any more. Nobody
// waits for a sweep, and one that was cut short was only for nothing. While a sweep
// is under way at least twice as much is carried as is appended, so that it ends
// however fast tasks come, and the log has at most about 3.5 times what the store
// holds, and the slack.
type journal struct {
	q   *Queue
	log Log

	// Guarded by the committer's applying.
	number uint64 // of the last group
	base   uint64 // the log is complete from this group on
	live   int    // bytes that the last whole sweep carried
	grown  int    // bytes appended since it began
	sweep  sweep

	mu     sync.Mutex
	flying []flight // appended and not yet in the store, oldest first
}

// sweep is one that is under way.
type sweep struct {
	at     []byte // the next key to carry; nil where there is no sweep
	end    []byte // records of tasks that came since it began stand in the log anyway
	number uint64 // of the first group that is to be kept
	before uint64 // its position
	bytes  int    // carried so far
}

// flight is a group on its way.
type flight struct {
	batch    *pebble.Batch
	number   uint64
	position uint64
}

const (
	logSlack   = 64 << 20
	leastCarry = 64 << 10 // bytes that a sweep carries with a group
)

func newJournal(q *Queue) *journal { return &journal{q: q, log: q.opts.Log, base: 1} }

// append appends a batch. wait returns once it is durable and in the store, which
// therefore never tells of what a crash could take back.
func (j *journal) append(b *pebble.Batch) (wait func() error, err error) {
	position := j.log.Next()
	durable := j.put(b.Repr())
	j.mu.Lock()
	j.flying = append(j.flying, flight{b, j.number, position})
	j.mu.Unlock()
	var trim uint64
	if j.sweep.at == nil && j.grown > 2*j.live+j.slack() {
		err = j.begin()
	}
	if j.sweep.at != nil && err == nil {
		durable, trim, err = j.carry(2 * b.Len())
	}
	return func() error {
		if err := durable(); err != nil {
			return err
		}
		if err := j.apply(b); err != nil {
			return err
		}
		if trim > 0 {
			j.log.Trim(trim)
		}
		return nil
	}, err
}

func (j *journal) slack() int {
	if n := j.q.opts.LogSlack; n > 0 {
		return n
	}
	return logSlack
}

// apply puts the oldest group under way into the store.
func (j *journal) apply(b *pebble.Batch) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flying = j.flying[1:]
	return j.q.db.Apply(b, pebble.NoSync)
}

// begin begins a sweep. What is under way is not in the store yet, and is kept.
func (j *journal) begin() error {
	j.mu.Lock()
	oldest := j.flying[0] // before the store is read: what lands meanwhile is kept and carried
	j.mu.Unlock()
	next, err := j.q.number("s")
	if err != nil {
		return err
	}
	j.sweep = sweep{at: []byte{0}, end: recordKey(nil, next, 0), number: oldest.number, before: oldest.position}
	j.grown = 0
	return nil
}

// carry appends a group of what the store holds, at least so many bytes or what is
// left. Of the last group of a sweep, trim is where the log may begin.
func (j *journal) carry(most int) (wait func() error, trim uint64, err error) {
	s := &j.sweep
	flying, err := j.keysFlying() // before the store is read: what lands meanwhile is left out as well
	if err != nil {
		return nil, 0, err
	}
	it, err := j.q.db.NewIter(&pebble.IterOptions{LowerBound: s.at, UpperBound: s.end})
	if err != nil {
		return nil, 0, err
	}
	defer it.Close()
	b := j.q.db.NewBatch()
	ok := it.First()
	for ; ok && b.Len() < max(most, leastCarry); ok = it.Next() {
		if flying[string(it.Key())] { // a later group has it
			continue
		}
		v, err := j.q.value(it)
		if err != nil {
			return nil, 0, j.q.damaged(err)
		}
		if err := b.Set(it.Key(), v, nil); err != nil {
			return nil, 0, err
		}
	}
	if err := it.Error(); err != nil {
		return nil, 0, j.q.damaged(err)
	}
	s.bytes += b.Len()
	if ok {
		s.at = append([]byte(nil), it.Key()...)
	} else {
		trim = s.before
		j.base, j.live, j.sweep = s.number, s.bytes, sweep{}
	}
	return j.put(b.Repr()), trim, nil
}

// keysFlying are the keys that groups under way set or delete.
func (j *journal) keysFlying() (map[string]bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	keys := map[string]bool{}
	for _, f := range j.flying {
		for r := f.batch.Reader(); ; {
			_, key, _, ok, err := r.Next()
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			keys[string(key)] = true
		}
	}
	return keys, nil
}

// Version of the frames. An older binary refuses a newer one.
const frameVersion = 1

// frame is what is appended at once: CRC-32C of what follows, little endian; then
// as varints the version, the fields in this order, and 2*piece, 1 more for the
// last; then the content.
type frame struct {
	number  uint64 // of the group, from 1
	base    uint64 // the log is complete from this group on
	live    uint64 // bytes that the last whole sweep carried
	piece   uint64 // of the group, from 0
	last    bool
	content []byte
}

const maxHead = 4 + 5*binary.MaxVarintLen64

// put appends a group as frames.
func (j *journal) put(group []byte) (wait func() error) {
	j.number++
	for f := (frame{number: j.number, base: j.base, live: uint64(j.live)}); ; f.piece++ {
		n := min(len(group), j.log.MaxGroup()-maxHead)
		f.content, group = group[:n], group[n:]
		f.last = len(group) == 0
		b := f.encode()
		j.grown += len(b)
		wait = j.log.Append(b)
		if f.last {
			return wait
		}
	}
}

func (f *frame) encode() []byte {
	b := make([]byte, 4, maxHead+len(f.content))
	last := uint64(0)
	if f.last {
		last = 1
	}
	for _, x := range [...]uint64{frameVersion, f.number, f.base, f.live, 2*f.piece + last} {
		b = binary.AppendUvarint(b, x)
	}
	b = append(b, f.content...)
	binary.LittleEndian.PutUint32(b, matrix.Sum(b[4:]))
	return b
}

func decodeFrame(b []byte) (f frame, err error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != matrix.Sum(b[4:]) {
		return f, &DamagedError{Err: errors.New("the log has a group that does not fit its checksum")}
	}
	b = b[4:]
	var ints [5]uint64
	for i := range ints {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return f, &DamagedError{Err: errors.New("the log has a group that is cut short")}
		}
		if i == 0 && x > frameVersion {
			return f, fmt.Errorf("the log has format %d and this Matrix reads up to %d: use a newer Matrix", x, frameVersion)
		}
		ints[i], b = x, b[n:]
	}
	return frame{number: ints[1], base: ints[2], live: ints[3], piece: ints[4] / 2, last: ints[4]%2 == 1, content: b}, nil
}

// replay makes the store from the log, whose writer this process is from then on.
func (j *journal) replay() error {
	var first uint64 // group that was read
	var group []byte // as far as its pieces were read
	var piece uint64 // that is to follow
	err := j.log.Replay(func(b []byte) error {
		if b == nil {
			first, j.number, j.base, j.live, j.grown = 0, 0, 1, 0, 0
			return j.q.db.DeleteRange([]byte{0}, []byte{0xff}, pebble.NoSync)
		}
		f, err := decodeFrame(b)
		if err != nil {
			return err
		}
		j.grown += len(b)
		if first == 0 {
			if f.piece > 0 {
				return nil // the rest of a group whose beginning is trimmed
			}
			first, j.number = f.number, f.number-1
		}
		switch {
		case f.number != j.number+1 || f.piece > 0 && f.piece != piece:
			return &DamagedError{Err: fmt.Errorf("the log has piece %d of group %d after group %d: what stood between them is gone", f.piece, f.number, j.number)}
		case f.piece == 0: // of one before it that was not ended nothing is left
			group = nil
		}
		group, piece = append(group, f.content...), f.piece+1
		if !f.last {
			return nil
		}
		j.number, j.base, j.live, piece = f.number, f.base, int(f.live), 0
		batch := j.q.db.NewBatch()
		if err := batch.SetRepr(group); err != nil {
			return &DamagedError{Err: fmt.Errorf("group %d of the log: %w", f.number, err)}
		}
		group = nil // the store may keep it
		return errors.Join(j.q.db.Apply(batch, pebble.NoSync), batch.Close())
	})
	switch {
	case err != nil:
		return err
	case first > j.base:
		return &DamagedError{Err: fmt.Errorf("the log begins with group %d, and what stood before it from group %d on is gone", first, j.base)}
	case first == 0 && j.q.opts.Existing:
		return &DamagedError{Err: ErrNoLog}
	}
	return j.fill(first == 0)
}
