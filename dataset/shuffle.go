package dataset

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"

	"matrix"
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
	sorter := &sorter{}
	if o.Limit > 0 {
		if from.Row >= o.Limit {
			return nil
		}
		sorter.most = int(min(w.skip+o.Limit-from.Row, math.MaxInt32))
	}
	defer sorter.close()
	reading := &walk{s: &Source{o: Options{Where: o.Where, Rename: o.Rename, Seed: o.Seed}, files: w.s.files}, most: math.MaxUint64}
	reading.emit = func(a *admitted, _ matrix.Position) error {
		if from.Line == shuffled && a.rank <= uint64(from.Offset) {
			return nil
		}
		return sorter.add(a)
	}
	if _, err := reading.on(ctx, matrix.Position{}); err != nil {
		return err
	}
	return sorter.each(func(a *admitted) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.feed(a, matrix.Position{Line: shuffled, Offset: int64(a.rank)})
	})
}

// sortBytes is how much of rows is held in memory to be sorted.
const sortBytes = 128 << 20

// sorter sorts rows by rank, in a temporary file where they do not fit into memory.
type sorter struct {
	most  int // rows that are wanted, those with the least ranks; 0 for all
	rows  []*admitted
	bytes int
	bound uint64 // no row that is larger is wanted; 0 where that is not known
	file  *os.File
	runs  []int64 // where each run of sorted rows ends in file
	room  int     // in place of sortBytes, if not 0
}

func (s *sorter) add(row *admitted) error {
	if s.bound > 0 && row.rank > s.bound {
		return nil
	}
	a := &admitted{record: row.record, row: row.row, file: row.file, rank: row.rank}
	if a.err != nil {
		a.text = slices.Clone(a.text[:min(len(a.text), 2*shownBytes)])
	}
	a.item = matrix.Value{} // what was parsed is made anew
	s.rows = append(s.rows, a)
	s.bytes += a.size()
	full := s.bytes > cmp.Or(s.room, sortBytes)
	if s.most > 0 && (full || len(s.rows) >= 2*s.most+1000) {
		s.cut()
		full = s.bytes > cmp.Or(s.room, sortBytes)/2
	}
	if !full {
		return nil
	}
	s.sort()
	return s.spill()
}

// size is about what a row takes.
func (a *admitted) size() int { return len(a.text) + len(a.row) + 128 }

func (s *sorter) sort() {
	slices.SortFunc(s.rows, func(a, b *admitted) int { return cmp.Compare(a.rank, b.rank) })
}

// cut leaves the rows that may be wanted.
func (s *sorter) cut() {
	s.sort()
	if len(s.rows) < s.most {
		return
	}
	for i := s.most; i < len(s.rows); i++ {
		s.bytes -= s.rows[i].size()
		s.rows[i] = nil
	}
	s.rows = s.rows[:s.most]
	s.bound = s.rows[s.most-1].rank
}

// spill writes the rows, which are sorted, to the file.
func (s *sorter) spill() error {
	failed := func(err error) error {
		return fmt.Errorf("shuffle: the rows are sorted in a temporary file, and it cannot be written: %w; TMPDIR names a folder with room for them", err)
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "matrix-shuffle-*")
		if err != nil {
			return failed(err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil { // it is gone once it is closed
			return failed(err)
		}
	}
	z, err := zstd.NewWriter(s.file, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
	if err != nil {
		return failed(err)
	}
	w := bufio.NewWriterSize(z, 64<<10)
	for _, a := range s.rows {
		cause := ""
		if a.err != nil {
			cause = a.err.Error()
		}
		var b []byte
		for _, n := range []uint64{a.rank, uint64(a.file), uint64(a.line), uint64(len(cause)), uint64(len(a.row)), uint64(len(a.text))} {
			b = binary.AppendUvarint(b, n)
		}
		_, _ = w.Write(b)
		_, _ = w.WriteString(cause)
		_, _ = w.Write(a.row)
		_, _ = w.Write(a.text)
	}
	if err := errors.Join(w.Flush(), z.Close()); err != nil {
		return failed(err)
	}
	end, err := s.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return failed(err)
	}
	s.runs = append(s.runs, end)
	clear(s.rows)
	s.rows, s.bytes = s.rows[:0], 0
	return nil
}

func (s *sorter) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// each calls f for the rows in order.
func (s *sorter) each(f func(*admitted) error) error {
	s.sort()
	var m merge
	defer m.close()
	begin := int64(0)
	for _, end := range s.runs {
		run, err := newSortedRun(io.NewSectionReader(s.file, begin, end-begin))
		if err != nil {
			return err
		}
		m = append(m, run)
		if begin = end; run.head == nil {
			return errors.New("shuffle: the temporary file is not what was written")
		}
	}
	if len(s.rows) > 0 {
		m = append(m, &sortedRun{head: s.rows[0], rest: s.rows[1:]})
	}
	heap.Init(&m)
	for len(m) > 0 {
		run := m[0]
		if err := f(run.head); err != nil {
			return err
		}
		switch err := run.next(); {
		case err == io.EOF:
			run.close()
			heap.Pop(&m)
		case err != nil:
			return fmt.Errorf("shuffle: the temporary file cannot be read: %w", err)
		default:
			heap.Fix(&m, 0)
		}
	}
	return nil
}

// sortedRun gives sorted rows, of memory or of the file.
type sortedRun struct {
	head *admitted
	rest []*admitted
	r    *bufio.Reader
	z    *zstd.Decoder
}

func newSortedRun(in io.Reader) (*sortedRun, error) {
	z, err := zstd.NewReader(bufio.NewReaderSize(in, 32<<10), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	r := &sortedRun{r: bufio.NewReaderSize(z, 32<<10), z: z}
	return r, r.next()
}

func (r *sortedRun) close() {
	if r.z != nil {
		r.z.Close()
	}
}

// next moves on to the next row; io.EOF behind the last.
func (r *sortedRun) next() error {
	if r.r == nil {
		if len(r.rest) == 0 {
			return io.EOF
		}
		r.head, r.rest = r.rest[0], r.rest[1:]
		return nil
	}
	var n [6]uint64
	for i := range n {
		var err error
		if n[i], err = binary.ReadUvarint(r.r); err != nil {
			return err
		}
	}
	all := make([]byte, n[3]+n[4]+n[5])
	if _, err := io.ReadFull(r.r, all); err != nil {
		return err
	}
	cause, rest := all[:n[3]], all[n[3]:]
	a := &admitted{rank: n[0], file: int(n[1]), record: record{line: int64(n[2]), text: rest[n[4]:]}}
	if n[4] > 0 {
		a.row = rest[:n[4]:n[4]]
	}
	if len(cause) > 0 {
		a.err = errors.New(string(cause))
	}
	r.head = a
	return nil
}

// merge is a heap of runs by the rank of their next row.
type merge []*sortedRun

func (m merge) Len() int           { return len(m) }
func (m merge) Less(i, j int) bool { return m[i].head.rank < m[j].head.rank }
func (m merge) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merge) Push(x any)        { *m = append(*m, x.(*sortedRun)) }
func (m *merge) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

func (m merge) close() {
	for _, r := range m {
		r.close()
	}
}
