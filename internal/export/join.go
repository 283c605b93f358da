package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/parquet-go/parquet-go"

	"matrix"
	"matrix/dataset"
)

// Join is rows of other files, which are written in their order, each with the columns
// of the task that is of it; of a row without one these are null.
type Join struct {
	Rows *dataset.Source // all of them, as they stand in their files, by the ids that the run's rows have
	Name string          // of the files, for people
}

// joinBytes is how much memory each of the sorters of a join takes.
const joinBytes = 32 << 20

// TwiceError is a row to be joined of which there are two tasks.
type TwiceError struct{ Row, First, Then string }

func (e *TwiceError) Error() string {
	return fmt.Sprintf("there are two finished tasks of row %q, %q and %q, and a row is joined to one: choose by where, such as trial == 0", e.Row, e.First, e.Then)
}

// join writes the rows of o.Join with the columns of tasks. Tasks are brought into the
// order of the rows by their ids, on the disk where they are many.
func join(ctx context.Context, tasks iter.Seq2[*matrix.Task, error], r *rows, s *set) error {
	cells := newSorter(s.scratch, joinBytes)
	defer cells.Close()
	for e, err := range r.of(ctx, tasks) {
		if err == nil {
			err = cells.add(e)
		}
		if err != nil {
			return err
		}
	}
	matched, err := match(ctx, r, cells, s.scratch)
	if err != nil {
		return err
	}
	defer matched.Close()
	w, err := newJoined(ctx, r, s)
	if err != nil {
		return err
	}
	defer w.close()
	next, stop := iter.Pull2(matched.all())
	defer stop()
	e, err, more := next()
	for n := int64(0); ; n++ {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		var row []byte
		own := more && e.key == number64(n)
		if own {
			row = e.row
		}
		switch err := w.write(ctx, row); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if own {
			e, err, more = next()
		} else {
			r.result.Lone++
		}
	}
}

// match gives the columns of tasks the numbers of their rows as keys.
func match(ctx context.Context, r *rows, cells *sorter, scratch string) (*sorter, error) {
	ids := newSorter(scratch, joinBytes)
	defer ids.Close()
	n := int64(0)
	var bad error // of the first row that has no id, though the rows of the run have
	err := r.Join.Rows.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		id := row.ID
		if id == "" {
			id = row.Address
		}
		if n++; bad == nil && row.Err != nil {
			bad = fmt.Errorf("%s: %w", row.Address, row.Err)
		}
		return ids.add(entry{key: id, row: []byte(number64(row.Number))})
	})
	if err != nil {
		return nil, err
	}
	matched := newSorter(scratch, joinBytes)
	next, stop := iter.Pull2(ids.all())
	defer stop()
	row, err, more := next()
	var last entry
	hits := int64(0)
	for e, failed := range cells.all() {
		switch {
		case failed != nil:
			err = failed
		case last.id != "" && last.key == e.key:
			err = &TwiceError{e.key, last.id, e.id}
		}
		for err == nil && more && row.key < e.key {
			row, err, more = next()
		}
		found := false
		for err == nil && more && row.key == e.key {
			found = true
			if err = matched.add(entry{key: string(row.row), id: e.id, row: e.row}); err == nil {
				row, err, more = next()
			}
		}
		if err != nil {
			matched.Close()
			return nil, err
		}
		if last = e; found {
			hits++
		} else {
			r.result.Left["whose row is not in "+r.Join.Name]++
		}
	}
	if hits == 0 && r.result.Tasks > 0 && last.id != "" {
		matched.Close()
		if bad != nil {
			return nil, usagef("no row of %s has the id of a task, such as %q; rows are told by the dataset.id of the run: %w", r.Join.Name, last.key, bad)
		}
		return nil, usagef("none of the %d rows of %s has the id of a task, such as %q: rows are told by the dataset.id of the run", n, r.Join.Name, last.key)
	}
	return matched, nil
}

// number64 is n so that it sorts by size.
func number64(n int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// joined writes rows with columns beside their own.
type joined interface {
	// write writes the next row with these columns, the JSON of an object; nil: with
	// nulls. io.EOF after the last row.
	write(ctx context.Context, cells []byte) error
	close() // the files that are read
}

// newJoined chooses how rows are written: from Parquet to Parquet with the types that
// they have, and else as JSON.
func newJoined(ctx context.Context, r *rows, s *set) (joined, error) {
	if s.ending() == ".parquet" {
		t, err := newTypedJoin(ctx, r, s)
		if !errors.Is(err, dataset.ErrUntyped) {
			return t, err
		}
	}
	return newTextJoin(r, s), nil
}

// textJoin writes rows as JSON.
type textJoin struct {
	r     *rows
	s     *set
	next  func() (matrix.Row, error, bool)
	stop  func()
	nulls []byte   // the columns of a row without a task
	keys  [][]byte // the names of columns, quoted
}

func newTextJoin(r *rows, s *set) *textJoin {
	j := &textJoin{r: r, s: s, nulls: []byte{'{'}}
	for _, c := range r.Columns {
		name, _ := json.Marshal(c.Name)
		j.keys = append(j.keys, name)
		if len(j.nulls) > 1 {
			j.nulls = append(j.nulls, ',')
		}
		j.nulls = append(append(j.nulls, name...), ":null"...)
	}
	j.nulls = append(j.nulls, '}')
	return j
}

func (j *textJoin) write(ctx context.Context, cells []byte) error {
	if j.next == nil {
		j.next, j.stop = iter.Pull2(func(yield func(matrix.Row, error) bool) {
			enough := errors.New("enough")
			err := j.r.Join.Rows.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
				if !yield(row, nil) {
					return enough
				}
				return nil
			})
			if err != nil && !errors.Is(err, enough) {
				yield(matrix.Row{}, err)
			}
		})
	}
	row, err, ok := j.next()
	switch {
	case err != nil:
		return err
	case !ok:
		return io.EOF
	case len(row.Item.Raw()) == 0 || row.Item.Raw()[0] != '{':
		return fmt.Errorf("%s cannot be read, and so not be written: %w", row.Address, row.Err)
	}
	if cells == nil {
		cells = j.nulls
	}
	raw := bytes.TrimSpace(row.Item.Raw())
	if err := j.check(row.Address, raw); err != nil {
		return err
	}
	out := append(make([]byte, 0, len(raw)+len(cells)), bytes.TrimRight(raw[:len(raw)-1], " \t\r\n")...)
	if len(out) > 1 {
		out = append(out, ',')
	}
	return j.s.write(entry{id: row.Address, row: append(out, cells[1:]...)})
}

