package local

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"matrix"
)

// Seed implements matrix.Queue.
func (q *Queue) Seed(_ context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	if err := q.enter(); err != nil {
		return 0, err
	}
	defer q.active.Done()
	q.seedMu.Lock()
	defer q.seedMu.Unlock()
	fresh, from, err := q.fresh(seeds)
	switch {
	case err != nil:
		return 0, err
	case len(fresh) == 0 && len(checkpoints) == 0: // some may be known that are not durable yet
		return 0, q.commit.barrier(context.Background())
	}
	next := q.nextSeq
	err = q.commit.wait(context.Background(), op{
		put:  func(b *pebble.Batch) error { return q.putSeeds(b, fresh, from, next, checkpoints) },
		then: func() { q.admit(fresh) },
	})
	if err != nil {
		return 0, err
	}
	return len(fresh), nil
}

// fresh makes tasks of those seeds that are not known, and says of which. q.seedMu is
// held, until they are committed or expected.
func (q *Queue) fresh(seeds []matrix.Seed) (es []*entry, from []*matrix.Seed, err error) {
	es = make([]*entry, 0, len(seeds))
	from = make([]*matrix.Seed, 0, len(seeds))
	inBatch := make(map[string]bool, len(seeds))
	for i := range seeds {
		s := &seeds[i]
		if err := s.Check(); err != nil {
			return nil, nil, err
		}
		if inBatch[s.Task] {
			continue
		}
		inBatch[s.Task] = true
		if q.coming.has(s.Task) { // asked before the store, where it then is
			continue
		}
		f, err := q.fate(s.Task)
		if err != nil {
			return nil, nil, err
		}
		if f.Status != "" {
			continue
		}
		if q.seen != nil {
			q.seen.add(s.Task)
		}
		es = append(es, q.begin(s, s.Row))
		from = append(from, s)
	}
	return es, from, nil
}

// coming is the ids of tasks that are being committed and may not be in the store yet.
type coming struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (c *coming) add(es []*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = map[string]bool{}
	}
	for _, e := range es {
		c.ids[e.id] = true
	}
}

func (c *coming) remove(es []*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range es {
		delete(c.ids, e.id)
	}
}

func (c *coming) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[id]
}

// begin makes an entry of a task with a new log. q.seedMu is held.
func (q *Queue) begin(s *matrix.Seed, row int64) *entry {
	e := &entry{seq: q.nextSeq, row: row, id: s.Task, role: q.role(s.Role), prio: int16(s.Priority)}
	e.setAt(0, sum(s.Sum, s.Record))
	q.nextSeq++
	return e
}

// Revive implements matrix.Queue.
func (q *Queue) Revive(_ context.Context, seeds []matrix.Seed, moved map[string]matrix.Place, checkpoints map[string][]byte) (int, error) {
	if err := q.enter(); err != nil {
		return 0, err
	}
	defer q.active.Done()
	q.seedMu.Lock()
	defer q.seedMu.Unlock()
	var back []*entry
	var from []*matrix.Seed // of back
	seen := make(map[string]bool, len(seeds))
	for i := range seeds {
		s := &seeds[i]
		if err := s.Check(); err != nil {
			return 0, err
		}
		_, f, _, err := q.find(s.Task)
		if err != nil {
			return 0, err
		}
		if f.Status != matrix.Failed || seen[s.Task] {
			continue
		}
		seen[s.Task] = true
		back = append(back, q.begin(s, f.Row))
		from = append(from, s)
	}
	type place struct {
		seq  uint64
		fate matrix.Fate
	}
	others := make(map[string]place, len(moved))
	for id, p := range moved {
		seq, f, _, err := q.find(id)
		if err != nil {
			return 0, err
		}
		if f.Status == matrix.Failed && !seen[id] {
			f.Part, f.Line = p.Part, p.Line
			others[id] = place{seq, f}
		}
	}
	next := q.nextSeq
	err := q.commit.wait(context.Background(), op{
		put: func(b *pebble.Batch) error {
			for id, x := range others {
				if err := putFate(b, id, x.seq, x.fate); err != nil {
					return err
				}
			}
			return q.putSeeds(b, back, from, next, checkpoints)
		},
		then: func() { q.admit(back) },
	})
	if err != nil {
		return 0, err
	}
	return len(back), nil
}

