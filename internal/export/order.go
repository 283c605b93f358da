package export

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"matrix/internal/extsort"
)

// entry is a row on its way to its file.
type entry struct {
	key   string // rows stand in the order of their keys, byte by byte
	split int
	id    string // of the task
	row   []byte // JSON, an object
}

// sorter brings entries into the order of their keys, stable.
type sorter struct{ extsort.Sorter }

func newSorter(dir string, memory int) *sorter {
	return &sorter{extsort.Sorter{Dir: dir, Memory: memory}}
}

func (s *sorter) add(e entry) error {
	b := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(e.split)), uint64(len(e.id)))
	return s.Add(e.key, append(append(b, e.id...), e.row...))
}

// all are the entries in order, once. An error ends them.
func (s *sorter) all() iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for r, err := range s.All() {
			e := entry{key: r.Key}
			if err == nil {
				split, n := binary.Uvarint(r.Value)
				id, m := binary.Uvarint(r.Value[n:])
				rest := r.Value[n+m:]
				e.split, e.id, e.row = int(split), string(rest[:id]), rest[id:]
			}
			if !yield(e, err) {
				return
			}
		}
	}
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
