package dedup

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// words are the hashes of the words of a text, eight bytes each: runs of letters, marks and
// digits in lower case. A character of a script that is written without spaces is a
// word of its own.
func words(text string) []byte {
	all := make([]byte, 0, len(text)*3/2)
	word := make([]byte, 0, 64)
	end := func() {
		if len(word) > 0 {
			all = binary.LittleEndian.AppendUint64(all, xxh3.Hash(word))
			word = word[:0]
		}
	}
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
				word = append(word, c)
			case 'A' <= c && c <= 'Z':
				word = append(word, c|0x20)
			default:
				end()
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		i += n
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
			end()
			word = utf8.AppendRune(word, r)
			end()
		case unicode.IsLetter(r), unicode.IsMark(r), unicode.IsDigit(r):
			word = utf8.AppendRune(word, unicode.ToLower(r))
		default:
			end()
		}
	}
	end()
	return all
}

// ngrams calls f with the hash of each n words that follow each other.
func ngrams(words []byte, n int, f func(hash uint64)) {
	for at := 0; at+8*n <= len(words); at += 8 {
		f(xxh3.Hash(words[at : at+8*n]))
	}
}

// setBytes is how much of a hash a set keeps: two sets of 1,000 have one in common by
// chance once in 280 million times.
const setBytes = 6

// set is the sorted set of the hashes of all n words that follow each other. A text of
// fewer words has one, of all that it says.
func set(text string, n int) []uint64 {
	w := words(text)
	hashes := make([]uint64, 0, max(1, len(w)/8))
	add := func(hash uint64) { hashes = append(hashes, hash>>(64-8*setBytes)) }
	switch {
	case len(w) == 0:
		add(xxh3.HashString(strings.TrimSpace(text)))
	case len(w) < 8*n:
		add(xxh3.Hash(w))
	default:
		ngrams(w, n, add)
	}
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// jaccard is how much of two sets, as they are stored, is in both.
func jaccard(a, b []byte) float64 {
	both, i, j := 0, 0, 0
	for i < len(a) && j < len(b) {
		switch x, y := element(a[i:]), element(b[j:]); {
		case x == y:
			both, i, j = both+1, i+setBytes, j+setBytes
		case x < y:
			i += setBytes
		default:
			j += setBytes
		}
	}
	all := (len(a)+len(b))/setBytes - both
	if all == 0 {
		return 0
	}
	return float64(both) / float64(all)
}

func element(b []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint16(b[4:]))<<32
}

func appendElement(b []byte, x uint64) []byte {
	return append(b, byte(x), byte(x>>8), byte(x>>16), byte(x>>24), byte(x>>32), byte(x>>40))
}