// putSeeds puts tasks that begin, the seq of the one after them, and checkpoints.
func (q *Queue) putSeeds(b *pebble.Batch, es []*entry, from []*matrix.Seed, next uint64, checkpoints map[string][]byte) error {
	var head []byte
	for i, e := range es {
		if err := putFate(b, e.id, e.seq, matrix.Fate{Status: matrix.Pending, Row: e.row, Part: -1}); err != nil {
			return err
		}
		head = appendSeed(head[:0], e.row, e.id)
		d := b.SetDeferred(recordKeyLen, recordSize(e.role.name, head, from[i].Record))
		recordKey(d.Key[:0], e.seq, 0)
		putRecord(d.Value, e.prio, e.role.name, head, from[i].Record)
		if err := d.Finish(); err != nil {
			return err
		}
	}
	if err := b.Set([]byte("s"), binary.AppendUvarint(nil, next), nil); err != nil {
		return err
	}
	return putCheckpoints(b, checkpoints)
}

// admit lets tasks wait that have begun.
func (q *Queue) admit(es []*entry) {
	q.live.add(es)
	for _, e := range es {
		e.role.push(e)
	}
}

// A fate is stored as: seq, row, status, part+1, line.
var statuses = [...]matrix.Status{matrix.Pending, matrix.Done, matrix.Failed, matrix.Dropped, matrix.Expanded}

func putFate(b *pebble.Batch, id string, seq uint64, f matrix.Fate) error {
	v := make([]byte, 0, 24)
	v = binary.AppendUvarint(v, seq)
	v = binary.AppendUvarint(v, uint64(f.Row))
	for i, s := range statuses {
		if s == f.Status {
			v = append(v, byte(i))
			v = binary.AppendUvarint(v, uint64(f.Part+1))
			v = binary.AppendUvarint(v, uint64(f.Line))
			return b.Set(idKey(make([]byte, 0, 64), id), v, nil)
		}
	}
	return fmt.Errorf("settle %s: unknown status %q", id, f.Status)
}

func parseFate(v []byte) (seq uint64, f matrix.Fate, err error) {
	var ints [4]uint64
	for i := range ints {
		if i == 2 {
			if len(v) == 0 || int(v[0]) >= len(statuses) {
				return 0, f, &DamagedError{Err: errors.New("a ledger entry is cut short")}
			}
			f.Status = statuses[v[0]]
			v = v[1:]
		}
		x, n := binary.Uvarint(v)
		if n <= 0 {
			return 0, f, &DamagedError{Err: errors.New("a ledger entry is cut short")}
		}
		ints[i], v = x, v[n:]
	}
	f.Row, f.Part, f.Line = int64(ints[1]), int(ints[2])-1, int(ints[3])
	return ints[0], f, nil
}

// read begins a call that reads the store, which is not closed before the caller has
// ended it with q.active.Done.
func (q *Queue) read() error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if isClosed(q.closed) {
		return matrix.ErrClosed
	}
	q.active.Add(1)
	return nil
}

// Lookup implements matrix.Ledger.
func (q *Queue) Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error) {
	if err := q.read(); err != nil {
		return nil, err
	}
	defer q.active.Done()
	fates := make([]matrix.Fate, len(ids))
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if fates[i], err = q.fate(id); err != nil {
			return nil, err
		}
	}
	return fates, nil
}

func (q *Queue) fate(id string) (matrix.Fate, error) {
	if q.seen != nil && q.seen.unseen(id) {
		return matrix.Fate{}, nil
	}
	_, f, _, err := q.find(id)
	return f, err
}

