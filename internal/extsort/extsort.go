// Package extsort sorts more records than fit into memory.
package extsort

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Record is a value that stands where its key has it, byte by byte.
type Record struct {
	Key   string
	Value []byte
}

// Sorter sorts records: stable, in sorted runs that stand in a temporary file, compressed,
// and are merged. The zero value holds 64 MiB of them in memory.
type Sorter struct {
	Dir    string // of the temporary file, which has no name; empty for os.TempDir
	Memory int    // bytes that are held; 0 for 64 MiB
	Most   int    // only so many records are wanted, those with the least keys; 0 for all

	held  []Record
	size  int
	bound string // with Most: none with a larger key is wanted; empty where that is not known
	file  *os.File
	runs  []int64 // where each run ends in file
}

// Add takes a record, whose value it keeps.
func (s *Sorter) Add(key string, value []byte) error {
	if s.bound != "" && key > s.bound {
		return nil
	}
	s.held = append(s.held, Record{key, value})
	s.size += size(&s.held[len(s.held)-1])
	most := cmp.Or(s.Memory, 64<<20)
	if s.Most > 0 && (s.size > most || len(s.held) >= 2*s.Most+1000) {
		s.cut()
		most /= 2
	}
	if s.size <= most {
		return nil
	}
	return s.spill()
}

// size is about what a record takes.
func size(r *Record) int { return len(r.Key) + len(r.Value) + 96 }

// cut leaves what may be wanted.
func (s *Sorter) cut() {
	s.sort()
	if len(s.held) < s.Most {
		return
	}
	for i := range s.held[s.Most:] {
		s.size -= size(&s.held[s.Most+i])
	}
	clear(s.held[s.Most:])
	s.held = s.held[:s.Most]
	s.bound = s.held[s.Most-1].Key
}

func (s *Sorter) sort() {
	slices.SortStableFunc(s.held, func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
}

// spill writes what is held to a run of its own.
func (s *Sorter) spill() error {
	s.sort()
	if s.file == nil {
		f, err := os.CreateTemp(s.Dir, "matrix-sort-*")
		if err != nil {
			return err
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil { // it is gone once it is closed
			return err
		}
	}
	z, err := zstd.NewWriter(s.file, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(z, 64<<10)
	var b []byte
	for _, r := range s.held {
		b = binary.AppendUvarint(binary.AppendUvarint(b[:0], uint64(len(r.Key))), uint64(len(r.Value)))
		_, _ = w.Write(append(b, r.Key...)) // Flush tells
		_, _ = w.Write(r.Value)
	}
	if err := errors.Join(w.Flush(), z.Close()); err != nil {
		return err
	}
	end, err := s.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	s.runs = append(s.runs, end)
	clear(s.held)
	s.held, s.size = s.held[:0], 0
	return nil
}

// Runs is how many runs stand in the temporary file.
func (s *Sorter) Runs() int { return len(s.runs) }

// All are the records in order, once: with Most so many or some more. An error ends them.
func (s *Sorter) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s.sort()
		var m merge
		defer func() { m.close() }()
		begin := int64(0)
		for _, end := range s.runs {
			c, err := newCursor(len(m), io.NewSectionReader(s.file, begin, end-begin))
			if err != nil {
				yield(Record{}, err)
				return
			}
			m, begin = append(m, c), end
		}
		if len(s.held) > 0 {
			m = append(m, &cursor{Record: s.held[0], rest: s.held[1:], n: len(m)})
		}
		heap.Init(&m)
		for len(m) > 0 {
			c := m[0]
			if !yield(c.Record, nil) {
				return
			}
			switch err := c.next(); {
			case err == io.EOF:
				c.close()
				heap.Pop(&m)
			case err != nil:
				yield(Record{}, err)
				return
			default:
				heap.Fix(&m, 0)
			}
		}
	}
}

// Close removes what stands on the disk.
func (s *Sorter) Close() {
	if s.file != nil {
		s.file.Close()
	}
}

// cursor reads a run, of the file or of memory.
type cursor struct {
	Record
	n    int // of the run: earlier ones hold earlier records
	rest []Record
	r    *bufio.Reader
	z    *zstd.Decoder
}

func newCursor(n int, in io.Reader) (*cursor, error) {
	z, err := zstd.NewReader(bufio.NewReaderSize(in, 32<<10), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	c := &cursor{n: n, z: z, r: bufio.NewReaderSize(z, 32<<10)}
	if err = c.next(); err != nil {
		c.close()
		return nil, unexpected(err)
	}
	return c, nil
}

func (c *cursor) close() {
	if c.z != nil {
		c.z.Close()
	}
}

// next reads the next record; io.EOF behind the last.
func (c *cursor) next() error {
	if c.r == nil {
		if len(c.rest) == 0 {
			return io.EOF
		}
		c.Record, c.rest = c.rest[0], c.rest[1:]
		return nil
	}
	key, err := binary.ReadUvarint(c.r)
	if err != nil {
		return err
	}
	value, err := binary.ReadUvarint(c.r)
	if err != nil {
		return unexpected(err)
	}
	b := make([]byte, key+value)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return unexpected(err)
	}
	c.Record = Record{string(b[:key]), b[key:]}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// merge is a heap of runs by their next record.
type merge []*cursor

func (m merge) Len() int      { return len(m) }
func (m merge) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m merge) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(m[i].Key, m[j].Key), cmp.Compare(m[i].n, m[j].n)) < 0
}
func (m *merge) Push(x any) { *m = append(*m, x.(*cursor)) }
func (m *merge) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

func (m merge) close() {
	for _, c := range m {
		c.close()
	}
}
