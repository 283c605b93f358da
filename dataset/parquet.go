package dataset

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/parquet-go/parquet-go"
)

// parquetBatch is how many rows are taken out of a row group at once.
const parquetBatch = 64

// parquetReader reads the rows of a Parquet file as JSON objects; see
// columns.go for what becomes of each type. Pages are read as they are needed.
type parquetReader struct {
	f      *os.File
	file   *parquet.File
	object *column

	groups []parquet.RowGroup // not yet begun
	rows   parquet.Rows       // of the group being read
	batch  [parquetBatch]parquet.Row
	have   []parquet.Row // of batch, not yet handed out
	ended  bool          // no more rows in the group
	leaves [][]parquet.Value
	n      int64 // rows before the next
}

// openParquet starts reading after the first skip rows.
func openParquet(path string, skip int64) (r *parquetReader, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(err)
	}
	defer func() {
		if err != nil {
			f.Close()
			r, err = nil, fmt.Errorf("%s: %w", path, err)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r = &parquetReader{f: f}
	err = guarded(func() error {
		r.file, err = parquet.OpenFile(f, info.Size(), parquet.SkipBloomFilters(true))
		if err != nil {
			return fmt.Errorf("not a whole Parquet file: %w", err)
		}
		r.object, err = columnsOf(r.file.Root())
		return err
	})
	if err != nil {
		return nil, err
	}
	if n := r.file.NumRows(); skip > n {
		return nil, fmt.Errorf("has %d rows, and %d were read before: the file has changed; bring back the one the run began with, or start a new run", n, skip)
	}
	r.leaves = make([][]parquet.Value, r.object.leaves)
	r.groups = r.file.RowGroups()
	for len(r.groups) > 0 && r.groups[0].NumRows() <= skip-r.n {
		r.n += r.groups[0].NumRows()
		r.groups = r.groups[1:]
	}
	if ahead := skip - r.n; ahead > 0 {
		err = guarded(func() error {
			r.begin()
			return r.rows.SeekToRow(ahead)
		})
		r.n = skip
	}
	return r, err
}

// guarded turns a panic of the decoder, which a damaged file can cause, into
// an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	return f()
}

func (r *parquetReader) begin() {
	r.rows, r.groups, r.ended = r.groups[0].Rows(), r.groups[1:], false
}

func (r *parquetReader) count() int64 { return r.file.NumRows() }

// place counts rows as lines; there are no bytes to speak of.
func (r *parquetReader) place() (int64, int64) { return 0, r.n }

func (r *parquetReader) Close() error {
	if r.rows != nil {
		r.rows.Close()
		r.rows = nil
	}
	return r.f.Close()
}

// row returns the next row, until the next call.
func (r *parquetReader) row() (row parquet.Row, err error) {
	for len(r.have) == 0 {
		if r.rows == nil || r.ended {
			if r.rows != nil {
				r.rows.Close()
				r.rows = nil
			}
			if len(r.groups) == 0 {
				return nil, io.EOF
			}
			r.begin()
		}
		n := 0
		err := guarded(func() (err error) {
			n, err = r.rows.ReadRows(r.batch[:])
			return err
		})
		switch {
		case errors.Is(err, io.EOF):
			r.ended = true
		case err != nil && n == 0:
			return nil, err // with rows before it: the next call says it again
		case n == 0:
			return nil, io.ErrNoProgress
		}
		r.have = r.batch[:n]
	}
	row, r.have = r.have[0], r.have[1:]
	r.n++
	return row, nil
}

func (r *parquetReader) pass() error {
	_, err := r.row()
	return err
}

func (r *parquetReader) next() (record, error) {
	row, err := r.row()
	if err != nil {
		return record{}, err
	}
	clear(r.leaves)
	row.Range(func(i int, values []parquet.Value) bool {
		r.leaves[i] = values
		return true
	})
	rec := record{line: r.n}
	rec.err = guarded(func() (err error) {
		rec.text, err = r.object.append(nil, r.leaves)
		return err
	})
	return rec, nil
}
