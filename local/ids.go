package local

import (
	"hash/maphash"
	"sync"
)

// ids knows which ids were never added, for nearly all that were not: a Bloom
// filter that grows, up to 32 MiB. Asking it saves the feeder a search of the
// store for each row. Of more than 16 million ids it knows less and less.
type ids struct {
	mu    sync.RWMutex
	seed  maphash.Seed
	parts []idBits // each twice as large as the one before; the last takes new ids
	room  int      // ids that the last takes before there is another
}

// idBits has a power of two of bits.
type idBits []uint64

const (
	idsFirst  = 1 << 14 // ids that the first part takes
	mostParts = 10
	idProbes  = 7
	bitsPerID = 16 // of a full part; 1 in 1,400 of strange ids seems known to it
)

func newIDs() *ids { return &ids{seed: maphash.MakeSeed()} }

func (s *ids) add(id string) {
	h := maphash.String(s.seed, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == 0 && len(s.parts) < mostParts {
		s.room = idsFirst << len(s.parts)
		s.parts = append(s.parts, make(idBits, s.room*bitsPerID/64))
	}
	s.room = max(0, s.room-1)
	s.parts[len(s.parts)-1].each(h, func(word *uint64, bit uint64) bool {
		*word |= bit
		return true
	})
}

// strange says that id was surely never added.
func (s *ids) strange(id string) bool {
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
func (b idBits) each(h uint64, f func(word *uint64, bit uint64) bool) bool {
	step := h>>32 | 1
	for range idProbes {
		i := h & uint64(len(b)*64-1)
		if !f(&b[i/64], 1<<(i%64)) {
			return false
		}
		h += step
	}
	return true
}
