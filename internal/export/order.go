package export

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"
)

// entry is a row on its way to its file.
type entry struct {
	key   string // rows stand in the order of their keys, byte by byte
	split int
	id    string // of the task
	row   []byte // JSON, an object
}

// memory is how many bytes of rows a sorter holds before it writes them aside.
const memory = 64 << 20

// sorter sorts more rows than fit into memory: stable, in runs that stand in files
// and are merged.
type sorter struct {
	dir  string // of the runs
	most int    // bytes; 0 for memory
	held []entry
	size int
	runs []*os.File
}

func (s *sorter) add(e entry) error {
	s.held = append(s.held, e)
	if s.size += len(e.key) + len(e.id) + len(e.row) + 96; s.size < cmp.Or(s.most, memory) {
		return nil
	}
	return s.spill()
}

func (s *sorter) sort() {
	slices.SortStableFunc(s.held, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
}

// spill writes what is held to a run of its own.
func (s *sorter) spill() error {
	s.sort()
	f, err := os.CreateTemp(s.dir, "run-")
	if err != nil {
		return err
	}
	s.runs = append(s.runs, f)
	w := bufio.NewWriterSize(f, 1<<20)
	var b []byte
	for i := range s.held {
		e := &s.held[i]
		b = appendKey(b[:0], e)
		b = append(binary.AppendUvarint(b, uint64(len(e.row))), e.row...)
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	clear(s.held)
	s.held, s.size = s.held[:0], 0
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// all are the entries in order, once. An error ends them.
func (s *sorter) all() iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		if len(s.runs) == 0 {
			s.sort()
			for _, e := range s.held {
				if !yield(e, nil) {
					return
				}
			}
			return
		}
		if err := s.spill(); err != nil {
			yield(entry{}, err)
			return
		}
		s.held = nil
		var h cursors
		for i, f := range s.runs {
			c := &cursor{n: i, r: bufio.NewReaderSize(f, 64<<10)}
			if err := c.next(); err == nil {
				h = append(h, c)
			} else if err != io.EOF {
				yield(entry{}, err)
				return
			}
		}
		heap.Init(&h)
		for len(h) > 0 {
			c := h[0]
			if !yield(c.entry, nil) {
				return
			}
			if err := c.next(); err == io.EOF {
				heap.Pop(&h)
			} else if err != nil {
				yield(entry{}, err)
				return
			} else {
				heap.Fix(&h, 0)
			}
		}
	}
}

func (s *sorter) close() {
	for _, f := range s.runs {
		f.Close()
		os.Remove(f.Name())
	}
	s.runs, s.held = nil, nil
}

// cursor reads a run.
type cursor struct {
	entry
	n int // of the run: earlier ones hold earlier rows
	r *bufio.Reader
}

// next reads the next entry; io.EOF where there is none.
func (c *cursor) next() (err error) {
	if _, err := c.r.Peek(1); err != nil {
		return err
	}
	if c.entry, err = readKey(c.r); err == nil {
		c.row, err = readBytes(c.r)
	}
	return err
}

// appendKey appends what an entry has beside its row.
func appendKey(b []byte, e *entry) []byte {
	b = binary.AppendUvarint(b, uint64(e.split))
	for _, part := range []string{e.key, e.id} {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	return b
}

func readKey(r *bufio.Reader) (e entry, err error) {
	split, err := binary.ReadUvarint(r)
	if err != nil {
		return e, unexpected(err)
	}
	var parts [2]string
	for i := range parts {
		b, err := readBytes(r)
		if err != nil {
			return e, err
		}
		parts[i] = string(b)
	}
	return entry{key: parts[0], split: int(split), id: parts[1]}, nil
}

func readBytes(r *bufio.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, unexpected(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cursors is a heap of them.
type cursors []*cursor

func (h cursors) Len() int      { return len(h) }
func (h cursors) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h cursors) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].key, h[j].key), cmp.Compare(h[i].n, h[j].n)) < 0
}
func (h *cursors) Push(x any) { *h = append(*h, x.(*cursor)) }
func (h *cursors) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// sortKey is a key by which values are in order, and their type; that of nil is after
// all others, and of no type.
func sortKey(v any) (key, is string, err error) {
	switch v := v.(type) {
	case nil:
		return "\xff", "", nil
	case string:
		return "\x01" + v, typeOf(v), nil
	}
	f, ok := number(v)
	if !ok {
		return "", "", fmt.Errorf("want a number, a text or true or false, got %s", typeOf(v))
	}
	bits := math.Float64bits(f + 0) // -0 is 0
	if bits>>63 == 1 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	return string(binary.BigEndian.AppendUint64([]byte{1}, bits)), typeOf(v), nil
}