func (q *Queue) find(id string) (seq uint64, f matrix.Fate, ok bool, err error) {
	v, closer, err := q.get(idKey(make([]byte, 0, 64), id))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, f, false, nil
	}
	if err != nil {
		return 0, f, false, q.ofTask(id, err)
	}
	defer closer.Close()
	seq, f, err = parseFate(v)
	return seq, f, err == nil, err
}

// entry finds a live task; nil where there is none.
func (q *Queue) entry(id string) (*entry, error) {
	seq, f, _, err := q.find(id)
	if err != nil || f.Status != matrix.Pending {
		return nil, err
	}
	return q.live.get(seq), nil
}

// live is the tasks that are pending, by seq.
type live struct {
	mu     sync.Mutex
	tasks  map[uint64]*entry
	unread int // tasks of a store that is only read, which cannot be read
}

func (l *live) add(es []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tasks == nil {
		l.tasks = make(map[uint64]*entry, len(es))
	}
	for _, e := range es {
		l.tasks[e.seq] = e
	}
}

func (l *live) remove(es []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range es {
		delete(l.tasks, e.seq)
	}
}

func (l *live) get(seq uint64) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tasks[seq]
}

// seqs are those of the live tasks, in order.
func (l *live) seqs() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.tasks))
}

func (l *live) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tasks) + l.unread
}

// Peek implements matrix.Ledger.
func (q *Queue) Peek(_ context.Context, id string) (*matrix.Message, bool, error) {
	if err := q.read(); err != nil {
		return nil, false, err
	}
	defer q.active.Done()
	seq, f, ok, err := q.find(id)
	if err != nil || !ok || f.Status != matrix.Pending {
		return nil, false, err
	}
	it, err := q.records(seq, seq+1)
	if err != nil {
		return nil, false, err
	}
	defer it.Close()
	if !it.Last() {
		return nil, false, q.ofTask(id, it.Error())
	}
	n, err := q.newest(it)
	if err != nil {
		return nil, false, q.ofTask(id, err)
	}
	m := &matrix.Message{Task: id, Role: n.role, Priority: int(n.prio), Hop: int(n.hop), Sum: n.sum}
	attempt, err := q.number(string(attemptKey(nil, seq)))
	if err != nil {
		return nil, false, err
	}
	m.Attempt = int(attempt)
	m.Log = func(_ context.Context, from int) ([][]byte, error) {
		if err := q.read(); err != nil {
			return nil, err
		}
		defer q.active.Done()
		log, err := q.log(seq, uint32(from), n.hop)
		return log, q.ofTask(id, err)
	}
	return m, true, nil
}

// newest is what the end of a task's log tells.
type newest struct {
	hop, sum uint32
	prio     int16
	role     string // that the task waits for
}

// newest reads it where it stands at the last record of a log. A record that was
// appended says nothing of where the task waits: the one before it does.
func (q *Queue) newest(it *pebble.Iterator) (n newest, err error) {
	first := true
	for {
		key := it.Key()
		seq, hop := binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint32(key[9:])
		v, err := q.value(it)
		if err != nil {
			return n, err
		}
		prio, role, record, err := splitNewest(v, hop)
		if err != nil {
			return n, err
		}
		if first {
			n.hop, n.sum, first = hop, matrix.Sum(record), false
		}
		if len(role) > 0 {
			n.prio, n.role = prio, string(role)
			return n, nil
		}
		if hop == 0 || !it.Prev() || !bytes.Equal(it.Key(), recordKey(nil, seq, hop-1)) {
			return n, cmp.Or(it.Error(), error(&DamagedError{Err: fmt.Errorf("record %d of those before %d is missing", int(hop)-1, n.hop)}))
		}
	}
}

