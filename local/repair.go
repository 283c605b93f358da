package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
)

// Salvaged is what can still be read of a queue, whatever has happened to it. It
// knows at least as much as the queue itself would: also what stands in its logs
// after a hole.
type Salvaged struct {
	q       *Queue
	scratch string
	Faults  []error // what could not be read, as far as it has been met
}

// Salvage reads the queue in dir, which the caller holds, into scratch, a folder
// of the same file system that it makes and Close removes. What is in dir stays
// as it is.
func Salvage(dir, scratch string) (*Salvaged, error) {
	r := &Salvaged{q: salvager(dir), scratch: scratch}
	names, err := vfs.Default.List(dir)
	if err != nil {
		return nil, err
	}
	if err := checkFiles(vfs.Default, dir, true); err != nil {
		r.fault(err)
	}
	if err := r.open(dir, scratch, names); err != nil {
		return nil, err
	}
	for _, name := range logs(names) {
		if err := r.replay(dir, name); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// salvager is the queue of a Salvaged, which has no store yet.
func salvager(dir string) *Queue {
	q := &Queue{dir: dir, opts: Options{FS: vfs.Default}, roles: map[string]*role{}, failed: make(chan struct{}), done: make(chan struct{})}
	q.commit = newCommitter(q)
	return q
}

// open opens the store's tables without its logs; what cannot be opened is a
// fault, and an empty store takes its place.
func (r *Salvaged) open(dir, scratch string, names []string) error {
	q := r.q
	begin := func() error { return errors.Join(os.RemoveAll(scratch), os.Mkdir(scratch, 0o777)) }
	if err := begin(); err != nil {
		return err
	}
	for _, name := range names {
		if !storeName.MatchString(name) || logNumber(name) > 0 || slices.Contains([]string{lockName, runningName, clearName}, name) {
			continue
		}
		from, to := vfs.Default.PathJoin(dir, name), vfs.Default.PathJoin(scratch, name)
		bring := vfs.Copy
		if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob") { // never written to again
			bring = vfs.LinkOrCopy
		}
		if err := bring(vfs.Default, from, to); err != nil {
			r.fault(err)
		}
	}
	open := func() error {
		o := q.pebbleOptions()
		o.DisableWAL = true                  // it is in the logs that are replayed
		o.DisableAutomaticCompactions = true // they would stop at what is damaged
		o.EventListener.BackgroundError = func(err error) {
			if !errors.As(q.damaged(err), new(*DamagedError)) { // else whoever reads it is told
				q.fail(err)
			}
		}
		disk := newFreezer(o.FS, q.fail)
		o.FS = disk
		db, err := pebble.Open(scratch, o)
		q.db = db
		disk.armed.Store(err == nil)
		return err
	}
	err := q.apart(open)
	if err == nil {
		return nil
	}
	if isClosed(q.failed) && !errors.As(err, new(*DamagedError)) { // the disk, and not what is on it
		return err
	}
	r.fault(q.damagedOpen(err))
	q = salvager(dir)
	r.q = q
	if err := begin(); err != nil {
		return err
	}
	return q.apart(open)
}

// replay commits what a log holds once more: all that reads well, in order.
func (r *Salvaged) replay(dir, name string) error {
	l, file, err := openLog(vfs.Default, dir, name)
	if err != nil {
		r.fault(err)
		return nil
	}
	defer file.Close()
	return l.records(func(record []byte) error {
		b := r.q.db.NewBatch()
		if err := b.SetRepr(slices.Clone(record)); err != nil { // no batch
			return nil
		}
		return r.q.apart(func() error { return r.q.db.Apply(b, pebble.NoSync) })
	})
}

// fault notes what cannot be read, by the name of the file that was brought.
func (r *Salvaged) fault(err error) {
	var d *DamagedError
	if errors.As(err, &d) {
		if name, ok := strings.CutPrefix(d.File, r.scratch); ok {
			err = &DamagedError{File: r.q.dir + name, Task: d.Task, Err: d.Err}
		}
	}
	r.Faults = append(r.Faults, err)
}

// Lookup is that of a matrix.Ledger.
func (r *Salvaged) Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error) {
	return r.q.Lookup(ctx, ids...)
}

// Checkpoint is that of a matrix.Ledger.
func (r *Salvaged) Checkpoint(ctx context.Context, name string) ([]byte, error) {
	return r.q.Checkpoint(ctx, name)
}

