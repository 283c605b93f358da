// Package dedup finds texts that are alike: the same, near duplicates by MinHash, neighbours
// by the cosine of their vectors, and those that have a run of words in common with another
// corpus. It knows signatures and names, and not what they are of.
package dedup

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix/internal/fatal"
)

// Index holds the signatures of texts that are not alike, each under a name, in a folder.
// It is a cache: what it holds is told by Len, in the order in which it was added, and what
// a crash took of it is to be added again. Texts of other corpora stand beside them (Against).
// One goroutine uses it at a time.
//
//	m                state, as JSON
//	d ID             name and what Method compares of a text: its document
//	b NUMBER BAND    the IDs of the texts with this band, one after the other; of Exact
//	                 the one band is half of the hash, of Embedding there is none
//
// An ID is the number of a text, or with the highest bit set that of one of another
// corpus. What stands under b are candidates alone, which their documents have to bear out.
type Index struct {
	signer  *Signer
	db      *pebble.DB
	batch   *pebble.Batch // what was added since Commit
	state   state
	vectors vectors  // of Embedding: all documents'
	filter  filter   // of all bands
	overlap *overlap // nil where none is asked for
	guard   *fatal.Guard
}

// state is what an index says of itself.
type state struct {
	Version int     `json:"version"`
	Options Options `json:"options"`
	Len     uint64  `json:"len"`
	Last    string  `json:"last,omitempty"` // the name of the newest text
	Against string  `json:"against,omitempty"`
}

const version = 1

// other is the bit of the IDs of other corpora.
const other = 1 << 63

// Match is a text that another one is like.
type Match struct {
	Name   string
	Score  float64 // Jaccard index or cosine; 1 of Exact and of an overlap
	Method Method  // by which; empty of an overlap
}

// Open opens the index in dir, or makes it. One that was made by other options is made
// anew, and so is one that cannot be read.
func Open(dir string, o Options) (*Index, error) {
	if key, err := o.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	x := &Index{signer: NewSigner(o)}
	err := x.open(dir, vfs.Default)
	if err == nil && x.state.Version == version && x.state.Options == x.signer.o {
		return x, nil
	}
	fresh := err == nil && x.state.Version == 0
	if err == nil && !fresh {
		err = x.Close()
		if err == nil {
			err = errors.New("it was made by other options")
		}
	}
	if err != nil { // nothing is lost by it
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		x = &Index{signer: x.signer}
		if err := x.open(dir, vfs.Default); err != nil {
			return nil, fmt.Errorf("open the index in %s: %w", dir, err)
		}
	}
	x.state = state{Version: version, Options: x.signer.o}
	return x, nil
}

// OpenMemory makes an index that is kept in memory alone.
func OpenMemory(o Options) (*Index, error) {
	if key, err := o.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	x := &Index{signer: NewSigner(o)}
	if err := x.open("", vfs.NewMem()); err != nil {
		return nil, err
	}
	x.state = state{Version: version, Options: x.signer.o}
	return x, nil
}

func (x *Index) open(dir string, fs vfs.FS) error {
	x.guard = fatal.New()
	if x.signer.o.Method != Embedding {
		x.filter = newFilter()
	}
	if x.signer.o.Overlap > 0 {
		x.overlap = &overlap{names: map[uint64]uint32{}}
	}
	cache := pebble.NewCache(32 << 20)
	defer cache.Unref()
	o := &pebble.Options{
		FS: fs, Cache: cache, Logger: x.guard,
		FormatMajorVersion: pebble.FormatValueSeparation,
		DisableWAL:         true, // what is lost is added again
		MemTableSize:       16 << 20, MemTableStopWritesThreshold: 3,
		L0CompactionThreshold: 4, LBaseMaxBytes: 64 << 20, MaxOpenFiles: 200,
	}
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 256, MaxBlobReferenceDepth: 16, TargetGarbageRatio: 0.6}
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone }) // hashes
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return x.guard.Do(func() (err error) {
		if x.db, err = pebble.Open(dir, o); err != nil {
			return err
		}
		if err = x.load(); err != nil {
			return errors.Join(err, x.db.Close())
		}
		x.batch = x.db.NewIndexedBatch()
		return nil
	})
}

