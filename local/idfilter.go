package local

import (
	"hash/maphash"
	"sync"
)

// idFilter is a Bloom filter of task ids that grows, up to 32 MiB. Asking it saves
// the feeder a search of the store for each row. Beyond 16 million ids more and more
// unseen ones pass for seen.
type idFilter struct {
	mu    sync.RWMutex
	seed  maphash.Seed
	parts []filterBits // each twice as large as the one before; the last takes new ids
	room  int          // ids that the last takes before there is another
}

// filterBits has a power of two of bits.
type filterBits []uint64

const (
	firstIDs  = 1 << 14 // ids that the first part takes
	maxParts  = 10
	probes    = 7
	bitsPerID = 16 // of a full part; 1 in 1,400 of unseen ids is a false positive
)

func newIDFilter() *idFilter { return &idFilter{seed: maphash.MakeSeed()} }

func (s *idFilter) add(id string) {
	h := maphash.String(s.seed, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == 0 && len(s.parts) < maxParts {
		s.room = firstIDs << len(s.parts)
		s.parts = append(s.parts, make(filterBits, s.room*bitsPerID/64))
	}
	s.room = max(0, s.room-1)
	s.parts[len(s.parts)-1].each(h, func(word *uint64, bit uint64) bool {
		*word |= bit
		return true
	})
}

// unseen reports whether id was surely never added.
func (s *idFilter) unseen(id string) bool {
	h := maphash.String(s.seed, id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := len(s.parts) - 1; i >= 0; i-- {
		if s.parts[i].each(h, func(word *uint64, bit uint64) bool { return *word&bit != 0 }) {
			return false
		}
	}
	return true
}

// each goes through the bits of a hash while f says so, and reports whether it
// came to the end.
func (b filterBits) each(h uint64, f func(word *uint64, bit uint64) bool) bool {
	step := h>>32 | 1
	for range probes {
		i := h & uint64(len(b)*64-1)
		if !f(&b[i/64], 1<<(i%64)) {
			return false
		}
		h += step
	}
	return true
}
