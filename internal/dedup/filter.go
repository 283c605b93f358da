package dedup

import "encoding/binary"

// filter says of bands that they surely are in no text, so that few are looked for on the
// disk. It is made of bitmaps, each four times as large as the one before, of which at most
// a sixteenth is set.
type filter struct {
	maps  [][]uint64
	added int // to the last one
}

const (
	firstMap = 1 << 14 // words
	largest  = 1 << 24 // words, 128 MiB: beyond it, more of it is set
)

// position is the bit of a band in a bitmap of so many words.
func position(i int, band []byte, words int) (word int, bit uint64) {
	h := (binary.LittleEndian.Uint64(band) + uint64(i)) * 0x9e3779b97f4a7c15
	h ^= h >> 29
	return int(h>>6) & (words - 1), 1 << (h & 63)
}

func (f *filter) add(i int, band []byte) {
	last := len(f.maps) - 1
	if last < 0 || f.added >= 4*len(f.maps[last]) && len(f.maps[last]) < largest {
		f.maps = append(f.maps, make([]uint64, firstMap<<(2*(last+1))))
		f.added = 0
		last++
	}
	word, bit := position(i, band, len(f.maps[last]))
	f.maps[last][word] |= bit
	f.added++
}

// may reports whether a band may have been added.
func (f *filter) may(i int, band []byte) bool {
	for _, m := range f.maps {
		if word, bit := position(i, band, len(m)); m[word]&bit != 0 {
			return true
		}
	}
	return false
}