// load reads what is kept in memory.
func (x *Index) load() error {
	value, closer, err := x.db.Get([]byte("m"))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	err = json.Unmarshal(value, &x.state)
	if err = errors.Join(err, closer.Close()); err != nil {
		return err
	}
	if x.state.Version != version || x.state.Options != x.signer.o {
		return nil // it is made anew
	}
	lower, upper := []byte("b"), []byte("c")
	if x.signer.o.Method == Embedding {
		lower, upper = documentKey(0), documentKey(x.state.Len)
	}
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if key := it.Key(); key[0] == 'b' {
			x.filter.add(int(key[1]), key[2:])
			continue
		}
		_, vector, err := document(it.Value())
		if err == nil {
			err = x.vectors.add(binary.BigEndian.Uint64(it.Key()[1:]), vector)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// Signer makes the signatures of this index.
func (x *Index) Signer() *Signer { return x.signer }

// Len is how many texts were added. What was not committed counts, until it is lost.
func (x *Index) Len() int64 { return int64(x.state.Len) }

// Last is the name of the text that was added last.
func (x *Index) Last() string { return x.state.Last }

// Find returns the first text that one with this signature is like: of another corpus, or
// else of those that were added.
func (x *Index) Find(signature []byte) (m Match, found bool, err error) {
	if err := x.guard.Err(); err != nil {
		return m, false, err
	}
	first, grams, err := split(signature)
	if err != nil {
		return m, false, err
	}
	if x.overlap != nil {
		if name, ok := x.overlap.find(grams); ok {
			return Match{Name: name, Score: 1}, true, nil
		}
	}
	id, score, found, err := x.find(first)
	if !found || err != nil {
		return m, false, err
	}
	name, _, err := x.document(id)
	return Match{Name: name, Score: score, Method: x.signer.o.Method}, err == nil, err
}

// find is the first text that one is like by what Method compares.
func (x *Index) find(first []byte) (id uint64, score float64, found bool, err error) {
	if x.signer.o.Method == Embedding {
		return x.vectors.find(first, x.signer.o.Threshold)
	}
	bands, of, err := x.signer.bands(first)
	if err != nil {
		return 0, 0, false, err
	}
	var candidates []uint64
	for i := 0; 8*i < len(bands); i++ {
		if !x.filter.may(i, bands[8*i:]) {
			continue
		}
		ids, err := x.get(bandKey(i, bands[8*i:]))
		if err != nil {
			return 0, 0, false, err
		}
		for ; len(ids) >= 8; ids = ids[8:] {
			candidates = append(candidates, binary.BigEndian.Uint64(ids))
		}
	}
	slices.SortFunc(candidates, func(a, b uint64) int { return cmp.Compare(a^other, b^other) }) // other corpora first
	for _, id := range slices.Compact(candidates) {
		_, stored, err := x.document(id)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, 0, false, err
		}
		switch x.signer.o.Method {
		case Exact:
			score, found = 1, bytes.Equal(of, stored)
		default:
			score = jaccard(of, stored)
			found = score >= x.signer.o.Threshold
		}
		if found {
			return id, score, true, nil
		}
	}
	return 0, 0, false, nil
}

// bands are what Exact and MinHash find candidates by, 8 bytes each, and what they compare.
func (s *Signer) bands(first []byte) (bands, of []byte, err error) {
	n := 8 * (hashes / s.rows)
	switch {
	case s.o.Method == Exact && len(first) == 16:
		return first[:8], first, nil
	case s.o.Method == MinHash && len(first) >= n && (len(first)-n)%setBytes == 0:
		return first[:n], first[n:], nil
	}
	return nil, nil, errSignature
}

// Add adds a text. It is found at once, and kept with the next Commit. One without a
// signature counts, and is never found.
func (x *Index) Add(name string, signature []byte) error {
	if len(signature) > 0 {
		if err := x.add(x.state.Len, name, signature); err != nil {
			return err
		}
	}
	x.state.Len, x.state.Last = x.state.Len+1, name
	return nil
}

func (x *Index) add(id uint64, name string, signature []byte) error {
	if err := x.guard.Err(); err != nil {
		return err
	}
	first, _, err := split(signature)
	if err != nil {
		return err
	}
	number := binary.BigEndian.AppendUint64(nil, id)
	if x.signer.o.Method == Embedding {
		err = x.vectors.add(id, first)
	} else {
		var bands []byte
		if bands, first, err = x.signer.bands(first); err != nil {
			return err
		}
		for i := 0; 8*i < len(bands) && err == nil; i++ {
			x.filter.add(i, bands[8*i:])
			err = x.batch.Merge(bandKey(i, bands[8*i:]), number, nil)
		}
	}
	if err != nil {
		return err
	}
	value := binary.AppendUvarint(nil, uint64(len(name)))
	return x.batch.Set(documentKey(id), append(append(value, name...), first...), nil)
}

// Commit keeps what was added, and that so many texts were: all of it or nothing.
func (x *Index) Commit() error {
	value, err := json.Marshal(x.state)
	if err != nil {
		return err
	}
	if err := x.batch.Set([]byte("m"), value, nil); err != nil {
		return err
	}
	err = x.guard.Do(func() error { return errors.Join(x.batch.Commit(pebble.NoSync), x.batch.Close()) })
	if err == nil {
		x.batch = x.db.NewIndexedBatch()
	}
	return err
}

// Reset takes out all texts that were added.
func (x *Index) Reset() error {
	err := x.batch.Close()
	x.batch = x.db.NewIndexedBatch()
	x.state.Len, x.state.Last, x.vectors = 0, "", vectors{}
	err = errors.Join(err, x.batch.DeleteRange(documentKey(0), documentKey(other), nil))
	return errors.Join(err, x.Commit())
}

// Close closes the index; what was not committed is lost. An index in a folder that ends
// without it may have lost what was committed last.
func (x *Index) Close() error {
	return x.guard.Do(func() error { return errors.Join(x.batch.Close(), x.db.Flush(), x.db.Close()) })
}

// get is what stands under a key; nil where nothing does.
func (x *Index) get(key []byte) ([]byte, error) {
	value, closer, err := x.batch.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	value = bytes.Clone(value)
	return value, closer.Close()
}

// document is the name of a text, and what Method compares of it.
func (x *Index) document(id uint64) (name string, first []byte, err error) {
	value, closer, err := x.batch.Get(documentKey(id))
	if err != nil {
		return "", nil, err
	}
	name, first, err = document(value)
	first = bytes.Clone(first)
	return name, first, errors.Join(err, closer.Close())
}

func document(value []byte) (name string, first []byte, err error) {
	b, first, err := field(value)
	return string(b), first, err
}

func documentKey(id uint64) []byte      { return binary.BigEndian.AppendUint64([]byte("d"), id) }
func bandKey(i int, band []byte) []byte { return append([]byte{'b', byte(i)}, band[:8]...) }
