package stats

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// maxTexts is how many different texts are remembered, by their hash and the id of the
// first task that has each.
const maxTexts = 1 << 20

// Duplicates are texts that are equal to the byte.
type Duplicates struct {
	Copies   int64    `json:"copies"`   // texts that stood before
	Repeated int64    `json:"repeated"` // different texts that stand more than once
	Most     int64    `json:"most"`     // how often the most frequent one stands
	Example  []string `json:"example"`  // the first two tasks that have that one
	// Sampled is the share of all different texts that were looked at, and of which
	// Copies and Repeated are an estimate; 1 where all were.
	Sampled float64 `json:"sampled"`
}

// copies counts texts by their hash. Where there are more than fit, it goes on with
// those texts alone whose hash ends in one zero bit more: M. Wegman's adaptive sampling
// (P. Flajolet, 1990).
type copies struct {
	most  int
	level int // zero bits
	seen  map[uint64]text
	again map[uint64]string // the second task with a text
}

// text is one that was seen.
type text struct {
	n     int64
	first string // task
}

func newCopies(most int) copies {
	return copies{most: most, seen: map[uint64]text{}, again: map[uint64]string{}}
}

func (c *copies) add(s, id string) {
	sum := sha256.Sum256([]byte(s))
	h := binary.LittleEndian.Uint64(sum[:])
	if !c.has(h) {
		return
	}
	x := c.seen[h]
	switch x.n++; x.n {
	case 1:
		x.first = id
	case 2:
		c.again[h] = id
	}
	c.seen[h] = x
	for len(c.seen) > c.most {
		c.level++
		for h := range c.seen {
			if !c.has(h) {
				delete(c.seen, h)
				delete(c.again, h)
			}
		}
	}
}

// has reports whether texts of this hash are counted.
func (c *copies) has(h uint64) bool { return h&(1<<c.level-1) == 0 }

func (c *copies) report() Duplicates {
	d := Duplicates{Example: []string{}, Sampled: math.Ldexp(1, -c.level)}
	for h, second := range c.again {
		x := c.seen[h]
		d.Copies += x.n - 1
		d.Repeated++
		if x.n > d.Most || x.n == d.Most && x.first < d.Example[0] {
			d.Most, d.Example = x.n, []string{x.first, second}
		}
	}
	d.Copies <<= c.level
	d.Repeated <<= c.level
	return d
}
