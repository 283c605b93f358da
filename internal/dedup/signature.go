package dedup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/zeebo/xxh3"
)

// Method says which texts are alike.
type Method string

// The methods.
const (
	Exact     Method = "exact"     // the same text, but for white space around it
	MinHash   Method = "minhash"   // the Jaccard index of their sets of n words is at least the threshold
	Embedding Method = "embedding" // the cosine of their vectors is at least the threshold
)

// Options say what is alike.
type Options struct {
	Method    Method
	Threshold float64 // of MinHash from 0.3, of Embedding above 0; 1 at most
	NGram     int     // words that are an element of a set; 0 for 5. MinHash only
	Overlap   int     // a text that has so many words in a row in common with another corpus is alike; 0 for never
}

// Check says what is wrong with o, after its key.
func (o Options) Check() (key string, err error) {
	switch least := map[Method]float64{MinHash: 0.3, Embedding: 0.01}[o.Method]; {
	case o.Method != Exact && o.Method != MinHash && o.Method != Embedding:
		return "method", fmt.Errorf("%q: want exact, minhash or embedding", o.Method)
	case o.Method != Exact && (!(o.Threshold >= least) || o.Threshold > 1):
		return "threshold", fmt.Errorf("%g: want %g to 1", o.Threshold, least)
	case o.NGram < 0 || o.NGram > maxWords:
		return "ngram", fmt.Errorf("%d: want 1 to %d words", o.NGram, maxWords)
	case o.Overlap < 0 || o.Overlap > maxWords:
		return "overlap", fmt.Errorf("%d: want 1 to %d words, or 0 for none", o.Overlap, maxWords)
	}
	return "", nil
}

const maxWords = 1000 // an element is hashed anew at each word

// hashes is how many hashes a MinHash signature is made of: those of datatrove's
// defaults, 14 bands of 8.
const hashes = 112

// Signer makes signatures of texts. It may be used by several goroutines.
type Signer struct {
	o          Options
	rows       int // hashes in a band
	mul, shift [hashes]uint64
}

// NewSigner makes the Signer of o.
func NewSigner(o Options) *Signer {
	if o.NGram == 0 {
		o.NGram = 5
	}
	s := &Signer{o: o, rows: bandRows(o.Threshold)}
	state := uint64(1)
	random := func() uint64 { // SplitMix64
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
	for i := range hashes {
		s.mul[i], s.shift[i] = random()|1, random()
	}
	return s
}

// bandRows is how many hashes a band has: as many as 8, and so few that 98 % of the
// pairs whose Jaccard index is 0.05 above the threshold have a band in common. For 0.8 and
// above that is 8.
func bandRows(threshold float64) int {
	for rows := 8; rows > 1; rows-- {
		missed := math.Pow(1-math.Pow(min(1, threshold+0.05), float64(rows)), float64(hashes/rows))
		if missed <= 0.02 {
			return rows
		}
	}
	return 1
}

// A signature is two fields, each behind its length as an unsigned varint: what Method
// compares, and the hashes of Overlap words each. What Method compares is, of
//
//	exact      16 bytes, the hash of the text
//	minhash    the bands, 8 bytes each, and the set, 6 bytes an element
//	embedding  float32, 4 bytes each, of length 1
//
// all little-endian.

// Text makes the signature of a text, without a vector.
func (s *Signer) Text(text string) []byte {
	var b []byte
	switch s.o.Method {
	case Exact:
		b = exact(text)
	case MinHash:
		b = s.minHash(text)
	}
	return s.fields(b, text)
}

// Vector makes the signature of a text that has a vector.
func (s *Signer) Vector(text string, vector []float32) ([]byte, error) {
	b, err := normal(vector)
	if err != nil {
		return nil, err
	}
	return s.fields(b, text), nil
}

// normal is a vector of length 1.
func normal(vector []float32) ([]byte, error) {
	sum := 0.0
	for _, x := range vector {
		sum += float64(x) * float64(x)
	}
	if !(sum > 0) || math.IsInf(sum, 0) {
		return nil, errors.New("a vector without a direction: all of it is 0, or some of it is no number")
	}
	b := make([]byte, 0, 4*len(vector))
	for _, x := range vector {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(float64(x)/math.Sqrt(sum))))
	}
	return b, nil
}

func exact(text string) []byte {
	h := xxh3.HashString128(strings.TrimSpace(text)).Bytes()
	return h[:]
}

// minHash is the bands of a text and its set.
func (s *Signer) minHash(text string) []byte {
	elements := set(text, s.o.NGram)
	least := s.least(elements)
	bands := hashes / s.rows
	b := make([]byte, 0, 8*bands+setBytes*len(elements))
	var band [8 * 8]byte
	for i := range bands {
		for k := range s.rows {
			binary.LittleEndian.PutUint64(band[8*k:], least[i*s.rows+k])
		}
		b = binary.LittleEndian.AppendUint64(b, xxh3.Hash(band[:8*s.rows]))
	}
	for _, x := range elements {
		b = appendElement(b, x)
	}
	return b
}

// least is the least of each hash of the elements; four hashes a pass, which do not wait for each other.
func (s *Signer) least(elements []uint64) (all [hashes]uint64) {
	for i := 0; i < hashes; i += 4 {
		m0, m1, m2, m3 := s.mul[i], s.mul[i+1], s.mul[i+2], s.mul[i+3]
		c0, c1, c2, c3 := s.shift[i], s.shift[i+1], s.shift[i+2], s.shift[i+3]
		l0, l1, l2, l3 := uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64)
		for _, x := range elements {
			l0, l1, l2, l3 = min(l0, x*m0+c0), min(l1, x*m1+c1), min(l2, x*m2+c2), min(l3, x*m3+c3)
		}
		all[i], all[i+1], all[i+2], all[i+3] = l0, l1, l2, l3
	}
	return all
}

// Comparable is the part of a signature that cannot be made again of its text: of
// Embedding the vector, of other methods nothing.
func (s *Signer) Comparable(signature []byte) []byte {
	first, _, err := split(signature)
	if s.o.Method != Embedding || err != nil {
		return nil
	}
	return first
}

// Restore makes a signature of a text and what Comparable returned.
func (s *Signer) Restore(text string, comparable []byte) []byte {
	if s.o.Method != Embedding {
		return s.Text(text)
	}
	return s.fields(comparable, text)
}

// fields is a signature: what Method compares, and the hashes of the words of text.
func (s *Signer) fields(first []byte, text string) []byte {
	var grams []byte
	if s.o.Overlap > 0 {
		ngrams(words(text), s.o.Overlap, func(h uint64) { grams = binary.LittleEndian.AppendUint64(grams, h) })
	}
	out := make([]byte, 0, len(first)+len(grams)+2*binary.MaxVarintLen32)
	out = append(binary.AppendUvarint(out, uint64(len(first))), first...)
	return append(binary.AppendUvarint(out, uint64(len(grams))), grams...)
}

var errSignature = errors.New("this is no signature")

func split(signature []byte) (a, b []byte, err error) {
	if a, signature, err = field(signature); err != nil {
		return nil, nil, err
	}
	if b, signature, err = field(signature); err != nil || len(signature) > 0 {
		return nil, nil, errSignature
	}
	return a, b, nil
}

func field(b []byte) (f, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, errSignature
	}
	b = b[k:]
	return b[:n:n], b[n:], nil
}