// Tasks calls f for each live task of which the first record can be read, until
// f returns an error: its seed, the steps after it up to the first that cannot
// be read, and the attempts spent after them. whole says that there were no more.
func (r *Salvaged) Tasks(f func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error) error {
	q := r.q
	end, _ := q.number("s") // 0 where it cannot be read: then the search ends at the first fault
	it, err := q.records(0, ^uint64(0))
	if err != nil {
		r.fault(q.damaged(err))
		return nil
	}
	defer func() { it.Close() }()
	// An iterator that has met an error stands nowhere, and may find nothing any more.
	seek := func(seq uint64, hop uint32) (bool, error) {
		again, err := q.records(0, ^uint64(0))
		if err != nil {
			return false, err
		}
		it.Close()
		it = again
		return it.SeekGE(recordKey(nil, seq, hop)), nil
	}
	var t salvaged
	give := func() error {
		if t.seed.Task == "" {
			return nil
		}
		attempt := 0
		if t.whole {
			n, _ := q.number(string(attemptKey(nil, t.seq)))
			attempt = int(n)
		}
		return f(t.seed, t.steps, attempt, t.whole)
	}
	for ok := it.First(); ; {
		if !ok {
			err := it.Error()
			if err == nil {
				return give()
			}
			r.fault(q.damaged(err))
			t.whole = false
			if err := give(); err != nil || t.seq >= end {
				return err
			}
			t = salvaged{seq: t.seq + 1}
			if ok, err = seek(t.seq, 0); err != nil {
				return err
			}
			continue
		}
		seq, hop := binary.BigEndian.Uint64(it.Key()[1:]), binary.BigEndian.Uint32(it.Key()[9:])
		if seq != t.seq || hop == 0 {
			if err := give(); err != nil {
				return err
			}
			t = salvaged{seq: seq, whole: true}
		}
		v, err := q.value(it)
		if err == nil {
			err = t.add(hop, v)
		}
		if err != nil {
			t.whole = false
			id := t.seed.Task
			if id == "" && len(r.Faults) < maxSought {
				id = q.owner(seq)
			}
			r.fault(q.ofTask(id, err))
			if ok, err = seek(seq, hop+1); err != nil {
				return err
			}
			continue
		}
		ok = it.Next()
	}
}

// maxSought is how many tasks that tell no name are looked for in the ledger.
const maxSought = 20

// salvaged is a live task as far as it has been read.
type salvaged struct {
	seq   uint64
	seed  matrix.Seed
	steps []matrix.Step
	whole bool
}

// add reads the record of a hop. What follows one that is missing is of no use.
func (t *salvaged) add(hop uint32, v []byte) error {
	prio, name, record, err := splitRecord(v)
	if err != nil {
		return err
	}
	if hop == 0 {
		row, id, record, err := splitSeed(record)
		if err != nil {
			return err
		}
		t.seed = matrix.Seed{Task: id, Row: row, Role: string(name), Priority: int(prio), Record: slices.Clone(record)}
		return nil
	}
	if !t.whole || t.seed.Task == "" || int(hop) != len(t.steps)+1 {
		return &DamagedError{Err: fmt.Errorf("record %d follows %d others", hop, len(t.steps)+1)}
	}
	t.steps = append(t.steps, matrix.Step{Role: string(name), Priority: int(prio), Record: slices.Clone(record)})
	return nil
}

// Close removes what Salvage made.
func (r *Salvaged) Close() error {
	_ = r.q.apart(r.q.db.Close) // panics where values could not be read (Pebble v2.1.7); nothing in it is wanted any more
	return os.RemoveAll(r.scratch)
}

// Builder writes a queue from what it should hold.
type Builder struct {
	q     *Queue
	batch *pebble.Batch
	seq   uint64
}

// Build makes a queue in dir, which holds none. What it holds is a queue once
// Close has returned nil.
func Build(dir string) (*Builder, error) {
	q, err := Open(dir, Options{})
	if err != nil {
		return nil, err
	}
	return &Builder{q: q, batch: q.db.NewBatch(), seq: 1}, nil // a queue that begins with 0 is taken for new
}

// Settled adds a task that has ended.
func (b *Builder) Settled(id string, f matrix.Fate) error {
	b.seq++
	return errors.Join(putFate(b.batch, id, b.seq, f), b.flush(4<<20))
}

// Task adds a live task that waits where its last step says.
func (b *Builder) Task(seed matrix.Seed, steps []matrix.Step, attempt int) error {
	b.seq++
	if err := putFate(b.batch, seed.Task, b.seq, matrix.Fate{Status: matrix.Pending, Row: seed.Row, Part: -1}); err != nil {
		return err
	}
	head := appendSeed(nil, seed.Row, seed.Task)
	v := make([]byte, recordSize(seed.Role, head, seed.Record))
	putRecord(v, int16(seed.Priority), seed.Role, head, seed.Record)
	if err := b.batch.Set(recordKey(nil, b.seq, 0), v, nil); err != nil {
		return err
	}
	for i, s := range steps {
		v := make([]byte, recordSize(s.Role, s.Record))
		putRecord(v, int16(s.Priority), s.Role, s.Record)
		if err := b.batch.Set(recordKey(nil, b.seq, uint32(i+1)), v, nil); err != nil {
			return err
		}
	}
	if attempt > 0 {
		if err := b.batch.Set(attemptKey(nil, b.seq), binary.AppendUvarint(nil, uint64(attempt)), nil); err != nil {
			return err
		}
	}
	return b.flush(4 << 20)
}

// Checkpoints sets checkpoints.
func (b *Builder) Checkpoints(checkpoints map[string][]byte) error {
	return putCheckpoints(b.batch, checkpoints)
}

// flush commits what has been added, if it is more than so many bytes.
func (b *Builder) flush(most int) error {
	if b.batch.Len() <= most {
		return nil
	}
	full := b.batch
	b.batch = b.q.db.NewBatch()
	return b.q.apart(func() error { return b.q.db.Apply(full, pebble.Sync) })
}

// Close ends the queue and makes it durable.
func (b *Builder) Close() error {
	err := b.batch.Set([]byte("s"), binary.AppendUvarint(nil, b.seq+1), nil)
	if err == nil {
		err = b.flush(0)
	}
	return errors.Join(err, b.q.Close())
}
