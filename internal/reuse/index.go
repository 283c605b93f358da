package reuse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"

	"matrix"
	"matrix/internal/fatal"
	"matrix/llm"
)

// Index is a folder with replies, each of which is handed out once, whatever happens
// in between. It holds a few megabytes in memory, however many replies there are.
//
// What is stored:
//
//	e HASH SEED NAME    a reply that is free
//	u NAME              it is not any more
//	c ROUND CALL        the reply that a call was given
//	r RUN               how many replies of a run are in; once all of them are
//	n                   the round
type Index struct {
	db    *pebble.DB
	round []byte
	sync  *pebble.WriteOptions
	guard *fatal.Guard

	closing sync.Once

	mu     sync.Mutex
	passed map[string][]byte // by hash: all before this key are taken
}

var _ llm.Past = (*Index)(nil)

// Keys of what is stored begin with one of these.
const (
	freeKey  = 'e'
	usedKey  = 'u'
	callKey  = 'c'
	runKey   = 'r'
	roundKey = 'n'
)

const (
	hashBytes  = 16 // of the hash of a request
	batchBytes = 1 << 20
	maxPassed  = 4096
)

// Options of Open.
type Options struct {
	// Again begins a new round: calls that were given a reply before are given another
	// one, as is right for tasks that are tried again.
	Again bool
	// Scratch says that the index is of no use after Close.
	Scratch bool
}