// check refuses a row that has a column of the name of one that joins it, and of CSV one
// that has other columns than the first row.
func (j *textJoin) check(address string, raw []byte) error {
	names := j.s.Columns
	header := j.s.ending() == ".csv"
	if !header && !slices.ContainsFunc(j.keys, func(key []byte) bool { return bytes.Contains(raw, key) }) {
		return nil
	}
	own := keysOf(raw)
	for _, c := range j.r.Columns {
		if slices.Contains(own, c.Name) {
			return usagef("column %q is in %s already: choose another name", c.Name, address)
		}
	}
	if !header {
		return nil
	}
	if len(names) == len(j.r.Columns) { // the first row
		names = nil
		for _, name := range own {
			names = append(names, Column{Name: name})
		}
		j.s.Columns = append(names, j.r.Columns...)
	}
	for _, name := range own {
		if !slices.ContainsFunc(j.s.Columns, func(c Column) bool { return c.Name == name }) {
			return usagef("%s has a field %q, which the first row does not have: CSV has one header; write .jsonl or .parquet", address, name)
		}
	}
	return nil
}

func (j *textJoin) close() {
	if j.stop != nil {
		j.stop()
	}
}

// typedJoin writes rows of Parquet files with their types.
type typedJoin struct {
	r       *rows
	at      int // the next of the files
	in      *dataset.Typed
	fields  []parquet.Field // of the rows
	width   int
	file    *file
	out     *parquetWriter
	row     parquet.Row
	columns [][]parquet.Value
}

func newTypedJoin(ctx context.Context, r *rows, s *set) (joined, error) {
	j := &typedJoin{r: r}
	if err := j.open(ctx); err != nil {
		return nil, err
	}
	j.fields, j.width = j.in.Fields(), j.in.Width()
	all := slices.Clone(j.fields)
	width := j.width
	for _, c := range r.make.columns {
		if slices.ContainsFunc(j.fields, func(f parquet.Field) bool { return f.Name() == c.name }) {
			j.close()
			return nil, usagef("column %q is in %s already: choose another name", c.name, r.Join.Name)
		}
		all = append(all, &field{node(c.shape), c.name})
		width += c.shape.width()
	}
	j.columns = make([][]parquet.Value, width)
	var err error
	j.file, err = s.single(func(out *os.File) rowWriter {
		j.out = newParquetWriter(out, all)
		return &typedFile{j.out}
	})
	if err != nil {
		j.close()
	}
	return j, err
}

// open opens the next file; io.EOF where there is none.
func (j *typedJoin) open(ctx context.Context) error {
	files := j.r.Join.Rows.Files()
	if j.at == len(files) {
		return io.EOF
	}
	in, err := j.r.Join.Rows.OpenTyped(ctx, j.at)
	if err != nil {
		return err
	}
	j.in = in
	if was, is := fmt.Sprint(j.fields), fmt.Sprint(j.in.Fields()); j.fields != nil && was != is {
		return fmt.Errorf("%s has other columns than the file before it: %s, and %s there; write .jsonl, or files of one schema", files[j.at], is, was)
	}
	j.at++
	return nil
}

func (j *typedJoin) write(ctx context.Context, cells []byte) (err error) {
	for {
		if j.row, err = j.in.Next(j.row[:0]); err != io.EOF {
			break
		}
		j.in.Close()
		if err := j.open(ctx); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	size := len(cells)
	for _, v := range j.row {
		if size += 8; v.Kind() == parquet.ByteArray || v.Kind() == parquet.FixedLenByteArray {
			size += len(v.ByteArray())
		}
	}
	v := matrix.RawValue(cells)
	fields, _ := v.Any().(map[string]any)
	at := j.width
	for _, c := range j.r.make.columns {
		for i := at; i < at+c.shape.width(); i++ {
			j.columns[i] = j.columns[i][:0]
		}
		c.shape.shred(j.columns, at, fields[c.name], 0, 0, 0)
		at += c.shape.width()
	}
	for _, values := range j.columns[j.width:] {
		j.row = append(j.row, values...)
	}
	j.file.rows++
	return j.out.write(j.row, size)
}

func (j *typedJoin) close() { j.in.Close() }

// typedFile is a file whose rows are written as values of its columns.
type typedFile struct{ w *parquetWriter }

func (f *typedFile) write(string, []byte) error  { return errors.ErrUnsupported }
func (f *typedFile) close(context.Context) error { return f.w.close() }
func (f *typedFile) discard()                    {}
