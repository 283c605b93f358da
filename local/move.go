package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// movedBytes is about how much of a store is copied in one batch.
const movedBytes = 512 << 10

// eachBatch calls f for batches of q that together set all that the store of from holds,
// which nobody writes to meanwhile.
func (q *Queue) eachBatch(from *Queue, f func(*pebble.Batch) error) error {
	it, err := from.db.NewIter(&pebble.IterOptions{LowerBound: []byte{0}, UpperBound: []byte{0xff}})
	if err != nil {
		return err
	}
	defer it.Close()
	b := q.db.NewBatch()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := from.value(it)
		if err != nil {
			return from.damaged(err)
		}
		if err := b.Set(it.Key(), v, nil); err != nil {
			return err
		}
		if b.Len() >= movedBytes {
			if err := f(b); err != nil {
				return err
			}
			b = q.db.NewBatch()
		}
	}
	if err := it.Error(); err != nil {
		return from.damaged(err)
	}
	return f(b)
}

// CopyTo makes a queue on the disk in dir, which holds none, of all that is committed, with
// other values of some checkpoints. Nothing may be in anybody's hands. When it has
// returned nil the copy is durable.
func (q *Queue) CopyTo(dir string, checkpoints map[string][]byte) error {
	if err := q.read(); err != nil {
		return err
	}
	defer q.active.Done()
	if err := q.commit.barrier(context.Background()); err != nil {
		return err
	}
	to, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	apply := func(b *pebble.Batch) error {
		return to.apart(func() error { return errors.Join(to.db.Apply(b, pebble.NoSync), b.Close()) })
	}
	err = to.eachBatch(q, apply)
	if err == nil {
		b := to.db.NewBatch()
		if err = putCheckpoints(b, checkpoints); err == nil {
			err = apply(b)
		}
	}
	if err != nil {
		err = fmt.Errorf("copy the queue to %s: %w", dir, err)
	}
	return errors.Join(err, to.Close()) // which makes it durable
}

// importKey stands in a log while a queue is brought into it.
var importKey = []byte("b")

// fill begins a log that is empty with Options.Import, and one in which that was not ended.
func (j *journal) fill(empty bool) error {
	cut, err := j.q.number(string(importKey))
	from := j.q.opts.Import
	switch {
	case err != nil:
		return err
	case !empty && cut == 0:
		return nil
	case from == nil && cut > 0:
		return errors.New("a queue was being brought into its log, and that was not ended")
	case from == nil:
		return nil
	}
	number, position := j.number+1, j.log.Next()
	b := j.q.db.NewBatch()
	if err := errors.Join(b.DeleteRange([]byte{0}, []byte{0xff}, nil), b.Set(importKey, []byte{1}, nil)); err != nil {
		return err
	}
	if err := j.commit(b)(); err != nil {
		return err
	}
	var before func() error // of the batch before: one is on its way while the next is made
	bytes := 0
	err = j.q.eachBatch(from, func(b *pebble.Batch) error {
		bytes += b.Len()
		wait := j.commit(b)
		if before != nil {
			if err := before(); err != nil {
				return err
			}
		}
		before = wait
		return nil
	})
	if err != nil {
		return err
	}
	b = j.q.db.NewBatch()
	if err := b.Delete(importKey, nil); err != nil {
		return err
	}
	j.base, j.live = number, bytes // what stood before is of no use any more
	if err := j.commit(b)(); err != nil {
		return err
	}
	j.grown = 0
	j.log.Trim(position)
	return nil
}

// commit appends a batch and puts it into the store, before anybody uses either.
func (j *journal) commit(b *pebble.Batch) (wait func() error) {
	durable := j.put(b.Repr())
	err := j.q.db.Apply(b, pebble.NoSync)
	return func() error { return errors.Join(err, durable(), b.Close()) }
}