// Open opens the index in dir, or makes it.
func Open(dir string, o Options) (x *Index, err error) {
	x = &Index{guard: fatal.New(), passed: map[string][]byte{}, sync: pebble.Sync}
	if o.Scratch {
		x.sync = pebble.NoSync
	}
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	err = x.guard.Do(func() error {
		x.db, err = pebble.Open(dir, &pebble.Options{Cache: cache, MemTableSize: 4 << 20, MaxOpenFiles: 100, DisableWAL: o.Scratch, Logger: x.guard, FormatMajorVersion: pebble.FormatValueSeparation})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open replies to be reused in %s: %w", dir, err)
	}
	round, _, err := x.get([]byte{roundKey})
	if err == nil && o.Again {
		n := uint32(1)
		if len(round) == 4 {
			n += binary.BigEndian.Uint32(round)
		}
		round = binary.BigEndian.AppendUint32(nil, n)
		err = x.guard.Do(func() error { return x.db.Set([]byte{roundKey}, round, x.sync) })
	}
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	x.round = round
	return x, nil
}

// Close closes the index. It may be called again.
func (x *Index) Close() (err error) {
	x.closing.Do(func() {
		if x.guard.Err() == nil { // else it cannot be closed either; what is durable stays
			err = x.guard.Do(x.db.Close)
		}
	})
	return err
}

// get returns what stands at a key.
func (x *Index) get(key []byte) (value []byte, ok bool, err error) {
	v, closer, err := x.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return append([]byte{}, v...), true, closer.Close()
}

// Has reports whether the replies of a run are in, and how many they are.
func (x *Index) Has(run string) (n int64, ok bool, err error) {
	v, ok, err := x.get(append([]byte{runKey}, run...))
	if ok && len(v) == 8 {
		n = int64(binary.BigEndian.Uint64(v))
	}
	return n, ok, err
}

// Add takes in the replies of a run, and returns how many it has. What was taken in
// before is not free again.
func (x *Index) Add(ctx context.Context, run string, tasks iter.Seq2[*matrix.Task, error]) (n int64, err error) {
	x.mu.Lock()
	clear(x.passed)
	x.mu.Unlock()
	err = x.guard.Do(func() error {
		batch := x.db.NewBatch()
		for t, err := range tasks {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			for r := range Of(run, t) {
				added, err := x.add(batch, r)
				if err != nil {
					return err
				}
				if added {
					n++
				}
			}
			if batch.Len() > batchBytes {
				if err := batch.Commit(pebble.NoSync); err != nil {
					return err
				}
				batch = x.db.NewBatch()
			}
		}
		if err := batch.Set(append([]byte{runKey}, run...), binary.BigEndian.AppendUint64(nil, uint64(n)), nil); err != nil {
			return err
		}
		return batch.Commit(x.sync)
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// add puts a reply into a batch, unless it was taken in before.
func (x *Index) add(batch *pebble.Batch, r *Reply) (bool, error) {
	hash, err := hex.DecodeString(r.Hash)
	if err != nil || len(hash) < hashBytes {
		return false, nil // somebody else's
	}
	body, err := encode(r)
	if err != nil {
		return false, fmt.Errorf("task %s of %s: %w", r.Task, r.Run, err)
	}
	key := append([]byte{freeKey}, hash[:hashBytes]...)
	key = appendSeed(key, r.Seed)
	// The same reply has the same name where it was reused by a run that is taken in, too.
	run, err := encode(r.Run)
	if err != nil {
		return false, err
	}
	name := xxh3.Hash128(append(hash, body[len(`{"run":`)+len(run):]...)).Bytes()
	if _, used, err := x.get(append([]byte{usedKey}, name[:]...)); used || err != nil {
		return false, err
	}
	key = append(key, name[:]...)
	if _, there, err := x.get(key); there || err != nil {
		return false, err
	}
	return true, batch.Set(key, body, nil)
}

// encode makes JSON in which what was JSON before is as it was.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// appendSeed appends a seed; none has a form of its own.
func appendSeed(key []byte, seed *int64) []byte {
	if seed == nil {
		return append(key, 0)
	}
	return binary.BigEndian.AppendUint64(append(key, 1), uint64(*seed))
}

// Reply implements llm.Past.
func (x *Index) Reply(ctx context.Context, call, hash string, seed *int64) (*llm.Reply, error) {
	body, err := x.Take(call, hash, seed)
	if err != nil || body == nil {
		return nil, err
	}
	return Decode(body)
}

// Decode reads what Take returns.
func Decode(body []byte) (*llm.Reply, error) {
	var r Reply
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, &llm.Error{Kind: llm.Fatal, Msg: fmt.Sprintf("a reply that was to be reused cannot be read: %v", err)}
	}
	return r.reply(), nil
}

// Take is Reply, as bytes for Decode; nil where there is none. Once it has returned,
// the reply is not handed out to another call, also after a crash.
func (x *Index) Take(call, hash string, seed *int64) (body []byte, err error) {
	err = x.guard.Do(func() error {
		if body, err = x.take(call, hash, seed); err != nil || body == nil {
			return err
		}
		return x.db.LogData(nil, x.sync) // with those of others
	})
	if err != nil {
		return nil, &llm.Error{Kind: llm.Fatal, Msg: fmt.Sprintf("cannot note which reply is reused: %v", err), Hint: "make room, then run again", Err: err}
	}
	return body, nil
}

// take gives a reply to a call, which may have it already.
func (x *Index) take(call, hash string, seed *int64) (body []byte, err error) {
	sum, err := hex.DecodeString(hash)
	if err != nil || len(sum) < hashBytes {
		return nil, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	name := sha256.Sum256([]byte(call))
	mine := append(append([]byte{callKey}, x.round...), name[:hashBytes]...)
	if body, had, err := x.get(mine); had || err != nil {
		return body, err
	}
	prefix := append([]byte{freeKey}, sum[:hashBytes]...)
	key, body, err := x.first(appendSeed(prefix[:len(prefix):len(prefix)], seed), nil)
	if err == nil && key == nil {
		key, body, err = x.first(prefix, x.passed[string(prefix)])
		if key != nil {
			if len(x.passed) >= maxPassed {
				clear(x.passed)
			}
			x.passed[string(prefix)] = key
		}
	}
	if err != nil || key == nil {
		return nil, err
	}
	batch := x.db.NewBatch()
	used := append([]byte{usedKey}, key[len(key)-16:]...)
	if err := errors.Join(batch.Delete(key, nil), batch.Set(used, nil, nil), batch.Set(mine, body, nil)); err != nil {
		return nil, err
	}
	return body, batch.Commit(pebble.NoSync)
}

// first finds the first key with a prefix, from another one on; nil where there is none.
func (x *Index) first(prefix, from []byte) (key, value []byte, err error) {
	if from == nil {
		from = prefix
	}
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			break
		}
	}
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return nil, nil, err
	}
	if it.First() {
		key = append([]byte{}, it.Key()...)
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			value = append([]byte{}, v...)
		}
	} else {
		err = it.Error()
	}
	return key, value, errors.Join(err, it.Close())
}

var _ io.Closer = (*Index)(nil)