// Walk implements matrix.Ledger.
func (q *Queue) Walk(ctx context.Context, f func(id string, fate matrix.Fate) error) error {
	if err := q.read(); err != nil {
		return err
	}
	defer q.active.Done()
	it, err := q.db.NewIter(&pebble.IterOptions{LowerBound: []byte("i"), UpperBound: []byte("j")})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		_, fate, err := parseFate(it.Value())
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = f(string(it.Key()[1:]), fate)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return q.damaged(it.Close())
}

// Counts implements matrix.Ledger.
func (q *Queue) Counts() matrix.Counts {
	q.mu.RLock()
	all := slices.Collect(maps.Values(q.roles))
	q.mu.RUnlock()
	c := matrix.Counts{Live: q.live.len(), Waiting: make(map[string]int, len(all))}
	for _, r := range all {
		r.mu.Lock()
		if n := r.waiting + r.delayed; n > 0 {
			c.Waiting[r.name] = n
		}
		r.mu.Unlock()
	}
	return c
}

// Live implements matrix.Ledger.
func (q *Queue) Live(ctx context.Context, f func(id string) error) error {
	if err := q.read(); err != nil {
		return err
	}
	defer q.active.Done()
	it, err := q.records(0, ^uint64(0))
	if err != nil {
		return err
	}
	defer it.Close()
	for _, seq := range q.live.seqs() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !it.SeekGE(recordKey(nil, seq, 0)) || !bytes.Equal(it.Key(), recordKey(nil, seq, 0)) {
			if err := it.Error(); err != nil {
				return q.ofTask(q.owner(seq), err)
			}
			continue // it was settled meanwhile
		}
		v, err := q.value(it)
		if err != nil {
			return q.ofTask(q.owner(seq), err)
		}
		_, _, record, err := splitRecord(v)
		if err != nil {
			return err
		}
		_, id, _, err := splitSeed(record)
		if err == nil {
			err = f(id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Checkpoint implements matrix.Ledger.
func (q *Queue) Checkpoint(_ context.Context, name string) ([]byte, error) {
	if err := q.read(); err != nil {
		return nil, err
	}
	defer q.active.Done()
	v, closer, err := q.get(checkpointKey(nil, name))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, q.damaged(err)
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

// records iterates over the records of the tasks from seq on, before end.
func (q *Queue) records(seq, end uint64) (*pebble.Iterator, error) {
	return q.db.NewIter(&pebble.IterOptions{LowerBound: recordKey(nil, seq, 0), UpperBound: recordKey(nil, end, 0)})
}

// log reads the records of a task from one on, up to and with hop.
func (q *Queue) log(seq uint64, from, hop uint32) ([][]byte, error) {
	if from > hop {
		return nil, nil
	}
	it, err := q.db.NewIter(&pebble.IterOptions{LowerBound: recordKey(nil, seq, from), UpperBound: recordKey(nil, seq, hop+1)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	out := make([][]byte, 0, hop+1-from)
	for it.First(); it.Valid(); it.Next() {
		n := binary.BigEndian.Uint32(it.Key()[9:])
		if want := from + uint32(len(out)); n != want {
			return nil, &DamagedError{Err: fmt.Errorf("record %d is missing", want)}
		}
		v, err := q.value(it)
		if err != nil {
			return nil, err
		}
		_, _, record, err := splitRecord(v)
		if err == nil && n == 0 {
			_, _, record, err = splitSeed(record)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, append([]byte(nil), record...))
	}
	if err := it.Error(); err != nil {
		return nil, err
	}
	if n := from + uint32(len(out)); n != hop+1 {
		return nil, &DamagedError{Err: fmt.Errorf("there are %d records of %d", n, hop+1)}
	}
	return out, nil
}

// identify reads the id and row of a task that was found at Open.
func (q *Queue) identify(e *entry) error {
	v, closer, err := q.get(recordKey(nil, e.seq, 0))
	if err != nil {
		return q.ofTask(q.owner(e.seq), err)
	}
	defer closer.Close()
	_, _, record, err := splitRecord(v)
	if err == nil {
		e.row, e.id, _, err = splitSeed(record)
	}
	return err
}

// owner finds the id of a live task whose records cannot be read; a number where
// the ledger cannot be read either.
func (q *Queue) owner(seq uint64) string {
	it, err := q.db.NewIter(&pebble.IterOptions{LowerBound: []byte("i"), UpperBound: []byte("j")})
	if err != nil {
		return fmt.Sprint(seq)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		if n, _, err := parseFate(it.Value()); err == nil && n == seq {
			return string(it.Key()[1:])
		}
	}
	return fmt.Sprint(seq)
}

// load reads the version and every live task's place into memory.
func (q *Queue) load() error {
	if err := q.version(); err != nil {
		return err
	}
	it, err := q.records(0, ^uint64(0))
	if err != nil {
		return err
	}
	defer func() { it.Close() }()
	// Backwards: the newest record of a task comes first and says where it
	// waits; the rest of its log is passed over.
	var found []*entry
	for ok := it.Last(); ok; {
		key := it.Key()
		e := &entry{seq: binary.BigEndian.Uint64(key[1:])}
		n, err := q.newest(it)
		switch {
		case err == nil:
			e.role, e.prio, e.written = q.role(n.role), n.prio, n.hop
			e.setAt(n.hop, n.sum)
			found = append(found, e)
		case q.opts.ReadOnly && errors.As(q.damaged(err), new(*DamagedError)):
			q.live.unread++                        // whoever asks for it is told
			again, err := q.records(0, ^uint64(0)) // one that has met an error may find nothing any more
			if err != nil {
				return err
			}
			it.Close()
			it = again
		default:
			return q.ofTask(q.owner(e.seq), err)
		}
		if n.hop == 0 && err == nil {
			ok = it.Prev()
		} else {
			ok = it.SeekLT(recordKey(nil, e.seq, 0))
		}
	}
	if err := it.Error(); err != nil {
		return q.damaged(err)
	}
	if err := q.loadAttempts(found); err != nil {
		return err
	}
	for i := len(found) - 1; i >= 0; i-- {
		found[i].role.push(found[i])
	}
	q.live.add(found)
	return nil
}

func (q *Queue) loadAttempts(found []*entry) error {
	it, err := q.db.NewIter(&pebble.IterOptions{LowerBound: []byte("a"), UpperBound: []byte("b")})
	if err != nil {
		return err
	}
	defer it.Close()
	attempts := map[uint64]uint16{}
	for it.First(); it.Valid(); it.Next() {
		n, _ := binary.Uvarint(it.Value())
		attempts[binary.BigEndian.Uint64(it.Key()[1:])] = uint16(n)
	}
	if len(attempts) > 0 {
		for _, e := range found {
			e.attempt = attempts[e.seq]
		}
	}
	return it.Error()
}

// version checks the format of the store, says it in a new or an older one, and reads
// the next seq.
func (q *Queue) version() error {
	v, err := q.number("v")
	switch {
	case err != nil:
		return err
	case v > Version:
		return fmt.Errorf("the state has format %d and this Matrix reads up to %d: use a newer Matrix, or another folder", v, Version)
	case v < Version && !q.opts.ReadOnly:
		sync := &pebble.WriteOptions{Sync: !q.opts.Memory && q.journal == nil}
		if err := q.db.Set([]byte("v"), binary.AppendUvarint(nil, Version), sync); err != nil {
			return err
		}
		if v > 0 {
			break
		}
		// The first log does not tell what was synced, see logFile.hole: the
		// second one does.
		if err := q.db.Flush(); err != nil {
			return err
		}
	}
	if q.nextSeq, err = q.number("s"); q.nextSeq == 0 && !q.opts.ReadOnly {
		q.seen = newIDFilter()
	}
	return err
}

// number reads a stored number; one that was never set is 0.
func (q *Queue) number(key string) (uint64, error) {
	v, closer, err := q.get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, q.damaged(err)
	}
	defer closer.Close()
	n, _ := binary.Uvarint(v)
	return n, nil
}
