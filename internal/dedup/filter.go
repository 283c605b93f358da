package dedup

import "encoding/binary"

// filter says of bands that they surely are of no text, so that few are looked for on the
// disk: a bitmap of 32 MiB, of which a million texts set a twentieth.
type filter []uint64

func newFilter() filter { return make(filter, 1<<22) }

// position is the bit of a band.
func (f filter) position(i int, band []byte) (word int, bit uint64) {
	h := (binary.LittleEndian.Uint64(band) + uint64(i)) * 0x9e3779b97f4a7c15
	h ^= h >> 29
	return int(h>>6) & (len(f) - 1), 1 << (h & 63)
}

func (f filter) add(i int, band []byte) {
	word, bit := f.position(i, band)
	f[word] |= bit
}

// may reports whether a band may have been added.
func (f filter) may(i int, band []byte) bool {
	word, bit := f.position(i, band)
	return f[word]&bit != 0
}
