package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"matrix"
	"matrix/internal/extsort"
)

// shuffled is the Line of a position in a random order. Its Offset is the rank of the row
// before it.
const shuffled = -1

// rank is the place of a record in the random order: by the number of its file, the lines or
// records before it there, and the seed. No two are equal.
func (s *Source) rank(file int, before int64) uint64 {
	const mask = 1<<63 - 1
	mix := func(x uint64) uint64 { // one to one in 63 bits
		x ^= x >> 32
		x = x * 0xd6e8feb86659fd93 & mask
		x ^= x >> 29
		x = x * 0xa0761d6478bd642f & mask
		return x ^ x>>32
	}
	return mix((uint64(file)<<40|uint64(before))&mask ^ mix((uint64(s.o.Seed)+0x9e3779b97f4a7c15)&mask))
}

// chosen is the largest rank of a row in the sample. It takes a pass over the dataset, once,
// and 16 bytes of memory for each row of the sample.
func (s *Source) chosen(ctx context.Context) (uint64, error) {
	if s.o.Sample == 0 {
		return math.MaxUint64, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most != nil {
		return *s.most, nil
	}
	least := leastRanks{n: int(min(s.o.Sample, math.MaxInt32))}
	for i := range s.files {
		if err := s.ranks(ctx, i, least.add); err != nil {
			return 0, err
		}
	}
	most := least.most()
	s.most = &most
	return most, nil
}

// ranks calls f for the ranks of the rows of a file that where lets through.
func (s *Source) ranks(ctx context.Context, n int, f func(rank uint64)) error {
	file := &s.files[n]
	r, err := file.open(ctx, matrix.Position{})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, before := r.place()
		in := true
		if s.o.countable() {
			err = r.pass()
		} else {
			var rec record
			if rec, err = r.next(); err == nil {
				in = s.admit(&admitted{record: rec, file: n})
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return file.failed(ctx, r, err)
		case in:
			f(s.rank(n, before))
		}
	}
}

// leastRanks keeps the n least ranks.
type leastRanks struct {
	n     int
	kept  []uint64 // up to twice as many
	bound uint64   // none that is larger is among them; 0 where that is not known
}

func (l *leastRanks) add(rank uint64) {
	if l.bound > 0 && rank > l.bound {
		return
	}
	if l.kept = append(l.kept, rank); len(l.kept) >= 2*l.n {
		l.cut()
	}
}

func (l *leastRanks) cut() {
	slices.Sort(l.kept)
	l.kept = l.kept[:l.n]
	l.bound = l.kept[l.n-1]
}

// most is the largest of the n least, or of all where there are not so many.
func (l *leastRanks) most() uint64 {
	if len(l.kept) < l.n {
		return math.MaxUint64
	}
	l.cut()
	return l.bound
}

// inRandomOrder hands out the rows in the order of their ranks, behind from.
func (w *walk) inRandomOrder(ctx context.Context, from matrix.Position) error {
	o := &w.s.o
	if o.Sample > 0 && (o.Limit == 0 || o.Sample-o.Skip < o.Limit) {
		limited := *o // the sample is what comes first
		if limited.Limit = o.Sample - o.Skip; limited.Limit <= 0 {
			return nil
		}
		w.s = &Source{o: limited, files: w.s.files}
		o = &limited
	}
	sorter := &extsort.Sorter{Memory: sortBytes}
	if o.Limit > 0 {
		if from.Row >= o.Limit {
			return nil
		}
		sorter.Most = int(min(w.skip+o.Limit-from.Row, math.MaxInt32))
	}
	defer sorter.Close()
	return w.sorted(ctx, sorter, from)
}

// sorted hands out the rows by way of a sorter.
func (w *walk) sorted(ctx context.Context, sorter *extsort.Sorter, from matrix.Position) error {
	o := &w.s.o
	failed := func(err error) error {
		return fmt.Errorf("shuffle: the rows are sorted in a temporary file: %w; TMPDIR names a folder with room for them", err)
	}
	reading := &walk{s: &Source{o: Options{Where: o.Where, Rename: o.Rename, Begun: o.Begun, Seed: o.Seed}, files: w.s.files}, most: math.MaxUint64}
	reading.emit = func(a *admitted, _ matrix.Position) error {
		if from.Line == shuffled && a.rank <= uint64(from.Offset) {
			return nil
		}
		if err := sorter.Add(a.pack()); err != nil {
			return failed(err)
		}
		return nil
	}
	if _, err := reading.on(ctx, matrix.Position{}); err != nil {
		return err
	}
	for r, err := range sorter.All() {
		if err != nil {
			return failed(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		a := unpacked(r)
		if a.err == nil && o.Begun != nil {
			a.begun, a.err = o.Begun.task(a.text)
			if a.begun != nil {
				a.item = a.begun.Item
			}
		}
		if err := w.feed(a, matrix.Position{Line: shuffled, Offset: int64(a.rank)}); err != nil {
			return err
		}
	}
	return nil
}

// sortBytes is how much of rows is held in memory to be sorted.
const sortBytes = 128 << 20

// pack is a row as it is sorted: by its rank, without what was parsed of it.
func (a *admitted) pack() (key string, value []byte) {
	text, cause := a.text, ""
	if a.err != nil {
		text, cause = text[:min(len(text), 2*shownBytes)], a.err.Error()
	}
	value = make([]byte, 0, 4*binary.MaxVarintLen64+len(cause)+len(a.row)+len(text))
	for _, n := range []uint64{uint64(a.file), uint64(a.line), uint64(len(cause)), uint64(len(a.row))} {
		value = binary.AppendUvarint(value, n)
	}
	value = append(append(append(value, cause...), a.row...), text...)
	return string(binary.BigEndian.AppendUint64(nil, a.rank)), value
}

// unpacked is the row that was packed.
func unpacked(r extsort.Record) *admitted {
	var n [4]uint64
	b := r.Value
	for i := range n {
		var used int
		n[i], used = binary.Uvarint(b)
		b = b[used:]
	}
	cause, rest := b[:n[2]], b[n[2]:]
	a := &admitted{rank: binary.BigEndian.Uint64([]byte(r.Key)), file: int(n[0]), record: record{line: int64(n[1]), text: rest[n[3]:]}}
	if n[3] > 0 {
		a.row = rest[:n[3]:n[3]]
	}
	if len(cause) > 0 {
		a.err = errors.New(string(cause))
	}
	return a
}
